//! Runs the driver contract with real processes.

use std::path::PathBuf;
use std::sync::Arc;

use drivers::contract::{self, Behaviour, Harness};
use drivers::driver::Driver;
use drivers::scope::Locations;
use plan::application::{Argv, PreviewId, Unit};

use crate::test_preview::{TestPreview, new_driver, process_unit};

struct ProcessHarness(TestPreview);

impl Harness for ProcessHarness {
    fn new_driver(&self) -> Arc<dyn Driver> {
        Arc::new(new_driver(self.0.folder.path().join("state/previews")))
    }

    fn locations(&self, preview: &PreviewId) -> Locations {
        self.0.locations_of(preview)
    }

    fn build_unit(&self, name: &str, behaviour: &Behaviour) -> Unit {
        let mut unit = process_unit(name, Argv::Shell(behaviour.to_shell_script()));
        unit.secrets = vec!["token".to_owned()];
        unit
    }

    fn secrets_folder(&self) -> PathBuf {
        let folder = self.0.folder.path().join("secrets");
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("token"), "s3cret").expect("written");
        folder
    }

    fn secret_path(&self, _unit: &str) -> String {
        "$PDEV_SECRETS/token".to_owned()
    }
}

#[tokio::test]
async fn process_driver_satisfies_contract() {
    contract::check(&ProcessHarness(TestPreview::new())).await;
}
