//! Texts that a command shows as a document: read-only files for this user, in a private folder that the server removes
//! when it ends. Real files work in every client; a custom URI scheme would need client support.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tower_lsp::ls_types::{ShowDocumentParams, Uri};

use crate::server_state::ServerState;

/// The folder, created for the first document.
#[derive(Debug, Default)]
pub struct DocumentFolder(Option<PathBuf>);

impl DocumentFolder {
    fn ensure_folder(&mut self) -> io::Result<&Path> {
        if self.0.is_none() {
            let path = host::files::create_unpredictable_folder(&std::env::temp_dir(), "pdev-lsp-")?;
            self.0 = Some(path);
        }
        Ok(self.0.as_deref().unwrap_or_else(|| Path::new(".")))
    }

    fn write(&mut self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.ensure_folder()?.join(name);
        // The previous version is read-only (0400), so it is replaced, not overwritten.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o400).open(&path)?;
        file.write_all(text.as_bytes())?;
        Ok(path)
    }
}

impl Drop for DocumentFolder {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // A leftover is in the temporary folder, which the system cleans.
            drop(fs::remove_dir_all(path));
        }
    }
}

/// Shows the text as a document in the editor. Returns its URI too, for clients that open it themselves.
///
/// # Errors
/// The message of the operating system.
pub fn show(state: &ServerState, name: &str, text: &str) -> Result<Value, String> {
    let file_name: String = name
        .chars()
        .map(|letter| if letter.is_alphanumeric() || "-.".contains(letter) { letter } else { '-' })
        .collect();
    let path = state
        .with_virtual_documents(|folder| folder.write(&file_name, text))
        .map_err(|error| format!("cannot write the document `{file_name}`: {error}"))?;
    let uri = Uri::from_file_path(&path).ok_or("the path of the document is not a valid URI")?;
    if state.client_capabilities().show_document {
        let client = state.client.clone();
        let params =
            ShowDocumentParams { uri: uri.clone(), external: Some(false), take_focus: Some(true), selection: None };
        state.tasks.spawn(async move { drop(client.show_document(params).await) });
    }
    Ok(json!({ "uri": uri, "text": text }))
}
