//! Exchanges with a provider in the test, on a real disk: which tokens are sent, stored and kept.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::http::HttpClient;
use crate::identity::{self, Identity};
use crate::problem::BrokerProblem;
use crate::secret::Secret;
use crate::vault::VaultProblem;

/// Returns the provider's status and body for a refresh token.
type ProviderHandler = Box<dyn Fn(&str) -> (u16, String) + Send>;

struct ExchangeFixture {
    root: tempfile::TempDir,
    vault: Vault,
    identity: Identity,
    request_count: Arc<AtomicUsize>,
}

impl ExchangeFixture {
    fn new(handler: ProviderHandler) -> Self {
        let root = tempfile::tempdir().unwrap();
        let vault = Vault::new_for_test(&root.path().join("vault"));
        let request_count = Arc::new(AtomicUsize::new(0));
        let port = start_provider(handler, Arc::clone(&request_count));
        let text = "[a]\nsource = \"oidc\"\nissuer = \"https://i\"\nclient_id = \"me\"\n";
        let identity = identity::read(text).0.get("a").unwrap().clone();
        let fixture = Self { root, vault, identity, request_count };
        let login = format!(
            r#"{{"issuer":"https://i","client_id":"me","token_endpoint":"http://127.0.0.1:{port}/","refresh_token":"r1"}}"#
        );
        fixture.vault.put("login/a", &Secret::new(login.into_bytes())).unwrap();
        fixture
    }

    async fn exchange_token(&self) -> Result<HttpResponse, SourceProblem> {
        token_exchange::exchange_token(
            &self.vault,
            &HttpClient::new().unwrap(),
            &ExchangeRequest::new(&self.identity),
            &|| (),
        )
        .await
    }

    /// The stored refresh token.
    fn stored_refresh_token(&self) -> Option<String> {
        let stored = self.vault.get("login/a").unwrap()?;
        let value: serde_json::Value = serde_json::from_slice(stored.expose()).unwrap();
        value["refresh_token"].as_str().map(str::to_owned)
    }

    fn item_file(&self, ending: &str) -> PathBuf {
        self.root.path().join("vault").join(format!("login~a.{ending}"))
    }

    fn request_count(&self) -> usize {
        self.request_count.load(Ordering::SeqCst)
    }
}

fn start_provider(handler: ProviderHandler, request_count: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut received = Vec::new();
            // The form has no length here; its last field is the client.
            while !received.ends_with(b"client_id=me") {
                let mut part = [0; 4096];
                let count = stream.read(&mut part).unwrap();
                received.extend_from_slice(&part[..count]);
            }
            request_count.fetch_add(1, Ordering::SeqCst);
            let text = String::from_utf8(received).unwrap();
            let token = text.split("refresh_token=").nth(1).unwrap().split('&').next().unwrap();
            let (status, body) = handler(token);
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            drop(stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()));
        }
    });
    port
}

