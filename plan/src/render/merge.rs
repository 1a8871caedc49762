//! `raw` and `patches`: free-form changes to a rendered object, and which fields they touch.
//!
//! A merge is RFC 7396 (maps merge, `null` removes, the rest replaces) with `+key` that appends to a list. Operations
//! are RFC 6902.

use manifest::{Diagnostic, Severity, Span};
use serde_json::{Map, Value as Json};

use super::{Dual, json_patch};
use crate::codes;
use crate::origin::Origin;

/// Free-form data with the span of each leaf.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Data {
    pub(crate) value: Dual,
    /// Dotted path of each leaf and of each key, as written (`HostConfig.+Binds`), with the key's span.
    pub(crate) keys: Vec<(String, Span)>,
    pub(crate) span: Span,
    /// Where it stands in the manifest.
    pub(crate) path: String,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Change {
    Raw(Data),
    Merge(Data),
    Operations(Data),
}

pub(crate) struct Touched {
    pub(crate) field: String,
    pub(crate) stable: Json,
    pub(crate) origin: Origin,
}

impl Change {
    pub(crate) fn data(&self) -> &Data {
        match self {
            Self::Raw(data) | Self::Merge(data) | Self::Operations(data) => data,
        }
    }
}

pub(crate) fn apply(body: &mut Json, change: &Change, diagnostics: &mut Vec<Diagnostic>) {
    match change {
        Change::Raw(data) | Change::Merge(data) => merge(body, &data.value.text),
        Change::Operations(data) => {
            for (index, operation) in operations(&data.value.text).iter().enumerate() {
                if let Err(message) = json_patch::apply(body, operation) {
                    let span = span_of(data, &index.to_string()).unwrap_or(data.span);
                    diagnostics.push(
                        Diagnostic::new(codes::PATCH_FAILED, Severity::Error, span, message)
                            .at(data.path.clone())
                            .help("Look at the object as it is with `pdev explain`, and correct the path."),
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

/// The fields that a change speaks of, no deeper than `HostConfig.X`.
pub(crate) fn touched(change: &Change) -> Vec<Touched> {
    let data = change.data();
    match change {
        Change::Operations(data) => operations(&data.value.stable)
            .iter()
            .enumerate()
            .filter_map(|(index, operation)| {
                let path = operation.get("path")?.as_str()?;
                let field = path.trim_start_matches('/').split('/').take(depth(path)).collect::<Vec<_>>().join(".");
                let span = span_of(data, &index.to_string()).unwrap_or(data.span);
                Some(Touched { field, stable: operation.clone(), origin: Origin::Patch { span } })
            })
            .collect(),
        Change::Raw(_) | Change::Merge(_) => {
            let mut touched = Vec::new();
            for (key, value) in data.value.stable.as_object().into_iter().flatten() {
                match value {
                    Json::Object(inner) if key == "HostConfig" => {
                        let inner = inner.iter().map(|(name, value)| (format!("{key}.{name}"), value));
                        touched.extend(inner.map(|(path, value)| touch(change, &path, value)));
                    }
                    value => touched.push(touch(change, key, value)),
                }
            }
            touched
        }
    }
}

fn depth(path: &str) -> usize {
    if path.starts_with("/HostConfig/") { 2 } else { 1 }
}

fn touch(change: &Change, path: &str, stable: &Json) -> Touched {
    let data = change.data();
    let span = span_of(data, path).unwrap_or(data.span);
    let origin = if matches!(change, Change::Raw(_)) { Origin::Raw { span } } else { Origin::Patch { span } };
    Touched { field: path.replace('+', ""), stable: stable.clone(), origin }
}

fn span_of(data: &Data, path: &str) -> Option<Span> {
    data.keys.iter().find(|(key, _)| key == path).map(|(_, span)| *span)
}

fn operations(value: &Json) -> &[Json] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    #[test]
    fn merging() {
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
