//! Completion: the keys, values, names and placeholders that are valid at the cursor, each as text that fits there.

mod files;
mod keys;
mod values;

use std::collections::BTreeMap;
use std::ops::Range;

use manifest::Files;
use manifest::model::Manifest;

use super::cursor::{self, Cursor, CursorKind, Level};
use super::language::{self, AllowedShapes};
use super::names::{self, NameInfo};
use crate::text::Text;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ItemKind {
    Key,
    Value,
    /// A name that the manifest declares.
    Name,
    Module,
    Field,
    Snippet,
}

/// The subject of an item's documentation, which is rendered only when the client requests it.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DocTarget {
    Key { section: String, key: String },
    Module { uses: String },
    Input { uses: String, input: String },
    Rule { code: String },
}

#[derive(Clone, PartialEq, Debug)]
pub struct Item {
    pub label: String,
    pub kind: ItemKind,
    pub detail: String,
    pub doc_target: Option<DocTarget>,
    /// The text with `$1`, `${1|a,b|}` and `$0`. Its lines are already indented for the cursor.
    pub snippet: String,
    pub replace_range: Range<usize>,
    /// Items with a lower rank come first.
    pub rank: u8,
}

/// The input of completion.
pub struct CompletionContext<'a> {
    pub text: &'a Text,
    pub offset: usize,
    /// The newest analysed manifest, which may be of an earlier text.
    pub manifest: &'a Manifest,
    pub files: &'a dyn Files,
    /// The environment variables. Only their names are offered.
    pub variables: &'a BTreeMap<String, String>,
    /// The editor indents the lines of a snippet like the line of the cursor.
    pub editor_indents: bool,
}

#[must_use]
pub fn complete(context: &CompletionContext<'_>) -> Vec<Item> {
    let cursor = cursor::cursor_at(context.text, context.offset);
    let completer = Completer::new(context, cursor);
    match completer.cursor.kind {
        CursorKind::Text => Vec::new(),
        CursorKind::Placeholder => completer.placeholder_items(),
        CursorKind::Key => {
            let mut items = completer.unquoted_key().key_items();
            items.extend(completer.value_items());
            let mut missing_dash = completer.items_without_dash();
            missing_dash.retain(|item| items.iter().all(|other| other.label != item.label));
            items.extend(missing_dash);
            items
        }
        CursorKind::Value => completer.with_space_after_colon(completer.value_items()),
    }
}

/// The cursor and the shapes that the language allows there.
struct Completer<'a> {
    context: &'a CompletionContext<'a>,
    cursor: Cursor,
    allowed: AllowedShapes,
}

impl<'a> Completer<'a> {
    fn new(context: &'a CompletionContext<'a>, cursor: Cursor) -> Self {
        Self { context, allowed: language::allowed_at(&cursor.key_path()), cursor }
    }

    fn text_after(&self, offset: usize) -> &str {
        self.context.text.as_str().get(offset..).unwrap_or_default()
    }

    /// A quoted key is replaced with its quotes, because the snippet also has the colon.
    fn unquoted_key(&self) -> Self {
        let mut cursor = self.cursor.clone();
        let is_item = matches!(cursor.levels.last(), Some(Level::Item));
        let before = self.context.text.as_str().get(..cursor.word.start).unwrap_or_default();
        let mark = before.chars().last().filter(|mark| cursor.is_quoted && !is_item && ['"', '\''].contains(mark));
        if let Some(mark) = mark {
            cursor.word.start -= 1;
            cursor.column = cursor.column.saturating_sub(usize::from(cursor.word.start < cursor.value_start));
            cursor.word.end += usize::from(self.text_after(cursor.word.end).starts_with(mark));
        }
        Self { cursor, ..Self::new(self.context, self.cursor.clone()) }
    }

    /// The entries of a list below the cursor's key, each with the dash that is not typed yet.
    fn items_without_dash(&self) -> Vec<Item> {
        if self.cursor.is_flow || self.cursor.is_quoted || !matches!(self.cursor.levels.last(), Some(Level::Key(_))) {
            return Vec::new();
        }
        let mut cursor = self.cursor.clone();
        cursor.levels.push(Level::Item);
        cursor.column += 2;
        let inner = Self::new(self.context, cursor);
        let mut items = inner.key_items();
        items.extend(inner.value_items());
        items.iter_mut().for_each(|item| item.snippet.insert_str(0, "- "));
        items
    }

    /// A value directly after its colon gets the space that YAML requires.
    fn with_space_after_colon(&self, mut items: Vec<Item>) -> Vec<Item> {
        let before = self.context.text.as_str().get(..self.cursor.word.start).unwrap_or_default();
        if before.ends_with(':') && self.cursor.word.start == self.cursor.value_start && !self.cursor.is_quoted {
            items.iter_mut().for_each(|item| item.snippet.insert(0, ' '));
        }
        items
    }

    /// The path without `environments.NAME`.
    fn key_path(&self) -> Vec<Option<&str>> {
        language::without_environment(&self.cursor.key_path()).to_vec()
    }

