//! The contract of all drivers, kept with real processes.

use std::path::PathBuf;
use std::sync::Arc;

use drivers::contract::{self, Behaviour, Harness};
use drivers::driver::{Driver, Places};
use plan::application::{Argv, PreviewId, Unit};

use crate::bench::{Bench, fresh_driver, unit};

struct Processes(Bench);

impl Harness for Processes {
    fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(fresh_driver(self.0.folder.path().join("state/previews")))
    }

    fn places(&self, preview: &PreviewId) -> Places {
        self.0.places_of(preview)
    }

    fn unit(&self, name: &str, behaviour: &Behaviour) -> Unit {
        let mut unit = unit(name, Argv::Shell(behaviour.shell()));
        unit.secrets = vec!["token".to_owned()];
        unit
    }

    fn secrets(&self) -> PathBuf {
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
async fn processes_keep_the_contract() {
    contract::check(&Processes(Bench::new())).await;
}
