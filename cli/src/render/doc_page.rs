//! A documentation page in a terminal: headings are bold, examples are indented, the rest stays Markdown.

use crate::terminal::Paint;

pub(crate) fn lines(page: &str, paint: Paint) -> Vec<String> {
    let mut lines = Vec::new();
    let mut in_example = false;
    for line in without_front_matter(page).trim().lines() {
        if line.starts_with("```") {
            in_example = !in_example;
            // The output of a bad example is a second block, directly after the first one.
            if in_example && lines.last().is_some_and(|last: &String| last.starts_with("    ")) {
                lines.push(String::new());
            }
        } else if in_example {
            lines.push(format!("    {line}").trim_end().to_owned());
        } else if let Some(title) = line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#')) {
            lines.push(paint.bold(title));
        } else {
            lines.push(line.to_owned());
        }
    }
    lines
}

/// Removes the front matter, which only the tests read.
pub(crate) fn without_front_matter(page: &str) -> &str {
    let parts = page.strip_prefix("---\n").and_then(|rest| rest.split_once("\n---\n"));
    parts.map_or(page, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headings_and_code_blocks_are_rendered() {
        let page = "---\ncode: X\n---\n# X: a title\n\nWords.\n\n## Bad\n```yaml\na: 1\n```\n```text\nno\n```\n";
        assert_eq!(
            lines(page, Paint { is_enabled: false }),
            ["X: a title", "", "Words.", "", "Bad", "    a: 1", "", "    no"]
        );
        assert_eq!(without_front_matter("no\n---\n"), "no\n---\n");
    }
}
