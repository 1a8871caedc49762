//! `textDocument/completion` and `completionItem/resolve`.

use serde_json::{Value, json};
use tower_lsp::ls_types::*;

use crate::analysis::completion::{self, CompletionContext, DocTarget, Item, ItemKind};
use crate::check::Analysis;
use crate::client_capabilities::ClientCapabilities;
use crate::workspace::Snapshot;

#[must_use]
pub fn completion_items(
    snapshot: &Snapshot,
    analysis: &Analysis,
    capabilities: ClientCapabilities,
    position: Position,
) -> Vec<CompletionItem> {
    let context = CompletionContext {
        text: &snapshot.text,
        offset: snapshot.encoding.offset(&snapshot.text, position),
        manifest: &analysis.loaded().manifest,
        files: &analysis.buffers,
        variables: analysis.variables(),
        editor_indents: !capabilities.insert_text_as_is,
    };
    let convert = |(index, item)| completion_item(snapshot, capabilities, index, item);
    completion::complete(&context).into_iter().enumerate().map(convert).collect()
}

pub(super) fn completion_item(
    snapshot: &Snapshot,
    capabilities: ClientCapabilities,
    index: usize,
    item: Item,
) -> CompletionItem {
    let new_text = if capabilities.snippets { item.snippet } else { completion::snippet_to_plain_text(&item.snippet) };
    let range = snapshot.encoding.range(&snapshot.text, item.replace_range.clone());
    let typed = snapshot.text.as_str().get(item.replace_range).unwrap_or_default();
    // Labels of snippets are phrases. Without this the client would hide them at the first typed letter of a name.
    let quote = typed.chars().next().filter(|first| ['"', '\''].contains(first));
    let filter = match (item.kind, quote) {
        (ItemKind::Snippet, _) => Some(format!("{typed}{}", item.label)),
        // The client compares the filter with the replaced text, which begins with the quote.
        (_, Some(quote)) => Some(format!("{quote}{}", item.label)),
        _ => None,
    };
    CompletionItem {
        label: item.label,
        kind: Some(match item.kind {
            ItemKind::Key => CompletionItemKind::PROPERTY,
            ItemKind::Value => CompletionItemKind::ENUM_MEMBER,
            ItemKind::Name => CompletionItemKind::REFERENCE,
            ItemKind::Module => CompletionItemKind::MODULE,
            ItemKind::Field => CompletionItemKind::FIELD,
            ItemKind::Snippet => CompletionItemKind::SNIPPET,
        }),
        detail: (!item.detail.is_empty()).then_some(item.detail),
        sort_text: Some(format!("{}{index:03}", item.rank)),
        filter_text: filter,
        insert_text_format: Some(if capabilities.snippets {
            InsertTextFormat::SNIPPET
        } else {
            InsertTextFormat::PLAIN_TEXT
        }),
        insert_text_mode: capabilities.insert_text_as_is.then_some(InsertTextMode::AS_IS),
        text_edit: Some(CompletionTextEdit::Edit(TextEdit { range, new_text })),
        data: item.doc_target.map(|about| json!({ "uri": snapshot.uri, "about": about })),
        ..CompletionItem::default()
    }
}

/// The file of a completion item, and the target of its documentation.
#[must_use]
pub fn parse_item_data(data: Option<&Value>) -> Option<(Uri, DocTarget)> {
    let data = data?;
    let uri = serde_json::from_value(data.get("uri")?.clone()).ok()?;
    Some((uri, serde_json::from_value(data.get("about")?.clone()).ok()?))
}

#[must_use]
pub fn with_documentation(mut item: CompletionItem, about: &DocTarget, analysis: &Analysis) -> CompletionItem {
    let markup = |value| Documentation::MarkupContent(MarkupContent { kind: MarkupKind::Markdown, value });
    item.documentation = completion::docs(about, &analysis.buffers).map(markup);
    item
}
