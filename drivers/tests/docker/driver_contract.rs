//! Runs the driver contract with a real engine.

use std::path::PathBuf;
use std::sync::Arc;

use drivers::contract::{self, Behaviour, Harness};
use drivers::docker::{DockerDriver, DockerEnv, choose_endpoint};
use drivers::driver::Driver;
use drivers::scope::Locations;
use plan::application::{PreviewId, Unit};

use crate::test_preview::{shell_unit, should_skip};

struct DockerHarness(tempfile::TempDir);

impl Harness for DockerHarness {
    fn new_driver(&self) -> Arc<dyn Driver> {
        let endpoint = choose_endpoint(&DockerEnv::from_env()).expect("the docker command's settings are valid");
        Arc::new(DockerDriver::new(endpoint, "test"))
    }

    fn locations(&self, preview: &PreviewId) -> Locations {
        let folder = |name: &str| self.0.path().join(name).join(&preview.0);
        Locations {
            project: self.0.path().to_owned(),
            data: folder("data"),
            runtime: folder("runtime"),
            state: folder("state"),
            cache: folder("cache"),
        }
    }

    fn build_unit(&self, name: &str, behaviour: &Behaviour) -> Unit {
        let mut unit = shell_unit(name, &behaviour.to_shell_script());
        unit.secrets = vec!["token".to_owned()];
        unit
    }

    fn secrets_folder(&self) -> PathBuf {
        let folder = self.0.path().join("secrets");
        std::fs::create_dir_all(&folder).expect("folder");
        std::fs::write(folder.join("token"), "s3cret").expect("written");
        folder
    }

    fn secret_path(&self, _unit: &str) -> String {
        "/run/secrets/token".to_owned()
    }

    fn needs_network(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn docker_driver_satisfies_contract() {
    if should_skip().await {
        return;
    }
    contract::check(&DockerHarness(tempfile::tempdir().expect("folder"))).await;
}
