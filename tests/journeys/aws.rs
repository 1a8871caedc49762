//! AWS: IAM Identity Center (a protocol server that botocore checks) and STS (moto), through the real binary.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::credential_formats::write_identities;
use crate::http::get;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, wait_until};

fn test_program(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials").join(file)
}

/// Returns a Python with moto and botocore. Prints a skip and returns `None` if there is none.
pub fn find_python(journey: &str) -> Option<PathBuf> {
    let named = std::env::var_os("PDEV_TEST_PYTHON").map(PathBuf::from);
    let has = |python: &PathBuf| {
        let check =
            Command::new(python).args(["-c", "import botocore, moto.server, flask"]).stderr(Stdio::null()).status();
        check.is_ok_and(|status| status.success())
    };
    let found = named.into_iter().chain([PathBuf::from("python3")]).find(has);
    if found.is_none() {
        println!("skipped: {journey}: python has no moto[server] and botocore");
    }
    found
}

pub struct TestServer {
    child: Child,
    pub port: u16,
}

impl TestServer {
    /// Client registrations expire after this many seconds.
    pub fn start_identity_center(sandbox: &Sandbox, client_lifetime: u32) -> Self {
        let port_file = sandbox.path("center-port");
        let mut center = Command::new("python3");
        center.arg(test_program("identity_center.py")).arg(&port_file).arg(client_lifetime.to_string());
        let child = center.spawn().unwrap();
        wait_until("Identity Center listens", Duration::from_secs(20), || port_file.exists());
        let port = fs::read_to_string(port_file).unwrap().parse().unwrap();
        Self { child, port }
    }

