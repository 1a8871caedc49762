//! `.dockerignore` as Docker's own matcher reads it (github.com/moby/patternmatcher), its oddities included: people
//! tested their file against that one. Reads no disk.

use std::path::Path;

#[derive(Clone, Debug, Default)]
pub(super) struct Ignore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    text: String,
    shape: Shape,
    takes_back: bool,
}

#[derive(Clone, Debug)]
enum Shape {
    Exact,
    /// `dir/**`, with the slash.
    Prefix(String),
    /// `**/name` and `**name`, without the stars.
    Suffix(String),
    Wild(Vec<Token>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    One(char),
    /// `?`
    AnyOne,
    /// `*`
    InName,
    /// `**` or `**/` before more: nothing, or anything that ends with a slash.
    Folders,
    /// `**` at the end.
    Rest,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Which rules matched a folder: they match everything in it. Empty above the context.
pub(super) type Above = Vec<bool>;

impl Ignore {
    /// The pattern that cannot be read, when there is one.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.starts_with('#'));
        let rules = lines.map(str::trim).filter(|line| !line.is_empty()).map(rule).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Whether a path (relative to the context) stays behind, and what this means for the paths in it.
    pub(super) fn excludes(&self, relative: &Path, above: &Above) -> (bool, Above) {
        let path = relative.to_string_lossy();
        let mut matched = false;
        let mut below = vec![false; self.rules.len()];
        for (index, rule) in self.rules.iter().enumerate() {
            // A rule that could change nothing is not asked, here and for the folders above: `a/x`, `!a` leaves `a/x`.
            let matches = above.get(index) == Some(&true) || (rule.takes_back == matched && rule.matches(&path));
            below[index] = matches;
            if matches {
                matched = !rule.takes_back;
            }
        }
        (matched, below)
    }

    /// Whether something inside an excluded folder may be taken back, so that it has to be walked all the same.
    pub(super) fn may_take_back_in(&self, folder: &Path) -> bool {
        let folder = format!("{}/", folder.to_string_lossy());
        self.rules.iter().filter(|rule| rule.takes_back).any(|rule| {
            let start = rule.text.strip_suffix("/**").unwrap_or(&rule.text);
            start.contains(['*', '[', ']', '?', '^']) || format!("{start}/").starts_with(&folder)
        })
    }
}

fn rule(line: &str) -> Result<Rule, String> {
    let (takes_back, pattern) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    if pattern.is_empty() {
        return Err(line.to_owned());
    }
    let text = clean(pattern);
    let text = if text.len() > 1 { text.strip_prefix('/').unwrap_or(&text).to_owned() } else { text };
    let shape = shape(&text).ok_or_else(|| line.to_owned())?;
    Ok(Rule { text, shape, takes_back })
}

/// Go's `filepath.Clean`.
fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// `None` for a pattern that is no pattern: an open class, a backslash at the end.
fn shape(text: &str) -> Option<Shape> {
    let tokens = tokens(text)?;
    let plain = |tokens: &[Token]| tokens.iter().all(|token| matches!(token, Token::One(_))) && !text.contains('\\');
    Some(match tokens.as_slice() {
        tokens if plain(tokens) => Shape::Exact,
        // The first token alone decides for these, and `**/**` is none of them.
        [Token::Folders | Token::Rest, rest @ ..] if plain(rest) => Shape::Suffix(text[2..].to_owned()),
        [start @ .., Token::Rest] if plain(start) => Shape::Prefix(text[..text.len() - 2].to_owned()),
        _ => Shape::Wild(tokens),
    })
}

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut left = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(next) = left.next() {
        tokens.push(match next {
            '*' if left.next_if_eq(&'*').is_some() => {
                left.next_if_eq(&'/');
                if left.peek().is_none() { Token::Rest } else { Token::Folders }
            }
            '*' => Token::InName,
            '?' => Token::AnyOne,
            '[' => class(&mut left)?,
            '\\' => Token::One(left.next()?),
            other => Token::One(other),
        });
    }
    Some(tokens)
}

fn class(left: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = left.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && left.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let low = class_end(left)?;
        let high = if left.next_if_eq(&'-').is_some() { class_end(left)? } else { low };
        ranges.push((low, high));
    }
}

