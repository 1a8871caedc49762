//! The progress of an operation: redrawn lines on a terminal, plain lines otherwise, on standard error.
//!
//! [`ProgressState`] holds the state of the units; [`Progress`] decides which part is printed and when.

use std::time::Instant;

use indexmap::IndexMap;
use protocol::event::ProgressView;
use protocol::plan::StepView;
use protocol::status::{UnitState, UnitStatus};
use protocol::{Event, EventKind};

use super::problem::strip_escapes;
use super::status::unit_state_label;
use crate::humanize;
use crate::terminal::{Paint, Terminal};

/// Plain output prints a new reason for an unchanged state at most this often.
const REPEAT_MILLISECONDS: u64 = 5000;

const SPINNER: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
const SPINNER_ASCII: [&str; 4] = ["|", "/", "-", "\\"];

#[derive(Clone, Debug, Default)]
struct UnitRow {
    state: UnitState,
    reason: Option<String>,
    /// The current build step or image layer.
    activity: Option<String>,
    started_at: Option<u64>,
    ended_at: Option<u64>,
    printed_at: u64,
    removal: Option<Removal>,
}

/// How far the removal of a unit is that is not created again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Removal {
    Planned,
    Begun,
    Done,
}

impl UnitRow {
    fn is_settled(&self) -> bool {
        self.removal == Some(Removal::Done)
            || matches!(self.state, UnitState::Ready | UnitState::Done | UnitState::Failed | UnitState::Stopped)
    }

    /// The label and the colour of the state.
    fn label(&self) -> (&'static str, &'static str) {
        match (self.removal, self.state) {
            (Some(Removal::Done), _) => ("removed", "2"),
            (Some(Removal::Begun), UnitState::Waiting | UnitState::Stopped | UnitState::Done) => ("removing", "33"),
            (Some(Removal::Planned), UnitState::Waiting) => ("", "2"),
            (_, state) => unit_state_label(state),
        }
    }

    fn note(&self) -> &str {
        self.activity.as_deref().or(self.reason.as_deref()).unwrap_or_default()
    }
}

/// The state of the units of an operation. Times are milliseconds since the request.
#[derive(Debug, Default)]
struct ProgressState {
    rows: IndexMap<String, UnitRow>,
    steps: Vec<StepView>,
}

impl ProgressState {
    /// Applies an event and returns its lines for plain output.
    fn apply_event(&mut self, kind: &EventKind, now: u64, verbose: bool) -> Vec<String> {
        match kind {
            // The request was repeated because the agent was lost, so the state is obsolete.
            EventKind::OperationStarted { .. } => {
                self.rows.clear();
                Vec::new()
            }
            // Sets the final state of units that were still changing. The lines were printed by earlier events.
            EventKind::Finished { status, .. } | EventKind::Failed { status, .. } => {
                for unit in status.units.iter().filter(|unit| self.rows.contains_key(&unit.name)).collect::<Vec<_>>() {
                    let _already_printed = self.apply_unit_change(unit, now);
                }
                Vec::new()
            }
            EventKind::Planned { plan } => {
                self.steps.clone_from(&plan.steps);
                self.add_planned_rows();
                if plan.unchanged {
                    Vec::new()
                } else {
                    vec![format!("plan: {}", humanize::count(plan.steps.len(), "step"))]
                }
            }
            EventKind::UnitChanged { unit } => self.apply_unit_change(unit, now),
            EventKind::Progress { unit, line } => self.apply_progress(unit, line, verbose),
            EventKind::StepStarted { step, text } => {
                let _label_only = self.apply_removal(*step, Removal::Begun, now);
                if verbose { vec![format!("step: {text}")] } else { Vec::new() }
            }
            EventKind::StepFinished { step, .. } => self.apply_removal(*step, Removal::Done, now),
            EventKind::Noted { text } => vec![format!("note: {}", strip_escapes(text))],
            _ => Vec::new(),
        }
    }

