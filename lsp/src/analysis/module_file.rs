//! `module.yaml`: what its keys mean, and what may be written where the cursor is.
//!
//! Whether it is right is the catalog's to say.

use manifest::syntax::Node;

use super::completion::{Item, Kind, escape};
use super::cursor::{self, At, Cursor};
use super::tree;
use crate::text::Text;

/// A key of the format: where it may stand, what is meant, and how it goes on.
struct Key {
    /// The keys above it; `*` is a name of the module's own.
    place: &'static [&'static str],
    name: &'static str,
    doc: &'static str,
    value: Value,
}

#[derive(Clone, Copy)]
enum Value {
    Text,
    /// Goes on below.
    Block,
    List,
    Choice(&'static [&'static str]),
}

const KINDS: &[&str] = &["string", "integer", "number", "boolean", "array", "object"];
const BOOLEANS: &[&str] = &["true", "false"];
const LEVELS: &[&str] = &["basic", "advanced"];
const SIGNALS: &[&str] = &["SIGTERM", "SIGINT", "SIGQUIT"];

const fn key(place: &'static [&'static str], name: &'static str, value: Value, doc: &'static str) -> Key {
    Key { place, name, doc, value }
}

const KEYS: &[Key] = &[
    key(&[], "module", Value::Text, "Its name, as behind `uses:`."),
    key(&[], "version", Value::Text, "Version of the module itself, as `1.0.0` (SemVer)."),
    key(
        &[],
        "versions",
        Value::List,
        "Major versions of what it runs that may stand behind the `@`; the module's own major without it.",
    ),
    key(&[], "owner", Value::Block, "Who answers for it."),
    key(&[], "summary", Value::Text, "What it is, in one line."),
    key(&[], "docs", Value::Text, "A Markdown file beside this one; it must not be empty. `docs.md` unless said."),
    key(&[], "inputs", Value::Block, "What a manifest may say behind `with:`, by name."),
    key(&[], "outputs", Value::Block, "What a manifest may read as `${resources.NAME.OUTPUT}`, by name."),
    key(&[], "ports", Value::Block, "Ports it listens on, by name; `main` first."),
    key(&[], "stop", Value::Block, "How it is asked to stop."),
    key(&[], "let", Value::Block, "Values computed before rendering, in order."),
    key(&[], "renders", Value::Block, "What it is on each runtime."),
    key(&[], "deprecated", Value::Block, "It will go: why, and what to use instead."),
    key(&["owner"], "team", Value::Text, "The team."),
    key(&["owner"], "contact", Value::Text, "Where to ask."),
    key(&["owner"], "support", Value::Text, "What can be expected, as `best-effort`."),
    key(&["inputs", "*"], "type", Value::Choice(KINDS), "What kind of value it is."),
    key(&["inputs", "*"], "default", Value::Text, "What holds when nothing is said; may be a template."),
    key(&["inputs", "*"], "description", Value::Text, "What it is for; shown in editors and in `pdev module info`."),
    key(&["inputs", "*"], "rationale", Value::Text, "Why the default is what it is."),
    key(&["inputs", "*"], "level", Value::Choice(LEVELS), "`basic` is offered first."),
    key(&["inputs", "*"], "enum", Value::List, "The only values there are."),
    key(&["inputs", "*"], "minimum", Value::Text, "The least it may be."),
    key(&["inputs", "*"], "maximum", Value::Text, "The most it may be."),
    key(&["inputs", "*"], "pattern", Value::Text, "A regular expression that a text has to match somewhere."),
    key(&["inputs", "*"], "items", Value::Block, "Of an array: what each of its values is."),
    key(&["inputs", "*"], "properties", Value::Block, "Of an object: these keys and no others."),
    key(&["outputs", "*"], "value", Value::Text, "A template over `host`, `port`, `ports`, `inputs`."),
    key(&["outputs", "*"], "sensitive", Value::Choice(BOOLEANS), "Never shown, and delivered like a secret."),
    key(&["outputs", "*"], "description", Value::Text, "What it is."),
    key(&["stop"], "signal", Value::Choice(SIGNALS), "The signal that asks it to stop."),
    key(&["stop"], "grace", Value::Text, "How long it may take before it is killed, as `20s`."),
    key(&["renders"], "docker", Value::Block, "As a container."),
    key(&["renders"], "process", Value::Block, "As a local process."),
    key(&["renders", "docker"], "image", Value::Text, "The image."),
    key(&["renders", "docker"], "entrypoint", Value::List, "Replaces the image's entrypoint."),
    key(&["renders", "docker"], "command", Value::List, "Its arguments."),
    key(
        &["renders", "docker"],
        "env",
        Value::Block,
        "Its environment; `{ value: ..., sensitive: true }` for what is secret.",
    ),
    key(&["renders", "docker"], "volumes", Value::Block, "Data that stays: name to path in the container."),
    key(&["renders", "docker"], "user", Value::Text, "The user it runs as."),
    key(&["renders", "docker"], "host_config", Value::Block, "Fields of the Engine API's HostConfig."),
    key(&["renders", "process"], "command", Value::List, "The program and its arguments."),
    key(
        &["renders", "process"],
        "env",
        Value::Block,
        "Its environment; `{ value: ..., sensitive: true }` for what is secret.",
    ),
    key(&["renders", "process"], "user", Value::Text, "The user it runs as when pdev itself is root."),
    key(&["renders", "process"], "files", Value::Block, "Files written into its data folder."),
    key(&["renders", "process"], "init", Value::List, "Commands run once in its data folder."),
    key(&["renders", "process"], "after_ready", Value::List, "Commands run before others see it as ready."),
    key(
        &["renders", "process"],
        "search",
        Value::List,
        "Folders besides `PATH` where its programs may be; globs allowed.",
    ),
    key(&["renders", "process"], "install", Value::Text, "What to install when a program is absent."),
    key(&["deprecated"], "reason", Value::Text, "Why it will go."),
    key(&["deprecated"], "use", Value::Text, "What to use instead."),
];

