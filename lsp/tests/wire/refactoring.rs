//! All refactorings over the wire: where they are offered, and that they add no errors to the manifest.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::editor::{Editor, apply_edits, push_capabilities, split_cursor};

fn capabilities() -> Value {
    let mut capabilities = push_capabilities();
    capabilities["workspace"]["applyEdit"] = json!(true);
    capabilities["workspace"]["workspaceEdit"] =
        json!({ "documentChanges": true, "resourceOperations": ["create", "rename", "delete"] });
    capabilities
}

fn error_messages(found: &[Value]) -> Vec<String> {
    let errors = found.iter().filter(|diagnostic| diagnostic["severity"] == 1);
    errors.map(|diagnostic| diagnostic["message"].as_str().unwrap().to_owned()).collect()
}

async fn request_refactorings(editor: &mut Editor, fixture: &str) -> (String, Value) {
    let (text, position) = split_cursor(fixture);
    editor.open("pdev.yaml", &text).await;
    let range = json!({ "start": position, "end": position });
    let document = json!({ "uri": editor.uri("pdev.yaml") });
    let context = json!({ "diagnostics": [], "only": ["refactor"] });
    let params = json!({ "textDocument": document, "range": range, "context": context });
    (text, editor.request("textDocument/codeAction", params).await)
}

/// Applies both forms of a workspace edit. Writes new files to disk and returns the new text of the manifest.
fn apply_workspace_edit(editor: &Editor, text: &str, edit: &Value) -> String {
    let manifest_uri = editor.uri("pdev.yaml");
    if let Some(edits) = edit["changes"].get(&manifest_uri) {
        return apply_edits(text, edits.as_array().unwrap());
    }
    let mut changed = text.to_owned();
    for change in edit["documentChanges"].as_array().unwrap() {
        if change.get("kind").is_some() {
            continue;
        }
        let uri = change["textDocument"]["uri"].as_str().unwrap();
        let edits = change["edits"].as_array().unwrap();
        if uri == manifest_uri {
            changed = apply_edits(&changed, edits);
        } else {
            editor.write(uri.strip_prefix(&editor.uri("")).unwrap().trim_start_matches('/'), &apply_edits("", edits));
        }
    }
    changed
}

const TOP: &str = "pdev: 1\napp: { name: shop, owner: team-a }\n";
const WEB: &str = "  web: { image: \"w:1\", port: 80, env: { DB: \"${services.db.host}:${services.db.port}\" } }\n";