    /// A unit whose steps only wait for it is not listed until its state changes: it may be ready already.
    fn add_planned_rows(&mut self) {
        let is_waiting_step = |step: &StepView| matches!(step.action.as_str(), "await_ready" | "await_exit");
        for step in self.steps.iter().filter(|step| !is_waiting_step(step)) {
            let Some(unit) = &step.unit else { continue };
            let is_ending = |other: &StepView| matches!(other.action.as_str(), "stop" | "remove");
            let of_unit = || self.steps.iter().filter(|other| other.unit.as_ref() == Some(unit));
            let is_removed = of_unit().all(is_ending) && of_unit().any(|other| other.action == "remove");
            let row = self.rows.entry(unit.clone()).or_default();
            row.removal = is_removed.then_some(Removal::Planned);
        }
    }

    /// Applies the begin or the end of a step if it removes a unit, and returns its line for plain output.
    fn apply_removal(&mut self, step: usize, progress: Removal, now: u64) -> Vec<String> {
        let removing = self.steps.iter().find(|known| known.id == step && known.action == "remove");
        let Some(unit) = removing.and_then(|step| step.unit.as_ref()) else { return Vec::new() };
        let Some(row) = self.rows.get_mut(unit).filter(|row| row.removal.is_some()) else { return Vec::new() };
        row.removal = Some(progress);
        row.started_at = row.started_at.or(Some(now));
        if progress != Removal::Done {
            return Vec::new();
        }
        row.ended_at = row.ended_at.or(Some(now));
        // A unit that was stopped first has its line already.
        if row.state == UnitState::Stopped { Vec::new() } else { vec![format!("{unit}: removed")] }
    }

    fn apply_unit_change(&mut self, unit: &UnitStatus, now: u64) -> Vec<String> {
        let row = self.rows.entry(unit.name.clone()).or_default();
        let same_state = row.state == unit.state && row.started_at.is_some();
        let same_reason = row.reason == unit.reason;
        if row.started_at.is_none() && unit.state != UnitState::Waiting {
            row.started_at = Some(now);
        }
        row.state = unit.state;
        row.reason = unit.reason.as_deref().map(strip_escapes);
        if !same_state {
            row.activity = None;
        }
        row.ended_at = if row.is_settled() { row.ended_at.or(Some(now)) } else { None };
        if same_state && (same_reason || now.saturating_sub(row.printed_at) < REPEAT_MILLISECONDS) {
            return Vec::new();
        }
        row.printed_at = now;
        // Initially all units wait; the line of the plan is enough for that.
        if unit.state == UnitState::Waiting && unit.reason.is_none() {
            return Vec::new();
        }
        let duration = match (row.started_at, row.ended_at) {
            (Some(start), Some(end)) if end > start => format!(" after {}", humanize::duration(end - start)),
            _ => String::new(),
        };
        let reason = row.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        vec![format!("{}: {}{duration}{reason}", unit.name, unit_state_label(unit.state).0)]
    }

    fn apply_progress(&mut self, unit: &str, line: &ProgressView, verbose: bool) -> Vec<String> {
        let row = self.rows.entry(unit.to_owned()).or_default();
        match line {
            ProgressView::BuildStep { name, done, cached, error } => {
                let name = strip_escapes(name);
                let suffix = match (error, cached) {
                    (Some(error), _) => format!(" failed: {}", strip_escapes(error)),
                    (None, true) => " (unchanged)".to_owned(),
                    (None, false) => String::new(),
                };
                let is_printed = error.is_some() || (!done && !cached) || (verbose && *cached);
                let line = format!("{unit}: build: {name}{suffix}");
                row.activity = Some(name);
                if is_printed { vec![line] } else { Vec::new() }
            }
            ProgressView::BuildOutput { text } => {
                let text = strip_escapes(text);
                let lines = if verbose { vec![format!("{unit}: build: {text}")] } else { Vec::new() };
                if !text.trim().is_empty() {
                    row.activity = Some(text);
                }
                lines
            }
            ProgressView::Pull { layer, current, total } => {
                let is_first = row.activity.is_none();
                let megabytes = |bytes: u64| bytes / 1_000_000;
                row.activity = Some(match total {
                    0 => format!("pulling {}", strip_escapes(layer)),
                    _ => format!("pulling {} {}/{} MB", strip_escapes(layer), megabytes(*current), megabytes(*total)),
                });
                if is_first { vec![format!("{unit}: pulling the image")] } else { Vec::new() }
            }
        }
    }

