//! Exchanges against a provider of the test's own, on a real disk: what is kept, what is spent, and what is not.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::broker::BrokerProblem;
use crate::http::Http;
use crate::identity::{self, Identity};
use crate::secret::Secret;
use crate::vault::VaultProblem;

/// What the provider does with the refresh token it was given: its status and body.
type Answering = Box<dyn Fn(&str) -> (u16, String) + Send>;

struct Bench {
    root: tempfile::TempDir,
    vault: Vault,
    identity: Identity,
    asked: Arc<AtomicUsize>,
}

impl Bench {
    fn new(answering: Answering) -> Self {
        let root = tempfile::tempdir().unwrap();
        let vault = Vault::of_a_test(&root.path().join("vault"));
        let asked = Arc::new(AtomicUsize::new(0));
        let port = provider(answering, Arc::clone(&asked));
        let text = "[a]\nsource = \"oidc\"\nissuer = \"https://i\"\nclient_id = \"me\"\n";
        let identity = identity::read(text).0.get("a").unwrap().clone();
        let bench = Self { root, vault, identity, asked };
        let login = format!(
            r#"{{"issuer":"https://i","client_id":"me","token_endpoint":"http://127.0.0.1:{port}/","refresh_token":"r1"}}"#
        );
        bench.vault.put("login/a", &Secret::new(login.into_bytes())).unwrap();
        bench
    }

    async fn spend(&self) -> Result<Answer, SourceProblem> {
        spend::spend(&self.vault, &Http::new().unwrap(), &Errand::new(&self.identity), &|| ()).await
    }

    /// The refresh token that is kept.
    fn kept(&self) -> Option<String> {
        let kept = self.vault.get("login/a").unwrap()?;
        let value: serde_json::Value = serde_json::from_slice(kept.expose()).unwrap();
        value["refresh_token"].as_str().map(str::to_owned)
    }

    fn file(&self, ending: &str) -> PathBuf {
        self.root.path().join("vault").join(format!("login~a.{ending}"))
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn provider(answering: Answering, asked: Arc<AtomicUsize>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut heard = Vec::new();
            // A form ends with its last field, the client.
            while !heard.ends_with(b"client_id=me") {
                let mut part = [0; 4096];
                let count = stream.read(&mut part).unwrap();
                heard.extend_from_slice(&part[..count]);
            }
            asked.fetch_add(1, Ordering::SeqCst);
            let text = String::from_utf8(heard).unwrap();
            let token = text.split("refresh_token=").nth(1).unwrap().split('&').next().unwrap();
            let (status, body) = answering(token);
            let length = body.len();
            let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
            drop(stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()));
        }
    });
    port
}

