//! What every driver promises, as cases that run against each of them: fake, process, docker.
//!
//! A driver's test implements [`Harness`] and calls [`check`]. The cases speak to the runtime through the trait alone;
//! what differs between runtimes (how a unit is written, where a secret appears) is asked of the harness.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use plan::Application;
use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit};
use plan::observed::{Exit, Observed, RunState};
use plan::step::Action;

use crate::driver::{
    Driver, ExecOutput, ExecRequest, Locations, LogLine, LogRequest, Problem, ProblemKind, Progress, ProgressLine,
    RuntimeEvent, Scope, SecretFiles, StepOutcome,
};

/// Every wait of a case ends by then.
const TIMEOUT: Duration = Duration::from_secs(30);

pub trait Harness: Sync {
    /// A value that shares nothing with those before it but the runtime itself: a restarted agent.
    fn new_driver(&self) -> Arc<dyn Driver>;

    fn locations(&self, preview: &PreviewId) -> Locations;

    /// A unit of this runtime that behaves so, with one secret named `token`, hash `first`, and a short grace.
    fn build_unit(&self, name: &str, behaviour: &Behaviour) -> Unit;

    /// A folder of secret files on this machine: it holds `token` with the text `s3cret`.
    fn secrets_folder(&self) -> PathBuf;

    /// Where the unit's program finds its secret `token`.
    fn secret_path(&self, unit: &str) -> String;

    /// Units need the preview's network first.
    fn needs_network(&self) -> bool {
        false
    }
}

/// What the program of a unit does. Harnesses render it as a shell line, a container's command or a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behaviour {
    /// On standard output, first.
    pub stdout_lines: Vec<String>,
    /// Ends with this code, or stays until it is stopped.
    pub exit_code: Option<i32>,
}

impl Behaviour {
    #[must_use]
    pub fn runs_until_stopped() -> Self {
        Self { stdout_lines: vec!["up".to_owned()], exit_code: None }
    }

    #[must_use]
    pub fn exits_with(code: i32) -> Self {
        Self { stdout_lines: Vec::new(), exit_code: Some(code) }
    }

    /// The same for `/bin/sh -c`.
    #[must_use]
    pub fn to_shell_script(&self) -> String {
        let mut line: String = self.stdout_lines.iter().map(|text| format!("echo '{text}'; ")).collect();
        line.push_str(&match self.exit_code {
            Some(code) => format!("exit {code}"),
            None => "trap 'exit 0' TERM; while :; do sleep 60 & wait $!; done".to_owned(),
        });
        line
    }
}

/// Runs every case, one after the other, each in previews of its own that are gone afterwards.
///
/// # Panics
/// When the driver breaks a promise; the message names the case.
pub async fn check(harness: &dyn Harness) {
    lifecycle_steps_are_idempotent(harness).await;
    exit_codes_survive_client_restart(harness).await;
    logs_are_ordered_and_support_tail_since_follow(harness).await;
    exec_runs_beside_running_unit(harness).await;
    events_report_starts_and_exits(harness).await;
    restarted_client_adopts_running_units(harness).await;
    previews_are_isolated(harness).await;
    secrets_are_delivered(harness).await;
    removing_old_handle_keeps_replacement(harness).await;
    absent_unit_fails_start_and_is_ignored_by_stop(harness).await;
    previews_are_discovered(harness).await;
}

async fn lifecycle_steps_are_idempotent(harness: &dyn Harness) {
    let bench = TestPreview::open(harness, "life", &[("web", Behaviour::runs_until_stopped())]).await;
    let handle = bench.create("web").await;
    assert_eq!(bench.create("web").await, handle, "life: creating again gives the same object");
    let seen = bench.observe_unit("web").await;
    assert_eq!((&seen.state, seen.hash.as_str()), (&RunState::Created, "first"), "life: created");
    assert_eq!(seen.handle, handle, "life: the handle is the observed one");
    for _ in 0..2 {
        bench.start("web").await;
        let seen = bench.observe_unit("web").await;
        assert_eq!(seen.state, RunState::Running, "life: started");
        assert!(seen.started_at.is_some(), "life: the start has a time");
    }
    for _ in 0..2 {
        bench.stop("web").await;
        assert!(matches!(bench.observe_unit("web").await.state, RunState::Exited(_)), "life: stopped");
    }
    bench.start("web").await;
    assert_eq!(bench.observe_unit("web").await.state, RunState::Running, "life: started again");
    for _ in 0..2 {
        bench.remove("web", &handle).await;
        assert!(bench.observe().await.units.is_empty(), "life: removed");
    }
    bench.close().await;
}

