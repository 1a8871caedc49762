//! Why a unit ended, in words, with its last lines and the next thing to try.

use std::time::Duration;

use drivers::Scope;
use drivers::driver::LogRequest;
use futures_util::StreamExt;
use plan::application::{Body, Role, RuntimeKind, Unit};
use plan::observed::Exit;
use protocol::Problem;
use protocol::status::UnitState;

use super::Context;

/// Lines of output shown with a failure.
pub const OUTPUT_LINES_MAX: usize = 20;

/// The exit in words: "exit code 1", "ended by SIGKILL, out of memory".
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
    let known = [
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
    known
        .iter()
        .find(|(number, _)| *number == signal)
        .map_or_else(|| format!("signal {signal}"), |(_, name)| (*name).to_owned())
}

/// Marks the unit failed at once, and adds its last lines when they are read.
pub(super) fn mark_failed_after_exit(context: &Context, scope: &Scope, unit: &Unit, exit: &Exit, tries: Option<u32>) {
    let (context, scope, unit, exit) = (context.clone(), scope.clone(), unit.clone(), exit.clone());
    let task = async move {
        let lines = read_last_lines(&context, &scope, &unit.name).await;
        let problem = exit_problem(&unit, &exit, lines, tries);
        if unit.body.runtime() == RuntimeKind::Docker && !context.live.is_subscribed(RuntimeKind::Docker) {
            // The engine went away meanwhile and took its containers along: that is what is told.
            return;
        }
        context.published.edit_unit(&unit.name, |status| status.exit_code = exit.code);
        mark_failed(&context, &unit.name, problem);
    };
    // Bounded by the deadline of `last_lines`; nothing has to wait for it but the board's spectators.
    tokio::spawn(task);
}

pub(super) fn mark_failed(context: &Context, unit: &str, problem: Problem) {
    let reason = problem.title.clone();
    // The problem first: who waits for the failed state reads it at once.
    context.published.set_problem(unit, problem);
    context.published.edit_unit(unit, |status| {
        status.state = UnitState::Failed;
        status.reason = Some(reason);
    });
    context.shared.routing.refresh(&context.shared, &context.id);
}

pub(super) async fn read_last_lines(context: &Context, scope: &Scope, unit: &str) -> Vec<String> {
    let Some(found) = scope.application.units.get(unit) else { return Vec::new() };
    let read = |since| async move {
        let request = LogRequest { tail: Some(OUTPUT_LINES_MAX), since, ..LogRequest::default() };
        let driver = context.shared.drivers.driver(found.body.runtime()).ok()?;
        let lines = driver.logs(&scope.preview.id, &scope.locations, unit, request).await.ok()?;
        Some(lines.filter_map(|line| async { line.ok().map(|line| line.text) }).collect::<Vec<_>>().await)
    };
    let started_at = context.published.unit_status(unit).and_then(|status| status.started_at);
    let read = async {
        // What its earlier tries wrote would only repeat it; where the engine's clock is another, anything is better
        // than nothing.
        let last_try = read(started_at).await.filter(|lines| !lines.is_empty());
        if last_try.is_some() { last_try } else { read(None).await }
    };
    tokio::time::timeout(Duration::from_secs(2), read).await.ok().flatten().unwrap_or_default()
}

/// What is known about a unit that ended, put together for a person.
#[must_use]
pub fn exit_problem(unit: &Unit, exit: &Exit, lines: Vec<String>, tries: Option<u32>) -> Problem {
    let what = if unit.role == Role::Job { "the job failed: " } else { "" };
    let again = tries.map(|tries| format!(", {} times in a row", tries + 1)).unwrap_or_default();
    let title = format!("{what}{}{again}", describe_exit(exit));
    let (code, hint) = diagnose_exit(unit, exit, &lines);
    let code = if unit.role == Role::Job && code == "exited" { "job_failed" } else { code };
    Problem { output: lines, ..Problem::new(code, 0, title).unit(&unit.name).hint(hint) }
}

fn diagnose_exit(unit: &Unit, exit: &Exit, lines: &[String]) -> (&'static str, String) {
    let container = matches!(unit.body, Body::Container(_));
    let name = &unit.name;
    let place = match unit.role {
        Role::Job => format!("jobs.{name}"),
        Role::Service | Role::Resource => format!("services.{name}"),
    };
    let said =
        |needles: &[&str]| lines.iter().any(|line| needles.iter().any(|needle| line.to_lowercase().contains(needle)));
    if exit.out_of_memory {
        return ("out_of_memory", format!("Give it more: `{place}.size: {{ memory: 4Gi }}`."));
    }
    if said(&["read-only file system", "erofs"]) && container {
        return (
            "read_only_file_system",
            format!("Let it write: `{place}.security: {{ read_only: false }}`, or mount a volume where it writes."),
        );
    }
    if said(&["no new privileges"]) && container {
        return (
            "permission_denied",
            format!(
                "A setuid program (`sudo`, `su`) gains nothing here; if it must: `{place}.security: {{ no_new_privileges: false }}`."
            ),
        );
    }
    if said(&["operation not permitted", "eperm"]) && container {
        return (
            "permission_denied",
            format!(
                "If it needs a capability, add it: `{place}.security: {{ capabilities: [SYS_PTRACE] }}` (name the one it lacks; `pdev explain PD005`)."
            ),
        );
    }
    if said(&["address already in use", "eaddrinuse"]) {
        return (
            "port_taken",
            format!(
                "Something else listens on its port; `pdev doctor` names it. Does `{name}` listen on `PORT` from its environment?"
            ),
        );
    }
    if said(&["exec format error"]) || exit.error.as_deref().is_some_and(|error| error.contains("exec format")) {
        return ("exec_format", "The program is for another processor; build the image for this machine's (`build: { platform: linux/amd64 }`).".into());
    }
    // How engines before 2023 say it in the program's own output.
    if said(&["exec user process caused: no such file", "exec user process caused \"no such file"]) {
        return (
            "program_not_found",
            "The script's `#!` line names a program that is not in the image, or ends with a carriage return: save it with Unix line ends.".into(),
        );
    }
    match exit.code {
        Some(126) => {
            ("permission_denied", "The program was found but may not be run: is it executable (`chmod +x`)?".into())
        }
        Some(127) => (
            "program_not_found",
            format!("The command of `{name}` was not found; check `command` and what is installed."),
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

    fn container_unit() -> Unit {
        use plan::application::*;
        let body = Container {
            image: ImageSource::Reference("a".into()),
            create_body: serde_json::Value::Null,
            aliases: Vec::new(),
            process_peers: Vec::new(),
            volumes: Vec::new(),
            pull: PullPolicy::Missing,
        };
        Unit {
            name: "web".into(),
            role: Role::Service,
            body: Body::Container(body),
            ports: Default::default(),
            routes: Vec::new(),
            wildcard: false,
            env: Default::default(),
            secrets: Vec::new(),
            identity: None,
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
            let problem = exit_problem(&unit, &Exit { code: Some(1), ..Exit::default() }, vec![line.into()], None);
            assert!(problem.hint.as_deref().unwrap_or_default().contains(hint), "{line}: {problem:?}");
        }
        unit.role = Role::Job;
        let full = Exit { signal: Some(9), out_of_memory: true, ..Exit::default() };
        let problem = exit_problem(&unit, &full, Vec::new(), None);
        assert!(problem.hint.is_some_and(|hint| hint.contains("`jobs.web.size")), "a job's own place");
    }
}
