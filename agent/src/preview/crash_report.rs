//! Explains why a unit ended: the cause, its last lines of output, and the most likely fix.

use std::time::Duration;

use drivers::Scope;
use drivers::driver::LogRequest;
use futures_util::StreamExt;
use plan::application::{Body, Role, Unit};
use plan::observed::Exit;
use protocol::Problem;
use protocol::status::UnitState;

use super::Context;
use super::crash_history::CRASH_WINDOW;

/// Lines of output that are shown with a failure.
pub const OUTPUT_LINES_MAX: usize = 20;

/// Describes an exit: "it ended with exit code 1", "it was ended by SIGSEGV".
#[must_use]
pub fn describe_exit(exit: &Exit) -> String {
    if let Some(error) = &exit.error {
        return format!("it could not be started: {error}");
    }
    if exit.out_of_memory {
        return "it ran out of memory and was killed".into();
    }
    match (exit.code, exit.signal) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(signal)) => format!("it was ended by {}", signal_name(signal)),
        (None, None) => "it ended".into(),
    }
}

fn signal_name(signal: i32) -> String {
    let names = [
        (1, "SIGHUP"),
        (2, "SIGINT"),
        (3, "SIGQUIT"),
        (4, "SIGILL"),
        (6, "SIGABRT"),
        (7, "SIGBUS"),
        (8, "SIGFPE"),
        (9, "SIGKILL"),
        (11, "SIGSEGV"),
        (13, "SIGPIPE"),
        (15, "SIGTERM"),
    ];
    names
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// How a unit ended, and why it is not restarted.
#[derive(Clone, Default)]
pub struct Ending {
    pub exit: Exit,
    /// The result of the live probe because of which the unit was stopped.
    pub failed_probe: Option<String>,
    /// How often it crashed within [`CRASH_WINDOW`], if it is not restarted because of that.
    pub crashes: Option<u32>,
}

impl Ending {
    pub fn describe(&self) -> String {
        match &self.failed_probe {
            Some(result) => format!("its live probe failed: {result}"),
            None => describe_exit(&self.exit),
        }
    }
}

/// Marks the unit as failed after reading its last lines. Does not block the caller.
pub(super) fn mark_failed_after_exit(context: &Context, scope: &Scope, unit: &Unit, ending: Ending) {
    let shared = std::sync::Arc::clone(&context.shared);
    let (context, scope, unit) = (context.clone(), scope.clone(), unit.clone());
    let task = async move {
        let lines = read_last_lines(&context, &scope, &unit.name).await;
        let problem = exit_problem(&unit, &ending, lines);
        if unit.runtime.capabilities().ends_units_when_stopped && !context.live.is_subscribed(unit.runtime) {
            // The engine stopped meanwhile and ended its containers. The supervisor reports that as the cause.
            return;
        }
        context.published.edit_unit(&unit.name, |status| status.exit_code = ending.exit.code);
        mark_failed(&context, &unit.name, problem);
    };
    // The task ends within the deadline of `read_last_lines`. No other code has to wait for it.
    shared.tasks.spawn(task);
}

pub(super) fn mark_failed(context: &Context, unit: &str, problem: Problem) {
    let reason = problem.title.clone();
    // Set the problem first: a task that waits for the failed state reads it immediately.
    context.published.set_problem(unit, problem);
    context.published.edit_unit(unit, |status| {
        status.state = UnitState::Failed;
        status.reason = Some(reason);
    });
    context.shared.routing.refresh(&context.shared, &context.id);
}

pub(super) async fn read_last_lines(context: &Context, scope: &Scope, unit: &str) -> Vec<String> {
    let Some(application_unit) = scope.application.units.get(unit) else { return Vec::new() };
    let read = |since| async move {
        let request = LogRequest { tail: Some(OUTPUT_LINES_MAX), since, ..LogRequest::default() };
        let driver = context.shared.drivers.driver_of(&scope.targets, application_unit.runtime).ok()?;
        let lines = driver.logs(&scope.preview.id, &scope.locations, unit, request).await.ok()?;
        Some(lines.filter_map(|line| async { line.ok().map(|line| line.text) }).collect::<Vec<_>>().await)
    };
    let started_at = context.published.unit_status(unit).and_then(|status| status.started_at);
    let read = async {
        // Only lines of the last start, because earlier starts most likely wrote the same. If there are none, for
        // example because the engine's clock differs, show older lines rather than nothing.
        let last_start = read(started_at).await.filter(|lines| !lines.is_empty());
        if last_start.is_some() { last_start } else { read(None).await }
    };
    // The output is optional: a slow runtime must not delay the report of the failure.
    tokio::time::timeout(Duration::from_secs(2), read).await.ok().flatten().unwrap_or_default()
}

/// The problem of a unit that ended: cause, output and hint.
#[must_use]
pub fn exit_problem(unit: &Unit, ending: &Ending, lines: Vec<String>) -> Problem {
    let prefix = if unit.role == Role::Job { "the job failed: " } else { "" };
    let minutes = CRASH_WINDOW.as_secs() / 60;
    let count = ending.crashes.map(|crashes| format!(", {crashes} times within {minutes} minutes")).unwrap_or_default();
    let title = format!("{prefix}{}{count}", ending.describe());
    let (code, hint) = match &ending.failed_probe {
        Some(_) => (
            "live_probe_failed",
            format!(
                "Read its output with `pdev logs {name}`. If it is only slow, raise `health.live.timeout` or \
                 `health.live.failures` of `services.{name}`.",
                name = unit.name
            ),
        ),
        None => diagnose_exit(unit, &ending.exit, &lines),
    };
    let code = if unit.role == Role::Job && code == "exited" { "job_failed" } else { code };
    Problem { output: lines, ..Problem::new(code, 0, title).unit(&unit.name).hint(hint) }
}

fn diagnose_exit(unit: &Unit, exit: &Exit, lines: &[String]) -> (&'static str, String) {
    let is_container = matches!(unit.body, Body::Container(_));
    let name = &unit.name;
    let path = match unit.role {
        Role::Job => format!("jobs.{name}"),
        Role::Service | Role::Resource => format!("services.{name}"),
    };
    let output_contains =
        |needles: &[&str]| lines.iter().any(|line| needles.iter().any(|needle| line.to_lowercase().contains(needle)));
    if exit.out_of_memory {
        return ("out_of_memory", format!("Raise the memory limit: `{path}.size: {{ memory: 4Gi }}`."));
    }
    if output_contains(&["read-only file system", "erofs"]) && is_container {
        return (
            "read_only_file_system",
            format!("Set `{path}.security: {{ read_only: false }}`, or mount a volume where the program writes."),
        );
    }
    if output_contains(&["no new privileges"]) && is_container {
        return (
            "permission_denied",
            format!(
                "Avoid setuid programs (`sudo`, `su`), which gain no privileges here, or set \
                 `{path}.security: {{ no_new_privileges: false }}`."
            ),
        );
    }
    if output_contains(&["operation not permitted", "eperm"]) && is_container {
        return (
            "permission_denied",
            format!(
                "Add the capability that the program lacks, for example `{path}.security: {{ capabilities: [SYS_PTRACE] }}` \
                 (see `pdev explain PD005`)."
            ),
        );
    }
    if output_contains(&["address already in use", "eaddrinuse"]) {
        return (
            "port_taken",
            format!(
                "Run `pdev doctor` to see which program uses the port, and check that `{name}` listens on `PORT` from its \
                 environment."
            ),
        );
    }
    if output_contains(&["exec format error"])
        || exit.error.as_deref().is_some_and(|error| error.contains("exec format"))
    {
        let hint = "Build the image for this machine's processor (`build: { platform: linux/amd64 }`): the program is for \
                    another one.";
        return ("exec_format", hint.into());
    }
    // Engines before 2023 write this error to the program's own output.
    if output_contains(&["exec user process caused: no such file", "exec user process caused \"no such file"]) {
        let hint = "Check the script's `#!` line: its program must be in the image, and the line must not end with a \
                    carriage return (save the script with Unix line endings).";
        return ("program_not_found", hint.into());
    }
    // Exit codes of POSIX shells: 126 for a command that cannot be executed, 127 for one that is not found.
    match exit.code {
        Some(126) => (
            "permission_denied",
            "Make the program executable (`chmod +x`): it was found, but it cannot be executed.".into(),
        ),
        Some(127) => (
            "program_not_found",
            format!("Check `command` and the installed programs: the command of `{name}` was not found."),
        ),
        // Also the way of daemons: the first program ends, and its children are ended with it.
        Some(0) if unit.role != Role::Job => (
            "exited",
            format!(
                "A service must stay in the foreground: turn off its background mode (`nginx -g 'daemon off;'`, \
                 `redis-server --daemonize no`), or declare `{name}` under `jobs` if it ends when its work is done."
            ),
        ),
        _ => ("exited", format!("Read all of its output with `pdev logs {name}`.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_described() {
        let cases = [
            (Exit { code: Some(3), ..Exit::default() }, "it ended with exit code 3"),
            (Exit { signal: Some(11), ..Exit::default() }, "it was ended by SIGSEGV"),
            (Exit { code: Some(137), out_of_memory: true, ..Exit::default() }, "it ran out of memory and was killed"),
            (Exit { error: Some("no such file".into()), ..Exit::default() }, "it could not be started: no such file"),
        ];
        for (exit, expected) in cases {
            assert_eq!(describe_exit(&exit), expected);
        }
    }

    fn exited(exit: Exit) -> Ending {
        Ending { exit, ..Ending::default() }
    }

    #[test]
    fn failed_live_probe_is_named_with_its_settings() {
        let ending =
            Ending { failed_probe: Some("GET /live answered 503".into()), crashes: Some(6), ..Ending::default() };
        let problem = exit_problem(&container_unit(), &ending, Vec::new());
        assert_eq!(problem.title, "its live probe failed: GET /live answered 503, 6 times within 10 minutes");
        assert!(problem.hint.is_some_and(|hint| hint.contains("health.live.failures")));
    }

    fn container_unit() -> Unit {
        use plan::application::*;
        let body = Container {
            image: ImageSource::Reference("a".into()),
            create_body: serde_json::Value::Null,
            aliases: Vec::new(),
            gateway_peers: Vec::new(),
            volumes: Vec::new(),
            pull: PullPolicy::Missing,
        };
        Unit {
            name: "web".into(),
            role: Role::Service,
            runtime: RuntimeKind::DOCKER,
            body: Body::Container(body),
            ports: Default::default(),
            routes: Vec::new(),
            wildcard: false,
            env: Default::default(),
            secrets: Vec::new(),
            identity: None,
            declares_identity: false,
            health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::ZERO },
            needs: Default::default(),
            stop: Stop { signal: "SIGTERM".into(), grace: Duration::ZERO },
            restart: RestartPolicy::Never,
            when: JobTiming::default(),
            timeout: None,
            module: None,
            hash: String::new(),
            support: SupportLevel::Paved,
        }
    }

    #[test]
    fn hardening_failures_are_recognised_from_output() {
        let mut unit = container_unit();
        let cases = [
            ("sh: 1: cannot create /x: Read-only file system", "security: { read_only: false }"),
            ("strace: ptrace(PTRACE_TRACEME, ...): Operation not permitted", "capabilities: [SYS_PTRACE]"),
            ("sudo: The \"no new privileges\" flag is set", "no_new_privileges: false"),
            ("standard_init_linux.go:228: exec user process caused: no such file or directory", "carriage return"),
            ("standard_init_linux.go:228: exec user process caused: exec format error", "platform"),
        ];
        for (line, hint) in cases {
            let problem = exit_problem(&unit, &exited(Exit { code: Some(1), ..Exit::default() }), vec![line.into()]);
            assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{line}: {problem:?}");
        }
        unit.role = Role::Job;
        let killed = Exit { signal: Some(9), out_of_memory: true, ..Exit::default() };
        let problem = exit_problem(&unit, &exited(killed), Vec::new());
        assert!(problem.hint.is_some_and(|hint| hint.contains("`jobs.web.size")), "the path of a job");
    }
}
