//! The conversion layer: inner types to wire types, in one direction only.

pub mod diagnostics;

use credentials::BrokerProblem;
use credentials::broker::{ChangeKind, IdentityChange, IdentitySnapshot};
use drivers::problem::{Problem as DriverProblem, ProblemKind};
use drivers::scope::ProgressLine;
use host::clock::now_milliseconds;
use plan::application::{PreviewName, Role, Unit};
use plan::step::{Action, Plan};
use protocol::EventKind;
use protocol::Problem;
use protocol::event::ProgressView;
use protocol::identity::{IdentityState, IdentityStatus};
use protocol::plan::{PlanView, StepView};
use protocol::status::{PreviewRef, UnitStatus};

#[must_use]
pub fn preview_ref(name: &PreviewName) -> PreviewRef {
    PreviewRef {
        id: name.id.0.clone(),
        title: name.title(),
        app: name.app.clone(),
        branch: name.branch.clone(),
        environment: name.environment.clone(),
    }
}

#[must_use]
pub fn role_name(role: Role) -> &'static str {
    match role {
        Role::Service => "service",
        Role::Job => "job",
        Role::Resource => "resource",
    }
}

/// The initial status of a unit, before any step.
#[must_use]
pub fn unit_status(unit: &Unit) -> UnitStatus {
    let support = serde_json::to_value(unit.support).ok().and_then(|value| value.as_str().map(str::to_owned));
    UnitStatus {
        name: unit.name.clone(),
        role: role_name(unit.role).to_owned(),
        runtime: unit.runtime.name().to_owned(),
        ports: unit.ports.iter().map(|(name, port)| (name.clone(), port.host_port)).collect(),
        module: unit.module.clone(),
        identity: unit.identity.clone(),
        support: support.unwrap_or_default(),
        ..UnitStatus::default()
    }
}

#[must_use]
pub fn problem_code(kind: ProblemKind) -> &'static str {
    match kind {
        ProblemKind::Unavailable => "runtime_unavailable",
        ProblemKind::ImageNotFound => "image_not_found",
        ProblemKind::PullDenied => "pull_denied",
        ProblemKind::BuildFailed => "build_failed",
        ProblemKind::BuildInputMissing => "build_input_missing",
        ProblemKind::PortTaken => "port_taken",
        ProblemKind::ProgramNotFound => "program_not_found",
        ProblemKind::PermissionDenied => "permission_denied",
        ProblemKind::ReadOnlyFilesystem => "read_only_file_system",
        ProblemKind::ExecFormat => "exec_format",
        ProblemKind::OutOfMemory => "out_of_memory",
        ProblemKind::DiskFull => "disk_full",
        ProblemKind::Timeout => "timeout",
        ProblemKind::NotFound => "not_found",
        ProblemKind::Refused => "refused_by_runtime",
        ProblemKind::Internal => "internal",
    }
}

#[must_use]
pub fn driver_problem(problem: &DriverProblem, unit: Option<&str>) -> Problem {
    let status = match problem.kind {
        ProblemKind::Unavailable => 503,
        ProblemKind::NotFound => 404,
        ProblemKind::Internal => 500,
        _ => 422,
    };
    // Drivers put the unit's name in front of the message. Clients print the name from `unit`, so remove it here.
    let without_name = unit.and_then(|unit| problem.message.strip_prefix(&format!("`{unit}`: ")));
    let message = without_name.unwrap_or(&problem.message).to_owned();
    Problem {
        hint: problem.hint.clone(),
        unit: unit.map(str::to_owned),
        output: problem.output.clone(),
        ..Problem::new(problem_code(problem.kind), status, message)
    }
}

#[must_use]
pub fn progress_view(line: ProgressLine) -> ProgressView {
    match line {
        ProgressLine::BuildStep { name, is_done: done, is_cached: cached, error } => {
            ProgressView::BuildStep { name, done, cached, error }
        }
        ProgressLine::BuildOutput(text) => ProgressView::BuildOutput { text },
        ProgressLine::Pull { layer, current, total } => ProgressView::Pull { layer, current, total },
    }
}

