//! Records the origin of each rendered field in one map. `explain`, hover, annotated rendering and guardrails read it.

use std::collections::BTreeMap;

use manifest::{FileId, Manifest, Sources, Span};
use serde_json::Value;

/// Replaces a value, or a part of it, that is unknown without a running preview.
pub const CHOSEN_AT_UP: &str = "chosen at up";

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A default of pdev, and its reason.
    Default {
        reason: &'static str,
    },
    Module {
        name: String,
        version: String,
    },
    Manifest {
        span: Span,
    },
    /// A layer other than the base of the root file: `environments.local`, `platform.yaml`, `--set`.
    Overlay {
        span: Span,
        layer: String,
    },
    Raw {
        span: Span,
    },
    Patch {
        span: Span,
    },
}

impl Origin {
    /// The origin of a value written at `span`, according to the layer that contains it.
    #[must_use]
    pub fn from_span(manifest: &Manifest, sources: &Sources, span: Span) -> Self {
        let contains_span = |outer: Span| outer.file == span.file && outer.start <= span.start && span.end <= outer.end;
        if let Some((name, _)) = manifest.environments.iter().find(|(_, entry)| contains_span(entry.span)) {
            return Self::Overlay { span, layer: format!("environments.{name}") };
        }
        if span.file != FileId(0) {
            let path = sources.get(span.file).map_or_else(String::new, |source| source.path.clone());
            return Self::Overlay { span, layer: path };
        }
        Self::Manifest { span }
    }

    #[must_use]
    pub fn span(&self) -> Option<Span> {
        match self {
            Self::Default { .. } | Self::Module { .. } => None,
            Self::Manifest { span } | Self::Overlay { span, .. } | Self::Raw { span } | Self::Patch { span } => {
                Some(*span)
            }
        }
    }
}

/// A rendered field: its value when it was last set, and all its origins. The last origin is effective.
#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub value: Value,
    pub origins: Vec<Origin>,
}

/// Fields by path: `services.api.docker.HostConfig.Memory`, `services.web.process.argv`, `services.api.health.ready`.
/// Grouped by unit: thousands of services have hundreds of thousands of fields, whose paths share their beginning.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Origins {
    units: BTreeMap<String, BTreeMap<String, Field>>,
}

impl Origins {
    pub fn set(&mut self, path: &str, value: Value, origin: Origin) {
        let (unit, field) = split_path(path);
        self.set_unit_field(unit, field, value, origin);
    }

    /// `unit` is `services.api`, `field` the rest of the path.
    pub fn set_unit_field(&mut self, unit: &str, field: &str, value: Value, origin: Origin) {
        if !self.units.contains_key(unit) {
            self.units.insert(unit.to_owned(), BTreeMap::new());
        }
        let Some(fields) = self.units.get_mut(unit) else { return };
        match fields.get_mut(field) {
            Some(existing) => {
                existing.value = value;
                existing.origins.push(origin);
            }
            None => drop(fields.insert(field.to_owned(), Field { value, origins: vec![origin] })),
        }
    }

    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Field> {
        let (unit, field) = split_path(path);
        self.units.get(unit)?.get(field)
    }

