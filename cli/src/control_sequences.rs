//! Removes control sequences from text of other programs. Logs, build output and names could otherwise set the title,
//! write to the clipboard, move the cursor or ask the terminal for input. Colours (SGR) stay.

use std::borrow::Cow;

/// Keeps tabs, line ends and SGR sequences.
pub(crate) fn keep_only_colors(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|letter| letter.is_control() && !matches!(letter, '\n' | '\t')) {
        return Cow::Borrowed(text);
    }
    let mut output = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let after = &rest[letter.len_utf8()..];
        rest = match letter {
            '\x1b' => skip_escape_sequence(after, &mut output),
            // The same sequences with one control character of ISO 6429 instead of two.
            '\u{9b}' => skip_csi(after, &mut output),
            '\u{90}' | '\u{98}' | '\u{9d}' | '\u{9e}' | '\u{9f}' => skip_string(after),
            '\n' | '\t' => {
                output.push(letter);
                after
            }
            _ => {
                if !letter.is_control() {
                    output.push(letter);
                }
                after
            }
        };
    }
    Cow::Owned(output)
}

fn skip_escape_sequence<'a>(text: &'a str, output: &mut String) -> &'a str {
    match text.chars().next() {
        Some('[') => skip_csi(&text[1..], output),
        // OSC, DCS, SOS, PM and APC.
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(&text[1..]),
        _ => {
            let rest = text.trim_start_matches(|letter: char| (' '..='/').contains(&letter));
            match rest.chars().next() {
                Some('0'..='~') => &rest[1..],
                _ => rest,
            }
        }
    }
}

/// `text` starts after the introducer.
fn skip_csi<'a>(text: &'a str, output: &mut String) -> &'a str {
    let parameters = text.find(|letter: char| !('0'..='?').contains(&letter)).unwrap_or(text.len());
    let (parameters, rest) = text.split_at(parameters);
    let after_intermediates = rest.trim_start_matches(|letter: char| (' '..='/').contains(&letter));
    let Some(last @ '@'..='~') = after_intermediates.chars().next() else { return after_intermediates };
    // `CSI > ... m` and sequences with intermediate characters are no colours.
    let is_color = last == 'm' && rest.len() == after_intermediates.len();
    if is_color && parameters.chars().all(|letter| letter.is_ascii_digit() || matches!(letter, ';' | ':')) {
        output.push_str("\x1b[");
        output.push_str(parameters);
        output.push('m');
    }
    &after_intermediates[1..]
}

/// Without a terminator in the same line, only the introducer is removed, so that no text disappears.
fn skip_string(text: &str) -> &str {
    let line = text.split('\n').next().unwrap_or(text);
    let ends = [("\x07", 1), ("\x1b\\", 2), ("\u{9c}", 2)];
    let end = ends.iter().filter_map(|(end, length)| Some(line.find(end)? + length)).min();
    &text[end.unwrap_or(0)..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_colors_remain() {
        for (text, expected) in [
            ("plain\tä 日本\n", "plain\tä 日本\n"),
            (
                "\x1b[31mred\x1b[0m \x1b[38;2;1;2;3mx\x1b[4:3my\x1b[m",
                "\x1b[31mred\x1b[0m \x1b[38;2;1;2;3mx\x1b[4:3my\x1b[m",
            ),
            ("\u{9b}1mbold", "\x1b[1mbold"),
            // Title, clipboard, hyperlink, with both terminators.
            ("a\x1b]0;title\x07b\x1b]52;c;aGk=\x1b\\c\x1b]8;;http://x\x1b\\d\u{9d}2;t\u{9c}e", "abcde"),
            // Device control, application strings, and a string without an end.
            ("a\x1bP+q544e\x1b\\b\x1b_x\x1b\\c\x1b]0;end", "abc0;end"),
            ("a\x1b]0;x\nnext", "a0;x\nnext"),
            // Cursor, screen, modes, reports, key modifiers, character sets, reset.
            ("a\x1b[2J\x1b[H\x1b[?1049h\x1b[6n\x1b[>4;2m\x1b[0 qb\x1b(0c\x1bcd\x1b7e", "abcde"),
            ("over\rwritten\x08\x07\x7f", "overwritten"),
            ("\x1b", ""),
            ("\x1b[", ""),
            ("\x1b[3\x1b[1mx", "\x1b[1mx"),
            ("\x1bäx", "äx"),
        ] {
            assert_eq!(keep_only_colors(text), expected, "{text:?}");
        }
    }
}
