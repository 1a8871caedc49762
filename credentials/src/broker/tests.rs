//! The broker with a real program as its source: counted runs, real files, a real clock.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use host::clock::now_milliseconds;

use super::*;
use crate::session::Session;
use crate::vault::KeyStore;

fn new_broker(root: &Path, identities: &str) -> Arc<Broker> {
    let paths = CredentialPaths { config: root.join("config"), data: root.join("data") };
    fs::create_dir_all(&paths.config).unwrap();
    fs::write(paths.identities(), identities).unwrap();
    let passphrase = root.join("passphrase");
    fs::write(&passphrase, "a long enough passphrase").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    let options = VaultOptions {
        key_store: Some(KeyStore::Passphrase),
        passphrase_file: Some(passphrase),
        ..VaultOptions::default()
    };
    Broker::new(paths, options, ExchangeRunner::in_process())
}

/// A source program that appends a line to the file `runs` on each run, and prints a token with a lifetime of
/// `seconds`.
fn counting_source(root: &Path, seconds: i64) -> String {
    let (script, end) = (root.join("source.sh"), now_milliseconds() / 1000 + seconds);
    let runs = root.join("runs");
    let text =
        format!("echo run >> {}\nsleep 0.1\necho '{{\"token\":\"canary\",\"expires_at\":{end}}}'\n", runs.display());
    fs::write(&script, text).unwrap();
    format!("[a]\nsource = \"exec\"\ncommand = [\"sh\", \"{}\"]\n", script.display())
}

fn general_key(identity: &str) -> LeaseKey {
    LeaseKey::new(identity, None, Purpose::General)
}

