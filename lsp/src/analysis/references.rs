//! The occurrences of names: units, secrets, identities, variables and environments, in all places that can refer to
//! them.

use manifest::Span;
use manifest::syntax::{Kind as NodeKind, Node};
use manifest::template::{self, Reference, Scope};

use super::tree::touches;

/// Services, jobs and resources share one namespace, so they have one kind.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum NameKind {
    Unit,
    Secret,
    Identity,
    Variable,
    Environment,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occurrence {
    pub kind: NameKind,
    pub name: String,
    /// The name alone, without quotes.
    pub span: Span,
    /// A declaration outside of environments.
    pub is_definition: bool,
    /// An entry of an environment. It changes a declaration, or declares the name only for this environment.
    pub is_overlay: bool,
}

/// All occurrences in one file, in the order of the text.
#[must_use]
pub fn occurrences(root: &Node, text: &str) -> Vec<Occurrence> {
    let mut finder = OccurrenceFinder { text, occurrences: Vec::new(), is_in_overlay: false };
    finder.visit_root(root);
    finder.occurrences.sort_by_key(|found| found.span.start);
    finder.occurrences.dedup();
    finder.occurrences
}

/// The name under the cursor.
#[must_use]
pub fn occurrence_at(occurrences: &[Occurrence], offset: usize) -> Option<&Occurrence> {
    occurrences.iter().find(|found| touches(found.span, offset))
}

struct OccurrenceFinder<'a> {
    text: &'a str,
    occurrences: Vec<Occurrence>,
    is_in_overlay: bool,
}

impl OccurrenceFinder<'_> {
    fn add(&mut self, kind: NameKind, name: &str, span: Span, is_declaration: bool) {
        let span = unquoted_span(self.text, span);
        // In an alias, or with escapes, the source text differs from the name, so a rename cannot replace it.
        if self.text.get(span.range()) == Some(name) {
            self.occurrences.push(Occurrence {
                kind,
                name: name.to_owned(),
                span,
                is_definition: is_declaration && !self.is_in_overlay,
                is_overlay: is_declaration && self.is_in_overlay,
            });
        }
    }

    fn add_scalar(&mut self, kind: NameKind, node: &Node) {
        if let Some(scalar) = node.as_scalar().filter(|scalar| !scalar.is_null()) {
            self.add(kind, &scalar.text, node.span, false);
        }
    }

    fn visit_root(&mut self, root: &Node) {
        for pair in root.as_map().unwrap_or_default() {
            let value = &pair.value;
            match pair.key.value.as_str() {
                "services" | "jobs" | "resources" => self.visit_units(value),
                "secrets" => self.add_declarations(NameKind::Secret, value),
                "identities" => self.add_declarations(NameKind::Identity, value),
                "vars" => self.add_declarations(NameKind::Variable, value),
                "app" => self.add_child(value, "default", NameKind::Unit),
                "environments" => {
                    self.add_declarations(NameKind::Environment, value);
                    self.is_in_overlay = true;
                    for environment in value.as_map().unwrap_or_default() {
                        self.visit_root(&environment.value);
                    }
                    self.is_in_overlay = false;
                }
                "guardrails" => {
                    let waivers = value.get("waivers").map(|pair| list_items(&pair.value)).unwrap_or_default();
                    waivers.iter().for_each(|waiver| self.add_scope(waiver, "scope"));
                }
                "patches" => {
                    for target in list_items(value).iter().filter_map(|patch| patch.get("target")) {
                        self.add_scope(&target.value, "from");
                    }
                }
                _ => {}
            }
            // The contents of an environment were visited above, key by key.
            if pair.key.value != "environments" {
                self.visit_templates(value);
            }
        }
    }

    fn add_declarations(&mut self, kind: NameKind, node: &Node) {
        for pair in node.as_map().unwrap_or_default() {
            self.add(kind, &pair.key.value, pair.key.span, true);
        }
    }

    fn add_child(&mut self, node: &Node, key: &str, kind: NameKind) {
        if let Some(pair) = node.get(key) {
            self.add_scalar(kind, &pair.value);
        }
    }

    fn visit_units(&mut self, node: &Node) {
        self.add_declarations(NameKind::Unit, node);
        for unit in node.as_map().unwrap_or_default() {
            for pair in unit.value.as_map().unwrap_or_default() {
                match pair.key.value.trim_start_matches('+') {
                    "needs" => {
                        for need in pair.value.as_map().unwrap_or_default() {
                            self.add(NameKind::Unit, &need.key.value, need.key.span, false);
                        }
                        list_items(&pair.value).iter().for_each(|need| self.add_scalar(NameKind::Unit, need));
                    }
                    "secrets" => {
                        list_items(&pair.value).iter().for_each(|secret| self.add_scalar(NameKind::Secret, secret));
                    }
                    "identity" => self.add_scalar(NameKind::Identity, &pair.value),
                    "service" => self.add_scalar(NameKind::Unit, &pair.value),
                    _ => {}
                }
            }
        }
    }

    /// Adds the name in a scope such as `services.api`.
    fn add_scope(&mut self, node: &Node, key: &str) {
        let Some(pair) = node.get(key) else { return };
        let Some(scalar) = pair.value.as_scalar() else { return };
        let Some((section, name)) = scalar.text.split_once('.') else { return };
        if ["services", "jobs", "resources"].contains(&section) && name != "*" {
            let span = unquoted_span(self.text, pair.value.span);
            let start = span.range().start + section.len() + 1;
            self.add(NameKind::Unit, name, Span::new(span.file, start, span.range().end), false);
        }
    }

    fn visit_templates(&mut self, node: &Node) {
        match &node.kind {
            NodeKind::Scalar(scalar) if scalar.text.contains("${") => {
                let Some(raw) = self.text.get(node.span.range()) else { return };
                let (template, _) = template::parse(raw, node.span, false);
                template.references().for_each(|reference| self.add_reference(reference));
            }
            NodeKind::Scalar(_) => {}
            NodeKind::List(list) => list.iter().for_each(|item| self.visit_templates(item)),
            NodeKind::Map(pairs) => pairs.iter().for_each(|pair| self.visit_templates(&pair.value)),
        }
    }

    fn add_reference(&mut self, reference: &Reference) {
        let kind = match reference.scope {
            Scope::Resources | Scope::Services => NameKind::Unit,
            Scope::Secrets => NameKind::Secret,
            Scope::Identities => NameKind::Identity,
            Scope::Vars => NameKind::Variable,
            _ => return,
        };
        let Some(name) = reference.path.first() else { return };
        let Some(raw) = self.text.get(reference.span.range()) else { return };
        let Some(dot) = raw.find('.') else { return };
        let start = reference.span.range().start + dot + 1;
        self.add(kind, name, Span::new(reference.span.file, start, start + name.len()), false);
    }
}

