//! The Docker runtime: containers, networks and volumes of previews, found by label, never by name.
//!
//! Decides nothing. Keeps one connection and drops it when the engine stops answering; state lives in the engine.

mod apply;
mod build;
mod build_inputs;
mod connect;
mod context;
mod endpoint;
mod exec;
mod follow;
mod ignore;
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

pub use context::{Endpoint, Surroundings, choose};

use crate::driver::{
    Discovered, Driver, ExecRequest, ExecSession, LogLine, LogRequest, Performed, Places, Problem, ProblemKind,
    RuntimeEvent, Scope,
};

/// For calls that read.
const LOOK: Duration = Duration::from_secs(10);
/// For calls that make the engine work: create, start, remove.
const WORK: Duration = Duration::from_secs(60);

/// The driver of one engine, chosen anew whenever the connection was lost.
pub struct Docker {
    around: Surroundings,
    connected: Mutex<Option<(Engine, Endpoint)>>,
    inspected: Arc<observe::Inspected>,
    images: images::Memory,
}

/// Where a step is done, and what is known of it.
struct Site<'a> {
    engine: &'a Engine,
    endpoint: &'a Endpoint,
    images: &'a images::Memory,
}

impl Docker {
    #[must_use]
    pub fn new(around: Surroundings) -> Self {
        Self { around, connected: Mutex::new(None), inspected: Arc::default(), images: images::Memory::default() }
    }

    /// Whether the engine answers, and where it is; at most about four seconds.
    pub async fn ping(&self) -> Result<Endpoint, Problem> {
        let (engine, endpoint) = self.engine().await?;
        let answer = problems::within(Duration::from_secs(2), "cannot ping the Docker engine", engine.ping()).await;
        self.heed(answer.map(|_| endpoint)).await
    }

    async fn engine(&self) -> Result<(Engine, Endpoint), Problem> {
        let mut connected = self.connected.lock().await;
        if let Some(known) = &*connected {
            return Ok(known.clone());
        }
        let fresh = connect::connect(self.around.clone()).await?;
        *connected = Some(fresh.clone());
        Ok(fresh)
    }

    /// Forgets the connection after a failure that a new one may cure.
    async fn heed<T>(&self, answer: Result<T, Problem>) -> Result<T, Problem> {
        if let Err(problem) = &answer
            && matches!(problem.kind, ProblemKind::Unavailable | ProblemKind::Timeout)
        {
            *self.connected.lock().await = None;
        }
        answer
    }
}

fn by_label(value: &str) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), vec![value.to_owned()])])
}

fn of_preview(preview: &PreviewId) -> HashMap<String, Vec<String>> {
    by_label(&format!("{}={}", translate::PREVIEW, preview.0))
}

#[async_trait]
impl Driver for Docker {
    fn runtime(&self) -> RuntimeKind {
        RuntimeKind::Docker
    }

    async fn observe(&self, preview: &PreviewId, _places: &Places) -> Result<Observed, Problem> {
        let (engine, endpoint) = self.engine().await?;
        let mut observed = self.heed(observe::observe(&engine, preview, &self.inspected).await).await?;
        if endpoint.apart {
            observed.units.values_mut().for_each(|unit| unit.address = None);
        }
        Ok(observed)
    }

    async fn images(&self, scope: &Scope) -> Result<Images, Problem> {
        let (engine, endpoint) = self.engine().await?;
        let site = Site { engine: &engine, endpoint: &endpoint, images: &self.images };
        self.heed(images::images(&site, scope).await).await
    }

    async fn perform(&self, scope: &Scope, action: &Action) -> Result<Performed, Problem> {
        let (engine, endpoint) = self.engine().await?;
        let site = Site { engine: &engine, endpoint: &endpoint, images: &self.images };
        self.inspected.forget();
        let performed = apply::perform(&site, scope, action).await;
        self.inspected.forget();
        self.heed(performed).await
    }

    async fn follow(&self, preview: &PreviewId, _places: &Places) -> Result<BoxStream<'static, RuntimeEvent>, Problem> {
        let (engine, _) = self.engine().await?;
        self.heed(follow::follow(engine, preview, Arc::clone(&self.inspected)).await).await
    }

    async fn logs(
        &self,
        preview: &PreviewId,
        _places: &Places,
        unit: &str,
        request: LogRequest,
    ) -> Result<BoxStream<'static, Result<LogLine, Problem>>, Problem> {
        let (engine, _) = self.engine().await?;
        let handle = self.heed(observe::required(&engine, preview, unit).await).await?;
        Ok(logs::logs(engine, handle, request))
    }

    async fn exec(&self, scope: &Scope, unit: &Unit, request: ExecRequest) -> Result<ExecSession, Problem> {
        let (engine, _) = self.engine().await?;
        let handle = self.heed(observe::required(&engine, &scope.preview.id, &unit.name).await).await?;
        self.heed(exec::exec(engine, handle, request).await).await
    }

    async fn discover(&self) -> Result<Vec<Discovered>, Problem> {
        let (engine, _) = self.engine().await?;
        self.heed(observe::discover(&engine).await).await
    }

    async fn endpoint(&self) -> Result<Option<IpAddr>, Problem> {
        let (_, endpoint) = self.engine().await?;
        Ok((!endpoint.apart).then_some(IpAddr::V4(endpoint::ADDRESS)))
    }

    async fn made_by(
        &self,
        preview: &PreviewId,
        unit: &str,
        peer: SocketAddr,
        _local: SocketAddr,
    ) -> Result<bool, Problem> {
        if !endpoint::may_be(peer.ip()) {
            return Ok(false);
        }
        let (engine, _) = self.engine().await?;
        let address = self.heed(endpoint::address_of(&engine, preview, unit).await).await?;
        Ok(address == Some(peer.ip()))
    }

    async fn gateway(&self, preview: &PreviewId) -> Result<Option<IpAddr>, Problem> {
        let (engine, endpoint) = self.engine().await?;
        if endpoint.apart {
            // Its own host alias leads to this machine's loopback already.
            return Ok(None);
        }
        let networks = self.heed(observe::networks(&engine, preview).await).await?;
        Ok(networks.first().and_then(observe::gateway).filter(|address| observe::is_ours(*address)))
    }
}