fn class_end(left: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match left.next()? {
        '-' | ']' => None,
        '\\' => left.next(),
        other => Some(other),
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Exact => path == self.text,
            Shape::Prefix(start) => path.starts_with(start.as_str()),
            Shape::Suffix(end) => path.ends_with(end.as_str()) || end.strip_prefix('/') == Some(path),
            Shape::Wild(tokens) => wild(tokens, path),
        }
    }
}

/// All ways through the pattern at once, so that many stars cost no more than their number.
fn wild(tokens: &[Token], path: &str) -> bool {
    let mut places = Places::default();
    places.reach(tokens, 0);
    for next in path.chars() {
        let before = std::mem::take(&mut places);
        for index in before.0 {
            let Some(token) = tokens.get(index) else { continue };
            match token {
                Token::One(one) if *one == next => places.reach(tokens, index + 1),
                Token::AnyOne if next != '/' => places.reach(tokens, index + 1),
                Token::Class { negated, ranges } => {
                    if ranges.iter().any(|(low, high)| (*low..=*high).contains(&next)) != *negated {
                        places.reach(tokens, index + 1);
                    }
                }
                Token::InName if next != '/' => places.reach(tokens, index),
                Token::Rest => places.reach(tokens, index),
                Token::Folders => {
                    places.add(index);
                    if next == '/' {
                        places.reach(tokens, index + 1);
                    }
                }
                Token::One(_) | Token::AnyOne | Token::InName => {}
            }
        }
        if places.0.is_empty() {
            return false;
        }
    }
    places.0.contains(&tokens.len())
}

#[derive(Default)]
struct Places(Vec<usize>);

impl Places {
    fn add(&mut self, index: usize) {
        if !self.0.contains(&index) {
            self.0.push(index);
        }
    }

