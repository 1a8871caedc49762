//! The word list of docs/vocabulary.toml: no name, comment, message or page uses a private word where the field has one.
//!
//! Rust files are tokenised, so a word inside a string is not an identifier, and a URL is not a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use proc_macro2::{TokenStream, TokenTree};
use serde::Deserialize;

/// Files whose words are not ours: licences, lock files, generated schemas, recorded input.
const NOT_OURS: &[&str] = &["LICENSE-", "Cargo.lock", "package-lock.json", "lsp/tests/wire/protocol.json", "deny.toml"];
/// Fewer files or identifiers than this means that the walk is broken, not that the project is clean.
const FILES_MIN: usize = 600;
const IDENTIFIERS_MIN: usize = 100_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Vocabulary {
    /// A word anywhere in an identifier, to what it is replaced by.
    identifiers: BTreeMap<String, String>,
    /// An identifier as a whole.
    names: BTreeMap<String, String>,
    /// Words in comments, messages and pages.
    text: BTreeMap<String, String>,
    allow: Vec<Allowance>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowance {
    word: String,
    /// A file, or a folder that ends with `/`.
    path: String,
    reason: String,
}

/// A forbidden word and where it was found.
struct Finding {
    word: String,
    path: String,
    line: usize,
    found: String,
    replacement: String,
}

#[derive(Default)]
struct Scan {
    identifiers: usize,
    findings: Vec<Finding>,
}

#[test]
fn names_and_prose_use_the_words_of_the_field() {
    let vocabulary = load();
    let mut scan = Scan::default();
    let files = files();
    assert!(files.len() >= FILES_MIN, "only {} files were found", files.len());
    for path in &files {
        let Ok(text) = std::fs::read_to_string(workspace_root().join(path)) else { continue };
        scan.check_path(&vocabulary, path);
        if path.ends_with(".rs") {
            scan.check_rust(&vocabulary, path, &text);
        } else {
            scan.check_lines(&vocabulary, path, &text);
        }
    }
    assert!(scan.identifiers >= IDENTIFIERS_MIN, "only {} identifiers were read", scan.identifiers);
    let mut used = BTreeSet::new();
    let mut wrong: Vec<String> = Vec::new();
    for finding in scan.findings {
        let allowance = vocabulary.allow.iter().position(|allowance| {
            allowance.word == finding.word
                && (allowance.path == finding.path
                    || allowance.path.ends_with('/') && finding.path.starts_with(&allowance.path))
        });
        match allowance {
            Some(index) => drop(used.insert(index)),
            None => wrong.push(format!(
                "{}:{}: `{}` in `{}`; use: {}",
                finding.path, finding.line, finding.word, finding.found, finding.replacement
            )),
        }
    }
    for (index, allowance) in vocabulary.allow.iter().enumerate() {
        if !used.contains(&index) {
            wrong.push(format!(
                "docs/vocabulary.toml allows `{}` in {}, where it is not",
                allowance.word, allowance.path
            ));
        }
        if allowance.reason.split_whitespace().count() < 3 {
            wrong.push(format!("docs/vocabulary.toml gives no reason for `{}` in {}", allowance.word, allowance.path));
        }
    }
    assert!(wrong.is_empty(), "{} findings\n{}\n", wrong.len(), wrong.join("\n"));
}

#[test]
fn forbidden_words_are_found_in_each_kind_of_text() {
    let vocabulary: Vocabulary = toml::from_str(
        "allow = []\n[identifiers]\ntold = 'x'\n[names]\nhold = 'x'\n[text]\n'stands in' = 'x'\n'^What' = 'x'\n",
    )
    .expect("valid TOML");
    for (path, text, count) in [
        ("a.rs", "fn told() {}", 1),
        ("a.rs", "fn was_told_by() {}", 1),
        ("a.rs", "struct ToldBy;", 1),
        ("a.rs", "fn told_you_so() { let untold = 1; }", 1),
        ("a.rs", "fn hold() {}", 1),
        ("a.rs", "fn hold_lock() {}", 0),
        ("a.rs", "/// It stands in a file.\nfn a() {}", 1),
        ("a.rs", "fn a() { b(); // It stands\n}\n//! in two lines.", 0),
        ("a.rs", "// It stands\n// in two lines.\nfn a() {}", 1),
        ("a.rs", "fn a() { say(\"it stands in \\n a file\"); }", 1),
        ("a.rs", "const URL: &str = \"http://told.example//\"; // fine", 0),
        ("a.rs", "// What is this?\nfn a() {}", 0),
        ("a.rs", "// What is used is kept.\nfn a() {}", 1),
        ("a.md", "It Stands In a file", 1),
        ("a.md", "Bystands in, standsin", 0),
        ("a.md", "# What it does\n\nWhat runs is kept.\n", 1),
        ("told.rs", "", 1),
    ] {
        let mut scan = Scan::default();
        scan.check_path(&vocabulary, path);
        if path.ends_with(".rs") {
            scan.check_rust(&vocabulary, path, text);
        } else {
            scan.check_lines(&vocabulary, path, text);
        }
        let found: Vec<_> = scan.findings.iter().map(|finding| &finding.found).collect();
        assert_eq!(found.len(), count, "{path}: {text:?}: {found:?}");
    }
}

impl Scan {
    fn report(&mut self, word: &str, replacement: &str, (path, line): (&str, usize), found: &str) {
        let [word, path, found, replacement] = [word, path, found, replacement].map(str::to_owned);
        self.findings.push(Finding { word, path, line, found, replacement });
    }

    fn check_path(&mut self, vocabulary: &Vocabulary, path: &str) {
        let names = Path::new(path).iter().filter_map(|part| part.to_str());
        let names: Vec<&str> = names.map(|part| part.split('.').next().unwrap_or(part)).collect();
        for name in names {
            self.check_identifier(vocabulary, name, (path, 0));
        }
    }

    fn check_identifier(&mut self, vocabulary: &Vocabulary, identifier: &str, at: (&str, usize)) {
        self.identifiers += 1;
        if let Some(replacement) = vocabulary.names.get(identifier) {
            self.report(identifier, replacement, at, identifier);
        }
        for word in words_of(identifier) {
            if let Some(replacement) = vocabulary.identifiers.get(&word) {
                self.report(&word, replacement, at, identifier);
            }
        }
    }

    fn check_rust(&mut self, vocabulary: &Vocabulary, path: &str, text: &str) {
        let tokens = TokenStream::from_str(text).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut literal_lines = BTreeSet::new();
        self.check_tokens(vocabulary, path, tokens, &mut literal_lines);
        let mut comment = String::new();
        let mut start = 0;
        for (number, line) in text.lines().enumerate() {
            let trimmed = line.trim_start();
            let is_comment = trimmed.starts_with("//") && !literal_lines.contains(&(number + 1));
            if is_comment {
                if comment.is_empty() {
                    start = number + 1;
                }
                comment.push_str(trimmed.trim_start_matches(['/', '!']).trim());
                comment.push(' ');
                continue;
            }
            self.check_prose(vocabulary, &std::mem::take(&mut comment), (path, start));
            if let Some((_, trailing)) = line.split_once(" // ").filter(|_| !literal_lines.contains(&(number + 1))) {
                self.check_prose(vocabulary, trailing, (path, number + 1));
            }
        }
        self.check_prose(vocabulary, &comment, (path, start));
    }

    fn check_tokens(
        &mut self,
        vocabulary: &Vocabulary,
        path: &str,
        tokens: TokenStream,
        literal_lines: &mut BTreeSet<usize>,
    ) {
        for token in tokens {
            let line = token.span().start().line;
            match token {
                TokenTree::Group(group) => self.check_tokens(vocabulary, path, group.stream(), literal_lines),
                TokenTree::Ident(ident) => {
                    let name = ident.to_string();
                    self.check_identifier(vocabulary, name.trim_start_matches("r#"), (path, line));
                }
                TokenTree::Literal(literal) => {
                    let text = literal.to_string();
                    if text.starts_with('"') || text.starts_with("r\"") || text.starts_with("r#") {
                        literal_lines.extend(line..=literal.span().end().line);
                        self.check_phrases(vocabulary, &text.replace("\\n", " "), (path, line));
                    }
                }
                TokenTree::Punct(_) => {}
            }
        }
    }

    /// Markdown, scripts, settings: paragraphs are joined, because a phrase may be broken over two lines.
    fn check_lines(&mut self, vocabulary: &Vocabulary, path: &str, text: &str) {
        let mut paragraph = String::new();
        let mut start = 0;
        for (number, line) in text.lines().chain([""]).enumerate() {
            let content = line.trim_start().trim_start_matches(['/', '#', '!', '*', '-', '>', '"']).trim();
            let stands_alone =
                content.is_empty() || line.starts_with('#') && path.ends_with(".md") || line.starts_with('|');
            if stands_alone {
                self.check_prose(vocabulary, &std::mem::take(&mut paragraph), (path, start));
                self.check_phrases(vocabulary, content, (path, number + 1));
                continue;
            }
            if paragraph.is_empty() {
                start = number + 1;
            }
            paragraph.push_str(content);
            paragraph.push(' ');
        }
    }

    fn check_phrases(&mut self, vocabulary: &Vocabulary, text: &str, at: (&str, usize)) {
        let text = text.to_lowercase().split_whitespace().collect::<Vec<_>>().join(" ");
        for (phrase, replacement) in vocabulary.text.iter().filter(|(phrase, _)| !phrase.starts_with('^')) {
            for (index, _) in text.match_indices(phrase.as_str()) {
                let is_word = |character: Option<char>| character.is_some_and(char::is_alphanumeric);
                let whole = !is_word(text[..index].chars().next_back())
                    && !is_word(text[index + phrase.len()..].chars().next());
                if whole {
                    let from = text[..index].char_indices().rev().nth(30).map_or(0, |(index, _)| index);
                    let found: String = text[from..].chars().take(phrase.len() + 60).collect();
                    self.report(phrase, replacement, at, &found);
                }
            }
        }
    }

    /// Phrases, and words that must not begin a sentence.
    fn check_prose(&mut self, vocabulary: &Vocabulary, text: &str, at: (&str, usize)) {
        self.check_phrases(vocabulary, text, at);
        let openings =
            vocabulary.text.iter().filter_map(|(phrase, use_)| Some((phrase, phrase.strip_prefix('^')?, use_)));
        for (phrase, opening, replacement) in openings {
            for sentence in sentences(text) {
                let begins = sentence.strip_prefix(opening).is_some_and(|rest| rest.starts_with([' ', ',']));
                if begins && !sentence.ends_with('?') && sentence.split_whitespace().count() > 3 {
                    self.report(phrase, replacement, at, sentence);
                }
            }
        }
    }
}

/// Split after a full stop, question mark, exclamation mark or colon that a space follows.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    for (index, pair) in text.as_bytes().windows(2).enumerate() {
        if matches!(pair, [b'.' | b'?' | b'!' | b':', b' ']) {
            sentences.push(text[start..=index].trim());
            start = index + 1;
        }
    }
    sentences.push(text[start..].trim());
    sentences
}

