//! `.dockerignore` as Docker's own matcher (github.com/moby/patternmatcher) interprets it, including its oddities:
//! users test their files against that matcher. Does no I/O.

use std::path::Path;

#[derive(Clone, Debug, Default)]
pub(super) struct DockerIgnore {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    text: String,
    pattern: Pattern,
    is_negated: bool,
}

#[derive(Clone, Debug)]
enum Pattern {
    Exact,
    /// `dir/**`, including the slash.
    Prefix(String),
    /// `**/name` and `**name`, without the stars.
    Suffix(String),
    Glob(Vec<Token>),
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Token {
    Char(char),
    /// `?`
    AnyChar,
    /// `*`
    Star,
    /// `**` or `**/` followed by more: matches nothing, or any text that ends with a slash.
    DoubleStar,
    /// `**` at the end.
    TrailingDoubleStar,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// Which rules matched a folder, by rule index; these rules match everything in the folder. Empty for the context
/// itself.
pub(super) type MatchedRules = Vec<bool>;

impl DockerIgnore {
    /// Parses the file. The error is the first invalid pattern.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.starts_with('#'));
        let rules = lines.map(str::trim).filter(|line| !line.is_empty()).map(parse_rule).collect::<Result<_, _>>()?;
        Ok(Self { rules })
    }

    /// Whether a path (relative to the context) is excluded, and the matched rules for the paths in it.
    pub(super) fn excludes(&self, relative: &Path, parent_matches: &MatchedRules) -> (bool, MatchedRules) {
        let path = relative.to_string_lossy();
        let mut is_excluded = false;
        let mut child_matches = vec![false; self.rules.len()];
        for (index, rule) in self.rules.iter().enumerate() {
            // As in moby, skip a rule that cannot change the result, also for parent folders: `a/x`, `!a` leaves `a/x`
            // excluded.
            let matches =
                parent_matches.get(index) == Some(&true) || (rule.is_negated == is_excluded && rule.matches(&path));
            child_matches[index] = matches;
            if matches {
                is_excluded = !rule.is_negated;
            }
        }
        (is_excluded, child_matches)
    }

    /// Whether a negated rule may include a path in an excluded folder, so that the folder must still be walked.
    pub(super) fn may_reinclude_in(&self, folder: &Path) -> bool {
        let folder = format!("{}/", folder.to_string_lossy());
        self.rules.iter().filter(|rule| rule.is_negated).any(|rule| {
            let prefix = rule.text.strip_suffix("/**").unwrap_or(&rule.text);
            prefix.contains(['*', '[', ']', '?', '^']) || format!("{prefix}/").starts_with(&folder)
        })
    }
}

fn parse_rule(line: &str) -> Result<Rule, String> {
    let (is_negated, pattern) = match line.strip_prefix('!') {
        Some(remaining) => (true, remaining.trim()),
        None => (false, line),
    };
    if pattern.is_empty() {
        return Err(line.to_owned());
    }
    let text = clean_path(pattern);
    let text = if text.len() > 1 { text.strip_prefix('/').unwrap_or(&text).to_owned() } else { text };
    let parsed_pattern = parse_pattern(&text).ok_or_else(|| line.to_owned())?;
    Ok(Rule { text, pattern: parsed_pattern, is_negated })
}

/// Go's `filepath.Clean`.
fn clean_path(path: &str) -> String {
    let is_rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if is_rooted => {}
            part => parts.push(part),
        }
    }
    match (is_rooted, parts.is_empty()) {
        (true, _) => format!("/{}", parts.join("/")),
        (false, true) => ".".to_owned(),
        (false, false) => parts.join("/"),
    }
}

/// Returns `None` for an invalid pattern: an unterminated class, or a backslash at the end.
fn parse_pattern(text: &str) -> Option<Pattern> {
    let tokens = tokenize(text)?;
    let is_plain =
        |tokens: &[Token]| tokens.iter().all(|token| matches!(token, Token::Char(_))) && !text.contains('\\');
    Some(match tokens.as_slice() {
        tokens if is_plain(tokens) => Pattern::Exact,
        // For these, only the first token matters; `**/**` is neither.
        [Token::DoubleStar | Token::TrailingDoubleStar, suffix_tokens @ ..] if is_plain(suffix_tokens) => {
            Pattern::Suffix(text[2..].to_owned())
        }
        [prefix @ .., Token::TrailingDoubleStar] if is_plain(prefix) => {
            Pattern::Prefix(text[..text.len() - 2].to_owned())
        }
        _ => Pattern::Glob(tokens),
    })
}

fn tokenize(text: &str) -> Option<Vec<Token>> {
    let mut characters = text.chars().peekable();
    let mut tokens = Vec::new();
    while let Some(character) = characters.next() {
        tokens.push(match character {
            '*' if characters.next_if_eq(&'*').is_some() => {
                characters.next_if_eq(&'/');
                if characters.peek().is_none() { Token::TrailingDoubleStar } else { Token::DoubleStar }
            }
            '*' => Token::Star,
            '?' => Token::AnyChar,
            '[' => parse_class(&mut characters)?,
            '\\' => Token::Char(characters.next()?),
            other => Token::Char(other),
        });
    }
    Some(tokens)
}

