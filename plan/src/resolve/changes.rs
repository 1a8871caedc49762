//! `raw` and `patches` that concern one unit, read for it: placeholders resolved, spans kept.

use std::fmt::Display;

use manifest::model::{Map, Node, PatchChange, Runtime, Tree};
use manifest::{Diagnostic, Severity, Span};
use serde_json::Value as Json;

use super::draft::Draft;
use super::units::Builder;
use crate::codes;
use crate::load::Loaded;
use crate::nearest::nearest;
use crate::render::Dual;
use crate::render::merge::{Change, Data};

/// The raw body first, then each patch whose target is this unit, in the order of the manifest.
pub(super) fn of_unit(builder: &mut Builder<'_, '_>, raw: Option<&Tree>) -> Vec<Change> {
    let path = format!("{}.raw.docker", builder.draft.path);
    let mut changes: Vec<Change> = raw.map(|tree| Change::Raw(data(builder, tree, &path))).into_iter().collect();
    let manifest = &builder.world.loaded.manifest;
    for (index, patch) in manifest.patches.iter().enumerate() {
        let from = patch.from.as_ref().map(|from| from.value.as_str());
        if patch.runtime.value != Runtime::Docker || !concerns(from, builder.draft) {
            continue;
        }
        let path = format!("patches.{index}");
        changes.push(match &patch.change {
            PatchChange::Merge(tree) => Change::Merge(data(builder, tree, &path)),
            PatchChange::Json(tree) => Change::Operations(data(builder, tree, &path)),
        });
    }
    changes
}

fn concerns(from: Option<&str>, draft: &Draft<'_>) -> bool {
    match from {
        None => true,
        Some(from) => match from.strip_suffix(".*") {
            Some(section) => draft.path.split_once('.').is_some_and(|(own, _)| own == section),
            None => draft.path == from,
        },
    }
}

/// A patch that changes nothing is a mistake: its target is misspelt, or gone.
pub(super) fn unmatched(loaded: &Loaded, drafts: &[Draft<'_>], diagnostics: &mut Vec<Diagnostic>) {
    for (index, patch) in loaded.manifest.patches.iter().enumerate() {
        let at = |message: String, span: Span| {
            Diagnostic::new(codes::PATCH_MATCHES_NOTHING, Severity::Error, span, message).at(format!("patches.{index}"))
        };
        match patch.runtime.value {
            Runtime::Kubernetes => continue,
            Runtime::Process => {
                let message = "this patch matches nothing: a process has no runtime object to patch".to_owned();
                diagnostics.push(at(message, patch.runtime.span).help("Write it under `process:` of the service."));
                continue;
            }
            Runtime::Docker => {}
        }
        if let Some(kind) = patch.kind.as_ref().filter(|kind| !kind.value.eq_ignore_ascii_case("container")) {
            let message =
                format!("this patch matches nothing: Docker has no kind `{}` (there is `Container`)", kind.value);
            diagnostics.push(at(message, kind.span));
        }
        let from = patch.from.as_ref();
        if !drafts.iter().any(|draft| concerns(from.map(|from| from.value.as_str()), draft)) {
            let wrong = from.map_or("", |from| from.value.as_str());
            let near = nearest(wrong, drafts.iter().map(|draft| draft.path.as_str()));
            let near = near.map(|near| format!(" (nearest: `{near}`)")).unwrap_or_default();
            let span = from.map_or(patch.span, |from| from.span);
            diagnostics.push(at(format!("this patch matches nothing: there is no `{wrong}`{near}"), span));
        }
    }
}

fn data(builder: &mut Builder<'_, '_>, tree: &Tree, path: &str) -> Data {
    let mut keys = Vec::new();
    spans(tree, "", &mut keys);
    Data { value: value(builder, tree, &path), keys, span: tree.span, path: path.to_owned() }
}

fn value(builder: &mut Builder<'_, '_>, tree: &Tree, path: &dyn Display) -> Dual {
    match &tree.node {
        Node::Null => Dual::same(Json::Null),
        Node::Bool(value) => Dual::same(*value),
        Node::Integer(value) => Dual::same(*value),
        Node::Float(value) => Dual::same(*value),
        Node::Text(template) => {
            let value = builder.read(template, path);
            Dual { text: value.text.into(), stable: value.stable.into() }
        }
        Node::List(items) => {
            let items = items.iter().map(|item| value(builder, item, path));
            let (text, stable): (Vec<Json>, Vec<Json>) = items.map(|item| (item.text, item.stable)).unzip();
            Dual { text: text.into(), stable: stable.into() }
        }
        Node::Map(map) => {
            let mut both = (serde_json::Map::new(), serde_json::Map::new());
            for (key, entry) in map {
                let value = value(builder, &entry.value, &format_args!("{path}.{key}"));
                both.0.insert(key.clone(), value.text);
                both.1.insert(key.clone(), value.stable);
            }
            Dual { text: Json::Object(both.0), stable: Json::Object(both.1) }
        }
    }
}

fn spans(tree: &Tree, path: &str, keys: &mut Vec<(String, Span)>) {
    let join = |part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
    match &tree.node {
        Node::Map(map) => in_map(map, &join, keys),
        Node::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = join(&index.to_string());
                keys.push((path.clone(), item.span));
                spans(item, &path, keys);
            }
        }
        _ => {}
    }
}

fn in_map(map: &Map<Tree>, join: &dyn Fn(&str) -> String, keys: &mut Vec<(String, Span)>) {
    for (key, entry) in map {
        let path = join(key);
        keys.push((path.clone(), entry.key));
        spans(&entry.value, &path, keys);
    }
}
