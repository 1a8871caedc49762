//! Actions for a diagnostic: its fixes, a comment that allows it, a waiver. Also all safe fixes at once.

use manifest::date::Date;
use manifest::diagnostic::{Edit, Fix};
use manifest::syntax::{Kind, Node};
use manifest::{Diagnostic, FileId, Severity, Span};
use plan::LoadedManifest;
use plan::guardrails::{PORT_MISSING, find_rule};

use crate::text::Text;

/// A code action at the cursor.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Action {
    pub title: String,
    pub edits: Vec<Edit>,
    /// A safe mechanical fix, which clients apply first.
    pub is_preferred: bool,
    pub new_files: Vec<NewFile>,
    /// Moves something to another place, instead of rewriting it in place.
    pub is_extraction: bool,
    /// The literal that the action replaces, for clients that move it into the vault first.
    pub secret_literal: Option<SecretLiteral>,
    /// The name of the service, job or resource that a refactoring changes.
    pub unit: String,
}

/// A file to create. The action is not offered if the file exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewFile {
    /// Relative to the manifest's folder.
    pub path: String,
    pub text: String,
}

/// A literal that becomes a secret. Commands name only its location, so its value is in no message to the client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SecretLiteral {
    pub unit: String,
    pub variable: String,
    pub secret: String,
    pub value: String,
}

/// The text that the user replaces by a reason. It is long enough to pass as one: otherwise the fix of one diagnostic
/// would cause another.
pub(crate) const REASON_PLACEHOLDER: &str = "state why this is acceptable here";
const WAIVER_DAYS: i64 = 90;

/// All actions for one diagnostic, the best first.
#[must_use]
pub fn diagnostic_actions(loaded: &LoadedManifest, text: &Text, diagnostic: &Diagnostic, today: Date) -> Vec<Action> {
    let mut actions: Vec<Action> = diagnostic.fixes.iter().map(from_fix).collect();
    actions.extend(waiver_action(loaded, diagnostic, today));
    actions.extend(allow_action(loaded, text, diagnostic));
    actions
}

fn from_fix(fix: &Fix) -> Action {
    let mut title = fix.title.clone();
    if let Some(first) = title.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Action { title, edits: fix.edits.clone(), is_preferred: fix.safe, ..Action::default() }
}

/// Inserts `# pdev: allow CODE -- ...` on a separate line above. Errors cannot be allowed.
fn allow_action(loaded: &LoadedManifest, text: &Text, diagnostic: &Diagnostic) -> Option<Action> {
    let code = diagnostic.code.0;
    let is_unallowable = [plan::codes::ALLOW_UNUSED, manifest::codes::MORE_FINDINGS].contains(&diagnostic.code);
    if diagnostic.severity == Severity::Error || is_unallowable || diagnostic.span == Span::default() {
        return None;
    }
    let line = text.line_at(diagnostic.span.range().start);
    let start = text.line_start(line);
    // Inside a multi-line scalar the comment would become part of the text.
    if loaded.root.as_ref().is_some_and(|root| diagnostic.span.file == FileId(0) && is_in_multiline_scalar(root, start))
    {
        return None;
    }
    let indent: String = text.line(line).chars().take_while(|letter| *letter == ' ').collect();
    let span = Span::new(diagnostic.span.file, start, start);
    let edit = Edit { span, text: format!("{indent}# pdev: allow {code} -- {REASON_PLACEHOLDER}\n") };
    Some(Action { title: format!("Allow {code} here, with a reason"), edits: vec![edit], ..Action::default() })
}

fn is_in_multiline_scalar(node: &Node, offset: usize) -> bool {
    let contains = |span: Span| span.range().start < offset && offset < span.range().end;
    match &node.kind {
        Kind::Scalar(_) => contains(node.span),
        Kind::List(items) => items.iter().any(|item| is_in_multiline_scalar(item, offset)),
        Kind::Map(pairs) => pairs.iter().any(|pair| is_in_multiline_scalar(&pair.value, offset)),
    }
}

/// Adds an entry to `guardrails.waivers`, for rules that can be waived.
fn waiver_action(loaded: &LoadedManifest, diagnostic: &Diagnostic, today: Date) -> Option<Action> {
    let rule = find_rule(diagnostic.code.0)?;
    if rule.code == PORT_MISSING || diagnostic.severity == Severity::Info {
        return None;
    }
    let scope: Vec<&str> = diagnostic.path.split('.').take(2).collect();
    let [section, name] = scope[..] else { return None };
    let edit = waiver_edit(loaded, rule.code.0, &format!("{section}.{name}"), REASON_PLACEHOLDER, None, today)?;
    let title = format!("Waive {} for `{section}.{name}`, with a reason, an owner and an expiry date", rule.code.0);
    Some(Action { title, edits: vec![edit], ..Action::default() })
}

/// Inserts a waiver after the last one, or in a new section at the end of the file.
#[must_use]
pub fn waiver_edit(
    loaded: &LoadedManifest,
    code: &str,
    scope: &str,
    reason: &str,
    owner: Option<&str>,
    today: Date,
) -> Option<Edit> {
    let root = loaded.root.as_ref()?;
    let text = &loaded.sources.get(FileId(0))?.text;
    let owner = owner.or(loaded.manifest.app.owner.as_ref().map(|owner| owner.value.as_str())).unwrap_or("your-team");
    let until = Date::from_days_since_epoch(today.days_since_epoch() + WAIVER_DAYS);
    let reason = reason.replace('\\', "\\\\").replace('"', "\\\"");
    let entry =
        format!("{{ rule: {code}, scope: {scope}, reason: \"{reason}\", owner: {owner}, expires: \"{until}\" }}");
    let Some(guardrails) = root.get("guardrails") else {
        let end = text.len();
        let newline = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        let text = format!("{newline}guardrails:\n  waivers:\n    - {entry}\n");
        return Some(Edit { span: Span::new(FileId(0), end, end), text });
    };
    let Kind::List(items) = &guardrails.value.get("waivers")?.value.kind else { return None };
    let last = items.last()?;
    let at = last.span.range();
    let before = text.get(..at.start)?.rsplit('\n').next()?;
    let dash = before.trim_end();
    // A block list gets a new line, a flow list another element.
    let text = if dash.trim_start() == "-" { format!("\n{before}{entry}") } else { format!(", {entry}") };
    Some(Edit { span: Span::new(FileId(0), at.end, at.end), text })
}

/// The edits of all safe fixes in one file. Of two overlapping edits only the first is kept.
#[must_use]
pub fn safe_fix_edits(diagnostics: &[Diagnostic], file: FileId) -> Vec<Edit> {
    let mut edits = manifest::fix::safe_edits(diagnostics, file);
    edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
    let mut end = 0;
    edits.retain(|edit| {
        let is_free = edit.span.start >= end;
        if is_free {
            end = edit.span.end.max(end);
        }
        is_free
    });
    edits.dedup();
    edits
}