fn parse_class(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = characters.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && characters.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let low = parse_class_bound(characters)?;
        let high = if characters.next_if_eq(&'-').is_some() { parse_class_bound(characters)? } else { low };
        ranges.push((low, high));
    }
}

fn parse_class_bound(characters: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match characters.next()? {
        '-' | ']' => None,
        '\\' => characters.next(),
        other => Some(other),
    }
}

impl Rule {
    fn matches(&self, path: &str) -> bool {
        match &self.pattern {
            Pattern::Exact => path == self.text,
            Pattern::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Pattern::Suffix(end) => path.ends_with(end.as_str()) || end.strip_prefix('/') == Some(path),
            Pattern::Glob(tokens) => matches_glob(tokens, path),
        }
    }
}

/// Follows all alternatives through the pattern in parallel, so the cost per character is bounded by the number of
/// tokens.
fn matches_glob(tokens: &[Token], path: &str) -> bool {
    let mut states = MatchStates::default();
    states.add_reachable(tokens, 0);
    for character in path.chars() {
        let previous_states = std::mem::take(&mut states);
        for index in previous_states.0 {
            let Some(token) = tokens.get(index) else { continue };
            match token {
                Token::Char(expected) if *expected == character => states.add_reachable(tokens, index + 1),
                Token::AnyChar if character != '/' => states.add_reachable(tokens, index + 1),
                Token::Class { negated, ranges } => {
                    if ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated {
                        states.add_reachable(tokens, index + 1);
                    }
                }
                Token::Star if character != '/' => states.add_reachable(tokens, index),
                Token::TrailingDoubleStar => states.add_reachable(tokens, index),
                Token::DoubleStar => {
                    states.add(index);
                    if character == '/' {
                        states.add_reachable(tokens, index + 1);
                    }
                }
                Token::Char(_) | Token::AnyChar | Token::Star => {}
            }
        }
        if states.0.is_empty() {
            return false;
        }
    }
    states.0.contains(&tokens.len())
}

#[derive(Default)]
struct MatchStates(Vec<usize>);

impl MatchStates {
    fn add(&mut self, index: usize) {
        if !self.0.contains(&index) {
            self.0.push(index);
        }
    }

    /// Adds a token's index, and the indexes after it as long as the tokens in between may match nothing.
    fn add_reachable(&mut self, tokens: &[Token], mut index: usize) {
        self.add(index);
        while matches!(tokens.get(index), Some(Token::Star | Token::DoubleStar | Token::TrailingDoubleStar)) {
            index += 1;
            self.add(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Walks to the path like the context scan: parent folders first.
    fn is_excluded(ignore: &DockerIgnore, path: &str) -> bool {
        let path = Path::new(path);
        let mut folders: Vec<&Path> = path.ancestors().filter(|folder| !folder.as_os_str().is_empty()).collect();
        folders.reverse();
        let mut parent_matches = MatchedRules::new();
        let mut excluded = false;
        for folder in folders {
            (excluded, parent_matches) = ignore.excludes(folder, &parent_matches);
        }
        excluded
    }

    /// Pattern lines, path, and whether the path is excluded: moby's own matcher cases first, then those of its file
    /// reader.
    #[test]
    fn patterns_match_like_moby() {
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
            // Cases of the file reader.
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
            // Docker matches these suffixes anywhere, contrary to what the pattern suggests.
            ("**.log", "dir/a.log", true),
            ("**.l*g", "a.log", false),
            ("a/x\n!a", "a/x", true),
            ("node_modules", "src/node_modules", false),
        ];
        for (text, path, excluded) in cases {
            let ignore = DockerIgnore::parse(text).unwrap_or_else(|pattern| panic!("{text:?}: {pattern}"));
            assert_eq!(is_excluded(&ignore, path), excluded, "{text:?} and {path}");
        }
    }

    #[test]
    fn invalid_pattern_is_named_in_error() {
        for pattern in ["!", "! ", "[", "[]a]", "[-]", "[x-]", "[-x]", "\\", "[a-b-c]", "[^", "[^bc", "a["] {
            let result = DockerIgnore::parse(&format!("fine\n{pattern}"));
            assert_eq!(result.err().as_deref(), Some(pattern.trim()), "{pattern}");
        }
    }

    #[test]
    fn excluded_folder_is_walked_only_for_possible_reincludes() {
        let cases = [
            ("*\n!src/main", "src", true),
            ("*\n!src/main", "target", false),
            ("*\n!**/keep", "target", true),
            ("*", "a", false),
        ];
        for (text, folder, should_walk) in cases {
            let ignore = DockerIgnore::parse(text).unwrap();
            assert_eq!(ignore.may_reinclude_in(Path::new(folder)), should_walk, "{text:?} and {folder}");
        }
    }
}
