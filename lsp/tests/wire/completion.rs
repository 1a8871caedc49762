//! Completion and hover over the wire: the items at the cursor of a fixture, and the text after the user accepts an
//! item.

use serde_json::{Value, json};

use crate::editor::{Editor, apply_edits, push_capabilities, split_cursor};

const TOP: &str = "pdev: 1\napp: shop\nsecrets: { stripe: Stripe test key }\nidentities: { uploads: aws }\nvars: { tag: \"1\" }\n\
    resources:\n  db: { uses: postgres@16 }\n";

fn as_is_capabilities() -> Value {
    let mut capabilities = push_capabilities();
    capabilities["textDocument"]["completion"]["completionItem"]["insertTextModeSupport"] =
        json!({ "valueSet": [1, 2] });
    capabilities
}

struct CompletionResult {
    editor: Editor,
    text: String,
    items: Vec<Value>,
}

async fn request_completion(fixture: &str, capabilities: Value) -> CompletionResult {
    let (text, position) = split_cursor(fixture);
    let mut editor = Editor::start(capabilities).await;
    editor.open("pdev.yaml", &text).await;
    editor.published_diagnostics("pdev.yaml", 1).await;
    let uri = editor.uri("pdev.yaml");
    let params = json!({ "textDocument": { "uri": uri }, "position": position });
    let answer = editor.request("textDocument/completion", params).await;
    let items = answer["items"].as_array().unwrap().clone();
    CompletionResult { editor, text, items }
}

impl CompletionResult {
    fn labels(&self) -> Vec<&str> {
        self.items.iter().map(|item| item["label"].as_str().unwrap()).collect()
    }

    fn item(&self, label: &str) -> &Value {
        let found = self.items.iter().find(|item| item["label"] == label);
        found.unwrap_or_else(|| panic!("no `{label}` in {:?} at {}", self.labels(), self.text))
    }

    fn text_after_accepting(&self, label: &str) -> String {
        apply_edits(&self.text, std::slice::from_ref(&self.item(label)["textEdit"]))
    }
}

#[tokio::test]
async fn completion_offers_expected_labels() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        ("$0", &["pdev", "app", "services", "pdev.yaml"], &["image"]),
        (
            "services:\n  web:\n    image: x\n    $0\n    port: 1\n",
            &["health", "env", "routes"],
            &["image", "port", "services"],
        ),
        ("services:\n  web: { image: x, $0 }\n", &["health"], &["image"]),
        ("services:\n  web:\n    res$0\n", &["restart"], &[]),
        ("services:\n  web:\n    restart: $0\n", &["on-failure", "always", "never"], &["image"]),
        ("services:\n  web:\n    needs:\n      $0\n  api: { image: y }\n", &["api", "db"], &["web"]),
        ("services:\n  web:\n    needs: [$0]\n  api: { image: y }\n", &["api", "db"], &["web"]),
        ("services:\n  web:\n    needs:\n    - $0\n  api: { image: y }\n", &["api", "db"], &["web"]),
        ("services:\n  web:\n    needs: { db: $0 }\n", &["started", "healthy"], &["db"]),
        ("services:\n  web:\n    watch:\n      - path: .\n        $0\n", &["action", "target"], &["path", "image"]),
        ("services:\n  web:\n    watch:\n      - $0\n", &["path", "action"], &["image"]),
        ("services:\n  web:\n    env:\n      A: \"${$0\"\n", &["resources", "services", "secrets", "vars", "git"], &[]),
        ("services:\n  web:\n    env: { A: \"x${resources.$0}\" }\n", &["db"], &["web"]),
        ("services:\n  web:\n    env:\n      A: ${resources.db.$0}\n", &["url", "password", "host"], &[]),
        (
            "services:\n  web:\n    port: 80\n    env:\n      A: ${services.web.$0\n",
            &["url", "internal_url", "ports"],
            &[],
        ),
        ("services:\n  web:\n    env: { A: \"${secrets.stripe.$0\" }\n", &["path"], &[]),
        ("services:\n  web:\n    env: { A: \"${vars.$0\" }\n", &["tag"], &[]),
        ("services:\n  web:\n    secrets: [$0]\n", &["stripe"], &[]),
        ("services:\n  web:\n    identity: $0\n", &["uploads"], &[]),
        ("services:\n  web: { image: x }\njobs:\n  seed:\n    service: $0\n", &["web"], &["db"]),
        ("  cache:\n    uses: $0\n", &["redis@7", "postgres@16", "postgres@15"], &[]),
        ("  cache: { uses: redis@7, with: { $0 } }\n", &["maxmemory"], &["uses", "database"]),
        (
            "  more:\n    uses: postgres@16\n    with:\n      database: x\n      $0\n",
            &["extensions", "max_connections"],
            &["database"],
        ),
        ("  more:\n    uses: postgres@16\n    with: { durable: $0 }\n", &["true", "false"], &[]),
        ("guardrails: { waivers: [{ rule: $0 }] }\n", &["PD001", "PD011"], &[]),
        (
            "services:\n  web: { image: x }\nguardrails:\n  waivers:\n    - rule: PD011\n      scope: $0\n",
            &["services.web", "resources.db"],
            &[],
        ),
        ("environments:\n  preview:\n    services:\n      web:\n        $0\n", &["image", "health"], &["runtimes"]),
        ("environments:\n  preview:\n    $0\n", &["runtime", "services"], &["image"]),
        ("services:\n  web:\n    # $0\n", &[], &["image"]),
        ("services:\n  web:\n    command: |\n      echo $0\n", &[], &["image"]),
        ("services:\n  $0\n", &["service from an image"], &["image"]),
        ("services:\n  web:\n    env: { A: \"${env.$0}\" }\n", &["PATH"], &["db"]),
        ("services:\n  web:\n    env: { A: \"${vars.tag:-$0}\" }\n", &[], &["tag", "db", "resources"]),
        ("services:\n  web:\n    command: |\n      # a note ${vars.$0\n", &["tag"], &[]),
        ("services:\n  web:\n    security: { capabilities: [$0] }\n", &["SYS_PTRACE", "NET_ADMIN"], &["web"]),
        ("x-env: &common { A: b }\nservices:\n  web:\n    env: *$0\n", &["*common"], &["web"]),
        ("services:\n  web:\n    secrets:\n      $0\n", &["stripe"], &["image"]),
        ("services:\n  web:\n    \"po$0\"\n", &["port"], &[]),
        ("environments:\n  ci:\n    vars:\n      $0\n", &["tag"], &["db"]),
        ("environments:\n  ci:\n    identities: { $0 }\n", &["uploads"], &["db"]),
    ];
    for (rest, present, absent) in cases {
        let fixture = if rest.starts_with("$0") { (*rest).to_owned() } else { format!("{TOP}{rest}") };
        let found = request_completion(&fixture, as_is_capabilities()).await;
        let labels = found.labels();
        for label in *present {
            assert!(labels.contains(label), "no `{label}` in {labels:?} at\n{rest}");
        }
        for label in *absent {
            assert!(!labels.contains(label), "`{label}` in {labels:?} at\n{rest}");
        }
    }
}

