//! Renders units to runtime objects. Each field is set with its value, its stable form for the hash, and its origin.

pub(crate) mod docker;
pub(crate) mod engine_fields;
mod json_patch;
pub(crate) mod patch;

use serde_json::Value as Json;

use crate::origin::Origin;

/// A value in its actual and its stable form; see `resolve/references.rs`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RenderedValue {
    pub(crate) actual: Json,
    pub(crate) stable: Json,
}

impl RenderedValue {
    pub(crate) fn literal(value: impl Into<Json>) -> Self {
        let actual = value.into();
        Self { stable: actual.clone(), actual }
    }
}

/// A value for one field, with the field's name in the manifest (`size.memory`) and in the runtime
/// (`HostConfig.Memory`).
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Setting {
    pub(crate) manifest_key: String,
    pub(crate) field: String,
    pub(crate) value: RenderedValue,
    pub(crate) origin: Origin,
}

impl Setting {
    /// True if the user set the field. Defaults are not part of the hash, so that a newer pdev with other defaults does
    /// not replace running units.
    pub(crate) fn is_intent(&self) -> bool {
        !matches!(self.origin, Origin::Default { .. })
    }
}
