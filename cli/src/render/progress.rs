//! An operation while it goes on: lines that are redrawn for a person, plain lines for everything else.
//!
//! [`Board`] is what is known; [`Progress`] decides what of it is written when. Output goes to standard error.

use std::time::Instant;

use indexmap::IndexMap;
use protocol::event::ProgressView;
use protocol::status::{UnitState, UnitStatus};
use protocol::{Event, EventKind};

use super::problem::visible;
use super::status::unit_words;
use super::terminal::{Paint, Terminal};
use crate::words;

/// In plain output a unit that stays in its state but changes its reason is told at most this often.
const REPEAT_MILLISECONDS: u64 = 5000;

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const SPINNER_ASCII: [&str; 4] = ["|", "/", "-", "\\"];

#[derive(Clone, Debug, Default)]
struct Row {
    state: UnitState,
    reason: Option<String>,
    /// The build step or layer under way.
    work: Option<String>,
    began: Option<u64>,
    ended: Option<u64>,
    told_at: u64,
}

impl Row {
    fn is_settled(&self) -> bool {
        matches!(self.state, UnitState::Ready | UnitState::Done | UnitState::Failed | UnitState::Stopped)
    }

    fn note(&self) -> &str {
        self.work.as_deref().or(self.reason.as_deref()).unwrap_or_default()
    }
}

/// What is known of an operation. Times are milliseconds since it was asked for.
#[derive(Debug, Default)]
struct Board {
    rows: IndexMap<String, Row>,
}

impl Board {
    /// Takes an event in and gives back what plain output says of it.
    fn take(&mut self, kind: &EventKind, now: u64, verbose: bool) -> Vec<String> {
        match kind {
            // Asked a second time, because the agent was lost: what was seen before says nothing any more.
            EventKind::OperationStarted { .. } => {
                self.rows.clear();
                Vec::new()
            }
            // The lines were told as things happened; this settles what was still moving when it ended.
            EventKind::Finished { status, .. } | EventKind::Failed { status, .. } => {
                for unit in status.units.iter().filter(|unit| self.rows.contains_key(&unit.name)).collect::<Vec<_>>() {
                    let _told = self.unit_changed(unit, now);
                }
                Vec::new()
            }
            EventKind::Planned { plan } => {
                for unit in plan.steps.iter().filter_map(|step| step.unit.as_ref()) {
                    self.rows.entry(unit.clone()).or_default();
                }
                if plan.unchanged {
                    Vec::new()
                } else {
                    vec![format!("plan: {}", words::count(plan.steps.len(), "step"))]
                }
            }
            EventKind::UnitChanged { unit } => self.unit_changed(unit, now),
            EventKind::Progress { unit, line } => self.progress(unit, line, verbose),
            EventKind::StepStarted { text, .. } if verbose => vec![format!("step: {text}")],
            EventKind::Noted { text } => vec![format!("note: {}", visible(text))],
            _ => Vec::new(),
        }
    }

    fn unit_changed(&mut self, unit: &UnitStatus, now: u64) -> Vec<String> {
        let row = self.rows.entry(unit.name.clone()).or_default();
        let same_state = row.state == unit.state && row.began.is_some();
        let same_words = row.reason == unit.reason;
        if row.began.is_none() && unit.state != UnitState::Waiting {
            row.began = Some(now);
        }
        row.state = unit.state;
        row.reason = unit.reason.as_deref().map(visible);
        if !same_state {
            row.work = None;
        }
        row.ended = if row.is_settled() { row.ended.or(Some(now)) } else { None };
        if same_state && (same_words || now.saturating_sub(row.told_at) < REPEAT_MILLISECONDS) {
            return Vec::new();
        }
        row.told_at = now;
        // Everything waits at first; the plan has said so.
        if unit.state == UnitState::Waiting && unit.reason.is_none() {
            return Vec::new();
        }
        let took = match (row.began, row.ended) {
            (Some(began), Some(ended)) if ended > began => format!(" after {}", words::duration(ended - began)),
            _ => String::new(),
        };
        let reason = row.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        vec![format!("{}: {}{took}{reason}", unit.name, unit_words(unit.state).0)]
    }

