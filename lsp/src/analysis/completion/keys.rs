//! Completion of keys: keys of the language that are not set yet, inputs of modules, names of units, and complete
//! entries.

use manifest::spec::{Key, Section, Shape};

use super::{Completer, DocTarget, Item, ItemKind, escape_snippet};
use crate::analysis::cursor;
use crate::analysis::language::describe_shape;
use crate::analysis::names;

impl Completer<'_> {
    pub(super) fn key_items(&self) -> Vec<Item> {
        let siblings = cursor::sibling_keys(self.context.text, &self.cursor, self.context.offset);
        let is_unset = |name: &str| !siblings.iter().any(|sibling| sibling.trim_start_matches('+') == name);
        let mut items = Vec::new();
        if let Some(section) = self.allowed.section() {
            items.extend(section.keys.iter().filter(|key| is_unset(key.name)).map(|key| self.key_item(section, key)));
        }
        match self.key_path()[..] {
            [Some("resources"), Some(resource), Some("with")] => items.extend(self.input_items(resource, &is_unset)),
            [.., Some("needs")] => items.extend(self.dependency_items(&is_unset)),
            [Some(section @ ("services" | "jobs" | "resources" | "secrets"))] => {
                if self.cursor.key_path().first() == Some(&Some("environments")) {
                    items.extend(self.declared_items(section, &is_unset));
                }
                items.extend(self.entry_items(section));
            }
            [Some(section @ ("vars" | "identities"))]
                if self.cursor.key_path().first() == Some(&Some("environments")) =>
            {
                items.extend(self.declared_values(section, &is_unset));
            }
            [] if self.cursor.key_path().is_empty() && siblings.is_empty() => items.push(self.manifest_item()),
            _ => {}
        }
        items
    }

    fn key_item(&self, section: &'static Section, key: &'static Key) -> Item {
        let snippet = self.key_snippet(key.name, &key.shape);
        let doc_target = DocTarget::Key { section: section.name.to_owned(), key: key.name.to_owned() };
        Item {
            detail: describe_shape(&key.shape),
            doc_target: Some(doc_target),
            ..self.item(key.name, ItemKind::Key, snippet)
        }
    }

    /// `name: ` and the start of a value of this shape, on the same line or in a nested block.
    fn key_snippet(&self, name: &str, shape: &Shape) -> String {
        let name = escape_snippet(name);
        if self.has_colon_after() {
            return name;
        }
        let below = self.indented_line_break(1);
        let flow = self.cursor.is_flow;
        match first_shape(shape) {
            // Prefer the short form. For the long form the user gets completions of its keys.
            _ if has_short_form(shape) => format!("{name}: $0"),
            Shape::Section(_) | Shape::Free if flow => format!("{name}: {{ $0 \\}}"),
            Shape::Section(_) | Shape::Free => format!("{name}:{below}$0"),
            Shape::Map(_) if flow => format!("{name}: {{ $0 \\}}"),
            Shape::Map(inner) if matches!(first_shape(inner), Shape::Section(_)) && !has_short_form(inner) => {
                format!("{name}:{below}${{1:name}}:{}$0", self.indented_line_break(2))
            }
            Shape::Map(_) => format!("{name}:{below}$0"),
            Shape::List(_) if flow => format!("{name}: [$0]"),
            Shape::List(_) => format!("{name}:{below}- $0"),
            Shape::Choice(all) => format!("{name}: ${{1|{}|}}$0", all.join(",")),
            Shape::Bool => format!("{name}: ${{1|true,false|}}$0"),
            _ => format!("{name}: $0"),
        }
    }

    fn has_colon_after(&self) -> bool {
        let rest = self.context.text.as_str().get(self.cursor.word.end..).unwrap_or_default();
        rest.trim_start_matches(' ').starts_with(':')
    }

    /// A line break and the indentation that is `levels` deeper than the completed key.
    fn indented_line_break(&self, levels: usize) -> String {
        let base = self.cursor.column - if self.context.editor_indents { self.cursor.indent } else { 0 };
        format!("\n{}", " ".repeat(base + levels * self.indent_width()))
    }

    /// The width of one level of indentation: that of the block around the cursor, else of the first indented line.
    fn indent_width(&self) -> usize {
        let text = self.context.text;
        let spaces = |number: usize| {
            let line = text.line(number);
            let spaces = line.len() - line.trim_start_matches(' ').len();
            let is_content = !line.trim().is_empty() && !line.trim_start().starts_with(['#', '-']);
            is_content.then_some(spaces)
        };
        let column = self.cursor.column;
        let cursor_line = text.line_at(self.context.offset);
        let around =
            (0..cursor_line).rev().filter_map(spaces).find(|indent| *indent < column).map(|indent| column - indent);
        let around = around.filter(|_| column == self.cursor.indent);
        // Bound the scan of a long file.
        let first = || (0..text.line_count().min(200)).filter_map(spaces).find(|indent| *indent > 0);
        around.or_else(first).filter(|width| *width <= 8).unwrap_or(2)
    }

    fn input_items<'s>(&'s self, resource: &str, is_unset: &'s dyn Fn(&str) -> bool) -> Vec<Item> {
        let Some(module) = names::resource_module(self.context.manifest, resource, self.context.files) else {
            return Vec::new();
        };
        let uses = self.context.manifest.resources.get(resource).map(|entry| entry.value.uses.value.clone());
        let input = |(name, input): (&String, &catalog::Input)| {
            let name = name.as_str();
            let snippet = match input.kind.as_str() {
                _ if self.has_colon_after() => escape_snippet(name),
                "boolean" => format!("{name}: ${{1|true,false|}}$0"),
                "array" => format!("{name}: [$0]"),
                "object" if self.cursor.is_flow => format!("{name}: {{ $0 \\}}"),
                "object" => format!("{name}:{}$0", self.indented_line_break(1)),
                _ if !input.choices.is_empty() => format!("{name}: ${{1|{}|}}$0", input.choices.join(",")),
                _ => format!("{name}: $0"),
            };
            Item {
                detail: input.kind.clone(),
                doc_target: Some(DocTarget::Input { uses: uses.clone().unwrap_or_default(), input: name.to_owned() }),
                rank: if input.level == "basic" { 3 } else { 6 },
                ..self.item(name, ItemKind::Key, snippet)
            }
        };
        module.inputs.iter().filter(|(name, _)| is_unset(name)).map(input).collect()
    }

    /// `db: healthy`, or the name alone in a list.
    fn dependency_items(&self, is_unset: &dyn Fn(&str) -> bool) -> Vec<Item> {
        let manifest = self.context.manifest;
        // A unit cannot need itself.
        let unit = self.key_path().get(1).copied().flatten().map(str::to_owned);
        let mut all = names::units(manifest, unit.as_deref());
        all.retain(|name| is_unset(&name.name));
        let jobs = &manifest.jobs;
        let item = |name: names::NameInfo| {
            let condition = if jobs.contains_key(&name.name) { "completed" } else { "healthy" };
            let others = ["started", "healthy", "completed"].into_iter().filter(|word| *word != condition);
            let choices = std::iter::once(condition).chain(others).collect::<Vec<_>>().join(",");
            let mut item = self.name_item(name, ItemKind::Name);
            if !self.has_colon_after() {
                item.snippet.push_str(&format!(": ${{1|{choices}|}}$0"));
            }
            item
        };
        all.into_iter().map(item).collect()
    }

    /// In an environment: the declared units that it may change.
    fn declared_items(&self, section: &str, is_unset: &dyn Fn(&str) -> bool) -> Vec<Item> {
        let manifest = self.context.manifest;
        let all = match section {
            "services" => names::services(manifest),
            "jobs" => names::jobs(manifest),
            "resources" => names::resources(manifest),
            _ => names::secrets(manifest),
        };
        let item = |name: names::NameInfo| {
            let mut item = Item { rank: 0, ..self.name_item(name, ItemKind::Name) };
            if !self.has_colon_after() {
                let rest = if self.cursor.is_flow {
                    ": { $0 \\}".to_owned()
                } else {
                    format!(":{}$0", self.indented_line_break(1))
                };
                item.snippet.push_str(&rest);
            }
            item
        };
        all.into_iter().filter(|name| is_unset(&name.name)).map(item).collect()
    }

    /// In an environment: the declared variables or identities that it may set to another value.
    fn declared_values(&self, section: &str, is_unset: &dyn Fn(&str) -> bool) -> Vec<Item> {
        let manifest = self.context.manifest;
        let variable = |name: &String| names::NameInfo { name: name.clone(), description: "variable".to_owned() };
        let all = match section {
            "vars" => manifest.vars.keys().map(variable).collect(),
            _ => names::identities(manifest),
        };
        let item = |name: names::NameInfo| {
            let mut item = Item { rank: 0, ..self.name_item(name, ItemKind::Name) };
            item.snippet.push_str(if self.has_colon_after() { "" } else { ": $0" });
            item
        };
        all.into_iter().filter(|name| is_unset(&name.name)).map(item).collect()
    }

    /// Complete entries for the maps in which the user chooses the names.
    fn entry_items(&self, section: &str) -> Vec<Item> {
        if self.cursor.is_flow || self.has_colon_after() {
            return Vec::new();
        }
        let b = self.indented_line_break(1); // short, because it appears in every snippet
        let snippet = |label: &str, detail: &str, text: String| Item {
            detail: detail.to_owned(),
            rank: 1,
            ..self.item(label, ItemKind::Snippet, text)
        };
        match section {
            "services" => vec![
                snippet(
                    "service from a Dockerfile",
                    "build, port, health",
                    format!("${{1:web}}:{b}build: ${{2:.}}{b}port: ${{3:8080}}{b}health: ${{4:/healthz}}$0"),
                ),
                snippet(
                    "service from an image",
                    "image, port",
                    format!("${{1:web}}:{b}image: ${{2:nginx:1.27}}{b}port: ${{3:80}}$0"),
                ),
                snippet(
                    "service as a local process",
                    "process, port",
                    format!("${{1:web}}:{b}process: ${{2:npm run dev}}{b}port: ${{3:3000}}$0"),
                ),
            ],
            "jobs" => vec![snippet(
                "job of a service",
                "service, command",
                format!(
                    "${{1:migrate}}:{b}service: ${{2:web}}{b}command: [${{3:./migrate}}]{b}when: ${{4|before,after,manual|}}$0"
                ),
            )],
            "resources" => catalog::built_in_modules()
                .iter()
                .map(|module| {
                    let text = format!(
                        "${{1:{}}}:{b}uses: {}@{}$0",
                        default_resource_name(&module.name),
                        module.name,
                        module.version.major
                    );
                    Item {
                        doc_target: Some(DocTarget::Module { uses: module.name.clone() }),
                        ..snippet(&module.name, &module.summary, text)
                    }
                })
                .collect(),
            _ => vec![snippet("secret", "description", format!("${{1:name}}:{b}description: $0"))],
        }
    }

    fn manifest_item(&self) -> Item {
        let text = "pdev: 1\napp: ${1:name}\nservices:\n  ${2:web}:\n    build: ${3:.}\n    port: ${4:8080}\n    health: ${5:/healthz}$0\n";
        Item {
            detail: "a new manifest".to_owned(),
            rank: 0,
            ..self.item("pdev.yaml", ItemKind::Snippet, text.to_owned())
        }
    }
}

fn default_resource_name(module: &str) -> &str {
    match module {
        "postgres" => "db",
        "redis" => "cache",
        other => other,
    }
}

fn first_shape(shape: &Shape) -> &Shape {
    match shape {
        Shape::Any(shapes) => shapes.first().map_or(shape, first_shape),
        shape => shape,
    }
}

/// Whether a one-line value is allowed as an alternative to the long form.
fn has_short_form(shape: &Shape) -> bool {
    let Shape::Any(shapes) = shape else { return false };
    shapes.iter().any(|shape| !matches!(shape, Shape::Section(_) | Shape::List(_) | Shape::Map(_) | Shape::Any(_)))
}
