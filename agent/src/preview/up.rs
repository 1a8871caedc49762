//! The operation `up`: resolve, observe, compare, execute. Also `plan`, which ends after comparing, and `restart`.

use std::collections::{BTreeMap, BTreeSet};

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use drivers::Scope;
use plan::application::{Body, JobTiming, Role, UnitName};
use plan::observed::{Observed, RunState};
use plan::step::{Action, Plan};
use plan::target::Targets;
use plan::{Application, lifecycle};
use protocol::plan::PlanReply;
use protocol::request::UpRequest;
use protocol::status::UnitState;
use protocol::{EventKind, Problem};

use super::caller_environment::{self, CallerEnvironment};
use super::desired_state::{DesiredState, ManifestSource};
use super::live_state::{mark_starting, subscribe_to_runtime};
use super::outcome::Outcome;
use super::prepare::{PreparedPlan, prepare_plan, used_runtimes};
use super::{Context, Message, data_moves, execute, naming, stop};
use crate::approvals::Purpose;
use crate::convert;
use crate::forwards::UnitForwards;
use crate::published_status::PublishedStatus;
use crate::registry::{Intent, PortReservation, reserve_port};
use crate::retained_options::RetainedOptions;
use crate::session_previews;
use crate::shared::Shared;

pub(super) async fn run(context: Context, request: UpRequest, source: ManifestSource) -> Outcome {
    let begun = Instant::now();
    Outcome::new(bring_up(&context, &request, &source).await, begun)
}

/// Stops and starts units (all if the list is empty) without applying changes of the manifest.
pub(super) async fn restart(context: Context, units: Vec<UnitName>) -> Outcome {
    let begun = Instant::now();
    let result = match context.live.scope() {
        Some(scope) => {
            stop::clear_stopped(&context, &units);
            let plan = lifecycle::restart(&scope.application, |unit| units.is_empty() || units.contains(&unit.name));
            context.published.publish_event(EventKind::Planned { plan: convert::plan_view(&plan) });
            Ok((execute::execute_plan(&context, &scope, &plan, BTreeMap::new()).await, false))
        }
        None => Err(Problem::new("not_running", 409, "the preview is down")),
    };
    Outcome::new(result, begun)
}

/// Returns the problems of single units (all others were started) and whether nothing had to be changed. An error is
/// the one problem that ended the operation.
async fn bring_up(
    context: &Context,
    request: &UpRequest,
    source: &ManifestSource,
) -> Result<(Vec<Problem>, bool), Problem> {
    let record = context
        .shared
        .registry
        .get(&context.id)
        .ok_or_else(|| Problem::new("unknown_preview", 404, "this preview is not registered"))?;
    let previous = caller_environment::recall(&context.shared, &context.live, &record).await;
    let caller = CallerEnvironment::choose(&context.live, previous, request);
    let prepared = prepare_plan(
        &context.shared,
        &record,
        request,
        source,
        &context.published,
        Purpose::Up,
        caller.of_operation.clone(),
    )
    .await?;
    let PreparedPlan { desired, mut endpoints, scope, observed, plan } = prepared;
    if let Some(missing) = missing_secrets_problem(&desired.missing_secrets) {
        return Err(missing);
    }
    if source.is_disk() && !request.leave_data {
        data_moves::refuse(&scope.application, &observed, &plan)?;
    }
    record_intent(context, request, &desired, source, &targets_with_objects(&scope, &observed))?;
    write_lock_file(&context.published, request, desired.lock_update.as_deref());
    if let Some(note) = session_previews::session_note(&record) {
        context.published.publish_event(note);
    }
    let notes = desired.notes.iter().cloned().chain(RetainedOptions::of(request).note());
    for note in notes.chain(caller.note(&observed, &plan)) {
        context.published.publish_event(EventKind::Noted { text: note });
    }
    context.published.publish_event(EventKind::Planned { plan: convert::plan_view(&plan) });
    context.live.set_scope(Scope { shell_environment: caller.recorded.clone(), ..scope.clone() });
    publish_units(context, &scope.application, &observed);
    let has_processes = scope.application.units.values().any(|unit| unit.runtime.capabilities().runs_as_user);
    context.published.edit_preview(|status| status.process_environment = caller.source(has_processes));
    if !source.is_disk() {
        stop::restore_stopped(context, &record);
    }
    context.live.set_input_digests(desired.delivered_inputs.clone());
    deliver_secrets(context, &scope.application)?;
    endpoints.retain(|binding| scope.application.units.contains_key(&binding.unit));
    // Open the endpoints before the first start: a program may request its credentials immediately.
    for text in context.live.endpoints.set(&context.shared, &scope.preview, &endpoints).await {
        context.published.publish_event(EventKind::Noted { text });
    }
    for runtime in used_runtimes(&scope.application) {
        subscribe_to_runtime(context, &scope, runtime)
            .await
            .map_err(|problem| convert::driver_problem(&problem, None))?;
    }
    context.shared.routing.refresh(&context.shared, &context.id);
    resume_probes(context, &scope.application, &observed, &plan).await;
    let reservations = reserve_ports(&scope.application, &observed, &plan, &context.live.unit_forwards)?;
    let creates_network = plan.steps.iter().any(|step| matches!(step.action, Action::CreateNetwork { .. }));
    // The gateway has an address only once its network exists.
    if !creates_network {
        forward_peer_ports(context, &scope).await;
    }
    forward_unit_ports(context, &scope).await;
    let unchanged = plan.has_no_changes();
    let problems = execute::execute_plan(context, &scope, &plan, reservations).await;
    Ok((problems, unchanged))
}

