//! Definition, references, highlights and rename, all based on the occurrences of names in the files of a manifest.

use std::borrow::Cow;

use manifest::diagnostic::Edit;
use manifest::{FileId, Span, syntax};
use tower_lsp::jsonrpc::{Error, Result};
use tower_lsp::ls_types::*;

use crate::analysis::references::{self, NameKind, Occurrence};
use crate::check::Analysis;
use crate::convert::edits;
use crate::workspace::Snapshot;

/// All occurrences of names, in all files of the analysis.
fn all_occurrences(analysis: &Analysis) -> Vec<Occurrence> {
    // `--set` is a pseudo file for values of the command line.
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
    let mut occurrences = all_occurrences(analysis);
    let is_selected =
        |found: &&Occurrence| found.span.file == file && crate::analysis::tree::touches(found.span, offset);
    let selected = occurrences.iter().find(is_selected)?.clone();
    occurrences.retain(|found| found.kind == selected.kind && found.name == selected.name);
    Some(NameMatch { selected, occurrences })
}

fn location(snapshot: &Snapshot, analysis: &Analysis, span: Span) -> Option<Location> {
    let uri = Uri::from_file_path(analysis.path(span.file)?)?;
    Some(Location { uri, range: snapshot.encoding.range(analysis.text(span.file)?, span.range()) })
}

#[must_use]
pub fn definition(snapshot: &Snapshot, analysis: &Analysis, position: Position) -> Option<GotoDefinitionResponse> {
    let found = find_name(snapshot, analysis, position)?;
    let mut declarations: Vec<&Occurrence> = found.occurrences.iter().filter(|found| found.is_definition).collect();
    if declarations.is_empty() {
        // The name is declared only in an environment.
        declarations = found.occurrences.iter().filter(|found| found.is_overlay).collect();
    }
    let locations = declarations.iter().filter_map(|found| location(snapshot, analysis, found.span)).collect();
    Some(GotoDefinitionResponse::Array(locations))
}

#[must_use]
pub fn find_references(
    snapshot: &Snapshot,
    analysis: &Analysis,
    position: Position,
    include_definition: bool,
) -> Option<Vec<Location>> {
    let found = find_name(snapshot, analysis, position)?;
    let references = found.occurrences.iter().filter(|found| include_definition || !found.is_definition);
    Some(references.filter_map(|found| location(snapshot, analysis, found.span)).collect())
}

#[must_use]
pub fn document_highlights(snapshot: &Snapshot, position: Position) -> Option<Vec<DocumentHighlight>> {
    let root = snapshot.root()?;
    let all = references::occurrences(root, snapshot.text.as_str());
    let selected = references::occurrence_at(&all, snapshot.encoding.offset(&snapshot.text, position))?;
    let same_name = all.iter().filter(|found| found.kind == selected.kind && found.name == selected.name);
    let highlight = |found: &Occurrence| DocumentHighlight {
        range: snapshot.encoding.range(&snapshot.text, found.span.range()),
        kind: Some(if found.is_definition { DocumentHighlightKind::WRITE } else { DocumentHighlightKind::READ }),
    };
    Some(same_name.map(highlight).collect())
}

#[must_use]
pub fn prepare_rename(snapshot: &Snapshot, analysis: &Analysis, position: Position) -> Option<PrepareRenameResponse> {
    let found = find_name(snapshot, analysis, position).filter(is_declared)?;
    let range = location(snapshot, analysis, found.selected.span)?.range;
    Some(PrepareRenameResponse::RangeWithPlaceholder { range, placeholder: found.selected.name })
}

/// Only declared names can be renamed.
fn is_declared(found: &NameMatch) -> bool {
    found.occurrences.iter().any(|found| found.is_definition || found.is_overlay)
}

/// # Errors
/// The new name is invalid or taken. The client shows the message and changes nothing.
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
    if let Some(reason) = references::invalid_name_reason(found.selected.kind, name, &taken) {
        return Err(Error::invalid_params(reason));
    }
    let to_edit = |found: &Occurrence| Edit { span: found.span, text: name.to_owned() };
    let all: Vec<Edit> = found.occurrences.iter().map(to_edit).collect();
    Ok(Some(edits::workspace_edit(analysis, &all, snapshot.encoding)))
}
