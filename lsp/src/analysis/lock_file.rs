//! `pdev.lock`: the module that each entry pins, and whether the installed one matches.
//!
//! It offers no edits, because pdev writes this file, not the user.

use std::ops::Range;

use catalog::{Lock, LockEntry};
use manifest::{Diagnostic, FileId, Files, Severity, Span, Spanned};

use crate::text::Text;

/// One `[[module]]` table and its byte range.
struct Entry {
    locked: LockEntry,
    range: Range<usize>,
    /// The value of `tree`, where a difference is reported.
    tree_range: Range<usize>,
}

fn parse_entries(text: &Text) -> Vec<Entry> {
    let Ok(lock) = Lock::parse(text.as_str()) else { return Vec::new() };
    let header_lines: Vec<usize> =
        (0..text.line_count()).filter(|line| text.line(*line).trim() == "[[module]]").collect();
    let entry = |(index, header): (usize, &usize)| {
        let until = header_lines.get(index + 1).copied().unwrap_or(text.line_count());
        let value = |key: &str| {
            (*header..until).find_map(|line| {
                let (name, _) = text.line(line).split_once('=')?;
                let range = text.line_range(line);
                (name.trim() == key).then(|| range.start + name.len() + 1..range.end)
            })
        };
        let value_text = |range: &Range<usize>| text.as_str()[range.clone()].trim().trim_matches('"').to_owned();
        let locked = lock.modules.get(&value_text(&value("uses")?))?.clone();
        let tree = value("tree").unwrap_or_else(|| text.line_range(*header));
        let content = text.as_str()[tree.clone()].len() - text.as_str()[tree.clone()].trim_start().len();
        Some(Entry {
            locked,
            range: text.line_start(*header)..text.line_start(until),
            tree_range: tree.start + content..tree.end,
        })
    };
    header_lines.iter().enumerate().filter_map(entry).collect()
}

/// Reports a lock file that does not parse, and entries that differ from the installed module.
#[must_use]
pub fn lock_diagnostics(text: &Text, files: &dyn Files) -> Vec<Diagnostic> {
    if let Err(message) = Lock::parse(text.as_str()) {
        let line = (0..text.line_count()).find(|line| text.line(*line).starts_with("<<<<<<< ")).unwrap_or(0);
        let range = text.line_range(line);
        let span = Span::new(FileId(0), range.start, range.end);
        return vec![Diagnostic::new(catalog::codes::BAD_LOCK, Severity::Error, span, message)];
    }
    let difference = |entry: Entry| {
        let span = Span::new(FileId(0), entry.tree_range.start, entry.tree_range.end);
        let found = find_locked_module(&entry.locked, files).ok()?;
        let lock = Lock { modules: [(entry.locked.uses.clone(), entry.locked)].into() };
        // The manifest reports the same difference as a warning, so this is only an information.
        lock.detect_change(&found, span).map(|found| Diagnostic { severity: Severity::Info, ..found })
    };
    parse_entries(text).into_iter().filter_map(difference).collect()
}

fn find_locked_module(entry: &LockEntry, files: &dyn Files) -> Result<catalog::ResolvedModule, Vec<Diagnostic>> {
    catalog::resolve_module(&Spanned::new(entry.uses.clone(), Span::default()), files)
}

/// The description of the entry under the cursor, as Markdown, and its byte range.
#[must_use]
pub fn hover(text: &Text, files: &dyn Files, offset: usize) -> Option<(String, Range<usize>)> {
    let entry = parse_entries(text).into_iter().find(|entry| entry.range.contains(&offset))?;
    let locked = &entry.locked;
    let state = match find_locked_module(locked, files) {
        Err(problems) => problems.into_iter().next().map(|problem| problem.message).unwrap_or_default(),
        Ok(found) if found.module.tree_hash == locked.tree => "The installed files match the pinned ones.".to_owned(),
        Ok(found) => format!(
            "The installed files do **not** match the pinned ones: they are {} {}. `pdev up` updates the lock.",
            found.module.name, found.module.version
        ),
    };
    let short: String = locked.tree.chars().take(12).collect();
    let description = format!(
        "**{}** is pinned to version {}, {}, with the files `{short}`.\n\n{state}",
        locked.uses, locked.version, locked.source
    );
    let end = text.as_str()[entry.range.clone()].trim_end().len();
    Some((description, entry.range.start..entry.range.start + end))
}
