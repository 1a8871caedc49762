//! The operation `up`: desire, observe, compare, execute; and `plan`, which stops after comparing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use drivers::driver::{Progress, ProgressLine};
use drivers::{Places, Scope};
use plan::application::{Body, PreviewName, Role, RuntimeKind, UnitName};
use plan::observed::{Observed, RunState};
use plan::step::{Action, Plan};
use plan::{Application, rerun};
use protocol::plan::PlanReply;
use protocol::request::UpRequest;
use protocol::status::{PreviewState, UnitState};
use protocol::{EventKind, Problem};

use super::desire::{Desired, Source};
use super::live::follow;
use super::prepare::{Prepared, prepare, runtimes};
use super::supervise::begin_start;
use super::{Context, Message, UnitSecrets, execute, naming, rest};
use crate::approvals::Purpose;
use crate::board::Board;
use crate::bus::now_ms;
use crate::convert;
use crate::registry::{Held, Intent, hold};
use crate::session_previews;
use crate::shared::Shared;

pub(super) async fn run(context: Context, request: UpRequest, source: Source) {
    let begun = Instant::now();
    let outcome = bring_up(&context, &request, &source).await;
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    finish(&context, outcome, milliseconds);
}

/// Stop and start again, changing nothing.
pub(super) async fn restart(context: Context, units: Vec<UnitName>) {
    let begun = Instant::now();
    let outcome = match context.live.scope() {
        Some(scope) => {
            rest::forget(&context, &units);
            let plan = rerun::restart(&scope.application, |unit| units.is_empty() || units.contains(&unit.name));
            context.board.publish(EventKind::Planned { plan: convert::plan_view(&plan) });
            Ok((execute::execute(&context, &scope, &plan, BTreeMap::new()).await, false))
        }
        None => Err(Problem::new("not_running", 409, "nothing runs here")),
    };
    let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    finish(&context, outcome, milliseconds);
}

fn finish(context: &Context, outcome: Result<(Vec<Problem>, bool), Problem>, milliseconds: u64) {
    let (problems, unchanged) = match outcome {
        Ok((problems, unchanged)) => (problems, unchanged),
        Err(problem) => (vec![problem], false),
    };
    if problems.is_empty() {
        context.board.edit_preview(|status| status.ready_at = Some(now_ms()));
        let mut status = context.board.status();
        status.state = PreviewState::Ready;
        context.board.publish(EventKind::Finished { status, milliseconds, unchanged });
        context.board.end(None);
    } else {
        for problem in &problems {
            context.board.set_problem(problem.unit.as_deref().unwrap_or_default(), problem.clone());
        }
        let mut status = context.board.status();
        status.state = PreviewState::Failed;
        context.board.publish(EventKind::Failed { problems, status, milliseconds });
        // What ran before a refused manifest goes on running; then the units tell the state.
        let nothing_runs = context.live.scope().is_none();
        context.board.end(nothing_runs.then_some(PreviewState::Failed));
    }
    context.shared.routing.refresh(&context.shared, &context.id);
}

/// Problems of units (the rest went on) and whether there was nothing to do; or the one problem that stopped it all.
async fn bring_up(context: &Context, request: &UpRequest, source: &Source) -> Result<(Vec<Problem>, bool), Problem> {
    let record = context
        .shared
        .registry
        .get(&context.id)
        .ok_or_else(|| Problem::new("unknown_preview", 404, "this preview is not registered"))?;
    let prepared = prepare(&context.shared, &record, request, source, &context.board, Purpose::Up).await?;
    let Prepared { desired, mut endpoints, scope, observed, plan } = prepared;
    if let Some(missing) = missing_secrets(&desired.missing_secrets) {
        return Err(missing);
    }
    accept(context, request, &desired, source)?;
    write_lock(&context.board, request, desired.lock.as_deref());
    if let Some(note) = session_previews::note(&record) {
        context.board.publish(note);
    }
    for note in &desired.notes {
        context.board.publish(EventKind::Noted { text: note.clone() });
    }
    context.board.publish(EventKind::Planned { plan: convert::plan_view(&plan) });
    context.live.set_scope(scope.clone());
    show_units(context, &scope.application, &observed);
    if !source.is_disk() {
        rest::remember(context, &record);
    }
    deliver_secrets(context, &scope.application)?;
    endpoints.retain(|opening| scope.application.units.contains_key(&opening.unit));
    for text in context.live.endpoints.set(&context.shared, &scope.preview, &endpoints).await {
        context.board.publish(EventKind::Noted { text });
    }
    for runtime in runtimes(&scope.application) {
        follow(context, &scope, runtime).await.map_err(|problem| convert::problem(&problem, None))?;
    }
    context.shared.routing.refresh(&context.shared, &context.id);
    resume_probes(context, &scope.application, &observed, &plan).await;
    let held = hold_ports(&scope.application, &observed, &plan)?;
    let network_is_made = plan.steps.iter().any(|step| step.action == Action::CreateNetwork);
    if !network_is_made {
        forward(context, &scope).await;
    }
    let unchanged = plan.is_empty();
    let problems = execute::execute(context, &scope, &plan, held).await;
    Ok((problems, unchanged))
}