/// The targets where the preview will have units, or still has objects.
fn targets_with_objects(scope: &Scope, observed: &Observed) -> Targets {
    let mut runtimes = used_runtimes(&scope.application);
    runtimes.extend(observed.units.values().chain(&observed.strays).map(|unit| unit.runtime));
    runtimes.extend(observed.networks.iter().chain(&observed.volumes).map(|object| object.runtime));
    scope.targets.only(|runtime| runtimes.contains(&runtime))
}

fn missing_secrets_problem(missing: &[String]) -> Option<Problem> {
    let first = missing.first()?;
    let names = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let variable = first.to_uppercase().replace('-', "_");
    let hint = format!(
        "Store it with `pdev secret set {first}`, pass it with `--secret {first}=@FILE` or in the variable \
         PDEV_SECRET_{variable}, or mark it `optional: true`."
    );
    Some(Problem::new("secret_missing", 422, format!("no value for the secret {names}")).hint(hint))
}

/// Records the accepted request before the first step, so that a restarted agent completes an interrupted `up`.
fn record_intent(
    context: &Context,
    request: &UpRequest,
    desired: &DesiredState,
    source: &ManifestSource,
    targets: &Targets,
) -> Result<(), Problem> {
    // A request for a single job does not change the desired state of the preview.
    let is_job_run = !request.jobs.is_empty();
    let recorded_request = UpRequest {
        variables: request.variables.clone(),
        force: false,
        jobs: Vec::new(),
        // The target is recorded instead.
        target_variables: BTreeMap::new(),
        reset: false,
        leave_data: false,
        detach: false,
        ..request.clone()
    };
    let recorded = context.shared.registry.edit(&context.id, |record| {
        if is_job_run && record.intent == Intent::Up {
            record.ports.clone_from(&desired.ports);
            return;
        }
        // If all services are up, an `up` of one of them must not reduce the preview to that service.
        let all_are_up = record.intent == Intent::Up && record.request.services.is_empty();
        let services = if all_are_up { Vec::new() } else { recorded_request.services.clone() };
        record.intent = Intent::Up;
        record.is_restored = false;
        record.targets = targets.clone();
        if source.is_disk() {
            record.applied_context.clone_from(&record.context);
        }
        record.request = UpRequest { services, ..recorded_request };
        if source.is_disk() && !is_job_run {
            record.retained_options = RetainedOptions::of(request);
        }
        if source.is_disk() {
            let is_selected =
                |unit: &String| desired.selected_units.as_ref().is_none_or(|selected| selected.contains(unit));
            record.stopped_units.retain(|unit| !is_selected(unit));
        }
        record.delivered_inputs.retain(|unit, _| desired.application.units.contains_key(unit));
        // A unit that is recorded already keeps the digests of its last start, until it is started again.
        for (unit, digests) in &desired.delivered_inputs {
            record.delivered_inputs.entry(unit.clone()).or_insert_with(|| digests.clone());
        }
        record.folder = PathBuf::from(&request.folder);
        record.ports.clone_from(&desired.ports);
        if source.is_disk() {
            record.snapshot = desired.snapshot.clone();
        }
    });
    recorded.map_err(|error| convert::state_write_problem(&error))
}

