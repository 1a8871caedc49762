//! Tables of aligned columns, without borders.

use crate::terminal::Paint;

#[derive(Clone, Debug, Default)]
pub(crate) struct Cell {
    text: String,
    codes: &'static str,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), codes: "" }
    }

    /// `codes` as in `ESC [ codes m`.
    pub(crate) fn painted(text: impl Into<String>, codes: &'static str) -> Self {
        Self { text: text.into(), codes }
    }
}

/// The lines of the table, indented by `indent`. Empty columns are left out, with their headings.
pub(crate) fn lines(headings: &[&str], rows: &[Vec<Cell>], indent: usize, paint: Paint) -> Vec<String> {
    let widths: Vec<usize> = (0..headings.len())
        .map(|column| {
            rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count()).max().unwrap_or(0)
        })
        .zip(headings)
        .map(|(width, heading)| if width == 0 { 0 } else { width.max(heading.len()) })
        .collect();
    let heading: Vec<Cell> = headings.iter().map(|heading| Cell::painted(*heading, "2")).collect();
    let has_heading = headings.iter().any(|heading| !heading.is_empty());
    has_heading.then_some(&heading).into_iter().chain(rows).map(|row| line(row, &widths, indent, paint)).collect()
}

fn line(row: &[Cell], widths: &[usize], indent: usize, paint: Paint) -> String {
    let mut line = " ".repeat(indent);
    for (cell, &width) in row.iter().zip(widths).filter(|&(_, &width)| width > 0) {
        let gap = width.saturating_sub(cell.text.chars().count()) + 2;
        line.push_str(&paint.with_codes(cell.codes, &cell.text));
        line.push_str(&" ".repeat(gap));
    }
    line.truncate(line.trim_end().len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_empty_ones_are_left_out() {
        let rows = [
            vec![Cell::new("ä"), Cell::default(), Cell::new("1")],
            vec![Cell::new("bcd"), Cell::default(), Cell::new("2")],
        ];
        let table = lines(&["A", "NONE", "N"], &rows, 1, Paint { is_enabled: false });
        assert_eq!(table, [" A    N", " ä    1", " bcd  2"]);
        let table = lines(&["", "", ""], &rows, 0, Paint { is_enabled: true });
        assert_eq!(table, ["ä    1", "bcd  2"]);
    }
}
