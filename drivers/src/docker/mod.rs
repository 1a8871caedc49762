//! The Docker runtime: containers, networks and volumes of previews, found by label, never by name.
//!
//! Decides nothing. Keeps one connection and drops it when the engine stops answering; state lives in the engine.

mod apply;
mod build;
mod build_inputs;
mod connect;
mod context;
mod credential_network;
mod dockerignore;
mod events;
mod exec;
mod images;
mod logs;
mod network;
mod observe;
mod problems;
mod registry;
mod translate;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::Docker as Engine;
use futures_util::stream::BoxStream;
use plan::application::{PreviewId, RuntimeKind, Unit};
use plan::observed::{Images, Observed};
use plan::step::Action;
use tokio::sync::Mutex;

pub use context::{DockerEnv, EngineEndpoint, choose_endpoint};

use crate::driver::{
    DiscoveredPreview, Driver, ExecRequest, ExecSession, Locations, LogLine, LogRequest, Problem, ProblemKind,
    RuntimeEvent, Scope, StepOutcome,
};

/// For calls that read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// For calls that make the engine work: create, start, remove.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The driver of one engine, chosen anew whenever the connection was lost.
pub struct DockerDriver {
    docker_env: DockerEnv,
    connection: Mutex<Option<(Engine, EngineEndpoint)>>,
    inspect_cache: Arc<observe::InspectCache>,
    prepared_images: images::PreparedImages,
}

/// Where a step is done, and what is known of it.
struct StepContext<'a> {
    engine: &'a Engine,
    endpoint: &'a EngineEndpoint,
    prepared_images: &'a images::PreparedImages,
}

impl DockerDriver {
    #[must_use]
    pub fn new(around: DockerEnv) -> Self {
        Self {
            docker_env: around,
            connection: Mutex::new(None),
            inspect_cache: Arc::default(),
            prepared_images: images::PreparedImages::default(),
        }
    }

    /// Whether the engine answers, and where it is; at most about four seconds.
    pub async fn ping(&self) -> Result<EngineEndpoint, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let answer =
            problems::with_timeout(Duration::from_secs(2), "cannot ping the Docker engine", engine.ping()).await;
        self.drop_connection_on_failure(answer.map(|_| endpoint)).await
    }

    async fn connected_engine(&self) -> Result<(Engine, EngineEndpoint), Problem> {
        let mut connected = self.connection.lock().await;
        if let Some(known) = &*connected {
            return Ok(known.clone());
        }
        let fresh = connect::connect(self.docker_env.clone()).await?;
        *connected = Some(fresh.clone());
        Ok(fresh)
    }

    /// Forgets the connection after a failure that a new one may cure.
    async fn drop_connection_on_failure<T>(&self, answer: Result<T, Problem>) -> Result<T, Problem> {
        if let Err(problem) = &answer
            && matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout)
        {
            *self.connection.lock().await = None;
        }
        answer
    }
}

fn label_filter(value: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![value.to_owned()])])
}

fn preview_filter(preview: &PreviewId) -> HashMap<String, Vec<String>> {
    label_filter(&format!("{}={}", translate::PREVIEW, preview.0))
}

#[async_trait]
impl Driver for DockerDriver {
    fn runtime(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn observe(&self, preview: &PreviewId, _places: &Locations) -> Result<Observed, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let mut observed =
            self.drop_connection_on_failure(observe::observe(&engine, preview, &self.inspect_cache).await).await?;
        if endpoint.is_isolated {
            observed.units.values_mut().for_each(|unit| unit.address = None);
        }
        Ok(observed)
    }

    async fn inspect_images(&self, scope: &Scope) -> Result<Images, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let site = StepContext { engine: &engine, endpoint: &endpoint, prepared_images: &self.prepared_images };
        self.drop_connection_on_failure(images::inspect_images(&site, scope).await).await
    }

    async fn perform(&self, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let site = StepContext { engine: &engine, endpoint: &endpoint, prepared_images: &self.prepared_images };
        self.inspect_cache.clear();
        let performed = apply::perform(&site, scope, action).await;
        self.inspect_cache.clear();
        self.drop_connection_on_failure(performed).await
    }

    async fn follow_events(
        &self,
        preview: &PreviewId,
        _places: &Locations,
    ) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
        let (engine, _) = self.connected_engine().await?;
        self.drop_connection_on_failure(events::follow_events(engine, preview, Arc::clone(&self.inspect_cache)).await)
            .await
    }

    async fn logs(
        &self,
        preview: &PreviewId,
        _places: &Locations,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem> {
        let (engine, _) = self.connected_engine().await?;
        let handle = self.drop_connection_on_failure(observe::require_container(&engine, preview, unit).await).await?;
        Ok(logs::stream_logs(engine, handle, request))
    }

    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem> {
        let (engine, _) = self.connected_engine().await?;
        let handle = self
            .drop_connection_on_failure(observe::require_container(&engine, &scope.preview.id, &unit.name).await)
            .await?;
        self.drop_connection_on_failure(exec::start_exec(engine, handle, request).await).await
    }

    async fn discover(&self) -> Result<Vec<DiscoveredPreview>, Problem> {
        let (engine, _) = self.connected_engine().await?;
        self.drop_connection_on_failure(observe::discover(&engine).await).await
    }

    async fn credential_endpoint_address(&self) -> Result<Option<IpAddr>, Problem> {
        let (_, endpoint) = self.connected_engine().await?;
        Ok((!endpoint.is_isolated).then_some(IpAddr::V4(credential_network::ADDRESS)))
    }

    async fn is_connection_from(
        &self,
        preview: &PreviewId,
        unit: &str,
        peer: SocketAddr,
        _local: SocketAddr,
    ) -> Result<bool, Problem> {
        if !credential_network::is_in_subnet(peer.ip()) {
            return Ok(false);
        }
        let (engine, _) = self.connected_engine().await?;
        let address =
            self.drop_connection_on_failure(credential_network::unit_address(&engine, preview, unit).await).await?;
        Ok(address == Some(peer.ip()))
    }

    async fn gateway_address(&self, preview: &PreviewId) -> Result<Option<IpAddr>, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        if endpoint.is_isolated {
            // Its own host alias leads to this machine's loopback already.
            return Ok(None);
        }
        let networks = self.drop_connection_on_failure(observe::list_networks(&engine, preview).await).await?;
        Ok(networks.first().and_then(observe::network_gateway).filter(|address| observe::is_local_address(*address)))
    }
}
