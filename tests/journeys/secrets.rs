//! `pdev secret`: secrets are sealed with a real keyring or a passphrase, delivered at `up`, and never shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::keyring::Keyring;
use crate::sandbox::{CommandOutput, Sandbox, run_with_timeout, wait_until};

const MANIFEST: &str = "pdev: 1\napp: hush\nsecrets: { token: { description: t } }\nservices:\n  web:\n    health: none\n    \
    env: { TOKEN_FILE: '${secrets.token.path}' }\n    process: { command: [sh, -c, 'cat $TOKEN_FILE > seen.txt; exec sleep 1000'] }\n";

fn pdev(sandbox: &Sandbox, environment: &[(&str, &str)], arguments: &[&str], input: Option<&str>) -> CommandOutput {
    let mut command: Command = sandbox.command(&sandbox.project(), arguments);
    command.envs(environment.iter().copied());
    if let Some(input) = input {
        let path = sandbox.path("input");
        fs::write(&path, input).unwrap();
        command.stdin(fs::File::open(&path).unwrap());
    } else {
        command.stdin(Stdio::null());
    }
    run_with_timeout(command, Duration::from_secs(60))
}

fn find_canary_on_disk(sandbox: &Sandbox, canary: &str) -> String {
    let mut grep = Command::new("grep");
    grep.args(["-rls", canary]).arg(sandbox.path("home")).arg(sandbox.path("run"));
    String::from_utf8(grep.output().unwrap().stdout).unwrap()
}

#[test]
fn keyring_secret_reaches_its_service() {
    let sandbox = Sandbox::without_docker();
    let Some(mut keyring) = Keyring::start("secrets in the desktop's keyring", &sandbox) else { return };
    sandbox.write("pdev.yaml", MANIFEST);
    let address = keyring.address.clone();
    let bus = [("DBUS_SESSION_BUS_ADDRESS", address.as_str())];
    pdev(&sandbox, &bus, &["secret", "set", "token"], Some("canary-5512\n")).ok().prints("stored `token`");
    pdev(&sandbox, &bus, &["secret", "list"], None).ok().prints("token");
    pdev(&sandbox, &bus, &["vault"], None).ok().prints("opens with the desktop's keyring").prints("1 sealed item");
    assert_eq!(find_canary_on_disk(&sandbox, "canary-5512"), "");

    let vault = sandbox.path("home/.local/share/pdev/credentials/vault");
    let header: serde_json::Value = serde_json::from_slice(&fs::read(vault.join("vault.json")).unwrap()).unwrap();
    let key = keyring.lookup(&["service", "pdev", "username", header["id"].as_str().unwrap()]);
    assert_eq!(key.len(), 44, "the key is not 32 bytes in base64, which other programs expect");
    assert_eq!(find_canary_on_disk(&sandbox, &key), "");

    let up = pdev(&sandbox, &bus, &["up"], None).ok();
    let received = sandbox.project().join("seen.txt");
    wait_until("the program has read its secret", Duration::from_secs(10), || {
        fs::read_to_string(&received).is_ok_and(|text| text == "canary-5512")
    });
    assert!(!up.transcript().contains("canary-5512"));
    pdev(&sandbox, &bus, &["down"], None).ok();
    assert_eq!(find_canary_on_disk(&sandbox, "canary-5512"), "");

    keyring.lock();
    let locked = pdev(&sandbox, &bus, &["up"], None).fails_with(1).prints("is locked").prints("Unlock it");
    assert!(!locked.transcript().contains("log in again"), "{}", locked.transcript());
    let problem = pdev(&sandbox, &bus, &["vault", "--json"], None).fails_with(1).json();
    assert_eq!(problem["code"], "keyring_locked");
    keyring.unlock();
    pdev(&sandbox, &bus, &["vault"], None).ok();

    keyring.set_frozen(true);
    pdev(&sandbox, &bus, &["vault"], None).fails_with(1).prints("did not answer within 5 s");
    keyring.set_frozen(false);
    pdev(&sandbox, &bus, &["vault"], None).ok();
    keyring.stop();
    pdev(&sandbox, &bus, &["vault", "--json"], None).fails_with(1).prints("keyring_absent");
    // Names are not sealed, so removing a secret needs no keyring.
    pdev(&sandbox, &bus, &["secret", "rm", "token"], None).ok();
    pdev(&sandbox, &bus, &["secret", "rm", "token"], None).fails_with(4).prints("no secret `token`");
}

