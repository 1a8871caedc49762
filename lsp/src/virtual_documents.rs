//! Texts that a command shows as a document: files that nobody else can read and nobody can change, in a folder of this
//! process's own, gone with it. No client has to know a scheme of ours for that.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tower_lsp::ls_types::{ShowDocumentParams, Uri};

use crate::server_state::ServerState;

/// The folder, made when the first text is shown.
#[derive(Debug, Default)]
pub struct DocumentFolder(Option<PathBuf>);

impl DocumentFolder {
    fn ensure_folder(&mut self) -> io::Result<&Path> {
        if self.0.is_none() {
            let path = unique_folder_path();
            // One that is there already was left by a process of the same number, or is somebody's trap.
            match fs::symlink_metadata(&path) {
                Ok(found) if found.is_dir() => fs::remove_dir_all(&path)?,
                Ok(_) => fs::remove_file(&path)?,
                Err(_) => {}
            }
            fs::DirBuilder::new().mode(0o700).create(&path)?;
            self.0 = Some(path);
        }
        Ok(self.0.as_deref().unwrap_or_else(|| Path::new(".")))
    }

    fn write(&mut self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.ensure_folder()?.join(name);
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
            // What cannot be removed is the system's to clean: it lies among temporary files.
            drop(fs::remove_dir_all(path));
        }
    }
}

/// Several servers of one process, as in tests, do not share one.
fn unique_folder_path() -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("pdev-lsp-{}-{number}", std::process::id()))
}

/// Shows the text as a document in the editor; the answer has where it is, for clients that open it themselves.
///
/// # Errors
/// In the operating system's words.
pub fn show(state: &ServerState, name: &str, text: &str) -> Result<Value, String> {
    let kept: String = name
        .chars()
        .map(|letter| if letter.is_alphanumeric() || "-.".contains(letter) { letter } else { '-' })
        .collect();
    let path = state
        .with_virtual_documents(|folder| folder.write(&kept, text))
        .map_err(|error| format!("cannot write it: {error}"))?;
    let uri = Uri::from_file_path(&path).ok_or("its path is no URI")?;
    if state.client_capabilities().show_document {
        let client = state.client.clone();
        let params =
            ShowDocumentParams { uri: uri.clone(), external: Some(false), take_focus: Some(true), selection: None };
        drop(tokio::spawn(async move { client.show_document(params).await }));
    }
    Ok(json!({ "uri": uri, "text": text }))
}
