//! The contract of all drivers, kept with a real engine.

use std::path::PathBuf;
use std::sync::Arc;

use drivers::contract::{self, Behaviour, Harness};
use drivers::docker::{Docker, Surroundings};
use drivers::driver::{Driver, Places};
use plan::application::{PreviewId, Unit};

use crate::bench::{missing, shell};

struct Containers(tempfile::TempDir);

impl Harness for Containers {
    fn driver(&self) -> Arc<dyn Driver> {
        Arc::new(Docker::new(Surroundings::from_env()))
    }

    fn places(&self, preview: &PreviewId) -> Places {
        let folder = |name: &str| self.0.path().join(name).join(&preview.0);
        Places {
            project: self.0.path().to_owned(),
            data: folder("data"),
            runtime: folder("runtime"),
            state: folder("state"),
            cache: folder("cache"),
        }
    }

    fn unit(&self, name: &str, behaviour: &Behaviour) -> Unit {
        let mut unit = shell(name, &behaviour.shell());
        unit.secrets = vec!["token".to_owned()];
        unit
    }

    fn secrets(&self) -> PathBuf {
        let folder = self.0.path().join("secrets");
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("token"), "s3cret").expect("written");
        folder
    }

    fn secret_path(&self, _unit: &str) -> String {
        "/run/secrets/token".to_owned()
    }

    fn has_network(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn containers_keep_the_contract() {
    if missing().await {
        return;
    }
    contract::check(&Containers(tempfile::tempdir().expect("folder"))).await;
}
