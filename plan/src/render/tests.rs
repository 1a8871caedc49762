//! A third runtime needs a definition and a renderer, and nothing else in planning.

use std::collections::BTreeMap;

use manifest::date::Date;
use manifest::{FileProblem, Files};

use super::docker;
use crate::application::{Application, PreviewId, PreviewName, Unit};
use crate::compare::{CompareOptions, TeardownOptions, compare, teardown};
use crate::load::{LoadOptions, load};
use crate::observed::{Images, Observed, ObservedUnit, ReportedHealth, RunState};
use crate::resolve::{Git, ResolveInputs, required_ports, resolve};
use crate::runtime::{ObjectChanges, RuntimeCapabilities, RuntimeDefinition, RuntimeKind};
use crate::step::{Plan, Step};

struct OneFile(&'static str);

impl Files for OneFile {
    fn read(&self, _: &str) -> Result<Vec<u8>, FileProblem> {
        Ok(self.0.as_bytes().to_vec())
    }

    fn list(&self, _: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

fn third_runtime(change: impl FnOnce(&mut RuntimeCapabilities)) -> RuntimeKind {
    let docker = docker::capabilities::RUNTIME.clone();
    let mut third = RuntimeDefinition { name: "third", hash_name: "Third", ..docker };
    change(&mut third.capabilities);
    RuntimeKind::new(Box::leak(Box::new(third)))
}

fn resolve_text(text: &'static str, runtime: RuntimeKind) -> Application {
    let loaded = load("pdev.yaml", &OneFile(text), &LoadOptions { environment: None, sets: Vec::new() });
    let requests = required_ports(&loaded, runtime);
    let ports =
        requests.iter().zip(40_000..).map(|(request, port)| ((request.unit.clone(), request.port.clone()), port));
    let name =
        PreviewName { id: PreviewId("x".into()), app: "shop".into(), branch: "b".into(), environment: "e".into() };
    let inputs = ResolveInputs {
        preview: name,
        default_runtime: runtime,
        ports: ports.collect(),
        proxy_port: 8642,
        environment: BTreeMap::new(),
        git: Git::default(),
        secrets_folder: "/s".into(),
        password_seed: "seed".into(),
        today: Date { year: 2026, month: 12, day: 1 },
    };
    let resolved = resolve(&loaded, &inputs);
    assert!(resolved.is_usable(), "{:?}", resolved.diagnostics);
    resolved.application
}

#[test]
fn third_runtime_is_planned_without_a_change_elsewhere() {
    let third = third_runtime(|_| {});
    let text = "pdev: 1\napp: shop\nservices:\n  web: { image: a, port: 80, env: { API: \"${services.api.host}:${services.api.port}\" } }\n  \
                api: { image: b, port: 81 }\n  local: { runtime: process, process: { command: [x] }, port: 82 }\n";
    let application = resolve_text(text, third);
    let web = &application.units["web"];
    assert_eq!(web.runtime, third);
    // By name on the network of the third runtime, as its definition says.
    assert_eq!(web.env["API"].value, "api:81");
    assert_eq!(application.units["local"].runtime, RuntimeKind::PROCESS);
    let options = CompareOptions::default();
    let plan = compare(&application, &Observed::default(), &Images::default(), &options);
    let runtimes: Vec<&str> =
        plan.steps.iter().filter_map(|step| step.action.runtime()).map(RuntimeKind::name).collect();
    assert!(runtimes.contains(&"third") && runtimes.contains(&"process"), "{runtimes:?}");
    assert!(!runtimes.contains(&"docker"), "{runtimes:?}");
}

const TWO_SERVICES: &str = "pdev: 1\napp: shop\nservices:\n  web: { build: ., port: 80, needs: [db] }\n  db: { image: b, port: 81 }\n\
     jobs: { seed: { image: c, command: [x], needs: { db: healthy } } }\n";

fn step_texts(plan: &Plan) -> Vec<String> {
    let after = |step: &Step| {
        let texts: Vec<String> = step.after.iter().map(|id| plan.steps[*id].action.to_string()).collect();
        if texts.is_empty() { String::new() } else { format!(" after {}", texts.join(" and ")) }
    };
    plan.steps.iter().map(|step| format!("{}{}", step.action, after(step))).collect()
}

fn observe_applied(application: &Application) -> Observed {
    let unit = |unit: &Unit| ObservedUnit {
        name: unit.name.clone(),
        runtime: unit.runtime,
        handle: format!("{}-1", unit.name),
        hash: unit.hash.clone(),
        image: None,
        state: RunState::Running,
        address: None,
        host_ports: BTreeMap::new(),
        started_at: None,
        connected: true,
        health: Some(ReportedHealth::default()),
    };
    let units = application.units.values().map(|desired| (desired.name.clone(), unit(desired))).collect();
    Observed { units, ..Observed::default() }
}

#[test]
fn runtime_that_applies_changes_gets_no_removals() {
    let third = third_runtime(|capabilities| {
        capabilities.object_changes = ObjectChanges::Apply;
        capabilities.pushes_images = true;
        capabilities.has_preview_network = false;
    });
    let application = resolve_text(TWO_SERVICES, third);
    let images = Images { stale: BTreeMap::from([("web".into(), "not built yet".into())]), ..Images::default() };
    let options = CompareOptions::default();
    let steps = step_texts(&compare(&application, &Observed::default(), &images, &options));
    assert_eq!(
        steps,
        [
            "prepare image of web",
            "push image of web after prepare image of web",
            "apply db",
            "await health of db after apply db",
            "apply seed after await health of db",
            "await end of seed after apply seed",
            "apply web after push image of web and await health of db",
            "await health of web after apply web",
        ]
    );

    let mut observed = observe_applied(&application);
    for name in ["web", "seed"] {
        observed.units.get_mut(name).unwrap().hash = "earlier".to_owned();
    }
    observed.units.insert("old".to_owned(), ObservedUnit { name: "old".to_owned(), ..observed.units["db"].clone() });
    let steps = step_texts(&compare(&application, &observed, &Images::default(), &options));
    // A service is changed in place. A job runs once, so it gets a new object.
    for expected in ["apply web after await health of db", "delete seed", "delete old"] {
        assert!(steps.iter().any(|step| step == expected), "{expected}: {steps:?}");
    }
    assert!(!steps.iter().any(|step| step.starts_with("delete web") || step.starts_with("stop ")), "{steps:?}");

    let steps = step_texts(&teardown(&observed, &TeardownOptions::default()));
    assert_eq!(steps, ["delete db", "delete old", "delete seed", "delete web"]);
}