/// Each token works once; one that comes back ends the login.
fn rotating() -> Answering {
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
async fn what_an_answer_leaves_in_the_vault() {
    for (what, status, body, kept) in [
        ("a rotated token", 200, r#"{"access_token":"t","refresh_token":"r2"}"#, "r2"),
        ("a rotated token in an answer that is good for nothing else", 200, r#"{"refresh_token":"r2"}"#, "r2"),
        ("the same token", 200, r#"{"access_token":"t","refresh_token":"r1"}"#, "r1"),
        ("no token", 200, r#"{"access_token":"t"}"#, "r1"),
        ("an empty token", 200, r#"{"access_token":"t","refresh_token":""}"#, "r1"),
        ("garbage", 200, "<html>", "r1"),
        ("a refusal", 400, r#"{"error":"invalid_grant","refresh_token":"r2"}"#, "r1"),
        ("a server in trouble", 500, r#"{"refresh_token":"r2"}"#, "r1"),
    ] {
        let bench = Bench::new(Box::new(move |_| (status, body.to_owned())));
        let _either = bench.spend().await;
        assert_eq!(bench.kept().as_deref(), Some(kept), "{what}");
        assert!(!bench.file("next").exists(), "{what}: room that is not needed is left");
    }
}

#[tokio::test]
async fn nothing_is_spent_where_its_successor_could_not_be_kept() {
    let bench = Bench::new(rotating());
    std::fs::create_dir(bench.file("next")).unwrap();
    let problem = bench.spend().await.err().unwrap();
    assert!(matches!(problem, SourceProblem::Vault(VaultProblem::File { verb: "write", .. })), "{problem}");
    assert_eq!(bench.asked(), 0);
    std::fs::remove_dir(bench.file("next")).unwrap();
    // Left by a process that was killed.
    std::fs::write(bench.file("next"), "half").unwrap();
    bench.spend().await.unwrap();
    assert_eq!((bench.asked(), bench.kept().as_deref()), (1, Some("r2")));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_spend_two_tokens_and_not_one_twice() {
    let bench = Bench::new(rotating());
    let all: Vec<_> = (0..6).map(|_| bench.spend()).collect();
    for outcome in futures(all).await {
        assert_eq!(outcome.unwrap().status, 200);
    }
    assert_eq!(bench.kept().as_deref(), Some("r7"));
    // Whoever saw what was there before finds it made.
    let old = Secret::new(b"before".to_vec());
    let errand = Errand::new(&bench.identity).unless_made(&old);
    let exchanges = Exchanges::here();
    assert!(exchanges.run(&bench.vault, &errand).await.unwrap().is_fine());
    assert_eq!(bench.asked(), 6);
}

/// All at once, in their order.
async fn futures<T>(all: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut all: Vec<_> = all.into_iter().map(|one| (Box::pin(one), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, outcome) in all.iter_mut().filter(|(_, outcome)| outcome.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *outcome = Some(value);
            }
        }
        if all.iter().any(|(_, outcome)| outcome.is_none()) {
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(all.drain(..).filter_map(|(_, outcome)| outcome).collect())
    })
    .await
}

#[tokio::test]
async fn who_signed_out_meanwhile_stays_signed_out() {
    let (sender, receiver) = std::sync::mpsc::channel::<PathBuf>();
    let answering: Answering = Box::new(move |_| {
        std::fs::remove_file(receiver.recv().unwrap()).unwrap();
        (200, r#"{"access_token":"t","refresh_token":"r2"}"#.to_owned())
    });
    let bench = Bench::new(answering);
    sender.send(bench.file("sealed")).unwrap();
    assert!(matches!(bench.spend().await, Err(SourceProblem::NeedsLogin(_))));
    assert_eq!(bench.kept(), None);
    assert!(matches!(bench.spend().await, Err(SourceProblem::NeedsLogin(_))));
    assert_eq!(bench.asked(), 1, "there was nothing to spend");
}

#[tokio::test]
async fn orders_and_answers_cross_and_cut_ones_do_nothing() {
    let bench = Bench::new(rotating());
    let errand = Errand::new(&bench.identity).asking_for(Some("s".to_owned()));
    let order = wire::order(&bench.vault, &errand);
    let (vault, heard) = wire::taken(&order).unwrap();
    assert_eq!((heard, vault.key()), (errand, bench.vault.key()));
    assert!(vault.get("login/a").unwrap().is_some());
    for length in 0..order.len() {
        assert!(wire::taken(&order[..length]).is_none(), "{length}");
    }
    let answer =
        Answer { status: 200, skew: -7, is_dated: true, body: Zeroizing::new(b"a\nb".to_vec()), host: "h".to_owned() };
    let read = wire::read(&wire::told(&Ok(answer))).unwrap().unwrap();
    assert_eq!((read.status, read.skew, read.body.as_slice(), read.host.as_str()), (200, -7, &b"a\nb"[..], "h"));
    assert!(wire::read(b"").is_none() && wire::read(b"{\"answered\"").is_none());

    let said = BrokerProblem { code: "vault_file", message: "m".into(), hint: None, login: Some("a".into()) };
    let damaged = || VaultProblem::Damaged { path: "p".into(), words: "it is cut off" };
    for (problem, code) in [
        (SourceProblem::NeedsLogin("x".into()), "needs_login"),
        (SourceProblem::Passing("x".into()), "source_unreachable"),
        (SourceProblem::Refused("x".into()), "source_refused"),
        (SourceProblem::Said(said), "vault_file"),
        (SourceProblem::Vault(damaged()), "vault_damaged"),
    ] {
        let words = problem.to_string();
        let read = wire::read(&wire::told(&Err(problem))).unwrap().err().unwrap();
        assert_eq!(read.to_string(), words);
        assert_eq!(crate::broker::told("a", read).code, code);
    }
}
