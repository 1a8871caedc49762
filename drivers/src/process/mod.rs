//! The process runtime: plain local processes, nothing to install.
//!
//! The driver prepares (programs, folders, builds) and asks; the preview's keeper runs. What is true stands in small
//! files that both read, so observing needs neither a keeper nor a round trip.

mod clash;
mod connection;
mod exec;
mod inputs;
pub mod keeper;
mod kernel;
mod launch;
mod leftovers;
mod logs;
mod peer;
mod prepare;
mod record;
mod units;
mod wire;

pub use peer::{holders, made_with};

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use plan::application::{PreviewId, PreviewName, RuntimeKind, Unit};
use plan::observed::{Images, Observed};
use plan::step::Action;

use crate::driver::{
    Discovered, Driver, ExecRequest, ExecSession, LogLine, LogRequest, Performed, Places, Problem, ProblemKind,
    RuntimeEvent, Scope,
};
use connection::Starter;
use prepare::Builds;
use record::{Recorded, Records};

pub struct ProcessDriver {
    starter: Starter,
    /// `<state>/previews`, one folder per preview.
    previews: PathBuf,
    inherited: BTreeMap<String, String>,
    builds: Builds,
}

impl ProcessDriver {
    /// `program keeper <runtime dir> <state dir>` must run [`keeper::main`] with the two folders; normally it is
    /// `std::env::current_exe()`. `previews` is the parent of every preview's state folder.
    #[must_use]
    pub fn new(program: PathBuf, previews: PathBuf) -> Self {
        let inherited = launch::inherited(std::env::vars_os());
        Self { starter: Starter::new(program), previews, inherited, builds: Builds::default() }
    }

    /// The soft limit of open files that programs get, where this process raised its own.
    #[must_use]
    pub fn with_descriptors(mut self, limit: Option<u64>) -> Self {
        self.starter.descriptors = limit;
        self
    }
}

#[async_trait]
impl Driver for ProcessDriver {
    fn runtime(&self) -> RuntimeKind {
        RuntimeKind::Process
    }

    async fn observe(&self, _preview: &PreviewId, places: &Places) -> Result<Observed, Problem> {
        let places = places.clone();
        blocking(move || units::observe(&places)).await
    }

    async fn images(&self, scope: &Scope) -> Result<Images, Problem> {
        self.process_images(scope).await
    }

    async fn perform(&self, scope: &Scope, action: &Action) -> Result<Performed, Problem> {
        match action {
            Action::PrepareImage { unit, .. } => self.prepare(scope, unit_of(scope, unit)?).await,
            Action::Create { unit, .. } => self.create(scope, unit_of(scope, unit)?).await,
            Action::Start { unit, .. } => self.start(scope, unit_of(scope, unit)?).await,
            Action::Stop { unit, .. } => self.stop(scope, unit).await,
            Action::Remove { unit, handle, .. } => self.remove(scope, unit, handle).await,
            Action::RemoveVolume { volume } => units::remove_data(&scope.places, volume),
            // Processes share the machine's network and keep their data in folders made at their creation.
            _ => Ok(Performed::default()),
        }
    }

    async fn follow(&self, _: &PreviewId, places: &Places) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
        units::follow(&self.starter, places).await
    }

    async fn logs(
        &self,
        _preview: &PreviewId,
        places: &Places,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem> {
        logs::logs(places, unit, request).await
    }

    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem> {
        self.exec_beside(scope, unit, request).await
    }

    async fn endpoint(&self) -> Result<Option<IpAddr>, Problem> {
        // Elsewhere nothing tells whose connection it is.
        Ok(cfg!(target_os = "linux").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST)))
    }

    async fn made_by(
        &self,
        preview: &PreviewId,
        unit: &str,
        peer: SocketAddr,
        local: SocketAddr,
    ) -> Result<bool, Problem> {
        let (records, unit) = (Records::new(&self.previews.join(&preview.0)), unit.to_owned());
        blocking(move || {
            let keeper = records.living_keeper().ok().flatten();
            Ok(keeper.is_some_and(|keeper| peer::made_by(&keeper.nonce, &unit, peer, local)))
        })
        .await
    }

    async fn discover(&self) -> Result<Vec<Discovered>, Problem> {
        let previews = self.previews.clone();
        blocking(move || discover(&previews)).await
    }
}

fn unit_of<'a>(scope: &'a Scope, name: &str) -> Result<&'a Unit, Problem> {
    scope
        .application
        .units
        .get(name)
        .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("`{}` has no unit `{name}`", scope.preview.title())))
}

/// File work off the threads that serve everybody.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Problem> + Send + 'static) -> Result<T, Problem> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Problem::new(ProblemKind::Internal, format!("file work broke off: {error}"))))
}

fn discover(previews: &Path) -> Result<Vec<Discovered>, Problem> {
    let Ok(entries) = std::fs::read_dir(previews) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let records = Records::new(&entry.path());
        let problem = |error: &std::io::Error| Problem::io(format!("cannot read `{}`", entry.path().display()), error);
        let Some(preview) = records.preview().map_err(|error| problem(&error))? else { continue };
        let units = records.units().map_err(|error| problem(&error))?;
        let alive = records.living_keeper().map_err(|error| problem(&error))?.is_some();
        let running = units.iter().filter(|unit| alive && matches!(unit.state, Recorded::Running { .. })).count();
        found.push(Discovered {
            preview: PreviewName {
                id: PreviewId(preview.id),
                app: preview.app,
                branch: preview.branch,
                environment: preview.environment,
            },
            runtime: RuntimeKind::Process,
            project: preview.project,
            units: units.len(),
            running,
        });
    }
    found.sort_by(|one, other| one.preview.id.cmp(&other.preview.id));
    Ok(found)
}