async fn exit_codes_survive_client_restart(harness: &dyn Harness) {
    let units = [("good", Behaviour::exits_with(0)), ("bad", Behaviour::exits_with(7))];
    let bench = TestPreview::open(harness, "exits", &units).await;
    for (unit, code) in [("good", 0), ("bad", 7)] {
        bench.create(unit).await;
        bench.start(unit).await;
        let exit = bench.wait_for_exit(unit).await;
        assert_eq!((exit.code, exit.success()), (Some(code), code == 0), "exits: {unit}");
    }
    let later = bench.with_new_driver();
    let RunState::Exited(exit) = later.observe_unit("bad").await.state else {
        panic!("exits: forgotten by a new client")
    };
    assert_eq!(exit.code, Some(7), "exits: a new client sees the same");
    bench.close().await;
}

async fn logs_are_ordered_and_support_tail_since_follow(harness: &dyn Harness) {
    let prints: Vec<String> = (0..40).map(|number| format!("line {number}")).collect();
    let units = [
        ("job", Behaviour { stdout_lines: prints.clone(), exit_code: Some(0) }),
        ("web", Behaviour::runs_until_stopped()),
    ];
    let bench = TestPreview::open(harness, "logs", &units).await;
    bench.create("job").await;
    bench.start("job").await;
    bench.wait_for_exit("job").await;
    let all = bench.read_logs("job", LogRequest::default()).await;
    assert_eq!(texts(&all), prints, "logs: all lines in order");
    assert!(all.is_sorted_by_key(|line| line.timestamp), "logs: times do not go back");
    let tail = bench.read_logs("job", LogRequest { tail: Some(5), ..LogRequest::default() }).await;
    assert_eq!(texts(&tail), prints[35..], "logs: tail");
    let after = all.last().map(|line| line.timestamp + 1);
    let none = bench.read_logs("job", LogRequest { since: after, ..LogRequest::default() }).await;
    assert!(none.is_empty(), "logs: since is later than everything, yet {none:?}");
    bench.create("web").await;
    bench.start("web").await;
    let request = LogRequest { follow: true, ..LogRequest::default() };
    let stream = bench.driver.logs(&bench.name.id, &bench.locations, "web", request).await.expect("logs: follows");
    let mut stream = stream;
    let first = with_timeout("logs: first line", stream.next()).await.expect("logs: a line").expect("logs: reads");
    assert_eq!(first.text, "up", "logs: following begins with what is there");
    bench.stop("web").await;
    let rest: Vec<LogLine> = with_timeout("logs: end", stream.try_collect()).await.expect("logs: reads");
    // A shell may say on its error stream that its child was ended.
    assert!(rest.iter().all(|line| line.is_stderr), "logs: following ends with the unit, yet {rest:?}");
    bench.close().await;
}

async fn exec_runs_beside_running_unit(harness: &dyn Harness) {
    let bench = TestPreview::open(harness, "exec", &[("web", Behaviour::runs_until_stopped())]).await;
    bench.create("web").await;
    bench.start("web").await;
    assert_eq!(
        bench.run_command("web", "echo hello; exit 5").await,
        ("hello\n".to_owned(), 5),
        "exec: output and code"
    );
    assert_eq!(bench.run_command("web", "exit 0").await, (String::new(), 0), "exec: success");
    assert_eq!(bench.observe_unit("web").await.state, RunState::Running, "exec: the unit goes on");
    bench.close().await;
}

async fn events_report_starts_and_exits(harness: &dyn Harness) {
    let bench = TestPreview::open(
        harness,
        "events",
        &[("first", Behaviour::runs_until_stopped()), ("second", Behaviour::runs_until_stopped())],
    )
    .await;
    bench.create("first").await;
    bench.start("first").await;
    let handle = bench.create("second").await;
    let mut events = bench.driver.follow_events(&bench.name.id, &bench.locations).await.expect("events: follows");
    bench.start("second").await;
    bench.stop("second").await;
    let (mut started, mut exited) = (false, false);
    while !exited {
        match with_timeout("events: next", events.next()).await.expect("events: more") {
            RuntimeEvent::Started { unit, handle: seen } if unit == "second" => {
                assert_eq!(seen, handle, "events: handle of the start");
                started = true;
            }
            RuntimeEvent::Exited { unit, handle: seen, .. } if unit == "second" => {
                assert!(started && seen == handle, "events: the exit comes after the start, of the same object");
                exited = true;
            }
            RuntimeEvent::ConnectionLost { reason } => panic!("events: lost: {reason}"),
            _ => {}
        }
    }
    bench.close().await;
}

async fn restarted_client_adopts_running_units(harness: &dyn Harness) {
    let bench = TestPreview::open(harness, "adopt", &[("web", Behaviour::runs_until_stopped())]).await;
    let handle = bench.create("web").await;
    bench.start("web").await;
    let later = bench.with_new_driver();
    let seen = later.observe_unit("web").await;
    assert_eq!((seen.handle, seen.state), (handle.clone(), RunState::Running), "adopt: the same object runs");
    later.start("web").await;
    later.stop("web").await;
    later.remove("web", &handle).await;
    assert!(bench.observe().await.units.is_empty(), "adopt: gone for both");
    bench.close().await;
}