/// `was_told`, `WasTold` and `WAS_TOLD` are `was` and `told`.
fn words_of(identifier: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut previous_is_lower = false;
    for character in identifier.chars() {
        if character == '_' || character == '-' || character.is_uppercase() && previous_is_lower {
            words.push(String::new());
        }
        previous_is_lower = character.is_lowercase() || character.is_ascii_digit();
        if character.is_alphanumeric() {
            words.last_mut().expect("starts with one word").extend(character.to_lowercase());
        }
    }
    words
}

fn load() -> Vocabulary {
    let text =
        std::fs::read_to_string(workspace_root().join("docs/vocabulary.toml")).expect("docs/vocabulary.toml is there");
    toml::from_str(&text).unwrap_or_else(|error| panic!("docs/vocabulary.toml: {error}"))
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli/ is a folder of the workspace").to_owned()
}

/// Tracked and new files in which people write words; the word list itself names every forbidden word.
fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace_root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "the workspace is a git checkout");
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let names = listing.split('\0').filter(|name| !name.is_empty() && workspace_root().join(name).is_file());
    let names = names.filter(|name| !NOT_OURS.iter().any(|part| name.contains(part)));
    names
        .filter(|name| *name != "docs/vocabulary.toml" && *name != "cli/tests/vocabulary.rs")
        .map(str::to_owned)
        .collect()
}
