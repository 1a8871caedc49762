//! `module.yaml`: hover and completion. The diagnostics come from the catalog.

use manifest::syntax::Node;

use super::completion::{Item, ItemKind, escape_snippet};
use super::cursor::{self, Cursor, CursorKind};
use super::tree;
use crate::text::Text;

/// A key of the format.
struct ModuleKey {
    /// The keys above it. `*` is a name that the module chooses.
    parent_path: &'static [&'static str],
    name: &'static str,
    doc: &'static str,
    value_kind: ValueKind,
}

#[derive(Clone, Copy)]
enum ValueKind {
    Text,
    /// A nested map.
    Block,
    List,
    Choice(&'static [&'static str]),
}

const INPUT_TYPES: &[&str] = &["string", "integer", "number", "boolean", "array", "object"];
const BOOLEANS: &[&str] = &["true", "false"];
const LEVELS: &[&str] = &["basic", "advanced"];
const SIGNALS: &[&str] = &["SIGTERM", "SIGINT", "SIGQUIT"];

const fn module_key(
    parent_path: &'static [&'static str],
    name: &'static str,
    value_kind: ValueKind,
    doc: &'static str,
) -> ModuleKey {
    ModuleKey { parent_path, name, doc, value_kind }
}

const KEYS: &[ModuleKey] = &[
    module_key(&[], "module", ValueKind::Text, "The name, as in `uses:`."),
    module_key(&[], "version", ValueKind::Text, "The version of the module itself, such as `1.0.0` (SemVer)."),
    module_key(
        &[],
        "versions",
        ValueKind::List,
        "The major versions of its software that are allowed after `@`. Default: the major version of the module.",
    ),
    module_key(&[], "owner", ValueKind::Block, "The owner of the module."),
    module_key(&[], "summary", ValueKind::Text, "A description in one line."),
    module_key(
        &[],
        "docs",
        ValueKind::Text,
        "A Markdown file in this folder. It must not be empty. Default: `docs.md`.",
    ),
    module_key(&[], "inputs", ValueKind::Block, "The inputs that a manifest may set under `with:`, by name."),
    module_key(
        &[],
        "outputs",
        ValueKind::Block,
        "The outputs that a manifest may read as `${resources.NAME.OUTPUT}`, by name.",
    ),
    module_key(&[], "ports", ValueKind::Block, "The ports on which it listens, by name. `main` is first."),
    module_key(&[], "stop", ValueKind::Block, "How it is stopped."),
    module_key(&[], "let", ValueKind::Block, "Values computed before rendering, in order."),
    module_key(&[], "renders", ValueKind::Block, "The rendering for each runtime."),
    module_key(
        &[],
        "deprecated",
        ValueKind::Block,
        "Marks the module as deprecated, with the reason and the replacement.",
    ),
    module_key(&["owner"], "team", ValueKind::Text, "The team."),
    module_key(&["owner"], "contact", ValueKind::Text, "The contact for questions."),
    module_key(&["owner"], "support", ValueKind::Text, "The level of support, such as `best-effort`."),
    module_key(&["inputs", "*"], "type", ValueKind::Choice(INPUT_TYPES), "The type of the value."),
    module_key(&["inputs", "*"], "default", ValueKind::Text, "The value if the manifest sets none. May be a template."),
    module_key(
        &["inputs", "*"],
        "description",
        ValueKind::Text,
        "The purpose. Shown in editors and in `pdev module info`.",
    ),
    module_key(&["inputs", "*"], "rationale", ValueKind::Text, "The reason for the default."),
    module_key(&["inputs", "*"], "level", ValueKind::Choice(LEVELS), "Completion offers `basic` inputs first."),
    module_key(&["inputs", "*"], "enum", ValueKind::List, "The only allowed values."),
    module_key(&["inputs", "*"], "minimum", ValueKind::Text, "The minimum."),
    module_key(&["inputs", "*"], "maximum", ValueKind::Text, "The maximum."),
    module_key(
        &["inputs", "*"],
        "pattern",
        ValueKind::Text,
        "A regular expression that some part of the text must match.",
    ),
    module_key(&["inputs", "*"], "items", ValueKind::Block, "For an array: the schema of its values."),
    module_key(&["inputs", "*"], "properties", ValueKind::Block, "For an object: its keys. No others are allowed."),
    module_key(&["outputs", "*"], "value", ValueKind::Text, "A template with `host`, `port`, `ports` and `inputs`."),
    module_key(
        &["outputs", "*"],
        "sensitive",
        ValueKind::Choice(BOOLEANS),
        "Never show the value, and deliver it like a secret.",
    ),
    module_key(&["outputs", "*"], "description", ValueKind::Text, "The meaning of the output."),
    module_key(&["stop"], "signal", ValueKind::Choice(SIGNALS), "The signal that stops it."),
    module_key(&["stop"], "grace", ValueKind::Text, "The time after which it is killed, such as `20s`."),
    module_key(&["renders"], "docker", ValueKind::Block, "The container."),
    module_key(&["renders"], "process", ValueKind::Block, "The local process."),
    module_key(&["renders", "docker"], "image", ValueKind::Text, "The image."),
    module_key(&["renders", "docker"], "entrypoint", ValueKind::List, "Replaces the image's entrypoint."),
    module_key(&["renders", "docker"], "command", ValueKind::List, "The arguments."),
    module_key(
        &["renders", "docker"],
        "env",
        ValueKind::Block,
        "Its environment; `{ value: ..., sensitive: true }` for what is secret.",
    ),
    module_key(
        &["renders", "docker"],
        "volumes",
        ValueKind::Block,
        "Persistent data: a map from name to path in the container.",
    ),
    module_key(&["renders", "docker"], "user", ValueKind::Text, "The user that runs it."),
    module_key(&["renders", "docker"], "host_config", ValueKind::Block, "Fields of `HostConfig` in the Engine API."),
    module_key(&["renders", "process"], "command", ValueKind::List, "The program and its arguments."),
    module_key(
        &["renders", "process"],
        "env",
        ValueKind::Block,
        "Its environment; `{ value: ..., sensitive: true }` for what is secret.",
    ),
    module_key(&["renders", "process"], "user", ValueKind::Text, "The user that runs it if pdev runs as root."),
    module_key(&["renders", "process"], "files", ValueKind::Block, "Files to write into its data folder."),
    module_key(&["renders", "process"], "init", ValueKind::List, "Commands to run once in its data folder."),
    module_key(
        &["renders", "process"],
        "after_ready",
        ValueKind::List,
        "Commands to run before it counts as ready for other units.",
    ),
    module_key(
        &["renders", "process"],
        "search",
        ValueKind::List,
        "Folders to search for its programs in addition to `PATH`. Globs are allowed.",
    ),
    module_key(&["renders", "process"], "install", ValueKind::Text, "What to install if a program is missing."),
    module_key(
        &["renders", "process"],
        "version",
        ValueKind::Block,
        "How to find the installed version (`command`), and which major versions are accepted (`accept`, `minimum`).",
    ),
    module_key(&["deprecated"], "reason", ValueKind::Text, "The reason for the deprecation."),
    module_key(&["deprecated"], "use", ValueKind::Text, "The replacement."),
];

