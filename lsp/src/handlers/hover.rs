//! `textDocument/hover`.

use tower_lsp::ls_types::*;

use crate::analysis::hover::{HoverContext, hover};
use crate::check::Analysis;
use crate::workspace::Snapshot;

#[must_use]
pub fn hover_response(
    snapshot: &Snapshot,
    analysis: &Analysis,
    markdown: bool,
    position: Position,
    live: Option<String>,
) -> Option<Hover> {
    let context = HoverContext {
        root: snapshot.root()?,
        text: snapshot.text.as_str(),
        loaded: analysis.loaded(),
        resolve_unit: &|unit| analysis.resolve_unit(unit),
        files: &analysis.buffers,
    };
    let mut result = hover(&context, snapshot.encoding.offset(&snapshot.text, position))?;
    // The running values come first: they are facts, and the text below may be long.
    if let Some(live) = live {
        result.text = format!("{live}\n\n---\n\n{}", result.text);
    }
    let kind = if markdown { MarkupKind::Markdown } else { MarkupKind::PlainText };
    Some(Hover {
        contents: HoverContents::Markup(MarkupContent { kind, value: result.text }),
        range: Some(snapshot.encoding.range(&snapshot.text, result.range)),
    })
}
