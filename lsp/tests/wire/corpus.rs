//! Tests over all manifests of the project: the server agrees with `pdev check`, random edits result in the expected
//! text, and no prefix of a manifest makes a request fail.

use std::path::{Path, PathBuf};

use host::clock::now_milliseconds;
use manifest::date::Date;
use plan::check::{CheckOptions, check};
use serde_json::{Value, json};

use crate::editor::{Editor, pull_capabilities};

fn repository_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The manifests of the project, and the YAML examples on the pages of the diagnostic codes.
pub fn corpus() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for name in ["tiny", "typical", "anchors", "crlf-bom"] {
        let path = repository_root().join(format!("manifest/corpus/{name}.yaml"));
        all.push((name.to_owned(), std::fs::read_to_string(path).unwrap()));
    }
    for name in ["hello", "shop"] {
        let path = repository_root().join(format!("examples/{name}/pdev.yaml"));
        all.push((name.to_owned(), std::fs::read_to_string(path).unwrap()));
    }
    let mut pages: Vec<PathBuf> =
        std::fs::read_dir(repository_root().join("docs/codes")).unwrap().map(|entry| entry.unwrap().path()).collect();
    pages.sort();
    for page in pages {
        let name = page.file_stem().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&page).unwrap();
        let blocks = text.split("```yaml\n").skip(1).filter_map(|part| part.split("```").next());
        all.extend(blocks.enumerate().map(|(number, block)| (format!("{name} {number}"), block.to_owned())));
    }
    all
}

#[tokio::test]
async fn server_reports_same_diagnostics_as_check_command() {
    let mut editor = Editor::start(pull_capabilities()).await;
    let mut version = 1;
    let all = corpus();
    assert!(all.len() > 60, "{}", all.len());
    editor.open("pdev.yaml", "").await;
    editor.show_advice("pdev.yaml").await;
    for (name, text) in all {
        version += 1;
        editor.replace("pdev.yaml", version, &text).await;
        let report = editor.pull_diagnostics("pdev.yaml").await;
        let buffers = lsp::files::Buffers::new(
            editor.path(""),
            std::collections::HashMap::from([(editor.path("pdev.yaml"), text.as_str().into())]),
        );
        let variables = std::env::vars().collect();
        let options = CheckOptions {
            today: Date::from_unix_milliseconds(now_milliseconds()),
            variables,
            ..CheckOptions::default()
        };
        let checked = check("pdev.yaml", &buffers, &options);
        let key = |found: &manifest::Diagnostic| (found.code.0.to_owned(), found.span.start, found.span.end);
        let mut expected: Vec<_> = checked.diagnostics.iter().filter(|found| found.span.file.0 == 0).map(key).collect();
        let served_key = |diagnostic: &Value| {
            let number = |key: &str| u32::try_from(diagnostic["data"][key].as_u64().unwrap()).unwrap();
            (diagnostic["code"].as_str().unwrap().to_owned(), number("start"), number("end"))
        };
        let mut found: Vec<_> = report["items"].as_array().unwrap().iter().map(served_key).collect();
        expected.sort();
        expected.dedup();
        found.sort();
        found.dedup();
        assert_eq!(found, expected, "{name}");
        // The range and the offsets of a diagnostic select the same bytes.
        for diagnostic in report["items"].as_array().unwrap() {
            let (_, start, end) = served_key(diagnostic);
            let (start, end) = (start as usize, end as usize);
            let remaining =
                crate::editor::apply_edits(&text, &[json!({ "range": diagnostic["range"], "newText": "" })]);
            assert_eq!(remaining, format!("{}{}", &text[..start], &text[end..]), "{name}: {diagnostic}");
        }
    }
}

/// A pseudo-random generator with a fixed seed, so that a failure can be reproduced.
struct SeededRng(u64);

impl SeededRng {
    fn next_below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit.max(1)
    }
}

