//! Runtime objects from units. Each field is set with its value, its stable form for the hash, and its origin.

pub(crate) mod docker;
pub(crate) mod engine_fields;
mod json_patch;
pub(crate) mod patch;

use serde_json::Value as Json;

use crate::origin::Origin;

/// A value in both forms; see `resolve/references.rs`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RenderedValue {
    pub(crate) actual: Json,
    pub(crate) stable: Json,
}

impl RenderedValue {
    pub(crate) fn literal(value: impl Into<Json>) -> Self {
        let text = value.into();
        Self { stable: text.clone(), actual: text }
    }
}

/// What one writer says about one field, in the manifest's words (`size.memory`) and in the runtime's
/// (`HostConfig.Memory`).
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Setting {
    pub(crate) manifest_key: String,
    pub(crate) field: String,
    pub(crate) value: RenderedValue,
    pub(crate) origin: Origin,
}

impl Setting {
    /// Defaults are no intent: a newer pdev with other defaults must not replace what runs.
    pub(crate) fn is_intent(&self) -> bool {
        !matches!(self.origin, Origin::Default { .. })
    }
}
