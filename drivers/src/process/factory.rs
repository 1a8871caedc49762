//! Creates the driver of local processes. Its only target is this machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use plan::application::RuntimeKind;
use plan::target::Target;

use super::{Driver, ProcessDriver};
use crate::DriverSettings;
use crate::factory::{DriverFactory, TargetSource};
use crate::problem::Problem;

pub struct ProcessFactory(DriverSettings);

impl ProcessFactory {
    #[must_use]
    pub fn new(settings: DriverSettings) -> Self {
        Self(settings)
    }
}

impl DriverFactory for ProcessFactory {
    fn runtime(&self) -> RuntimeKind {
        RuntimeKind::PROCESS
    }

    fn select_target(&self, _: &BTreeMap<String, String>, source: TargetSource<'_>) -> Result<Option<Target>, Problem> {
        Ok((source == TargetSource::Default).then(|| Target::machine(RuntimeKind::PROCESS)))
    }

    fn create_driver(&self, _: &Target) -> Result<Arc<dyn Driver>, Problem> {
        let DriverSettings { keeper_program, previews_folder, descriptor_limit, .. } = self.0.clone();
        Ok(Arc::new(ProcessDriver::new(keeper_program, previews_folder).with_descriptor_limit(descriptor_limit)))
    }
}
