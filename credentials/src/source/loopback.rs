//! Receives the browser's redirect on the loopback (RFC 8252, section 7.3): one response, with checked `state` and
//! `iss`, then the listener closes.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};

use super::device_poll::LOGIN_DENIED;
use super::login_problem;
use crate::form_encoding::parse_query;
use crate::identity::Identity;
use crate::problem::SourceProblem;
use crate::vault::random;

/// Ten minutes, so that the user can fetch a second factor.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(600);
const REQUEST_LIMIT: Duration = Duration::from_secs(5);
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// More open connections than this end the oldest one.
const CONNECTIONS_MAX: usize = 64;

pub(super) struct LoopbackListener {
    listener: TcpListener,
    port: u16,
    path: &'static str,
    pub state: String,
    pub verifier: String,
}

impl LoopbackListener {
    /// Binds the listener. `port` 0 selects a free port. The address is always on the loopback.
    pub async fn bind(identity: &Identity, port: u16, path: &'static str) -> Result<Self, SourceProblem> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let name = &identity.name;
            let hint = format!(
                "End the program that holds it (`ss -ltnp`), or run `pdev login {name} --flow device` if the provider offers codes."
            );
            login_problem(identity, format!("the port {port} for the browser's answer cannot be used: {error}"), hint)
        })?;
        let port = listener.local_addr().map(|address| address.port()).unwrap_or(port);
        // 32 random bytes are 43 letters: the minimum of RFC 7636, section 4.1, and the length that it recommends.
        let random_text = || URL_SAFE_NO_PAD.encode(random::<32>());
        Ok(Self { listener, port, path, state: random_text(), verifier: random_text() })
    }

    pub fn redirect_uri(&self) -> String {
        format!("http://127.0.0.1:{}{}", self.port, self.path)
    }

    /// RFC 7636, section 4.2: S256.
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()))
    }

    /// Waits for the code. `issuer` is the expected `iss` of RFC 9207, and whether it is required.
    pub async fn wait_for_code(self, issuer: Option<(&str, bool)>) -> Result<String, SourceProblem> {
        let issuer = issuer.map(|(issuer, is_required)| (issuer.to_owned(), is_required));
        let timed_out = |_| {
            SourceProblem::Transient(format!(
                "the login was not completed within {} minutes",
                LOGIN_TIMEOUT.as_secs() / 60
            ))
        };
        let waiting = Arc::new(self).serve_connections(issuer);
        tokio::time::timeout(LOGIN_TIMEOUT, waiting).await.map_err(timed_out)?
    }

    /// Serves connections in parallel until one is the expected redirect: browsers also request an icon, and open
    /// connections that they never use. Any local program can do that too.
    async fn serve_connections(self: Arc<Self>, issuer: Option<(String, bool)>) -> Result<String, SourceProblem> {
        let mut connections = JoinSet::new();
        let mut oldest = VecDeque::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let (stream, _) = accepted.map_err(|error| SourceProblem::Transient(error.to_string()))?;
                    oldest.retain(|connection: &AbortHandle| !connection.is_finished());
                    if oldest.len() >= CONNECTIONS_MAX {
                        oldest.pop_front().inspect(AbortHandle::abort);
                    }
                    let (own, issuer) = (Arc::clone(&self), issuer.clone());
                    oldest.push_back(connections.spawn(async move {
                        let issuer = issuer.as_ref().map(|(issuer, is_required)| (issuer.as_str(), *is_required));
                        tokio::time::timeout(REQUEST_LIMIT, own.handle_request(stream, issuer)).await.ok().flatten()
                    }));
                }
                Some(ended) = connections.join_next() => {
                    if let Ok(Some(outcome)) = ended {
                        return outcome;
                    }
                }
            }
        }
    }

    /// Handles one request. Returns `None` if it is not the expected redirect.
    async fn handle_request(
        &self,
        mut stream: TcpStream,
        issuer: Option<(&str, bool)>,
    ) -> Option<Result<String, SourceProblem>> {
        let head = read_head(&mut stream).await?;
        let mut lines = head.lines();
        let target = lines.next()?.strip_prefix("GET ")?.split(' ').next()?.to_owned();
        let host = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("host").then(|| value.trim().to_owned())
        });
        // Check `Host`: a web page whose DNS name points to the loopback is not the provider's redirect.
        let is_own_host = host.as_deref() == Some(format!("127.0.0.1:{}", self.port).as_str());
        let query = target.strip_prefix(self.path).and_then(|rest| rest.strip_prefix('?')).filter(|_| is_own_host);
        let Some(query) = query else {
            write_reply(&mut stream, "404 Not Found", "This address accepts only one sign-in.").await;
            return None;
        };
        let pairs = parse_query(query);
        let get = |key: &str| pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
        // Keep waiting after a wrong `state`: another page must not be able to end the login.
        if !constant_time_eq(get("state").unwrap_or_default(), &self.state) {
            write_reply(&mut stream, "400 Bad Request", "This response belongs to another sign-in.").await;
            return None;
        }
        let outcome = parse_code(get("code"), get("error"), get("error_description"), get("iss"), issuer);
        let (status, text) = match &outcome {
            Ok(_) => ("200 OK", "Signed in. You may close this page.".to_owned()),
            Err(problem) => ("400 Bad Request", problem.to_string()),
        };
        write_reply(&mut stream, status, &text).await;
        Some(outcome)
    }
}

