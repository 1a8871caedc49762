//! Runs a command in a running container, next to its main program.

use bollard::Docker as Engine;
use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use futures_util::StreamExt;
use tasks::OwnedTask;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::problems::with_timeout;
use super::{READ_TIMEOUT, WRITE_TIMEOUT};
use crate::driver::{ExecInput, ExecOutput, ExecRequest, ExecSession};
use crate::problem::{Problem, ProblemKind};

/// Maximum inputs that wait to be written.
const INPUT_QUEUE_CAPACITY: usize = 64;

pub(super) async fn start_exec(engine: Engine, handle: String, request: ExecRequest) -> Result<ExecSession, Problem> {
    let failure = "cannot run the command";
    let has_terminal = request.terminal_size.is_some();
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(has_terminal),
        env: Some(request.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: Some(request.argv),
        user: request.user,
        working_dir: request.dir,
        ..ExecConfig::default()
    };
    let id = with_timeout(READ_TIMEOUT, failure, engine.create_exec(&handle, config)).await?.id;
    let options = StartExecOptions { detach: false, tty: has_terminal, output_capacity: None };
    let StartExecResults::Attached { output, input } =
        with_timeout(WRITE_TIMEOUT, failure, engine.start_exec(&id, Some(options))).await?
    else {
        return Err(Problem::new(ProblemKind::Internal, format!("{failure}: the engine did not attach")));
    };
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE_CAPACITY);
    // The engine resizes only a started command, so set the size after the start.
    if let Some((rows, columns)) = request.terminal_size {
        resize_terminal(&engine, &id, rows, columns).await;
    }
    let input_task = OwnedTask::spawn(forward_input(engine.clone(), id.clone(), input, receiver));
    let output_items = output.filter_map(|item| async move {
        // Errors of the stream are skipped, because the exit code that follows reports the result. With a terminal, the
        // engine sends one combined stream, which counts as standard output.
        Some(match item.ok()? {
            LogOutput::StdErr { message } => ExecOutput::Stderr(message),
            other => ExecOutput::Stdout(other.into_bytes()),
        })
    });
    let exit_item = futures_util::stream::once(async move {
        // The exit code is known only after the output has ended. 255 means that the engine does not report it.
        let code = with_timeout(READ_TIMEOUT, failure, engine.inspect_exec(&id))
            .await
            .ok()
            .and_then(|response| response.exit_code);
        // The task ends with the command, or when the output is dropped.
        drop(input_task);
        ExecOutput::Exit(code.and_then(|code| i32::try_from(code).ok()).unwrap_or(255))
    });
    Ok(ExecSession { input: sender, output: output_items.chain(exit_item).boxed() })
}

/// Ends when the caller drops its sender or the command closes its input.
async fn forward_input(
    engine: Engine,
    id: String,
    mut input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    mut receiver: mpsc::Receiver<ExecInput>,
) {
    while let Some(message) = receiver.recv().await {
        let result = match message {
            ExecInput::Bytes(bytes) => input.write_all(&bytes).await,
            ExecInput::Close => input.shutdown().await,
            ExecInput::Resize { rows, columns } => {
                resize_terminal(&engine, &id, rows, columns).await;
                Ok(())
            }
        };
        if result.is_err() {
            return;
        }
    }
}

/// Failing to set the size is no reason to end the command, so the error is only logged.
async fn resize_terminal(engine: &Engine, id: &str, rows: u16, columns: u16) {
    let options = ResizeExecOptionsBuilder::default().h(i32::from(rows)).w(i32::from(columns)).build();
    if let Err(problem) =
        with_timeout(READ_TIMEOUT, "cannot resize the terminal", engine.resize_exec(id, options)).await
    {
        tracing::debug!(%problem, "terminal size not set");
    }
}
