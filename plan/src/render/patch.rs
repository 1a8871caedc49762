//! Applies `raw` and `patches`, the free-form changes to a rendered object, and lists the fields that they change.
//!
//! A merge follows RFC 7396 (maps merge, `null` removes, other values replace), plus `+key`, which appends to a list.
//! Operations follow RFC 6902.

use manifest::{Diagnostic, Severity, Span};
use serde_json::{Map, Value as Json};

use super::{RenderedValue, json_patch};
use crate::codes;
use crate::origin::Origin;

/// Free-form data with the span of each leaf.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct PatchData {
    pub(crate) value: RenderedValue,
    /// Dotted path of each leaf and of each key, as written (`HostConfig.+Binds`), with the key's span.
    pub(crate) keys: Vec<(String, Span)>,
    pub(crate) span: Span,
    /// Path in the manifest.
    pub(crate) path: String,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum ObjectPatch {
    Raw(PatchData),
    Merge(PatchData),
    JsonPatch(PatchData),
}

pub(crate) struct PatchedField {
    pub(crate) field: String,
    pub(crate) stable: Json,
    pub(crate) origin: Origin,
}

impl ObjectPatch {
    pub(crate) fn data(&self) -> &PatchData {
        match self {
            Self::Raw(data) | Self::Merge(data) | Self::JsonPatch(data) => data,
        }
    }
}

pub(crate) fn apply(body: &mut Json, change: &ObjectPatch, diagnostics: &mut Vec<Diagnostic>) {
    match change {
        ObjectPatch::Raw(data) | ObjectPatch::Merge(data) => merge(body, &data.value.actual),
        ObjectPatch::JsonPatch(data) => {
            for (index, operation) in operations(&data.value.actual).iter().enumerate() {
                if let Err(message) = json_patch::apply(body, operation) {
                    let span = key_span(data, &index.to_string()).unwrap_or(data.span);
                    diagnostics.push(
                        Diagnostic::new(codes::PATCH_FAILED, Severity::Error, span, message)
                            .at_path(data.path.clone())
                            .help("Show the object with `pdev explain`, and correct the path."),
                    );
                }
            }
        }
    }
}

fn merge(target: &mut Json, change: &Json) {
    let Json::Object(change) = change else {
        *target = change.clone();
        return;
    };
    if !target.is_object() {
        *target = Json::Object(Map::new());
    }
    let Json::Object(target) = target else { return };
    for (key, value) in change {
        if let Some(key) = key.strip_prefix('+') {
            let list = target.entry(key).or_insert_with(|| Json::Array(Vec::new()));
            if !list.is_array() {
                *list = if list.is_null() { Json::Array(Vec::new()) } else { Json::Array(vec![list.take()]) };
            }
            if let Json::Array(list) = list {
                list.extend(value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]));
            }
        } else if value.is_null() {
            target.shift_remove(key);
        } else {
            merge(target.entry(key).or_insert(Json::Null), value);
        }
    }
}

/// The fields that a change affects, no deeper than `HostConfig.X`.
pub(crate) fn patched_fields(change: &ObjectPatch) -> Vec<PatchedField> {
    let data = change.data();
    match change {
        ObjectPatch::JsonPatch(data) => operations(&data.value.stable)
            .iter()
            .enumerate()
            .filter_map(|(index, operation)| {
                let path = operation.get("path")?.as_str()?;
                let field =
                    path.trim_start_matches('/').split('/').take(field_depth(path)).collect::<Vec<_>>().join(".");
                let span = key_span(data, &index.to_string()).unwrap_or(data.span);
                Some(PatchedField { field, stable: operation.clone(), origin: Origin::Patch { span } })
            })
            .collect(),
        ObjectPatch::Raw(_) | ObjectPatch::Merge(_) => {
            let mut fields = Vec::new();
            for (key, value) in data.value.stable.as_object().into_iter().flatten() {
                match value {
                    Json::Object(inner) if key == "HostConfig" => {
                        let inner_fields = inner.iter().map(|(name, value)| (format!("{key}.{name}"), value));
                        fields.extend(inner_fields.map(|(path, value)| patched_field(change, &path, value)));
                    }
                    value => fields.push(patched_field(change, key, value)),
                }
            }
            fields
        }
    }
}

fn field_depth(path: &str) -> usize {
    if path.starts_with("/HostConfig/") { 2 } else { 1 }
}

fn patched_field(change: &ObjectPatch, path: &str, stable: &Json) -> PatchedField {
    let data = change.data();
    let span = key_span(data, path).unwrap_or(data.span);
    let origin = if matches!(change, ObjectPatch::Raw(_)) { Origin::Raw { span } } else { Origin::Patch { span } };
    PatchedField { field: path.replace('+', ""), stable: stable.clone(), origin }
}

fn key_span(data: &PatchData, path: &str) -> Option<Span> {
    data.keys.iter().find(|(key, _)| key == path).map(|(_, span)| *span)
}

fn operations(value: &Json) -> &[Json] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    #[test]
    fn merge_replaces_removes_and_appends() {
        let cases: &[(Json, Json, Json)] = &[
            (json!({"a": 1}), json!({"a": 2, "b": {"c": 3}}), json!({"a": 2, "b": {"c": 3}})),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}}), json!({"a": {"c": 2}})),
            (json!({"l": [1]}), json!({"l": [2]}), json!({"l": [2]})),
            (json!({"l": [1]}), json!({"+l": [2]}), json!({"l": [1, 2]})),
            (json!({}), json!({"+l": 2}), json!({"l": [2]})),
        ];
        for (before, change, after) in cases {
            let mut value = before.clone();
            super::merge(&mut value, change);
            assert_eq!(value, *after, "{change}");
        }
    }
}