    fn progress(&mut self, unit: &str, line: &ProgressView, verbose: bool) -> Vec<String> {
        let row = self.rows.entry(unit.to_owned()).or_default();
        match line {
            ProgressView::BuildStep { name, done, cached, error } => {
                let name = visible(name);
                let end = match (error, cached) {
                    (Some(error), _) => format!(" failed: {}", visible(error)),
                    (None, true) => " (unchanged)".to_owned(),
                    (None, false) => String::new(),
                };
                let tell = error.is_some() || (!done && !cached) || (verbose && *cached);
                let words = format!("{unit}: build: {name}{end}");
                row.work = Some(name);
                if tell { vec![words] } else { Vec::new() }
            }
            ProgressView::BuildOutput { text } => {
                let text = visible(text);
                let words = if verbose { vec![format!("{unit}: build: {text}")] } else { Vec::new() };
                if !text.trim().is_empty() {
                    row.work = Some(text);
                }
                words
            }
            ProgressView::Pull { layer, current, total } => {
                let first = row.work.is_none();
                let mega = |bytes: u64| bytes / 1_000_000;
                row.work = Some(match total {
                    0 => format!("pulling {}", visible(layer)),
                    _ => format!("pulling {} {}/{} MB", visible(layer), mega(*current), mega(*total)),
                });
                if first { vec![format!("{unit}: pulling its image")] } else { Vec::new() }
            }
        }
    }

    /// The rows that fit, those that still move first when there are too many, each cut to the width.
    fn draw(&self, now: u64, columns: usize, rows_max: usize, look: Look) -> Vec<String> {
        let width = self.rows.keys().map(|name| name.chars().count()).max().unwrap_or(0);
        let too_many = self.rows.len() > rows_max;
        let shown = self.rows.iter().filter(|(_, row)| !too_many || (!row.is_settled() && row.began.is_some()));
        let room = if too_many { rows_max.saturating_sub(1) } else { rows_max };
        let mut lines: Vec<String> =
            shown.take(room).map(|(name, row)| draw_row(name, row, width, now, columns, look)).collect();
        if too_many {
            let settled = self.rows.values().filter(|row| row.is_settled()).count();
            lines.push(look.paint.dim(&format!("  {settled} of {} settled", self.rows.len())));
        }
        lines
    }
}

#[derive(Clone, Copy)]
struct Look {
    paint: Paint,
    unicode: bool,
}

fn draw_row(name: &str, row: &Row, width: usize, now: u64, columns: usize, look: Look) -> String {
    let (state, codes) = unit_words(row.state);
    let frames: &[&str] = if look.unicode { &SPINNER } else { &SPINNER_ASCII };
    let frame = usize::try_from(now / 100).unwrap_or(0) % frames.len();
    let symbol = match row.state {
        UnitState::Ready | UnitState::Done => {
            if look.unicode {
                "✔"
            } else {
                "+"
            }
        }
        UnitState::Failed => {
            if look.unicode {
                "✘"
            } else {
                "x"
            }
        }
        UnitState::Waiting | UnitState::Stopped => {
            if look.unicode {
                "·"
            } else {
                "."
            }
        }
        _ => frames[frame],
    };
    let time =
        row.began.map(|began| words::duration(row.ended.unwrap_or(now).saturating_sub(began))).unwrap_or_default();
    let gap = width.saturating_sub(name.chars().count());
    let head = format!(
        "  {} {}{}  {}",
        look.paint.with(codes, symbol),
        name,
        " ".repeat(gap),
        look.paint.with(codes, &format!("{state:<10}"))
    );
    let used = 2 + 2 + width + 2 + 10 + 2 + 10 + 2;
    let note: String = row.note().chars().take(columns.saturating_sub(used + 1)).collect();
    let line = format!("{head}  {time:<10}  {}", look.paint.dim(&note));
    line.trim_end().to_owned()
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Live,
    Plain,
    Json,
    Quiet,
}

/// Follows one operation on standard error.
pub(crate) struct Progress {
    board: Board,
    mode: Mode,
    verbose: bool,
    look: Look,
    began: Instant,
    /// Lines on the screen that the next drawing replaces.
    drawn: usize,
}

