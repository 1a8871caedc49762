//! The process runtime: plain local processes. It needs nothing installed.
//!
//! The driver prepares units (programs, folders, builds) and sends requests; each preview's keeper runs them. Both read
//! and write small record files, so observing needs neither a keeper nor a round trip.

mod cleanup;
mod connection;
mod exec;
mod factory;
mod fingerprint;
pub mod keeper;
mod kernel;
mod launch;
mod logs;
mod peer;
mod port_conflict;
mod prepare;
mod record;
mod units;
mod version;
mod wire;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit};
use plan::observed::{Images, Observed};
use plan::shell_environment::ShellEnvironment;
use plan::step::Action;

use crate::capabilities::{CredentialEndpoints, EnvironmentStore, HostPorts, ImageInspection, PortUse};
use crate::driver::{
    DiscoveredPreview, Driver, ExecRequest, ExecSession, LogLine, LogRequest, RuntimeEvent, StepOutcome,
};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, Scope};
use connection::KeeperStarter;
use prepare::BuildLocks;
use record::{RecordStore, RecordedState};

pub use factory::ProcessFactory;

pub struct ProcessDriver {
    starter: KeeperStarter,
    /// `<state>/previews`, one folder per preview.
    previews_folder: PathBuf,
    inherited_env: BTreeMap<String, String>,
    build_locks: BuildLocks,
}

impl ProcessDriver {
    /// `program keeper <runtime dir> <state dir>` must run [`keeper::main`] with the two folders; `program` is normally
    /// `std::env::current_exe()`. `previews` is the parent of every preview's state folder.
    #[must_use]
    pub fn new(program: PathBuf, previews: PathBuf) -> Self {
        let inherited = launch::filter_inherited_env(std::env::vars_os());
        Self {
            starter: KeeperStarter::new(program),
            previews_folder: previews,
            inherited_env: inherited,
            build_locks: BuildLocks::default(),
        }
    }