fn write_lock_file(published: &PublishedStatus, request: &UpRequest, text: Option<&str>) {
    let Some(text) = text else { return };
    let path = PathBuf::from(&request.folder).join("pdev.lock");
    let note = match host::files::replace_file(&path, text.as_bytes(), 0o644) {
        Ok(()) => "wrote pdev.lock; commit it, so that other checkouts use the same module versions".to_owned(),
        Err(error) => format!("cannot write `{}`: {error}; module versions are not pinned", path.display()),
    };
    published.publish_event(EventKind::Noted { text: note });
}

/// Publishes every unit, with its observed state.
fn publish_units(context: &Context, application: &Application, observed: &Observed) {
    let url = |name: &str| context.shared.routing.service_url(&application.preview, application, name);
    let units: Vec<_> = application
        .units
        .values()
        .map(|unit| {
            let mut status = convert::unit_status(unit);
            status.url = url(&unit.name);
            if unit.role == Role::Job && unit.when == JobTiming::Manual {
                status.reason = Some(format!("runs with `pdev run {}`", unit.name));
            }
            status
        })
        .collect();
    context.published.replace_units(&units);
    let default_url =
        application.default_service.as_deref().and_then(|_| context.shared.routing.preview_url(&application.preview));
    context.published.edit_preview(|status| status.url = default_url);
    for (name, observed_unit) in &observed.units {
        context.published.edit_unit(name, |unit| {
            // Another object than the published one, so its state does not apply. Also the case after the agent's
            // start.
            if unit.handle.as_deref() != Some(observed_unit.handle.as_str()) {
                unit.handle = Some(observed_unit.handle.clone());
                unit.started_at = observed_unit.started_at;
                unit.state = UnitState::Waiting;
            }
            if let RunState::Exited(exit) = &observed_unit.state {
                unit.exit_code = exit.code;
                if unit.role == "job" && exit.success() {
                    unit.state = UnitState::Done;
                }
            }
        });
        context.live.set_address(name, observed_unit.address);
    }
}

fn deliver_secrets(context: &Context, application: &Application) -> Result<(), Problem> {
    let delivery = &context.shared.delivery;
    for unit in application.units.values().filter(|unit| !unit.secrets.is_empty()) {
        let delivered = delivery.deliver(&context.id.0, &unit.name, &unit.secrets);
        delivered.map_err(|error| Problem::new("secret_not_delivered", 500, error.to_string()).unit(&unit.name))?;
        if !delivery.is_in_memory() {
            let text = "this machine has no tmpfs, so secrets are stored as files on the disk until `pdev down`";
            context.published.publish_event(EventKind::Noted { text: text.into() });
        }
    }
    Ok(())
}

/// Probes units that are running, are not changed by the plan, and are not known to be ready.
async fn resume_probes(context: &Context, application: &Application, observed: &Observed, plan: &Plan) {
    let changed: BTreeSet<&UnitName> = plan
        .steps
        .iter()
        .filter(|step| convert::is_mutating(&step.action))
        .filter_map(|step| step.action.unit())
        .collect();
    for (name, observed_unit) in &observed.units {
        let Some(unit) = application.units.get(name) else { continue };
        if observed_unit.state != RunState::Running || changed.contains(name) {
            continue;
        }
        if context.published.unit_status(name).is_some_and(|status| status.state == UnitState::Ready) {
            continue;
        }
        mark_starting(context, name);
        context.live.set_address(name, observed_unit.address);
        context.published.edit_unit(name, |status| status.started_at = observed_unit.started_at);
        // For a running job only the exit matters; it has no readiness to probe.
        if unit.role != Role::Job {
            drop(context.mailbox.send(Message::UnitStarted { unit: name.clone() }).await);
        }
    }
}

/// Reserves the ports of all units that the plan starts, until each of them is started.
fn reserve_ports(
    application: &Application,
    observed: &Observed,
    plan: &Plan,
    forwards: &UnitForwards,
) -> Result<BTreeMap<String, Vec<PortReservation>>, Problem> {
    let stopped: BTreeSet<&UnitName> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Stop { unit, .. } | Action::Remove { unit, .. } | Action::Delete { unit, .. } => Some(unit),
            _ => None,
        })
        .collect();
    let mut reservations: BTreeMap<String, Vec<PortReservation>> = BTreeMap::new();
    for step in &plan.steps {
        let (Action::Start { unit: name, .. } | Action::Apply { unit: name, .. }) = &step.action else { continue };
        // A paused container still has its ports.
        if observed.units.get(name).is_some_and(|observed_unit| observed_unit.state == RunState::Paused) {
            continue;
        }
        // The ports of a unit that is stopped first are still in use by that unit.
        let Some(unit) = application.units.get(name).filter(|_| !stopped.contains(name)) else { continue };
        // The agent itself listens on the ports that it forwards.
        for port in unit.ports.values().filter(|port| !forwards.has_port(port.host_port)) {
            match reserve_port(port.host_port) {
                Ok(reservation) => reservations.entry(name.clone()).or_default().push(reservation),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    return Err(port_taken_problem(name, port.host_port));
                }
                // Ports below 1024 need a privilege that the engine may have and the agent does not.
                Err(_) => {}
            }
        }
    }
    Ok(reservations)
}

