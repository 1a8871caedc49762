//! The guarantees of every driver, as test cases that run against each of them: fake, process, docker.
//!
//! A driver's test implements [`Harness`] and calls [`check`]. The cases use the runtime only through the trait; the
//! harness supplies whatever differs between runtimes, such as a unit's definition and the path of a secret.

mod capabilities;

pub use capabilities::check_applying;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use plan::Application;
use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit};
use plan::observed::{Exit, Observed, RunState, RuntimeObject};
use plan::step::Action;

use crate::driver::{Driver, ExecOutput, ExecRequest, LogLine, LogRequest, RuntimeEvent, StepOutcome};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, Progress, ProgressLine, Scope, SecretFiles};

/// Deadline for every wait in a case.
const TIMEOUT: Duration = Duration::from_secs(30);

pub trait Harness: Sync {
    /// A driver that shares only the runtime with earlier drivers, like a restarted agent.
    fn new_driver(&self) -> Arc<dyn Driver>;

    fn locations(&self, preview: &PreviewId) -> Locations;

    /// Builds a unit of this runtime with this behaviour, one secret named `token`, hash `first` and a short grace
    /// period.
    fn build_unit(&self, name: &str, behaviour: &Behaviour) -> Unit;

    /// A folder with secret files on this machine. It contains the file `token` with the text `s3cret`.
    fn secrets_folder(&self) -> PathBuf;

    /// The path at which the unit's program reads its secret `token`.
    fn secret_path(&self, unit: &str) -> String;

    /// Whether units need the preview's network before they are created.
    fn needs_network(&self) -> bool {
        false
    }
}

/// The behaviour of a unit's program. Harnesses render it as a shell line, a container's command or a script.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Behaviour {
    /// Printed on standard output first.
    pub stdout_lines: Vec<String>,
    /// Exits with this code; `None` runs until the unit is stopped.
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

    /// Renders the behaviour as a script for `/bin/sh -c`.
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

/// Runs every case, one after the other. Each case uses its own previews and removes them at the end.
///
/// # Panics
/// When the driver violates a guarantee; the message names the case.
pub async fn check(harness: &dyn Harness) {
    lifecycle_steps_are_idempotent(harness).await;
    exit_codes_survive_client_restart(harness).await;
    logs_are_ordered_and_support_tail_since_follow(harness).await;
    exec_runs_alongside_running_unit(harness).await;
    events_report_starts_and_exits(harness).await;
    restarted_client_adopts_running_units(harness).await;
    previews_are_isolated(harness).await;
    secrets_are_delivered(harness).await;
    removing_old_handle_keeps_replacement(harness).await;
    absent_unit_fails_start_and_is_ignored_by_stop(harness).await;
    previews_are_discovered(harness).await;
    capabilities::check(harness).await;
}

async fn lifecycle_steps_are_idempotent(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "life", &[("web", Behaviour::runs_until_stopped())]).await;
    let handle = preview.create("web").await;
    assert_eq!(preview.create("web").await, handle, "life: creating again returns the same object");
    let observed = preview.observe_unit("web").await;
    assert_eq!((&observed.state, observed.hash.as_str()), (&RunState::Created, "first"), "life: created");
    assert_eq!(observed.handle, handle, "life: create returns the observed handle");
    for _ in 0..2 {
        preview.start("web").await;
        let observed = preview.observe_unit("web").await;
        assert_eq!(observed.state, RunState::Running, "life: started");
        assert!(observed.started_at.is_some(), "life: the start time is set");
    }
    for _ in 0..2 {
        preview.stop("web").await;
        assert!(matches!(preview.observe_unit("web").await.state, RunState::Exited(_)), "life: stopped");
    }
    preview.start("web").await;
    assert_eq!(preview.observe_unit("web").await.state, RunState::Running, "life: started again");
    for _ in 0..2 {
        preview.remove("web", &handle).await;
        assert!(preview.observe().await.units.is_empty(), "life: removed");
    }
    preview.close().await;
}

async fn exit_codes_survive_client_restart(harness: &dyn Harness) {
    let units = [("good", Behaviour::exits_with(0)), ("bad", Behaviour::exits_with(7))];
    let preview = TestPreview::open(harness, "exits", &units).await;
    for (unit, code) in [("good", 0), ("bad", 7)] {
        preview.create(unit).await;
        preview.start(unit).await;
        let exit = preview.wait_for_exit(unit).await;
        assert_eq!((exit.code, exit.success()), (Some(code), code == 0), "exits: {unit}");
    }
    let restarted_client = preview.with_new_driver();
    let RunState::Exited(exit) = restarted_client.observe_unit("bad").await.state else {
        panic!("exits: forgotten by a new client")
    };
    assert_eq!(exit.code, Some(7), "exits: a new client sees the same code");
    preview.close().await;
}

