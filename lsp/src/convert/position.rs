//! Byte offsets and positions. A position is a line and a count of code units; client and server negotiate the unit.

use std::ops::Range;

use tower_lsp::ls_types::{self as lsp, Position, PositionEncodingKind};

use crate::text::Text;

/// The code unit that a position's `character` counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Encoding {
    Utf8,
    /// The default of the protocol, which every client supports.
    #[default]
    Utf16,
    Utf32,
}

impl Encoding {
    /// The cheapest encoding that the client offers: UTF-8 positions need no conversion.
    #[must_use]
    pub fn negotiate(offered: Option<&[PositionEncodingKind]>) -> Self {
        let offered = offered.unwrap_or_default();
        let by_cost = [
            (PositionEncodingKind::UTF8, Self::Utf8),
            (PositionEncodingKind::UTF16, Self::Utf16),
            (PositionEncodingKind::UTF32, Self::Utf32),
        ];
        by_cost.into_iter().find(|(kind, _)| offered.contains(kind)).map_or(Self::Utf16, |(_, encoding)| encoding)
    }

    #[must_use]
    pub fn kind(self) -> PositionEncodingKind {
        match self {
            Self::Utf8 => PositionEncodingKind::UTF8,
            Self::Utf16 => PositionEncodingKind::UTF16,
            Self::Utf32 => PositionEncodingKind::UTF32,
        }
    }

    /// The number of code units of a text.
    #[must_use]
    pub fn code_unit_count(self, text: &str) -> u32 {
        let count = match self {
            Self::Utf8 => text.len(),
            Self::Utf16 if text.is_ascii() => text.len(),
            Self::Utf16 => text.encode_utf16().count(),
            Self::Utf32 => text.chars().count(),
        };
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Converts a position to a byte offset. A position after the end of its line or of the text means that end, as in
    /// the protocol.
    #[must_use]
    pub fn offset(self, text: &Text, position: Position) -> usize {
        let line = text.line_range(position.line as usize);
        let content = text.as_str().get(line.clone()).unwrap_or_default();
        let character_offset = position.character as usize;
        if self == Self::Utf8 || content.is_ascii() {
            return text.floor_char_boundary(line.start + character_offset.min(content.len()));
        }
        let mut units = 0;
        for (at, character) in content.char_indices() {
            let width = if self == Self::Utf16 { character.len_utf16() } else { 1 };
            // A position inside a surrogate pair means the start of its character.
            if units + width > character_offset {
                return line.start + at;
            }
            units += width;
        }
        line.end
    }

    #[must_use]
    pub fn position(self, text: &Text, offset: usize) -> Position {
        let offset = text.floor_char_boundary(offset);
        let line = text.line_at(offset);
        let range = text.line_range(line);
        let before = text.as_str().get(range.start..offset.min(range.end)).unwrap_or_default();
        Position { line: u32::try_from(line).unwrap_or(u32::MAX), character: self.code_unit_count(before) }
    }

    #[must_use]
    pub fn range(self, text: &Text, range: Range<usize>) -> lsp::Range {
        lsp::Range { start: self.position(text, range.start), end: self.position(text, range.end) }
    }

    #[must_use]
    pub fn byte_range(self, text: &Text, range: lsp::Range) -> Range<usize> {
        self.offset(text, range.start)..self.offset(text, range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_and_offset_round_trip_in_every_encoding() {
        let text = Text::new("\u{feff}a: \"ä😀é\" # ok\r\nb: 😀😀\n\nlast");
        for encoding in [Encoding::Utf8, Encoding::Utf16, Encoding::Utf32] {
            for (at, character) in text.as_str().char_indices().filter(|(_, character)| !"\r\n".contains(*character)) {
                let position = encoding.position(&text, at);
                assert_eq!(encoding.offset(&text, position), at, "{character:?} in {encoding:?}");
            }
        }
        let smile = text.as_str().find('😀').expect("the text contains it");
        assert_eq!(Encoding::Utf16.position(&text, smile), Position { line: 0, character: 6 });
        assert_eq!(Encoding::Utf32.position(&text, smile + 4), Position { line: 0, character: 7 });
        assert_eq!(Encoding::Utf16.position(&text, smile + 4), Position { line: 0, character: 8 });
    }

    #[test]
    fn out_of_range_positions_are_clamped() {
        let text = Text::new("ab\ncd");
        for (line, character, offset) in [(0, 9, 2), (1, 9, 5), (9, 0, 5), (0, 2, 2)] {
            assert_eq!(Encoding::Utf16.offset(&text, Position { line, character }), offset, "{line}:{character}");
        }
        let wide = Text::new("😀x");
        assert_eq!(Encoding::Utf16.offset(&wide, Position { line: 0, character: 1 }), 0);
    }
}