    /// The rows that fit, each cut to the width. If there are too many, only units that are still changing.
    fn render_rows(&self, now: u64, columns: usize, rows_max: usize, style: RowStyle) -> Vec<String> {
        let width = self.rows.keys().map(|name| name.chars().count()).max().unwrap_or(0);
        let too_many = self.rows.len() > rows_max;
        let visible = self.rows.iter().filter(|(_, row)| !too_many || (!row.is_settled() && row.started_at.is_some()));
        // One line is for the summary.
        let limit = if too_many { rows_max.saturating_sub(1) } else { rows_max };
        let mut lines: Vec<String> =
            visible.take(limit).map(|(name, row)| render_row(name, row, width, now, columns, style)).collect();
        if too_many {
            let settled = self.rows.values().filter(|row| row.is_settled()).count();
            lines.push(style.paint.dim(&format!("  {settled} of {} finished", self.rows.len())));
        }
        lines
    }
}

#[derive(Clone, Copy)]
struct RowStyle {
    paint: Paint,
    use_unicode: bool,
}

fn render_row(name: &str, row: &UnitRow, width: usize, now: u64, columns: usize, style: RowStyle) -> String {
    let (state, codes) = row.label();
    let frames: &[&str] = if style.use_unicode { &SPINNER } else { &SPINNER_ASCII };
    let frame = usize::try_from(now / 100).unwrap_or(0) % frames.len();
    let pick = |unicode: &'static str, ascii: &'static str| if style.use_unicode { unicode } else { ascii };
    let symbol = match (row.removal, row.state) {
        (Some(Removal::Done), _) | (Some(Removal::Planned) | None, UnitState::Waiting | UnitState::Stopped) => {
            pick("·", ".")
        }
        (Some(Removal::Begun), _) => frames[frame],
        (_, UnitState::Ready | UnitState::Done) => pick("✔", "+"),
        (_, UnitState::Failed) => pick("✘", "x"),
        _ => frames[frame],
    };
    let time = row
        .started_at
        .map(|start| humanize::duration(row.ended_at.unwrap_or(now).saturating_sub(start)))
        .unwrap_or_default();
    let gap = width.saturating_sub(name.chars().count());
    let head = format!(
        "  {} {}{}  {}",
        style.paint.with_codes(codes, symbol),
        name,
        " ".repeat(gap),
        style.paint.with_codes(codes, &format!("{state:<10}"))
    );
    // Indent and symbol, name, state and duration, each with its gap; the note gets the remaining columns.
    let used = 2 + 2 + width + 2 + 10 + 2 + 10 + 2;
    let note: String = row.note().chars().take(columns.saturating_sub(used + 1)).collect();
    let line = format!("{head}  {time:<10}  {}", style.paint.dim(&note));
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
    state: ProgressState,
    mode: Mode,
    verbose: bool,
    style: RowStyle,
    started_at: Instant,
    /// The lines on the screen that the next redraw replaces.
    lines_on_screen: usize,
}

