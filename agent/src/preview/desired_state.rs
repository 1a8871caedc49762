//! Turns a request into the desired application: reads files, loads the manifest, claims ports, resolves placeholders.
//!
//! The pure crates make all decisions. This module provides their inputs and records the files that they read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use host::checkout::find_checkout;
use host::clock::now_milliseconds;
use manifest::date::Date;
use plan::Application;
use plan::application::{RuntimeKind, UnitName};
use plan::load::{LoadOptions, LoadedManifest, load as load_files};
use plan::resolve::{Git, PortRequest, ResolveInputs as ResolveContext, required_ports, resolve};
use protocol::Problem;
use protocol::problem::DiagnosticView;
use protocol::request::UpRequest;
use sha2::{Digest, Sha256};
use strings::to_hex;

use super::delivered_inputs::digest_inputs;
use crate::convert;
use crate::disk::{Disk, Recorder, Snapshot};
use crate::registry::{InputDigests, Record};
use crate::shared::Shared;

/// Where the manifest is read from.
#[derive(Clone, PartialEq, Debug)]
pub enum ManifestSource {
    Disk,
    /// The files that the last accepted `up` read. Used for recovery, when the agent or a runtime was restarted.
    Snapshot(Snapshot),
}

impl ManifestSource {
    #[must_use]
    pub fn is_disk(&self) -> bool {
        matches!(self, Self::Disk)
    }
}

pub struct DesiredState {
    /// All units of the manifest, selected or not.
    pub application: Application,
    /// The units that this request names and the units that they need; `None` selects all.
    pub selected_units: Option<BTreeSet<String>>,
    pub diagnostics: Vec<DiagnosticView>,
    pub notes: Vec<String>,
    pub ports: BTreeMap<String, u16>,
    pub snapshot: Snapshot,
    /// The new text of `pdev.lock`, if it differs from the file.
    pub lock_update: Option<String>,
    /// Job -> patterns of its input files. The job runs again when one of them changes.
    pub job_inputs: BTreeMap<String, Vec<String>>,
    /// Digests of the secrets and sensitive values that each unit gets.
    pub delivered_inputs: BTreeMap<UnitName, InputDigests>,
    /// Secrets that selected units require and that have no value.
    pub missing_secrets: Vec<String>,
}

const DEFAULT_MANIFEST: &str = "pdev.yaml";

fn manifest_path(request: &UpRequest) -> &str {
    request.file.as_deref().unwrap_or(DEFAULT_MANIFEST)
}

/// Identifies the manifest's current contents, to decide whether a second `up` is the same as the running one.
#[must_use]
pub fn request_fingerprint(request: &UpRequest) -> String {
    let bytes = std::fs::read(Path::new(&request.folder).join(manifest_path(request))).unwrap_or_default();
    let digest = to_hex(Sha256::digest(&bytes));
    format!("{}:{digest}", request.folder)
}

/// Loads the manifest without resolving it.
///
/// # Errors
/// When the manifest has errors. The problem contains all diagnostics.
pub fn load_manifest(request: &UpRequest, source: &ManifestSource) -> Result<LoadedManifest, Problem> {
    let options = load_options(request)?;
    let loaded = match source {
        ManifestSource::Disk => load_files(manifest_path(request), &Disk::new(&request.folder), &options),
        ManifestSource::Snapshot(snapshot) => load_files(manifest_path(request), snapshot, &options),
    };
    ensure_usable(loaded)
}

fn ensure_usable(loaded: LoadedManifest) -> Result<LoadedManifest, Problem> {
    if loaded.is_usable() {
        Ok(loaded)
    } else {
        Err(manifest_problem(convert::diagnostics::diagnostic_views(&loaded.diagnostics, &loaded.sources)))
    }
}

fn manifest_problem(diagnostics: Vec<DiagnosticView>) -> Problem {
    let errors = diagnostics.iter().filter(|diagnostic| diagnostic.severity == "error").count();
    let title = format!("the manifest has {errors} error{}", if errors == 1 { "" } else { "s" });
    Problem {
        diagnostics,
        ..Problem::new("manifest", 422, title).hint("Run `pdev check` to see them in the manifest.")
    }
}