async fn previews_are_isolated(harness: &dyn Harness) {
    let one = TestPreview::open(harness, "twins-a", &[("web", Behaviour::runs_until_stopped())]).await;
    let other = TestPreview::open(harness, "twins-b", &[("web", Behaviour::runs_until_stopped())]).await;
    let handle = one.create("web").await;
    assert!(other.observe().await.units.is_empty(), "twins: nothing leaks");
    assert_ne!(other.create("web").await, handle, "twins: objects of their own");
    one.start("web").await;
    other.start("web").await;
    one.remove("web", &handle).await;
    assert_eq!(other.observe_unit("web").await.state, RunState::Running, "twins: the other goes on");
    one.close().await;
    other.close().await;
}

async fn secrets_are_delivered(harness: &dyn Harness) {
    let bench = TestPreview::open(harness, "secrets", &[("web", Behaviour::runs_until_stopped())]).await;
    bench.create("web").await;
    bench.start("web").await;
    let command = format!("cat {}", harness.secret_path("web"));
    assert_eq!(bench.run_command("web", &command).await, ("s3cret".to_owned(), 0), "secrets: read by the program");
    bench.close().await;
}

async fn removing_old_handle_keeps_replacement(harness: &dyn Harness) {
    let mut bench = TestPreview::open(harness, "recreate", &[("web", Behaviour::runs_until_stopped())]).await;
    let old = bench.create("web").await;
    bench.start("web").await;
    bench.remove("web", &old).await;
    bench.units.get_mut("web").expect("recreate: is there").hash = "second".to_owned();
    let new = bench.create("web").await;
    assert_ne!(new, old, "recreate: a handle of its own");
    bench.remove("web", &old).await;
    assert_eq!(bench.observe_unit("web").await.hash, "second", "recreate: the successor stays");
    assert!(bench.observe().await.strays.is_empty(), "recreate: no second object");
    bench.close().await;
}

async fn absent_unit_fails_start_and_is_ignored_by_stop(harness: &dyn Harness) {
    let bench = TestPreview::open(harness, "absent", &[("web", Behaviour::runs_until_stopped())]).await;
    bench.stop("web").await;
    bench.remove("web", "no-such-handle").await;
    let problem = bench.perform(Action::Start { unit: "web".to_owned(), runtime: bench.runtime }).await;
    let kind = problem.expect_err("absent: cannot start what was not created").kind;
    assert_eq!(kind, ProblemKind::NotFound, "absent: kind of the problem");
    bench.close().await;
}

async fn previews_are_discovered(harness: &dyn Harness) {
    let units = [("web", Behaviour::runs_until_stopped()), ("job", Behaviour::exits_with(0))];
    let bench = TestPreview::open(harness, "discover", &units).await;
    for unit in ["web", "job"] {
        bench.create(unit).await;
        bench.start(unit).await;
    }
    bench.wait_for_exit("job").await;
    let found = bench.with_new_driver().driver.discover().await.expect("discover: asks");
    let found = found.into_iter().find(|found| found.preview.id == bench.name.id).expect("discover: found");
    assert_eq!(
        (found.preview, found.unit_count, found.running_count),
        (bench.name.clone(), 2, 1),
        "discover: what runs"
    );
    bench.close().await;
    let found = harness.new_driver().discover().await.expect("discover: asks");
    assert!(found.iter().all(|found| found.preview.branch != "discover"), "discover: nothing is left");
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|line| line.text.clone()).collect()
}

async fn with_timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {TIMEOUT:?}"),
    }
}

struct FixedSecretFolder(PathBuf);

impl SecretFiles for FixedSecretFolder {
    fn folder(&self, _unit: &str) -> Option<PathBuf> {
        Some(self.0.clone())
    }
}

struct NoProgress;

impl Progress for NoProgress {
    fn report(&self, _unit: &str, _line: ProgressLine) {}
}

/// One preview of the harness's runtime.
struct TestPreview<'a> {
    harness: &'a dyn Harness,
    driver: Arc<dyn Driver>,
    runtime: RuntimeKind,
    name: PreviewName,
    locations: Locations,
    units: BTreeMap<String, Unit>,
}

impl<'a> TestPreview<'a> {
    async fn open(harness: &'a dyn Harness, case: &str, behaviours: &[(&str, Behaviour)]) -> Self {
        let name = PreviewName {
            id: PreviewId(format!("contract{:x<8.8}", case.replace('-', ""))),
            app: "contract".to_owned(),
            branch: case.to_owned(),
            environment: "local".to_owned(),
        };
        let driver = harness.new_driver();
        let units =
            behaviours.iter().map(|(name, does)| ((*name).to_owned(), harness.build_unit(name, does))).collect();
        let places = harness.locations(&name.id);
        let bench = Self { harness, runtime: driver.runtime(), driver, name, locations: places, units };
        if harness.needs_network() {
            bench.perform(Action::CreateNetwork).await.expect("the network is made");
        }
        bench
    }