fn list_items(node: &Node) -> &[Node] {
    match &node.kind {
        NodeKind::List(items) => items,
        _ => &[],
    }
}

#[must_use]
pub fn unquoted_span(text: &str, span: Span) -> Span {
    let quoted = text.get(span.range()).is_some_and(|raw| raw.len() >= 2 && raw.starts_with(['"', '\'']));
    if quoted { Span { start: span.start + 1, end: span.end - 1, ..span } } else { span }
}

/// Returns the reason why a name is invalid for this kind. `taken` contains the other names of this kind.
#[must_use]
pub fn invalid_name_reason(kind: NameKind, name: &str, taken: &[&str]) -> Option<String> {
    let is_word_with =
        |extra: &str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || extra.contains(letter));
    let is_valid = match kind {
        NameKind::Unit | NameKind::Environment => {
            name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !name.ends_with('-')
        }
        NameKind::Secret | NameKind::Identity | NameKind::Variable => !name.is_empty() && is_word_with("_-"),
    };
    if !is_valid {
        return Some(format!("invalid name `{name}`; use lowercase letters, digits and dashes"));
    }
    taken.contains(&name).then(|| format!("`{name}` already exists"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifest::FileId;

    const TEXT: &str = "\
app: { name: shop, default: web }
services:
  web:
    needs: { db: healthy, \"api\": started }
    secrets: [stripe]
    identity: up
    env: { A: \"x${resources.db.url}${ services.api.url }\", B: '${secrets.stripe.path}' }
  api: { command: [run, \"${vars.tag}\"] }
resources: { db: postgres@16 }
jobs: { seed: { service: api, +needs: [db] } }
secrets: { stripe: key }
identities: { up: aws }
vars: { tag: \"1\" }
guardrails: { waivers: [{ rule: PD001, scope: services.api }] }
environments: { preview: { services: { web: { env: { C: \"${resources.db.host}\" } } } } }
";

    #[test]
    fn occurrences_cover_every_place_that_names_something() {
        let root = manifest::syntax::parse(TEXT, FileId(0)).root.expect("it parses");
        let all = occurrences(&root, TEXT);
        let count = |kind, name: &str| {
            let matching: Vec<_> = all.iter().filter(|found| found.kind == kind && found.name == name).collect();
            (matching.len(), matching.iter().filter(|found| found.is_definition).count())
        };
        assert_eq!(count(NameKind::Unit, "db"), (5, 1));
        assert_eq!(count(NameKind::Unit, "api"), (5, 1));
        assert_eq!(count(NameKind::Unit, "web"), (3, 1));
        assert_eq!(count(NameKind::Secret, "stripe"), (3, 1));
        assert_eq!(count(NameKind::Identity, "up"), (2, 1));
        assert_eq!(count(NameKind::Variable, "tag"), (2, 1));
        assert_eq!(count(NameKind::Environment, "preview"), (1, 1));
        assert!(all.iter().all(|found| TEXT[found.span.range()] == found.name));
    }
}
