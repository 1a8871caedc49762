//! Compares plans as text, one intent per test. Each test also checks that the executed plan leaves nothing to do.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod plan_fixture;

use std::collections::BTreeMap;

use plan::application::{Condition, JobTiming, Role, RuntimeKind};
use plan::observed::{Exit, Images, Observed, RunState};
use plan::{CompareOptions, TeardownOptions, compare, include_job_inputs, lifecycle, teardown, text};
use plan_fixture::{PlanFixture, app, container, docker_object, execute_plan, exited, process};

#[track_caller]
fn assert_plan(fixture: &PlanFixture, expected: &str) {
    let plan = compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options);
    let trim = |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    assert_eq!(trim(&text::graph(&plan)), trim(expected));
    let after = execute_plan(&fixture.desired, &fixture.observed, &fixture.images, &plan);
    let no_stale_images = Images { current: fixture.images.current.clone(), stale: BTreeMap::new() };
    let second_plan = compare(&fixture.desired, &after, &no_stale_images, &CompareOptions::default());
    assert!(second_plan.has_no_changes(), "the executed plan left something to do:\n{}", text::graph(&second_plan));
}

fn api_with_database() -> PlanFixture {
    let mut fixture =
        PlanFixture::new(app([container("db").role(Role::Resource), container("api").needs("db", Condition::Healthy)]));
    fixture.desired.units.get_mut("db").unwrap().ports.clear();
    fixture
}

#[test]
fn first_up_creates_everything_and_waits_only_for_needs() {
    let mut fixture = api_with_database();
    fixture.images.stale.insert("api".into(), "not built yet".into());
    fixture.add_volume("db", "data");
    assert_plan(
        &fixture,
        "0 create network: does not exist yet
         1 create volume data: does not exist yet
         2 prepare image of api: not built yet
         3 create db: does not exist yet <- 0 1
         4 start db: follows <- 3
         5 await health of db: follows <- 4
         6 create api: does not exist yet <- 0 2
         7 start api: follows <- 5 6
         8 await health of api: follows <- 7",
    );
}

#[test]
fn unchanged_preview_only_awaits_health() {
    let fixture = api_with_database().with_all_running();
    assert_plan(&fixture, "0 await health of db: follows\n 1 await health of api: follows");
    assert!(compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options).has_no_changes());
}

#[test]
fn only_changed_unit_is_replaced() {
    let mut fixture = api_with_database().with_all_running();
    fixture.desired.units.get_mut("api").unwrap().hash = "new env.LOG=bbbb".into();
    fixture.observed.units.get_mut("api").unwrap().hash = "old env.LOG=aaaa".into();
    assert_plan(
        &fixture,
        "0 stop api: changed: env.LOG
         1 remove api: follows <- 0
         2 await health of db: follows
         3 create api: changed: env.LOG <- 1
         4 start api: follows <- 2 3
         5 await health of api: follows <- 4",
    );
}

#[test]
fn old_unit_runs_until_new_image_is_ready() {
    let mut fixture = PlanFixture::new(app([container("api")])).with_all_running();
    fixture.images.stale.insert("api".into(), "context changed: src/main.py".into());
    assert_plan(
        &fixture,
        "0 prepare image of api: context changed: src/main.py
         1 stop api: context changed: src/main.py <- 0
         2 remove api: follows <- 1
         3 create api: context changed: src/main.py <- 2
         4 start api: follows <- 3
         5 await health of api: follows <- 4",
    );
}

#[test]
fn moved_tag_replaces_unit() {
    let mut fixture = PlanFixture::new(app([container("api")])).with_all_running();
    fixture.images.current.insert("api".into(), "sha256:new".into());
    assert_plan(
        &fixture,
        "0 stop api: its image changed\n 1 remove api: follows <- 0\n 2 create api: its image changed <- 1
         3 start api: follows <- 2\n 4 await health of api: follows <- 3",
    );
}