    fn with_new_driver(&self) -> Self {
        Self {
            harness: self.harness,
            driver: self.harness.new_driver(),
            runtime: self.runtime,
            name: self.name.clone(),
            locations: self.locations.clone(),
            units: self.units.clone(),
        }
    }

    async fn close(self) {
        for (unit, seen) in self.observe().await.units {
            self.remove(&unit, &seen.handle).await;
        }
        for name in self.observe().await.networks {
            self.perform(Action::RemoveNetwork { name }).await.expect("the network is removed");
        }
        let left = self.observe().await;
        assert!(left.units.is_empty() && left.networks.is_empty(), "{}: left behind {left:?}", self.name.branch);
    }

    fn scope(&self) -> Scope {
        let application = Application {
            preview: self.name.clone(),
            units: self.units.clone(),
            volumes: BTreeMap::new(),
            default_service: None,
        };
        Scope {
            preview: self.name.clone(),
            locations: self.locations.clone(),
            application: Arc::new(application),
            secrets: Arc::new(FixedSecretFolder(self.harness.secrets_folder())),
            progress: Arc::new(NoProgress),
        }
    }

    async fn perform(&self, action: Action) -> Result<StepOutcome, Problem> {
        with_timeout(&format!("{action:?}"), self.driver.perform(&self.scope(), &action)).await
    }

    async fn perform_ok(&self, action: Action) -> StepOutcome {
        match self.perform(action.clone()).await {
            Ok(performed) => performed,
            Err(problem) => panic!("{}: {action:?} failed: {problem:?}", self.name.branch),
        }
    }

    async fn create(&self, unit: &str) -> String {
        self.perform_ok(Action::PrepareImage { unit: unit.to_owned(), runtime: self.runtime }).await;
        let created = self.perform_ok(Action::Create { unit: unit.to_owned(), runtime: self.runtime }).await;
        created.handle.expect("creating gives a handle")
    }

    async fn start(&self, unit: &str) {
        self.perform_ok(Action::Start { unit: unit.to_owned(), runtime: self.runtime }).await;
    }

    async fn stop(&self, unit: &str) {
        self.perform_ok(Action::Stop { unit: unit.to_owned(), runtime: self.runtime }).await;
    }

    async fn remove(&self, unit: &str, handle: &str) {
        let action = Action::Remove { unit: unit.to_owned(), runtime: self.runtime, handle: handle.to_owned() };
        self.perform_ok(action).await;
    }

    async fn observe(&self) -> Observed {
        with_timeout("observe", self.driver.observe(&self.name.id, &self.locations)).await.expect("observes")
    }

    async fn observe_unit(&self, unit: &str) -> plan::observed::ObservedUnit {
        let mut observed = self.observe().await;
        observed.units.remove(unit).unwrap_or_else(|| panic!("{}: `{unit}` is not observed", self.name.branch))
    }

    /// Waits for the end of a unit; what happened before listening began is seen by observing.
    async fn wait_for_exit(&self, unit: &str) -> Exit {
        let mut events = self.driver.follow_events(&self.name.id, &self.locations).await.expect("follows");
        loop {
            if let RunState::Exited(exit) = self.observe_unit(unit).await.state {
                return exit;
            }
            let event = with_timeout("an exit", events.next()).await;
            assert!(
                !matches!(event, None | Some(RuntimeEvent::ConnectionLost { .. })),
                "lost while waiting for `{unit}`"
            );
        }
    }

    async fn read_logs(&self, unit: &str, request: LogRequest) -> Vec<LogLine> {
        let stream = self.driver.logs(&self.name.id, &self.locations, unit, request).await.expect("log opens");
        with_timeout("end of the log", stream.try_collect()).await.expect("log reads")
    }

    async fn run_command(&self, unit: &str, line: &str) -> (String, i32) {
        let argv = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
        let request = ExecRequest { argv, ..ExecRequest::default() };
        let mut session = self.driver.exec(&self.scope(), &self.units[unit], request).await.expect("command starts");
        drop(session.input);
        let (mut out, mut code) = (String::new(), None);
        while let Some(piece) = with_timeout("end of the command", session.output.next()).await {
            match piece {
                ExecOutput::Stdout(bytes) => out.push_str(&String::from_utf8_lossy(&bytes)),
                ExecOutput::Stderr(_) => {}
                ExecOutput::Exit(exit) => code = Some(exit),
            }
        }
        (out, code.expect("an exit code"))
    }
}