#[tokio::test]
async fn accepted_completion_inserts_correct_text() {
    let cases = [
        ("services:\n  web:\n    po$0\n", "port", "services:\n  web:\n    port: $0\n"),
        ("services:\n  web:\n    watc$0\n", "watch", "services:\n  web:\n    watch:\n      - $0\n"),
        ("services:\n    web:\n        watc$0\n", "watch", "services:\n    web:\n        watch:\n            - $0\n"),
        ("services:\n  web:\n    watch:\n      - pa$0\n", "path", "services:\n  web:\n    watch:\n      - path: $0\n"),
        (
            "jobs:\n  a:\n    watch:\n    - x: 1\n      ign$0\n",
            "ignore",
            "jobs:\n  a:\n    watch:\n    - x: 1\n      ignore:\n        - $0\n",
        ),
        ("services:\n  web: { si$0 }\n", "size", "services:\n  web: { size: { $0 \\} }\n"),
        ("services:\n  web:\n    po$0: 80\n", "port", "services:\n  web:\n    port: 80\n"),
        ("services:\n  web:\n    restart: nev$0er # why\n", "always", "services:\n  web:\n    restart: always # why\n"),
        (
            "services:\n  web:\n    env: { A: \"${res$0}\" }\n",
            "resources",
            "services:\n  web:\n    env: { A: \"${resources.}\" }\n",
        ),
        (
            "services:\n  web:\n    env: { A: \"${resources.db.u$0\" }\n",
            "url",
            "services:\n  web:\n    env: { A: \"${resources.db.url\\}\" }\n",
        ),
        (
            "services:\n  web:\n    env: { A: \"${resources.d$0.url}\" }\n",
            "db",
            "services:\n  web:\n    env: { A: \"${resources.db.url}\" }\n",
        ),
        ("  c: { uses: pos$0 }\n", "postgres@16", "  c: { uses: postgres@16 }\n"),
        ("services:\n  web:\n    restart:$0\n", "always", "services:\n  web:\n    restart: always\n"),
        (
            "services:\n  web:\n    secrets:\n      st$0\n",
            "stripe",
            "services:\n  web:\n    secrets:\n      - stripe\n",
        ),
        ("services:\n  web:\n    watch:\n      pa$0\n", "path", "services:\n  web:\n    watch:\n      - path: $0\n"),
        ("services:\n  web:\n    \"po$0\"\n", "port", "services:\n  web:\n    port: $0\n"),
        ("services:\n  web:\n    \"po$0\": 80\n", "port", "services:\n  web:\n    port: 80\n"),
        ("services:\n  web: { image: x, \"po$0\" }\n", "port", "services:\n  web: { image: x, port: $0 }\n"),
        ("services:\n  web:\n    restart: \"al$0\"\n", "always", "services:\n  web:\n    restart: \"always\"\n"),
        ("x: &e { A: b }\nservices:\n  web:\n    env: *$0\n", "*e", "x: &e { A: b }\nservices:\n  web:\n    env: *e\n"),
    ];
    for (rest, label, expected) in cases {
        let found = request_completion(&format!("{TOP}{rest}"), as_is_capabilities()).await;
        assert_eq!(found.text_after_accepting(label), format!("{TOP}{expected}"), "{rest}");
    }
}

