//! Completion of values: the words of a choice, and the names that a value may refer to.

use std::collections::BTreeSet;

use manifest::spec::Shape;

use super::{Completer, DocTarget, Item, ItemKind, escape_snippet};
use crate::analysis::cursor::CursorKind;
use crate::analysis::names::{self, NameInfo};

impl Completer<'_> {
    pub(super) fn value_items(&self) -> Vec<Item> {
        let mut items = self.alias_items();
        if !items.is_empty() {
            return items;
        }
        items = self.reference_items();
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
                    ..self.item(word, ItemKind::Value, escape_snippet(word))
                }
            }));
        }
        items
    }

    /// After `*`: the anchors above the cursor.
    fn alias_items(&self) -> Vec<Item> {
        let text = self.context.text.as_str();
        let typed = text.get(self.cursor.value_start..self.context.offset).unwrap_or_default();
        if !typed.starts_with('*') || self.cursor.is_quoted {
            return Vec::new();
        }
        let above = text.get(..self.cursor.value_start).unwrap_or_default();
        let name_after = |at: usize| {
            let starts_word = above[..at].ends_with([' ', '[', ',', '\n']);
            let name = above[at + 1..].split([' ', ',', ']', '}', '\n', '\r']).next().unwrap_or_default();
            (starts_word && !name.is_empty()).then(|| name.to_owned())
        };
        let names: BTreeSet<String> = above.match_indices('&').filter_map(|(at, _)| name_after(at)).collect();
        let replace_range = self.cursor.value_start..self.cursor.word.end.max(self.context.offset);
        let item = |name: String| {
            let label = format!("*{name}");
            let snippet = escape_snippet(&label);
            Item { replace_range: replace_range.clone(), rank: 2, ..self.item(&label, ItemKind::Name, snippet) }
        };
        names.into_iter().map(item).collect()
    }

    fn name_items(&self, mut names: Vec<NameInfo>) -> Vec<Item> {
        // The label must begin like the typed path, or the client hides it.
        let typed = self.context.text.as_str().get(self.cursor.word.start..self.context.offset).unwrap_or_default();
        if typed.starts_with("./") {
            names.iter_mut().filter(|name| !name.name.starts_with('.')).for_each(|name| name.name.insert_str(0, "./"));
        }
        names.into_iter().map(|name| self.name_item(name, ItemKind::Name)).collect()
    }

    fn reference_items(&self) -> Vec<Item> {
        let manifest = self.context.manifest;
        let path = self.key_path();
        let unit = path.get(1).copied().flatten();
        let is_list_item = self.cursor.kind == CursorKind::Key;
        match path[..] {
            [Some("resources"), Some(_), Some("uses")] | [Some("resources"), Some(_)] if !is_list_item => {
                self.module_items()
            }
            [.., Some("needs"), None] => self.unlisted_items(names::units(manifest, unit)),
            [Some("services" | "jobs"), Some(_), Some("secrets"), None] => {
                self.unlisted_items(names::secrets(manifest))
            }
            [Some("include"), None] => self.unlisted_items(self.include_files()),
            [Some("services" | "jobs"), Some(_), Some("build")] if !is_list_item => {
                self.name_items(self.build_contexts())
            }
            [Some("services" | "jobs"), Some(_), Some("build"), Some("context")] => {
                self.name_items(self.build_contexts())
            }
            [Some("services" | "jobs"), Some(_), Some("build"), Some("dockerfile")] => {
                self.name_items(self.dockerfiles(unit))
            }
            [Some("services" | "jobs"), Some(_), Some("build"), Some("target")] => self.name_items(self.stages(unit)),
            [Some("services" | "jobs"), Some(_), Some("security"), Some("capabilities" | "drop"), None] => {
                self.unlisted_items(capabilities())
            }
            [Some("services" | "jobs"), Some(_), Some("stop"), Some("signal")] => self.signal_items(),
            [Some("services" | "jobs"), Some(_), Some("identity")] => self.name_items(names::identities(manifest)),
            [Some("jobs"), Some(_), Some("service")] | [Some("app"), Some("default")] => {
                self.name_items(names::services(manifest))
            }
            [Some("services" | "jobs"), Some(unit), Some("health"), .., Some("port" | "tcp" | "grpc")] => {
                self.name_items(names::ports(manifest, unit))
            }
            [Some("services" | "jobs"), Some(_), Some("health")] if !is_list_item => self.health_items(),
            [Some("guardrails"), Some("waivers"), None, Some("rule")] => self.rule_items(),
            [Some("guardrails"), Some("waivers"), None, Some("scope")]
            | [Some("patches"), None, Some("target"), Some("from")] => self.scope_items(),
            [Some("resources"), Some(resource), Some("with"), Some(input)] if !is_list_item => {
                self.input_value_items(resource, input)
            }
            _ => Vec::new(),
        }
    }

    fn module_items(&self) -> Vec<Item> {
        let item = |name: NameInfo| {
            let doc_target = DocTarget::Module { uses: name.name.clone() };
            Item { doc_target: Some(doc_target), ..self.name_item(name, ItemKind::Module) }
        };
        names::builtin_modules().into_iter().chain(self.local_modules()).map(item).collect()
    }

    fn signal_items(&self) -> Vec<Item> {
        let name = |name: &str| NameInfo { name: name.to_owned(), description: String::new() };
        self.name_items(["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"].map(name).to_vec())
    }

    /// Without the names that the list already contains. They are read from the text around the cursor, because the
    /// text may not parse.
    fn unlisted_items(&self, all: Vec<NameInfo>) -> Vec<Item> {
        let text = self.context.text;
        let line = text.line_at(self.context.offset);
        let mut listed = Vec::new();
        if self.cursor.is_flow {
            let (before, after) = text.as_str().split_at(self.cursor.word.start);
            let list_start = &before[before.rfind('[').map_or(before.len(), |at| at + 1)..];
            let rest = after.get(self.cursor.word.len()..).unwrap_or_default();
            listed.extend(list_start.split(','));
            listed.extend(rest[..rest.find([']', '\n']).unwrap_or(rest.len())].split(','));
        } else {
            let item = |number: usize| text.line(number).trim_start().strip_prefix("- ");
            listed.extend((0..line).rev().map_while(item));
            listed.extend((line + 1..text.line_count()).map_while(item));
        }
        let listed: Vec<&str> = listed.into_iter().map(|name| name.trim().trim_matches(['"', '\''])).collect();
        self.name_items(all.into_iter().filter(|name| !listed.contains(&name.name.as_str())).collect())
    }

    fn health_items(&self) -> Vec<Item> {
        let examples = [("/healthz", "GET this path"), ("none", "healthy as soon as it runs")];
        let name =
            |(name, description): (&str, &str)| NameInfo { name: name.to_owned(), description: description.to_owned() };
        self.name_items(examples.into_iter().map(name).collect())
    }

    fn rule_items(&self) -> Vec<Item> {
        let item = |rule: &plan::guardrails::Rule| Item {
            doc_target: Some(DocTarget::Rule { code: rule.code.0.to_owned() }),
            detail: rule.summary.to_owned(),
            rank: 2,
            ..self.item(rule.code.0, ItemKind::Value, rule.code.0.to_owned())
        };
        plan::guardrails::RULES.iter().map(item).collect()
    }

    fn scope_items(&self) -> Vec<Item> {
        let manifest = self.context.manifest;
        let scopes_of = |section: &str, names: Vec<NameInfo>| -> Vec<NameInfo> {
            let scope = |name: NameInfo| NameInfo { name: format!("{section}.{}", name.name), ..name };
            names.into_iter().map(scope).collect()
        };
        let mut all = scopes_of("services", names::services(manifest));
        all.extend(scopes_of("jobs", names::jobs(manifest)));
        all.extend(scopes_of("resources", names::resources(manifest)));
        self.name_items(all)
    }

    fn input_value_items(&self, resource: &str, input: &str) -> Vec<Item> {
        let Some(module) = names::resource_module(self.context.manifest, resource, self.context.files) else {
            return Vec::new();
        };
        let Some(input) = module.inputs.get(input) else { return Vec::new() };
        let words: Vec<String> = match input.kind.as_str() {
            "boolean" => ["true", "false"].map(str::to_owned).to_vec(),
            _ => input.choices.clone(),
        };
        words.iter().map(|word| Item { rank: 3, ..self.item(word, ItemKind::Value, escape_snippet(word)) }).collect()
    }
}

/// The Linux capabilities that Docker accepts, without the prefix `CAP_`.
fn capabilities() -> Vec<NameInfo> {
    let all = [
        "ALL",
        "AUDIT_WRITE",
        "CHOWN",
        "DAC_OVERRIDE",
        "FOWNER",
        "FSETID",
        "IPC_LOCK",
        "KILL",
        "MKNOD",
        "NET_ADMIN",
        "NET_BIND_SERVICE",
        "NET_RAW",
        "PERFMON",
        "SETFCAP",
        "SETGID",
        "SETPCAP",
        "SETUID",
        "SYS_ADMIN",
        "SYS_CHROOT",
        "SYS_NICE",
        "SYS_PTRACE",
        "SYS_RESOURCE",
        "SYS_TIME",
    ];
    let info = |name: &str| NameInfo { name: name.to_owned(), description: "Linux capability".to_owned() };
    all.map(info).to_vec()
}
