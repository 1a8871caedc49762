//! Checks an edit before it is offered: applies it to the texts of an analysis, and compares the findings, the comments
//! and the meaning before and after.
//!
//! An edit that fails the check is not offered. The code that creates edits can therefore stay simple: a form of YAML
//! that it does not expect costs an offer, not the user's file.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use manifest::diagnostic::Edit;
use manifest::syntax::{self, Kind, Node};
use manifest::{Diagnostic, FileId, Severity, Span};
use plan::check::CheckResult;

use crate::analysis::actions::{self, Action, NewFile};
use crate::analysis::tree;
use crate::check::Analysis;

/// Sections whose entries are services, jobs and resources. A name is unique across them.
const UNIT_SECTIONS: [&str; 3] = ["services", "jobs", "resources"];

/// Bounds the checks of one request. A request about a cursor needs a few; one about a whole file could need hundreds.
pub const CHECKS_MAX: usize = 64;

/// The files as an edit would leave them.
pub struct CheckedEdit<'a> {
    before: &'a Analysis,
    after: CheckResult,
    edits_by_file: BTreeMap<FileId, Vec<Edit>>,
}

/// Identifies a finding without its position, which an edit above it changes.
type FindingKey<'d> = (FileId, &'static str, &'d str, &'d str);

fn finding_key(diagnostic: &Diagnostic) -> FindingKey<'_> {
    (diagnostic.span.file, diagnostic.code.0, &diagnostic.path, &diagnostic.message)
}

impl<'a> CheckedEdit<'a> {
    /// Returns `None` if the edits overlap or do not fit the texts of the analysis.
    #[must_use]
    pub fn new(analysis: &'a Analysis, edits: &[Edit], new_files: &[NewFile]) -> Option<Self> {
        let mut edits_by_file: BTreeMap<FileId, Vec<Edit>> = BTreeMap::new();
        for edit in edits {
            edits_by_file.entry(edit.span.file).or_default().push(edit.clone());
        }
        let mut changed: HashMap<PathBuf, Arc<str>> = HashMap::new();
        for (file, edits) in &mut edits_by_file {
            edits.sort_by_key(|edit| (edit.span.start, edit.span.end));
            if edits.windows(2).any(|two| two[0].span.end > two[1].span.start) {
                return None;
            }
            let text = analysis.text(*file)?.as_str();
            let are_valid = edits.iter().all(|edit| text.get(edit.span.range()).is_some());
            let result = manifest::fix::apply(text, edits);
            changed.insert(analysis.path(*file).filter(|_| are_valid)?.to_owned(), result.into());
        }
        for file in new_files {
            changed.insert(analysis.buffers.path(&file.path), file.text.as_str().into());
        }
        let after = analysis.check_with_texts(changed);
        Some(Self { before: analysis, after, edits_by_file })
    }

    /// Whether the finding is gone and no other one is added.
    #[must_use]
    pub fn clears(&self, diagnostic: &Diagnostic) -> bool {
        let count =
            |all: &[Diagnostic]| all.iter().filter(|found| finding_key(found) == finding_key(diagnostic)).count();
        // A waived finding stays, with a lower severity.
        let is_repetition = |found: &Diagnostic| {
            found.code == diagnostic.code && found.severity <= diagnostic.severity && self.touches_edit(found)
        };
        let is_reported_again = self.added_findings().any(is_repetition);
        count(&self.after.diagnostics) < count(&self.before.checked.diagnostics)
            && !is_reported_again
            && self.adds_no_problem()
    }

    /// Whether a refactoring of this unit (such as `api`) adds no finding, keeps all comments, and leaves the rest of
    /// the manifest as it is.
    #[must_use]
    pub fn changes_only_unit(&self, unit: &str) -> bool {
        self.adds_no_problem()
            && self.added_findings().all(|found| found.severity != Severity::Error)
            && self.comment_difference().is_empty()
            && self.edits_by_file.keys().all(|file| self.has_same_tree_outside(*file, unit))
    }

    /// Whether the edit adds or removes only the comments that belong to a finding: a comment that allows it, or the
    /// comment that it reports.
    #[must_use]
    pub fn keeps_comments_except_of(&self, diagnostic: &Diagnostic) -> bool {
        let reported =
            self.before.text(diagnostic.span.file).and_then(|text| text.as_str().get(diagnostic.span.range()));
        self.comment_difference().iter().all(|(text, change)| match change {
            1 => text.starts_with("pdev: allow "),
            -1 => reported.is_some_and(|reported| reported.contains(text)),
            _ => false,
        })
    }