async fn logs_are_ordered_and_support_tail_since_follow(harness: &dyn Harness) {
    let printed_lines: Vec<String> = (0..40).map(|number| format!("line {number}")).collect();
    let units = [
        ("job", Behaviour { stdout_lines: printed_lines.clone(), exit_code: Some(0) }),
        ("web", Behaviour::runs_until_stopped()),
    ];
    let preview = TestPreview::open(harness, "logs", &units).await;
    preview.create("job").await;
    preview.start("job").await;
    preview.wait_for_exit("job").await;
    let lines = preview.read_logs("job", LogRequest::default()).await;
    assert_eq!(texts(&lines), printed_lines, "logs: all lines in order");
    assert!(lines.is_sorted_by_key(|line| line.timestamp), "logs: times do not go back");
    let tail = preview.read_logs("job", LogRequest { tail: Some(5), ..LogRequest::default() }).await;
    assert_eq!(texts(&tail), printed_lines[35..], "logs: tail");
    let after = lines.last().map(|line| line.timestamp + 1);
    let later_lines = preview.read_logs("job", LogRequest { since: after, ..LogRequest::default() }).await;
    assert!(later_lines.is_empty(), "logs: since is after the last line, but got {later_lines:?}");
    preview.create("web").await;
    preview.start("web").await;
    let request = LogRequest { follow: true, ..LogRequest::default() };
    let stream =
        preview.driver.logs(&preview.name.id, &preview.locations, "web", request).await.expect("logs: follows");
    let mut stream = stream;
    let first = with_timeout("logs: first line", stream.next()).await.expect("logs: a line").expect("logs: reads");
    assert_eq!(first.text, "up", "logs: following starts with existing lines");
    preview.stop("web").await;
    let remaining_lines: Vec<LogLine> = with_timeout("logs: end", stream.try_collect()).await.expect("logs: reads");
    // A shell may report on standard error that its child was terminated.
    assert!(
        remaining_lines.iter().all(|line| line.is_stderr),
        "logs: following ends with the unit, but got {remaining_lines:?}"
    );
    preview.close().await;
}

async fn exec_runs_alongside_running_unit(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "exec", &[("web", Behaviour::runs_until_stopped())]).await;
    preview.create("web").await;
    preview.start("web").await;
    assert_eq!(
        preview.run_command("web", "echo hello; exit 5").await,
        ("hello\n".to_owned(), 5),
        "exec: output and code"
    );
    assert_eq!(preview.run_command("web", "exit 0").await, (String::new(), 0), "exec: success");
    assert_eq!(preview.observe_unit("web").await.state, RunState::Running, "exec: the unit keeps running");
    preview.close().await;
}

async fn events_report_starts_and_exits(harness: &dyn Harness) {
    let preview = TestPreview::open(
        harness,
        "events",
        &[("first", Behaviour::runs_until_stopped()), ("second", Behaviour::runs_until_stopped())],
    )
    .await;
    preview.create("first").await;
    preview.start("first").await;
    let handle = preview.create("second").await;
    let mut events = preview.driver.follow_events(&preview.name.id, &preview.locations).await.expect("events: follows");
    preview.start("second").await;
    preview.stop("second").await;
    let (mut started, mut exited) = (false, false);
    while !exited {
        match with_timeout("events: next", events.next()).await.expect("events: more") {
            RuntimeEvent::Started { unit, handle: observed_handle } if unit == "second" => {
                assert_eq!(observed_handle, handle, "events: handle of the start");
                started = true;
            }
            RuntimeEvent::Exited { unit, handle: observed_handle, .. } if unit == "second" => {
                assert!(
                    started && observed_handle == handle,
                    "events: the exit follows the start and has the same handle"
                );
                exited = true;
            }
            RuntimeEvent::ConnectionLost { reason } => panic!("events: lost: {reason}"),
            _ => {}
        }
    }
    preview.close().await;
}

async fn restarted_client_adopts_running_units(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "adopt", &[("web", Behaviour::runs_until_stopped())]).await;
    let handle = preview.create("web").await;
    preview.start("web").await;
    let restarted_client = preview.with_new_driver();
    let observed = restarted_client.observe_unit("web").await;
    assert_eq!((observed.handle, observed.state), (handle.clone(), RunState::Running), "adopt: the same object runs");
    restarted_client.start("web").await;
    restarted_client.stop("web").await;
    restarted_client.remove("web", &handle).await;
    assert!(preview.observe().await.units.is_empty(), "adopt: gone for both");
    preview.close().await;
}

async fn previews_are_isolated(harness: &dyn Harness) {
    let first_preview = TestPreview::open(harness, "twins-a", &[("web", Behaviour::runs_until_stopped())]).await;
    let second_preview = TestPreview::open(harness, "twins-b", &[("web", Behaviour::runs_until_stopped())]).await;
    let handle = first_preview.create("web").await;
    assert!(second_preview.observe().await.units.is_empty(), "twins: the second preview sees no units of the first");
    assert_ne!(second_preview.create("web").await, handle, "twins: handles are distinct");
    first_preview.start("web").await;
    second_preview.start("web").await;
    first_preview.remove("web", &handle).await;
    assert_eq!(second_preview.observe_unit("web").await.state, RunState::Running, "twins: the other keeps running");
    first_preview.close().await;
    second_preview.close().await;
}

