//! Secrets, through `pdev secret`: `pdev.keep` stores a literal of the manifest, and an `up` first delivers the stored
//! ones.
//!
//! The server runs the command instead of opening the vault, so it never holds a stored value. A literal is written
//! only to the command's standard input: other users can read arguments, and logs and messages are kept.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Leaves time for the user to unlock the keyring.
const TIMEOUT: Duration = Duration::from_secs(60);
const MESSAGE_CHARACTERS_MAX: usize = 300;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Sets the program that runs `secret`, if it is not the current one. Call it once, before the server starts.
pub fn set_program(program: PathBuf) {
    drop(PROGRAM.set(program));
}

/// # Errors
/// The message of the failed command.
pub async fn store_secret(folder: &Path, name: &str, value: &str) -> Result<(), String> {
    run_secret_command(folder, &["set", name], value).await
}

/// Delivers the secrets to the agent before an `up`, like `pdev up`, because the agent cannot read a manifest's secrets
/// from the vault.
///
/// # Errors
/// The message of the failed command.
pub async fn deliver_secrets(folder: &Path, environment: &str) -> Result<(), String> {
    run_secret_command(folder, &["deliver", "--env", environment], "").await
}

async fn run_secret_command(folder: &Path, arguments: &[&str], input: &str) -> Result<(), String> {
    let program = match PROGRAM.get() {
        Some(program) => program.clone(),
        None => std::env::current_exe().map_err(|error| format!("cannot find the path of this program: {error}"))?,
    };
    let mut command = Command::new(program);
    // After the timeout the child must not keep waiting for the keyring, so it is killed when it is dropped.
    command.arg("secret").args(arguments).current_dir(folder).kill_on_drop(true);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("cannot start `pdev secret`: {error}"))?;
    let completion = async {
        if let Some(mut pipe) = child.stdin.take() {
            // A command that fails early does not read its input. Ignore the broken pipe; stderr has the reason.
            drop(pipe.write_all(input.as_bytes()).await);
        }
        child.wait_with_output().await.map_err(|error| format!("cannot read the result of `pdev secret`: {error}"))
    };
    let output = tokio::time::timeout(TIMEOUT, completion)
        .await
        .map_err(|_| "the vault was not unlocked in time".to_owned())??;
    if output.status.success() {
        return Ok(());
    }
    let stderr_text = String::from_utf8_lossy(&output.stderr);
    Err(stderr_text.trim().chars().take(MESSAGE_CHARACTERS_MAX).collect())
}