#[must_use]
pub fn plan_view(plan: &Plan) -> PlanView {
    let text_of = |value: &serde_json::Value, key: &str| {
        value.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let steps = plan.steps.iter().map(|step| {
        // The serde tags of action and cause are their names on the wire.
        let action = serde_json::to_value(&step.action).unwrap_or_default();
        let cause = serde_json::to_value(&step.cause).unwrap_or_default();
        StepView {
            id: step.id,
            action: text_of(&action, "action"),
            unit: step.action.unit().cloned(),
            // Steps without a unit have no runtime on the wire.
            runtime: step.action.unit().and(step.action.runtime()).map(|runtime| runtime.name().to_owned()),
            text: step.action.to_string(),
            after: step.after.clone(),
            cause: text_of(&cause, "cause"),
            because: step.cause.to_string(),
            destroys: step.destroys.clone(),
        }
    });
    PlanView { steps: steps.collect(), unchanged: plan.has_no_changes() }
}

/// True for steps that change something; false for steps that only wait.
#[must_use]
pub fn is_mutating(action: &Action) -> bool {
    !matches!(action, Action::AwaitReady { .. } | Action::AwaitExit { .. })
}

/// The event for a change of an identity.
#[must_use]
pub fn identity_changed_event(change: IdentityChange) -> EventKind {
    let (change_name, expires_at, problem) = match change.kind {
        ChangeKind::Renewed { expires_at } => ("renewed", expires_at, None),
        ChangeKind::LoginExpiring { at } => ("expiring", Some(at), Some(login_expiring_problem(&change.identity, at))),
        ChangeKind::NeedsLogin(problem) => ("needs_login", None, Some(broker_problem(problem))),
        ChangeKind::Failed(problem) => ("failed", None, Some(broker_problem(problem))),
        ChangeKind::SignedIn => ("signed_in", None, None),
        ChangeKind::SignedOut => ("signed_out", None, None),
    };
    EventKind::IdentityChanged { identity: change.identity, change: change_name.to_owned(), expires_at, problem }
}

/// A login that is about to end, with the command that renews it.
fn login_expiring_problem(identity: &str, at: i64) -> Problem {
    let title = format!("the login of `{identity}` ends in {}", format_time_until(at));
    Problem::new("login_ends", 403, title).hint(format!("Run `pdev login {identity}` to sign in again."))
}

/// The time until `at`, such as `24 min` or `3 h`. Rounded up, so that it never shows `0 min`.
#[must_use]
pub fn format_time_until(at: i64) -> String {
    match ((at - now_milliseconds()).max(0) + 59_999) / 60_000 {
        minutes @ 0..120 => format!("{} min", minutes.max(1)),
        minutes => format!("{} h", minutes / 60),
    }
}

#[must_use]
pub fn broker_problem(problem: BrokerProblem) -> Problem {
    let status = match problem.code {
        "identity_unknown" => 404,
        "needs_login" => 403,
        "source_unreachable" => 502,
        _ => 422,
    };
    let wire_problem = Problem::new(problem.code, status, problem.message);
    match problem.hint {
        Some(hint) => wire_problem.hint(hint),
        None => wire_problem,
    }
}

#[must_use]
pub fn identity_status(snapshot: IdentitySnapshot) -> IdentityStatus {
    let pending_login = snapshot.pending_login().map(|(name, at)| (name.to_owned(), at));
    let state = match &snapshot {
        // Checked first: an identity may still have a valid lease although its login has ended.
        _ if matches!(pending_login, Some((_, None))) => IdentityState::NeedsLogin,
        IdentitySnapshot { has_lease: true, .. } => IdentityState::Ready,
        IdentitySnapshot { problem: Some(_), .. } => IdentityState::Failing,
        _ => IdentityState::Idle,
    };
    let (last_used_at, last_used_by) = snapshot.last_used.unzip();
    let login_ending = pending_login.as_ref().and_then(|(name, at)| Some(login_expiring_problem(name, (*at)?)));
    IdentityStatus {
        state,
        login_ends_at: snapshot.login_end.as_ref().map(|login| login.ends_at),
        sign_in: pending_login.map(|(name, _)| name),
        source: snapshot.identity.kind.to_owned(),
        description: snapshot.identity.text("description").map(str::to_owned),
        name: snapshot.identity.name,
        expires_at: snapshot.expires_at,
        swappable: snapshot.is_swappable,
        problem: snapshot.problem.map(broker_problem).or(login_ending),
        last_used_at,
        last_used_by: last_used_by.filter(|by| !by.is_empty()),
    }
}

pub(crate) fn state_write_problem(error: &std::io::Error) -> Problem {
    let message = error.to_string();
    // Remove Rust's suffix, such as "(os error 28)".
    let message = message.split(" (os error").next().unwrap_or_default();
    Problem::new("state_not_written", 500, format!("cannot write pdev's state: {message}"))
        .hint("Run `pdev doctor` to see the folders and their free space.")
}
