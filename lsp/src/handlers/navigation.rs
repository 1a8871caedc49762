//! Definition, references, highlights and rename: one list of occurrences over all files of a manifest.

use std::borrow::Cow;

use manifest::diagnostic::Edit;
use manifest::{FileId, Span, syntax};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::ls_types::*;

use crate::analysis::references::{self, NameKind, Occurrence};
use crate::check::Analysis;
use crate::convert::edits;
use crate::workspace::Snapshot;

/// Everything named in every file of the reading.
fn all_occurrences(analysis: &Analysis) -> Vec<Occurrence> {
    let files = analysis.loaded().sources.iter().filter(|(_, source)| source.path != "--set");
    let of_file = |(file, source): (FileId, &manifest::text::Source)| {
        let root = match (&analysis.loaded().root, file) {
            (Some(root), FileId(0)) => Some(Cow::Borrowed(root)),
            (None, FileId(0)) => None,
            _ => syntax::parse(&source.text, file).root.map(Cow::Owned),
        };
        root.map(|root| references::occurrences(&root, &source.text)).unwrap_or_default()
    };
    files.flat_map(of_file).collect()
}

struct NameMatch {
    selected: Occurrence,
    occurrences: Vec<Occurrence>,
}

fn find_name(snapshot: &Snapshot, analysis: &Analysis, position: Position) -> Option<NameMatch> {
    let file = analysis.file_id(&snapshot.path)?;
    let offset = snapshot.encoding.offset(analysis.text(file)?, position);
    let mut all = all_occurrences(analysis);
    let own = all.iter().find(|one| one.span.file == file && crate::analysis::tree::touches(one.span, offset))?.clone();
    all.retain(|one| one.kind == own.kind && one.name == own.name);
    Some(NameMatch { selected: own, occurrences: all })
}

fn location(snapshot: &Snapshot, analysis: &Analysis, span: Span) -> Option<Location> {
    let uri = Uri::from_file_path(analysis.path(span.file)?)?;
    Some(Location { uri, range: snapshot.encoding.range(analysis.text(span.file)?, span.range()) })
}

#[must_use]
pub fn definition(snapshot: &Snapshot, analysis: &Analysis, position: Position) -> Option<GotoDefinitionResponse> {
    let found = find_name(snapshot, analysis, position)?;
    let mut places: Vec<&Occurrence> = found.occurrences.iter().filter(|one| one.is_definition).collect();
    if places.is_empty() {
        // Declared in an environment only.
        places = found.occurrences.iter().filter(|one| one.is_overlay).collect();
    }
    let all = places.iter().filter_map(|one| location(snapshot, analysis, one.span)).collect();
    Some(GotoDefinitionResponse::Array(all))
}

#[must_use]
pub fn find_references(
    snapshot: &Snapshot,
    analysis: &Analysis,
    position: Position,
    with_own: bool,
) -> Option<Vec<Location>> {
    let found = find_name(snapshot, analysis, position)?;
    let wanted = found.occurrences.iter().filter(|one| with_own || !one.is_definition);
    Some(wanted.filter_map(|one| location(snapshot, analysis, one.span)).collect())
}

#[must_use]
pub fn document_highlights(snapshot: &Snapshot, position: Position) -> Option<Vec<DocumentHighlight>> {
    let root = snapshot.root()?;
    let all = references::occurrences(root, snapshot.text.as_str());
    let own = references::occurrence_at(&all, snapshot.encoding.offset(&snapshot.text, position))?;
    let same = all.iter().filter(|one| one.kind == own.kind && one.name == own.name);
    let highlight = |one: &Occurrence| DocumentHighlight {
        range: snapshot.encoding.range(&snapshot.text, one.span.range()),
        kind: Some(if one.is_definition { DocumentHighlightKind::WRITE } else { DocumentHighlightKind::READ }),
    };
    Some(same.map(highlight).collect())
}

#[must_use]
pub fn prepare_rename(snapshot: &Snapshot, analysis: &Analysis, position: Position) -> Option<PrepareRenameResponse> {
    let found = find_name(snapshot, analysis, position).filter(is_declared)?;
    let range = location(snapshot, analysis, found.selected.span)?.range;
    Some(PrepareRenameResponse::RangeWithPlaceholder { range, placeholder: found.selected.name })
}

/// A name that nobody declares has nothing to be renamed.
fn is_declared(found: &NameMatch) -> bool {
    found.occurrences.iter().any(|one| one.is_definition || one.is_overlay)
}

/// # Errors
/// A name that cannot be one, or that is taken: told to the user, nothing is changed.
pub fn rename(
    snapshot: &Snapshot,
    analysis: &Analysis,
    position: Position,
    name: &str,
) -> Result<Option<WorkspaceEdit>> {
    let Some(found) = find_name(snapshot, analysis, position).filter(is_declared) else { return Ok(None) };
    let manifest = &analysis.loaded().manifest;
    let taken: Vec<&str> = match found.selected.kind {
        NameKind::Unit => {
            let units = manifest.services.keys().chain(manifest.jobs.keys()).chain(manifest.resources.keys());
            units.map(String::as_str).collect()
        }
        NameKind::Secret => manifest.secrets.keys().map(String::as_str).collect(),
        NameKind::Identity => manifest.identities.keys().map(String::as_str).collect(),
        NameKind::Variable => manifest.vars.keys().map(String::as_str).collect(),
        NameKind::Environment => manifest.environments.keys().map(String::as_str).collect(),
    };
    if name == found.selected.name {
        return Ok(Some(WorkspaceEdit::default()));
    }
    if let Some(words) = references::invalid_name_reason(found.selected.kind, name, &taken) {
        return Err(Error::invalid_params(words));
    }
    let all: Vec<Edit> = found.occurrences.iter().map(|one| Edit { span: one.span, text: name.to_owned() }).collect();
    Ok(Some(edits::workspace_edit(analysis, &all, snapshot.encoding)))
}