/// Each token works once. A reused token ends the login.
fn rotating_handler() -> ProviderHandler {
    let valid = Mutex::new(1);
    Box::new(move |token| {
        let mut valid = valid.lock().unwrap();
        if token != format!("r{valid}") {
            *valid = -1;
            return (400, r#"{"error":"invalid_grant"}"#.to_owned());
        }
        *valid += 1;
        (200, format!(r#"{{"access_token":"t","refresh_token":"r{valid}"}}"#))
    })
}

#[tokio::test]
async fn only_successful_response_rotates_stored_token() {
    for (case, status, body, stored) in [
        ("a rotated token", 200, r#"{"access_token":"t","refresh_token":"r2"}"#, "r2"),
        ("a rotated token in an otherwise invalid response", 200, r#"{"refresh_token":"r2"}"#, "r2"),
        ("the same token", 200, r#"{"access_token":"t","refresh_token":"r1"}"#, "r1"),
        ("no token", 200, r#"{"access_token":"t"}"#, "r1"),
        ("an empty token", 200, r#"{"access_token":"t","refresh_token":""}"#, "r1"),
        ("garbage", 200, "<html>", "r1"),
        ("a refusal", 400, r#"{"error":"invalid_grant","refresh_token":"r2"}"#, "r1"),
        ("a server error", 500, r#"{"refresh_token":"r2"}"#, "r1"),
    ] {
        let fixture = ExchangeFixture::new(Box::new(move |_| (status, body.to_owned())));
        let _result = fixture.exchange_token().await;
        assert_eq!(fixture.stored_refresh_token().as_deref(), Some(stored), "{case}");
        assert!(!fixture.item_file("next").exists(), "{case}: unused reserved space is left");
    }
}

#[tokio::test]
async fn token_is_not_sent_when_successor_cannot_be_stored() {
    let fixture = ExchangeFixture::new(rotating_handler());
    std::fs::create_dir(fixture.item_file("next")).unwrap();
    let problem = fixture.exchange_token().await.err().unwrap();
    assert!(matches!(problem, SourceProblem::Vault(VaultProblem::File { verb: "write", .. })), "{problem}");
    assert_eq!(fixture.request_count(), 0);
    std::fs::remove_dir(fixture.item_file("next")).unwrap();
    // A leftover of a killed process.
    std::fs::write(fixture.item_file("next"), "half").unwrap();
    fixture.exchange_token().await.unwrap();
    assert_eq!((fixture.request_count(), fixture.stored_refresh_token().as_deref()), (1, Some("r2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_exchanges_never_reuse_a_token() {
    let fixture = ExchangeFixture::new(rotating_handler());
    let exchanges: Vec<_> = (0..6).map(|_| fixture.exchange_token()).collect();
    for outcome in join_all(exchanges).await {
        assert_eq!(outcome.unwrap().status, 200);
    }
    assert_eq!(fixture.stored_refresh_token().as_deref(), Some("r7"));
    // A caller with an outdated login finds the exchange already made.
    let old = Secret::new(b"before".to_vec());
    let request = ExchangeRequest::new(&fixture.identity).unless_exchanged(&old);
    let exchanges = ExchangeRunner::in_process();
    assert!(exchanges.run(&fixture.vault, &request).await.unwrap().is_success());
    assert_eq!(fixture.request_count(), 6);
}

/// Runs the futures concurrently. Results are in the order of the futures.
async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, outcome) in futures.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *outcome = Some(value);
            }
        }
        if futures.iter().any(|(_, outcome)| outcome.is_none()) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(futures.drain(..).filter_map(|(_, outcome)| outcome).collect())
    })
    .await
}

#[tokio::test]
async fn sign_out_during_exchange_stays_signed_out() {
    let (sender, receiver) = std::sync::mpsc::channel::<PathBuf>();
    let handler: ProviderHandler = Box::new(move |_| {
        std::fs::remove_file(receiver.recv().unwrap()).unwrap();
        (200, r#"{"access_token":"t","refresh_token":"r2"}"#.to_owned())
    });
    let fixture = ExchangeFixture::new(handler);
    sender.send(fixture.item_file("sealed")).unwrap();
    assert!(matches!(fixture.exchange_token().await, Err(SourceProblem::NeedsLogin(_))));
    assert_eq!(fixture.stored_refresh_token(), None);
    assert!(matches!(fixture.exchange_token().await, Err(SourceProblem::NeedsLogin(_))));
    assert_eq!(fixture.request_count(), 1, "there was nothing to spend");
}

#[tokio::test]
async fn requests_and_replies_round_trip_and_truncated_ones_fail() {
    let fixture = ExchangeFixture::new(rotating_handler());
    let request = ExchangeRequest::new(&fixture.identity).with_scope(Some("s".to_owned()));
    let message = wire::encode_request(&fixture.vault, &request);
    let (vault, decoded) = wire::decode_request(&message).unwrap();
    assert_eq!((decoded, vault.key()), (request, fixture.vault.key()));
    assert!(vault.get("login/a").unwrap().is_some());
    for length in 0..message.len() {
        assert!(wire::decode_request(&message[..length]).is_none(), "{length}");
    }
    let response = HttpResponse {
        status: 200,
        skew: -7,
        has_date: true,
        body: Zeroizing::new(b"a\nb".to_vec()),
        host: "h".to_owned(),
    };
    let read = wire::decode_reply(&wire::encode_reply(&Ok(response))).unwrap().unwrap();
    assert_eq!((read.status, read.skew, read.body.as_slice(), read.host.as_str()), (200, -7, &b"a\nb"[..], "h"));
    assert!(wire::decode_reply(b"").is_none() && wire::decode_reply(b"{\"answered\"").is_none());

    let described =
        BrokerProblem { code: "vault_file", message: "m".into(), hint: None, login_identity: Some("a".into()) };
    let damaged = || VaultProblem::Damaged { path: "p".into(), reason: "it is cut off" };
    for (problem, code) in [
        (SourceProblem::NeedsLogin("x".into()), "needs_login"),
        (SourceProblem::Transient("x".into()), "source_unreachable"),
        (SourceProblem::Refused("x".into()), "source_refused"),
        (SourceProblem::Described(described), "vault_file"),
        (SourceProblem::Vault(damaged()), "vault_damaged"),
    ] {
        let text = problem.to_string();
        let read = wire::decode_reply(&wire::encode_reply(&Err(problem))).unwrap().err().unwrap();
        assert_eq!(read.to_string(), text);
        assert_eq!(crate::broker::to_broker_problem("a", read).code, code);
    }
}
