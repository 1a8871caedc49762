//! `module.yaml`: what its keys mean, and what may be written where the cursor is.
//!
//! Whether it is right is the catalog's to say.

use manifest::syntax::Node;

use super::completion::{Item, ItemKind, escape_snippet};
use super::cursor::{self, Cursor, CursorKind};
use super::tree;
use crate::text::Text;

/// A key of the format: where it may stand, what is meant, and how it goes on.
struct ModuleKey {
    /// The keys above it; `*` is a name of the module's own.
    parent_path: &'static [&'static str],
    name: &'static str,
    doc: &'static str,
    value_kind: ValueKind,
}

#[derive(Clone, Copy)]
enum ValueKind {
    Text,
    /// Goes on below.
    Block,
    List,
    Choice(&'static [&'static str]),
}

const INPUT_TYPES: &[&str] = &["string", "integer", "number", "boolean", "array", "object"];
const BOOLEANS: &[&str] = &["true", "false"];
const LEVELS: &[&str] = &["basic", "advanced"];
const SIGNALS: &[&str] = &["SIGTERM", "SIGINT", "SIGQUIT"];

const fn module_key(
    place: &'static [&'static str],
    name: &'static str,
    value: ValueKind,
    doc: &'static str,
) -> ModuleKey {
    ModuleKey { parent_path: place, name, doc, value_kind: value }
}

const KEYS: &[ModuleKey] = &[
    module_key(&[], "module", ValueKind::Text, "Its name, as behind `uses:`."),
    module_key(&[], "version", ValueKind::Text, "Version of the module itself, as `1.0.0` (SemVer)."),
    module_key(
        &[],
        "versions",
        ValueKind::List,
        "Major versions of what it runs that may stand behind the `@`; the module's own major without it.",
    ),
    module_key(&[], "owner", ValueKind::Block, "Who answers for it."),
    module_key(&[], "summary", ValueKind::Text, "What it is, in one line."),
    module_key(
        &[],
        "docs",
        ValueKind::Text,
        "A Markdown file beside this one; it must not be empty. `docs.md` unless said.",
    ),
    module_key(&[], "inputs", ValueKind::Block, "What a manifest may say behind `with:`, by name."),
    module_key(&[], "outputs", ValueKind::Block, "What a manifest may read as `${resources.NAME.OUTPUT}`, by name."),
    module_key(&[], "ports", ValueKind::Block, "Ports it listens on, by name; `main` first."),
    module_key(&[], "stop", ValueKind::Block, "How it is asked to stop."),
    module_key(&[], "let", ValueKind::Block, "Values computed before rendering, in order."),
    module_key(&[], "renders", ValueKind::Block, "What it is on each runtime."),
    module_key(&[], "deprecated", ValueKind::Block, "It will go: why, and what to use instead."),
    module_key(&["owner"], "team", ValueKind::Text, "The team."),
    module_key(&["owner"], "contact", ValueKind::Text, "Where to ask."),
    module_key(&["owner"], "support", ValueKind::Text, "What can be expected, as `best-effort`."),
    module_key(&["inputs", "*"], "type", ValueKind::Choice(INPUT_TYPES), "What kind of value it is."),
    module_key(&["inputs", "*"], "default", ValueKind::Text, "What holds when nothing is said; may be a template."),
    module_key(
        &["inputs", "*"],
        "description",
        ValueKind::Text,
        "What it is for; shown in editors and in `pdev module info`.",
    ),
    module_key(&["inputs", "*"], "rationale", ValueKind::Text, "Why the default is what it is."),
    module_key(&["inputs", "*"], "level", ValueKind::Choice(LEVELS), "`basic` is offered first."),
    module_key(&["inputs", "*"], "enum", ValueKind::List, "The only values there are."),
    module_key(&["inputs", "*"], "minimum", ValueKind::Text, "The least it may be."),
    module_key(&["inputs", "*"], "maximum", ValueKind::Text, "The most it may be."),
    module_key(
        &["inputs", "*"],
        "pattern",
        ValueKind::Text,
        "A regular expression that a text has to match somewhere.",
    ),
    module_key(&["inputs", "*"], "items", ValueKind::Block, "Of an array: what each of its values is."),
    module_key(&["inputs", "*"], "properties", ValueKind::Block, "Of an object: these keys and no others."),
    module_key(&["outputs", "*"], "value", ValueKind::Text, "A template over `host`, `port`, `ports`, `inputs`."),
    module_key(
        &["outputs", "*"],
        "sensitive",
        ValueKind::Choice(BOOLEANS),
        "Never shown, and delivered like a secret.",
    ),
    module_key(&["outputs", "*"], "description", ValueKind::Text, "What it is."),
    module_key(&["stop"], "signal", ValueKind::Choice(SIGNALS), "The signal that asks it to stop."),
    module_key(&["stop"], "grace", ValueKind::Text, "How long it may take before it is killed, as `20s`."),
    module_key(&["renders"], "docker", ValueKind::Block, "As a container."),
    module_key(&["renders"], "process", ValueKind::Block, "As a local process."),
    module_key(&["renders", "docker"], "image", ValueKind::Text, "The image."),
    module_key(&["renders", "docker"], "entrypoint", ValueKind::List, "Replaces the image's entrypoint."),
    module_key(&["renders", "docker"], "command", ValueKind::List, "Its arguments."),
    module_key(
        &["renders", "docker"],
        "env",
        ValueKind::Block,
        "Its environment; `{ value: ..., sensitive: true }` for what is secret.",
    ),
    module_key(&["renders", "docker"], "volumes", ValueKind::Block, "Data that stays: name to path in the container."),
    module_key(&["renders", "docker"], "user", ValueKind::Text, "The user it runs as."),
    module_key(&["renders", "docker"], "host_config", ValueKind::Block, "Fields of the Engine API's HostConfig."),
    module_key(&["renders", "process"], "command", ValueKind::List, "The program and its arguments."),
    module_key(
        &["renders", "process"],
        "env",
        ValueKind::Block,
        "Its environment; `{ value: ..., sensitive: true }` for what is secret.",
    ),
    module_key(&["renders", "process"], "user", ValueKind::Text, "The user it runs as when pdev itself is root."),
    module_key(&["renders", "process"], "files", ValueKind::Block, "Files written into its data folder."),
    module_key(&["renders", "process"], "init", ValueKind::List, "Commands run once in its data folder."),
    module_key(&["renders", "process"], "after_ready", ValueKind::List, "Commands run before others see it as ready."),
    module_key(
        &["renders", "process"],
        "search",
        ValueKind::List,
        "Folders besides `PATH` where its programs may be; globs allowed.",
    ),
    module_key(&["renders", "process"], "install", ValueKind::Text, "What to install when a program is absent."),
    module_key(&["deprecated"], "reason", ValueKind::Text, "Why it will go."),
    module_key(&["deprecated"], "use", ValueKind::Text, "What to use instead."),
];