#[test]
fn passphrase_file_replaces_keyring() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", MANIFEST);
    sandbox.git_init(&sandbox.project());
    pdev(&sandbox, &[], &["secret", "set", "token"], Some("canary-9"))
        .fails_with(1)
        .prints("there is no keyring to hold the vault's key")
        .prints("PDEV_VAULT_PASSPHRASE_FILE");
    let passphrase = sandbox.path("passphrase");
    fs::write(&passphrase, "a long enough passphrase\n").unwrap();
    let by_file = [("PDEV_VAULT_PASSPHRASE_FILE", passphrase.to_str().unwrap())];
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o644)).unwrap();
    pdev(&sandbox, &by_file, &["secret", "set", "token"], Some("canary-9"))
        .fails_with(1)
        .prints("can be read by others");
    fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
    pdev(&sandbox, &by_file, &["secret", "set", "token"], Some("")).fails_with(2).prints("is empty");
    pdev(&sandbox, &by_file, &["secret", "set", "Token"], Some("x"))
        .fails_with(2)
        .prints("is not a valid name of a secret");
    sandbox.write(".env", "TOKEN='canary-9'\n# c\nOTHER=x\nwrong line\n");
    pdev(&sandbox, &by_file, &["secret", "import", ".env"], None)
        .ok()
        .prints("stored 2 secrets: token, other")
        .prints(".env:4: left out");
    pdev(&sandbox, &[], &["secret", "list"], None).ok().prints("other").prints("not in the manifest");

    // Another worktree of the repository has the same secrets; another repository of the same app does not.
    let worktree = sandbox.add_worktree("feature", "wt");
    let list = sandbox.pdev_in(&worktree, &["secret", "list", "--json"]).ok().json();
    assert_eq!(list, serde_json::json!(["other", "token"]));
    let stranger = sandbox.path("stranger");
    fs::create_dir(&stranger).unwrap();
    fs::write(stranger.join("pdev.yaml"), MANIFEST).unwrap();
    sandbox
        .pdev_in(&stranger, &["up"])
        .fails_with(1)
        .prints("no value for the secret `token`")
        .prints("pdev secret set token");

    // The agent derives the key once, so only the next agent detects the changed passphrase.
    let mut up = sandbox.command(&worktree, &["up"]);
    up.env("PDEV_VAULT_PASSPHRASE_FILE", &passphrase);
    run_with_timeout(up, Duration::from_secs(60)).ok();
    let received = worktree.join("seen.txt");
    wait_until("the program has read its secret", Duration::from_secs(10), || {
        fs::read_to_string(&received).is_ok_and(|text| text == "canary-9")
    });
    sandbox.pdev_in(&worktree, &["down"]).ok();
    assert_eq!(find_canary_on_disk(&sandbox, "canary-9"), "");
    sandbox.pdev(&["agent", "stop"]).ok();
    fs::write(&passphrase, "quite another passphrase\n").unwrap();
    pdev(&sandbox, &[], &["up"], None).fails_with(1).prints("is not this vault's").prints("Restore the old passphrase");
    pdev(&sandbox, &[], &["vault", "reset"], None).ok().prints("set aside, still sealed");
    pdev(&sandbox, &[], &["vault"], None).ok().prints("no vault yet");
}

/// Other programs can read the stored key: Python's keyring by its own attributes, others by the item's attributes.
#[test]
fn pythons_keyring_reads_what_pdev_stores() {
    let name = "Python's keyring as another reader";
    let python = std::env::var_os("PDEV_TEST_PYTHON").unwrap_or_else(|| "python3".into());
    let has = Command::new(&python).args(["-c", "import keyring, secretstorage"]).stderr(Stdio::null()).status();
    if !has.is_ok_and(|status| status.success()) {
        println!("skipped: {name}: python has no keyring with secretstorage");
        return;
    }
    let sandbox = Sandbox::without_docker();
    let Some(keyring) = Keyring::start(name, &sandbox) else { return };
    sandbox.write("pdev.yaml", MANIFEST);
    let bus = [("DBUS_SESSION_BUS_ADDRESS", keyring.address.as_str())];
    pdev(&sandbox, &bus, &["secret", "set", "token"], Some("canary-5513\n")).ok();
    let vault = sandbox.path("home/.local/share/pdev/credentials/vault");
    let header: serde_json::Value = serde_json::from_slice(&fs::read(vault.join("vault.json")).unwrap()).unwrap();
    let mut reader = Command::new(&python);
    reader.args([
        "-c",
        "import sys, secretstorage\n\
         from keyring.backends import SecretService\n\
         key = SecretService.Keyring().get_password('pdev', sys.argv[1])\n\
         found = list(secretstorage.search_items(secretstorage.dbus_init(), {'application': 'pdev'}))\n\
         print(len(key), len(found), found[0].get_label(), found[0].get_secret().decode() == key)",
        header["id"].as_str().unwrap(),
    ]);
    reader.env("DBUS_SESSION_BUS_ADDRESS", &keyring.address).env("HOME", sandbox.path("home"));
    let output = run_with_timeout(reader, Duration::from_secs(60)).ok();
    assert_eq!(output.out, "44 1 pdev: key of the credential vault True\n", "{}", output.transcript());
}