/// What a template may read, besides the module's own `let`.
const SCOPE: [(&str, &str); 8] = [
    ("inputs", "what the manifest says, with defaults"),
    ("ports", "where it has to listen, by name"),
    ("host", "in outputs: where it is reached"),
    ("port", "in outputs: its main port"),
    ("resource", "its name in the manifest"),
    ("app", "the application"),
    ("password", "made for this machine, copy and resource"),
    ("constraint", "the version asked for"),
];

const FILTERS: [(&str, &str); 6] = [
    ("quote", "for a shell"),
    ("urlencode", "for a part of a URL"),
    ("bytes", "`512Mi` as a number"),
    ("sql_name", "for a name in SQL"),
    ("sql_text", "for a text in SQL"),
    ("flags", "an object as `-c key=value ...`"),
];

fn fits(place: &[&str], path: &[&str]) -> bool {
    place.len() == path.len() && place.iter().zip(path).all(|(own, other)| *own == "*" || own == other)
}

/// Schemas may hold schemas: all of them are like an input's.
fn flat<'a>(path: &[&'a str]) -> Vec<&'a str> {
    let mut flat: Vec<&str> = path.to_vec();
    while flat.len() > 2 && flat[0] == "inputs" {
        match flat[2] {
            "items" => drop(flat.remove(2)),
            "properties" if flat.len() > 3 => drop(flat.drain(2..4)),
            _ => break,
        }
    }
    flat
}

fn known(path: &[&str]) -> impl Iterator<Item = &'static Key> {
    let path = flat(path);
    KEYS.iter().filter(move |key| fits(key.place, &path))
}

#[must_use]
pub fn complete(text: &Text, root: Option<&Node>, offset: usize) -> Vec<Item> {
    let cursor = cursor::at(text, offset);
    let before = text.as_str().get(cursor.start.min(offset)..offset).unwrap_or_default();
    if let Some(template) = before.rfind("{{").map(|at| &before[at + 2..]).filter(|rest| !rest.contains("}}")) {
        return in_template(&cursor, root, template, offset);
    }
    let keys = cursor.keys();
    let Some(path) = keys.iter().copied().collect::<Option<Vec<&str>>>() else { return Vec::new() };
    match (&cursor.at, path.split_last()) {
        (At::Key, _) => {
            let beside = cursor::siblings(text, &cursor, offset);
            let free = known(&path).filter(|key| !beside.iter().any(|name| name == key.name));
            free.map(|key| item(&cursor, key.name, Kind::Key, &snippet(text, &cursor, key), key.doc)).collect()
        }
        (At::Value, Some((last, above))) => {
            let key = known(above).find(|key| key.name == *last);
            let words = match key.map(|key| key.value) {
                Some(Value::Choice(words)) => words,
                _ => &[],
            };
            words.iter().map(|word| item(&cursor, word, Kind::Value, word, "")).collect()
        }
        _ => Vec::new(),
    }
}

fn snippet(text: &Text, cursor: &Cursor, key: &Key) -> String {
    let rest = text.as_str().get(cursor.word.end..).unwrap_or_default();
    if rest.trim_start_matches(' ').starts_with(':') {
        return key.name.to_owned();
    }
    // The editor indents like the line; what is deeper is relative to it.
    let deeper = " ".repeat(cursor.column - cursor.indent + 2);
    match key.value {
        Value::Text => format!("{}: $0", key.name),
        Value::Choice(words) => format!("{}: ${{1|{}|}}$0", key.name, words.join(",")),
        Value::List => format!("{}: [$0]", key.name),
        Value::Block if cursor.flow => format!("{}: {{ $0 \\}}", key.name),
        Value::Block => format!("{}:\n{deeper}$0", key.name),
    }
}