    /// Sets the soft limit of open files for programs, if this process raised its own.
    #[must_use]
    pub fn with_descriptor_limit(mut self, limit: Option<u64>) -> Self {
        self.starter.descriptor_limit = limit;
        self
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    fn runtime(&self) -> RuntimeKind {
        RuntimeKind::PROCESS
    }

    async fn observe(&self, _preview: &PreviewId, locations: &Locations) -> Result<Observed, Problem> {
        let locations = locations.clone();
        run_blocking(move || units::observe(&locations)).await
    }

    async fn perform(&self, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem> {
        match action {
            Action::PrepareImage { unit, .. } => self.run_build(scope, find_unit(scope, unit)?).await,
            Action::Create { unit, .. } => self.create(scope, find_unit(scope, unit)?).await,
            Action::Start { unit, .. } => self.start(scope, find_unit(scope, unit)?).await,
            Action::Stop { unit, .. } => self.stop(scope, unit).await,
            Action::Remove { unit, handle, .. } => self.remove(scope, unit, handle).await,
            Action::RemoveVolume { volume, .. } => units::remove_data_folder(&scope.locations, volume),
            // Nothing to do: processes share the machine's network, and `create` makes their data folders.
            Action::CreateNetwork { .. }
            | Action::RemoveNetwork { .. }
            | Action::CreateVolume { .. }
            | Action::Connect { .. } => Ok(StepOutcome::default()),
            Action::PushImage { .. }
            | Action::Apply { .. }
            | Action::Delete { .. }
            | Action::AwaitReady { .. }
            | Action::AwaitExit { .. } => Err(Problem::unsupported(action)),
        }
    }

    async fn follow_events(
        &self,
        _: &PreviewId,
        locations: &Locations,
    ) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
        units::follow_events(&self.starter, locations).await
    }

    async fn logs(
        &self,
        _preview: &PreviewId,
        locations: &Locations,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem> {
        logs::stream_logs(locations, unit, request).await
    }

    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem> {
        self.exec_command(scope, unit, request).await
    }

    async fn discover(&self) -> Result<Vec<DiscoveredPreview>, Problem> {
        let previews = self.previews_folder.clone();
        run_blocking(move || discover_previews(&previews)).await
    }

    fn image_inspection(&self) -> Option<&dyn ImageInspection> {
        Some(self)
    }

    fn credential_endpoints(&self) -> Option<&dyn CredentialEndpoints> {
        Some(self)
    }

    fn host_ports(&self) -> Option<&dyn HostPorts> {
        Some(self)
    }

    fn environment_store(&self) -> Option<&dyn EnvironmentStore> {
        Some(self)
    }
}

#[async_trait]
impl ImageInspection for ProcessDriver {
    async fn inspect_images(&self, scope: &Scope) -> Result<Images, Problem> {
        self.inspect_builds(scope).await
    }
}

#[async_trait]
impl CredentialEndpoints for ProcessDriver {
    async fn endpoint_address(&self) -> Result<Option<IpAddr>, Problem> {
        // Only Linux reports which process owns a connection.
        Ok(cfg!(target_os = "linux").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    async fn is_connection_from(
        &self,
        preview: &PreviewId,
        unit: &str,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<bool, Problem> {
        let (records, unit) = (RecordStore::new(&self.previews_folder.join(&preview.0)), unit.to_owned());
        run_blocking(move || {
            let keeper = records.read_living_keeper().ok().flatten();
            let leaders = peer::Leaders::read(&records);
            Ok(keeper.is_some_and(|keeper| peer::peer_is_unit(&keeper, &leaders, &unit, peer, local)))
        })
        .await
    }
}

#[async_trait]
impl HostPorts for ProcessDriver {
    async fn port_use(&self, preview: &PreviewId, unit: &str, port: u16) -> Result<Option<PortUse>, Problem> {
        if !cfg!(target_os = "linux") {
            return Ok(None);
        }
        let (records, unit) = (RecordStore::new(&self.previews_folder.join(&preview.0)), unit.to_owned());
        run_blocking(move || {
            let Some(keeper) = records.read_living_keeper().ok().flatten() else { return Ok(None) };
            let leader = match records.read_unit(&unit).ok().flatten().map(|record| record.state) {
                Some(RecordedState::Running { process, .. }) if process.is_alive() => Some(process.pid),
                _ => None,
            };
            Ok(Some(peer::port_use(&keeper, &unit, leader, port)))
        })
        .await
    }
}

#[async_trait]
impl EnvironmentStore for ProcessDriver {
    async fn shell_environment(
        &self,
        _: &PreviewId,
        locations: &Locations,
    ) -> Result<Option<ShellEnvironment>, Problem> {
        units::read_shell_environment(locations).await
    }
}

fn find_unit<'a>(scope: &'a Scope, name: &str) -> Result<&'a Unit, Problem> {
    scope
        .application
        .units
        .get(name)
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("`{}` has no unit `{name}`", scope.preview.title())))
}

/// Runs file operations on the blocking pool, off the threads that serve all clients.
async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    let result = tokio::task::spawn_blocking(work).await;
    result.unwrap_or_else(|error| {
        Err(Problem::new(ProblemKind::Internal, format!("a file operation was aborted: {error}")))
    })
}

fn discover_previews(previews: &Path) -> Result<Vec<DiscoveredPreview>, Problem> {
    let Ok(entries) = std::fs::read_dir(previews) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let records = RecordStore::new(&entry.path());
        let problem = |error: &std::io::Error| Problem::io(format!("cannot read `{}`", entry.path().display()), error);
        let Some(preview) = records.read_preview().map_err(|error| problem(&error))? else { continue };
        let units = records.read_units().map_err(|error| problem(&error))?;
        // A keeper that was killed leaves records that still say "running"; its programs died with it.
        let has_keeper = records.read_living_keeper().map_err(|error| problem(&error))?.is_some();
        let running_count =
            units.iter().filter(|unit| has_keeper && matches!(unit.state, RecordedState::Running { .. })).count();
        found.push(DiscoveredPreview {
            preview: PreviewName {
                id: PreviewId(preview.id),
                app: preview.app,
                branch: preview.branch,
                environment: preview.environment,
            },
            runtime: RuntimeKind::PROCESS,
            project: preview.project,
            unit_count: units.len(),
            running_count,
        });
    }
    found.sort_by(|left, right| left.preview.id.cmp(&right.preview.id));
    Ok(found)
}