fn port_taken_problem(unit: &str, port: u16) -> Problem {
    let by = host::ports::find_port_owner(port).map(|owner| owner.to_string()).unwrap_or_default();
    Problem::new("port_taken", 409, format!("port {port} on this machine is taken{by}")).unit(unit).hint(format!(
        "Stop that program, or remove `host` from this port of `services.{unit}` so that pdev chooses a free port."
    ))
}

/// Forwards the network's gateway to the local processes that containers need to reach.
pub(super) async fn forward_peer_ports(context: &Context, scope: &Scope) {
    let peers: BTreeSet<&UnitName> = scope
        .application
        .units
        .values()
        .filter_map(|unit| match &unit.body {
            Body::Container(container) => Some(&container.gateway_peers),
            Body::Process(_) => None,
        })
        .flatten()
        .collect();
    if peers.is_empty() {
        context.live.forwards.clear();
        return;
    }
    let ports: Vec<u16> = peers
        .iter()
        .filter_map(|name| scope.application.units.get(*name))
        .flat_map(|unit| unit.ports.values().map(|port| port.host_port))
        .collect();
    for runtime in used_runtimes(&scope.application) {
        let Ok(driver) = context.shared.drivers.driver_of(&scope.targets, runtime) else { continue };
        let Some(gateway) = driver.gateway() else { continue };
        let Some(gateway) = gateway.gateway_address(&scope.preview.id).await.ok().flatten() else { continue };
        if let Err(text) = context.live.forwards.set(gateway, &ports).await {
            context.published.publish_event(EventKind::Noted { text });
        }
    }
}

/// Forwards the host ports of units that this machine cannot reach otherwise.
pub(super) async fn forward_unit_ports(context: &Context, scope: &Scope) {
    let units = scope.application.units.values().filter_map(|unit| {
        let driver = context.shared.drivers.driver_of(&scope.targets, unit.runtime).ok()?;
        driver.port_forward().is_some().then_some((unit, driver))
    });
    let units: Vec<_> = units.collect();
    if let Err(text) = context.live.unit_forwards.set(scope, &units).await {
        context.published.publish_event(EventKind::Noted { text });
    }
}

/// Computes the plan of `up`. It claims and records ports, and changes nothing else.
///
/// # Errors
/// The same problems that `up` reports before its first step.
pub async fn plan_up(shared: &Arc<Shared>, request: &UpRequest) -> Result<PlanReply, Problem> {
    let mut up_request = request.clone();
    let caller = caller_environment::take_from(&mut up_request);
    let shared_of_task = Arc::clone(shared);
    let bound = tokio::task::spawn_blocking(move || naming::bind_preview(&shared_of_task, &up_request)).await;
    let (handle, request) = bound.map_err(|error| Problem::new("internal", 500, error.to_string()))??;
    let record = shared
        .registry
        .get(&handle.id)
        .ok_or_else(|| Problem::new("unknown_preview", 404, "this preview is not registered"))?;
    let prepared =
        prepare_plan(shared, &record, &request, &ManifestSource::Disk, &handle.published, Purpose::Plan, None).await?;
    let mut notes = prepared.desired.notes;
    notes.extend(record.retained_options.note());
    if let (Some(caller), Some(previous)) = (caller, caller_environment::recall(shared, &handle.live, &record).await) {
        notes.extend(caller_environment::difference_note(&previous, &caller, &prepared.observed, &prepared.plan));
    }
    if let Some(missing) = missing_secrets_problem(&prepared.desired.missing_secrets) {
        notes.push(missing.title);
    }
    Ok(PlanReply {
        preview: convert::preview_ref(&record.name),
        plan: convert::plan_view(&prepared.plan),
        notes,
        diagnostics: prepared.desired.diagnostics,
    })
}
