//! The process the user starts: arguments -> command -> exit code.
//!
//! Nothing is set up here that a command may not need: no runtime, no configuration, no logging.

mod arguments;
mod codes;
mod commands;
mod context;
mod credential;
mod exit;
mod follow;
mod guard;
mod help;
mod humanize;
mod manifest_check;
mod manifest_location;
mod preview_selector;
mod render;
mod secrets;

#[cfg(test)]
mod generated_docs;

use std::process::ExitCode;

use arguments::{Arguments, Command, Global};
use clap::FromArgMatches;
use context::Context;
use exit::{Failure, Outcome};
use render::terminal::{Color, Terminal};

/// musl's own allocator takes one lock for all threads and is several times slower at many small pieces, of which
/// a manifest has many. The static binary is what `install.sh` makes, so it is what people run.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator turned huge pages off, which would double the agent's memory; what is started from here must not
    // inherit that.
    #[cfg(all(target_env = "musl", target_os = "linux"))]
    let _kept_off_is_no_harm = rustix::thread::disable_transparent_huge_pages(false);
    let all: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // A tool waits for its helper before every command: nothing else is set up for it.
    if let Some(code) = credential::run_as_helper(&all) {
        return ExitCode::from(code);
    }
    let mut raw = all.into_iter().skip(1);
    // Not for people, and its folders need not be UTF-8: the process runtime re-runs this program so.
    let first = raw.next();
    if first.as_ref().is_some_and(|first| first == "keeper") {
        return drivers::process::keeper::main(raw);
    }
    if first.as_ref().is_some_and(|first| first == credentials::launch::COMMAND_NAME) {
        return ExitCode::from(credentials::launch::main(raw));
    }
    if first.as_ref().is_some_and(|first| first == credentials::exchange::COMMAND_NAME) {
        return ExitCode::from(credentials::exchange::main());
    }
    if first.is_some_and(|first| first == guard::SUBCOMMAND) {
        return ExitCode::from(guard::main(raw));
    }
    let matches = arguments::command().try_get_matches();
    let parsed = matches.and_then(|mut matches| Arguments::from_arg_matches_mut(&mut matches));
    match parsed {
        Ok(parsed) => ExitCode::from(run_command(parsed)),
        Err(error) => ExitCode::from(print_usage_error(&error)),
    }
}

fn run_command(Arguments { global, command }: Arguments) -> u8 {
    let terminal = Terminal::new(global.color);
    let (json, exec) = (global.json, matches!(command, Command::Exec(_)));
    let outcome = build_context(global, terminal.clone()).and_then(|context| commands::run(command, &context));
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            print_failure(&failure, &terminal, json);
            // Like docker: a command's own exit codes must be told from pdev's.
            if exec && failure.exit_code == exit::FAILED { exit::EXEC_FAILED } else { failure.exit_code }
        }
    }
}

fn build_context(global: Global, terminal: Terminal) -> Result<Context, Failure> {
    let Global { directory, json, quiet, verbose, .. } = global;
    let folder = std::env::current_dir().map_err(|error| {
        Failure::invalid_input(format!("cannot tell the current folder: {}", humanize::io_error(&error)))
    });
    let folder = match directory {
        None => folder?,
        Some(directory) => directory.canonicalize().map_err(|error| {
            Failure::invalid_input(format!(
                "cannot use the folder `{}`: {}",
                directory.display(),
                humanize::io_error(&error)
            ))
        })?,
    };
    Ok(Context { folder, terminal, json, quiet, verbose })
}

fn print_failure(failure: &Failure, terminal: &Terminal, json: bool) {
    if json {
        return terminal.print_json(&failure.problem);
    }
    for line in render::problem::lines(&failure.problem, terminal.stderr_paint) {
        terminal.eprint_line(&line);
    }
}

/// Help and versions are answers; the rest is a wrong command line.
fn print_usage_error(error: &clap::Error) -> u8 {
    let terminal = Terminal::new(Color::Auto);
    let text = error.render();
    let write = |colours: bool| if colours { text.ansi().to_string() } else { text.to_string() };
    if error.use_stderr() {
        terminal.eprint_bytes(write(terminal.stderr_paint.is_enabled).as_bytes());
        exit::INVALID_INPUT
    } else {
        terminal.print_bytes(write(terminal.stdout_paint.is_enabled).as_bytes());
        exit::OK
    }
}

/// Kept beside `main`: what commands give back when there is nothing to add.
const fn success() -> Outcome {
    Ok(exit::OK)
}
