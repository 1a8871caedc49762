//! The drivers of the runtimes that are available on this machine.

use std::sync::Arc;

use drivers::driver::{Driver, Problem, ProblemKind};
use plan::application::RuntimeKind;

#[derive(Clone, Default)]
pub struct RuntimeDrivers {
    docker: Option<Arc<dyn Driver>>,
    process: Option<Arc<dyn Driver>>,
}

impl RuntimeDrivers {
    #[must_use]
    pub fn new(docker: Option<Arc<dyn Driver>>, process: Option<Arc<dyn Driver>>) -> Self {
        Self { docker, process }
    }

    /// # Errors
    /// When this build has no such runtime.
    pub fn driver(&self, runtime: RuntimeKind) -> Result<Arc<dyn Driver>, Problem> {
        let driver = match runtime {
            RuntimeKind::Docker => &self.docker,
            RuntimeKind::Process => &self.process,
        };
        driver.clone().ok_or_else(|| {
            Problem::new(
                ProblemKind::Unavailable,
                format!("the runtime `{}` is not available here", runtime_name(runtime)),
            )
        })
    }

    #[must_use]
    pub fn all(&self) -> Vec<Arc<dyn Driver>> {
        [&self.docker, &self.process].into_iter().flatten().cloned().collect()
    }
}

#[must_use]
pub fn runtime_name(runtime: RuntimeKind) -> &'static str {
    match runtime {
        RuntimeKind::Docker => "docker",
        RuntimeKind::Process => "process",
    }
}