/// A changed value restarts the units that use it, unless the manifest says that they read it again themselves.
#[test]
fn changed_secret_restarts_the_units_that_use_it() {
    let sandbox = Sandbox::without_docker();
    let program = |name: &str| format!("process: {{ command: [sh, -c, 'cat $FILE >> {name}.txt; exec sleep 1000'] }}");
    sandbox.write(
        "pdev.yaml",
        &format!(
            "pdev: 1\napp: hush\nsecrets: {{ token: {{}}, live: {{ on_change: none }} }}\nservices:\n  web: {{ health: none, env: {{ FILE: '${{secrets.token.path}}' }}, {} }}\n  idle: {{ health: none, env: {{ FILE: '${{secrets.live.path}}' }}, {} }}\njobs:\n  seed: {{ env: {{ FILE: '${{secrets.token.path}}' }}, process: {{ command: [sh, -c, 'echo run >> seed.txt'] }} }}\n",
            program("web"),
            program("idle")
        ),
    );
    let run = |token: &str, live: &str, arguments: &[&str]| {
        pdev(&sandbox, &[("PDEV_SECRET_TOKEN", token), ("PDEV_SECRET_LIVE", live)], arguments, None).ok()
    };
    let seen = |name: &str| fs::read_to_string(sandbox.project().join(name)).unwrap_or_default();
    run("canary-1;", "a;", &["up"]);
    wait_until("both have read it", Duration::from_secs(10), || {
        seen("web.txt") == "canary-1;" && seen("idle.txt") == "a;"
    });
    run("canary-1;", "a;", &["up"]).prints("nothing changed");
    run("canary-1;", "a;", &["plan"]).prints("nothing to do");

    let plan = run("canary-2;", "b;", &["plan"]).prints("changed: secrets.token");
    assert!(!plan.out.contains("secrets.live") && !plan.out.contains("canary"), "{}", plan.out);
    assert_eq!(seen("web.txt"), "canary-1;", "a plan changes nothing");
    run("canary-2;", "b;", &["up"]);
    wait_until("it has the new value", Duration::from_secs(10), || seen("web.txt") == "canary-1;canary-2;");
    assert_eq!((seen("idle.txt"), seen("seed.txt")), ("a;".to_owned(), "run\n".to_owned()));
    run("canary-2;", "b;", &["up"]).prints("nothing changed");
    // The agent remembers what the units were started with.
    sandbox.pdev(&["agent", "stop"]).ok();
    run("canary-2;", "b;", &["up"]).prints("nothing changed");
    run("canary-3;", "b;", &["up"]);
    wait_until("it has the new value", Duration::from_secs(10), || seen("web.txt").ends_with("canary-3;"));
    assert_eq!(find_canary_on_disk(&sandbox, "canary-3"), "", "no file contains the value");
}

#[test]
fn changed_secret_of_the_vault_is_planned() {
    let sandbox = Sandbox::without_docker();
    sandbox.write("pdev.yaml", MANIFEST);
    let passphrase = sandbox.path("passphrase");
    fs::write(&passphrase, "correct horse").unwrap();
    fs::set_permissions(&passphrase, PermissionsExt::from_mode(0o600)).unwrap();
    let environment = [("PDEV_VAULT", "passphrase"), ("PDEV_VAULT_PASSPHRASE_FILE", passphrase.to_str().unwrap())];
    pdev(&sandbox, &environment, &["secret", "set", "token"], Some("first")).ok().prints("restarts the units");
    pdev(&sandbox, &environment, &["up"], None).ok();
    pdev(&sandbox, &environment, &["plan"], None).ok().prints("nothing to do");
    pdev(&sandbox, &environment, &["secret", "set", "token"], Some("second")).ok();
    pdev(&sandbox, &environment, &["plan"], None).ok().prints("changed: secrets.token");
    pdev(&sandbox, &environment, &["up"], None).ok();
    let received = sandbox.project().join("seen.txt");
    wait_until("the program has read the new value", Duration::from_secs(10), || {
        fs::read_to_string(&received).is_ok_and(|text| text == "second")
    });
}
