//! From a request to the desired application: files read, manifest loaded, ports claimed, placeholders resolved.
//!
//! The pure crates do the thinking; this file fetches what they need from outside and keeps what they read.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use plan::Application;
use plan::application::RuntimeKind;
use plan::load::{LoadOptions, LoadedManifest, load as load_files};
use plan::resolve::{Git, PortRequest, ResolveInputs as ResolveContext, required_ports, resolve};
use protocol::Problem;
use protocol::problem::DiagnosticView;
use protocol::request::UpRequest;
use sha2::{Digest, Sha256};

use super::naming::state_write_problem;
use crate::checkout::find_checkout;
use crate::convert;
use crate::disk::{Disk, Recorder, Snapshot};
use crate::registry::Record;
use crate::shared::Shared;

/// Where the manifest is read from.
#[derive(Clone, PartialEq, Debug)]
pub enum ManifestSource {
    Disk,
    /// What the last accepted `up` read: the agent or a runtime came back, nobody asked for anything new.
    Snapshot(Snapshot),
}

impl ManifestSource {
    #[must_use]
    pub fn is_disk(&self) -> bool {
        matches!(self, Self::Disk)
    }
}

pub struct DesiredState {
    /// Everything the manifest wants, chosen or not.
    pub application: Application,
    /// What this request is about: the services it names and what they need; everything when `None`.
    pub selected_units: Option<BTreeSet<String>>,
    pub diagnostics: Vec<DiagnosticView>,
    pub notes: Vec<String>,
    pub ports: BTreeMap<String, u16>,
    pub snapshot: Snapshot,
    /// The text `pdev.lock` should have, when it differs from what is there.
    pub lock_update: Option<String>,
    /// Job -> patterns of the files whose change makes it due again.
    pub job_inputs: BTreeMap<String, Vec<String>>,
    /// Secrets that are declared, needed and not there.
    pub missing_secrets: Vec<String>,
}

const DEFAULT_MANIFEST: &str = "pdev.yaml";

fn manifest_path(request: &UpRequest) -> &str {
    request.file.as_deref().unwrap_or(DEFAULT_MANIFEST)
}

/// The files as they are now, in one number, to tell whether a second `up` asks for the same.
#[must_use]
pub fn request_fingerprint(request: &UpRequest) -> String {
    let bytes = std::fs::read(Path::new(&request.folder).join(manifest_path(request))).unwrap_or_default();
    let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}:{digest}", request.folder)
}

/// # Errors
/// A manifest that `up` must refuse, with every diagnostic.
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
        Err(manifest_problem(convert::diagnostics(&loaded.diagnostics, &loaded.sources)))
    }
}

fn manifest_problem(diagnostics: Vec<DiagnosticView>) -> Problem {
    let errors = diagnostics.iter().filter(|found| found.severity == "error").count();
    let title = format!("the manifest has {errors} error{}", if errors == 1 { "" } else { "s" });
    Problem { diagnostics, ..Problem::new("manifest", 422, title).hint("Run `pdev check` to see them in place.") }
}

fn load_options(request: &UpRequest) -> Result<LoadOptions, Problem> {
    let sets = request.sets.iter().map(|text| {
        manifest::SetOverride::parse(text).map_err(|words| {
            Problem::new("invalid_set", 422, format!("`--set {text}`: {words}"))
                .hint("Write it as `--set services.web.replicas=2`.")
        })
    });
    Ok(LoadOptions { environment: request.environment.clone(), sets: sets.collect::<Result<_, _>>()? })
}

