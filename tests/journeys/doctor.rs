//! `pdev doctor credentials`: failing identities, expiry, conflicting configuration, and the clock.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use serde_json::Value;

use crate::credential_formats::write_identities;
use crate::sandbox::Sandbox;

/// A time in the format of the HTTP header `Date`. `clock` is an argument of GNU date.
pub fn http_date(clock: &str) -> String {
    let output =
        Command::new("date").args(["-u", "-d", clock, "+%a, %d %b %Y %H:%M:%S GMT"]).env("LC_ALL", "C").output();
    String::from_utf8(output.unwrap().stdout).unwrap().trim().to_owned()
}

/// A server that reports this time as its clock. It answers until the journey ends.
fn start_server_with_clock(clock: &str) -> u16 {
    let date = http_date(clock);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 2048]));
            let response = format!("HTTP/1.1 404 Not Found\r\nDate: {}\r\ncontent-length: 0\r\n\r\n", date.trim());
            drop(stream.write_all(response.as_bytes()));
        }
    });
    port
}

#[test]
fn doctor_reports_failures_expiry_conflicts_and_clock() {
    let sandbox = Sandbox::without_docker();
    let (late, right) = (start_server_with_clock("+20 minutes"), start_server_with_clock("now"));
    let end = "date -u -d '+1 hour' +%Y-%m-%dT%H:%M:%SZ";
    let keys = format!(
        "printf '{{\\\"Version\\\":1,\\\"AccessKeyId\\\":\\\"A\\\",\\\"SecretAccessKey\\\":\\\"canary-doctor\\\",\\\"Expiration\\\":\\\"%s\\\"}}' $({end})"
    );
    let role = "role_arn = \"arn:aws:iam::1:role/x\"";
    let text = format!(
        "[keys]\nsource = \"exec\"\ncommand = [\"sh\", \"-c\", \"{keys}\"]\n\
         [role]\nsource = \"aws-role\"\nfrom = \"broken\"\n{role}\nendpoint = \"http://127.0.0.1:{right}\"\n\
         [broken]\nsource = \"exec\"\ncommand = [\"sh\", \"-c\", \"echo no such profile >&2; exit 3\"]\n\
         [vault]\nsource = \"vault-server\"\naddress = \"http://127.0.0.1:{late}\"\npath = \"kv/x\"\n"
    );
    write_identities(&sandbox, &text);
    fs::create_dir_all(sandbox.path("home/.aws")).unwrap();
    fs::write(sandbox.path("home/.aws/config"), "[profile keys]\ncredential_process = pdev credential aws keys\n")
        .unwrap();
    fs::write(sandbox.path("home/.aws/credentials"), "[keys]\naws_access_key_id = AKIA\n").unwrap();

    let quiet = sandbox.pdev(&["doctor", "credentials"]).ok().prints("there is none yet; the first login creates it");
    assert!(sandbox.agent_pid().is_none(), "`doctor` without `--ask` started an agent: {}", quiet.transcript());
    let output = sandbox.pdev(&["doctor", "credentials", "--ask"]).ok();
    let output = output
        .prints("`keys`: holds a lease until 2")
        .prints("in 59 min")
        .prints("`broken`: `sh` ended with exit status: 3: no such profile")
        .prints("`role`: `broken`: ")
        .prints("`vault`: no user has signed in as `vault`")
        .prints("Run `pdev login vault` to sign in")
        .prints("the aws profile `keys` has keys in the shared credentials file, which override the identity")
        .prints(&format!("this machine is about 20 min behind `127.0.0.1:{late}`"))
        .prints(&format!("agrees with `127.0.0.1:{right}`"));
    assert!(!output.transcript().contains("canary-doctor"), "{}", output.transcript());

    let findings = sandbox.pdev(&["doctor", "credentials", "--json"]).ok().json();
    let of = |check: &str| -> Vec<&Value> {
        findings.as_array().unwrap().iter().filter(|finding| finding["check"] == check).collect()
    };
    assert_eq!(of("clock").len(), 2);
    assert_eq!(of("tools")[0]["health"], "warning", "{findings:#}");
    sandbox.pdev(&["doctor", "--ask"]).fails_with(2);
}

#[test]
fn doctor_shows_what_protects_this_machine() {
    let sandbox = Sandbox::without_docker();
    let check = |name: &str| {
        let all = sandbox.pdev(&["doctor", "security", "--json"]).ok().json();
        all.as_array()
            .unwrap()
            .iter()
            .find(|finding| finding["check"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("{name}"))
    };
    for name in ["ancestry", "groups", "polkit", "sessions", "bus", "memory", "engine", "vault"] {
        check(name);
    }
    assert_eq!(check("approval")["health"], "warning");
    write_identities(&sandbox, "approval = \"strict\"\n");
    assert_eq!(check("approval")["health"], "fine");
}