    /// No error is added, and no warning about the new text. Findings that an earlier error hid are not added by the
    /// edit: those inside of the corrected entry, and those of later checks, which run only without errors.
    #[must_use]
    pub fn adds_no_problem(&self) -> bool {
        let before = &self.before.checked.loaded;
        let is_early = |found: &Diagnostic| self.after.loaded.diagnostics.contains(found);
        self.added_findings().all(|found| match found.severity {
            Severity::Error if self.touches_edit(found) => false,
            Severity::Error => self.is_in_edited_value(found) || (!before.is_usable() && !is_early(found)),
            Severity::Warning => !self.touches_edit(found),
            Severity::Info => true,
        })
    }

    /// Whether the new text has no error of its own.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        !self.added_findings().any(|found| found.severity == Severity::Error && self.touches_edit(found))
    }

    /// The findings after the edit that did not exist before.
    fn added_findings(&self) -> impl Iterator<Item = &Diagnostic> {
        let mut known: HashMap<FindingKey<'_>, usize> = HashMap::new();
        let mut positions: Vec<(FileId, &str, usize)> = Vec::new();
        for found in &self.before.checked.diagnostics {
            *known.entry(finding_key(found)).or_default() += 1;
            positions.push((found.span.file, found.code.0, self.new_offset(found.span.file, found.span.range().start)));
        }
        self.after.diagnostics.iter().filter(move |found| {
            let is_known = known.get_mut(&finding_key(found)).is_some_and(|count| {
                let is_left = *count > 0;
                *count = count.saturating_sub(1);
                is_left
            });
            // The message of a finding may name a line or another finding, which the edit has changed.
            let position = (found.span.file, found.code.0, found.span.range().start);
            !is_known && (self.touches_edit(found) || !positions.contains(&position))
        })
    }

    /// The position after the edits of a position before them.
    fn new_offset(&self, file: FileId, offset: usize) -> usize {
        let edits = self.edits_by_file.get(&file).map(Vec::as_slice).unwrap_or_default();
        let before = edits.iter().take_while(|edit| edit.span.range().end <= offset);
        before.fold(offset, |at, edit| (at + edit.text.len()).saturating_sub(edit.span.range().len()))
    }

    /// The ranges of the new text of the edits, after them.
    fn new_ranges(&self, file: FileId) -> Vec<Range<usize>> {
        let mut shift = 0_isize;
        let edits = self.edits_by_file.get(&file).map(Vec::as_slice).unwrap_or_default();
        let new_range = |edit: &Edit| {
            let old = edit.span.range();
            let start = old.start.saturating_add_signed(shift);
            shift += edit.text.len().cast_signed() - old.len().cast_signed();
            start..start + edit.text.len()
        };
        edits.iter().map(new_range).collect()
    }

    fn touches_edit(&self, found: &Diagnostic) -> bool {
        let related = found.related.iter().map(|related| related.span);
        std::iter::once(found.span).chain(related).any(|span| {
            let own = span.range();
            self.new_ranges(span.file).iter().any(|new| new.start < own.end && own.start < new.end)
        })
    }

    /// Whether the finding is inside the value of an entry whose key or value the edit changes.
    fn is_in_edited_value(&self, found: &Diagnostic) -> bool {
        let Some(source) = self.after.loaded.sources.get(found.span.file) else { return false };
        let root = syntax::parse(&source.text, found.span.file).root;
        self.new_ranges(found.span.file).iter().any(|new| {
            let pair = root.as_ref().and_then(|root| tree::path_at(root, new.start).pair());
            pair.is_some_and(|pair| contains(pair.value.span, found.span))
        })
    }

    /// The comments that the edit adds (positive) and removes (negative).
    fn comment_difference(&self) -> BTreeMap<&str, isize> {
        let mut counts: BTreeMap<&str, isize> = BTreeMap::new();
        for (comments, change) in [(&self.before.loaded().comments, -1), (&self.after.loaded.comments, 1)] {
            for comment in comments {
                *counts.entry(comment.text.trim_start_matches('#').trim()).or_default() += change;
            }
        }
        counts.retain(|_, count| *count != 0);
        counts
    }

    fn has_same_tree_outside(&self, file: FileId, unit: &str) -> bool {
        let entries = |text: &str| {
            let parsed = syntax::parse(text, file);
            let mut entries = BTreeMap::new();
            if let Some(root) = &parsed.root {
                collect_entries_outside(root, unit, &mut Vec::new(), &mut entries);
            }
            entries
        };
        let (Some(before), Some(after)) = (self.before.text(file), self.after.loaded.sources.get(file)) else {
            return false;
        };
        let (before, after) = (entries(before.as_str()), entries(&after.text));
        // A refactoring may declare a secret.
        let is_added_secret = |path: &String| path.starts_with("/secrets/") && !before.contains_key(path);
        before.iter().all(|(path, value)| after.get(path) == Some(value))
            && after.keys().all(|path| before.contains_key(path) || is_added_secret(path))
    }
}

