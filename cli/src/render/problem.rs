//! A failure as text: the unit, the cause, the last lines of output, and a hint.

use protocol::Problem;
use protocol::problem::DiagnosticView;

use crate::terminal::{Paint, Terminal};

/// The printed lines of output. For a crash the agent sends no more than this, but a build step may have more.
const OUTPUT_LINES_MAX: usize = 20;

pub(crate) fn lines(problem: &Problem, paint: Paint) -> Vec<String> {
    let mut lines = vec![format!("{} {}", paint.with_codes("1;31", "error:"), paint.bold(&problem.to_string()))];
    for line in problem.detail.iter().flat_map(|detail| detail.lines()) {
        lines.push(format!("  {}", strip_escapes(line)));
    }
    for diagnostic in &problem.diagnostics {
        lines.push(format!("  {}", diagnostic_line(diagnostic)));
    }
    let skipped = problem.output.len().saturating_sub(OUTPUT_LINES_MAX);
    if !problem.output.is_empty() {
        let owner = problem.unit.as_ref().map(|unit| format!(" of {unit}")).unwrap_or_default();
        lines.push(paint.dim(&format!("  last lines{owner}:")));
        let bar = paint.dim("|");
        lines.extend(problem.output[skipped..].iter().map(|line| format!("  {bar} {}", strip_escapes(line))));
    }
    if let Some(hint) = &problem.hint {
        let mut rest = hint.lines();
        lines.push(format!("{} {}", paint.with_codes("1;36", "try:"), rest.next().unwrap_or_default()));
        lines.extend(rest.map(|line| format!("     {line}")));
    }
    lines
}

/// Prints all problems to standard error, separated by empty lines.
pub(crate) fn print_all(problems: &[Problem], terminal: &Terminal) {
    for (index, problem) in problems.iter().enumerate() {
        if index > 0 {
            terminal.eprint_line("");
        }
        lines(problem, terminal.stderr_paint).iter().for_each(|line| terminal.eprint_line(line));
    }
}

/// `pdev.yaml:3:5: error[PD0104]: message`.
fn diagnostic_line(diagnostic: &DiagnosticView) -> String {
    let DiagnosticView { file, line, column, severity, code, message, .. } = diagnostic;
    format!("{file}:{line}:{column}: {severity}[{code}]: {message}")
}

/// Removes control characters and escape sequences: the text comes from programs and could change the terminal.
pub(crate) fn strip_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut letters = text.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\x1b' => skip_escape(&mut letters),
            '\t' => out.push_str("    "),
            _ if letter.is_control() => {}
            _ => out.push(letter),
        }
    }
    out
}

/// Skips a CSI or OSC sequence, or the one character of a short sequence.
fn skip_escape(letters: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match letters.next() {
        Some('[') => {
            let _ = letters.find(|letter| ('\x40'..='\x7e').contains(letter));
        }
        Some(']') => {
            while let Some(letter) = letters.next() {
                if letter == '\x07' || (letter == '\x1b' && letters.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problem_shows_unit_detail_output_and_hint() {
        let problem = Problem {
            code: "exited".into(),
            title: "exit code 1 while starting".into(),
            detail: Some("signal: none".into()),
            hint: Some("Run `pdev logs api`.".into()),
            unit: Some("api".into()),
            output: (1..=22).map(|n| format!("\x1b[31mline {n}\x1b[0m")).collect(),
            ..Problem::default()
        };
        let lines = lines(&problem, Paint { is_enabled: false });
        assert_eq!(
            lines[..4],
            ["error: api: exit code 1 while starting", "  signal: none", "  last lines of api:", "  | line 3"]
        );
        assert_eq!(lines[lines.len() - 2..], ["  | line 22", "try: Run `pdev logs api`."]);
    }

    #[test]
    fn escapes_do_not_reach_the_terminal() {
        for (text, shown) in [
            ("a\x1b[2Jb\x1b]0;title\x07c\x1b]8;;x\x1b\\d", "abcd"),
            ("tab\tbell\x07\r", "tab    bell"),
            ("\x1b", ""),
            ("\x1b[", ""),
        ] {
            assert_eq!(strip_escapes(text), shown, "{text:?}");
        }
    }
}
