//! The contract of all drivers, kept with a real engine and the image `debian:stable-slim`; skipped, and said so,
//! where either is absent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drivers::contract::{self, Behaviour, Harness};
use drivers::docker::{Docker, Surroundings};
use drivers::driver::{Driver, Places};
use plan::application::{
    Body, Container, Health, ImageSource, PreviewId, PullPolicy, ReadyCheck, Restart, Role, Stop, Support, Unit, When,
};
use serde_json::json;

const IMAGE: &str = "debian:stable-slim";

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
        let create = json!({ "Entrypoint": ["/bin/sh", "-c"], "Cmd": [behaviour.shell()] });
        Unit {
            name: name.to_owned(),
            role: Role::Service,
            body: Body::Container(Container {
                image: ImageSource::Reference(IMAGE.to_owned()),
                create,
                aliases: vec![name.to_owned()],
                process_peers: Vec::new(),
                volumes: Vec::new(),
                pull: PullPolicy::Never,
            }),
            ports: BTreeMap::new(),
            routes: Vec::new(),
            wildcard: false,
            env: BTreeMap::new(),
            secrets: vec!["token".to_owned()],
            health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::from_secs(10) },
            needs: BTreeMap::new(),
            stop: Stop { signal: "SIGTERM".to_owned(), grace: Duration::from_secs(1) },
            restart: Restart::Never,
            when: When::default(),
            timeout: None,
            module: None,
            hash: "first".to_owned(),
            support: Support::Paved,
        }
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

/// Says on standard error what is missing, because a skipped test must not look like a kept promise.
async fn missing() -> Option<&'static str> {
    if Docker::new(Surroundings::from_env()).ping().await.is_err() {
        return Some("no Docker engine");
    }
    let engine = bollard::Docker::connect_with_defaults().ok()?;
    engine.inspect_image(IMAGE).await.is_err().then_some("no image debian:stable-slim")
}

#[tokio::test]
async fn containers_keep_the_contract() {
    if let Some(what) = missing().await {
        use std::io::Write;
        writeln!(std::io::stderr(), "skipped: {what}").expect("standard error is open");
        return;
    }
    contract::check(&Containers(tempfile::tempdir().expect("folder"))).await;
}
