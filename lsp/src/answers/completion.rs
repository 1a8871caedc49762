//! `textDocument/completion` and `completionItem/resolve`.

use serde_json::{Value, json};
use tower_lsp::ls_types::*;

use crate::analysis::completion::{self, About, Item, Kind, Scene};
use crate::check::Analysis;
use crate::client_can::ClientCan;
use crate::workspace::Snapshot;

#[must_use]
pub fn answer(snapshot: &Snapshot, analysis: &Analysis, can: ClientCan, position: Position) -> Vec<CompletionItem> {
    let scene = Scene {
        text: &snapshot.text,
        offset: snapshot.encoding.offset(&snapshot.text, position),
        manifest: &analysis.loaded().manifest,
        files: &analysis.buffers,
        editor_indents: !can.inserts_as_is,
    };
    let convert = |(index, item)| completion_item(snapshot, can, index, item);
    completion::complete(&scene).into_iter().enumerate().map(convert).collect()
}

pub(super) fn completion_item(snapshot: &Snapshot, can: ClientCan, index: usize, item: Item) -> CompletionItem {
    let new_text = if can.snippets { item.snippet } else { completion::plain(&item.snippet) };
    let range = snapshot.encoding.range(&snapshot.text, item.replace.clone());
    let typed = snapshot.text.as_str().get(item.replace).unwrap_or_default();
    // Entries are named in words; they must not vanish with the first letter of a name.
    let filter = (item.kind == Kind::Snippet).then(|| format!("{typed}{}", item.label));
    CompletionItem {
        label: item.label,
        kind: Some(match item.kind {
            Kind::Key => CompletionItemKind::PROPERTY,
            Kind::Value => CompletionItemKind::ENUM_MEMBER,
            Kind::Name => CompletionItemKind::REFERENCE,
            Kind::Module => CompletionItemKind::MODULE,
            Kind::Field => CompletionItemKind::FIELD,
            Kind::Snippet => CompletionItemKind::SNIPPET,
        }),
        detail: (!item.detail.is_empty()).then_some(item.detail),
        sort_text: Some(format!("{}{index:03}", item.rank)),
        filter_text: filter,
        insert_text_format: Some(if can.snippets { InsertTextFormat::SNIPPET } else { InsertTextFormat::PLAIN_TEXT }),
        insert_text_mode: can.inserts_as_is.then_some(InsertTextMode::AS_IS),
        text_edit: Some(CompletionTextEdit::Edit(TextEdit { range, new_text })),
        data: item.about.map(|about| json!({ "uri": snapshot.uri, "about": about })),
        ..CompletionItem::default()
    }
}

/// The file an item belongs to, and what its documentation is about.
#[must_use]
pub fn about(data: Option<&Value>) -> Option<(Uri, About)> {
    let data = data?;
    let uri = serde_json::from_value(data.get("uri")?.clone()).ok()?;
    Some((uri, serde_json::from_value(data.get("about")?.clone()).ok()?))
}

#[must_use]
pub fn documented(mut item: CompletionItem, about: &About, analysis: &Analysis) -> CompletionItem {
    let markup = |value| Documentation::MarkupContent(MarkupContent { kind: MarkupKind::Markdown, value });
    item.documentation = completion::docs(about, &analysis.buffers).map(markup);
    item
}
