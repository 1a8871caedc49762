//! Identities in the user's configuration: add, list, import from other tools, remove.

use std::fs;

use crate::credential_formats::write_identities;
use crate::sandbox::{Sandbox, find_unit};

#[test]
fn identities_are_added_listed_and_removed() {
    let sandbox = Sandbox::without_docker();
    let file = sandbox.path("home/.config/pdev/identities.toml");
    sandbox.pdev(&["identity"]).ok().prints("no identities; `pdev identity import`");
    let add = ["identity", "add", "shop-dev", "--source", "oidc", "issuer=https://login.example.org"];
    sandbox.pdev(&add).fails_with(2).prints("`shop-dev` has no `client_id`").prints("try: Add `client_id = ...`");
    assert!(!file.exists());
    sandbox.pdev(&[&add[..], &["client_id=pdev", "scopes=openid,offline_access"]].concat()).ok();
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.contains("scopes = [\"openid\", \"offline_access\"]"), "{written}");
    sandbox.pdev(&["identity"]).ok().prints("shop-dev  oidc    https://login.example.org");
    assert_eq!(sandbox.pdev(&["identity", "--json"]).ok().json()[0]["needs_login"], true);
    sandbox.pdev(&["identity", "add", "x", "--source", "odic"]).fails_with(2).prints("'oidc'");
    sandbox.pdev(&["identity", "rm", "shop-dve"]).fails_with(4).prints("Did you mean `shop-dev`?");
    fs::write(&file, format!("{written}# kept\n[wrong]\nsource = \"exec\"\n")).unwrap();
    sandbox.pdev(&["identity"]).fails_with(2).prints("identities.toml:7: `wrong` has no `command`").prints("shop-dev");
    sandbox.pdev(&["identity", "rm", "shop-dev"]).ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), "# kept\n[wrong]\nsource = \"exec\"\n");
}

#[test]
fn identities_of_other_tools_are_imported() {
    let sandbox = Sandbox::without_docker();
    let home = |path: &str, text: &str| {
        let path = sandbox.path("home").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    home(
        ".aws/config",
        "[profile admin]\nrole_arn = arn:aws:iam::1:role/a\nsource_profile = dev\n[profile dev]\nsso_session = corp\n\
         sso_account_id = 1\nsso_role_name = Dev\n[sso-session corp]\nsso_start_url = https://c.awsapps.com/start\nsso_region = eu-west-1\n",
    );
    home(".config/gcloud/configurations/config_work", "[core]\naccount = a@example.org\n");
    home(
        ".kube/config",
        "apiVersion: v1\nkind: Config\nusers:\n- name: eks\n  user:\n    exec:\n      command: aws\n      args: [eks, get-token]\n\
         - name: cert\n  user: {client-key-data: canary-77}\n",
    );
    sandbox.pdev(&["identity", "import", "--dry-run"]).ok().prints("would add `admin` from aws's profile admin");
    assert!(!sandbox.path("home/.config/pdev/identities.toml").exists());
    let output = sandbox
        .pdev(&["identity", "import"])
        .ok()
        .prints("added `eks` from kubectl's user eks")
        .prints("left out kubectl's user cert");
    assert!(!output.transcript().contains("canary-77"));
    let names: Vec<String> = sandbox
        .pdev(&["identity", "--json"])
        .ok()
        .json()
        .as_array()
        .unwrap()
        .iter()
        .map(|identity| identity["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["admin", "dev", "eks", "gcloud-work"]);
    sandbox.pdev(&["identity", "import", "aws"]).ok().prints("there is an identity `dev` already");
}

#[test]
fn up_warns_when_service_identity_is_unavailable() {
    let sandbox = Sandbox::without_docker();
    let manifest = "pdev: 1\napp: a\nservices:\n  web: { identity: shop-dev, health: none, process: { command: [sleep, '1000'] } }\n";
    sandbox.write("pdev.yaml", manifest);
    let without = "`web` runs without the identity `shop-dev`: ";
    sandbox
        .pdev(&["up"])
        .ok()
        .prints(&format!("{without}there is no identity `shop-dev`. Create it with `pdev identity add"));
    let source = "source = \"exec\"\nask = \"never\"\ncommand = [\"false\"]\n";
    write_identities(&sandbox, "[shop-dev]\nsource = \"static\"\nkind = \"token\"\n");
    sandbox.pdev(&["up"]).ok().prints(&format!("{without}its configuration does not name the cloud of its token"));
    let token = "[shop-dev]\nsource = \"static\"\nask = \"never\"\nkind = \"token\"\ncloud = \"azure\"\n";
    write_identities(&sandbox, token);
    sandbox.pdev(&["up"]).ok().prints("`web` acts as `shop-dev`, which is not signed in: run `pdev login shop-dev`");
    sandbox.pdev(&["doctor"]).prints("`shop-dev`: no user is signed in").prints("Run `pdev login shop-dev` to sign in");
    write_identities(&sandbox, &format!("[shop-dev]\n{source}"));
    let up = sandbox.pdev(&["up"]).ok();
    assert!(!up.transcript().contains("without"), "{}", up.transcript());
    assert_eq!(find_unit(&sandbox.status(&sandbox.project()), "web")["identity"], "shop-dev");
}