    fn item(&self, label: &str, kind: ItemKind, snippet: String) -> Item {
        Item {
            label: label.to_owned(),
            kind,
            detail: String::new(),
            doc_target: None,
            snippet,
            replace_range: self.cursor.word.clone(),
            rank: 5,
        }
    }

    fn name_item(&self, name: NameInfo, kind: ItemKind) -> Item {
        let snippet = escape_snippet(&name.name);
        Item { detail: name.description, rank: 2, ..self.item(&name.name, kind, snippet) }
    }

    /// The next part after `${`. The last part also closes the brace.
    fn placeholder_items(&self) -> Vec<Item> {
        let text = self.context.text.as_str();
        let typed = text.get(self.cursor.value_start..self.cursor.word.start).unwrap_or_default();
        // After `:-` follows a default, which is free text.
        if typed.contains([':', '}'])
            || text.get(self.cursor.word.start..self.context.offset).is_some_and(|word| word.contains(':'))
        {
            return Vec::new();
        }
        let parts: Vec<&str> = typed.split('.').filter(|part| !part.is_empty()).collect();
        let is_closed = text.get(self.cursor.word.end..).is_some_and(|rest| rest.starts_with(['}', ':', '.']));
        let mut all = names::placeholder_names(self.context.manifest, self.context.files, &parts);
        if parts == ["env"] {
            let name = |name: &String| NameInfo { name: name.clone(), description: "environment variable".to_owned() };
            all.extend(self.context.variables.keys().map(name));
        }
        all.into_iter()
            .map(|name| {
                let has_more = has_more_parts(&parts, &name.name);
                let end = match (has_more, is_closed) {
                    (true, _) => ".",
                    (false, false) => "\\}",
                    (false, true) => "",
                };
                let end = if has_more && text[self.cursor.word.end..].starts_with('.') { "" } else { end };
                let mut item = self.name_item(name, ItemKind::Field);
                item.snippet.push_str(end);
                item
            })
            .collect()
    }
}

fn has_more_parts(parts: &[&str], next: &str) -> bool {
    match parts {
        [] => true,
        ["resources" | "services" | "secrets" | "identities"] => true,
        ["services", _] => next == "ports",
        _ => false,
    }
}

/// Escapes literal text for a snippet.
pub(crate) fn escape_snippet(text: &str) -> String {
    text.replace('\\', "\\\\").replace('$', "\\$").replace('}', "\\}")
}

/// Converts a snippet to plain text, for editors without snippets: tab stops become empty, choices their first value,
/// and placeholders their default.
#[must_use]
pub fn snippet_to_plain_text(snippet: &str) -> String {
    let mut text = String::new();
    let mut characters = snippet.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.extend(characters.next()),
            '$' if characters.peek() == Some(&'{') => {
                let inside: String = characters.by_ref().skip(1).take_while(|character| *character != '}').collect();
                let default = inside.split_once(':').map(|(_, default)| default);
                let choice = inside.split_once('|').map(|(_, all)| all.split([',', '|']).next().unwrap_or_default());
                text.push_str(default.or(choice).unwrap_or_default());
            }
            '$' if characters.peek().is_some_and(char::is_ascii_digit) => drop(characters.next()),
            character => text.push(character),
        }
    }
    text.trim_end_matches(' ').to_owned()
}

/// The documentation of an item, as Markdown.
#[must_use]
pub fn docs(about: &DocTarget, files: &dyn Files) -> Option<String> {
    match about {
        DocTarget::Key { section, key } => language::find_key_by_name(section, key).map(language::key_docs),
        DocTarget::Module { uses } => {
            let module = names::find_module(uses, files)?;
            Some(format!("**{}** {}\n\n{}\n\n{}", module.name, module.version, module.summary, module.docs))
        }
        DocTarget::Input { uses, input } => {
            let module = names::find_module(uses, files)?;
            module.inputs.get(input).map(|input| input_docs(&module.name, input))
        }
        DocTarget::Rule { code } => {
            let rule = plan::guardrails::find_rule(code)?;
            Some(format!("**{code}**: {}\n\n{}", rule.summary, rule.fix))
        }
    }
}

#[must_use]
pub fn input_docs(module: &str, input: &catalog::Input) -> String {
    let mut text = format!("{}\n\n*{}* – input of `{module}`", input.description, input.kind);
    if !input.choices.is_empty() {
        text.push_str(&format!(": {}", input.choices.join(", ")));
    }
    let default = match &input.default {
        serde_json::Value::Null => String::new(),
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if !default.is_empty() {
        text.push_str(&format!("\n\nDefault: `{default}`"));
        if !input.rationale.is_empty() {
            text.push_str(&format!(" ({})", input.rationale));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_keeps_defaults_and_first_choices() {
        for (snippet, text) in
            [("port: $0", "port:"), ("a: ${1|x,y|}$0", "a: x"), ("b:\n  ${1:name}: \\$\\{z\\}", "b:\n  name: ${z}")]
        {
            assert_eq!(snippet_to_plain_text(snippet), text);
        }
    }
}
