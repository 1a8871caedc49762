//! What asks cannot give itself the approval: by a terminal that it drives, by what it starts, by a code that was used, by
//! being quick. Each for both words of a person: `session allow` and `identity approve`.

use std::fs;
use std::path::Path;
use std::process::Child;
use std::time::Duration;

use crate::approvals::{ended, terminal};
use crate::outlets::identities;
use crate::sandbox::{Said, Sandbox, eventually};

const PDEV: &str = env!("CARGO_BIN_EXE_pdev");
const NOTHING: &str = "coding agent's session, which approves nothing";
/// What a person would type, with the answer to its question.
const WORDS: [(&str, &str); 2] = [("session allow $raise", "prod"), ("identity approve $first", "shop-dev")];

/// `prod` is production; `web` wants to act as `shop-dev`, which nobody has approved; `climber` runs what a test writes.
fn stage() -> Sandbox {
    let sandbox = Sandbox::bare();
    let climb = format!(
        "export HOME={} PDEV_SOCKET_DIR={}\nuntil [ -e go ]; do sleep 0.05; done\n. ./go\necho > went\nexec sleep 1000\n",
        sandbox.path("home").display(),
        sandbox.path("run").display()
    );
    sandbox.write("climb.sh", &climb);
    let manifest = "pdev: 1\napp: a\nidentities: { shop-dev: x }\nservices:\n  web: { identity: shop-dev, health: none, \
                    process: { command: [sleep, '1000'] } }\n  climber: { health: none, process: { command: [sh, climb.sh] } }\n";
    sandbox.write("pdev.yaml", manifest);
    let prod = "[prod]\nsource = \"exec\"\ncommand = [\"echo\", '{\"token\":\"canary-tok\"}']\nproduction = true\n";
    identities(&sandbox, &format!("{prod}[shop-dev]\nsource = \"exec\"\ncommand = [\"false\"]\n"));
    sandbox
}

/// A session in a terminal of its own, which asks for both and then does something with `$raise` and `$first`.
fn asks(sandbox: &Sandbox, then: &str, answer: &str) -> Child {
    let script = sandbox.path("asks.sh");
    let code = |command: &str, word: &str| {
        format!("$({PDEV} {command} 2>&1 | sed -n 's/.*{word} \\([a-z0-9-]*\\).*/\\1/p' | head -n 1)")
    };
    let (raise, first) = (code("credential token prod", "session allow"), code("up", "identity approve"));
    fs::write(&script, format!("raise={raise}\nfirst={first}\necho \"codes <$raise> <$first>\"\n{then}\n")).unwrap();
    let command = format!("{PDEV} session run --name robot -- sh {}", script.display());
    terminal(sandbox, &command, &["to approve: ", answer])
}

/// A terminal that the asker holds the other end of, and types in.
fn driven((words, answer): (&str, &str)) -> String {
    let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/credentials/terminal.py");
    format!("python3 {} \"{PDEV} {words}\" 'to approve: ' {answer}", driver.display())
}

/// Without the program, at the agent's socket.
fn by_hand(sandbox: &Sandbox, code: &str) -> String {
    let socket = sandbox.path("run").join("agent.sock");
    format!("curl -s --unix-socket {} -X POST http://pdev/v1/approvals/{code}", socket.display())
}

fn approved(sandbox: &Sandbox) -> usize {
    sandbox.pdev(&["identity", "approvals", "--json"]).ok().json().as_array().unwrap().len()
}

#[track_caller]
fn refused(sandbox: &Sandbox, way: &str, said: &Said, refusal: &str, times: usize) {
    let all = said.all();
    assert!(!all.contains("<>"), "it was asked for: {all}");
    assert_eq!(all.matches(refusal).count(), times, "{way}: {all}");
    assert!(!all.contains("canary"), "{way}: {all}");
    assert_eq!(approved(sandbox), 0, "{way}");
}

#[test]
fn by_a_driven_pty() {
    let sandbox = stage();
    for words in WORDS {
        let way = driven(words);
        refused(&sandbox, &way, &ended(asks(&sandbox, &way, words.1)), NOTHING, 1);
    }
    sandbox.pdev(&["audit"]).ok().says("not_by_the_asker");
}

#[test]
fn by_a_descendant() {
    let sandbox = stage();
    for words in WORDS {
        let child = format!("{PDEV} {}", words.0);
        let let_go = format!(
            "rm -f out; ( ( setsid {} > out 2>&1 & ) & ); until grep -q error out; do sleep 0.05; done; cat out",
            driven(words)
        );
        for way in [child, let_go] {
            refused(&sandbox, &way, &ended(asks(&sandbox, &way, words.1)), NOTHING, 1);
        }
    }
    let both = format!("{}; {}", by_hand(&sandbox, "$raise"), by_hand(&sandbox, "$first"));
    refused(&sandbox, &both, &ended(asks(&sandbox, &both, "")), "not_by_the_asker", 2);
}

