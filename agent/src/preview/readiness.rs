//! From started to ready, and from ready on: the task that looks at one unit.
//!
//! After the first success only `health.live` is asked again: an idle preview costs no wake-ups. That readiness is
//! lost later shows in exits (events) and in the proxy's answers.

use std::sync::Arc;
use std::time::Duration;

use drivers::Scope;
use drivers::driver::{ExecOutput, ExecRequest};
use futures_util::StreamExt;
use plan::Application;
use plan::application::{Argv, Body, Check, Probe, ReadyCheck, Unit};
use plan::observed::RunState;
use protocol::Problem;
use protocol::status::UnitState;
use tokio::time::Instant;

use super::{Context, Message, crash_report};
use crate::bus::now_ms;
use crate::probe::{self, ProbeResult, ProbeSchedule};

/// A busy engine may need a moment between a start and the address.
const ADDRESS_LIMIT: Duration = if cfg!(target_os = "linux") { Duration::from_secs(3) } else { Duration::ZERO };
/// So many looks at a running container without an address tell that it has none for us.
const OBSERVATIONS_WITHOUT_ADDRESS_MAX: u32 = 5;
/// A module's after-ready commands (create a database) get this long each.
const AFTER_READY_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn watch_unit(context: Context, scope: Scope, application: Arc<Application>, name: String) {
    let Some(unit) = application.units.get(&name) else { return };
    discover_address(&context, &scope, unit).await;
    if let Err(problem) = wait_until_ready(&context, &scope, unit).await {
        let lines = crash_report::read_last_lines(&context, &scope, &unit.name).await;
        crash_report::mark_failed(&context, &unit.name, Problem { output: lines, ..problem });
        return;
    }
    if unit.health.ready == ReadyCheck::Exit {
        return;
    }
    context.published.edit_unit(&unit.name, |status| {
        status.state = UnitState::Ready;
        status.reason = None;
        status.ready_at = Some(now_ms());
    });
    context.shared.routing.refresh(&context.shared, &context.id);
    if let Some(live) = &unit.health.live {
        probe_liveness(&context, &scope, unit, live).await;
    }
}

