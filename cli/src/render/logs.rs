//! Log lines, prefixed with the name of their unit in a colour per unit.

use protocol::request::LogEntry;

use crate::control_sequences::keep_only_colors;
use crate::humanize;
use crate::terminal::Paint;

const COLORS: [&str; 10] = ["36", "33", "32", "35", "34", "96", "93", "92", "95", "94"];

#[derive(Debug, Default)]
pub(crate) struct LogPainter {
    /// In the order of their first line, which decides the colour.
    units: Vec<String>,
    width: usize,
    pub(crate) show_times: bool,
    pub(crate) show_prefix: bool,
}

impl LogPainter {
    /// `units` are the expected units; with them the column width is right from the first line.
    pub(crate) fn new(units: impl IntoIterator<Item = String>, prefix: bool, times: bool) -> Self {
        let units: Vec<String> = units.into_iter().collect();
        let width = units.iter().map(|unit| unit.chars().count()).max().unwrap_or(0);
        Self { units, width, show_times: times, show_prefix: prefix }
    }

    pub(crate) fn render_line(&mut self, entry: &LogEntry, paint: Paint) -> String {
        let mut line = String::new();
        if self.show_times {
            line.push_str(&paint.dim(&humanize::time_of_day(entry.at)));
            line.push(' ');
        }
        if self.show_prefix {
            let codes = self.color_codes(&entry.unit);
            let gap = self.width.saturating_sub(entry.unit.chars().count());
            line.push_str(&paint.with_codes(codes, &format!("{}{} |", entry.unit, " ".repeat(gap))));
            line.push(' ');
        }
        if entry.stream == "pdev" {
            line.push_str(&paint.with_codes("2;3", &keep_only_colors(&entry.text)));
        } else {
            let text = keep_only_colors(&entry.text);
            line.push_str(&text);
            // Reset colours that the program has left on, or the following lines would have them too.
            if paint.is_enabled && text.contains('\x1b') {
                line.push_str("\x1b[0m");
            }
        }
        line
    }

    fn color_codes(&mut self, unit: &str) -> &'static str {
        let index = self.units.iter().position(|known| known == unit).unwrap_or_else(|| {
            self.units.push(unit.to_owned());
            self.width = self.width.max(unit.chars().count());
            self.units.len() - 1
        });
        COLORS[index % COLORS.len()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_line_up() {
        let entry = |unit: &str, text: &str| LogEntry {
            at: 1500,
            unit: unit.into(),
            stream: "stdout".into(),
            text: text.into(),
        };
        let mut painter = LogPainter::new(["api".to_owned(), "worker".to_owned()], true, true);
        let plain = Paint { is_enabled: false };
        assert_eq!(painter.render_line(&entry("api", "hi\r"), plain), "00:00:01.500 api    | hi");
        assert_eq!(
            painter.render_line(&entry("late-one", "\x1b]0;x\x07\x1b[2J\x1b[1mx"), plain),
            "00:00:01.500 late-one | \x1b[1mx"
        );
        assert_eq!(
            painter.render_line(&entry("worker", "y"), Paint { is_enabled: true }),
            "\x1b[2m00:00:01.500\x1b[0m \x1b[33mworker   |\x1b[0m y"
        );
    }
}
