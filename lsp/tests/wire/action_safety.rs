//! Every code action over many broken manifests: a fix clears its finding and adds none, comments stay, and the result
//! parses. A refactoring adds no errors.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::corpus::corpus;
use crate::editor::{Editor, apply_edits, pull_capabilities};

/// A manifest with comments at every place where an edit could lose one.
const COMMENTED: &str = "\
# The shop.
pdev: 1 # the format
app: { name: shop, owner: team-a }
x-common: &common # shared
  restart: always
  env: { LOG: info } # shared too
vars: { region: eu } # the region
services:
  # The page.
  web:
    image: \"w:1\" # pinned
    port: 80 # public
    needs: [api] # and its data
    size: { memory: 1Gi } # enough
    env: # settings
      # the address
      API: \"${services.api.url}\" # resolved
      API_TOKEN: 0123456789abcdefghij # replace me
  api:
    <<: *common # merged
    image: \"a:1\"
    ports: { http: 8080, admin: 9090 }
    health: { http: { path: /healthz, port: http } }
    needs: { db: healthy }
  data:
    image: \"postgres:16\" # the data
    # where it listens
    port: 5432
resources:
  db: { uses: postgres@15, with: { database: shop } } # old
secrets: { payment: { description: key } }
jobs:
  seed:
    service: api # the same image
    command: [seed]
environments:
  local: { vars: { region: us } } # here
";

/// The same kind of manifest as one flow map.
const FLOW: &str = "{ pdev: 1, app: shop, services: { web: { image: \"w:1\", port: 80, needs: [api], \
env: { API_TOKEN: 0123456789abcdefghij } }, api: { image: \"a:1\", port: 81 }, \
data: { image: \"postgres:16\", port: 5432 } } } # all in one\n";

/// Broken variants of a manifest: each word of its keys and references is misspelt once.
fn misspelt_variants(name: &str, text: &str) -> Vec<(String, String)> {
    let mut variants = Vec::new();
    let mut at = 0;
    for word in text.split(|letter: char| !letter.is_ascii_alphanumeric()) {
        let start = at;
        at += word.len() + 1;
        let is_candidate = word.len() >= 3 && word.chars().all(|letter| letter.is_ascii_lowercase());
        let line = text[..start].rsplit('\n').next().unwrap_or_default();
        if is_candidate && !line.contains('#') {
            // One letter twice, and one letter missing.
            variants.push((format!("{name} {start}+"), format!("{}{}", &text[..=start], &text[start..])));
            variants.push((format!("{name} {start}-"), format!("{}{}", &text[..=start], &text[start + 2..])));
        }
    }
    variants
}

struct BrokenManifest {
    name: String,
    text: String,
    /// The manifest without the mistakes, whose findings a fix may uncover.
    corrected: &'static str,
}

fn broken_manifests() -> Vec<BrokenManifest> {
    let unrelated = corpus().into_iter().map(|(name, text)| BrokenManifest { name, text, corrected: "" });
    let variants = [("commented", COMMENTED), ("flow", FLOW)].into_iter().flat_map(|(name, corrected)| {
        let variants = misspelt_variants(name, corrected).into_iter();
        variants.map(move |(name, text)| BrokenManifest { name, text, corrected })
    });
    let crlf = COMMENTED.replace("image", "imagee").replace('\n', "\r\n");
    let crlf = BrokenManifest { name: "crlf".to_owned(), text: crlf, corrected: COMMENTED };
    unrelated.chain(variants).chain([crlf]).collect()
}

type FindingCounts = BTreeMap<(String, String), usize>;

/// The errors and warnings by code and message.
fn problems(report: &Value) -> FindingCounts {
    findings_up_to(2, report)
}

/// The findings of this severity and more severe ones, by code and message.
fn findings_up_to(severity: u64, report: &Value) -> FindingCounts {
    let mut counts = BTreeMap::new();
    for found in report["items"].as_array().unwrap().iter().filter(|found| found["severity"].as_u64() <= Some(severity))
    {
        let text = |key: &str| found[key].as_str().unwrap().to_owned();
        *counts.entry((text("code"), text("message"))).or_default() += 1;
    }
    counts
}

fn comments(text: &str) -> Vec<String> {
    let parsed = manifest::syntax::parse(text, manifest::FileId(0));
    let mut comments: Vec<String> =
        parsed.comments.iter().map(|comment| comment.text.trim_start_matches('#').trim().to_owned()).collect();
    comments.sort();
    comments
}

fn syntax_error_count(text: &str) -> usize {
    manifest::syntax::parse(text, manifest::FileId(0)).diagnostics.len()
}

struct ActionTest {
    editor: Editor,
    version: i32,
}

impl ActionTest {
    async fn start() -> Self {
        let mut editor = Editor::start(pull_capabilities()).await;
        editor.open("pdev.yaml", "").await;
        editor.show_advice("pdev.yaml").await;
        Self { editor, version: 1 }
    }