#[tokio::test]
async fn incremental_edits_match_full_text_updates() {
    let pieces = ["a", "😀", "é", "\n", "\r\n", "\u{feff}", "  b: c\n", "- ", "", "", "{", "\"", "# x", "${vars.x}"];
    for (encoding, is_utf8) in [("utf-8", true), ("utf-16", false)] {
        let mut capabilities = pull_capabilities();
        capabilities["general"] = json!({ "positionEncodings": [encoding] });
        let mut editor = Editor::start(capabilities).await;
        let mut rng = SeededRng(7);
        let mut text =
            "\u{feff}pdev: 1\r\napp: shop\nvars: { a: \"😀é\" }\r\nservices:\n  web: { image: \"x:1\" }\n".to_owned();
        editor.open("pdev.yaml", &text).await;
        for version in 2..400 {
            let mut offsets = [rng.next_below(text.len() + 1), 0];
            offsets[1] = (offsets[0] + rng.next_below(6)).min(text.len());
            for offset in &mut offsets {
                while !text.is_char_boundary(*offset) {
                    *offset -= 1;
                }
            }
            // There is no position between `\r` and `\n`.
            let splits = |at: usize| text[..at].ends_with('\r') && text[at..].starts_with('\n');
            if offsets.into_iter().any(splits) {
                continue;
            }
            let position = |offset: usize| {
                let before = &text[..offset];
                let line = before.matches('\n').count() + before.replace("\r\n", "").matches('\r').count();
                let start = before.rfind(['\n', '\r']).map_or(0, |at| at + 1);
                let head = &text[start..offset];
                json!({ "line": line, "character": if is_utf8 { head.len() } else { head.encode_utf16().count() } })
            };
            let piece = pieces[rng.next_below(pieces.len())];
            let range = json!({ "start": position(offsets[0]), "end": position(offsets[1]) });
            let change = json!([{ "range": range, "text": piece }]);
            text.replace_range(offsets[0]..offsets[1], piece);
            editor.change("pdev.yaml", version, change).await;
            if version % 40 == 0 {
                let edited = editor.pull_diagnostics("pdev.yaml").await;
                let mut other = Editor::start(pull_capabilities_with_encoding(encoding)).await;
                other.open("pdev.yaml", &text).await;
                let expected = other.pull_diagnostics("pdev.yaml").await;
                let without_uris = |report: &Value| {
                    report["items"].to_string().replace(&editor.uri(""), "").replace(&other.uri(""), "")
                };
                assert_eq!(without_uris(&edited), without_uris(&expected), "{encoding} {version}: {text:?}");
            }
        }
    }
}

fn pull_capabilities_with_encoding(encoding: &str) -> Value {
    let mut capabilities = pull_capabilities();
    capabilities["general"] = json!({ "positionEncodings": [encoding] });
    capabilities
}

const METHODS: [&str; 12] = [
    "textDocument/completion",
    "textDocument/hover",
    "textDocument/definition",
    "textDocument/references",
    "textDocument/prepareRename",
    "textDocument/documentSymbol",
    "textDocument/foldingRange",
    "textDocument/selectionRange",
    "textDocument/documentLink",
    "textDocument/semanticTokens/full",
    "textDocument/codeAction",
    "textDocument/formatting",
];

#[tokio::test]
async fn formatting_a_second_time_changes_nothing() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.open("pdev.yaml", "").await;
    let uri = editor.uri("pdev.yaml");
    let params = json!({ "textDocument": { "uri": uri }, "options": { "tabSize": 2, "insertSpaces": true } });
    let mut version = 1;
    for (name, text) in corpus() {
        version += 2;
        editor.replace("pdev.yaml", version, &text).await;
        let edits = editor.request("textDocument/formatting", params.clone()).await;
        let once = crate::editor::apply_edits(&text, edits.as_array().unwrap());
        editor.replace("pdev.yaml", version + 1, &once).await;
        let again = editor.request("textDocument/formatting", params.clone()).await;
        assert_eq!(again, json!([]), "{name}: {once}");
        let comments = |text: &str| text.matches('#').count();
        assert_eq!(comments(&once), comments(&text), "{name}");
    }
}

/// The manifest with five spaces per level instead of two.
fn with_wide_indentation(text: &str) -> String {
    let widen = |line: &str| {
        let spaces = line.len() - line.trim_start_matches(' ').len();
        format!("{}{}", " ".repeat(spaces / 2 * 5 + spaces % 2), &line[spaces..])
    };
    text.split_inclusive('\n').map(widen).collect()
}

