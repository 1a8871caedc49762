//! The Docker runtime: containers, networks and volumes of previews, found by label, never by name.
//!
//! Makes no decisions. Keeps one connection and drops it when the engine stops answering; all state is in the engine.

mod apply;
mod connect;
mod context;
mod credential_network;
mod engine_sink;
mod events;
mod exec;
mod factory;
mod foreign_objects;
mod images;
mod logs;
mod names;
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
pub use factory::DockerFactory;

use crate::capabilities::{CredentialEndpoints, Gateway, ImageInspection};
use crate::driver::{
    DiscoveredPreview, Driver, ExecRequest, ExecSession, LogLine, LogRequest, RuntimeEvent, StepOutcome,
};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, Scope};

/// Deadline for calls that only read.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// Deadline for calls that make the engine work: create, start, remove.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// The driver of one engine. It chooses the engine again after the connection was lost.
pub struct DockerDriver {
    endpoint: EngineEndpoint,
    owner: String,
    connection: Mutex<Option<(Engine, EngineEndpoint)>>,
    inspect_cache: Arc<observe::InspectCache>,
    prepared_images: images::PreparedImages,
}

/// The engine that performs a step, and the images that earlier steps prepared.
struct StepContext<'a> {
    engine: &'a Engine,
    endpoint: &'a EngineEndpoint,
    owner: &'a str,
    prepared_images: &'a images::PreparedImages,
}

impl DockerDriver {
    /// `owner` names the agent in the labels of objects; see [`crate::DriverSettings::owner`].
    #[must_use]
    pub fn new(endpoint: EngineEndpoint, owner: impl Into<String>) -> Self {
        Self {
            endpoint,
            owner: owner.into(),
            connection: Mutex::new(None),
            inspect_cache: Arc::default(),
            prepared_images: images::PreparedImages::default(),
        }
    }

    /// Checks whether the engine answers and returns its endpoint. Takes at most about four seconds.
    pub async fn ping(&self) -> Result<EngineEndpoint, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let result =
            problems::with_timeout(Duration::from_secs(2), "cannot ping the Docker engine", engine.ping()).await;
        self.drop_connection_on_failure(result.map(|_| endpoint)).await
    }

    fn step_context<'a>(&'a self, engine: &'a Engine, endpoint: &'a EngineEndpoint) -> StepContext<'a> {
        StepContext { engine, endpoint, owner: &self.owner, prepared_images: &self.prepared_images }
    }

    async fn connected_engine(&self) -> Result<(Engine, EngineEndpoint), Problem> {
        let mut connection = self.connection.lock().await;
        // The lock is held while connecting, so that concurrent calls share one attempt.
        if let Some(existing) = &*connection {
            return Ok(existing.clone());
        }
        let new = connect::connect(self.endpoint.clone()).await?;
        *connection = Some(new.clone());
        Ok(new)
    }

    /// Drops the connection after a failure that a new connection may fix.
    async fn drop_connection_on_failure<T>(&self, result: Result<T, Problem>) -> Result<T, Problem> {
        if let Err(problem) = &result
            && matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout)
        {
            *self.connection.lock().await = None;
        }
        result
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
        RuntimeKind::DOCKER
    }

    async fn observe(&self, preview: &PreviewId, _locations: &Locations) -> Result<Observed, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let mut observed =
            self.drop_connection_on_failure(observe::observe(&engine, preview, &self.inspect_cache).await).await?;
        if endpoint.is_isolated {
            // Container addresses are not reachable from this machine; only published ports are.
            observed.units.values_mut().for_each(|unit| unit.address = None);
        }
        Ok(observed)
    }

    async fn perform(&self, scope: &Scope, action: &Action) -> Result<StepOutcome, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let context = self.step_context(&engine, &endpoint);
        // Clear before the step, and again after it: an observation during the step may have stored an old state.
        self.inspect_cache.clear();
        let result = apply::perform(&context, scope, action).await;
        self.inspect_cache.clear();
        self.drop_connection_on_failure(result).await
    }

    async fn follow_events(
        &self,
        preview: &PreviewId,
        _locations: &Locations,
    ) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
        let (engine, _) = self.connected_engine().await?;
        self.drop_connection_on_failure(events::follow_events(engine, preview, Arc::clone(&self.inspect_cache)).await)
            .await
    }

    async fn logs(
        &self,
        preview: &PreviewId,
        _locations: &Locations,
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
        self.drop_connection_on_failure(observe::discover(&engine, &self.owner).await).await
    }

    fn image_inspection(&self) -> Option<&dyn ImageInspection> {
        Some(self)
    }

    fn credential_endpoints(&self) -> Option<&dyn CredentialEndpoints> {
        Some(self)
    }

    fn gateway(&self) -> Option<&dyn Gateway> {
        Some(self)
    }
}

#[async_trait]
impl ImageInspection for DockerDriver {
    async fn inspect_images(&self, scope: &Scope) -> Result<Images, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        let context = self.step_context(&engine, &endpoint);
        self.drop_connection_on_failure(images::inspect_images(&context, scope).await).await
    }
}

#[async_trait]
impl CredentialEndpoints for DockerDriver {
    async fn endpoint_address(&self) -> Result<Option<IpAddr>, Problem> {
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
}

#[async_trait]
impl Gateway for DockerDriver {
    async fn gateway_address(&self, preview: &PreviewId) -> Result<Option<IpAddr>, Problem> {
        let (engine, endpoint) = self.connected_engine().await?;
        if endpoint.is_isolated {
            // Such an engine's own host alias already leads to this machine's loopback.
            return Ok(None);
        }
        let networks = self.drop_connection_on_failure(observe::list_networks(&engine, preview).await).await?;
        Ok(networks.first().and_then(observe::network_gateway).filter(|address| observe::is_local_address(*address)))
    }
}