    async fn pull(&mut self, text: &str) -> Value {
        self.version += 1;
        self.editor.replace("pdev.yaml", self.version, text).await;
        self.editor.pull_diagnostics("pdev.yaml").await
    }

    async fn actions(&mut self, range: &Value, context: Value) -> Vec<Value> {
        let document = json!({ "uri": self.editor.uri("pdev.yaml") });
        let params = json!({ "textDocument": document, "range": range, "context": context });
        self.editor.request("textDocument/codeAction", params).await.as_array().unwrap().clone()
    }

    fn apply(&self, text: &str, action: &Value) -> Option<String> {
        let edits = action["edit"]["changes"].get(self.editor.uri("pdev.yaml"))?.as_array()?;
        Some(apply_edits(text, edits))
    }
}

/// Applies one fix and compares the findings, the comments and the syntax before and after.
async fn check_fix(
    test: &mut ActionTest,
    broken: &BrokenManifest,
    report: &Value,
    diagnostic: &Value,
    action: &Value,
    allowed: &FindingCounts,
) {
    let BrokenManifest { name, text, .. } = broken;
    let title = action["title"].as_str().unwrap();
    let changed = test.apply(text, action).unwrap();
    let after = test.pull(&changed).await;
    let case = format!("{name}: {title}\n{text}\n=>\n{changed}");
    let field = |key: &str| diagnostic[key].as_str().unwrap().to_owned();
    let key = (field("code"), field("message"));
    assert!(findings_up_to(4, &after).get(&key) < findings_up_to(4, report).get(&key), "{case}\n{key:?}");
    let before = problems(report);
    let mut added = problems(&after);
    added.retain(|key, count| before.get(key) < Some(count) && !allowed.contains_key(key));
    assert!(added.is_empty(), "{case}\n{added:?}");
    assert!(syntax_error_count(&changed) <= syntax_error_count(text), "{case}");
    let mut expected = comments(text);
    if title.starts_with("Allow") {
        expected.push(format!("pdev: allow {} -- state why this is acceptable here", field("code")));
        expected.sort();
    }
    assert!(title.starts_with("Remove the comment") || comments(&changed) == expected, "{case}");
}

#[tokio::test]
async fn every_fix_clears_its_finding_and_adds_none() {
    let mut test = ActionTest::start().await;
    let all = broken_manifests();
    assert!(all.len() >= 100, "{}", all.len());
    let mut allowed_by_text: BTreeMap<&str, FindingCounts> = BTreeMap::new();
    let mut fix_count = 0;
    for broken in &all {
        if !allowed_by_text.contains_key(broken.corrected) {
            let report = test.pull(broken.corrected).await;
            allowed_by_text.insert(broken.corrected, problems(&report));
        }
        let report = test.pull(&broken.text).await;
        for diagnostic in report["items"].as_array().unwrap() {
            test.pull(&broken.text).await;
            let context = json!({ "diagnostics": [diagnostic], "only": ["quickfix"] });
            let actions = test.actions(&diagnostic["range"], context).await;
            for action in actions.iter().filter(|action| action["edit"].is_object()) {
                check_fix(&mut test, broken, &report, diagnostic, action, &allowed_by_text[broken.corrected]).await;
                fix_count += 1;
            }
        }
    }
    assert!(fix_count > 200, "{fix_count}");
}

#[tokio::test]
async fn every_refactoring_keeps_comments_and_adds_no_error() {
    let mut test = ActionTest::start().await;
    let mut titles: BTreeSet<String> = BTreeSet::new();
    let mut all: Vec<(String, String)> = corpus().into_iter().filter(|(name, _)| !name.starts_with("PD")).collect();
    all.extend([("commented".to_owned(), COMMENTED.to_owned()), ("flow".to_owned(), FLOW.to_owned())]);
    all.push(("crlf".to_owned(), COMMENTED.replace('\n', "\r\n")));
    for (name, text) in all {
        let before = problems(&test.pull(&text).await);
        let mut offered = Vec::new();
        for (number, line) in text.lines().enumerate() {
            // Each key of the line.
            for (column, _) in line.match_indices(':') {
                let position = json!({ "line": number, "character": line[..column].encode_utf16().count() });
                let range = json!({ "start": position, "end": position });
                offered.extend(test.actions(&range, json!({ "diagnostics": [], "only": ["refactor"] })).await);
            }
        }
        for action in offered {
            let title = action["title"].as_str().unwrap();
            let Some(changed) = test.apply(&text, &action) else { continue };
            let after = problems(&test.pull(&changed).await);
            let case = format!("{name}: {title}\n{text}\n=>\n{changed}");
            let added: Vec<_> = after.iter().filter(|(key, count)| before.get(key) < Some(count)).collect();
            assert!(added.is_empty(), "{case}\n{added:?}");
            assert!(syntax_error_count(&changed) <= syntax_error_count(&text), "{case}");
            assert_eq!(comments(&changed), comments(&text), "{case}");
            titles.insert(title.split('`').next().unwrap_or_default().to_owned());
        }
    }
    assert!(titles.len() >= 7, "{titles:?}");
}
