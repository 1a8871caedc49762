//! Who is named where: units, secrets, identities, variables and environments, in every place that can name them.

use manifest::Span;
use manifest::syntax::{Kind as NodeKind, Node};
use manifest::template::{self, Reference, Scope};

use super::tree::touches;

/// Units share one namespace, so that a name says which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    Unit,
    Secret,
    Identity,
    Variable,
    Environment,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Occurrence {
    pub kind: Kind,
    pub name: String,
    /// The name alone, without quotes.
    pub span: Span,
    /// Where it is declared, outside of environments.
    pub definition: bool,
    /// An entry of an environment: it changes what is declared elsewhere, or declares it for itself.
    pub overlay: bool,
}

/// All occurrences in one file, in the order of the text.
#[must_use]
pub fn occurrences(root: &Node, text: &str) -> Vec<Occurrence> {
    let mut finder = Finder { text, found: Vec::new(), overlay: false };
    finder.root(root);
    finder.found.sort_by_key(|found| found.span.start);
    finder.found.dedup();
    finder.found
}

/// The name under the cursor.
#[must_use]
pub fn at(occurrences: &[Occurrence], offset: usize) -> Option<&Occurrence> {
    occurrences.iter().find(|found| touches(found.span, offset))
}

struct Finder<'a> {
    text: &'a str,
    found: Vec<Occurrence>,
    overlay: bool,
}

impl Finder<'_> {
    fn add(&mut self, kind: Kind, name: &str, span: Span, declares: bool) {
        let span = unquoted(self.text, span);
        // Through an alias or an escape the text is another one; it cannot be renamed there.
        if self.text.get(span.range()) == Some(name) {
            let (definition, overlay) = (declares && !self.overlay, declares && self.overlay);
            self.found.push(Occurrence { kind, name: name.to_owned(), span, definition, overlay });
        }
    }

    fn add_scalar(&mut self, kind: Kind, node: &Node) {
        if let Some(scalar) = node.as_scalar().filter(|scalar| !scalar.is_null()) {
            self.add(kind, &scalar.text, node.span, false);
        }
    }

    fn root(&mut self, root: &Node) {
        for pair in root.as_map().unwrap_or_default() {
            let value = &pair.value;
            match pair.key.value.as_str() {
                "services" | "jobs" | "resources" => self.units(value),
                "secrets" => self.declared(Kind::Secret, value),
                "identities" => self.declared(Kind::Identity, value),
                "vars" => self.declared(Kind::Variable, value),
                "app" => self.child(value, "default", Kind::Unit),
                "environments" => {
                    self.declared(Kind::Environment, value);
                    self.overlay = true;
                    for environment in value.as_map().unwrap_or_default() {
                        self.root(&environment.value);
                    }
                    self.overlay = false;
                }
                "guardrails" => {
                    let waivers = value.get("waivers").map(|pair| items(&pair.value)).unwrap_or_default();
                    waivers.iter().for_each(|waiver| self.scope(waiver, "scope"));
                }
                "patches" => {
                    for target in items(value).iter().filter_map(|patch| patch.get("target")) {
                        self.scope(&target.value, "from");
                    }
                }
                _ => {}
            }
            // The contents of an environment were visited above, key by key.
            if pair.key.value != "environments" {
                self.templates(value);
            }
        }
    }

    fn declared(&mut self, kind: Kind, node: &Node) {
        for pair in node.as_map().unwrap_or_default() {
            self.add(kind, &pair.key.value, pair.key.span, true);
        }
    }

    fn child(&mut self, node: &Node, key: &str, kind: Kind) {
        if let Some(pair) = node.get(key) {
            self.add_scalar(kind, &pair.value);
        }
    }

    fn units(&mut self, node: &Node) {
        self.declared(Kind::Unit, node);
        for unit in node.as_map().unwrap_or_default() {
            for pair in unit.value.as_map().unwrap_or_default() {
                match pair.key.value.trim_start_matches('+') {
                    "needs" => {
                        for need in pair.value.as_map().unwrap_or_default() {
                            self.add(Kind::Unit, &need.key.value, need.key.span, false);
                        }
                        items(&pair.value).iter().for_each(|need| self.add_scalar(Kind::Unit, need));
                    }
                    "secrets" => items(&pair.value).iter().for_each(|secret| self.add_scalar(Kind::Secret, secret)),
                    "identity" => self.add_scalar(Kind::Identity, &pair.value),
                    "service" => self.add_scalar(Kind::Unit, &pair.value),
                    _ => {}
                }
            }
        }
    }

    /// `services.api`: the part behind the dot.
    fn scope(&mut self, node: &Node, key: &str) {
        let Some(pair) = node.get(key) else { return };
        let Some(scalar) = pair.value.as_scalar() else { return };
        let Some((section, name)) = scalar.text.split_once('.') else { return };
        if ["services", "jobs", "resources"].contains(&section) && name != "*" {
            let span = unquoted(self.text, pair.value.span);
            let start = span.range().start + section.len() + 1;
            self.add(Kind::Unit, name, Span::new(span.file, start, span.range().end), false);
        }
    }

    fn templates(&mut self, node: &Node) {
        match &node.kind {
            NodeKind::Scalar(scalar) if scalar.text.contains("${") => {
                let Some(raw) = self.text.get(node.span.range()) else { return };
                let (template, _) = template::parse(raw, node.span, false);
                template.references().for_each(|reference| self.reference(reference));
            }
            NodeKind::Scalar(_) => {}
            NodeKind::List(list) => list.iter().for_each(|item| self.templates(item)),
            NodeKind::Map(pairs) => pairs.iter().for_each(|pair| self.templates(&pair.value)),
        }
    }

    fn reference(&mut self, reference: &Reference) {
        let kind = match reference.scope {
            Scope::Resources | Scope::Services => Kind::Unit,
            Scope::Secrets => Kind::Secret,
            Scope::Identities => Kind::Identity,
            Scope::Vars => Kind::Variable,
            _ => return,
        };
        let Some(name) = reference.path.first() else { return };
        let Some(raw) = self.text.get(reference.span.range()) else { return };
        let Some(dot) = raw.find('.') else { return };
        let start = reference.span.range().start + dot + 1;
        self.add(kind, name, Span::new(reference.span.file, start, start + name.len()), false);
    }
}

