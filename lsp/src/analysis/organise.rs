//! Sorts the sections of a manifest into the order of the documentation. A section moves with the comments directly
//! above it.
//!
//! The result is parsed again and compared, so that a bug cannot change anything but the order.

use manifest::FileId;
use manifest::syntax::{self, Node};

use crate::text::Text;

const SECTION_ORDER: [&str; 15] = [
    "pdev",
    "app",
    "names",
    "include",
    "+include",
    "vars",
    "services",
    "resources",
    "secrets",
    "identities",
    "jobs",
    "environments",
    "guardrails",
    "patches",
    "+patches",
];

/// Returns the sorted text, or `None` if the text is sorted already or does not parse.
#[must_use]
pub fn organise(text: &Text) -> Option<String> {
    let parsed = syntax::parse(text.as_str(), FileId(0));
    let root = parsed.root.as_ref().filter(|_| parsed.diagnostics.is_empty())?;
    let pairs = root.as_map()?;
    let starts: Vec<usize> = pairs.iter().map(|pair| section_start(text, pair.key.span.range().start)).collect();
    let header_end = *starts.first()?;
    let ends = starts[1..].iter().copied().chain([text.len()]);
    let mut parts: Vec<(usize, &str)> = pairs
        .iter()
        .zip(starts.iter().zip(ends))
        .map(|(pair, (start, end))| (section_rank(&pair.key.value), text.as_str().get(*start..end).unwrap_or_default()))
        .collect();
    if parts.is_sorted_by_key(|(rank, _)| *rank) {
        return None;
    }
    parts.sort_by_key(|(rank, _)| *rank);
    let mut organised = text.as_str().get(..header_end)?.to_owned();
    for (_, part) in parts {
        if !organised.is_empty() && !organised.ends_with('\n') {
            organised.push('\n');
        }
        organised.push_str(part);
    }
    let again = syntax::parse(&organised, FileId(0));
    let is_equivalent = again.diagnostics.is_empty()
        && again.comments.len() == parsed.comments.len()
        && again.root.as_ref().is_some_and(|again| has_same_sections(root, again));
    is_equivalent.then_some(organised)
}

/// The start of the section, including the comments directly above it.
fn section_start(text: &Text, key: usize) -> usize {
    let mut line = text.line_at(key);
    while line > 0 {
        let above = text.line_range(line - 1);
        if !text.as_str()[above].starts_with('#') {
            break;
        }
        line -= 1;
    }
    // Comments at the top describe the file, so they stay there.
    if line == 0 { text.line_range(text.line_at(key)).start } else { text.line_range(line).start }
}

fn section_rank(key: &str) -> usize {
    let rank = SECTION_ORDER.iter().position(|name| *name == key);
    // Extensions (`x-*`) and then unknown keys come last.
    rank.unwrap_or_else(|| if key.starts_with("x-") { SECTION_ORDER.len() } else { SECTION_ORDER.len() + 1 })
}

fn has_same_sections(before: &Node, after: &Node) -> bool {
    let (Some(before), Some(after)) = (before.as_map(), after.as_map()) else { return false };
    before.len() == after.len()
        && before.iter().all(|pair| {
            after.iter().any(|moved| {
                moved.key.value == pair.key.value && super::format::is_same_tree(&pair.value, &moved.value)
            })
        })
}

#[cfg(test)]
mod tests {
    use super::organise;
    use crate::text::Text;

    #[test]
    fn sections_move_with_their_comments_and_nothing_else_changes() {
        let cases = [
            // Already sorted; only one section; does not parse.
            ("pdev: 1\napp: a\nservices: {}\n", None),
            ("pdev: 1\n", None),
            ("services: {}\npdev: [\n", None),
            (
                "# The shop.\npdev: 1\n\nenvironments:\n  local: {}\n# What runs.\nservices:\n  web: # here\n    image: \"a:1\"\napp: shop",
                Some(
                    "# The shop.\npdev: 1\n\napp: shop\n# What runs.\nservices:\n  web: # here\n    image: \"a:1\"\nenvironments:\n  local: {}\n",
                ),
            ),
            ("x-own: 1\npdev: 1\n", Some("pdev: 1\nx-own: 1\n")),
        ];
        for (text, expected) in cases {
            assert_eq!(organise(&Text::new(text)).as_deref(), expected, "{text}");
        }
    }
}
