//! The task that probes one unit: first until it is ready, then for liveness.
//!
//! After readiness, only `health.live` is probed, so that an idle preview causes no wake-ups. A later loss of readiness
//! is noticed by exit events and by the proxy's responses.

use std::sync::Arc;
use std::time::Duration;

use drivers::Scope;
use host::clock::now_milliseconds;
use plan::Application;
use plan::application::{Argv, Body, Check, Probe, ReadyCheck, Unit};
use plan::observed::RunState;
use protocol::Problem;
use protocol::status::UnitState;
use tokio::time::Instant;

use super::port_owner::{self, PortMismatch};
use super::reported_health::{self, is_supervised_by_runtime};
use super::unit_command::run_command;
use super::{Context, Message, crash_report};
use crate::probe::{self, ProbeResult, ProbeSchedule};

/// A busy engine may report a container's address some time after its start.
const ADDRESS_LIMIT: Duration = if cfg!(target_os = "linux") { Duration::from_secs(3) } else { Duration::ZERO };
/// After this many observations of a running container without an address, it has none that this machine can reach.
const OBSERVATIONS_WITHOUT_ADDRESS_MAX: u32 = 5;
/// The time limit for each of a module's after-ready commands, such as creating a database.
const AFTER_READY_LIMIT: Duration = Duration::from_secs(60);

pub(super) async fn watch_unit(context: Context, scope: Scope, application: Arc<Application>, name: String) {
    let Some(unit) = application.units.get(&name) else { return };
    if is_supervised_by_runtime(unit) {
        return reported_health::follow(&context, &scope, unit).await;
    }
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
        status.ready_at = Some(now_milliseconds());
    });
    context.shared.routing.refresh(&context.shared, &context.id);
    if let Some(live) = &unit.health.live {
        probe_liveness(&context, &scope, unit, live).await;
    }
}

