//! Edits of the analysis, converted to workspace edits.

use std::collections::HashMap;

use manifest::diagnostic::Edit;
use tower_lsp::ls_types::*;

use super::Encoding;
use crate::analysis::actions::Action;
use crate::check::Analysis;
use crate::text::Text;

#[must_use]
pub fn workspace_edit(analysis: &Analysis, edits: &[Edit], encoding: Encoding) -> WorkspaceEdit {
    let mut changes: HashMap<Uri, Vec<TextEdit>> = HashMap::new();
    for edit in edits {
        let file = edit.span.file;
        let (Some(path), Some(text)) = (analysis.path(file), analysis.text(file)) else { continue };
        let Some(uri) = Uri::from_file_path(path) else { continue };
        changes.entry(uri).or_default().push(text_edit(text, edit, encoding));
    }
    WorkspaceEdit { changes: Some(changes), ..WorkspaceEdit::default() }
}

/// Like [`workspace_edit`], but also creates files. Only for clients that can create files.
#[must_use]
pub fn workspace_edit_with_new_files(analysis: &Analysis, action: &Action, encoding: Encoding) -> WorkspaceEdit {
    let edit = |uri: Uri, edits: Vec<TextEdit>| {
        let text_document = OptionalVersionedTextDocumentIdentifier { uri, version: None };
        let edits = edits.into_iter().map(OneOf::Left).collect();
        DocumentChangeOperation::Edit(TextDocumentEdit { text_document, edits })
    };
    let mut operations = Vec::new();
    for file in &action.new_files {
        let Some(uri) = Uri::from_file_path(analysis.buffers.path(&file.path)) else { continue };
        let options = CreateFileOptions { overwrite: Some(false), ignore_if_exists: Some(false) };
        let create = CreateFile { uri: uri.clone(), options: Some(options), annotation_id: None };
        operations.push(DocumentChangeOperation::Op(ResourceOp::Create(create)));
        operations.push(edit(uri, vec![TextEdit { range: Range::default(), new_text: file.text.clone() }]));
    }
    let changes = workspace_edit(analysis, &action.edits, encoding).changes.unwrap_or_default();
    // New files come first: an edit may refer to them.
    operations.extend(changes.into_iter().map(|(uri, edits)| edit(uri, edits)));
    WorkspaceEdit { document_changes: Some(DocumentChanges::Operations(operations)), ..WorkspaceEdit::default() }
}

#[must_use]
pub fn text_edit(text: &Text, edit: &Edit, encoding: Encoding) -> TextEdit {
    // Use the line endings of the file.
    let needs_crlf = edit.text.contains('\n') && !edit.text.contains('\r') && text.as_str().contains("\r\n");
    let new_text = if needs_crlf { edit.text.replace('\n', "\r\n") } else { edit.text.clone() };
    TextEdit { range: encoding.range(text, edit.span.range()), new_text }
}