fn cases() -> Vec<(String, &'static str, &'static str)> {
    let with_web = |rest: &str| format!("{TOP}services:\n{WEB}{rest}");
    vec![
        (
            with_web(
                "  d$0b:\n    image: postgres:16-alpine # the data\n    port: 5432\n    env: { POSTGRES_DB: orders, POSTGRES_PASSWORD: x }\n",
            ),
            "Use the module `postgres@16`",
            "  web: { image: \"w:1\", port: 80, env: { DB: \"${resources.db.host}:${resources.db.port}\" } }\nresources:\n  # the data\n  db: { uses: postgres@16, with: { database: \"orders\" } }\n",
        ),
        (
            with_web("  d$0b: { image: \"redis:7\", port: 6379 }\nresources: { q: { uses: redis@7 } }\n"),
            "Use the module `redis@7`",
            "resources: { q: { uses: redis@7 }, db: redis@7 }\n",
        ),
        (
            with_web(
                "  d$0b:\n    image: nats:2\n    port: 4222\n    env:\n      A: \"say \\\"x\\\"\"\n    command: [-js, \"-m\", \"8222\"]\nvars: { a: b }\n",
            ),
            "Convert `db` to a module",
            "vars: { a: b }\nresources:\n  db: ./modules/db\n",
        ),
        (format!("{TOP}resources:\n  db: postg$0res@15\n"), "Upgrade `postgres@15`", "  db: postgres@17\n"),
        (
            format!("{TOP}resources:\n  db: {{ uses: \"postgres@15\", with: {{ data$0base: x }} }}\n"),
            "Upgrade `postgres@15`",
            "{ uses: \"postgres@17\", with",
        ),
        (
            format!(
                "{TOP}services:\n  web:\n    image: \"w:1\"\n    port: 80\n    e$0nv:\n      A: one\n      B: two\n"
            ),
            "into the environment `preview`",
            "    port: 80\nenvironments:\n  preview:\n    services:\n      web:\n        env:\n          A: one\n          B: two\n",
        ),
        (
            format!(
                "{TOP}services:\n  web: {{ image: \"w:1\", re$0plicas: 2, port: 80 }}\nenvironments:\n  local:\n    services: {{ web: {{ restart: never }} }}\n"
            ),
            "into the environment `local`",
            "  web: { image: \"w:1\", port: 80 }\nenvironments:\n  local:\n    services: { web: { restart: never, replicas: 2 } }\n",
        ),
        (
            format!(
                "{TOP}services:\n  web:\n    image: \"w:1\"\n    port: 80\n    si$0ze: {{ memory: 1Gi }}\nenvironments:\n  ci: {{ vars: {{ a: b }} }}\n  local:\n    vars: {{ a: c }}\n"
            ),
            "into the environment `local`",
            "  local:\n    vars: { a: c }\n    services:\n      web:\n        size: { memory: 1Gi }\n",
        ),
        (
            with_web("  a$0pi: { image: \"a:1\", port: 81 }\n").replace("${services.db.host}:${services.db.port}", "x"),
            "Add a route",
            "routes: [/api] }",
        ),
        (
            with_web("  a$0pi: { image: \"a:1\", port: 81 }\n").replace("${services.db.host}:${services.db.port}", "x"),
            "Add a health check",
            "health: /healthz }",
        ),
        (
            format!("{TOP}services:\n  a$0pi: {{ image: \"a:1\" }}\n"),
            "default of `size`",
            "size: { memory: 2Gi, pids: 2048 } }",
        ),
        (format!("{TOP}services:\n  a$0pi: {{ image: \"a:1\" }}\n"), "default of `restart`", "restart: on-failure }"),
        (
            format!("{TOP}services:\n  a$0pi: {{ image: \"a:1\" }}\n"),
            "default of `stop`",
            "stop: { signal: SIGTERM, grace: 10s } }",
        ),
        (format!("{TOP}services:\n  a$0pi: {{ image: \"a:1\" }}\n"), "default of `pull`", "pull: missing }"),
        (
            format!("{TOP}jobs:\n  seed:\n    image: \"a:1\"\n    command: [x]\n    env: {{ STRIPE_KEY: ab$0c }}\n"),
            "Read `STRIPE_KEY` from the secret",
            "STRIPE_KEY_FILE: \"${secrets.stripe-key.path}\" }\nsecrets:\n  stripe-key: { description: STRIPE_KEY }\n",
        ),
    ]
}

#[tokio::test]
async fn refactoring_introduces_no_errors() {
    for lines in ["\n", "\r\n"] {
        for (fixture, title, expected) in cases() {
            let mut editor = Editor::start(capabilities()).await;
            let (text, found) = request_refactorings(&mut editor, &fixture.replace('\n', lines)).await;
            let before = error_messages(&editor.published_diagnostics("pdev.yaml", 1).await);
            let action =
                found.as_array().unwrap().iter().find(|action| action["title"].as_str().unwrap().contains(title));
            let action = action.unwrap_or_else(|| panic!("no `{title}` for {fixture}: {found:#}"));
            let changed = apply_workspace_edit(&editor, &text, &action["edit"]);
            assert!(changed.replace("\r\n", "\n").contains(expected), "{title}: {changed}");
            assert_eq!(changed.matches('\n').count(), changed.matches(lines).count(), "{title}: {changed:?}");
            editor.replace("pdev.yaml", 2, &changed).await;
            let mut after = error_messages(&editor.published_diagnostics("pdev.yaml", 2).await);
            after.retain(|message| !before.contains(message));
            assert_eq!(after, Vec::<String>::new(), "{title}: {changed}");
        }
    }
}

