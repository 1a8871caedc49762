//! `pdev exec`: runs a command inside a unit, with its terminal, its input and its exit code.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};

use client::{ExecReader, ExecWriter};
use protocol::exec::{ExecRequest, Frame};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::preview_selector::{self, PreviewSelector};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev exec api                      open a shell
  pdev exec api -- ls -l /app
  pdev exec db -- psql -U postgres < seed.sql

Exit codes: the command's own; 125 pdev failed, 126 the command cannot be run, 127 the command is not found.")]
pub(crate) struct Arguments {
    /// Unit to run the command in
    #[arg(value_name = "UNIT")]
    unit: String,
    /// Command and its arguments [default: sh]
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    #[command(flatten)]
    selector: PreviewSelector,
    /// Do not allocate a terminal for the command, even if pdev runs in one
    #[arg(short = 'T', long)]
    no_terminal: bool,
    /// Set an environment variable of the command (may be repeated)
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = parse_variable)]
    variables: Vec<(String, String)>,
    /// Working directory of the command
    #[arg(short = 'w', long = "workdir", value_name = "FOLDER")]
    dir: Option<String>,
    /// User to run the command as
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
}

fn parse_variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it as `NAME=VALUE`")?;
    Ok((name.to_owned(), value.to_owned()))
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    let stdin = std::io::stdin();
    let with_terminal = !arguments.no_terminal && stdin.is_terminal() && std::io::stdout().is_terminal();
    let request = ExecRequest {
        unit: arguments.unit,
        argv: if arguments.command.is_empty() { vec!["sh".to_owned()] } else { arguments.command },
        env: arguments.variables.into_iter().collect::<BTreeMap<_, _>>(),
        dir: arguments.dir,
        user: arguments.user,
        terminal: with_terminal.then(terminal_size).flatten(),
    };
    Context::block_on(async {
        let mut client = Context::connect().await?;
        let preview = preview_selector::find_preview(&mut client, context, &arguments.selector).await?;
        preview_selector::refuse_unknown_units(&preview, std::slice::from_ref(&request.unit))?;
        let (exec, writer) = client.exec(&preview.preview.id, &request).await?;
        // Held until the session ends: dropping it restores the terminal.
        let _raw_mode = if request.terminal.is_some() { RawMode::enter() } else { None };
        run_session(exec, writer, context).await
    })
}

async fn run_session(mut exec: ExecReader, mut writer: ExecWriter, context: &Context) -> Outcome {
    let mut input = Some(spawn_stdin_reader());
    let mut resized = signal(SignalKind::window_change())?;
    let mut interrupts = signal(SignalKind::interrupt())?;
    loop {
        tokio::select! {
            frame = exec.read_frame() => match frame? {
                Frame::Stdout(bytes) => context.terminal.print_bytes(&bytes),
                Frame::Stderr(bytes) => context.terminal.eprint_bytes(&bytes),
                Frame::Exit(code) => return Ok(exit_code(code)),
                Frame::Error(message) => return Err(Failure::new(exit::EXEC_FAILED, "exec_failed", message)),
                Frame::Stdin(_) | Frame::Resize(..) | Frame::StdinEnd => {}
            },
            // If the command ends during the write, its next frame has the exit code. So a failed write is no error, it
            // only ends the input.
            chunk = next_chunk(&mut input) => {
                let sent = match &chunk {
                    Some(bytes) => writer.write_stdin(bytes).await,
                    None => writer.write_frame(&Frame::StdinEnd).await,
                };
                if chunk.is_none() || sent.is_err() {
                    input = None;
                }
            },
            _ = resized.recv() => {
                if let Some((rows, columns)) = terminal_size() {
                    let _command_has_ended = writer.write_frame(&Frame::Resize(rows, columns)).await;
                }
            },
            // Happens only without a terminal: in raw mode, Ctrl-C is a byte of the input.
            _ = interrupts.recv() => return Ok(exit::INTERRUPTED),
        }
    }
}

async fn next_chunk(input: &mut Option<mpsc::Receiver<Vec<u8>>>) -> Option<Vec<u8>> {
    match input {
        Some(chunks) => chunks.recv().await,
        None => std::future::pending().await,
    }
}

/// Reads standard input in a separate thread, because `read` may block forever and must not delay the exit.
fn spawn_stdin_reader() -> mpsc::Receiver<Vec<u8>> {
    // Bounded: if the command does not read its input, the thread waits instead of filling the memory.
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        let mut buffer = vec![0; 16 * 1024];
        let mut stdin = std::io::stdin().lock();
        loop {
            match stdin.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) if sender.blocking_send(buffer[..count].to_vec()).is_ok() => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => break,
            }
        }
    });
    receiver
}

fn exit_code(code: i32) -> u8 {
    u8::try_from(code).unwrap_or(exit::FAILED)
}

fn terminal_size() -> Option<(u16, u16)> {
    tcgetwinsize(std::io::stdout()).ok().map(|size| (size.ws_row, size.ws_col))
}

/// Keeps the terminal in raw mode until dropped.
struct RawMode(Termios);

impl RawMode {
    fn enter() -> Option<Self> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _best_effort = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}