/// The names that a template may use, in addition to the module's `let`.
const TEMPLATE_NAMES: [(&str, &str); 9] = [
    ("inputs", "the inputs, with defaults"),
    ("ports", "the ports on which it must listen, by name"),
    ("host", "in outputs: the host of the resource"),
    ("port", "in outputs: the main port"),
    ("resource", "the name of the resource"),
    ("app", "the name of the application"),
    ("password", "generated per machine, copy and resource"),
    ("constraint", "the requested version"),
    ("pinned", "whether `uses` names a version"),
];

const TEMPLATE_FILTERS: [(&str, &str); 6] = [
    ("quote", "quotes for a shell"),
    ("urlencode", "encodes for a part of a URL"),
    ("bytes", "converts `512Mi` to a number"),
    ("sql_name", "quotes a name in SQL"),
    ("sql_text", "quotes a text in SQL"),
    ("flags", "converts an object to `-c key=value ...`"),
];

fn matches_path(pattern: &[&str], path: &[&str]) -> bool {
    pattern.len() == path.len() && pattern.iter().zip(path).all(|(part, name)| *part == "*" || part == name)
}

/// Removes nested `items` and `properties` from a path: a nested schema has the same keys as an input.
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
            let siblings = cursor::sibling_keys(text, &cursor, offset);
            let unset = keys_at(&path).filter(|key| !siblings.iter().any(|name| name == key.name));
            unset.map(|key| item(&cursor, key.name, ItemKind::Key, &key_snippet(text, &cursor, key), key.doc)).collect()
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
    // The editor indents all lines of a snippet like the current one. Only the difference is in the text.
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

/// Completes `{{ inputs.` and `| ` with the names of this module and the filters.
fn complete_template(cursor: &Cursor, root: Option<&Node>, template: &str, offset: usize) -> Vec<Item> {
    let start = template.rfind(|letter: char| !letter.is_alphanumeric() && letter != '_').map_or(0, |at| at + 1);
    let (before, word) = template.split_at(start);
    let mut cursor = cursor.clone();
    cursor.word = offset - word.len()..offset;
    let module_names = |section: &str| -> Vec<Item> {
        let pairs = root.and_then(|root| root.get(section)).and_then(|pair| pair.value.as_map()).unwrap_or_default();
        let detail = |pair: &manifest::syntax::Pair| {
            let text = pair.value.get("description").and_then(|pair| pair.value.as_scalar());
            text.map(|text| text.text.clone()).unwrap_or_default()
        };
        let field = |pair: &manifest::syntax::Pair| {
            item(&cursor, &pair.key.value, ItemKind::Field, &escape_snippet(&pair.key.value), &detail(pair))
        };
        pairs.iter().map(field).collect()
    };
    let fixed_names = |all: &[(&str, &str)]| -> Vec<Item> {
        all.iter().map(|(name, description)| item(&cursor, name, ItemKind::Field, name, description)).collect()
    };
    match before.trim_end() {
        before if before.ends_with("inputs.") => module_names("inputs"),
        before if before.ends_with("ports.") => module_names("ports"),
        before if before.ends_with('.') => Vec::new(),
        before if before.ends_with('|') => fixed_names(&TEMPLATE_FILTERS),
        _ => fixed_names(&TEMPLATE_NAMES).into_iter().chain(module_names("let")).collect(),
    }
}

/// The meaning of the key under the cursor, as Markdown, and the range of the key or value.
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
                "inputs ports host port resource app password constraint pinned x",
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
            let (description, range) = hover(&root, text.find(word).expect("a word of the text")).expect("a hover");
            assert!(description.starts_with(expected) && &text[range] == word, "{word}: {description}");
        }
        assert_eq!(hover(&root, text.find("b:").expect("a word of the text")), None);
    }
}