fn load_options(request: &UpRequest) -> Result<LoadOptions, Problem> {
    let sets = request.sets.iter().map(|text| {
        manifest::SetOverride::parse(text).map_err(|reason| {
            Problem::new("invalid_set", 422, format!("`--set {text}`: {reason}"))
                .hint("Write it as `--set services.web.replicas=2`.")
        })
    });
    Ok(LoadOptions { environment: request.environment.clone(), sets: sets.collect::<Result<_, _>>()? })
}

/// Computes the desired application. Claims ports in the registry, but does not access a runtime.
///
/// # Errors
/// When the manifest has errors, a requested unit or job is unknown, no port is free, or the state cannot be written.
pub fn resolve_desired_state(
    shared: &Shared,
    record: &Record,
    request: &UpRequest,
    source: &ManifestSource,
    default_runtime: RuntimeKind,
) -> Result<DesiredState, Problem> {
    let options = load_options(request)?;
    let (loaded, snapshot) = match source {
        ManifestSource::Disk => {
            let recorder = Recorder::new(Path::new(&request.folder));
            let loaded = load_files(manifest_path(request), &recorder, &options);
            (loaded, recorder.into_snapshot())
        }
        ManifestSource::Snapshot(snapshot) => {
            (load_files(manifest_path(request), snapshot, &options), snapshot.clone())
        }
    };
    let loaded = ensure_usable(loaded)?;
    let port_requests = required_ports(&loaded, default_runtime);
    let ports = claim_ports(shared, record, &port_requests)?;
    let inputs = resolve_context(shared, record, request, &ports, default_runtime)?;
    let resolved = resolve(&loaded, &inputs);
    let mut all_diagnostics = loaded.diagnostics.clone();
    all_diagnostics.extend(resolved.diagnostics.iter().cloned());
    all_diagnostics.sort_by_key(|diagnostic| (diagnostic.span.file, diagnostic.span.start, diagnostic.code));
    // Loading and resolving may report the same mistake.
    all_diagnostics.dedup();
    let diagnostics = convert::diagnostics::diagnostic_views(&all_diagnostics, &loaded.sources);
    if !resolved.is_usable() {
        return Err(manifest_problem(diagnostics));
    }
    let application = resolved.application;
    let selected_units = select_units(&application, &request.services)?;
    let is_job = |name: &str| application.units.get(name).is_some_and(|unit| unit.role == plan::application::Role::Job);
    if let Some(unknown) = request.jobs.iter().find(|name| !is_job(name)) {
        let jobs = loaded.manifest.jobs.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if jobs.is_empty() { "it has no jobs".to_owned() } else { format!("it has {jobs}") };
        return Err(Problem::new("unknown_unit", 404, format!("the manifest has no job `{unknown}`; {known}")));
    }
    let missing_secrets = find_missing_secrets(shared, record, &loaded, &application, selected_units.as_ref());
    let job_inputs = job_inputs(&loaded, &application);
    let project = Path::new(&request.folder);
    let seed = &inputs.password_seed;
    let delivered_inputs = digest_inputs(shared, &record.name.id, &loaded, &application, project, seed);
    Ok(DesiredState {
        job_inputs,
        delivered_inputs,
        application,
        selected_units,
        diagnostics,
        notes: resolved.notes,
        ports,
        snapshot,
        lock_update: loaded.lock_update(),
        missing_secrets,
    })
}

fn claim_ports(shared: &Shared, record: &Record, requests: &[PortRequest]) -> Result<BTreeMap<String, u16>, Problem> {
    let key = |request: &PortRequest| format!("{}.{}", request.unit, request.port);
    // Ports of units that are no longer in the manifest are kept, because a `git switch` may bring the units back.
    let mut known = record.ports.clone();
    for request in requests {
        // A `host` port in the manifest replaces the port that was chosen before.
        if let Some(fixed) = request.fixed {
            known.insert(key(request), fixed);
        }
    }
    let free: Vec<String> = requests.iter().filter(|request| request.fixed.is_none()).map(key).collect();
    let ports = shared
        .registry
        .claim_ports(&record.name.id, &known, &free)
        .map_err(|reason| Problem::new("no_free_port", 503, reason))?;
    shared
        .registry
        .edit(&record.name.id, |record| record.ports.clone_from(&ports))
        .map_err(|error| convert::state_write_problem(&error))?;
    Ok(ports)
}

