//! Collects the `raw` settings and `patches` of one unit, resolves their placeholders and keeps their spans.

use std::fmt::Display;

use manifest::model::{Map, Node, PatchChange, Raw, Tree};
use manifest::{Diagnostic, Severity, Span};
use serde_json::Value as Json;
use strings::nearest;

use super::draft::UnitDraft;
use super::units::UnitBuilder;
use crate::application::RuntimeKind;
use crate::codes;
use crate::load::LoadedManifest;
use crate::render::patch::{ObjectPatch, PatchData};
use crate::render::{RenderedValue, UnitForm};

/// Returns `raw` first, then each patch whose target is this unit, in the order of the manifest.
pub(super) fn resolve_unit_patches(builder: &mut UnitBuilder<'_, '_>, raw: &Raw) -> Vec<ObjectPatch> {
    let runtime = builder.draft.runtime;
    let path = format!("{}.raw.{runtime}", builder.draft.path);
    let mut changes = Vec::new();
    if let Some(tree) = raw.for_runtime(runtime.name()) {
        changes.push(ObjectPatch::Raw(resolve_patch_data(builder, tree, &path)));
    }
    let manifest = &builder.context.loaded.manifest;
    for (index, patch) in manifest.patches.iter().enumerate() {
        let from = patch.from.as_ref().map(|from| from.value.as_str());
        let has_same_runtime = RuntimeKind::from_manifest(patch.runtime.value) == Some(runtime);
        if !has_same_runtime || !targets_unit(from, builder.draft) {
            continue;
        }
        let path = format!("patches.{index}");
        changes.push(match &patch.change {
            PatchChange::Merge(tree) => ObjectPatch::Merge(resolve_patch_data(builder, tree, &path)),
            PatchChange::Json(tree) => ObjectPatch::JsonPatch(resolve_patch_data(builder, tree, &path)),
        });
    }
    changes
}

fn targets_unit(from: Option<&str>, draft: &UnitDraft<'_>) -> bool {
    match from {
        None => true,
        Some(from) => match from.strip_suffix(".*") {
            Some(section) => draft.path.split_once('.').is_some_and(|(unit_section, _)| unit_section == section),
            None => draft.path == from,
        },
    }
}

/// Reports patches without a target. Such a patch is a mistake: its target is misspelt or was removed.
pub(super) fn report_unmatched_patches(
    loaded: &LoadedManifest,
    drafts: &[UnitDraft<'_>],
    diagnostics: &mut Vec<Diagnostic>,
) {
    for (index, patch) in loaded.manifest.patches.iter().enumerate() {
        let diagnostic = |message: String, span: Span| {
            Diagnostic::new(codes::PATCH_MATCHES_NOTHING, Severity::Error, span, message)
                .at_path(format!("patches.{index}"))
        };
        // Patches for a runtime without a driver are not checked.
        let Some(runtime) = RuntimeKind::from_manifest(patch.runtime.value) else { continue };
        let UnitForm::Container(renderer) = runtime.form() else {
            let message = "this patch matches nothing: a process has no runtime object to patch".to_owned();
            diagnostics.push(diagnostic(message, patch.runtime.span).help("Write it under `process:` of the service."));
            continue;
        };
        let kinds = renderer.object_kinds();
        let is_known = |kind: &str| kinds.iter().any(|known| known.eq_ignore_ascii_case(kind));
        if let Some(kind) = patch.kind.as_ref().filter(|kind| !is_known(&kind.value)) {
            let (name, known) = (runtime.capabilities().wording.runtime, kinds.join("`, `"));
            let message =
                format!("this patch matches nothing: {name} has no kind `{}` (there is `{known}`)", kind.value);
            diagnostics.push(diagnostic(message, kind.span));
        }
        let from = patch.from.as_ref();
        if !drafts.iter().any(|draft| targets_unit(from.map(|from| from.value.as_str()), draft)) {
            let target = from.map_or("", |from| from.value.as_str());
            let near = nearest(target, drafts.iter().map(|draft| draft.path.as_str()));
            let near = near.map(|near| format!(" (nearest: `{near}`)")).unwrap_or_default();
            let span = from.map_or(patch.span, |from| from.span);
            diagnostics.push(diagnostic(format!("this patch matches nothing: there is no `{target}`{near}"), span));
        }
    }
}

fn resolve_patch_data(builder: &mut UnitBuilder<'_, '_>, tree: &Tree, path: &str) -> PatchData {
    let mut keys = Vec::new();
    collect_key_spans(tree, "", &mut keys);
    PatchData { value: resolve_tree(builder, tree, &path), keys, span: tree.span, path: path.to_owned() }
}

fn resolve_tree(builder: &mut UnitBuilder<'_, '_>, tree: &Tree, path: &dyn Display) -> RenderedValue {
    match &tree.node {
        Node::Null => RenderedValue::literal(Json::Null),
        Node::Bool(value) => RenderedValue::literal(*value),
        Node::Integer(value) => RenderedValue::literal(*value),
        Node::Float(value) => RenderedValue::literal(*value),
        Node::Text(template) => {
            let value = builder.resolve_template(template, path);
            RenderedValue { actual: value.text.into(), stable: value.stable.into() }
        }
        Node::List(items) => {
            let items = items.iter().map(|item| resolve_tree(builder, item, path));
            let (actual, stable): (Vec<Json>, Vec<Json>) = items.map(|item| (item.actual, item.stable)).unzip();
            RenderedValue { actual: actual.into(), stable: stable.into() }
        }
        Node::Map(map) => {
            let (mut actual, mut stable) = (serde_json::Map::new(), serde_json::Map::new());
            for (key, entry) in map {
                let value = resolve_tree(builder, &entry.value, &format_args!("{path}.{key}"));
                actual.insert(key.clone(), value.actual);
                stable.insert(key.clone(), value.stable);
            }
            RenderedValue { actual: Json::Object(actual), stable: Json::Object(stable) }
        }
    }
}

fn collect_key_spans(tree: &Tree, path: &str, keys: &mut Vec<(String, Span)>) {
    let join = |part: &str| if path.is_empty() { part.to_owned() } else { format!("{path}.{part}") };
    match &tree.node {
        Node::Map(map) => collect_map_spans(map, &join, keys),
        Node::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = join(&index.to_string());
                keys.push((path.clone(), item.span));
                collect_key_spans(item, &path, keys);
            }
        }
        _ => {}
    }
}

fn collect_map_spans(map: &Map<Tree>, join: &dyn Fn(&str) -> String, keys: &mut Vec<(String, Span)>) {
    for (key, entry) in map {
        let path = join(key);
        keys.push((path.clone(), entry.key));
        collect_key_spans(&entry.value, &path, keys);
    }
}