    /// The field itself, or the nearest enclosing field that has an origin.
    #[must_use]
    pub fn nearest<'a>(&self, path: &'a str) -> Option<(&'a str, &Field)> {
        let (unit, _) = split_path(path);
        let fields = self.units.get(unit)?;
        let mut path = path;
        while path.len() > unit.len() {
            if let Some(field) = fields.get(&path[unit.len() + 1..]) {
                return Some((path, field));
            }
            path = path.rsplit_once('.')?.0;
        }
        None
    }

    /// All fields at or below `path`, sorted.
    pub fn subtree<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (String, &'a Field)> {
        let at_or_below =
            move |field: &str| field.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.iter().filter(move |(field, _)| at_or_below(field))
    }

    /// Replaces what differs in `other` by [`CHOSEN_AT_UP`], and removes fields that `other` does not have. A value that is
    /// unknown as a whole loses its origins, because the manifest does not contain it.
    #[must_use]
    pub fn without_differences(mut self, other: &Self) -> Self {
        for (unit, fields) in &mut self.units {
            let Some(others) = other.units.get(unit) else { continue };
            fields.retain(|path, _| others.contains_key(path));
            for (path, field) in fields.iter_mut() {
                let Some(other) = others.get(path).filter(|other| other.value != field.value) else { continue };
                field.value = without_difference(&field.value, &other.value);
                if field.value == CHOSEN_AT_UP {
                    field.origins.clear();
                }
            }
        }
        self
    }

    pub fn iter(&self) -> impl Iterator<Item = (String, &Field)> {
        let unit_fields = |(unit, fields)| {
            let unit: &String = unit;
            let fields: &BTreeMap<String, Field> = fields;
            fields.iter().map(move |(field, value)| (format!("{unit}.{field}"), value))
        };
        self.units.iter().flat_map(unit_fields)
    }
}

fn without_difference(value: &Value, other: &Value) -> Value {
    match (value, other) {
        _ if value == other => value.clone(),
        (Value::Array(items), Value::Array(others)) if items.len() == others.len() => {
            items.iter().zip(others).map(|(item, other)| without_difference(item, other)).collect()
        }
        (Value::Object(entries), Value::Object(others)) => {
            let common = entries.iter().filter_map(|(key, entry)| Some((key, entry, others.get(key)?)));
            let known = common.map(|(key, entry, other)| (key.clone(), without_difference(entry, other)));
            Value::Object(known.collect())
        }
        (Value::String(text), Value::String(other)) => Value::String(without_text_difference(text, other)),
        _ => Value::String(CHOSEN_AT_UP.to_owned()),
    }
}

/// `http://web:20000/` and `http://web:41111/` have `http://web:(chosen at up)/` in common.
fn without_text_difference(text: &str, other: &str) -> String {
    let same_count = |(left, right): &(char, char)| left == right;
    let prefix: String = text.chars().zip(other.chars()).take_while(same_count).map(|(letter, _)| letter).collect();
    let (rest, other_rest) = (&text[prefix.len()..], &other[prefix.len()..]);
    let suffix_length: usize = rest
        .chars()
        .rev()
        .zip(other_rest.chars().rev())
        .take_while(same_count)
        .map(|(letter, _)| letter.len_utf8())
        .sum();
    let suffix = &rest[rest.len() - suffix_length..];
    if prefix.is_empty() && suffix.is_empty() {
        return CHOSEN_AT_UP.to_owned();
    }
    format!("{prefix}({CHOSEN_AT_UP}){suffix}")
}

/// `services.api.size.memory` -> `services.api` and `size.memory`.
fn split_path(path: &str) -> (&str, &str) {
    let mut dots = path.match_indices('.').map(|(at, _)| at);
    match dots.nth(1) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, ""),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::without_difference;

    #[test]
    fn only_the_differing_part_of_a_value_is_replaced() {
        for (value, other, expected) in [
            (json!(80), json!(80), json!(80)),
            (json!(20000), json!(41111), json!("chosen at up")),
            (json!("20000"), json!("41111"), json!("chosen at up")),
            (json!("http://w:20000/é"), json!("http://w:41111/é"), json!("http://w:(chosen at up)/é")),
            (json!("ab"), json!("aab"), json!("a(chosen at up)b")),
            (json!(["x", 1]), json!(["x", 2]), json!(["x", "chosen at up"])),
            (json!([1]), json!([1, 2]), json!("chosen at up")),
            (json!({ "a": 1, "b": 2 }), json!({ "a": 1, "c": 2 }), json!({ "a": 1 })),
        ] {
            assert_eq!(without_difference(&value, &other), expected, "{value} {other}");
        }
    }
}
