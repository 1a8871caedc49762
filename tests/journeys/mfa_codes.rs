//! MFA: a person gives a code once, in a terminal; sessions and roles then go on by themselves until they end. moto is the
//! STS; what is sent to it is read on the way.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::aws::{TestServer, aws_credential, find_python, write_passphrase};
use crate::credential_formats::write_identities;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout};

type RecordedBytes = Arc<Mutex<Vec<u8>>>;

/// Passes connections on to a port, and keeps what was sent there.
fn start_recording_relay(port: u16) -> (u16, RecordedBytes) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = listener.local_addr().unwrap().port();
    let heard = RecordedBytes::default();
    let kept = Arc::clone(&heard);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut asker, mut server) = (stream.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let (mut back, mut from) = (asker.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            let heard = Arc::clone(&kept);
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = asker.read(&mut bytes) {
                    heard.lock().unwrap().extend(&bytes[..count]);
                    if server.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (own, heard)
}

/// How many requests had all of these words.
fn count_requests(heard: &RecordedBytes, words: &[&str]) -> usize {
    let text = String::from_utf8_lossy(&heard.lock().unwrap()).into_owned();
    text.split("POST / ").filter(|request| words.iter().all(|word| request.contains(word))).count()
}

/// `pdev login` on a terminal, where somebody types the code when asked for it.
fn login_with_code(sandbox: &Sandbox, identity: &str, asks: &str, code: &str) -> CommandOutput {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let plain = sandbox.command(&sandbox.project(), &[]);
    let mut terminal = Command::new("python3");
    terminal.arg(driver).arg(format!("{} login {identity}", env!("CARGO_BIN_EXE_pdev"))).args([asks, code]);
    terminal.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(sandbox)).current_dir(sandbox.project());
    run_with_timeout(terminal, Duration::from_secs(60))
}

#[test]
fn mfa_code_is_requested_once_and_never_by_helpers() {
    let Some(python) = find_python("MFA codes") else { return };
    let sandbox = Sandbox::without_docker();
    let moto = TestServer::start_moto(&python);
    let (port, heard) = start_recording_relay(moto.port);
    let keys = r#"{\"Version\":1,\"AccessKeyId\":\"AKIA1\",\"SecretAccessKey\":\"s\"}"#;
    let device = "arn:aws:iam::123456789012:mfa/me";
    let sts = format!("endpoint = \"http://127.0.0.1:{port}\"\n");
    let role = |name: &str, from: &str, more: &str| {
        format!(
            "[{name}]\nsource = \"aws-role\"\nfrom = \"{from}\"\nrole_arn = \"arn:aws:iam::210987654321:role/{name}\"\n{more}{sts}"
        )
    };
    let mfa = format!("mfa_serial = \"{device}\"\n");
    let all = [
        format!("[keys]\nsource = \"exec\"\ncommand = [\"echo\", \"{keys}\"]\n"),
        format!("[plain]\nsource = \"aws-session\"\nfrom = \"keys\"\nduration = \"20m\"\n{sts}"),
        format!("[day]\nsource = \"aws-session\"\nfrom = \"keys\"\n{mfa}{sts}"),
        role("dev", "day", ""),
        role("ops", "day", ""),
        role("direct", "keys", &format!("{mfa}duration = \"15m\"\n")),
    ];
    write_identities(&sandbox, &all.concat());

    // Without a device a session needs nobody.
    let given = aws_credential(&sandbox, "plain").ok().json();
    assert!(given["SessionToken"].as_str().unwrap().len() > 20, "{given}");
    assert_eq!(count_requests(&heard, &["Action=GetSessionToken", "DurationSeconds=1200"]), 1);

    // A helper never asks: it says what a person does. Then one code serves every role below, in every process.
    let mut helper = sandbox.command(&sandbox.project(), &["credential", "aws", "dev"]);
    helper.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(&sandbox)).stdin(Stdio::null());
    run_with_timeout(helper, Duration::from_secs(30)).fails_with(1).prints("Run `pdev login day` to sign in");
    let asks = format!("code of {device}");
    login_with_code(&sandbox, "day", &asks, "12 34").fails_with(2).prints("that is no code of six digits");
    let said = login_with_code(&sandbox, "day", &asks, "123 456").ok().prints("signed in as `day`");
    assert!(!said.transcript().contains("123 456"), "the code was shown: {}", said.transcript());
    for name in ["dev", "ops", "dev"] {
        aws_credential(&sandbox, name).ok();
    }
    sandbox.pdev(&["agent", "stop"]).ok();
    for name in ["ops", "day"] {
        let mut after = sandbox.command(&sandbox.project(), &["credential", "aws", name]);
        after.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(&sandbox));
        run_with_timeout(after, Duration::from_secs(30)).ok();
    }
    let spent =
        ["Action=GetSessionToken", "TokenCode=123456", "SerialNumber=arn%3Aaws%3Aiam%3A%3A123456789012%3Amfa%2Fme"];
    assert_eq!(count_requests(&heard, &spent), 1);
    assert_eq!(count_requests(&heard, &["TokenCode="]), 1, "no role asked for a code of its own");
    assert_eq!(count_requests(&heard, &["Action=AssumeRole"]), 3, "dev, ops, and ops after the agent's end");

    // A role that wants a code itself.
    aws_credential(&sandbox, "direct")
        .fails_with(1)
        .prints("it needs a code of its MFA device")
        .prints("Run `pdev login direct` to sign in");
    login_with_code(&sandbox, "direct", &asks, "654321").ok();
    let first = aws_credential(&sandbox, "direct").ok().json();
    assert_eq!(aws_credential(&sandbox, "direct").ok().json(), first);
    assert_eq!(first["AccountId"], "210987654321");
    assert_eq!(count_requests(&heard, &["Action=AssumeRole", "TokenCode=654321", "DurationSeconds=900"]), 1);
    assert!(sandbox.pdev(&["identity", "--json"]).ok().json().to_string().contains("login_ends_at\":1"));

    // The session belongs to what the identity was when the code was given.
    write_identities(&sandbox, &all.concat().replace("role/direct", "role/other"));
    aws_credential(&sandbox, "direct").fails_with(1).prints("`direct` was changed since the last login");
}