/// What a template may read, besides the module's own `let`.
const TEMPLATE_NAMES: [(&str, &str); 8] = [
    ("inputs", "what the manifest says, with defaults"),
    ("ports", "where it has to listen, by name"),
    ("host", "in outputs: where it is reached"),
    ("port", "in outputs: its main port"),
    ("resource", "its name in the manifest"),
    ("app", "the application"),
    ("password", "made for this machine, copy and resource"),
    ("constraint", "the version asked for"),
];

const TEMPLATE_FILTERS: [(&str, &str); 6] = [
    ("quote", "for a shell"),
    ("urlencode", "for a part of a URL"),
    ("bytes", "`512Mi` as a number"),
    ("sql_name", "for a name in SQL"),
    ("sql_text", "for a text in SQL"),
    ("flags", "an object as `-c key=value ...`"),
];

fn matches_path(place: &[&str], path: &[&str]) -> bool {
    place.len() == path.len() && place.iter().zip(path).all(|(own, other)| *own == "*" || own == other)
}

/// Schemas may hold schemas: all of them are like an input's.
fn flatten_schema_path<'a>(path: &[&'a str]) -> Vec<&'a str> {
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

fn keys_at(path: &[&str]) -> impl Iterator<Item = &'static ModuleKey> {
    let path = flatten_schema_path(path);
    KEYS.iter().filter(move |key| matches_path(key.parent_path, &path))
}