/// Finds a container's own address for probing. It exists only while the container runs; usually the start has returned
/// it already.
async fn discover_address(context: &Context, scope: &Scope, unit: &Unit) {
    if !matches!(unit.body, Body::Container(_)) {
        context.live.set_address(&unit.name, None);
        return;
    }
    if context.live.has_address(&unit.name) {
        return;
    }
    let Ok(driver) = context.shared.drivers.driver_of(&scope.targets, unit.runtime) else { return };
    let deadline = Instant::now() + ADDRESS_LIMIT;
    let mut running_observations = 0;
    loop {
        let observed = driver.observe(&scope.preview.id, &scope.locations).await;
        let observed_unit = observed.ok().and_then(|mut observed| observed.units.remove(&unit.name));
        let address = observed_unit.as_ref().and_then(|observed_unit| observed_unit.address);
        context.live.set_address(&unit.name, address);
        running_observations +=
            u32::from(observed_unit.is_some_and(|observed_unit| observed_unit.state == RunState::Running));
        // Container addresses of an engine in a virtual machine are not reachable; its port forwarder is used instead.
        if address.is_some() || running_observations >= OBSERVATIONS_WITHOUT_ADDRESS_MAX || Instant::now() >= deadline {
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
        ReadyCheck::Probe(probe) => probe_until_ready(context, scope, unit, probe, deadline).await?,
    }
    run_after_ready(context, scope, unit).await
}

async fn probe_until_ready(
    context: &Context,
    scope: &Scope,
    unit: &Unit,
    ready_probe: &Probe,
    deadline: Instant,
) -> Result<(), Problem> {
    let mut schedule = ProbeSchedule::default();
    let mut successes = 0;
    let waiting_for = probe::describe_check(&ready_probe.check);
    context.published.edit_unit(&unit.name, |status| status.reason = Some(format!("waiting for {waiting_for}")));
    loop {
        let result = match probe_once(context, scope, unit, ready_probe).await {
            ProbeResult::Success => port_owner::check(context, scope, unit, ready_probe).await,
            failure @ ProbeResult::Failure(_) => failure,
        };
        match result {
            ProbeResult::Success => {
                successes += 1;
                if successes >= ready_probe.successes.max(1) {
                    return Ok(());
                }
            }
            ProbeResult::Failure(cause) => {
                successes = 0;
                let reason = format!("waiting for {waiting_for}: {cause}");
                context.published.edit_unit(&unit.name, |status| status.reason = Some(reason));
                // Checked only after a failed probe, so that every unit is probed at least once.
                if Instant::now() >= deadline {
                    let ports = port_owner::ports_of_unit(context, scope, unit, ready_probe).await;
                    return Err(never_healthy_problem(unit, &cause, ports.as_ref()));
                }
            }
        }
        tokio::time::sleep(schedule.next_delay()).await;
    }
}

fn never_healthy_problem(unit: &Unit, cause: &str, ports: Option<&PortMismatch>) -> Problem {
    let limit = unit.health.start_limit.as_secs();
    let problem =
        Problem::new("never_healthy", 0, format!("it did not become healthy within {limit} s; last probe: {cause}"))
            .unit(&unit.name);
    if let Some(mismatch) = ports {
        return Problem { title: format!("{}; {mismatch}", problem.title), ..problem }.hint(mismatch.hint());
    }
    problem.hint(format!(
        "Read its output with `pdev logs {}`. If it only needs more time, set `health: {{ start_limit: {}s }}`.",
        unit.name,
        limit * 3
    ))
}

async fn probe_once(context: &Context, scope: &Scope, unit: &Unit, unit_probe: &Probe) -> ProbeResult {
    if let Check::Exec { argv } = &unit_probe.check {
        return probe_by_command(context, scope, unit, argv, unit_probe.timeout).await;
    }
    let port = probe::port_name(&unit_probe.check).unwrap_or("main");
    let is_forwarded = matches!(unit.body, Body::Container(_)) && !context.live.has_address(&unit.name);
    let settle = if is_forwarded { probe::SETTLE_FORWARDED } else { probe::SETTLE_DIRECT };
    probe::probe_network(&unit_probe.check, &context.live.addresses(unit, port), unit_probe.timeout, settle).await
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
            let last_line = output.last().map(|line| format!(": {line}")).unwrap_or_default();
            ProbeResult::Failure(format!("`{}` ended with exit code {code}{last_line}", probe::argv_text(argv)))
        }
        Ok(Err(cause)) => ProbeResult::Failure(cause),
        Err(_) => {
            ProbeResult::Failure(format!("`{}` did not end within {} ms", probe::argv_text(argv), timeout.as_millis()))
        }
    }
}

async fn run_after_ready(context: &Context, scope: &Scope, unit: &Unit) -> Result<(), Problem> {
    let Body::Process(process) = &unit.body else { return Ok(()) };
    for argv in &process.after_ready {
        let command = probe::argv_text(argv);
        let result = tokio::time::timeout(AFTER_READY_LIMIT, run_command(context, scope, unit, argv)).await;
        let (cause, output) = match result {
            Ok(Ok((0, _))) => continue,
            Ok(Ok((code, output))) => (format!("`{command}` ended with exit code {code}"), output),
            Ok(Err(cause)) => (cause, Vec::new()),
            Err(_) => (format!("`{command}` did not end within 60 s"), Vec::new()),
        };
        let title = format!("its preparation failed: {cause}");
        return Err(Problem { output, ..Problem::new("prepare_failed", 0, title).unit(&unit.name) });
    }
    Ok(())
}

async fn probe_liveness(context: &Context, scope: &Scope, unit: &Unit, live: &Probe) {
    let mut failures = 0;
    loop {
        tokio::time::sleep(live.interval).await;
        match probe_once(context, scope, unit, live).await {
            ProbeResult::Success => failures = 0,
            ProbeResult::Failure(reason) => {
                failures += 1;
                if failures >= live.failures.max(1) {
                    // The supervisor restarts the unit, and with it the probes.
                    drop(context.mailbox.send(Message::UnitUnhealthy { unit: unit.name.clone(), reason }).await);
                    return;
                }
            }
        }
    }
}
