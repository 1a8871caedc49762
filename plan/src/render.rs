//! Renders a [`ContainerSpec`] to the object of a runtime, and lists the fields that it sets. Only this module and its
//! parts know the fields of runtime objects.

mod docker;
mod json_patch;
pub(crate) mod patch;

use std::borrow::Cow;

use manifest::Diagnostic;
use serde_json::Value as Json;

use crate::application::Container;
use crate::container_facts::ContainerFacts;
use crate::container_spec::ContainerSpec;
use crate::origin::Origin;
use patch::ObjectPatch;

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

/// A container's object after `raw` and patches.
pub(crate) struct RenderedContainer {
    pub(crate) object: Json,
    /// (Short name of the volume, path in the container). A read-only path ends in `:ro`.
    pub(crate) volumes: Vec<(String, String)>,
    /// In the order in which they were applied. Without the defaults, which [`default_settings`] lists.
    pub(crate) settings: Vec<RenderedSetting>,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// A value for one field of an object.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct RenderedSetting {
    /// `docker.HostConfig.Memory`.
    pub(crate) field: Cow<'static, str>,
    /// `size.memory`. `None` if the manifest has no key for the field.
    pub(crate) manifest_key: Option<Cow<'static, str>>,
    pub(crate) value: Json,
    /// `None` if it equals `value`.
    pub(crate) stable: Option<Json>,
    pub(crate) origin: Origin,
}

impl RenderedSetting {
    /// True if the user set the field. Defaults are not part of the hash, so that a newer pdev with other defaults does
    /// not replace running units.
    pub(crate) fn is_intent(&self) -> bool {
        !matches!(self.origin, Origin::Default { .. })
    }

    /// The name of the setting in the hash.
    pub(crate) fn intent_key(&self) -> &str {
        self.manifest_key.as_deref().unwrap_or(&self.field)
    }

    pub(crate) fn stable(&self) -> &Json {
        self.stable.as_ref().unwrap_or(&self.value)
    }
}

impl RenderedContainer {
    /// The value of a setting's field in the final object.
    pub(crate) fn final_value(&self, setting: &RenderedSetting) -> Option<&Json> {
        docker::get_at(&self.object, &setting.field)
    }
}

/// Applies the settings of `spec`, then `changes`: `raw` and the patches in the order of the manifest.
pub(crate) fn render_container(spec: &ContainerSpec, changes: &[ObjectPatch]) -> RenderedContainer {
    docker::render(spec, changes)
}

/// The defaults of pdev in a specification. A setting may have overridden them.
pub(crate) fn default_settings(spec: &ContainerSpec) -> Vec<RenderedSetting> {
    docker::default_settings(spec)
}

/// The rights and limits of a rendered container, after `raw` and patches.
pub(crate) fn read_facts(container: &Container) -> ContainerFacts<'_> {
    docker::facts::read(container)
}