fn run_count(root: &Path) -> usize {
    fs::read_to_string(root.join("runs")).unwrap_or_default().lines().count()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_cause_one_renewal() {
    let root = tempfile::tempdir().unwrap();
    let broker = new_broker(root.path(), &counting_source(root.path(), 3600));
    let mut changes = broker.subscribe();
    let requests: Vec<_> = (0..200)
        .map(|_| {
            let broker = Arc::clone(&broker);
            tokio::spawn(async move { broker.issue("a", &CredentialFormat::Token, &Requester::default()).await })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().expose(), b"canary");
    }
    assert_eq!(run_count(root.path()), 1);
    assert!(matches!(changes.recv().await.unwrap().kind, ChangeKind::Renewed { .. }));
    let entries = broker.audit.read().unwrap();
    assert_eq!(entries.iter().filter(|entry| entry.action == "issued").count(), 200);
    assert!(!fs::read_to_string(broker.paths.audit()).unwrap().contains("canary"));
}

#[tokio::test]
async fn expiring_lease_is_renewed_before_it_is_served() {
    let root = tempfile::tempdir().unwrap();
    let broker = new_broker(root.path(), &counting_source(root.path(), 3600));
    let lease = broker.obtain_lease("a").await.unwrap();
    let mut times = lease.times;
    times.expires_at = Some(now_milliseconds() + 30_000);
    times.issued_at = now_milliseconds() - 3_600_000;
    let token = crate::lease::Material::Token(Secret::new(b"old".to_vec()));
    broker.lock_entries().get_mut(&general_key("a")).unwrap().lease = Some(Arc::new(Lease::new(token, times)));
    assert_eq!(broker.issue("a", &CredentialFormat::Token, &Requester::default()).await.unwrap().expose(), b"canary");
    assert_eq!(run_count(root.path()), 2);
    // After half of its lifetime, the lease is served at once and the next one is fetched in the background.
    let token = crate::lease::Material::Token(Secret::new(b"half".to_vec()));
    let times = crate::lease::Times {
        issued_at: now_milliseconds() - 2_400_000,
        expires_at: Some(now_milliseconds() + 1_200_000),
        skew: 0,
    };
    broker.lock_entries().get_mut(&general_key("a")).unwrap().lease = Some(Arc::new(Lease::new(token, times)));
    let mut changes = broker.subscribe();
    assert_eq!(broker.issue("a", &CredentialFormat::Token, &Requester::default()).await.unwrap().expose(), b"half");
    assert!(matches!(changes.recv().await.unwrap().kind, ChangeKind::Renewed { .. }));
    assert_eq!(broker.issue("a", &CredentialFormat::Token, &Requester::default()).await.unwrap().expose(), b"canary");
    assert_eq!(run_count(root.path()), 3);
}

#[tokio::test]
async fn failing_source_is_retried_later_and_old_lease_is_served() {
    let root = tempfile::tempdir().unwrap();
    let failing = format!(
        "[a]\nsource = \"exec\"\ncommand = [\"sh\", \"-c\", \"echo run >> {}; echo no luck >&2; exit 3\"]\n",
        root.path().join("runs").display()
    );
    let broker = new_broker(root.path(), &failing);
    for _ in 0..5 {
        let problem = broker.obtain_lease("a").await.err().unwrap();
        assert_eq!(problem.code, "source_unreachable");
        assert!(problem.message.contains("no luck"), "{problem}");
    }
    assert_eq!(run_count(root.path()), 1, "the source was asked again at once");
    let token = crate::lease::Material::Token(Secret::new(b"old".to_vec()));
    let times = crate::lease::Times {
        issued_at: now_milliseconds() - 3_500_000,
        expires_at: Some(now_milliseconds() + 40_000),
        skew: 0,
    };
    {
        let mut entries = broker.lock_entries();
        let entry = entries.get_mut(&general_key("a")).unwrap();
        entry.lease = Some(Arc::new(Lease::new(token, times)));
        (entry.retry_at, entry.early_retry_at) = (0, 0);
    }
    assert_eq!(broker.issue("a", &CredentialFormat::Token, &Requester::default()).await.unwrap().expose(), b"old");
    assert_eq!(run_count(root.path()), 2);
}

/// The source was away for long, so the pauses between attempts in the background have grown.
#[tokio::test]
async fn next_use_asks_a_source_that_is_back() {
    let root = tempfile::tempdir().unwrap();
    let script = format!(
        "echo run >> {}; test -e {}/back && printf '{{\"token\":\"canary\"}}'",
        root.path().join("runs").display(),
        root.path().display()
    );
    let identities = format!("[a]\nsource = \"exec\"\ncommand = [\"sh\", \"-c\", {script:?}]\n");
    let broker = new_broker(root.path(), &identities);
    let pass_pause = || {
        let mut entries = broker.lock_entries();
        let entry = entries.get_mut(&general_key("a")).unwrap();
        let pause = entry.retry_at - now_milliseconds();
        assert!(pause <= 1000, "{pause} ms");
        entry.retry_at -= 1000;
    };
    for _ in 0..8 {
        assert!(broker.obtain_lease("a").await.is_err());
        assert!(broker.obtain_lease("a").await.is_err());
        pass_pause();
    }
    assert_eq!(run_count(root.path()), 8, "at most one attempt per second");
    fs::write(root.path().join("back"), "").unwrap();
    assert!(broker.obtain_lease("a").await.is_ok());
}

#[tokio::test]
async fn static_secret_is_stored_issued_and_removed() {
    let root = tempfile::tempdir().unwrap();
    let identities = "[reg]\nsource = \"static\"\nkind = \"token\"\nhosts = [\"localhost:5000\"]\n[two]\nsource = \"exec\"\ncommand = [\"x\"]\nhosts = [\"both\"]\n[three]\nsource = \"exec\"\ncommand = [\"x\"]\nhosts = [\"both\"]\n";
    let broker = new_broker(root.path(), identities);
    assert_eq!(broker.find_identity_by_host("localhost:5000").unwrap(), "reg");
    assert_eq!(broker.find_identity_by_host("both").unwrap_err().code, "identity_ambiguous");
    assert_eq!(broker.find_identity_by_host("other").unwrap_err().code, "identity_unknown");
    let requester = Requester::default();
    let issue = || broker.issue("reg", &CredentialFormat::Token, &requester);
    assert_eq!(issue().await.err().unwrap().code, "needs_login");
    broker.store_secret("reg", &Secret::new(b"canary".to_vec())).await.unwrap();
    assert_eq!(issue().await.unwrap().expose(), b"canary");
    assert_eq!(broker.identity_snapshots().unwrap()[0].is_signed_in, Some(true));
    let unsuitable = broker.issue("reg", &CredentialFormat::Aws, &Requester::default()).await.err().unwrap();
    assert_eq!(unsuitable.code, "outlet_unfit");
    assert!(broker.sign_out("reg").unwrap() && !broker.sign_out("reg").unwrap());
    assert_eq!(issue().await.err().unwrap().code, "needs_login");
    assert_eq!(broker.identity("rgg").unwrap_err().hint.unwrap(), "Did you mean `reg`?");
    // The vault is reset while the broker has it open.
    vault::set_aside(&broker.paths.vault(), "x").unwrap();
    broker.store_secret("reg", &Secret::new(b"second".to_vec())).await.unwrap();
    assert_eq!(issue().await.unwrap().expose(), b"second");
}

#[tokio::test]
async fn each_resource_has_its_own_lease_up_to_a_limit() {
    let root = tempfile::tempdir().unwrap();
    let script = root.path().join("source.sh");
    fs::write(&script, r#"printf '{"token":"for-%s"}' "$PDEV_RESOURCE""#).unwrap();
    let text = format!("[a]\nsource = \"exec\"\ncloud = \"azure\"\ncommand = [\"sh\", \"{}\"]\n", script.display());
    let broker = new_broker(root.path(), &text);
    let issue = async |resource: &str| {
        let format = CredentialFormat::Azure { now: now_milliseconds(), resource: resource.to_owned() };
        broker.issue("a", &format, &Requester::default()).await
    };
    for resource in ["one", "two", "one"] {
        let credential = issue(resource).await.unwrap();
        assert!(String::from_utf8_lossy(credential.expose()).contains(&format!("\"for-{resource}\"")));
    }
    assert_eq!(broker.lock_entries().len(), 2);
    for number in 0..PURPOSES_MAX - 2 {
        issue(&number.to_string()).await.unwrap();
    }
    let problem = issue("more").await.err().unwrap();
    assert_eq!(problem.message, "`a` was asked for more than 32 resources or audiences");
    assert!(broker.identity_snapshots().unwrap()[0].has_lease);
    broker.discard_leases("a");
    assert!(!broker.identity_snapshots().unwrap()[0].has_lease);
}

/// A source without purposes stores the lease of a session under the general purpose. Its use must be recorded there,
/// or the background renewal takes the lease for unused.
#[tokio::test]
async fn session_lease_of_source_without_purposes_is_recorded_as_used() {
    let root = tempfile::tempdir().unwrap();
    let broker = new_broker(root.path(), "");
    let session = Session {
        id: "s1".to_owned(),
        name: "agent".to_owned(),
        roots: Vec::new(),
        started_at: 0,
        until: i64::MAX,
        identities: Vec::new(),
        identity_digests: BTreeMap::new(),
        ancestry: None,
        started_ticks: 0,
        has_ended: false,
    };
    let session_key = LeaseKey::new("a", Some(&rule::restriction_of(&session)), Purpose::General);
    for key in [&session_key, &general_key("a")] {
        broker.lock_entries().insert(key.clone(), LeaseEntry::default());
    }
    let requester =
        Requester { session: Some(SessionMember { session, allowed_identities: Vec::new() }), ..Requester::default() };
    broker.record_use("a", &Purpose::Resource("storage".to_owned()), &requester);
    assert!(broker.lock_entries()[&session_key].last_used.is_some());
    assert!(broker.lock_entries()[&general_key("a")].last_used.is_none(), "the user's lease was recorded instead");
}