fn items(node: &Node) -> &[Node] {
    match &node.kind {
        NodeKind::List(items) => items,
        _ => &[],
    }
}

#[must_use]
pub fn unquoted(text: &str, span: Span) -> Span {
    let quoted = text.get(span.range()).is_some_and(|raw| raw.len() >= 2 && raw.starts_with(['"', '\'']));
    if quoted { Span { start: span.start + 1, end: span.end - 1, ..span } } else { span }
}

/// Why a thing cannot be called this; `taken` are the names of its kind.
#[must_use]
pub fn refuse_name(kind: Kind, name: &str, taken: &[&str]) -> Option<String> {
    let letters = |more: &str| name.chars().all(|letter| letter.is_ascii_alphanumeric() || more.contains(letter));
    let fits = match kind {
        Kind::Unit | Kind::Environment => {
            name.starts_with(|first: char| first.is_ascii_lowercase())
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
                && !name.ends_with('-')
        }
        Kind::Secret | Kind::Identity | Kind::Variable => !name.is_empty() && letters("_-"),
    };
    if !fits {
        return Some(format!("`{name}` cannot be a name here: lower-case letters, digits and dashes"));
    }
    taken.contains(&name).then(|| format!("`{name}` is there already"))
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
    fn every_place_that_names_something() {
        let root = manifest::syntax::parse(TEXT, FileId(0)).root.expect("it parses");
        let all = occurrences(&root, TEXT);
        let count = |kind, name: &str| {
            let own: Vec<_> = all.iter().filter(|found| found.kind == kind && found.name == name).collect();
            (own.len(), own.iter().filter(|found| found.definition).count())
        };
        assert_eq!(count(Kind::Unit, "db"), (5, 1));
        assert_eq!(count(Kind::Unit, "api"), (5, 1));
        assert_eq!(count(Kind::Unit, "web"), (3, 1));
        assert_eq!(count(Kind::Secret, "stripe"), (3, 1));
        assert_eq!(count(Kind::Identity, "up"), (2, 1));
        assert_eq!(count(Kind::Variable, "tag"), (2, 1));
        assert_eq!(count(Kind::Environment, "preview"), (1, 1));
        assert!(all.iter().all(|found| TEXT[found.span.range()] == found.name));
    }
}
