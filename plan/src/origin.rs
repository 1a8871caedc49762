//! Records the origin of each rendered field in one map. `explain`, hover, annotated rendering and guardrails read it.

use std::collections::BTreeMap;

use manifest::{FileId, Manifest, Sources, Span};
use serde_json::Value;

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

    pub fn iter(&self) -> impl Iterator<Item = (String, &Field)> {
        let unit_fields = |(unit, fields)| {
            let unit: &String = unit;
            let fields: &BTreeMap<String, Field> = fields;
            fields.iter().map(move |(field, value)| (format!("{unit}.{field}"), value))
        };
        self.units.iter().flat_map(unit_fields)
    }
}

/// `services.api.size.memory` -> `services.api` and `size.memory`.
fn split_path(path: &str) -> (&str, &str) {
    let mut dots = path.match_indices('.').map(|(at, _)| at);
    match dots.nth(1) {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, ""),
    }
}