#[test]
fn stopped_units_are_started_again() {
    let mut fixture =
        PlanFixture::new(app([container("a"), container("b"), container("c"), container("d")])).with_all_running();
    fixture.set_state("a", exited(1));
    fixture.set_state("b", RunState::Paused);
    fixture.set_state("c", RunState::Created);
    fixture.set_state("d", RunState::Exited(Exit { signal: Some(9), out_of_memory: true, ..Exit::default() }));
    assert_plan(
        &fixture,
        "0 start a: exited with code 1\n 1 await health of a: follows <- 0
         2 start b: paused\n 3 await health of b: follows <- 2
         4 start c: created but never started\n 5 await health of c: follows <- 4
         6 start d: ended by signal 9 (out of memory)\n 7 await health of d: follows <- 6",
    );
}

#[test]
fn lost_network_reconnects_running_and_replaces_stopped_unit() {
    let mut fixture = PlanFixture::new(app([container("running"), container("stopped")])).with_all_running();
    fixture.observed.networks.clear();
    for unit in fixture.observed.units.values_mut() {
        unit.connected = false;
    }
    fixture.set_state("stopped", exited(0));
    assert_plan(
        &fixture,
        "0 create network: does not exist yet
         1 remove stopped: it lost the network of the preview
         2 connect running: it lost the network of the preview <- 0
         3 await health of running: follows <- 2
         4 create stopped: it lost the network of the preview <- 0 1
         5 start stopped: follows <- 4
         6 await health of stopped: follows <- 5",
    );
}

#[test]
fn removed_units_and_strays_go_but_volumes_stay() {
    let mut fixture = PlanFixture::new(app([container("api"), container("old")])).with_all_running();
    fixture.desired.units.remove("old");
    fixture.observed.volumes.insert(docker_object("old-data"));
    let mut stray = fixture.observed.units["api"].clone();
    stray.handle = "second".into();
    stray.host_ports.clear();
    fixture.observed.strays.push(stray);
    assert_plan(
        &fixture,
        "0 remove api: left over from an interrupted replacement
         1 stop old: no longer in the manifest
         2 remove old: follows <- 1
         3 await health of api: follows",
    );
}

#[test]
fn host_port_is_reused_only_after_release() {
    let mut fixture = PlanFixture::new(app([container("old")])).with_all_running();
    let mut new_unit = container("new").0;
    new_unit.ports = fixture.desired.units["old"].ports.clone();
    fixture.desired.units = BTreeMap::from([("new".to_owned(), new_unit)]);
    assert_plan(
        &fixture,
        "0 stop old: no longer in the manifest\n 1 remove old: follows <- 0\n 2 create new: does not exist yet
         3 start new: follows <- 1 2\n 4 await health of new: follows <- 3",
    );
}

#[test]
fn changed_runtime_replaces_unit() {
    let mut fixture = PlanFixture::new(app([container("web")])).with_all_running();
    fixture.desired = app([process("web")]);
    assert_plan(
        &fixture,
        "0 stop web: its runtime changed
         1 remove web: follows <- 0
         2 create web: its runtime changed <- 1
         3 start web: follows <- 2
         4 await health of web: follows <- 3
         5 remove network net: no longer in the manifest <- 1",
    );
}

#[test]
fn moved_address_replaces_dependent_process() {
    let mut fixture =
        PlanFixture::new(app([container("db"), process("api").needs("db", Condition::Healthy)])).with_all_running();
    fixture.desired.units.get_mut("db").unwrap().ports.get_mut("main").unwrap().host_port = 45_000;
    assert_plan(
        &fixture,
        "0 stop api: `db`, which it needs, moves to another port
         1 remove api: follows <- 0
         2 stop db: changed: ports.main.host
         3 remove db: follows <- 2
         4 create db: changed: ports.main.host <- 3
         5 start db: follows <- 4
         6 await health of db: follows <- 5
         7 create api: `db`, which it needs, moves to another port <- 1
         8 start api: follows <- 6 7
         9 await health of api: follows <- 8",
    );
}

