//! The only module that writes to standard output and standard error. A closed pipe ends the program without a message.
//!
//! Results go to standard output; progress, notes and failures go to standard error.

use std::io::{ErrorKind, IsTerminal, Write};

use clap::ValueEnum;

use crate::control_sequences::keep_only_colors;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// Adds colours to text, or returns it unchanged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Paint {
    pub(crate) is_enabled: bool,
}

impl Paint {
    pub(crate) fn with_codes(self, codes: &str, text: &str) -> String {
        if self.is_enabled && !text.is_empty() && !codes.is_empty() {
            format!("\x1b[{codes}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.with_codes("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.with_codes("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.with_codes("31", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.with_codes("32", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.with_codes("33", text)
    }

    pub(crate) fn cyan(self, text: &str) -> String {
        self.with_codes("36", text)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Terminal {
    /// For standard output.
    pub(crate) stdout_paint: Paint,
    /// For standard error.
    pub(crate) stderr_paint: Paint,
    /// Whether lines on standard error can be redrawn, because a user watches a capable terminal.
    pub(crate) can_redraw: bool,
    /// Whether a user is present, who can answer prompts and see an opened page.
    pub(crate) is_interactive: bool,
}

/// Variables that coding agents set for the commands they run. Their values differ, so every value except
/// an empty one and `0` counts.
const CODING_AGENT_VARIABLES: [&str; 12] = [
    "AI_AGENT",
    "AGENT",
    "CLAUDECODE",
    "CODEX_SANDBOX",
    "CODEX_THREAD_ID",
    "CODEX_CI",
    "CURSOR_AGENT",
    "GEMINI_CLI",
    "COPILOT_CLI",
    "OPENCODE",
    "AIDER_MODEL",
    "CLINE_ACTIVE",
];

impl Terminal {
    pub(crate) fn new(color: Color) -> Self {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let is_dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let paint = |is_terminal: bool| Paint {
            is_enabled: match color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) => false,
                Color::Auto if is_set("CLICOLOR_FORCE") => true,
                Color::Auto => is_terminal && !is_dumb,
            },
        };
        let is_automation = is_set("CI") || CODING_AGENT_VARIABLES.iter().any(|name| is_set(name));
        let is_interactive = !is_automation && std::io::stdin().is_terminal();
        Self {
            stdout_paint: paint(std::io::stdout().is_terminal()),
            stderr_paint: paint(std::io::stderr().is_terminal()),
            can_redraw: is_interactive && !is_dumb && std::io::stderr().is_terminal(),
            is_interactive,
        }
    }

    /// Prints a line of the result, without control sequences that other programs put into it.
    pub(crate) fn print_line(&self, line: &str) {
        write(&mut std::io::stdout().lock(), &[keep_only_colors(line).as_bytes(), b"\n"]);
    }

    /// Prints bytes of the result unchanged, with one write.
    pub(crate) fn print_bytes(&self, bytes: &[u8]) {
        write(&mut std::io::stdout().lock(), &[bytes]);
    }

    /// Prints a value as one line of JSON.
    pub(crate) fn print_json<T: serde::Serialize>(&self, value: &T) {
        match serde_json::to_string(value) {
            // Unchanged: a program reads it.
            Ok(line) => write(&mut std::io::stdout().lock(), &[line.as_bytes(), b"\n"]),
            Err(error) => self.eprint_line(&format!("error: cannot write JSON: {error}")),
        }
    }

    /// Prints a line to standard error, as [`Terminal::print_line`] does.
    pub(crate) fn eprint_line(&self, line: &str) {
        write(&mut std::io::stderr().lock(), &[keep_only_colors(line).as_bytes(), b"\n"]);
    }

    pub(crate) fn eprint_bytes(&self, bytes: &[u8]) {
        write(&mut std::io::stderr().lock(), &[bytes]);
    }

    /// Columns and rows of the terminal on standard error; 80 x 24 if unknown.
    pub(crate) fn size() -> (usize, usize) {
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }
}

fn write(stream: &mut impl Write, parts: &[&[u8]]) {
    // One write per call, so lines of concurrent writers do not mix.
    let bytes = parts.concat();
    let result = stream.write_all(&bytes).and_then(|()| stream.flush());
    if result.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        // The reader has closed the pipe, as in `pdev ls | head`. That is not a failure, and a running operation
        // continues in the agent.
        std::process::exit(i32::from(crate::exit::OK));
    }
}
