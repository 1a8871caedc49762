//! Secrets, by the very commands a person would type, because no value may pass through here but the one that stands in the
//! text: `pdev.keep` puts that into the vault, and before an `up` the kept ones are handed to the agent.
//!
//! A value goes to a command's standard input only: into no argument, log or message.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// A keyring may ask its owner to unlock it.
const TIMEOUT: Duration = Duration::from_secs(60);
const MESSAGE_CHARACTERS_MAX: usize = 300;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Whose `secret set` keeps values, where it is not this very program. Said once, before anybody is served.
pub fn set_program(program: PathBuf) {
    drop(PROGRAM.set(program));
}

/// # Errors
/// In the words of the command that refused.
pub async fn store_secret(folder: &Path, name: &str, value: &str) -> Result<(), String> {
    run_secret_command(folder, &["set", name], value).await
}

/// What `pdev up` does before it asks: the agent has no way to the vault of a manifest's secrets.
///
/// # Errors
/// In the words of the command that refused.
pub async fn deliver_secrets(folder: &Path, environment: &str) -> Result<(), String> {
    run_secret_command(folder, &["deliver", "--env", environment], "").await
}

async fn run_secret_command(folder: &Path, words: &[&str], input: &str) -> Result<(), String> {
    let program = match PROGRAM.get() {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| format!("cannot tell which program this is: {error}"))?,
    };
    let mut command = Command::new(program);
    command.arg("secret").args(words).current_dir(folder).kill_on_drop(true);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start `pdev secret`: {error}"))?;
    let finished = async {
        if let Some(mut pipe) = child.stdin.take() {
            // A program that refuses early does not read; its words say why.
            drop(pipe.write_all(input.as_bytes()).await);
        }
        child.wait_with_output().await.map_err(|error| format!("`pdev secret` cannot be waited for: {error}"))
    };
    let output =
        tokio::time::timeout(TIMEOUT, finished).await.map_err(|_| "the vault did not open in time".to_owned())??;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(words.trim().chars().take(MESSAGE_CHARACTERS_MAX).collect())
}