fn api_with_jobs() -> PlanFixture {
    PlanFixture::new(app([
        container("api").needs("migrate", Condition::Completed),
        process("migrate").role(Role::Job),
        process("report").role(Role::Job).when(JobTiming::After),
        process("wipe").role(Role::Job).when(JobTiming::Manual),
    ]))
}

#[test]
fn jobs_run_before_after_or_only_on_request() {
    assert_plan(
        &api_with_jobs(),
        "0 create network: does not exist yet
         1 create migrate: it has not run yet
         2 start migrate: follows <- 1
         3 await end of migrate: follows <- 2
         4 create api: does not exist yet <- 0
         5 start api: follows <- 3 4
         6 await health of api: follows <- 5
         7 create report: it has not run yet
         8 start report: follows <- 6 7
         9 await end of report: follows <- 8",
    );
}

#[test]
fn succeeded_jobs_stay_and_failed_jobs_rerun() {
    let mut fixture = api_with_jobs().with_all_running();
    fixture.set_state("migrate", exited(0));
    fixture.set_state("report", exited(3));
    assert_plan(
        &fixture,
        "0 await health of api: follows
         1 start report: its last run exited with code 3 <- 0
         2 await end of report: follows <- 1",
    );
}

#[test]
fn changed_inputs_rerun_job() {
    let mut fixture = api_with_jobs();
    let inputs = |hash: &str| BTreeMap::from([("migrate".to_owned(), hash.to_owned())]);
    let definition = fixture.desired.clone();
    include_job_inputs(&mut fixture.desired, &inputs("first"));
    let mut fixture = fixture.with_all_running();
    fixture.set_state("migrate", exited(0));
    fixture.set_state("report", exited(0));
    assert_plan(&fixture, "0 await health of api: follows");
    fixture.desired = definition;
    include_job_inputs(&mut fixture.desired, &inputs("second"));
    assert_plan(
        &fixture,
        "0 remove migrate: its inputs changed
         1 create migrate: its inputs changed <- 0
         2 start migrate: follows <- 1
         3 await end of migrate: follows <- 2
         4 await health of api: follows",
    );
}

#[test]
fn running_job_is_awaited() {
    let fixture = api_with_jobs().with_all_running();
    let plan = compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options);
    assert_eq!(
        text::lines(&plan),
        ["await end of migrate: follows", "await health of api: follows", "await end of report: follows"]
    );
}

#[test]
fn units_with_same_source_are_prepared_in_sequence() {
    let mut fixture = PlanFixture::new(app([process("api"), process("worker")]));
    for name in ["api", "worker"] {
        fixture.images.stale.insert(name.into(), "never built".into());
    }
    let plan = compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options);
    assert_eq!(text::lines(&plan)[..2], ["build api: never built", "build worker: never built"]);
    assert_eq!(plan.steps[1].after, [0]);
}

#[test]
fn force_replaces_healthy_unit() {
    let mut fixture = PlanFixture::new(app([process("api")])).with_all_running();
    fixture.options.force = true;
    assert_plan(
        &fixture,
        "0 stop api: forced\n 1 remove api: follows <- 0\n 2 create api: forced <- 1
         3 start api: follows <- 2\n 4 await health of api: follows <- 3",
    );
}

#[test]
fn needs_cycle_does_not_deadlock_plan() {
    let fixture = PlanFixture::new(app([
        process("a").needs("b", Condition::Healthy),
        process("b").needs("a", Condition::Healthy),
    ]));
    let plan = compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options);
    assert!(plan.steps.iter().all(|step| step.after.iter().all(|&before| before < step.id)));
    assert_eq!(plan.steps.len(), 6);
}