fn missing_secrets(missing: &[String]) -> Option<Problem> {
    let first = missing.first()?;
    let names = missing.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let variable = first.to_uppercase().replace('-', "_");
    let hint = format!(
        "Keep it with `pdev secret set {first}`, give it with `--secret {first}=@FILE` or in the variable PDEV_SECRET_{variable}, or mark it `optional: true`."
    );
    Some(Problem::new("secret_missing", 422, format!("no value for the secret {names}")).hint(hint))
}

/// Remembers what is wanted before anything is touched, so that a crash from here on is finished later.
fn accept(context: &Context, request: &UpRequest, desired: &Desired, source: &Source) -> Result<(), Problem> {
    let containers = desired.application.units.values().any(|unit| unit.body.runtime() == RuntimeKind::Docker);
    // A job that is run once is no new wish for the preview as a whole.
    let once = !request.jobs.is_empty();
    let kept = UpRequest {
        variables: request.variables.clone(),
        force: false,
        jobs: Vec::new(),
        detach: false,
        ..request.clone()
    };
    let written = context.shared.registry.edit(&context.id, |record| {
        if once && record.intent == Intent::Up {
            record.ports.clone_from(&desired.ports);
            return;
        }
        // Who starts one more unit of what is up still wants the others.
        let all = record.intent == Intent::Up && record.request.services.is_empty();
        let wanted = if all { Vec::new() } else { kept.services.clone() };
        record.intent = Intent::Up;
        record.containers = containers;
        record.request = UpRequest { services: wanted, ..kept };
        if source.is_disk() {
            let meant = |unit: &String| desired.chosen.as_ref().is_none_or(|chosen| chosen.contains(unit));
            record.resting.retain(|unit| !meant(unit));
        }
        record.folder = PathBuf::from(&request.folder);
        record.ports.clone_from(&desired.ports);
        if source.is_disk() {
            record.snapshot = desired.snapshot.clone();
        }
    });
    written.map_err(|error| naming::state_problem(&error))
}

fn write_lock(board: &Board, request: &UpRequest, text: Option<&str>) {
    let Some(text) = text else { return };
    let path = PathBuf::from(&request.folder).join("pdev.lock");
    let note = match crate::disk::replace_file(&path, text.as_bytes(), 0o644) {
        Ok(()) => "wrote pdev.lock: commit it, so that everybody gets the same modules".to_owned(),
        Err(error) => format!("cannot write `{}`: {error}; versions of modules are not pinned", path.display()),
    };
    board.publish(EventKind::Noted { text: note });
}

/// Puts every unit on the board, with what is known of it already.
fn show_units(context: &Context, application: &Application, observed: &Observed) {
    let url = |name: &str| context.shared.routing.url_of(&application.preview, application, name);
    let units: Vec<_> = application
        .units
        .values()
        .map(|unit| {
            let mut status = convert::unit(unit);
            status.url = url(&unit.name);
            status
        })
        .collect();
    context.board.keep_units(&units);
    let default_url = application
        .default_service
        .as_deref()
        .and_then(|_| context.shared.routing.url_of_preview(&application.preview));
    context.board.edit_preview(|status| status.url = default_url);
    for (name, seen) in &observed.units {
        context.board.edit_unit(name, |unit| {
            if unit.handle.as_deref() != Some(seen.handle.as_str()) {
                unit.handle = Some(seen.handle.clone());
                unit.started_at = seen.started_at;
                unit.state = UnitState::Waiting;
            }
            if let RunState::Exited(exit) = &seen.state {
                unit.exit_code = exit.code;
                if unit.role == "job" && exit.success() {
                    unit.state = UnitState::Done;
                }
            }
        });
        context.live.set_address(name, seen.address);
    }
}

fn deliver_secrets(context: &Context, application: &Application) -> Result<(), Problem> {
    let delivery = &context.shared.delivery;
    for unit in application.units.values().filter(|unit| !unit.secrets.is_empty()) {
        let delivered = delivery.deliver(&context.id.0, &unit.name, &unit.secrets);
        delivered.map_err(|error| Problem::new("secret_not_delivered", 500, error.to_string()).unit(&unit.name))?;
        if !delivery.in_memory() {
            let text = "there is no tmpfs here: secrets lie as files on the disk until `pdev down`";
            context.board.publish(EventKind::Noted { text: text.into() });
        }
    }
    Ok(())
}

/// Units that run already and are not touched: those that are not known to be ready are looked at again.
async fn resume_probes(context: &Context, application: &Application, observed: &Observed, plan: &Plan) {
    let touched: BTreeSet<&UnitName> =
        plan.steps.iter().filter(|step| convert::changes(&step.action)).filter_map(|step| step.action.unit()).collect();
    for (name, seen) in &observed.units {
        let Some(unit) = application.units.get(name) else { continue };
        if seen.state != RunState::Running || touched.contains(name) {
            continue;
        }
        if context.board.unit(name).is_some_and(|status| status.state == UnitState::Ready) {
            continue;
        }
        begin_start(context, name);
        context.live.set_address(name, seen.address);
        context.board.edit_unit(name, |status| status.started_at = seen.started_at);
        // A job that runs already is awaited by its exit alone.
        if unit.role != Role::Job {
            drop(context.mailbox.send(Message::Started { unit: name.clone() }).await);
        }
    }
}