#[tokio::test]
async fn snippets_adapt_to_client_indentation_and_snippet_support() {
    let fixture = format!("{TOP}services:\n  web:\n    watch:\n      - ign$0\n");
    let found = request_completion(&fixture, push_capabilities()).await;
    assert_eq!(found.item("ignore")["textEdit"]["newText"], "ignore:\n    - $0");
    let mut bare = as_is_capabilities();
    bare["textDocument"]["completion"]["completionItem"]["snippetSupport"] = json!(false);
    let found = request_completion(&fixture, bare).await;
    assert_eq!(found.item("ignore")["textEdit"]["newText"], "ignore:\n          -");
}

#[tokio::test]
async fn completion_resolve_adds_documentation() {
    for (rest, label, words) in [
        ("services:\n  web:\n    $0\n", "restart", "sixth crash"),
        ("  c: { uses: $0 }\n", "redis@7", "Redis"),
        ("  c: { uses: postgres@16, with: { $0 } }\n", "max_connections", "Maximum number of concurrent connections"),
        ("guardrails: { waivers: [{ rule: $0 }] }\n", "PD011", "fixed tag"),
    ] {
        let mut found = request_completion(&format!("{TOP}{rest}"), as_is_capabilities()).await;
        let item = found.item(label).clone();
        assert!(item.get("documentation").is_none());
        let item = found.editor.request("completionItem/resolve", item).await;
        let docs = item["documentation"]["value"].as_str().unwrap_or_default();
        assert!(docs.contains(words), "{label}: {item}");
    }
}

#[tokio::test]
async fn hover_shows_effective_values_and_origins() {
    for (rest, words) in [
        ("se$0rvices:\n  web: { image: \"w:1\" }\n", vec!["Programs that run as long as"]),
        ("services:\n  web: { image: \"w:1\", po$0rt: 80 }\n", vec!["port that the program listens on"]),
        ("services:\n  w$0eb: { image: \"w:1\", port: 80 }\n", vec!["service from w:1", "default: "]),
        (
            "services:\n  web:\n    image: \"w:1\"\n    size: { mem$0ory: 1Gi }\n",
            vec!["256Mi", "1073741824", "pdev.yaml:11"],
        ),
        ("  c: { uses: pos$0tgres@16 }\n", vec!["Outputs: ", "`url`", "PostgreSQL"]),
        (
            "  c: { uses: postgres@16, with: { max_con$0nections: 10 } }\n",
            vec!["Maximum number of concurrent connections", "Default: `100`"],
        ),
        (
            "services:\n  web: { image: \"w:1\", env: { A: \"x${resources.db.h$0ost}\" } }\n",
            vec!["Host name or address of the server", "postgres@16"],
        ),
        ("services:\n  web: { image: \"w:1\", needs: { d$0b: healthy } }\n", vec!["**db**"]),
        (
            "guardrails: { waivers: [{ rule: PD$0011, scope: a, reason: b, owner: c, expires: \"2027-01-01\" }] }\n",
            vec!["fixed tag"],
        ),
    ] {
        let (text, position) = split_cursor(&format!("{TOP}{rest}"));
        let mut editor = Editor::start(push_capabilities()).await;
        editor.open("pdev.yaml", &text).await;
        let uri = editor.uri("pdev.yaml");
        let params = json!({ "textDocument": { "uri": uri }, "position": position });
        let answer = editor.request("textDocument/hover", params).await;
        let markdown = answer["contents"]["value"].as_str().unwrap_or_default();
        for word in words {
            assert!(markdown.contains(word), "no `{word}` in {markdown:?} at\n{rest}");
        }
        assert!(!markdown.contains("postgresql://"), "{markdown}");
    }
}