#[test]
fn teardown_removes_everything_but_volumes() {
    let mut fixture = api_with_database().with_all_running();
    fixture.observed.volumes.insert(docker_object("data"));
    fixture.set_state("db", exited(0));
    let graph = |volumes| text::graph(&teardown(&fixture.observed, &TeardownOptions { remove_volumes: volumes }));
    assert_eq!(
        graph(false),
        " 0 stop api: requested\n 1 remove api: follows <- 0\n 2 remove db: requested\n 3 remove network net: requested <- 1 2\n"
    );
    assert!(graph(true).ends_with(" 4 remove volume data: requested (destroys volume data) <- 1 2\n"));
    assert!(teardown(&Observed::default(), &TeardownOptions { remove_volumes: true }).steps.is_empty());
}

#[test]
fn compare_is_deterministic() {
    let mut fixture = api_with_jobs();
    fixture.images.stale.insert("api".into(), "not built yet".into());
    let first = text::graph(&compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options));
    for _ in 0..100 {
        assert_eq!(
            text::graph(&compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options)),
            first
        );
    }
}

#[test]
fn one_plan_converges_from_any_state() {
    let states = [RunState::Created, RunState::Running, RunState::Paused, exited(0), exited(1)];
    let base = || {
        app([
            container("db").role(Role::Resource),
            container("api").needs("db", Condition::Healthy),
            process("web").needs("api", Condition::Started),
            process("job").role(Role::Job),
        ])
    };
    for round in 0..states.len() * 8 * 3 {
        let mut fixture = PlanFixture::new(base()).with_all_running();
        for (index, unit) in fixture.observed.units.values_mut().enumerate() {
            unit.state = states[(round + index * 2) % states.len()].clone();
            unit.connected = unit.runtime == RuntimeKind::PROCESS || (round / 5 + index) % 3 != 0;
            if (round / 7 + index) % 4 == 0 {
                unit.hash = "other".into();
            }
        }
        if round % 4 == 1 {
            fixture.observed.units.remove("db");
        }
        if round % 6 == 2 {
            let mut stray = fixture.observed.units["api"].clone();
            stray.handle = "stray".into();
            fixture.observed.strays.push(stray);
        }
        let plan = compare(&fixture.desired, &fixture.observed, &fixture.images, &fixture.options);
        let after = execute_plan(&fixture.desired, &fixture.observed, &fixture.images, &plan);
        let second_plan = compare(&fixture.desired, &after, &fixture.images, &fixture.options);
        assert!(
            second_plan.has_no_changes(),
            "round {round}:\n{}\nthen\n{}",
            text::graph(&plan),
            text::graph(&second_plan)
        );
    }
}

#[track_caller]
fn assert_steps(plan: &plan::step::Plan, expected: &str) {
    let trim = |text: &str| text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n");
    assert_eq!(trim(&text::graph(plan).replace(": forced", "")), trim(expected));
}

fn shop() -> plan::Application {
    app([
        container("db").role(Role::Resource),
        container("migrate").role(Role::Job).needs("db", Condition::Healthy),
        process("api").needs("db", Condition::Healthy),
        container("web").needs("api", Condition::Healthy),
        container("mail"),
    ])
}

#[test]
fn restart_follows_dependency_order() {
    assert_steps(
        &lifecycle::restart(&shop(), |_| true),
        "0 stop web
         1 stop api <- 0
         2 stop mail
         3 stop db <- 1
         4 start db <- 3
         5 await health of db <- 4
         6 start mail <- 2
         7 await health of mail <- 6
         8 start api <- 1 5
         9 await health of api <- 8
         10 start web <- 0 9
         11 await health of web <- 10",
    );
}

#[test]
fn restart_and_stop_affect_only_selected_units() {
    assert_steps(
        &lifecycle::restart(&shop(), |unit| unit.name == "api"),
        "0 stop api\n1 start api <- 0\n2 await health of api <- 1",
    );
    assert_steps(
        &lifecycle::stop(&shop(), |unit| ["db", "api"].contains(&unit.name.as_str())),
        "0 stop api\n1 stop db <- 0",
    );
    assert_steps(&lifecycle::stop(&shop(), |unit| unit.name == "migrate"), "");
}