/// A service is a child of its keeper, which is no child of the session; nor is what `exec` starts there.
#[test]
fn by_a_service_of_its_own_preview() {
    let sandbox = stage();
    let [raise, first] = WORDS.map(driven);
    let climb = format!("{raise}\n{first}\n{PDEV} credential token prod\n{PDEV} session run -- true\n");
    sandbox.write("climbing.sh", &climb);
    let codes = "(echo \"raise=$raise first=$first\"; echo '. ./climbing.sh > out 2>&1') > go.new; mv go.new go";
    let through = format!("{codes}; until [ -e went ]; do sleep 0.05; done; cat out");
    let said = ended(asks(&sandbox, &through, ""));
    refused(&sandbox, "a service", &said, NOTHING, 2);
    assert!(
        said.all().contains("`prod` is production") && said.all().contains("has none of its own"),
        "{}",
        said.all()
    );

    let place = format!("HOME={} PDEV_SOCKET_DIR={}", sandbox.path("home").display(), sandbox.path("run").display());
    let through = format!("{PDEV} exec climber -- env {place} raise=$raise first=$first sh climbing.sh");
    let said = ended(asks(&sandbox, &through, ""));
    refused(&sandbox, "exec", &said, NOTHING, 2);
    assert!(
        said.all().contains("`prod` is production") && said.all().contains("has none of its own"),
        "{}",
        said.all()
    );
    // After the session nothing of it is taken for a person either.
    let ask = format!("{place} {PDEV} credential token prod");
    sandbox.pdev(&["exec", "climber", "--", "sh", "-c", &ask]).says("is over");
}

/// A person in another terminal, who reads the codes from a pipe that was there before.
fn person(sandbox: &Sandbox, command: &str) -> Child {
    let fifo = sandbox.path("codes");
    if !fifo.exists() {
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    }
    terminal(sandbox, &format!("read raise first < {}; {command}", fifo.display()), &["to approve: ", "prod"])
}

#[test]
fn by_a_replay() {
    let sandbox = stage();
    let (done, revoked) = (sandbox.path("allowed"), sandbox.path("revoked"));
    let approving = person(&sandbox, &format!("{PDEV} session allow $raise; echo > {}", done.display()));
    let until = |path: &Path| format!("until [ -e {} ]; do sleep 0.05; done", path.display());
    let then = format!(
        "echo $raise $first > {}; {}; {PDEV} credential token prod; echo revoked; {}; {}; {PDEV} session allow $raise; {PDEV} credential token prod",
        sandbox.path("codes").display(),
        until(&done),
        until(&revoked),
        by_hand(&sandbox, "$raise"),
    );
    let asked = asks(&sandbox, &then, "");
    ended(approving).says("allowed to the session `robot`");
    eventually("the session may", Duration::from_secs(20), || sandbox.pdev(&["audit"]).ok().all().contains("issued"));
    sandbox.pdev(&["identity", "revoke", "prod"]).ok();
    fs::write(&revoked, "").unwrap();
    let said = ended(asked);
    let (before, after) = said.all().split_once("revoked").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(before.contains("canary-tok"), "a person's word counts: {before}");
    assert!(after.contains("not_by_the_asker") && after.contains("`prod` is production"), "{after}");
    assert!(!after.contains("canary"), "{after}");
    assert_eq!(approved(&sandbox), 0);
    // Nor does a code that was used open the door to another session, whoever types it.
    let code = said.all().split_once("codes <").unwrap().1.split_once('>').unwrap().0.to_owned();
    ended(terminal(&sandbox, &format!("{PDEV} session allow {code}"), &[])).says("there is no request");
}

#[test]
fn by_a_race() {
    let sandbox = stage();
    // Two persons and eight of the session's own programs, all at once.
    let allow = format!("{PDEV} session allow $raise & {PDEV} session allow $raise; wait");
    let approving =
        person(&sandbox, &allow.replace(&format!("{PDEV} session allow $raise"), &by_hand(&sandbox, "$raise")));
    let own = by_hand(&sandbox, "$raise");
    let crowd = vec![format!("{own} &"); 8].join(" ");
    let then = format!("echo $raise $first > {} & {crowd} wait", sandbox.path("codes").display());
    let said = ended(asks(&sandbox, &then, ""));
    let persons = ended(approving);
    let refusals = said.all().matches("not_by_the_asker").count();
    assert_eq!(refusals, 8, "{}", said.all());
    let won = persons.all().matches("\"at\":").count();
    assert_eq!(won, 1, "{}", persons.all());
    assert_eq!(approved(&sandbox), 1);
    let audit = sandbox.pdev(&["audit", "--json"]).ok().all();
    assert_eq!(audit.matches("\"not_approved\"").count(), 9, "{audit}");
    assert_eq!(audit.matches("\"approved\"").count(), 1, "{audit}");
}