fn item(cursor: &Cursor, label: &str, kind: Kind, snippet: &str, detail: &str) -> Item {
    Item {
        label: label.to_owned(),
        kind,
        detail: detail.to_owned(),
        about: None,
        snippet: snippet.to_owned(),
        replace: cursor.word.clone(),
        rank: 5,
    }
}

/// `{{ inputs.` and `| `: names of this very module.
fn in_template(cursor: &Cursor, root: Option<&Node>, template: &str, offset: usize) -> Vec<Item> {
    let start = template.rfind(|letter: char| !letter.is_alphanumeric() && letter != '_').map_or(0, |at| at + 1);
    let (before, word) = template.split_at(start);
    let mut cursor = cursor.clone();
    cursor.word = offset - word.len()..offset;
    let own = |section: &str| -> Vec<Item> {
        let pairs = root.and_then(|root| root.get(section)).and_then(|pair| pair.value.as_map()).unwrap_or_default();
        let detail = |pair: &manifest::syntax::Pair| {
            let text = pair.value.get("description").and_then(|pair| pair.value.as_scalar());
            text.map(|text| text.text.clone()).unwrap_or_default()
        };
        let one = |pair: &manifest::syntax::Pair| {
            item(&cursor, &pair.key.value, Kind::Field, &escape(&pair.key.value), &detail(pair))
        };
        pairs.iter().map(one).collect()
    };
    let fixed = |all: &[(&str, &str)]| -> Vec<Item> {
        all.iter().map(|(name, words)| item(&cursor, name, Kind::Field, name, words)).collect()
    };
    match before.trim_end() {
        before if before.ends_with("inputs.") => own("inputs"),
        before if before.ends_with("ports.") => own("ports"),
        before if before.ends_with('.') => Vec::new(),
        before if before.ends_with('|') => fixed(&FILTERS),
        _ => fixed(&SCOPE).into_iter().chain(own("let")).collect(),
    }
}

/// What the key under the cursor means, as Markdown, and the key's bytes.
#[must_use]
pub fn hover(root: &Node, offset: usize) -> Option<(String, std::ops::Range<usize>)> {
    let way = tree::way(root, offset);
    let pair = way.pair()?;
    let path = way.path();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let key = (1..=path.len()).rev().find_map(|length| {
        let (last, above) = path[..length].split_last()?;
        known(above).find(|key| key.name == *last).filter(|_| length == path.len() || !way.on_key)
    })?;
    let mut text = format!("**{}** – {}", key.name, key.doc);
    if let Value::Choice(words) = key.value {
        text.push_str(&format!("\n\n*{}*", words.join(" | ")));
    }
    let range = if way.on_key { pair.key.span.range() } else { way.node()?.span.range() };
    Some((text, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_written() {
        let top = "module: m\ninputs:\n  size: { type: integer, description: how much }\nlet: { x: \"1\" }\n";
        for (rest, expected) in [
            ("ver$0", "version versions owner summary docs outputs ports stop renders deprecated"),
            ("owner: { team: a, $0 }", "contact support"),
            ("stop:\n  signal: $0", "SIGTERM SIGINT SIGQUIT"),
            ("outputs:\n  url:\n    $0", "value sensitive description"),
            ("outputs:\n  url: { value: \"x-{{ inputs.$0 }}\" }", "size"),
            ("outputs:\n  url: { value: \"{{ inputs.size | $0", "quote urlencode bytes sql_name sql_text flags"),
            ("renders:\n  $0", "docker process"),
            (
                "renders:\n  docker: { image: \"{{ $0 }}\" }",
                "inputs ports host port resource app password constraint x",
            ),
            ("renders:\n  docker: { image: x$0 }", ""),
            ("# $0", ""),
        ] {
            let fixture = format!("{top}{rest}");
            let offset = fixture.find("$0").expect("a cursor");
            let text = Text::new(fixture.replacen("$0", "", 1));
            let root = manifest::syntax::parse(text.as_str(), manifest::FileId(0)).root;
            let labels: Vec<String> =
                complete(&text, root.as_ref(), offset).into_iter().map(|item| item.label).collect();
            assert_eq!(labels.join(" "), expected, "{rest}");
        }
    }

    #[test]
    fn keys_have_words_in_every_depth() {
        let text = "inputs:\n  a: { type: array, items: { type: object, properties: { b: { level: basic } } } }\n";
        let root = manifest::syntax::parse(text, manifest::FileId(0)).root.expect("it parses");
        for (word, expected) in [("level", "**level**"), ("items", "**items**"), ("inputs", "**inputs**")] {
            let (words, range) = hover(&root, text.find(word).expect("it is there")).expect("words");
            assert!(words.starts_with(expected) && &text[range] == word, "{word}: {words}");
        }
        assert_eq!(hover(&root, text.find("b:").expect("it is there")), None);
    }
}
