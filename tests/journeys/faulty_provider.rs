//! An OpenID Connect provider with selectable faults, because no real provider has them.
//!
//! It does not validate requests; the real provider of `logins` does.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The path of the issuer selects the fault.
pub struct FaultyProvider {
    port: u16,
    state: Arc<ProviderState>,
}

struct ProviderState {
    /// The reported clock, as an argument of GNU date.
    clock: &'static str,
    refresh_count: AtomicUsize,
    /// Set to disable all faults.
    is_healed: AtomicBool,
    /// The only refresh token that the slow provider accepts.
    next_token: Mutex<String>,
}

impl FaultyProvider {
    pub fn start(clock: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let next_token = Mutex::new("canary-refresh".to_owned());
        let state =
            ProviderState { clock, refresh_count: AtomicUsize::new(0), is_healed: AtomicBool::new(false), next_token };
        let provider = Self { port, state: Arc::new(state) };
        let state = Arc::clone(&provider.state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || drop(handle_connection(stream, port, &state)));
            }
        });
        provider
    }

    pub fn refresh_count(&self) -> usize {
        self.state.refresh_count.load(Ordering::SeqCst)
    }

    pub fn heal(&self) {
        self.state.is_healed.store(true, Ordering::SeqCst);
    }

    /// The refresh token that the slow provider accepts next.
    pub fn next_slow_token(&self) -> String {
        self.state.next_token.lock().unwrap().clone()
    }

    /// An identity whose name selects the fault of its provider.
    pub fn identity_toml(&self, name: &str, more: &str) -> String {
        format!(
            "[{name}]\nsource = \"oidc\"\nissuer = \"http://127.0.0.1:{}/{name}\"\nclient_id = \"me\"\nhosts = [\"{name}.example\"]\n{more}\n",
            self.port
        )
    }
}

fn handle_connection(mut stream: TcpStream, port: u16, state: &ProviderState) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8_lossy(&body).into_owned();
    let path = first.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let (case, endpoint) = path.split_once('/').unwrap_or((&path, ""));
    let base = format!("http://127.0.0.1:{port}/{case}");
    let refreshes = body.contains("grant_type=refresh_token");
    let fault = if state.is_healed.load(Ordering::SeqCst) { "fine" } else { case };
    if refreshes {
        state.refresh_count.fetch_add(1, Ordering::SeqCst);
    }
    let (status, text) = match endpoint {
        ".well-known/openid-configuration" => (200, metadata(case, &base)),
        "device" => {
            let lifetime = if case == "late" { 1 } else { 60 };
            (
                200,
                format!(
                    r#"{{"device_code":"d","user_code":"ABCD","verification_uri":"{base}/verify","expires_in":{lifetime},"interval":1}}"#
                ),
            )
        }
        "token" if refreshes && fault == "hangs" => {
            // Send nothing until the client closes the connection.
            return reader.read_to_end(&mut Vec::new()).map(drop);
        }
        "token" if refreshes && case == "slow" => slow_token_response(&body, &state.next_token),
        "token" => token_response(fault, &body),
        _ => (404, String::new()),
    };
    let date = crate::doctor::http_date(state.clock);
    let head = format!(
        "HTTP/1.1 {status} x\r\ndate: {date}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        text.len()
    );
    stream.write_all(&[head.as_bytes(), text.as_bytes()].concat())
}

/// The first response comes after the client's timeout, but it has spent the refresh token.
fn slow_token_response(body: &str, next: &Mutex<String>) -> (u16, String) {
    let mut next = next.lock().unwrap();
    if !body.contains(&format!("refresh_token={}&", *next)) {
        return (400, r#"{"error":"invalid_grant"}"#.to_owned());
    }
    // The agent waits 20 s for a response, the exchange process 45 s for the provider.
    if *next == "canary-refresh" {
        std::thread::sleep(Duration::from_secs(23));
    }
    next.push_str("-next");
    (200, format!(r#"{{"access_token":"canary-access","refresh_token":"{next}","expires_in":3600}}"#))
}

fn metadata(case: &str, base: &str) -> String {
    let device = format!(r#""device_authorization_endpoint":"{base}/device","#);
    let device = if case == "codeless" { "" } else { &device };
    format!(
        r#"{{"issuer":"{base}",{device}"token_endpoint":"{base}/token","authorization_endpoint":"{base}/authorize"}}"#
    )
}

fn token_response(case: &str, body: &str) -> (u16, String) {
    let error = |code: &str| (400, format!(r#"{{"error":"{code}","error_description":"no such token"}}"#));
    let success = r#"{"access_token":"canary-access","refresh_token":"canary-refresh","expires_in":3600}"#.to_owned();
    if body.contains("device_code") {
        return match case {
            "denied" => error("access_denied"),
            "foreign" => error("invalid_grant"),
            _ => error("authorization_pending"),
        };
    }
    match (body.contains("grant_type=refresh_token"), case) {
        (false, "brief") => (200, r#"{"access_token":"canary-access","expires_in":0}"#.to_owned()),
        (false, _) => (200, success),
        (true, "ended") => error("invalid_grant"),
        (true, "broken") => (500, "<h1>oops</h1>".to_owned()),
        (true, "troubled") => (500, r#"{"error":"server_error","error_description":"oops"}"#.to_owned()),
        (true, "garbage") => (200, "<html>sign in to the airport's network</html>".to_owned()),
        (true, "huge") => (200, "x".repeat(3 << 20)),
        (true, _) => (200, success),
    }
}