fn resolve_context(
    shared: &Shared,
    record: &Record,
    request: &UpRequest,
    ports: &BTreeMap<String, u16>,
    default_runtime: RuntimeKind,
) -> Result<ResolveContext, Problem> {
    let split = |(key, port): (&String, &u16)| {
        key.split_once('.').map(|(unit, name)| ((unit.to_owned(), name.to_owned()), *port))
    };
    let checkout = find_checkout(Path::new(&request.folder));
    Ok(ResolveContext {
        preview: record.name.clone(),
        default_runtime,
        ports: ports.iter().filter_map(split).collect(),
        proxy_port: shared.routing.port().unwrap_or_default(),
        environment: request.variables.clone(),
        git: Git {
            branch: checkout.as_ref().and_then(|checkout| checkout.branch.clone()),
            commit: checkout.and_then(|checkout| checkout.commit),
        },
        secrets_folder: shared.delivery.units_folder(&record.name.id.0).display().to_string(),
        password_seed: load_or_create_seed(&shared.locations.data)
            .map_err(|error| convert::state_write_problem(&error))?,
        today: Date::from_unix_milliseconds(now_milliseconds()),
    })
}

/// This machine's random seed of generated passwords. It is stored next to the data that these passwords protect, so
/// that both exist or are lost together.
fn load_or_create_seed(data: &Path) -> std::io::Result<String> {
    let path: PathBuf = data.join("seed");
    // 32 bytes as hexadecimal digits. A file of another length is damaged.
    if let Ok(text) = std::fs::read_to_string(&path)
        && text.len() == 64
    {
        return Ok(text);
    }
    let mut bytes = [0u8; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    let text = to_hex(bytes);
    host::files::replace_file(&path, text.as_bytes(), 0o600)?;
    Ok(text)
}

/// The named units and all units that they need; `None` selects all.
fn select_units(application: &Application, services: &[String]) -> Result<Option<BTreeSet<String>>, Problem> {
    if services.is_empty() {
        return Ok(None);
    }
    let mut selected = BTreeSet::new();
    let mut pending: Vec<String> = services.to_vec();
    while let Some(name) = pending.pop() {
        let Some(unit) = application.units.get(&name) else {
            let names: Vec<&str> = application.units.keys().map(String::as_str).collect();
            return Err(Problem::new(
                "unknown_unit",
                404,
                format!("there is no unit `{name}`; the manifest has {}", names.join(", ")),
            ));
        };
        if selected.insert(name) {
            pending.extend(unit.needs.keys().cloned());
        }
    }
    Ok(Some(selected))
}

fn job_inputs(loaded: &LoadedManifest, application: &Application) -> BTreeMap<String, Vec<String>> {
    let jobs = loaded
        .manifest
        .jobs
        .iter()
        .filter(|(name, job)| application.units.contains_key(*name) && !job.value.inputs.is_empty());
    jobs.map(|(name, job)| (name.clone(), job.value.inputs.iter().map(|pattern| pattern.value.clone()).collect()))
        .collect()
}

fn find_missing_secrets(
    shared: &Shared,
    record: &Record,
    loaded: &LoadedManifest,
    application: &Application,
    selected: Option<&BTreeSet<String>>,
) -> Vec<String> {
    let units = application.units.values().filter(|unit| selected.is_none_or(|selected| selected.contains(&unit.name)));
    let used: BTreeSet<String> = units.flat_map(|unit| unit.secrets.iter().cloned()).collect();
    let required: Vec<String> = used
        .into_iter()
        .filter(|name| loaded.manifest.secrets.get(name).is_none_or(|secret| !secret.value.optional))
        .collect();
    let present = shared.delivery.stored_names(&record.name.id.0, &required);
    required.into_iter().filter(|name| !present.contains(name)).collect()
}
