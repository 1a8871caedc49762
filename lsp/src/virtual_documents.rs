//! Texts that a command shows as a document: read-only files for this user, in a private folder that the server removes
//! when it ends. Real files work in every client; a custom URI scheme would need client support.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
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
            let path = unique_folder_path();
            // An existing entry is left over from a process with the same id, or another user put it there. Do not
            // reuse it, and do not follow it if it is a symbolic link.
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path)?,
                Ok(_) => fs::remove_file(&path)?,
                Err(_) => {}
            }
            // 0700: other users cannot read, add or replace files in the folder.
            fs::DirBuilder::new().mode(0o700).create(&path)?;
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

/// Includes a counter, because several servers may run in one process, as in tests.
fn unique_folder_path() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("pdev-lsp-{}-{number}", std::process::id()))
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