#[tokio::test]
async fn completion_offers_local_files_and_environment_overrides() {
    let top = "pdev: 1\napp: shop\nsecrets: { stripe: { description: x }, mail: { description: y } }\nservices:\n  \
        api: { build: api, port: 80 }\n  web: { image: \"w:1\" }\n";
    for (rest, labels, first) in [
        ("include:\n  - $0\n", "platform.yaml", "  - platform.yaml\n"),
        ("include: [platform.yaml, $0]\n", "", ""),
        ("  new:\n    build: $0\n", "api", "build: api\n"),
        ("  new: { build: { context: $0 } }\n", "api", "context: api }"),
        ("  new:\n    build: ./a$0\n", "./api", "build: ./api\n"),
        ("  new:\n    build: { context: api, target: $0 }\n", "base | test", "target: base }"),
        (
            "  api2:\n    build: { context: api }\nenvironments: { x: { services: { api: { build: { dockerfile: $0 } } } } }\n",
            "Dockerfile | test.Dockerfile",
            "dockerfile: Dockerfile }",
        ),
        (
            "resources:\n  db: ./mod$0\n",
            "postgres@16 | postgres@17 | postgres@15 | redis@7 | redis@8 | redis@6 | ./modules/nats",
            "",
        ),
        ("  new:\n    secrets: [stripe, $0]\n", "mail", "[stripe, mail]"),
        ("  new:\n    secrets:\n      - $0\n      - mail\n", "stripe", "- stripe\n      - mail\n"),
        ("  new:\n    needs: [api, $0]\n", "web", "[api, web]"),
        ("environments:\n  ci:\n    services: { $0 }\n", "api | web", "services: { api: { $0 \\} }"),
        (
            "environments:\n  ci:\n    services:\n      web: {}\n      $0\n",
            "api | service from a Dockerfile | service from an image | service as a local process",
            "      api:\n  $0\n",
        ),
    ] {
        let (text, position) = split_cursor(&format!("{top}{rest}"));
        let mut editor = Editor::start(push_capabilities()).await;
        for (name, text) in [
            ("api/Dockerfile", "FROM x:1 AS base\nRUN echo as y\nfrom base as test\nFROM z\n"),
            ("api/test.Dockerfile", ""),
            ("platform.yaml", ""),
            ("modules/nats/module.yaml", ""),
        ] {
            editor.write(name, text);
        }
        editor.open("pdev.yaml", &text).await;
        let document = json!({ "uri": editor.uri("pdev.yaml") });
        let params = json!({ "textDocument": document, "position": position, "context": { "triggerKind": 1 } });
        let items = editor.request("textDocument/completion", params).await["items"].clone();
        let found: Vec<&str> = items.as_array().unwrap().iter().map(|item| item["label"].as_str().unwrap()).collect();
        if labels.contains("postgres") {
            assert!(found.contains(&"./modules/nats") && found.contains(&"postgres@16"), "{found:?}");
            continue;
        }
        assert_eq!(found.join(" | "), labels, "{rest}");
        if !first.is_empty() {
            let changed = apply_edits(&text, &[items[0]["textEdit"].clone()]);
            assert!(changed.contains(first), "{changed}");
        }
    }
}

#[tokio::test]
async fn hover_states_no_values_that_only_up_decides() {
    let text = "pdev: 1\napp: shop\nservices:\n  web:\n    image: \"w:1\"\n    ports: { http: 80, fixed: { port: 81, host: 9999 } }\n    \
                command: [serve, \"${services.api.url}\", \"${preview.branch}\"]\n  api:\n    runtime: process\n    \
                process: { command: [api] }\n    port: 81\n";
    let mut editor = Editor::start(push_capabilities()).await;
    editor.open("pdev.yaml", text).await;
    let uri = editor.uri("pdev.yaml");
    let mut shown = String::new();
    for (line, character) in [(3, 3), (5, 6), (5, 13), (5, 24), (7, 3), (10, 5)] {
        let position = json!({ "line": line, "character": character });
        let params = json!({ "textDocument": { "uri": uri }, "position": position });
        let hover = editor.request("textDocument/hover", params).await;
        shown.push_str(hover["contents"]["value"].as_str().unwrap_or_default());
    }
    let run = json!({ "command": "pdev.render", "arguments": [{ "uri": uri }] });
    shown.push_str(editor.request("workspace/executeCommand", run).await.as_str().unwrap());
    assert!(shown.contains("services.web.ports.http.host: chosen at up"), "{shown}");
    assert!(shown.contains("`9999` – pdev.yaml:6"), "{shown}");
    assert!(shown.contains("http://api.(chosen at up)"), "{shown}");
    for invented in ["2000", "4111", "8642", ":10971", "main.shop", "work.shop", "/run/pdev/secrets"] {
        assert!(!shown.contains(invented), "{invented}: {shown}");
    }
}