/// Everything up to the desired application. Claims ports in the registry; touches no runtime.
///
/// # Errors
/// A wrong manifest, a taken fixed port, a full state disk.
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
    let wishes = required_ports(&loaded, default_runtime);
    let ports = claim_ports(shared, record, &wishes)?;
    let resolved = resolve(&loaded, &resolve_context(shared, record, request, &ports, default_runtime)?);
    let mut found = loaded.diagnostics.clone();
    found.extend(resolved.diagnostics.iter().cloned());
    found.sort_by_key(|diagnostic| (diagnostic.span.file, diagnostic.span.start, diagnostic.code));
    found.dedup();
    let diagnostics = convert::diagnostics(&found, &loaded.sources);
    if !resolved.is_usable() {
        return Err(manifest_problem(diagnostics));
    }
    let application = resolved.application;
    let chosen = select_units(&application, &request.services)?;
    let job = |name: &str| application.units.get(name).is_some_and(|unit| unit.role == plan::application::Role::Job);
    if let Some(wrong) = request.jobs.iter().find(|name| !job(name)) {
        let jobs = loaded.manifest.jobs.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let known = if jobs.is_empty() { "it has no jobs".to_owned() } else { format!("it has {jobs}") };
        return Err(Problem::new("unknown_unit", 404, format!("the manifest has no job `{wrong}`; {known}")));
    }
    let missing_secrets = find_missing_secrets(shared, record, &loaded, &application, chosen.as_ref());
    let job_inputs = job_inputs(&loaded, &application);
    Ok(DesiredState {
        job_inputs,
        application,
        selected_units: chosen,
        diagnostics,
        notes: resolved.notes,
        ports,
        snapshot,
        lock_update: loaded.lock_update(),
        missing_secrets,
    })
}

fn claim_ports(shared: &Shared, record: &Record, wishes: &[PortRequest]) -> Result<BTreeMap<String, u16>, Problem> {
    let key = |wish: &PortRequest| format!("{}.{}", wish.unit, wish.port);
    // Ports of units that are in the manifest no more stay remembered: they may come back with a `git switch`.
    let mut known = record.ports.clone();
    for wish in wishes {
        if let Some(fixed) = wish.fixed {
            known.insert(key(wish), fixed);
        }
    }
    let free: Vec<String> = wishes.iter().filter(|wish| wish.fixed.is_none()).map(key).collect();
    let ports = shared
        .registry
        .claim_ports(&record.name.id, &known, &free)
        .map_err(|words| Problem::new("no_free_port", 503, words))?;
    shared
        .registry
        .edit(&record.name.id, |record| record.ports.clone_from(&ports))
        .map_err(|error| state_write_problem(&error))?;
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
            branch: checkout.as_ref().and_then(|found| found.branch.clone()),
            commit: checkout.and_then(|found| found.commit),
        },
        secrets_folder: shared.delivery.units_folder(&record.name.id.0).display().to_string(),
        password_seed: load_or_create_seed(&shared.locations.data).map_err(|error| state_write_problem(&error))?,
        today: today(),
    })
}

/// A random text of this machine, beside the data it protects: whoever loses it loses that data too.
fn load_or_create_seed(data: &Path) -> std::io::Result<String> {
    let path: PathBuf = data.join("seed");
    if let Ok(text) = std::fs::read_to_string(&path)
        && text.len() == 64
    {
        return Ok(text);
    }
    let mut bytes = [0u8; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    crate::disk::replace_file(&path, text.as_bytes(), 0o600)?;
    Ok(text)
}

fn today() -> manifest::model::Date {
    let now = time::OffsetDateTime::now_utc();
    manifest::model::Date {
        year: u16::try_from(now.year()).unwrap_or_default(),
        month: now.month().into(),
        day: now.day(),
    }
}

/// These units and what they need; `None` for all.
fn select_units(application: &Application, services: &[String]) -> Result<Option<BTreeSet<String>>, Problem> {
    if services.is_empty() {
        return Ok(None);
    }
    let mut kept = BTreeSet::new();
    let mut open: Vec<String> = services.to_vec();
    while let Some(name) = open.pop() {
        let Some(unit) = application.units.get(&name) else {
            let known: Vec<&str> = application.units.keys().map(String::as_str).collect();
            return Err(Problem::new(
                "unknown_unit",
                404,
                format!("there is no unit `{name}`; known are {}", known.join(", ")),
            ));
        };
        if kept.insert(name) {
            open.extend(unit.needs.keys().cloned());
        }
    }
    Ok(Some(kept))
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
    chosen: Option<&BTreeSet<String>>,
) -> Vec<String> {
    let units = application.units.values().filter(|unit| chosen.is_none_or(|chosen| chosen.contains(&unit.name)));
    let needed: BTreeSet<String> = units.flat_map(|unit| unit.secrets.iter().cloned()).collect();
    let required: Vec<String> = needed
        .into_iter()
        .filter(|name| loaded.manifest.secrets.get(name).is_none_or(|secret| !secret.value.optional))
        .collect();
    let present = shared.delivery.stored_names(&record.name.id.0, &required);
    required.into_iter().filter(|name| !present.contains(name)).collect()
}
