//! Resources: what their module renders.

use manifest::model::Resource;

use super::references::{Value, World};
use super::units::{Builder, Built};
use crate::application::RuntimeKind;
use crate::load::Module;

pub(super) fn build(_builder: Builder<'_, '_>, _resource: &Resource, module: &Module) -> Built {
    match *module {}
}

/// The names there are, when this one is not.
pub(super) fn output(
    _world: &World<'_>,
    _consumer: RuntimeKind,
    _resource: &str,
    _output: &str,
) -> Result<Value, Vec<String>> {
    Err(Vec::new())
}