/// Whether a fix of one finding may be offered.
#[must_use]
pub fn is_valid_fix(analysis: &Analysis, diagnostic: &Diagnostic, edits: &[Edit]) -> bool {
    CheckedEdit::new(analysis, edits, &[])
        .is_some_and(|checked| checked.clears(diagnostic) && checked.keeps_comments_except_of(diagnostic))
}

/// The edits of the safe fixes in this file that can be applied together.
#[must_use]
pub fn valid_safe_edits(analysis: &Analysis, file: FileId) -> Vec<Edit> {
    let are_valid =
        |edits: &[Edit]| CheckedEdit::new(analysis, edits, &[]).is_some_and(|checked| checked.adds_no_problem());
    let all = &analysis.checked.diagnostics;
    let edits = actions::safe_fix_edits(all, file);
    if edits.is_empty() || are_valid(&edits) {
        return edits;
    }
    // Leave out the fixes that are invalid on their own.
    let is_valid = |diagnostic: &&Diagnostic| {
        let fix = diagnostic.fixes.iter().find(|fix| fix.safe);
        fix.is_some_and(|fix| is_valid_fix(analysis, diagnostic, &fix.edits))
    };
    let in_file = all.iter().filter(|diagnostic| diagnostic.span.file == file);
    let valid: Vec<Diagnostic> = in_file.filter(is_valid).take(CHECKS_MAX).cloned().collect();
    let edits = actions::safe_fix_edits(&valid, file);
    if are_valid(&edits) { edits } else { Vec::new() }
}

/// Whether a refactoring of this unit may be offered.
#[must_use]
pub fn is_valid_refactoring(analysis: &Analysis, action: &Action) -> bool {
    let checked = CheckedEdit::new(analysis, &action.edits, &action.new_files);
    checked.is_some_and(|checked| checked.changes_only_unit(&action.unit))
}

fn contains(outer: Span, inner: Span) -> bool {
    outer.file == inner.file && outer.start <= inner.start && inner.end <= outer.end
}

/// Collects each scalar by its path, except those of this unit and of its overlays in environments. References to the
/// unit's section are the same in all sections, because a refactoring may move the unit.
fn collect_entries_outside(node: &Node, unit: &str, path: &mut Vec<String>, entries: &mut BTreeMap<String, String>) {
    let is_unit = |path: &[String]| match path {
        [section, name] => name == unit && UNIT_SECTIONS.contains(&section.as_str()),
        [environments, _, section, name] => {
            environments == "environments" && name == unit && UNIT_SECTIONS.contains(&section.as_str())
        }
        _ => false,
    };
    let children: Vec<(String, &Node)> = match &node.kind {
        Kind::Map(pairs) => pairs.iter().map(|pair| (pair.key.value.clone(), &pair.value)).collect(),
        Kind::List(items) => items.iter().enumerate().map(|(index, item)| (format!("[{index}]"), item)).collect(),
        Kind::Scalar(scalar) => {
            let text = UNIT_SECTIONS.iter().fold(scalar.text.clone(), |text, section| {
                text.replace(&format!("${{{section}.{unit}."), &format!("${{unit.{unit}."))
            });
            entries.insert(format!("/{}", path.join("/")), format!("{:?} {text}", scalar.value));
            return;
        }
    };
    for (name, child) in children {
        path.push(name);
        if !is_unit(path) {
            collect_entries_outside(child, unit, path, entries);
        }
        path.pop();
    }
}
