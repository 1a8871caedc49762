//! Runs single commands inside a unit: probes, and the commands of modules.

use drivers::Scope;
use drivers::driver::{ExecOutput, ExecRequest};
use futures_util::StreamExt;
use plan::application::{Argv, Unit};

use super::Context;

/// Runs a command inside a unit, and returns its exit code and the last lines of its output.
pub(super) async fn run_command(
    context: &Context,
    scope: &Scope,
    unit: &Unit,
    argv: &Argv,
) -> Result<(i32, Vec<String>), String> {
    let argv = match argv {
        Argv::List(arguments) => arguments.clone(),
        Argv::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
    };
    let driver = context.shared.drivers.driver_of(&scope.targets, unit.runtime).map_err(|problem| problem.message)?;
    let request = ExecRequest { argv, ..ExecRequest::default() };
    let mut session = driver.exec(scope, unit, request).await.map_err(|problem| problem.message)?;
    let mut text = Vec::new();
    while let Some(output) = session.output.next().await {
        match output {
            ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => {
                text.extend_from_slice(&bytes);
                // Only the end is shown, so 16 KiB are enough.
                let surplus = text.len().saturating_sub(16 << 10);
                text.drain(..surplus);
            }
            ExecOutput::Exit(code) => {
                let lines = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
                return Ok((code, lines));
            }
        }
    }
    Err("the command ended without an exit code".into())
}
