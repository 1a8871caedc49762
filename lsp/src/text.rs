//! One version of a document: its text and the start of each line. It is immutable and cheap to share.
//!
//! It knows only byte offsets. `convert` translates the client's positions.

use std::ops::Range;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Text {
    text: Arc<str>,
    /// Byte offset of the start of each line. `\n`, `\r\n` and a lone `\r` end a line, as in the protocol.
    line_starts: Arc<[u32]>,
}

impl Text {
    #[must_use]
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        let text = text.into();
        let lines = std::iter::once(0).chain(find_line_starts(&text, 0..text.len())).collect();
        Self { text, line_starts: lines }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    #[must_use]
    pub fn to_arc(&self) -> Arc<str> {
        Arc::clone(&self.text)
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.text.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    #[must_use]
    pub fn line_count(&self) -> usize {
        self.line_starts.len()
    }

    /// The zero-based line that contains an offset.
    #[must_use]
    pub fn line_at(&self, offset: usize) -> usize {
        self.line_starts.partition_point(|&start| start as usize <= offset).saturating_sub(1)
    }

    #[must_use]
    pub fn line_start(&self, line: usize) -> usize {
        self.line_starts.get(line).map_or(self.text.len(), |&start| start as usize)
    }

    /// The bytes of a line without its line ending.
    #[must_use]
    pub fn line_range(&self, line: usize) -> Range<usize> {
        let start = self.line_start(line);
        let end = self.line_start(line + 1);
        let content = self.text.get(start..end).unwrap_or_default().trim_end_matches(['\n', '\r']);
        start..start + content.len()
    }

    #[must_use]
    pub fn line(&self, line: usize) -> &str {
        self.text.get(self.line_range(line)).unwrap_or_default()
    }

    /// The nearest character boundary at or before this offset.
    #[must_use]
    pub fn floor_char_boundary(&self, offset: usize) -> usize {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        offset
    }

    /// Returns the text with these bytes replaced. The range is clamped to the text.
    #[must_use]
    pub fn with_replaced(&self, range: Range<usize>, replacement: &str) -> Self {
        let start = self.floor_char_boundary(range.start);
        let end = self.floor_char_boundary(range.end).max(start);
        let mut text = String::with_capacity(self.text.len() - (end - start) + replacement.len());
        text.push_str(&self.text[..start]);
        text.push_str(replacement);
        text.push_str(&self.text[end..]);
        let lines = self.shifted_line_starts(&text, start, end, replacement.len());
        Self { text: text.into(), line_starts: lines }
    }

    /// Scans only the text around the change, one byte to each side: a `\r` may have met a `\n`, or lost it.
    fn shifted_line_starts(&self, text: &str, start: usize, end: usize, added: usize) -> Arc<[u32]> {
        let from = self.line_at(start.saturating_sub(1));
        let unchanged = &self.line_starts[..=from];
        let first_after = self.line_starts.partition_point(|&line| line as usize <= end + 1);
        let fresh_end = (start + added + 1).min(text.len());
        let moved = |line: &u32| u32::try_from(*line as usize - end + start + added).unwrap_or(u32::MAX);
        let mut lines: Vec<u32> = Vec::with_capacity(self.line_starts.len() + 8);
        lines.extend(unchanged);
        lines.extend(find_line_starts(text, self.line_start(from)..fresh_end));
        let last = lines.last().copied().unwrap_or_default();
        lines.extend(self.line_starts[first_after..].iter().map(moved).filter(|&line| line > last));
        lines.into()
    }
}

/// The starts of the lines after each line ending in `range`.
fn find_line_starts(text: &str, range: Range<usize>) -> impl Iterator<Item = u32> {
    let bytes = text.as_bytes();
    range.filter_map(move |at| {
        let ends = match bytes[at] {
            b'\n' => true,
            b'\r' => bytes.get(at + 1) != Some(&b'\n'),
            _ => false,
        };
        ends.then(|| u32::try_from(at + 1).unwrap_or(u32::MAX))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_ending_counts_as_one_line() {
        let text = Text::new("a\nb\r\nc\rd");
        let lines: Vec<&str> = (0..text.line_count()).map(|line| text.line(line)).collect();
        assert_eq!(lines, ["a", "b", "c", "d"]);
        assert_eq!(text.line_at(4), 1);
    }

    #[test]
    fn replaced_text_has_same_line_starts_as_new_text() {
        let pieces = ["", "\n", "\r", "\r\n", "x", "ä\n", "a\rb", "\n\n"];
        for base in ["", "a\nb\r\nc\rd", "\r\n\r\n", "ab\r", "\n\rx"] {
            let original = Text::new(base);
            for start in 0..=base.len() {
                for end in start..=base.len() {
                    for piece in pieces {
                        let changed = original.with_replaced(start..end, piece);
                        let rebuilt = Text::new(changed.as_str());
                        assert_eq!(changed.line_starts, rebuilt.line_starts, "{base:?} {start}..{end} {piece:?}");
                    }
                }
            }
        }
    }
}