fn parse_code(
    code: Option<&str>,
    error: Option<&str>,
    description: Option<&str>,
    iss: Option<&str>,
    issuer: Option<(&str, bool)>,
) -> Result<String, SourceProblem> {
    match (issuer, iss) {
        (Some((expected, _)), Some(iss)) if iss != expected => {
            return Err(SourceProblem::Refused("the response came from another provider (`iss` differs)".to_owned()));
        }
        (Some((_, true)), None) => {
            return Err(SourceProblem::Refused(
                "the response does not name its provider (`iss` is missing)".to_owned(),
            ));
        }
        _ => {}
    }
    match (error, code) {
        (Some("access_denied"), _) => Err(SourceProblem::NotCompleted(LOGIN_DENIED.to_owned())),
        (Some(error), _) => {
            let detail = description.map(|text| format!(": {}", super::sanitize_text(text))).unwrap_or_default();
            Err(SourceProblem::Refused(format!("the provider answered `{}`{detail}", super::sanitize_text(error))))
        }
        (None, Some(code)) if !code.is_empty() => Ok(code.to_owned()),
        _ => Err(SourceProblem::Refused("the response has no code".to_owned())),
    }
}

/// Compares in constant time, because the state is secret until it is used.
fn constant_time_eq(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().zip(right.bytes()).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|four| four == b"\r\n\r\n") {
        let mut part = [0; 2048];
        let count = stream.read(&mut part).await.ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&part[..count]);
        if bytes.len() > REQUEST_BYTES_MAX {
            return None;
        }
    }
    String::from_utf8(bytes).ok()
}

async fn write_reply(stream: &mut TcpStream, status: &str, text: &str) {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;");
    let body = format!("<!doctype html><meta charset=utf-8><title>pdev</title><p>{escaped}\n");
    // The URL of this page contains the code, so the page loads nothing and sends no referrer.
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\ncache-control: no-store\r\n\
         content-security-policy: default-src 'none'\r\nreferrer-policy: no-referrer\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let _browser_may_be_gone = stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await;
    let _browser_may_be_gone = stream.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenge_matches_rfc_7636_appendix_b() {
        let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, verifier.as_bytes()));
        assert_eq!(challenge, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    async fn send_request(port: u16, target: &str, host: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        response
    }

    fn test_identity() -> Identity {
        Identity { name: "a".to_owned(), kind: "oidc", fields: std::collections::BTreeMap::new() }
    }

    #[tokio::test]
    async fn only_matching_callback_ends_the_wait() {
        let loopback = LoopbackListener::bind(&test_identity(), 0, "/callback").await.unwrap();
        let (port, state) = (loopback.port, loopback.state.clone());
        let waiting = tokio::spawn(async move { loopback.wait_for_code(Some(("https://i", true))).await });
        let host = format!("127.0.0.1:{port}");
        assert!(send_request(port, "/favicon.ico", &host).await.starts_with("HTTP/1.1 404"));
        assert!(send_request(port, "/callback?code=x&state=wrong", &host).await.starts_with("HTTP/1.1 400"));
        assert!(
            send_request(port, &format!("/callback?code=x&state={state}"), "evil.example")
                .await
                .starts_with("HTTP/1.1 404")
        );
        let response =
            send_request(port, &format!("/callback?code=a%2Fb&state={state}&iss=https%3A%2F%2Fi"), &host).await;
        assert!(response.contains("Signed in"), "{response}");
        assert_eq!(waiting.await.unwrap().unwrap(), "a/b");
        assert!(TcpStream::connect(("127.0.0.1", port)).await.is_err(), "the listener is still open");
    }

    #[tokio::test]
    async fn idle_connections_do_not_delay_the_callback() {
        let loopback = LoopbackListener::bind(&test_identity(), 0, "/callback").await.unwrap();
        let (port, state) = (loopback.port, loopback.state.clone());
        let waiting = tokio::spawn(async move { loopback.wait_for_code(None).await });
        let mut idle = Vec::new();
        for _ in 0..2 * CONNECTIONS_MAX {
            idle.push(TcpStream::connect(("127.0.0.1", port)).await.unwrap());
        }
        let started_at = std::time::Instant::now();
        let target = format!("/callback?code=c&state={state}");
        assert!(send_request(port, &target, &format!("127.0.0.1:{port}")).await.contains("Signed in"));
        assert_eq!(waiting.await.unwrap().unwrap(), "c");
        assert!(started_at.elapsed() < REQUEST_LIMIT, "{:?}", started_at.elapsed());
    }

    #[test]
    fn callbacks_without_code_are_refused() {
        let issuer = Some(("https://i", true));
        for (result, expected) in [
            (parse_code(Some("c"), None, None, Some("https://other"), issuer), "`iss` differs"),
            (parse_code(Some("c"), None, None, None, issuer), "`iss` is missing"),
            (parse_code(None, Some("access_denied"), None, Some("https://i"), issuer), "was denied"),
            (parse_code(None, Some("server_error"), Some("<b>\u{7}x"), None, None), "`server_error`: <b>x"),
            (parse_code(None, None, None, None, None), "has no code"),
        ] {
            assert!(result.as_ref().unwrap_err().to_string().contains(expected), "{expected}: {result:?}");
        }
    }
}