#[must_use]
pub fn complete(text: &Text, root: Option<&Node>, offset: usize) -> Vec<Item> {
    let cursor = cursor::cursor_at(text, offset);
    let before = text.as_str().get(cursor.value_start.min(offset)..offset).unwrap_or_default();
    if let Some(template) = before.rfind("{{").map(|at| &before[at + 2..]).filter(|rest| !rest.contains("}}")) {
        return complete_template(&cursor, root, template, offset);
    }
    let keys = cursor.key_path();
    let Some(path) = keys.iter().copied().collect::<Option<Vec<&str>>>() else { return Vec::new() };
    match (&cursor.kind, path.split_last()) {
        (CursorKind::Key, _) => {
            let beside = cursor::sibling_keys(text, &cursor, offset);
            let free = keys_at(&path).filter(|key| !beside.iter().any(|name| name == key.name));
            free.map(|key| item(&cursor, key.name, ItemKind::Key, &key_snippet(text, &cursor, key), key.doc)).collect()
        }
        (CursorKind::Value, Some((last, above))) => {
            let key = keys_at(above).find(|key| key.name == *last);
            let words = match key.map(|key| key.value_kind) {
                Some(ValueKind::Choice(words)) => words,
                _ => &[],
            };
            words.iter().map(|word| item(&cursor, word, ItemKind::Value, word, "")).collect()
        }
        _ => Vec::new(),
    }
}

fn key_snippet(text: &Text, cursor: &Cursor, key: &ModuleKey) -> String {
    let rest = text.as_str().get(cursor.word.end..).unwrap_or_default();
    if rest.trim_start_matches(' ').starts_with(':') {
        return key.name.to_owned();
    }
    // The editor indents like the line; what is deeper is relative to it.
    let deeper = " ".repeat(cursor.column - cursor.indent + 2);
    match key.value_kind {
        ValueKind::Text => format!("{}: $0", key.name),
        ValueKind::Choice(words) => format!("{}: ${{1|{}|}}$0", key.name, words.join(",")),
        ValueKind::List => format!("{}: [$0]", key.name),
        ValueKind::Block if cursor.is_flow => format!("{}: {{ $0 \\}}", key.name),
        ValueKind::Block => format!("{}:\n{deeper}$0", key.name),
    }
}

fn item(cursor: &Cursor, label: &str, kind: ItemKind, snippet: &str, detail: &str) -> Item {
    Item {
        label: label.to_owned(),
        kind,
        detail: detail.to_owned(),
        doc_target: None,
        snippet: snippet.to_owned(),
        replace_range: cursor.word.clone(),
        rank: 5,
    }
}

/// `{{ inputs.` and `| `: names of this very module.
fn complete_template(cursor: &Cursor, root: Option<&Node>, template: &str, offset: usize) -> Vec<Item> {
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
            item(&cursor, &pair.key.value, ItemKind::Field, &escape_snippet(&pair.key.value), &detail(pair))
        };
        pairs.iter().map(one).collect()
    };
    let fixed = |all: &[(&str, &str)]| -> Vec<Item> {
        all.iter().map(|(name, words)| item(&cursor, name, ItemKind::Field, name, words)).collect()
    };
    match before.trim_end() {
        before if before.ends_with("inputs.") => own("inputs"),
        before if before.ends_with("ports.") => own("ports"),
        before if before.ends_with('.') => Vec::new(),
        before if before.ends_with('|') => fixed(&TEMPLATE_FILTERS),
        _ => fixed(&TEMPLATE_NAMES).into_iter().chain(own("let")).collect(),
    }
}

/// What the key under the cursor means, as Markdown, and the key's bytes.
#[must_use]
pub fn hover(root: &Node, offset: usize) -> Option<(String, std::ops::Range<usize>)> {
    let node_path = tree::path_at(root, offset);
    let pair = node_path.pair()?;
    let path = node_path.segments();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let key = (1..=path.len()).rev().find_map(|length| {
        let (last, above) = path[..length].split_last()?;
        keys_at(above).find(|key| key.name == *last).filter(|_| length == path.len() || !node_path.is_on_key)
    })?;
    let mut text = format!("**{}** – {}", key.name, key.doc);
    if let ValueKind::Choice(words) = key.value_kind {
        text.push_str(&format!("\n\n*{}*", words.join(" | ")));
    }
    let range = if node_path.is_on_key { pair.key.span.range() } else { node_path.node()?.span.range() };
    Some((text, range))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_offers_keys_values_and_template_names() {
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
    fn hover_describes_keys_at_every_depth() {
        let text = "inputs:\n  a: { type: array, items: { type: object, properties: { b: { level: basic } } } }\n";
        let root = manifest::syntax::parse(text, manifest::FileId(0)).root.expect("it parses");
        for (word, expected) in [("level", "**level**"), ("items", "**items**"), ("inputs", "**inputs**")] {
            let (words, range) = hover(&root, text.find(word).expect("it is there")).expect("words");
            assert!(words.starts_with(expected) && &text[range] == word, "{word}: {words}");
        }
        assert_eq!(hover(&root, text.find("b:").expect("it is there")), None);
    }
}
