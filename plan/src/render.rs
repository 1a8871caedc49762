//! The runtimes and their renderers. A renderer translates a [`ContainerSpec`] to the object of its runtime, and lists
//! the fields that it sets. Only this module and its parts know the fields of runtime objects.

mod docker;
mod json_patch;
pub(crate) mod patch;
mod process;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt::Debug;

use manifest::Diagnostic;
use serde_json::Value as Json;

use crate::application::{Container, Unit, VolumeMount};
use crate::container_facts::ContainerFacts;
use crate::container_spec::ContainerSpec;
use crate::origin::Origin;
use crate::runtime::RuntimeKind;
use patch::ObjectPatch;

/// Every runtime that has a driver. Kubernetes has none yet.
impl RuntimeKind {
    pub const DOCKER: Self = Self::new(&docker::capabilities::RUNTIME);
    pub const PROCESS: Self = Self::new(&process::capabilities::RUNTIME);

    /// The preferred runtime first.
    pub const ALL: &'static [Self] = &[Self::DOCKER, Self::PROCESS];
}

/// The kind of unit that a runtime runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum UnitForm {
    /// A container, as an object of the runtime.
    Container(&'static dyn ContainerRenderer),
    /// A program, as the manifest describes it.
    Process,
}

/// Translates containers to and from the objects of one runtime.
pub(crate) trait ContainerRenderer: Debug + Sync {
    /// Applies the settings of `spec`, then `changes`: `raw` and the patches in the order of the manifest.
    fn render(&self, spec: &ContainerSpec, changes: &[ObjectPatch]) -> RenderedContainer;

    /// The defaults of pdev in a specification. A setting may have overridden them.
    fn default_settings(&self, spec: &ContainerSpec) -> Vec<RenderedSetting>;

    /// The rights and limits of a rendered container, after `raw` and patches.
    fn read_facts<'a>(&self, container: &'a Container) -> ContainerFacts<'a>;

    /// The value of a field, as in [`RenderedSetting::field`], in a rendered object.
    fn value_at<'a>(&self, object: &'a Json, field: &str) -> Option<&'a Json>;

    /// The kinds of objects that a patch may name.
    fn object_kinds(&self) -> &'static [&'static str];
}

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
    pub(crate) volumes: Vec<VolumeMount>,
    /// In the order in which they were applied. Without the defaults, which
    /// [`ContainerRenderer::default_settings`] lists.
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

/// The rights and limits of a unit's container. `None` if the unit is a process.
pub(crate) fn read_facts(unit: &Unit) -> Option<ContainerFacts<'_>> {
    match (unit.runtime.form(), unit.body.as_container()) {
        (UnitForm::Container(renderer), Some(container)) => Some(renderer.read_facts(container)),
        _ => None,
    }
}