/// Keeps the ports of everything that will be started, until it is.
fn hold_ports(
    application: &Application,
    observed: &Observed,
    plan: &Plan,
) -> Result<BTreeMap<String, Vec<Held>>, Problem> {
    let stopped: BTreeSet<&UnitName> = plan
        .steps
        .iter()
        .filter_map(|step| match &step.action {
            Action::Stop { unit, .. } | Action::Remove { unit, .. } => Some(unit),
            _ => None,
        })
        .collect();
    let mut held: BTreeMap<String, Vec<Held>> = BTreeMap::new();
    for step in &plan.steps {
        let Action::Start { unit: name, .. } = &step.action else { continue };
        // A paused container has its ports already.
        if observed.units.get(name).is_some_and(|seen| seen.state == RunState::Paused) {
            continue;
        }
        let Some(unit) = application.units.get(name).filter(|_| !stopped.contains(name)) else { continue };
        for port in unit.ports.values() {
            match hold(port.host) {
                Ok(socket) => held.entry(name.clone()).or_default().push(socket),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => return Err(port_taken(name, port.host)),
                // Low ports need a privilege that the engine has and we have not.
                Err(_) => {}
            }
        }
    }
    Ok(held)
}

fn port_taken(unit: &str, port: u16) -> Problem {
    let by = drivers::ports::holder(port).map(|holder| holder.to_string()).unwrap_or_default();
    Problem::new("port_taken", 409, format!("port {port} on this machine is taken{by}")).unit(unit).hint(format!(
        "Stop that program, or let pdev choose a port: take `host` out of this port of `services.{unit}`."
    ))
}

/// Local processes that containers may call are reached through the network's gateway.
pub(super) async fn forward(context: &Context, scope: &Scope) {
    let peers: BTreeSet<&UnitName> = scope
        .application
        .units
        .values()
        .filter_map(|unit| match &unit.body {
            Body::Container(container) => Some(&container.process_peers),
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
        .flat_map(|unit| unit.ports.values().map(|port| port.host))
        .collect();
    let gateway: Option<IpAddr> = match context.shared.engines.driver(RuntimeKind::Docker) {
        Ok(driver) => driver.gateway(&scope.preview.id).await.ok().flatten(),
        Err(_) => None,
    };
    let Some(gateway) = gateway else { return };
    if let Err(words) = context.live.forwards.set(gateway, &ports).await {
        context.board.publish(EventKind::Noted { text: words });
    }
}

/// The scope that drivers get.
pub(super) fn scope(context: &Context, preview: PreviewName, places: Places, application: Arc<Application>) -> Scope {
    scope_of(&context.shared, &context.board, preview, places, application)
}

pub(super) fn scope_of(
    shared: &Arc<Shared>,
    board: &Arc<Board>,
    preview: PreviewName,
    places: Places,
    application: Arc<Application>,
) -> Scope {
    let has_files = |unit: &&plan::application::Unit| !unit.secrets.is_empty() || unit.identity.is_some();
    let units = application.units.values().filter(has_files).map(|unit| unit.name.clone()).collect();
    let secrets = UnitSecrets { shared: Arc::clone(shared), preview: preview.id.clone(), units };
    Scope {
        preview,
        places,
        application,
        secrets: Arc::new(secrets),
        progress: Arc::new(BoardProgress(Arc::clone(board))),
    }
}

struct BoardProgress(Arc<Board>);

impl Progress for BoardProgress {
    fn line(&self, unit: &str, line: ProgressLine) {
        self.0.publish(EventKind::Progress { unit: unit.to_owned(), line: convert::progress(line) });
    }
}

/// What `up` would do now. Claims ports (they are remembered), touches nothing else.
///
/// # Errors
/// What would make `up` refuse before its first step.
pub async fn preview_plan(shared: &Arc<Shared>, request: &UpRequest) -> Result<PlanReply, Problem> {
    let (named, asked) = (Arc::clone(shared), request.clone());
    let bound = tokio::task::spawn_blocking(move || naming::bind(&named, &asked)).await;
    let handle = bound.map_err(|error| Problem::new("internal", 500, error.to_string()))??;
    let record = shared
        .registry
        .get(&handle.id)
        .ok_or_else(|| Problem::new("unknown_preview", 404, "this preview is not registered"))?;
    let prepared = prepare(shared, &record, request, &Source::Disk, &handle.board, Purpose::Look).await?;
    let mut notes = prepared.desired.notes;
    if let Some(missing) = missing_secrets(&prepared.desired.missing_secrets) {
        notes.push(missing.title);
    }
    Ok(PlanReply {
        preview: convert::preview(&record.name),
        plan: convert::plan_view(&prepared.plan),
        notes,
        diagnostics: prepared.desired.diagnostics,
    })
}