    pub fn start_moto(python: &Path) -> Self {
        // The port is free again before moto binds it. Another program would have to choose the same port in between.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut moto = Command::new(python);
        moto.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()]);
        let child = moto.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("moto listens", Duration::from_secs(60), listens);
        Self { child, port }
    }

    /// Starts a reverse proxy for another server, which logs its requests.
    pub fn start_recorder(sandbox: &Sandbox, target: &str) -> Self {
        let port_file = sandbox.path("recorder-port");
        let log = sandbox.path("recorded");
        let child =
            Command::new("python3").arg(test_program("recorder.py")).args([&port_file, &log]).arg(target).spawn();
        wait_until("the recorder listens", Duration::from_secs(20), || port_file.exists());
        Self { child: child.unwrap(), port: fs::read_to_string(port_file).unwrap().parse().unwrap() }
    }

    pub fn stat(&self, name: &str) -> u64 {
        let stats: Value = serde_json::from_str(&get("127.0.0.1", self.port, "/test/stats").body).unwrap();
        stats[name].as_u64().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub fn write_passphrase(sandbox: &Sandbox) -> PathBuf {
    let passphrase = sandbox.path("passphrase");
    fs::write(&passphrase, "a long enough passphrase").unwrap();
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    passphrase
}

#[track_caller]
pub fn sign_in(sandbox: &Sandbox, identity: &str, flow: &str) {
    sign_in_with(sandbox, identity, flow, None);
}

/// `vault` is an environment variable that selects the store of the vault's key, instead of a passphrase file.
#[track_caller]
pub fn sign_in_with(sandbox: &Sandbox, identity: &str, flow: &str, vault: Option<(&str, &str)>) {
    let mut login = sandbox.command(&sandbox.project(), &["login", identity, "--flow", flow, "--no-open", "--json"]);
    match vault {
        Some((name, value)) => login.env(name, value),
        None => login.env("PDEV_VAULT_PASSPHRASE_FILE", write_passphrase(sandbox)),
    };
    login.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut login = login.spawn().unwrap();
    let mut lines = BufReader::new(login.stdout.take().unwrap()).lines();
    let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let page = event["complete_url"].as_str().or(event["url"].as_str()).unwrap_or_else(|| panic!("{event}"));
    let mut browser = Command::new("python3");
    browser.args([
        "-c",
        "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=20).read())",
        page,
    ]);
    run_with_timeout(browser, Duration::from_secs(30)).ok();
    let last: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(last["login"], "signed_in", "{last}");
    assert!(login.wait().unwrap().success());
}

pub fn aws_credential(sandbox: &Sandbox, identity: &str) -> CommandOutput {
    sandbox.pdev(&["credential", "aws", identity])
}

#[test]
fn identity_center_login_serves_all_accounts() {
    let Some(python) = find_python("IAM Identity Center") else { return };
    let sandbox = Sandbox::without_docker();
    let center = TestServer::start_identity_center(&sandbox, 7_776_000);
    let url = format!("http://127.0.0.1:{}", center.port);
    let mut check = Command::new(python);
    check.arg(test_program("botocore_client.py")).arg(&url).env("AWS_EC2_METADATA_DISABLED", "true");
    run_with_timeout(check, Duration::from_secs(60)).ok().prints("ok");

    let identity = |name: &str, account: &str, role: &str| {
        format!(
            "[{name}]\nsource = \"aws-sso\"\nstart_url = \"https://x.awsapps.com/start\"\nregion = \"eu-central-1\"\naccount = \"{account}\"\n\
             role = \"{role}\"\noidc_endpoint = \"{url}\"\nportal_endpoint = \"{url}\"\n"
        )
    };
    let all = [
        identity("dev", "111111111111", "Developer"),
        identity("two", "222222222222", "Developer"),
        identity("admin", "111111111111", "Admin"),
    ];
    write_identities(&sandbox, &all.concat());
    let slowed = center.stat("slowed");
    sign_in(&sandbox, "dev", "device");
    assert_eq!(center.stat("slowed"), slowed + 1, "the client did not slow down");
    let first = aws_credential(&sandbox, "dev").ok().json();
    assert_eq!(first["AccessKeyId"], "ASIA111111111111");
    assert_eq!(first["AccountId"], "111111111111");
    assert!(first["Expiration"].as_str().unwrap().ends_with('Z'));
    assert_eq!(aws_credential(&sandbox, "two").ok().json()["AccessKeyId"], "ASIA222222222222");
    aws_credential(&sandbox, "admin")
        .fails_with(1)
        .prints("you have no role `Admin` in the account 111111111111: No access");
    assert_eq!(aws_credential(&sandbox, "dev").ok().json(), first, "a valid lease was requested again");

    // The server expires the access token. It is renewed only once for two identities with the same login.
    let before = center.stat("refreshed");
    get("127.0.0.1", center.port, "/test/expire");
    sandbox.pdev(&["agent", "stop"]).ok();
    std::thread::scope(|scope| {
        for name in ["dev", "two", "dev", "two"] {
            let sandbox = &sandbox;
            scope.spawn(move || aws_credential(sandbox, name).ok());
        }
    });
    assert_eq!(center.stat("refreshed"), before + 1);
    assert_eq!(center.stat("reuse"), 1, "only the check with botocore spent a token twice");

    sandbox.pdev(&["logout", "dev"]).ok();
    sandbox.pdev(&["agent", "stop"]).ok();
    aws_credential(&sandbox, "two").fails_with(1).prints("Run `pdev login two` to sign in");
    sign_in(&sandbox, "two", "browser");
    aws_credential(&sandbox, "dev").ok();
}

#[test]
fn roles_are_assumed_with_keys_and_with_tokens() {
    let Some(python) = find_python("STS") else { return };
    let sandbox = Sandbox::without_docker();
    let moto = TestServer::start_moto(&python);
    let (url, keys) = (
        format!("http://127.0.0.1:{}", moto.port),
        r#"{\"Version\":1,\"AccessKeyId\":\"AKIA1\",\"SecretAccessKey\":\"s\"}"#,
    );
    write_identities(
        &sandbox,
        &format!(
            "[base]\nsource = \"exec\"\ncommand = [\"echo\", \"{keys}\"]\n[token]\nsource = \"exec\"\ncommand = [\"echo\", \"{{\\\"token\\\":\\\"t\\\"}}\"]\n\
             [role]\nsource = \"aws-role\"\nfrom = \"base\"\nrole_arn = \"arn:aws:iam::123456789012:role/dev\"\nendpoint = \"{url}\"\nduration = \"15m\"\n\
             [chained]\nsource = \"aws-role\"\nfrom = \"role\"\nrole_arn = \"arn:aws:iam::210987654321:role/next\"\nendpoint = \"{url}\"\n\
             [web]\nsource = \"aws-web-identity\"\nfrom = \"token\"\nrole_arn = \"arn:aws:iam::123456789012:role/web\"\nendpoint = \"{url}\"\n\
             [wrong]\nsource = \"aws-role\"\nfrom = \"token\"\nrole_arn = \"arn:aws:iam::123456789012:role/web\"\nendpoint = \"{url}\"\n\
             [down]\nsource = \"aws-role\"\nfrom = \"base\"\nrole_arn = \"arn:aws:iam::1:role/x\"\nendpoint = \"http://127.0.0.1:1/\"\n"
        ),
    );
    for (name, account) in [("role", "123456789012"), ("chained", "210987654321"), ("web", "123456789012")] {
        let credential = aws_credential(&sandbox, name).ok().json();
        assert!(credential["AccessKeyId"].as_str().unwrap().starts_with("ASIA"), "{name}: {credential}");
        assert_eq!(credential["AccountId"], account, "{name}");
        assert!(credential["SessionToken"].as_str().unwrap().len() > 20, "{name}");
        // AWS's own client confirms the role of the credential.
        let mut whoami = Command::new(&python);
        whoami.args(["-c", "import boto3; print(boto3.client('sts').get_caller_identity()['Arn'])"]);
        whoami.env("AWS_ENDPOINT_URL", &url).env("AWS_DEFAULT_REGION", "us-east-1");
        for (variable, key) in [
            ("AWS_ACCESS_KEY_ID", "AccessKeyId"),
            ("AWS_SECRET_ACCESS_KEY", "SecretAccessKey"),
            ("AWS_SESSION_TOKEN", "SessionToken"),
        ] {
            whoami.env(variable, credential[key].as_str().unwrap());
        }
        run_with_timeout(whoami, Duration::from_secs(60)).ok().prints(&format!("/pdev-{name}"));
    }
    aws_credential(&sandbox, "wrong").fails_with(1).prints("`token` gives no AWS credentials");
    aws_credential(&sandbox, "down").fails_with(1).prints("`127.0.0.1:1` cannot be reached");
}

#[test]
fn session_credentials_are_read_only_and_tagged() {
    let Some(python) = find_python("a session's STS") else { return };
    let sandbox = Sandbox::without_docker();
    let moto = TestServer::start_moto(&python);
    let recorder = TestServer::start_recorder(&sandbox, &format!("http://127.0.0.1:{}/", moto.port));
    let (url, keys) = (
        format!("http://127.0.0.1:{}", recorder.port),
        r#"{\"Version\":1,\"AccessKeyId\":\"AKIA1\",\"SecretAccessKey\":\"s\"}"#,
    );
    let role = |name: &str, more: &str| {
        format!(
            "[{name}]\nsource = \"aws-role\"\nfrom = \"base\"\nrole_arn = \"arn:aws:iam::123456789012:role/dev\"\nendpoint = \"{url}\"\n{more}\n"
        )
    };
    write_identities(
        &sandbox,
        &format!(
            "[base]\nsource = \"exec\"\ncommand = [\"echo\", \"{keys}\"]\n{}{}{}\
             [token]\nsource = \"exec\"\ncommand = [\"echo\", \"{{\\\"token\\\":\\\"t\\\"}}\"]\n\
             [web]\nsource = \"aws-web-identity\"\nfrom = \"token\"\nrole_arn = \"arn:aws-cn:iam::123456789012:role/web\"\nendpoint = \"{url}\"\n",
            role("role", "duration = \"12h\""),
            role(
                "own",
                "session_policies = [\"arn:aws:iam::1:policy/a\", \"arn:aws:iam::1:policy/b\"]\nsession_tags = false"
            ),
            role("prod", "production = true"),
        ),
    );
    let pdev = env!("CARGO_BIN_EXE_pdev");
    let in_session = |options: &[&str], script: &str| {
        let arguments = [&["session", "run", "--name", "robot"], options, &["--", "sh", "-c", script]].concat();
        sandbox.pdev(&arguments)
    };
    let recorded = || -> Vec<Value> {
        let text = fs::read_to_string(sandbox.path("recorded")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // The user's own lease, before and after the session: twelve hours, no policy, no tags.
    let user_lease = aws_credential(&sandbox, "role").ok().json();
    let twice = format!("{pdev} credential aws role; {pdev} credential aws role");
    let output = in_session(&[], &twice).ok();
    let leases: Vec<Value> = output.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(leases[0], leases[1], "the session uses one lease");
    assert_ne!(leases[0]["AccessKeyId"], user_lease["AccessKeyId"], "the session received the user's lease");
    assert_eq!(aws_credential(&sandbox, "role").ok().json(), user_lease, "the user's lease changed");
    let all = recorded();
    assert_eq!(all.len(), 2, "{all:?}");
    let (of_user, of_session) = (&all[0], &all[1]);
    assert_eq!(of_user["DurationSeconds"], "43200");
    assert!(
        of_user.get("PolicyArns.member.1.arn").is_none() && of_user.get("Tags.member.1.Key").is_none(),
        "{of_user}"
    );
    assert_eq!(of_session["Action"], "AssumeRole");
    assert_eq!(of_session["PolicyArns.member.1.arn"], "arn:aws:iam::aws:policy/ReadOnlyAccess");
    assert!(of_session["DurationSeconds"].as_str().unwrap().parse::<u32>().unwrap() <= 3600, "{of_session}");
    assert_eq!(of_session["Tags.member.1.Key"], "pdev:session");
    let id = of_session["Tags.member.1.Value"].as_str().unwrap();
    assert_eq!(
        (&of_session["Tags.member.2.Key"], &of_session["Tags.member.2.Value"]),
        (&"pdev:agent".into(), &"robot".into())
    );
    assert_eq!(of_session["RoleSessionName"], format!("pdev-role-{id}"));
    sandbox.pdev(&["audit"]).ok().prints("session robot");

    in_session(&["--for", "1m"], &format!("{pdev} credential aws own; {pdev} credential aws web")).ok();
    let all = recorded();
    let (own, web) = (&all[2], &all[3]);
    assert_eq!(own["PolicyArns.member.2.arn"], "arn:aws:iam::1:policy/b");
    assert_eq!(own["DurationSeconds"], "900", "AWS allows no shorter duration");
    assert!(own.get("Tags.member.1.Key").is_none(), "{own}");
    assert_eq!(web["PolicyArns.member.1.arn"], "arn:aws-cn:iam::aws:policy/ReadOnlyAccess");
    in_session(&[], &format!("{pdev} credential aws prod")).fails_with(1).prints("`prod` is production");
    in_session(&[], &format!("{pdev} credential aws base")).fails_with(1).prints("Put an `aws-role` identity on top");
    in_session(&[], &format!("{pdev} run --as prod -- true"))
        .prints("`prod` is production")
        .prints("pdev session allow");
    assert_eq!(recorded().len(), 4, "a refused request reached STS");
    let fetch = "import boto3; print(boto3.Session(region_name='eu-central-1').get_credentials().access_key)";
    in_session(&[], &format!("{pdev} run --as role -- {} -c \"{fetch}\"", python.display())).ok().prints("ASIA");
    let last = recorded().pop().unwrap();
    assert_eq!(
        (recorded().len(), &last["Tags.member.2.Value"]),
        (5, &"robot".into()),
        "`run --as` must request only the session's lease: {last}"
    );
}
