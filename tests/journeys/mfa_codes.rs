//! MFA: the user types a code once, in a terminal. Sessions and roles then need no prompt until they expire. moto is
//! the STS, behind a relay that records the requests.

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

/// Forwards connections to a port and records the sent bytes.
fn start_recording_relay(port: u16) -> (u16, RecordedBytes) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let relay_port = listener.local_addr().unwrap().port();
    let recorded = RecordedBytes::default();
    let shared = Arc::clone(&recorded);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut client, mut server) = (stream.unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap());
            let (mut back, mut from) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut from, &mut back));
            let recorded = Arc::clone(&shared);
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = client.read(&mut bytes) {
                    recorded.lock().unwrap().extend(&bytes[..count]);
                    if server.write_all(&bytes[..count]).is_err() {
                        return;
                    }
                }
            });
        }
    });
    (relay_port, recorded)
}

/// The number of requests that contain all of these texts.
fn count_requests(recorded: &RecordedBytes, parts: &[&str]) -> usize {
    let text = String::from_utf8_lossy(&recorded.lock().unwrap()).into_owned();
    text.split("POST / ").filter(|request| parts.iter().all(|part| request.contains(part))).count()
}

/// Runs `pdev login` in a terminal and types the code at the prompt.
fn login_with_code(sandbox: &Sandbox, identity: &str, prompt: &str, code: &str) -> CommandOutput {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let plain = sandbox.command(&sandbox.project(), &[]);
    let mut terminal = Command::new("python3");
    terminal.arg(driver).arg(format!("{} login {identity}", env!("CARGO_BIN_EXE_pdev"))).args([prompt, code]);
    terminal.env_clear().envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    terminal.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(sandbox)).current_dir(sandbox.project());
    run_with_timeout(terminal, Duration::from_secs(60))
}

#[test]
fn mfa_code_is_requested_once_and_never_by_helpers() {
    let Some(python) = find_python("MFA codes") else { return };
    let sandbox = Sandbox::without_docker();
    let moto = TestServer::start_moto(&python);
    let (port, recorded) = start_recording_relay(moto.port);
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

    // Without an MFA device, a session needs no prompt.
    let credential = aws_credential(&sandbox, "plain").ok().json();
    assert!(credential["SessionToken"].as_str().unwrap().len() > 20, "{credential}");
    assert_eq!(count_requests(&recorded, &["Action=GetSessionToken", "DurationSeconds=1200"]), 1);

    // A helper never prompts; its error names the command. After the login, one code serves all roles in all processes.
    let mut helper = sandbox.command(&sandbox.project(), &["credential", "aws", "dev"]);
    helper.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(&sandbox)).stdin(Stdio::null());
    run_with_timeout(helper, Duration::from_secs(30)).fails_with(1).prints("Run `pdev login day` to sign in");
    let prompt = format!("MFA code of {device}");
    login_with_code(&sandbox, "day", &prompt, "12 34").fails_with(2).prints("that is no code of six digits");
    let output = login_with_code(&sandbox, "day", &prompt, "123 456").ok().prints("signed in as `day`");
    assert!(!output.transcript().contains("123 456"), "the code was shown: {}", output.transcript());
    for name in ["dev", "ops", "dev"] {
        aws_credential(&sandbox, name).ok();
    }
    sandbox.pdev(&["agent", "stop"]).ok();
    for name in ["ops", "day"] {
        let mut after = sandbox.command(&sandbox.project(), &["credential", "aws", name]);
        after.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(&sandbox));
        run_with_timeout(after, Duration::from_secs(30)).ok();
    }
    let request =
        ["Action=GetSessionToken", "TokenCode=123456", "SerialNumber=arn%3Aaws%3Aiam%3A%3A123456789012%3Amfa%2Fme"];
    assert_eq!(count_requests(&recorded, &request), 1);
    assert_eq!(count_requests(&recorded, &["TokenCode="]), 1, "a role used a second code");
    assert_eq!(count_requests(&recorded, &["Action=AssumeRole"]), 3, "dev, ops, and ops with the second agent");

    // A role that needs a code itself.
    aws_credential(&sandbox, "direct")
        .fails_with(1)
        .prints("it needs a code of its MFA device")
        .prints("Run `pdev login direct` to sign in");
    login_with_code(&sandbox, "direct", &prompt, "654321").ok();
    let first = aws_credential(&sandbox, "direct").ok().json();
    assert_eq!(aws_credential(&sandbox, "direct").ok().json(), first);
    assert_eq!(first["AccountId"], "210987654321");
    assert_eq!(count_requests(&recorded, &["Action=AssumeRole", "TokenCode=654321", "DurationSeconds=900"]), 1);
    assert!(sandbox.pdev(&["identity", "--json"]).ok().json().to_string().contains("login_ends_at\":1"));

    // A changed definition invalidates the session that the code started.
    write_identities(&sandbox, &all.concat().replace("role/direct", "role/other"));
    aws_credential(&sandbox, "direct").fails_with(1).prints("`direct` was changed since the last login");
}
