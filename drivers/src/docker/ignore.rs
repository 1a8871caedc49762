//! `.dockerignore`: patterns in order, `!` takes back, `**` spans folders (docs.docker.com, "Build context").

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

#[derive(Clone, Debug, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    parts: Vec<Vec<u8>>,
    takes_back: bool,
}

impl Ignore {
    pub(super) fn parse(text: &str) -> Self {
        let rules = text.trim_start_matches('\u{feff}').lines().filter_map(rule).collect();
        Self { rules }
    }

    /// Whether a path (relative to the context) stays behind. The last rule that matches it or a folder above decides.
    pub(super) fn excludes(&self, relative: &Path) -> bool {
        let names: Vec<&[u8]> = relative.iter().map(OsStrExt::as_bytes).collect();
        let mut excluded = false;
        for rule in &self.rules {
            if rule.takes_back == excluded && (1..=names.len()).any(|end| matches(&rule.parts, &names[..end])) {
                excluded = !rule.takes_back;
            }
        }
        excluded
    }

    /// An excluded folder has to be walked all the same when something inside may be taken back.
    pub(super) fn may_take_back(&self) -> bool {
        self.rules.iter().any(|rule| rule.takes_back)
    }
}

fn rule(line: &str) -> Option<Rule> {
    if line.starts_with('#') {
        return None;
    }
    let line = line.trim();
    let (takes_back, pattern) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    let mut parts: Vec<Vec<u8>> = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part.as_bytes().to_vec()),
        }
    }
    // `.` alone means everything, `..` alone nothing.
    if parts.is_empty() {
        return (pattern == "." || pattern == "/").then(|| Rule { parts: vec![b"**".to_vec()], takes_back });
    }
    Some(Rule { parts, takes_back })
}

fn matches(pattern: &[Vec<u8>], names: &[&[u8]]) -> bool {
    match (pattern, names) {
        ([], []) => true,
        ([first, rest @ ..], _) if first == b"**" => {
            matches(rest, names) || (!names.is_empty() && matches(pattern, &names[1..]))
        }
        ([first, rest @ ..], [name, others @ ..]) => name_matches(first, name) && matches(rest, others),
        _ => false,
    }
}

/// Go's `filepath.Match` within one name: `*`, `?`, `[a-z]`, `\x`.
fn name_matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => name_matches(rest, name) || (!name.is_empty() && name_matches(pattern, &name[1..])),
        ([b'?', rest @ ..], [_, others @ ..]) => name_matches(rest, others),
        ([b'[', rest @ ..], [byte, others @ ..]) => match class(rest, *byte) {
            Some((true, after)) => name_matches(after, others),
            _ => false,
        },
        ([b'\\', escaped, rest @ ..], [byte, others @ ..]) => escaped == byte && name_matches(rest, others),
        ([first, rest @ ..], [byte, others @ ..]) => first == byte && name_matches(rest, others),
        _ => false,
    }
}

/// Whether the byte is in the class, and what comes behind its `]`.
fn class(pattern: &[u8], byte: u8) -> Option<(bool, &[u8])> {
    let (negated, mut rest) = match pattern {
        [b'^', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let mut inside = false;
    loop {
        match rest {
            [b']', after @ ..] => return Some((inside != negated, after)),
            [low, b'-', high, after @ ..] if *high != b']' => {
                inside |= (*low..=*high).contains(&byte);
                rest = after;
            }
            [one, after @ ..] => {
                inside |= *one == byte;
                rest = after;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_docker_reads_it() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            ("node_modules", &["node_modules", "node_modules/a/b"], &["src/node_modules", "node_modules2"]),
            ("**/node_modules", &["node_modules/a", "src/node_modules"], &["src"]),
            ("*.log", &["a.log"], &["logs/a.log", "a.logs"]),
            ("/a/", &["a", "a/b"], &["b/a"]),
            ("*\n!keep.txt\n!src", &["other", "target/x"], &["keep.txt", "src", "src/main.rs"]),
            (
                "# comment\n\ndocs/**/*.md\n!docs/README.md",
                &["docs/a.md", "docs/x/y.md"],
                &["docs/README.md", "docs/a.txt"],
            ),
            ("a?c\n[x-z]1", &["abc", "y1"], &["ac", "w1"]),
            ("./b\n../c", &["b", "c"], &["a/b"]),
        ];
        for (text, out, kept) in cases {
            let ignore = Ignore::parse(text);
            for path in *out {
                assert!(ignore.excludes(Path::new(path)), "{text:?} should leave {path} behind");
            }
            for path in *kept {
                assert!(!ignore.excludes(Path::new(path)), "{text:?} should send {path}");
            }
        }
    }
}
