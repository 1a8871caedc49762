//! `pdev session run | list | allow | end`: runs a coding agent with less access than its user, for a limited time.

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use client::{Client, ClientError};
use host::clock::now_milliseconds;
use protocol::session::{SessionRequest, SessionView};

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::render::table::{self, Cell};
use crate::{guard, humanize};

const DEFAULT_DURATION: Duration = Duration::from_secs(3600);

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Run a coding agent with restricted access to your identities, until it ends
    #[command(after_help = "Examples:
  pdev session run -- claude
  pdev session run --for 30m --identity shop-dev -- ./agent.sh

The session is the program and everything it starts. It gets no identity with `production = true`. It gets the other \
identities read-only if their source supports that, and not at all otherwise, for one hour unless `--for` is given. \
When the program ends, all other programs of the session are ended.

Exit codes: the program's own; 126 the program cannot be started, 127 the program is not found.")]
    Run(Run),
    /// List the sessions (coding agents with restricted access), and mark the one that this command runs in
    #[command(visible_alias = "ls")]
    List,
    /// Give a session full access to one identity for one hour; run this command outside of the session
    #[command(after_help = "Examples:\n  pdev session allow 7kq2-mxgh")]
    Allow {
        /// Code that the refused request printed
        #[arg(value_name = "CODE")]
        code: String,
    },
    /// End a session: the coding agent and all programs that it started
    #[command(after_help = "Examples:\n  pdev session end claude")]
    End {
        /// Name or id of the session
        #[arg(value_name = "SESSION")]
        session: String,
    },
}

#[derive(clap::Args, Debug)]
struct Run {
    /// How long the session gets credentials, at most 12h [default: 1h]
    #[arg(long = "for", value_name = "DURATION", value_parser = humanize::parse_duration)]
    duration: Option<Duration>,
    /// Allow only this identity (may be repeated)
    #[arg(long, value_name = "NAME")]
    identity: Vec<String>,
    /// Name of the session [default: the name of the program]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Leave the sockets of tmux, screen, container engines and the session bus open to the session
    #[arg(long)]
    open_sockets: bool,
    /// Program and its arguments
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    program: Vec<OsString>,
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    match arguments.command {
        Command::Run(Run { duration, identity, name, open_sockets, program }) => {
            let name = name.unwrap_or_else(|| session_name(program.first()));
            let milliseconds = i64::try_from(duration.unwrap_or(DEFAULT_DURATION).as_millis()).unwrap_or(i64::MAX);
            guard::run_guarded(
                SessionRequest { name, milliseconds, identities: identity },
                open_sockets,
                &program,
                context,
            )
        }
        Command::List => list(context),
        Command::Allow { code } => super::approvals::approve(&code, context),
        Command::End { session } => {
            call_agent(async |client: &mut Client| client.end_session(&session).await)?;
            context.terminal.eprint_line(&format!("session {session} has ended; its programs are being stopped"));
            crate::success()
        }
    }
}

/// The name of the program, limited to the characters and length that the agent accepts.
fn session_name(program: Option<&OsString>) -> String {
    let name = program.map(|program| Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned());
    let is_allowed = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_');
    let name: String = name.unwrap_or_default().chars().filter(is_allowed).take(32).collect();
    if name.is_empty() { "session".to_owned() } else { name }
}

fn list(context: &Context) -> Outcome {
    let all: Vec<SessionView> = call_agent(async |client: &mut Client| client.sessions().await)?;
    if context.json {
        context.terminal.print_json(&all);
        return crate::success();
    }
    if all.is_empty() {
        context.terminal.eprint_line("no session is running; run `pdev session run -- PROGRAM` to start one");
        return crate::success();
    }
    let now = now_milliseconds();
    let row = |session: &SessionView| {
        let left = if session.over { "expired".to_owned() } else { humanize::age(now, session.until) };
        let identities =
            if session.identities.is_empty() { "all but production".to_owned() } else { session.identities.join(", ") };
        let current = if session.own { "current" } else { "" };
        [&session.name, &session.id, &session.pid.to_string(), &left, &identities, current]
            .map(|text: &str| Cell::new(text))
            .into()
    };
    let rows: Vec<Vec<Cell>> = all.iter().map(row).collect();
    let headings = ["NAME", "ID", "PID", "LEFT", "IDENTITIES", ""];
    table::lines(&headings, &rows, 0, context.terminal.stdout_paint)
        .iter()
        .for_each(|line| context.terminal.print_line(line));
    crate::success()
}

fn call_agent<T>(call: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, Failure> {
    Context::block_on_value(async {
        let mut client = Context::connect().await?;
        call(&mut client).await.map_err(Failure::from)
    })?
}
