//! Code actions over the wire: each test applies an action and checks that its diagnostic is gone.

use serde_json::{Value, json};

use crate::editor::{Editor, apply_edits, diagnostic_codes, push_capabilities, split_cursor};

/// The actions at the cursor of the fixture.
async fn actions_at_cursor(fixture: &str, only: Value) -> (Editor, String, Vec<Value>) {
    let (text, position) = split_cursor(fixture);
    let mut editor = Editor::start(push_capabilities()).await;
    editor.open("pdev.yaml", &text).await;
    let found = editor.published_diagnostics("pdev.yaml", 1).await;
    let uri = editor.uri("pdev.yaml");
    let mut context = json!({ "diagnostics": found });
    if !only.is_null() {
        context["only"] = only;
    }
    let range = json!({ "start": position, "end": position });
    let params = json!({ "textDocument": { "uri": uri }, "range": range, "context": context });
    let answer = editor.request("textDocument/codeAction", params).await;
    (editor, text, answer.as_array().unwrap().clone())
}

/// The text after the action whose title contains `words`, and the diagnostic codes of that text.
async fn apply_action(fixture: &str, words: &str) -> (String, Vec<String>) {
    let (mut editor, text, actions) = actions_at_cursor(fixture, Value::Null).await;
    let action = actions.iter().find(|action| action["title"].as_str().unwrap().contains(words));
    let action = action.unwrap_or_else(|| panic!("no `{words}` in {actions:#?}"));
    let uri = editor.uri("pdev.yaml");
    let changed = apply_edits(&text, action["edit"]["changes"][&uri].as_array().unwrap());
    editor.replace("pdev.yaml", 2, &changed).await;
    let found = editor.published_diagnostics("pdev.yaml", 2).await;
    (changed, diagnostic_codes(&found).into_iter().map(str::to_owned).collect())
}

#[tokio::test]
async fn fix_corrects_misspelt_key() {
    let (text, found) =
        apply_action("pdev: 1\napp: shop\nservices:\n  web: { image: \"w:1\", pr$0ot: 8080 }\n", "Change `prot`").await;
    assert!(text.contains("port: 8080") && !found.contains(&"PD0110".to_owned()), "{text} {found:?}");
}

#[tokio::test]
async fn fix_that_would_cause_another_error_is_not_offered() {
    for rest in [
        // A cycle of one unit, a cycle of two, and a duplicate key.
        "  web: { image: \"w:1\", needs: [we$0bb] }\n",
        "  web: { image: \"w:1\", needs: [ap$0j] }\n  api: { image: \"a:1\", needs: [web] }\n",
        "  web: { image: \"w:1\", port: 80, pr$0ot: 81 }\n",
    ] {
        let fixture = format!("pdev: 1\napp: shop\nservices:\n{rest}");
        let (_, _, actions) = actions_at_cursor(&fixture, json!(["quickfix"])).await;
        assert!(actions.is_empty(), "{fixture}: {actions:#?}");
    }
}

#[tokio::test]
async fn allow_comment_suppresses_finding() {
    let fixture = "pdev: 1\napp: shop\nservices:\n  web:\n    image: \"w:la$0test\"\n    port: 80\n";
    let (text, found) = apply_action(fixture, "Allow PD011").await;
    assert!(text.contains("    # pdev: allow PD011 -- state why"), "{text}");
    assert!(!found.contains(&"PD011".to_owned()) && !found.contains(&"PD0264".to_owned()), "{found:?}");
}

#[tokio::test]
async fn waiver_is_added_to_every_form_of_waivers() {
    let service =
        "pdev: 1\napp: { name: shop, owner: team-a }\nservices:\n  web: { image: \"w:$0latest\", port: 80 }\n";
    let waiver =
        "rule: PD008, scope: services.web, reason: \"read by an old library\", owner: a, expires: \"2027-01-01\"";
    for rest in [
        String::new(),
        format!("guardrails:\n  waivers:\n    - {{ {waiver} }}\n"),
        format!("guardrails:\n  waivers:\n  - {}\nvars: {{ a: b }}\n", waiver.replace(", ", "\n    ")),
        format!("guardrails: {{ waivers: [{{ {waiver} }}] }}\n"),
    ] {
        let (text, found) = apply_action(&format!("{service}{rest}"), "Waive PD011").await;
        assert!(text.contains("rule: PD011, scope: services.web,") && text.contains("owner: team-a"), "{text}");
        assert!(!found.contains(&"PD0101".to_owned()) && !found.contains(&"PD0113".to_owned()), "{text}\n{found:?}");
    }
}

