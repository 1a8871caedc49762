//! Where each rendered field comes from: one map that `explain`, hover, annotated rendering and guardrails all read.

use std::collections::BTreeMap;

use manifest::{FileId, Manifest, Sources, Span};
use serde_json::Value;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// pdev's own choice, and why.
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
    /// Another layer than the root file's base: `environments.local`, `platform.yaml`, `--set`.
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
    /// What was written at `span`, told apart by the layer it stands in.
    #[must_use]
    pub fn written(manifest: &Manifest, sources: &Sources, span: Span) -> Self {
        let inside = |outer: Span| outer.file == span.file && outer.start <= span.start && span.end <= outer.end;
        if let Some((name, _)) = manifest.environments.iter().find(|(_, entry)| inside(entry.span)) {
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

/// One rendered field: its value at the moment it was set, and all origins, the last one in force.
#[derive(Clone, PartialEq, Debug)]
pub struct Field {
    pub value: Value,
    pub origins: Vec<Origin>,
}

/// By path: `services.api.docker.HostConfig.Memory`, `services.web.process.argv`, `services.api.health.ready`.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Origins {
    fields: BTreeMap<String, Field>,
}

impl Origins {
    pub fn set(&mut self, path: impl Into<String>, value: Value, origin: Origin) {
        let field = self.fields.entry(path.into()).or_insert_with(|| Field { value: Value::Null, origins: Vec::new() });
        field.value = value;
        field.origins.push(origin);
    }

    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Field> {
        self.fields.get(path)
    }

    /// The field itself or the nearest one above it that has an origin.
    #[must_use]
    pub fn nearest(&self, path: &str) -> Option<(&str, &Field)> {
        let mut path = path;
        loop {
            if let Some((path, field)) = self.fields.get_key_value(path) {
                return Some((path, field));
            }
            path = path.rsplit_once('.')?.0;
        }
    }

    /// Everything at or below `path`, sorted.
    pub fn below<'a>(&'a self, path: &'a str) -> impl Iterator<Item = (&'a str, &'a Field)> {
        self.fields
            .range(path.to_owned()..)
            .take_while(move |(field, _)| field.starts_with(path))
            .filter(move |(field, _)| field.len() == path.len() || field.as_bytes().get(path.len()) == Some(&b'.'))
            .map(|(field, value)| (field.as_str(), value))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &Field)> {
        self.fields.iter().map(|(path, field)| (path.as_str(), field))
    }
}
