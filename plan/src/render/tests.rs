//! A third runtime needs a definition and a renderer, and nothing else in planning.

use std::collections::BTreeMap;

use manifest::date::Date;
use manifest::{FileProblem, Files};

use super::docker;
use crate::application::{PreviewId, PreviewName};
use crate::compare::{CompareOptions, compare};
use crate::load::{LoadOptions, load};
use crate::observed::{Images, Observed};
use crate::resolve::{Git, ResolveInputs, required_ports, resolve};
use crate::runtime::{RuntimeDefinition, RuntimeKind};

struct OneFile(&'static str);

impl Files for OneFile {
    fn read(&self, _: &str) -> Result<Vec<u8>, FileProblem> {
        Ok(self.0.as_bytes().to_vec())
    }

    fn list(&self, _: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

#[test]
fn third_runtime_is_planned_without_a_change_elsewhere() {
    let third: &'static RuntimeDefinition = Box::leak(Box::new(RuntimeDefinition {
        name: "third",
        hash_name: "Third",
        ..docker::capabilities::RUNTIME.clone()
    }));
    let third = RuntimeKind::new(third);
    let text = "pdev: 1\napp: shop\nservices:\n  web: { image: a, port: 80, env: { API: \"${services.api.host}:${services.api.port}\" } }\n  \
                api: { image: b, port: 81 }\n  local: { runtime: process, process: { command: [x] }, port: 82 }\n";
    let loaded = load("pdev.yaml", &OneFile(text), &LoadOptions { environment: None, sets: Vec::new() });
    let requests = required_ports(&loaded, third);
    let ports =
        requests.iter().zip(40_000..).map(|(request, port)| ((request.unit.clone(), request.port.clone()), port));
    let name =
        PreviewName { id: PreviewId("x".into()), app: "shop".into(), branch: "b".into(), environment: "e".into() };
    let resolved = resolve(
        &loaded,
        &ResolveInputs {
            preview: name,
            default_runtime: third,
            ports: ports.collect(),
            proxy_port: 8642,
            environment: BTreeMap::new(),
            git: Git::default(),
            secrets_folder: "/s".into(),
            password_seed: "seed".into(),
            today: Date { year: 2026, month: 12, day: 1 },
        },
    );
    assert!(resolved.is_usable(), "{:?}", resolved.diagnostics);
    let web = &resolved.application.units["web"];
    assert_eq!(web.runtime, third);
    // By name on the network of the third runtime, as its definition says.
    assert_eq!(web.env["API"].value, "api:81");
    assert_eq!(resolved.application.units["local"].runtime, RuntimeKind::PROCESS);
    let options = CompareOptions::default();
    let plan = compare(&resolved.application, &Observed::default(), &Images::default(), &options);
    let runtimes: Vec<&str> =
        plan.steps.iter().filter_map(|step| step.action.runtime()).map(RuntimeKind::name).collect();
    assert!(runtimes.contains(&"third") && runtimes.contains(&"process"), "{runtimes:?}");
    assert!(!runtimes.contains(&"docker"), "{runtimes:?}");
}