#[tokio::test]
async fn fix_all_applies_every_safe_fix() {
    let fixture =
        "$0app: shop\nservices:\n  web: { image: \"w:1\", prot: 8080 }\n  api: { image: \"a:1\", helth: none }\n";
    let (_, text, actions) = actions_at_cursor(fixture, json!(["source.fixAll"])).await;
    assert_eq!(actions.len(), 1, "{actions:#?}");
    let edits = actions[0]["edit"]["changes"].as_object().unwrap().values().next().unwrap().as_array().unwrap();
    let changed = apply_edits(&text, edits);
    assert!(["pdev: 1\napp", "port: 8080", "health: none"].iter().all(|part| changed.contains(part)), "{changed}");
}

#[tokio::test]
async fn fix_removes_unused_allow_comment() {
    let fixture =
        "pdev: 1\napp: shop\nservices:\n  # pdev: al$0low PD011 -- once\n  web: { image: \"w:1\", port: 80 }\n";
    let (text, _) = apply_action(fixture, "Remove the comment").await;
    assert_eq!(text, "pdev: 1\napp: shop\nservices:\n  web: { image: \"w:1\", port: 80 }\n");
}

#[tokio::test]
async fn refactoring_rewrites_unit_in_block_and_flow_style() {
    let top = "pdev: 1\napp: shop\nservices:\n";
    for (rest, words, expected) in [
        (
            "  w$0eb: { image: \"w:1\", port: 80 }\n",
            "health check",
            "web: { image: \"w:1\", port: 80, health: /healthz }",
        ),
        (
            "  w$0eb:\n    image: \"w:1\"\n    port: 80 # here\n",
            "health check",
            "port: 80 # here\n    health: /healthz\n",
        ),
        ("  w$0eb:\n    image: \"w:1\"\n", "default of `size`", "\n    size: { memory: 2Gi, pids: 2048 }\n"),
        (
            "  web:\n    image: \"w:1\"\n    env:\n      STRIPE_KEY: ab$0c\n",
            "secret `stripe-key`",
            "STRIPE_KEY_FILE: \"${secrets.stripe-key.path}\"\nsecrets:\n  stripe-key: { description: STRIPE_KEY }\n",
        ),
        (
            "  web: { image: \"w:1\", env: { A_FILE: ab$0c } }\nsecrets: { b: x }\n",
            "secret `a`",
            "A_FILE: \"${secrets.a.path}\" } }\nsecrets: { b: x, a: { description: A_FILE } }\n",
        ),
    ] {
        let (text, found) = apply_action(&format!("{top}{rest}"), words).await;
        assert!(text.contains(expected), "{text}");
        assert!(!found.iter().any(|code| code.starts_with("PD01")), "{text}\n{found:?}");
    }
}

/// Kate requests the fixes of one diagnostic with the range of the file, and applies all actions that it gets.
#[tokio::test]
async fn request_for_one_diagnostic_returns_only_its_fix() {
    let text =
        "pdev: 1\napp: shop\nservices:\n  web: { image: \"w:1\", prot: 80 }\n  api: { image: \"a:1\", prot: 81 }\n";
    let mut editor = Editor::start(push_capabilities()).await;
    editor.open("pdev.yaml", text).await;
    let found = editor.published_diagnostics("pdev.yaml", 1).await;
    let second = found.iter().filter(|diagnostic| diagnostic["code"] == "PD0110").nth(1).unwrap();
    let whole_file = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": 5, "character": 0 } });
    let uri = editor.uri("pdev.yaml");
    let mut params =
        json!({ "textDocument": { "uri": uri }, "range": whole_file, "context": { "diagnostics": [second] } });
    let actions = editor.request("textDocument/codeAction", params.clone()).await;
    let fixes = actions.as_array().unwrap();
    assert!(fixes.len() == 1 && fixes[0]["diagnostics"][0]["range"] == second["range"], "{actions:#}");
    params["context"]["diagnostics"] = json!([]);
    let actions = editor.request("textDocument/codeAction", params).await;
    assert!(actions.as_array().unwrap().iter().any(|action| action["kind"] == "source.fixAll.pdev"), "{actions:#}");
}