async fn secrets_are_delivered(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "secrets", &[("web", Behaviour::runs_until_stopped())]).await;
    preview.create("web").await;
    preview.start("web").await;
    let command = format!("cat {}", harness.secret_path("web"));
    assert_eq!(preview.run_command("web", &command).await, ("s3cret".to_owned(), 0), "secrets: read by the program");
    preview.close().await;
}

async fn removing_old_handle_keeps_replacement(harness: &dyn Harness) {
    let mut preview = TestPreview::open(harness, "recreate", &[("web", Behaviour::runs_until_stopped())]).await;
    let old = preview.create("web").await;
    preview.start("web").await;
    preview.remove("web", &old).await;
    preview.units.get_mut("web").expect("recreate: the unit exists").hash = "second".to_owned();
    let new = preview.create("web").await;
    assert_ne!(new, old, "recreate: the new object has a new handle");
    preview.remove("web", &old).await;
    assert_eq!(preview.observe_unit("web").await.hash, "second", "recreate: the replacement stays");
    assert!(preview.observe().await.strays.is_empty(), "recreate: no second object");
    preview.close().await;
}

async fn absent_unit_fails_start_and_is_ignored_by_stop(harness: &dyn Harness) {
    let preview = TestPreview::open(harness, "absent", &[("web", Behaviour::runs_until_stopped())]).await;
    preview.stop("web").await;
    preview.remove("web", "no-such-handle").await;
    let problem = preview.perform(Action::Start { unit: "web".to_owned(), runtime: preview.runtime }).await;
    let kind = problem.expect_err("absent: cannot start what was not created").kind;
    assert_eq!(kind, ProblemKind::NotFound, "absent: kind of the problem");
    preview.close().await;
}

async fn previews_are_discovered(harness: &dyn Harness) {
    let units = [("web", Behaviour::runs_until_stopped()), ("job", Behaviour::exits_with(0))];
    let preview = TestPreview::open(harness, "discover", &units).await;
    for unit in ["web", "job"] {
        preview.create(unit).await;
        preview.start(unit).await;
    }
    preview.wait_for_exit("job").await;
    let discovered = preview.with_new_driver().driver.discover().await.expect("discover: succeeds");
    let discovered =
        discovered.into_iter().find(|discovered| discovered.preview.id == preview.name.id).expect("discover: found");
    assert_eq!(
        (discovered.preview, discovered.unit_count, discovered.running_count),
        (preview.name.clone(), 2, 1),
        "discover: counts"
    );
    preview.close().await;
    let discovered = harness.new_driver().discover().await.expect("discover: succeeds");
    assert!(discovered.iter().all(|discovered| discovered.preview.branch != "discover"), "discover: nothing remains");
}

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|line| line.text.clone()).collect()
}

async fn with_timeout<T>(description: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(TIMEOUT, future).await {
        Ok(value) => value,
        Err(_) => panic!("{description}: not done within {TIMEOUT:?}"),
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

/// A preview in the harness's runtime, with the units of one case.
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
        let units = behaviours
            .iter()
            .map(|(name, behaviour)| ((*name).to_owned(), harness.build_unit(name, behaviour)))
            .collect();
        let locations = harness.locations(&name.id);
        let preview = Self { harness, runtime: driver.runtime(), driver, name, locations, units };
        if harness.needs_network() {
            let action = Action::CreateNetwork { runtime: preview.runtime };
            preview.perform(action).await.expect("the network is created");
        }
        preview
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
        for (unit, observed) in self.observe().await.units {
            self.remove(&unit, &observed.handle).await;
        }
        for RuntimeObject { name, runtime } in self.observe().await.networks {
            self.perform(Action::RemoveNetwork { runtime, name }).await.expect("the network is removed");
        }
        let remaining = self.observe().await;
        assert!(
            remaining.units.is_empty() && remaining.networks.is_empty(),
            "{}: not removed: {remaining:?}",
            self.name.branch
        );
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
            targets: plan::target::Targets::default(),
            shell_environment: None,
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
        created.handle.expect("create returns a handle")
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

    /// Waits until a unit exits. Subscribes before it observes, so that an exit in between is not missed.
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
        let (mut stdout, mut code) = (String::new(), None);
        while let Some(item) = with_timeout("end of the command", session.output.next()).await {
            match item {
                ExecOutput::Stdout(bytes) => stdout.push_str(&String::from_utf8_lossy(&bytes)),
                ExecOutput::Stderr(_) => {}
                ExecOutput::Exit(exit) => code = Some(exit),
            }
        }
        (stdout, code.expect("an exit code"))
    }
}
