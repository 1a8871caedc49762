//! The `pdev` program: arguments -> command -> exit code.
//!
//! It sets up no runtime, configuration or logging here, because many commands need none of them.

mod arguments;
mod codes;
mod commands;
mod context;
mod control_sequences;
mod credential;
mod dispatch;
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
mod terminal;
mod vault_access;

#[cfg(test)]
mod generated_docs;

use std::process::ExitCode;

use arguments::{Arguments, Command, Global};
use clap::FromArgMatches;
use context::Context;
use exit::{Failure, Outcome};
use terminal::{Color, Terminal};

/// musl's allocator uses one lock for all threads, and is several times slower for many small allocations, which
/// manifests need. `install.sh` builds the static binary, so this is the allocator that users run.
#[cfg(target_env = "musl")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The allocator has disabled huge pages, which would double the agent's memory. Child processes inherit this
    // setting, so it is reset here. A failure is harmless: huge pages then stay disabled.
    #[cfg(all(target_env = "musl", target_os = "linux"))]
    let _ignored = rustix::thread::disable_transparent_huge_pages(false);
    let command_line: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // First, because tools wait for their credential helper before each of their commands.
    if let Some(code) = credential::run_as_helper(&command_line) {
        return ExitCode::from(code);
    }
    let mut raw = command_line.into_iter().skip(1);
    // Internal commands, which pdev starts itself. Their arguments may be paths that are not UTF-8, so clap does not
    // parse them.
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
    #[cfg(target_os = "linux")]
    if first.as_ref().is_some_and(|first| first == guard::hidden_sockets::SUBCOMMAND) {
        return ExitCode::from(guard::hidden_sockets::main(raw));
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
    let outcome = build_context(global, terminal.clone()).and_then(|context| dispatch::run(command, &context));
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            print_failure(&failure, &terminal, json);
            // As in `docker exec`, the caller must be able to distinguish a failure of pdev from the command's own.
            if exec && failure.exit_code == exit::FAILED { exit::EXEC_FAILED } else { failure.exit_code }
        }
    }
}

fn build_context(global: Global, terminal: Terminal) -> Result<Context, Failure> {
    let Global { directory, json, quiet, verbose, .. } = global;
    let folder = std::env::current_dir().map_err(|error| {
        Failure::invalid_input(format!("cannot determine the current folder: {}", humanize::io_error(&error)))
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

/// clap also returns help and version texts as errors; these go to standard output, with exit code 0.
fn print_usage_error(error: &clap::Error) -> u8 {
    let terminal = Terminal::new(Color::Auto);
    let text = error.render();
    let render = |with_colours: bool| if with_colours { text.ansi().to_string() } else { text.to_string() };
    if error.use_stderr() {
        terminal.eprint_bytes(render(terminal.stderr_paint.is_enabled).as_bytes());
        exit::INVALID_INPUT
    } else {
        terminal.print_bytes(render(terminal.stdout_paint.is_enabled).as_bytes());
        exit::OK
    }
}

const fn success() -> Outcome {
    Ok(exit::OK)
}