impl Progress {
    pub(crate) fn new(context: &crate::context::Context) -> Self {
        let mode = match () {
            () if context.json => Mode::Json,
            () if context.quiet => Mode::Quiet,
            () if context.terminal.can_redraw => Mode::Live,
            () => Mode::Plain,
        };
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        let use_unicode = locale.is_some_and(|locale| locale.to_lowercase().replace('-', "").contains("utf8"));
        let style = RowStyle { paint: context.terminal.stderr_paint, use_unicode };
        Self {
            state: ProgressState::default(),
            mode,
            verbose: context.verbose > 0,
            style,
            started_at: Instant::now(),
            lines_on_screen: 0,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    pub(crate) fn handle_event(&mut self, event: &Event, terminal: &Terminal) {
        if self.mode == Mode::Json {
            return terminal.print_json(event);
        }
        let now = self.elapsed_milliseconds();
        let lines = self.state.apply_event(&event.kind, now, self.verbose);
        match self.mode {
            Mode::Plain => lines.iter().for_each(|line| terminal.eprint_line(line)),
            Mode::Live => {
                // Notes stay on the screen, above the redrawn lines.
                let is_permanent = matches!(event.kind, EventKind::Noted { .. }) || (self.verbose && !lines.is_empty());
                if is_permanent {
                    self.erase(terminal);
                    lines.iter().for_each(|line| terminal.eprint_line(line));
                }
            }
            Mode::Json | Mode::Quiet => {}
        }
    }

    /// Draws the rows in place of the previous ones; called ten times a second.
    pub(crate) fn redraw(&mut self, terminal: &Terminal) {
        if self.mode != Mode::Live {
            return;
        }
        let (columns, rows) = Terminal::size();
        let lines =
            self.state.render_rows(self.elapsed_milliseconds(), columns, rows.saturating_sub(2).max(1), self.style);
        // Wrapping is disabled while drawing. Otherwise wide characters could turn a line into two, and the next redraw
        // would move up too few lines.
        let mut text = self.clear_sequence() + "\x1b[?7l";
        for line in &lines {
            text.push_str(line);
            text.push('\n');
        }
        text.push_str("\x1b[?7h");
        self.lines_on_screen = lines.len();
        terminal.eprint_bytes(text.as_bytes());
    }

    /// Leaves the last state on the screen if anything was drawn. An operation without changes draws nothing.
    pub(crate) fn finish(&mut self, terminal: &Terminal) {
        if self.lines_on_screen > 0 {
            self.redraw(terminal);
            self.lines_on_screen = 0;
        }
    }

    pub(crate) fn elapsed_milliseconds(&self) -> u64 {
        u64::try_from(self.started_at.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn erase(&mut self, terminal: &Terminal) {
        terminal.eprint_bytes(self.clear_sequence().as_bytes());
        self.lines_on_screen = 0;
    }

    fn clear_sequence(&self) -> String {
        if self.lines_on_screen == 0 { String::new() } else { format!("\x1b[{}A\r\x1b[J", self.lines_on_screen) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit_changed_event(name: &str, state: UnitState, reason: Option<&str>) -> EventKind {
        let unit = UnitStatus { name: name.into(), state, reason: reason.map(str::to_owned), ..UnitStatus::default() };
        EventKind::UnitChanged { unit }
    }

    #[test]
    fn plain_output_prints_each_change_once() {
        let mut state = ProgressState::default();
        let script = [
            (0, unit_changed_event("db", UnitState::Starting, Some("TCP refused")), vec!["db: starting (TCP refused)"]),
            (10, unit_changed_event("db", UnitState::Starting, Some("TCP timed out")), vec![]),
            (
                6000,
                unit_changed_event("db", UnitState::Starting, Some("TCP refused")),
                vec!["db: starting (TCP refused)"],
            ),
            (7200, unit_changed_event("db", UnitState::Ready, None), vec!["db: ready after 7.2 s"]),
            (7300, unit_changed_event("db", UnitState::Ready, None), vec![]),
        ];
        for (now, event, lines) in script {
            assert_eq!(state.apply_event(&event, now, false), lines, "at {now}");
        }
    }

    #[test]
    fn only_changed_units_are_listed_and_removed_ones_are_named() {
        let step = |id, action: &str, unit: &str| StepView {
            id,
            action: action.into(),
            unit: Some(unit.into()),
            runtime: None,
            text: format!("{action} {unit}"),
            after: Vec::new(),
            cause: "changed".into(),
            because: String::new(),
            destroys: None,
        };
        let steps = vec![
            step(0, "await_ready", "db"),
            step(1, "remove", "gen"),
            step(2, "stop", "old"),
            step(3, "remove", "old"),
            step(4, "remove", "web"),
            step(5, "create", "web"),
        ];
        let mut state = ProgressState::default();
        let plan = protocol::plan::PlanView { steps, unchanged: false };
        assert_eq!(state.apply_event(&EventKind::Planned { plan }, 0, false), ["plan: 6 steps"]);
        let style = RowStyle { paint: Paint { is_enabled: false }, use_unicode: true };
        assert_eq!(state.render_rows(0, 80, 10, style), ["  · gen", "  · old", "  · web  waiting"]);
        let begun = |step| EventKind::StepStarted { step, text: String::new() };
        let done = |step| EventKind::StepFinished { step, milliseconds: 1 };
        assert!(state.apply_event(&begun(1), 10, false).is_empty());
        assert_eq!(state.render_rows(100, 80, 10, style)[0], "  ⠙ gen  removing    90 ms");
        assert_eq!(state.apply_event(&done(1), 110, false), ["gen: removed"]);
        let stopping = unit_changed_event("old", UnitState::Stopping, None);
        assert_eq!(state.apply_event(&stopping, 110, false), ["old: stopping"]);
        let stopped = unit_changed_event("old", UnitState::Stopped, None);
        assert_eq!(state.apply_event(&stopped, 210, false), ["old: stopped after 100 ms"]);
        assert!(state.apply_event(&done(3), 220, false).is_empty(), "its end was printed");
        assert!(state.apply_event(&done(4), 220, false).is_empty(), "it is created again");
        assert_eq!(
            state.render_rows(300, 80, 10, style),
            ["  · gen  removed     100 ms", "  · old  removed     100 ms", "  · web  waiting"]
        );
    }

    #[test]
    fn build_output_collapses_into_one_row() {
        let mut state = ProgressState::default();
        let step = |done| EventKind::Progress {
            unit: "api".into(),
            line: ProgressView::BuildStep { name: "RUN npm ci".into(), done, cached: false, error: None },
        };
        let output = EventKind::Progress {
            unit: "api".into(),
            line: ProgressView::BuildOutput { text: "added\x1b[2J 9".into() },
        };
        assert_eq!(state.apply_event(&step(false), 0, false), ["api: build: RUN npm ci"]);
        assert!(state.apply_event(&output, 1, false).is_empty());
        assert!(state.apply_event(&step(true), 2, false).is_empty());
        state.apply_event(&unit_changed_event("api", UnitState::Preparing, None), 3, false);
        state.apply_event(&output, 4, false);
        let style = RowStyle { paint: Paint { is_enabled: false }, use_unicode: true };
        assert_eq!(state.render_rows(1203, 80, 10, style), ["  ⠹ api  preparing   1.2 s       added 9"]);
        state.apply_event(&unit_changed_event("api", UnitState::Failed, Some("exit code 1")), 2003, false);
        assert_eq!(state.render_rows(9999, 50, 10, style), ["  ✘ api  failed      2.0 s       exit code 1"]);
        assert_eq!(state.render_rows(9999, 40, 10, style), ["  ✘ api  failed      2.0 s       exit c"]);
    }

    #[test]
    fn too_many_rows_show_only_unsettled_units() {
        let mut state = ProgressState::default();
        for index in 0..30 {
            let unit_state = if index == 20 { UnitState::Starting } else { UnitState::Ready };
            state.apply_event(&unit_changed_event(&format!("u{index}"), unit_state, None), 0, false);
        }
        let style = RowStyle { paint: Paint { is_enabled: false }, use_unicode: false };
        assert_eq!(state.render_rows(0, 80, 10, style), ["  | u20  starting    0 ms", "  29 of 30 finished"]);
    }
}