    /// The token comes next, and those behind it too as long as it may match nothing.
    fn reach(&mut self, tokens: &[Token], mut index: usize) {
        self.add(index);
        while matches!(tokens.get(index), Some(Token::InName | Token::Folders | Token::Rest)) {
            index += 1;
            self.add(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the context is walked: folders first.
    fn excluded(ignore: &Ignore, path: &str) -> bool {
        let path = Path::new(path);
        let mut folders: Vec<&Path> = path.ancestors().filter(|folder| !folder.as_os_str().is_empty()).collect();
        folders.reverse();
        let mut above = Above::new();
        let mut out = false;
        for folder in folders {
            (out, above) = ignore.excludes(folder, &above);
        }
        out
    }

    /// Patterns by lines, path, whether the path stays behind: moby's own cases, then those of its reader.
    #[test]
    fn as_moby_matches() {
        let cases = [
            ("**", "file", true),
            ("**/", "file", true),
            ("**", "dir/file", true),
            ("**/**", "dir/file", true),
            ("dir/**", "dir/file", true),
            ("dir/**", "dir/dir2/file", true),
            ("**/dir", "dir", true),
            ("**/dir", "dir/file", true),
            ("**/dir2/*", "dir/dir2/file", true),
            ("**/dir2/**", "dir/dir2/dir3/file", true),
            ("**file", "file", true),
            ("**file", "dir/file", true),
            ("**/file", "dir/dir/file", true),
            ("**/file*", "dir/dir/file.txt", true),
            ("**/file*txt", "dir/dir/file.txt", true),
            ("**/file*.txt*", "dir/dir/file.txt", true),
            ("**/**/*.txt", "dir/dir/file.txt", true),
            ("**/**/*.txt2", "dir/dir/file.txt", false),
            ("**/*.txt", "file.txt", true),
            ("**/**/*.txt", "file.txt", true),
            ("a**/*.txt", "a/file.txt", true),
            ("a**/*.txt", "a/dir/dir/file.txt", true),
            ("a/*.txt", "a/dir/file.txt", false),
            ("a/*.txt", "a/file.txt", true),
            ("a/*.txt**", "a/file.txt", true),
            ("a[b-d]e", "ae", false),
            ("a[b-d]e", "ace", true),
            ("a[b-d]e", "aae", false),
            ("a[^b-d]e", "aze", true),
            (".*", ".foo", true),
            (".*", "foo", false),
            ("abc.def", "abcdef", false),
            ("abc.def", "abc.def", true),
            ("abc.def", "abcZdef", false),
            ("abc?def", "abcZdef", true),
            ("abc?def", "abcdef", false),
            ("a\\\\", "a\\", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("**/foo/bar", "foo/bar", true),
            ("**/foo/bar", "dir/dir2/foo/bar", true),
            ("abc/**", "abc", false),
            ("abc/**", "abc/def/ghi", true),
            ("**/.foo", ".foo", true),
            ("**/.foo", "bar.foo", false),
            ("a(b)c/def", "a(b)c/def", true),
            ("a(b)c/def", "a(b)c/xyz", false),
            ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
            ("dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", true),
            ("**\n!util/docker/web", "util/docker/web/foo", false),
            ("**\n!util/docker/web\nutil/docker/web/foo", "util/docker/web/foo", true),
            ("**\n!dist/*.whl", "dist/proxy.py-2.4.0rc3.dev36+g08acad9-py3-none-any.whl", false),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "ab/c", true),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[^e-g]", "abc", true),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("[a-ζ]*", "α", true),
            ("*[a-ζ]", "A", false),
            ("a?b", "a/b", false),
            ("a*b", "a/b", false),
            ("[\\]a]", "]", true),
            ("[x\\-]", "-", true),
            ("[x\\-]", "z", false),
            ("*x", "xxx", true),
            // The reader of the file.
            ("\u{feff}*.log", "a.log", true),
            ("# x\n #x", "#x", true),
            ("  !docs/README.md\n*.md  ", "a.md", true),
            ("docs/\n!docs/README.md", "docs/README.md", false),
            ("docs\n! /docs/README.md", "docs/README.md", false),
            ("/a/file/here", "a/file/here", true),
            ("a/../b/./c\r\nd", "b/c", true),
            ("a/../b/./c\r\nd", "d", true),
            ("../c", "c", false),
            ("/../c", "c", true),
            (".", "a", false),
            // Ends with, wherever: not what it looks like, but what Docker does.
            ("**.log", "dir/a.log", true),
            ("**.l*g", "a.log", false),
            ("a/x\n!a", "a/x", true),
            ("node_modules", "src/node_modules", false),
        ];
        for (text, path, out) in cases {
            let ignore = Ignore::parse(text).unwrap_or_else(|pattern| panic!("{text:?}: {pattern}"));
            assert_eq!(excluded(&ignore, path), out, "{text:?} and {path}");
        }
    }

    #[test]
    fn what_is_no_pattern_is_named() {
        for pattern in ["!", "! ", "[", "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[^", "[^bc", "a["] {
            let read = Ignore::parse(&format!("fine\n{pattern}"));
            assert_eq!(read.err().as_deref(), Some(pattern.trim()), "{pattern}");
        }
    }

    #[test]
    fn excluded_folders_are_walked_only_for_a_reason() {
        let cases = [
            ("*\n!src/main", "src", true),
            ("*\n!src/main", "target", false),
            ("*\n!**/keep", "target", true),
            ("*", "a", false),
        ];
        for (text, folder, walked) in cases {
            let ignore = Ignore::parse(text).unwrap();
            assert_eq!(ignore.may_take_back_in(Path::new(folder)), walked, "{text:?} and {folder}");
        }
    }
}
