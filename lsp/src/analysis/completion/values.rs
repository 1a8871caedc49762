//! Values: words of a choice, and names of what the value refers to.

use manifest::spec::Shape;

use super::{About, Item, Kind, Place, escape};
use crate::analysis::cursor::At;
use crate::analysis::names::{self, Name};

impl Place<'_> {
    pub(super) fn values(&self) -> Vec<Item> {
        let mut items = self.references();
        for shape in &self.allowed.shapes {
            let words: &[&str] = match shape {
                Shape::Choice(words) => words,
                Shape::Bool => &["true", "false"],
                _ => &[],
            };
            let default = self.allowed.key.map(|(_, key)| key.default).unwrap_or_default();
            items.extend(words.iter().map(|word| {
                let is_default = default.split([' ', ':', ',']).next() == Some(word);
                Item {
                    detail: if is_default { "the default".to_owned() } else { String::new() },
                    rank: 3,
                    ..self.item(word, Kind::Value, escape(word))
                }
            }));
        }
        items
    }

    fn names(&self, names: Vec<Name>) -> Vec<Item> {
        names.into_iter().map(|name| self.named(name, Kind::Name)).collect()
    }

    fn references(&self) -> Vec<Item> {
        let manifest = self.scene.manifest;
        let path = self.path();
        let unit = path.get(1).copied().flatten();
        let listed = self.cursor.at == At::Key;
        match path[..] {
            [Some("resources"), Some(_), Some("uses")] | [Some("resources"), Some(_)] if !listed => self.modules(),
            [.., Some("needs"), None] => self.unlisted(names::units(manifest, unit)),
            [Some("services" | "jobs"), Some(_), Some("secrets"), None] => self.unlisted(names::secrets(manifest)),
            [Some("include"), None] => self.unlisted(self.includes()),
            [Some("services" | "jobs"), Some(_), Some("build")] if !listed => self.names(self.contexts()),
            [Some("services" | "jobs"), Some(_), Some("build"), Some("context")] => self.names(self.contexts()),
            [Some("services" | "jobs"), Some(_), Some("build"), Some("dockerfile")] => {
                self.names(self.dockerfiles(unit))
            }
            [Some("services" | "jobs"), Some(_), Some("stop"), Some("signal")] => self.signals(),
            [Some("services" | "jobs"), Some(_), Some("identity")] => self.names(names::identities(manifest)),
            [Some("jobs"), Some(_), Some("service")] | [Some("app"), Some("default")] => {
                self.names(names::services(manifest))
            }
            [Some("services" | "jobs"), Some(unit), Some("health"), .., Some("port" | "tcp" | "grpc")] => {
                self.names(names::ports(manifest, unit))
            }
            [Some("services" | "jobs"), Some(_), Some("health")] if !listed => self.health(),
            [Some("guardrails"), Some("waivers"), None, Some("rule")] => self.rules(),
            [Some("guardrails"), Some("waivers"), None, Some("scope")]
            | [Some("patches"), None, Some("target"), Some("from")] => self.scopes(),
            [Some("resources"), Some(resource), Some("with"), Some(input)] if !listed => self.input(resource, input),
            _ => Vec::new(),
        }
    }

    fn modules(&self) -> Vec<Item> {
        let item = |name: Name| {
            let about = About::Module { uses: name.name.clone() };
            Item { about: Some(about), ..self.named(name, Kind::Module) }
        };
        names::modules().into_iter().chain(self.local_modules()).map(item).collect()
    }

    fn signals(&self) -> Vec<Item> {
        let name = |name: &str| Name { name: name.to_owned(), words: String::new() };
        self.names(["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"].map(name).to_vec())
    }

    /// Without what the list holds already, told from the words beside the cursor.
    fn unlisted(&self, all: Vec<Name>) -> Vec<Item> {
        let text = self.scene.text;
        let line = text.line_at(self.scene.offset);
        let mut beside = Vec::new();
        if self.cursor.flow {
            let (before, after) = text.as_str().split_at(self.cursor.word.start);
            let head = &before[before.rfind('[').map_or(before.len(), |at| at + 1)..];
            let rest = after.get(self.cursor.word.len()..).unwrap_or_default();
            beside.extend(head.split(','));
            beside.extend(rest[..rest.find([']', '\n']).unwrap_or(rest.len())].split(','));
        } else {
            let item = |number: usize| text.line(number).trim_start().strip_prefix("- ");
            beside.extend((0..line).rev().map_while(item));
            beside.extend((line + 1..text.lines_count()).map_while(item));
        }
        let beside: Vec<&str> = beside.into_iter().map(|one| one.trim().trim_matches(['"', '\''])).collect();
        self.names(all.into_iter().filter(|name| !beside.contains(&name.name.as_str())).collect())
    }

    fn health(&self) -> Vec<Item> {
        let known = [("/healthz", "GET this path"), ("none", "started is good enough")];
        let name = |(name, words): (&str, &str)| Name { name: name.to_owned(), words: words.to_owned() };
        self.names(known.into_iter().map(name).collect())
    }

    fn rules(&self) -> Vec<Item> {
        let item = |rule: &plan::guardrails::Rule| Item {
            about: Some(About::Rule { code: rule.code.0.to_owned() }),
            detail: rule.words.to_owned(),
            rank: 2,
            ..self.item(rule.code.0, Kind::Value, rule.code.0.to_owned())
        };
        plan::guardrails::RULES.iter().map(item).collect()
    }

    fn scopes(&self) -> Vec<Item> {
        let manifest = self.scene.manifest;
        let of = |section: &str, names: Vec<Name>| -> Vec<Name> {
            let scope = |name: Name| Name { name: format!("{section}.{}", name.name), ..name };
            names.into_iter().map(scope).collect()
        };
        let mut all = of("services", names::services(manifest));
        all.extend(of("jobs", names::jobs(manifest)));
        all.extend(of("resources", names::resources(manifest)));
        self.names(all)
    }

    fn input(&self, resource: &str, input: &str) -> Vec<Item> {
        let Some(module) = names::module(self.scene.manifest, resource, self.scene.files) else { return Vec::new() };
        let Some(input) = module.inputs.get(input) else { return Vec::new() };
        let words: Vec<String> = match input.kind.as_str() {
            "boolean" => ["true", "false"].map(str::to_owned).to_vec(),
            _ => input.choices.clone(),
        };
        words.iter().map(|word| Item { rank: 3, ..self.item(word, Kind::Value, escape(word)) }).collect()
    }
}
