//! A command beside a running container's program.

use bollard::Docker as Engine;
use bollard::container::LogOutput;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::ExecConfig;
use bollard::query_parameters::ResizeExecOptionsBuilder;
use futures_util::StreamExt;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::problems::with_timeout;
use super::{READ_TIMEOUT, WRITE_TIMEOUT};
use crate::driver::{ExecInput, ExecOutput, ExecRequest, ExecSession, Problem, ProblemKind};

/// Inputs waiting to be written.
const INPUT_QUEUE_CAPACITY: usize = 64;

pub(super) async fn start_exec(engine: Engine, handle: String, request: ExecRequest) -> Result<ExecSession, Problem> {
    let what = "cannot run the command";
    let tty = request.terminal_size.is_some();
    let config = ExecConfig {
        attach_stdin: Some(true),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(tty),
        env: Some(request.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        cmd: Some(request.argv),
        user: request.user,
        working_dir: request.dir,
        ..ExecConfig::default()
    };
    let id = with_timeout(READ_TIMEOUT, what, engine.create_exec(&handle, config)).await?.id;
    let options = StartExecOptions { detach: false, tty, output_capacity: None };
    let StartExecResults::Attached { output, input } =
        with_timeout(WRITE_TIMEOUT, what, engine.start_exec(&id, Some(options))).await?
    else {
        return Err(Problem::new(ProblemKind::Internal, format!("{what}: the engine did not attach")));
    };
    let (sender, receiver) = mpsc::channel(INPUT_QUEUE_CAPACITY);
    if let Some((rows, columns)) = request.terminal_size {
        resize_terminal(&engine, &id, rows, columns).await;
    }
    tokio::spawn(forward_input(engine.clone(), id.clone(), input, receiver));
    let texts = output.filter_map(|piece| async move {
        Some(match piece.ok()? {
            LogOutput::StdErr { message } => ExecOutput::Stderr(message),
            other => ExecOutput::Stdout(other.into_bytes()),
        })
    });
    let end = futures_util::stream::once(async move {
        let code =
            with_timeout(READ_TIMEOUT, what, engine.inspect_exec(&id)).await.ok().and_then(|answer| answer.exit_code);
        ExecOutput::Exit(code.and_then(|code| i32::try_from(code).ok()).unwrap_or(255))
    });
    Ok(ExecSession { input: sender, output: texts.chain(end).boxed() })
}

/// Ends when the caller drops its sender or the command closes its input.
async fn forward_input(
    engine: Engine,
    id: String,
    mut input: std::pin::Pin<Box<dyn tokio::io::AsyncWrite + Send>>,
    mut receiver: mpsc::Receiver<ExecInput>,
) {
    while let Some(next) = receiver.recv().await {
        let written = match next {
            ExecInput::Bytes(bytes) => input.write_all(&bytes).await,
            ExecInput::Close => input.shutdown().await,
            ExecInput::Resize { rows, columns } => {
                resize_terminal(&engine, &id, rows, columns).await;
                Ok(())
            }
        };
        if written.is_err() {
            return;
        }
    }
}

/// A size that could not be set is no reason to end the command.
async fn resize_terminal(engine: &Engine, id: &str, rows: u16, columns: u16) {
    let options = ResizeExecOptionsBuilder::default().h(i32::from(rows)).w(i32::from(columns)).build();
    if let Err(problem) =
        with_timeout(READ_TIMEOUT, "cannot resize the terminal", engine.resize_exec(id, options)).await
    {
        tracing::debug!(%problem, "terminal size not set");
    }
}