#[tokio::test]
async fn unsafe_refactoring_is_not_offered() {
    let service = "  d$0b: { image: \"postgres:16\", port: 5432 }\n";
    for (top, rest) in [
        ("", "  web: { image: \"w:1\", port: 80, env: { A: \"${services.db.url}\" } }\n"),
        ("", ""),
        ("", "  web: { image: \"w:1\" }\njobs:\n  seed: { service: db, command: [x] }\n"),
        ("", "  web: { image: \"w:1\" }\nenvironments: { ci: { services: { db: { size: { memory: 1Gi } } } } }\n"),
        ("include: [other.yaml]\n", "  web: { image: \"w:1\" }\n"),
    ] {
        let mut editor = Editor::start(capabilities()).await;
        editor.write("other.yaml", "vars: { a: b }\n");
        let fixture = format!("pdev: 1\napp: shop\n{top}services:\n{service}{rest}");
        let (_, found) = request_refactorings(&mut editor, &fixture).await;
        let is_offered = found.to_string().contains("Use the module");
        assert!(!is_offered, "{fixture}");
    }
    // The folder of the module exists, or the client cannot create files.
    let fixture = format!("pdev: 1\napp: shop\nservices:\n  web: {{ image: \"w:1\" }}\n{service}");
    for (exists, client) in [(true, capabilities()), (false, push_capabilities())] {
        let mut editor = Editor::start(client).await;
        if exists {
            editor.write("modules/db/module.yaml", "module: db\n");
        }
        let (_, found) = request_refactorings(&mut editor, &fixture).await;
        assert!(!found.to_string().contains("to a module") && found.to_string().contains("Use the module"));
    }
}

/// The titles of the refactorings at the cursor.
async fn refactoring_titles(fixture: &str) -> String {
    let mut editor = Editor::start(capabilities()).await;
    let (_, found) = request_refactorings(&mut editor, fixture).await;
    let titles = found.as_array().unwrap().iter().map(|action| action["title"].as_str().unwrap());
    titles.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn refactoring_that_changes_shared_anchor_is_not_offered() {
    let with_anchor = |at_one: &str, at_two: &str, at_variable: &str| {
        format!(
            "{TOP}services:\n  o{at_one}ne: &base\n    image: \"w:1\"\n    env: &env\n      TOKEN: a{at_variable}bc\n  \
             t{at_two}wo:\n    <<: *base\n    port: 80\n"
        )
    };
    let on_anchor = refactoring_titles(&with_anchor("$0", "", "")).await;
    assert!(!on_anchor.contains("default of"), "{on_anchor}");
    let on_variable = refactoring_titles(&with_anchor("", "", "$0")).await;
    assert!(!on_variable.contains("secret"), "{on_variable}");
    // The unit that merges the anchor has its own entries, which no other unit shares.
    let on_user = refactoring_titles(&with_anchor("", "$0", "")).await;
    assert!(on_user.contains("default of `size`"), "{on_user}");
}

#[tokio::test]
async fn move_to_environment_takes_trailing_comments_along() {
    let mut editor = Editor::start(capabilities()).await;
    let fixture = format!("{TOP}services:\n  web:\n    image: \"w:1\"\n    si$0ze: {{ memory: 1Gi }} # enough\n");
    let (text, found) = request_refactorings(&mut editor, &fixture).await;
    let action = found.as_array().unwrap().iter().find(|action| action["kind"] == "refactor.extract").unwrap();
    let changed = apply_workspace_edit(&editor, &text, &action["edit"]);
    assert!(changed.contains("        size: { memory: 1Gi } # enough\n"), "{changed}");
}

#[tokio::test]
async fn secret_is_not_stored_if_manifest_edit_is_unsafe() {
    let mut editor = Editor::start(capabilities()).await;
    let text = format!(
        "{TOP}services:\n  one: {{ image: \"w:1\", env: &env {{ TOKEN: abc }} }}\n  two: {{ image: \"w:2\", env: *env }}\n"
    );
    editor.open("pdev.yaml", &text).await;
    let argument = json!({ "uri": editor.uri("pdev.yaml"), "unit": "one", "variable": "TOKEN" });
    let run = json!({ "command": "pdev.keep", "arguments": [argument] });
    let refused = editor.request_raw("workspace/executeCommand", run).await;
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains("without changing other parts"), "{message}");
    assert!(!editor.path("stored-secret-set-token").exists());
}

