//! Edits of the analysis as the client applies them.

use std::collections::HashMap;

use manifest::diagnostic::Edit;
use tower_lsp::ls_types::{TextEdit, Uri, WorkspaceEdit};

use super::Encoding;
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

#[must_use]
pub fn text_edit(text: &Text, edit: &Edit, encoding: Encoding) -> TextEdit {
    TextEdit { range: encoding.range(text, edit.span.range()), new_text: edit.text.clone() }
}
