//! The one place that writes to standard output and error. A reader that went away ends the program quietly.
//!
//! Answers go to standard output; progress, notes and failures to standard error.

use std::io::{ErrorKind, IsTerminal, Write};

use clap::ValueEnum;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(crate) enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// Puts colours around text, or leaves it as it is.
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
    /// Standard error may be redrawn: a person watches.
    pub(crate) can_redraw: bool,
    /// Somebody could answer, or a desktop could open a page.
    pub(crate) is_interactive: bool,
}

/// Set by coding agents for the commands they run, most of them with differing values.
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
        let set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0");
        let dumb = std::env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
        let paint = |is_terminal: bool| Paint {
            is_enabled: match color {
                Color::Always => true,
                Color::Never => false,
                Color::Auto if std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty()) => false,
                Color::Auto if set("CLICOLOR_FORCE") => true,
                Color::Auto => is_terminal && !dumb,
            },
        };
        let automatic = set("CI") || CODING_AGENT_VARIABLES.iter().any(|name| set(name));
        let person = !automatic && std::io::stdin().is_terminal();
        Self {
            stdout_paint: paint(std::io::stdout().is_terminal()),
            stderr_paint: paint(std::io::stderr().is_terminal()),
            can_redraw: person && !dumb && std::io::stderr().is_terminal(),
            is_interactive: person,
        }
    }

    /// A line of the answer.
    pub(crate) fn print_line(&self, line: &str) {
        write(&mut std::io::stdout().lock(), &[line.as_bytes(), b"\n"]);
    }

    /// The answer as it is, in one go.
    pub(crate) fn print_bytes(&self, bytes: &[u8]) {
        write(&mut std::io::stdout().lock(), &[bytes]);
    }

    /// A value as one line of JSON.
    pub(crate) fn print_json<T: serde::Serialize>(&self, value: &T) {
        match serde_json::to_string(value) {
            Ok(line) => self.print_line(&line),
            Err(error) => self.eprint_line(&format!("error: cannot write JSON: {error}")),
        }
    }

    /// A line beside the answer.
    pub(crate) fn eprint_line(&self, line: &str) {
        write(&mut std::io::stderr().lock(), &[line.as_bytes(), b"\n"]);
    }

    pub(crate) fn eprint_bytes(&self, bytes: &[u8]) {
        write(&mut std::io::stderr().lock(), &[bytes]);
    }

    /// Columns and rows of the terminal behind standard error.
    pub(crate) fn size() -> (usize, usize) {
        match rustix::termios::tcgetwinsize(std::io::stderr()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => (80, 24),
        }
    }
}

fn write(stream: &mut impl Write, parts: &[&[u8]]) {
    let whole = parts.concat();
    let written = stream.write_all(&whole).and_then(|()| stream.flush());
    if written.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        // `pdev ls | head`: nobody reads on, and what was asked of the agent goes on without us.
        std::process::exit(i32::from(crate::exit::OK));
    }
}
