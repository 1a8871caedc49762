//! A repository's first use of an identity: whoever asked for it, and what they drive, cannot approve it; a person in
//! another terminal can.

use std::path::Path;
use std::process::{Child, Stdio};

use crate::outlets::identities;
use crate::sandbox::{Said, Sandbox, said, unit};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");

fn stage() -> Sandbox {
    let sandbox = Sandbox::bare();
    let manifest = "pdev: 1\napp: a\nidentities: { shop-dev: x }\nservices:\n  web: { identity: shop-dev, health: none, \
                    process: { command: [sleep, '1000'] } }\n";
    sandbox.write("pdev.yaml", manifest);
    identities(&sandbox, "[shop-dev]\nsource = \"exec\"\ncommand = [\"false\"]\n");
    sandbox
}

/// A shell in a terminal of its own, and what is typed when something appears.
pub fn terminal(sandbox: &Sandbox, command: &str, typed: &[&str]) -> Child {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let mut shell = sandbox.command(&sandbox.project(), &[]);
    let mut python = std::process::Command::new("python3");
    python.arg(program).arg(command).args(typed).current_dir(sandbox.project()).env_clear();
    python.envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.stdin(Stdio::null());
    python.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

pub fn ended(child: Child) -> Said {
    said(&child.wait_with_output().unwrap())
}

/// `up` in a terminal, then a command in which CODE stands for what it printed.
fn after_asking(sandbox: &Sandbox, command: &str) -> Said {
    let script = format!(
        "code=$({PDEV} up 2>&1 | sed -n 's/.*identity approve \\([a-z0-9-]*\\).*/\\1/p' | head -n 1); echo \"code <$code>\"; {command}"
    );
    ended(terminal(sandbox, &script, &["to approve: ", "shop-dev"]))
}

#[test]
fn who_asked_cannot_approve_by_any_way() {
    let sandbox = stage();
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    let driver = driver.display();
    let ways = [
        (format!("{PDEV} identity approve $code"), "the request came from this terminal"),
        (
            format!("python3 {driver} \"{PDEV} identity approve $code\" 'to approve: ' shop-dev"),
            "this one was started by what asked",
        ),
        (
            format!("setsid python3 {driver} \"{PDEV} identity approve $code\" 'to approve: ' shop-dev"),
            "started by what asked",
        ),
        (format!("echo shop-dev | {PDEV} identity approve $code"), "the standard input is no terminal"),
    ];
    for (way, refusal) in ways {
        let said = after_asking(&sandbox, &way);
        assert!(said.all().contains(refusal), "{way}: {}", said.all());
        assert!(sandbox.pdev(&["identity", "approvals", "--json"]).ok().json().as_array().unwrap().is_empty(), "{way}");
    }
    // Not by the socket either, which asks for no terminal.
    let socket = sandbox.path("run").join("agent.sock");
    let by_hand = format!("curl -s --unix-socket {} -X POST http://pdev/v1/approvals/$code", socket.display());
    let said = after_asking(&sandbox, &by_hand);
    assert!(said.all().contains("not_by_the_asker"), "{}", said.all());
    sandbox.pdev(&["audit"]).ok().says("not_by_the_asker");
    // What waits can be read by whoever shows it; a look at the plan asks nobody, and so makes nobody an asker.
    let waiting = format!("curl -s --unix-socket {} http://pdev/v1/approvals/waiting", socket.display());
    let said = after_asking(&sandbox, &waiting);
    let own = sandbox.project().canonicalize().unwrap();
    assert!(said.all().contains(&code_in(&said)) && said.all().contains(own.to_str().unwrap()), "{}", said.all());
    let plan = sandbox.pdev(&["plan"]).ok().says("`pdev up` asks for it");
    assert!(!plan.all().contains("identity approve"), "{}", plan.all());
}

#[test]
fn a_person_in_another_terminal_approves_once_and_takes_it_back() {
    let sandbox = stage();
    let fifo = sandbox.path("code");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Open before the request: what is opened later could have been opened by the asker.
    let approving = format!("read code < {}; {PDEV} identity approve $code", fifo.display());
    let person = terminal(&sandbox, &approving, &["to approve: ", "shop-dev"]);
    let asked = after_asking(&sandbox, &format!("echo $code > {}", fifo.display()));
    let said = ended(person);
    assert!(
        said.all().contains("would act as shop-dev") && said.all().contains("approved;"),
        "{} {}",
        asked.all(),
        said.all()
    );
    let again = ended(terminal(&sandbox, &format!("{PDEV} identity approve {}", code_in(&asked)), &[]));
    assert!(again.all().contains("there is no request"), "a code opens one door once: {}", again.all());
    let up = sandbox.pdev(&["up"]).ok();
    assert!(!up.all().contains("without the identity"), "{}", up.all());
    assert_eq!(unit(&sandbox.status(&sandbox.project()), "web")["identity"], "shop-dev");
    sandbox.pdev(&["identity", "approvals"]).ok().says("shop-dev").says("web");
    sandbox.pdev(&["audit"]).ok().says("approved");
    // What the identity is has changed: that was not approved.
    identities(&sandbox, "[shop-dev]\nsource = \"exec\"\ncommand = [\"true\"]\n");
    sandbox.pdev(&["up"]).ok().says("nobody has approved");
    sandbox.pdev(&["identity", "revoke", "shop-dev", "--service", "other"]).fails_with(4).says("nothing approved fits");
    sandbox.pdev(&["identity", "revoke", "shop-dev"]).ok().says("1 approval taken back");
}

fn code_in(said: &Said) -> String {
    let all = said.all();
    let (_, rest) = all.split_once("code <").unwrap_or_else(|| panic!("{all}"));
    rest.split('>').next().unwrap_or_default().to_owned()
}