#[tokio::test]
async fn formatting_of_each_range_keeps_tree_comments_and_anchors() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.open("pdev.yaml", "").await;
    let uri = editor.uri("pdev.yaml");
    let mut version = 1;
    let manifests = corpus().into_iter().filter(|(name, _)| !name.starts_with("PD"));
    let all = manifests.flat_map(|(name, text)| [(name.clone(), with_wide_indentation(&text)), (name, text)]);
    for (name, text) in all {
        version += 1;
        editor.replace("pdev.yaml", version, &text).await;
        let count = text.lines().count();
        for first in 0..count {
            for last in [first + 1, first + 3, first + 9] {
                let range = json!({
                    "start": { "line": first, "character": 0 }, "end": { "line": last.min(count), "character": 0 }
                });
                let params = json!({
                    "textDocument": { "uri": uri }, "range": range, "options": { "tabSize": 2, "insertSpaces": true }
                });
                let edits = editor.request("textDocument/rangeFormatting", params).await;
                let edits = edits.as_array().unwrap();
                let lines: Vec<u64> =
                    edits.iter().map(|edit| edit["range"]["start"]["line"].as_u64().unwrap()).collect();
                let is_selected = |line: &u64| (first as u64..last as u64).contains(line);
                assert!(lines.iter().all(is_selected), "{name} {first}..{last}: {edits:?}");
                let changed = crate::editor::apply_edits(&text, edits);
                let case = format!("{name} {first}..{last}:\n{changed}");
                let comments_and_keys = |text: &str| {
                    let parsed = manifest::syntax::parse(text, manifest::FileId(0));
                    let comments: Vec<String> = parsed.comments.iter().map(|comment| comment.text.clone()).collect();
                    (parsed.diagnostics.len(), comments, parsed.root.map(|root| outline(&root)))
                };
                assert_eq!(comments_and_keys(&changed), comments_and_keys(&text), "{case}");
                let visible = |text: &str| text.split_whitespace().collect::<String>();
                assert_eq!(visible(&changed), visible(&text), "{case}");
            }
        }
    }
}

/// The tree without positions.
fn outline(node: &manifest::syntax::Node) -> String {
    use manifest::syntax::Kind;
    match &node.kind {
        Kind::Scalar(scalar) => format!("{scalar:?}"),
        Kind::List(items) => format!("[{}]", items.iter().map(outline).collect::<Vec<_>>().join(",")),
        Kind::Map(pairs) => {
            let pair = |pair: &manifest::syntax::Pair| format!("{}={}", pair.key.value, outline(&pair.value));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(","))
        }
    }
}

#[tokio::test]
async fn unchanged_indentation_of_a_range_is_explained() {
    let mut editor = Editor::start(pull_capabilities()).await;
    let text = "pdev: 1\napp: a\nservices:\n     web:\n          image: \"w:1\"\n          env: {A: b}\n";
    editor.open("pdev.yaml", text).await;
    let uri = editor.uri("pdev.yaml");
    // Lines of two levels, of which the upper one has other lines below.
    let range = json!({ "start": { "line": 3, "character": 0 }, "end": { "line": 5, "character": 0 } });
    let options = json!({ "tabSize": 2, "insertSpaces": true });
    let params = json!({ "textDocument": { "uri": uri }, "range": range, "options": options });
    let edits = editor.request("textDocument/rangeFormatting", params).await;
    assert_eq!(edits, json!([]));
    let shown = editor.next_message("window/showMessage").await;
    assert!(shown["message"].as_str().unwrap().contains("Format the whole file"), "{shown}");
}

#[tokio::test]
async fn requests_succeed_for_every_manifest_prefix() {
    let mut editor = Editor::start(pull_capabilities()).await;
    editor.open("pdev.yaml", "").await;
    let mut version = 1;
    let uri = editor.uri("pdev.yaml");
    let mut visited = std::collections::HashSet::new();
    for (number, (name, text)) in corpus().into_iter().enumerate() {
        let ends: Vec<usize> = text.char_indices().map(|(at, _)| at).collect();
        // Longer files are cut only at every seventh character, which keeps the test fast.
        let step = if ends.len() > 300 { 7 } else { 1 };
        for end in ends.into_iter().step_by(step) {
            let prefix = &text[..end];
            // Many examples have the same first lines.
            if !visited.insert(prefix.to_owned()) {
                continue;
            }
            version += 1;
            editor.replace("pdev.yaml", version, prefix).await;
            let line = prefix.matches('\n').count();
            let character = prefix.rsplit('\n').next().unwrap().encode_utf16().count();
            let target =
                json!({ "textDocument": { "uri": uri }, "position": { "line": line, "character": character } });
            // Completion runs at each prefix. The slower methods run at every fourth offset of the manifests, and every
            // 64th of the examples.
            let methods = if end % if number < 8 { 4 } else { 64 } == 0 { &METHODS[..] } else { &METHODS[..1] };
            for &method in methods {
                let mut params = target.clone();
                params["context"] = json!({ "includeDeclaration": true, "diagnostics": [] });
                if method == "textDocument/completion" {
                    params["context"] = json!({ "triggerKind": 1 });
                }
                params["positions"] = json!([target["position"]]);
                params["range"] = json!({ "start": target["position"], "end": target["position"] });
                params["options"] = json!({ "tabSize": 2, "insertSpaces": true });
                let answer = editor.request_raw(method, params).await;
                assert!(answer.get("error").is_none(), "{name} at {end}: {answer}");
            }
            // Completion may use an older analysis, which would hide a failed one. A pull reports it as an error.
            assert!(editor.pull_diagnostics("pdev.yaml").await["items"].is_array(), "{name} at {end}");
        }
    }
}