/// A container is probed at its own address, which exists only once it runs; mostly the start told it.
async fn discover_address(context: &Context, scope: &Scope, unit: &Unit) {
    if !matches!(unit.body, Body::Container(_)) {
        context.live.set_address(&unit.name, None);
        return;
    }
    if context.live.has_address(&unit.name) {
        return;
    }
    let Ok(driver) = context.shared.drivers.driver(unit.body.runtime()) else { return };
    let deadline = Instant::now() + ADDRESS_LIMIT;
    let mut ran = 0;
    loop {
        let observed = driver.observe(&scope.preview.id, &scope.locations).await;
        let found = observed.ok().and_then(|mut observed| observed.units.remove(&unit.name));
        let address = found.as_ref().and_then(|found| found.address);
        context.live.set_address(&unit.name, address);
        ran += u32::from(found.is_some_and(|found| found.state == RunState::Running));
        // An engine in a virtual machine has no address for us at all; then its forwarder has to do.
        if address.is_some() || ran >= OBSERVATIONS_WITHOUT_ADDRESS_MAX || Instant::now() >= deadline {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_until_ready(context: &Context, scope: &Scope, unit: &Unit) -> Result<(), Problem> {
    let deadline = Instant::now() + unit.health.start_limit;
    match &unit.health.ready {
        ReadyCheck::Started | ReadyCheck::Exit => {}
        ReadyCheck::StaysUp(time) => tokio::time::sleep(*time).await,
        ReadyCheck::Probe(wanted) => probe_until_ready(context, scope, unit, wanted, deadline).await?,
    }
    run_after_ready(context, scope, unit).await
}

async fn probe_until_ready(
    context: &Context,
    scope: &Scope,
    unit: &Unit,
    wanted: &Probe,
    deadline: Instant,
) -> Result<(), Problem> {
    let mut grid = ProbeSchedule::default();
    let mut good = 0;
    let waiting_for = probe::describe_check(&wanted.check);
    context.published.edit_unit(&unit.name, |status| status.reason = Some(format!("waiting for {waiting_for}")));
    loop {
        match probe_once(context, scope, unit, wanted).await {
            ProbeResult::Success => {
                good += 1;
                if good >= wanted.successes.max(1) {
                    return Ok(());
                }
            }
            ProbeResult::Failure(words) => {
                good = 0;
                let reason = format!("waiting for {waiting_for}: {words}");
                context.published.edit_unit(&unit.name, |status| status.reason = Some(reason));
                if Instant::now() >= deadline {
                    return Err(never_healthy_problem(unit, &words));
                }
            }
        }
        tokio::time::sleep(grid.next_delay()).await;
    }
}

fn never_healthy_problem(unit: &Unit, seen: &str) -> Problem {
    let limit = unit.health.start_limit.as_secs();
    Problem::new("never_healthy", 0, format!("it did not become healthy within {limit} s; last seen: {seen}"))
        .unit(&unit.name)
        .hint(format!(
            "Look at its output with `pdev logs {}`; if it only needs longer, set `health: {{ start_limit: {}s }}`.",
            unit.name,
            limit * 3
        ))
}

async fn probe_once(context: &Context, scope: &Scope, unit: &Unit, wanted: &Probe) -> ProbeResult {
    if let Check::Exec { argv } = &wanted.check {
        return probe_by_command(context, scope, unit, argv, wanted.timeout).await;
    }
    let port = probe::port_name(&wanted.check).unwrap_or("main");
    let forwarded = matches!(unit.body, Body::Container(_)) && !context.live.has_address(&unit.name);
    let settle = if forwarded { probe::SETTLE_FORWARDED } else { probe::SETTLE_DIRECT };
    probe::probe_network(&wanted.check, &context.live.addresses(unit, port), wanted.timeout, settle).await
}

async fn probe_by_command(
    context: &Context,
    scope: &Scope,
    unit: &Unit,
    argv: &Argv,
    timeout: Duration,
) -> ProbeResult {
    match tokio::time::timeout(timeout, run_command(context, scope, unit, argv)).await {
        Ok(Ok((0, _))) => ProbeResult::Success,
        Ok(Ok((code, output))) => {
            let last = output.last().map(|line| format!(": {line}")).unwrap_or_default();
            ProbeResult::Failure(format!("`{}` ended with {code}{last}", probe::argv_text(argv)))
        }
        Ok(Err(words)) => ProbeResult::Failure(words),
        Err(_) => {
            ProbeResult::Failure(format!("`{}` did not end within {} ms", probe::argv_text(argv), timeout.as_millis()))
        }
    }
}

/// Runs a command inside a unit; gives its exit code and its last lines.
async fn run_command(context: &Context, scope: &Scope, unit: &Unit, argv: &Argv) -> Result<(i32, Vec<String>), String> {
    let words = match argv {
        Argv::List(words) => words.clone(),
        Argv::Shell(line) => vec!["/bin/sh".into(), "-c".into(), line.clone()],
    };
    let driver = context.shared.drivers.driver(unit.body.runtime()).map_err(|problem| problem.message)?;
    let request = ExecRequest { argv: words, ..ExecRequest::default() };
    let mut session = driver.exec(scope, unit, request).await.map_err(|problem| problem.message)?;
    let mut text = Vec::new();
    while let Some(output) = session.output.next().await {
        match output {
            ExecOutput::Stdout(bytes) | ExecOutput::Stderr(bytes) => {
                text.extend_from_slice(&bytes);
                // Only the end is ever shown.
                let surplus = text.len().saturating_sub(16 << 10);
                text.drain(..surplus);
            }
            ExecOutput::Exit(code) => {
                let lines = String::from_utf8_lossy(&text).lines().map(str::to_owned).collect();
                return Ok((code, lines));
            }
        }
    }
    Err("the command ended without an exit code".into())
}

async fn run_after_ready(context: &Context, scope: &Scope, unit: &Unit) -> Result<(), Problem> {
    let Body::Process(process) = &unit.body else { return Ok(()) };
    for argv in &process.after_ready {
        let ran = tokio::time::timeout(AFTER_READY_LIMIT, run_command(context, scope, unit, argv)).await;
        let (title, output) = match ran {
            Ok(Ok((0, _))) => continue,
            Ok(Ok((code, output))) => {
                (format!("preparing it failed: `{}` ended with {code}", probe::argv_text(argv)), output)
            }
            Ok(Err(words)) => (format!("preparing it failed: {words}"), Vec::new()),
            Err(_) => {
                (format!("preparing it failed: `{}` did not end within 60 s", probe::argv_text(argv)), Vec::new())
            }
        };
        return Err(Problem { output, ..Problem::new("prepare_failed", 0, title).unit(&unit.name) });
    }
    Ok(())
}

async fn probe_liveness(context: &Context, scope: &Scope, unit: &Unit, live: &Probe) {
    let mut failures = 0;
    loop {
        tokio::time::sleep(live.interval).await;
        match probe_once(context, scope, unit, live).await {
            ProbeResult::Success => {
                failures = 0;
                context.published.edit_unit(&unit.name, |status| {
                    if status.state == UnitState::Unhealthy {
                        status.state = UnitState::Ready;
                        status.reason = None;
                    }
                });
            }
            ProbeResult::Failure(seen) => {
                failures += 1;
                if failures == live.failures.max(1) {
                    drop(context.mailbox.send(Message::UnitUnhealthy { unit: unit.name.clone(), reason: seen }).await);
                }
            }
        }
    }
}