#[tokio::test]
async fn literal_of_manifest_in_flow_style_becomes_secret() {
    let mut editor = Editor::start(capabilities()).await;
    let fixture = "{ pdev: 1, app: shop, services: { web: { image: \"w:1\", env: { TOKEN: a$0bc } } } }\n";
    let (text, found) = request_refactorings(&mut editor, fixture).await;
    let action = found.as_array().unwrap().iter().find(|action| action["edit"].is_object()).unwrap();
    let changed = apply_workspace_edit(&editor, &text, &action["edit"]);
    assert!(changed.contains(", secrets: { token: { description: TOKEN } } }"), "{changed}");
}

#[tokio::test]
async fn refactoring_edits_are_resolved_on_demand() {
    let mut client = capabilities();
    client["textDocument"]["codeAction"] = json!({ "dataSupport": true, "resolveSupport": { "properties": ["edit"] } });
    let mut editor = Editor::start(client).await;
    let (_, found) =
        request_refactorings(&mut editor, &format!("{TOP}services:\n  a$0pi: {{ image: \"a:1\", port: 80 }}\n")).await;
    let all = found.as_array().unwrap();
    assert!(all.len() > 4 && all.iter().all(|action| action.get("edit").is_none()), "{found:#}");
    for action in all.clone() {
        let resolved = editor.request("codeAction/resolve", action).await;
        assert!(resolved["edit"].is_object(), "{resolved}");
    }
}

#[tokio::test]
async fn literal_is_stored_in_vault_before_manifest_edit() {
    let bin = tempfile::tempdir().unwrap();
    let program = bin.path().join("pdev");
    std::fs::write(
        &program,
        "#!/bin/sh\n[ \"$3\" = refused ] && { echo 'the vault is locked' >&2; exit 1; }\ncat > \"stored-$1-$2-$3\"\n",
    )
    .unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    lsp::vault::set_program(program);
    let mut editor = Editor::start(capabilities()).await;
    let fixture =
        format!("{TOP}services:\n  api: {{ image: \"a:1\", env: {{ STRIPE_KEY: sk_l$0ive, REFUSED: x }} }}\n");
    let (text, found) = request_refactorings(&mut editor, &fixture).await;
    let action = found.as_array().unwrap().iter().find(|action| action["command"]["command"] == "pdev.keep").unwrap();
    assert!(!action.to_string().contains("sk_live"), "{action}");
    let run = json!({ "command": "pdev.keep", "arguments": action["command"]["arguments"] });
    assert_eq!(editor.request("workspace/executeCommand", run).await, json!({ "secret": "stripe-key" }));
    assert_eq!(std::fs::read_to_string(editor.path("stored-secret-set-stripe-key")).unwrap(), "sk_live");
    let edit = editor.next_message("workspace/applyEdit").await["edit"].clone();
    let changed = apply_workspace_edit(&editor, &text, &edit);
    assert!(changed.contains("STRIPE_KEY_FILE: \"${secrets.stripe-key.path}\"") && !changed.contains("sk_live"));
    // If the vault refuses the value, the manifest does not change.
    let argument = json!({ "uri": editor.uri("pdev.yaml"), "unit": "api", "variable": "REFUSED" });
    let run = json!({ "command": "pdev.keep", "arguments": [argument] });
    let refused = editor.request_raw("workspace/executeCommand", run).await;
    assert_eq!(refused["error"]["message"], "the vault is locked");
    assert!(editor.unread_messages.iter().all(|message| message["method"] != "workspace/applyEdit"));
}