impl Progress {
    pub(crate) fn new(context: &crate::context::Context) -> Self {
        let mode = match () {
            () if context.json => Mode::Json,
            () if context.quiet => Mode::Quiet,
            () if context.terminal.live => Mode::Live,
            () => Mode::Plain,
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let unicode = locale.is_some_and(|locale| locale.to_lowercase().replace('-', "").contains("utf8"));
        let look = Look { paint: context.terminal.paint_error, unicode };
        Self { board: Board::default(), mode, verbose: context.verbose > 0, look, began: Instant::now(), drawn: 0 }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    pub(crate) fn on(&mut self, event: &Event, terminal: &Terminal) {
        if self.mode == Mode::Json {
            return terminal.say_json(event);
        }
        let now = self.elapsed();
        let lines = self.board.take(&event.kind, now, self.verbose);
        match self.mode {
            Mode::Plain => lines.iter().for_each(|line| terminal.tell(line)),
            Mode::Live => {
                let lasting = matches!(event.kind, EventKind::Noted { .. }) || (self.verbose && !lines.is_empty());
                if lasting {
                    self.erase(terminal);
                    lines.iter().for_each(|line| terminal.tell(line));
                }
            }
            Mode::Json | Mode::Quiet => {}
        }
    }

    /// Draws again; called some ten times a second while something moves.
    pub(crate) fn tick(&mut self, terminal: &Terminal) {
        if self.mode != Mode::Live {
            return;
        }
        let (columns, rows) = Terminal::size();
        let lines = self.board.draw(self.elapsed(), columns, rows.saturating_sub(2).max(1), self.look);
        // Without wrapping, a line with wide characters cannot become two, which the next drawing would miss.
        let mut text = self.back() + "\x1b[?7l";
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h");
        self.drawn = lines.len();
        terminal.tell_raw(text.as_bytes());
    }

    /// Leaves the last state on the screen if anything was ever drawn; a no-op draws nothing.
    pub(crate) fn close(&mut self, terminal: &Terminal) {
        if self.drawn > 0 {
            self.tick(terminal);
            self.drawn = 0;
        }
    }

    pub(crate) fn elapsed(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn erase(&mut self, terminal: &Terminal) {
        terminal.tell_raw(self.back().as_bytes());
        self.drawn = 0;
    }

    fn back(&self) -> String {
        if self.drawn == 0 { String::new() } else { format!("\x1b[{}A\r\x1b[J", self.drawn) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(name: &str, state: UnitState, reason: Option<&str>) -> EventKind {
        let unit = UnitStatus { name: name.into(), state, reason: reason.map(str::to_owned), ..UnitStatus::default() };
        EventKind::UnitChanged { unit }
    }

    #[test]
    fn plain_lines_tell_changes_once() {
        let mut board = Board::default();
        let script = [
            (0, changed("db", UnitState::Starting, Some("TCP refused")), vec!["db: starting (TCP refused)"]),
            (10, changed("db", UnitState::Starting, Some("TCP timed out")), vec![]),
            (6000, changed("db", UnitState::Starting, Some("TCP refused")), vec!["db: starting (TCP refused)"]),
            (7200, changed("db", UnitState::Ready, None), vec!["db: ready after 7.2 s"]),
            (7300, changed("db", UnitState::Ready, None), vec![]),
        ];
        for (now, event, lines) in script {
            assert_eq!(board.take(&event, now, false), lines, "at {now}");
        }
    }

    #[test]
    fn builds_fold_into_one_line() {
        let mut board = Board::default();
        let step = |done| EventKind::Progress {
            unit: "api".into(),
            line: ProgressView::BuildStep { name: "RUN npm ci".into(), done, cached: false, error: None },
        };
        let output = EventKind::Progress {
            unit: "api".into(),
            line: ProgressView::BuildOutput { text: "added\x1b[2J 9".into() },
        };
        assert_eq!(board.take(&step(false), 0, false), ["api: build: RUN npm ci"]);
        assert!(board.take(&output, 1, false).is_empty());
        assert!(board.take(&step(true), 2, false).is_empty());
        board.take(&changed("api", UnitState::Preparing, None), 3, false);
        board.take(&output, 4, false);
        let look = Look { paint: Paint { on: false }, unicode: true };
        assert_eq!(board.draw(1203, 80, 10, look), ["  ⠹ api  preparing   1.2 s       added 9"]);
        board.take(&changed("api", UnitState::Failed, Some("exit code 1")), 2003, false);
        assert_eq!(board.draw(9999, 50, 10, look), ["  ✘ api  failed      2.0 s       exit code 1"]);
        assert_eq!(board.draw(9999, 40, 10, look), ["  ✘ api  failed      2.0 s       exit c"]);
    }

    #[test]
    fn too_many_rows_show_those_that_move() {
        let mut board = Board::default();
        for index in 0..30 {
            let state = if index == 20 { UnitState::Starting } else { UnitState::Ready };
            board.take(&changed(&format!("u{index}"), state, None), 0, false);
        }
        let look = Look { paint: Paint { on: false }, unicode: false };
        assert_eq!(board.draw(0, 80, 10, look), ["  | u20  starting    0 ms", "  29 of 30 settled"]);
    }
}
