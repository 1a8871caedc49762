//! What happens to one request: whose it is, whether that service is ready, and which way it goes.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::body::{Download, Upload};
use super::forward::{forward_request, rewrite_target};
use super::headers::{self, HOPS_MAX};
use super::host::{BadHost, authority, host_name};
use super::messages;
use super::page::{Page, ResponseFormat};
use super::pool::Pool;
use super::routes::{RouteLookup, RouteTable, RouteTarget, Routes, STATUS_HOST, ServiceState};
use super::upgrade::{ProtocolSwitch, Tunnels, switch_protocol};

/// What all requests share.
#[derive(Debug)]
pub(super) struct ProxyState {
    pub(super) routes: Routes,
    pub(super) port: u16,
    pub(super) pool: Arc<Pool>,
    pub(super) tunnels: Tunnels,
    pub(super) tunnels_max: usize,
    /// Requests that may wait for a starting service at once.
    pub(super) held_requests: Semaphore,
    pub(super) start_timeout: Duration,
}

/// Answers one request; whatever goes wrong becomes an answer too.
pub(super) async fn serve(
    shared: Arc<ProxyState>,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    let form = ResponseFormat::from_headers(request.headers());
    Ok(match route_request(&shared, peer, request, form).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(form),
    })
}

/// An answer of our own.
enum Refusal {
    /// Boxed: pages are rare, and the way of an ordinary request stays small.
    Page(Box<Page>),
    /// A foreign host gets nothing to read (DNS rebinding).
    Misdirected,
}

impl Refusal {
    fn into_response(self, form: ResponseFormat) -> Response<Download> {
        match self {
            Self::Page(page) => page.to_response(form),
            Self::Misdirected => {
                let mut response = Response::new(Download::empty());
                *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
                response
            }
        }
    }
}

impl From<Page> for Refusal {
    fn from(page: Page) -> Self {
        Self::Page(Box::new(page))
    }
}

async fn route_request(
    shared: &Arc<ProxyState>,
    peer: IpAddr,
    request: Request<Incoming>,
    form: ResponseFormat,
) -> Result<Response<Download>, Refusal> {
    let (parts, body) = request.into_parts();
    let Some(authority) = authority(&parts).map(str::to_owned) else {
        return Err(messages::bad_request("It must have exactly one `Host`.").into());
    };
    let host = match host_name(&authority) {
        Ok(host) => host,
        Err(BadHost::Foreign) => return Err(Refusal::Misdirected),
        Err(BadHost::Invalid) => return Err(messages::bad_request("Its `Host` is not a host name.").into()),
    };
    let switch = requested_switch(&parts)?;
    if host == STATUS_HOST {
        return Err(messages::status(&shared.routes.snapshot(), shared.port).into());
    }
    let target = find_target(shared, &shared.routes.snapshot(), &host, parts.uri.path())?;
    if headers::hop_count(&parts.headers) >= HOPS_MAX {
        return Err(messages::loop_detected(&host).into());
    }
    let target = ensure_ready(shared, target, &host, &parts, form).await?;
    let exchange = Exchange { authority: &authority, peer, target: &target };
    match switch {
        Some(how) => exchange.switch(shared, parts, body, &how).await,
        None => exchange.forward(shared, parts, body).await,
    }
}

fn requested_switch(parts: &Parts) -> Result<Option<ProtocolSwitch>, Refusal> {
    if parts.method == Method::CONNECT {
        return ProtocolSwitch::from_extended_connect(parts)
            .map(Some)
            .ok_or_else(|| messages::connect_not_allowed().into());
    }
    Ok(headers::requested_upgrade(&parts.headers, parts.version).map(ProtocolSwitch::Http1))
}

fn find_target(shared: &ProxyState, table: &RouteTable, host: &str, path: &str) -> Result<Arc<RouteTarget>, Refusal> {
    match table.find(host, path) {
        RouteLookup::Target(target) => Ok(target),
        RouteLookup::Renamed(new) => Err(messages::renamed_host(host, &new, shared.port).into()),
        RouteLookup::NoService { preview_id } => {
            Err(messages::no_service(table, &preview_id, path, shared.port).into())
        }
        RouteLookup::UnknownHost => Err(messages::unknown_host(table, host, shared.port).into()),
    }
}

/// The target once it is ready. People get a page meanwhile, programs are held until the limit.
async fn ensure_ready(
    shared: &ProxyState,
    target: Arc<RouteTarget>,
    host: &str,
    parts: &Parts,
    form: ResponseFormat,
) -> Result<Arc<RouteTarget>, Refusal> {
    if target.state == ServiceState::Ready {
        return Ok(target);
    }
    if let Some(page) = messages::for_state(&target) {
        return Err(page.into());
    }
    if form == ResponseFormat::Html && is_navigation(parts) {
        return Err(messages::starting(&target).into());
    }
    let Ok(_place) = shared.held_requests.try_acquire() else {
        return Err(messages::too_many_waiting(&target).into());
    };
    wait_until_ready(shared, host, parts.uri.path()).await
}

async fn wait_until_ready(shared: &ProxyState, host: &str, path: &str) -> Result<Arc<RouteTarget>, Refusal> {
    let mut changes = shared.routes.subscribe();
    let limit = Instant::now() + shared.start_timeout;
    loop {
        let table = changes.borrow_and_update().clone();
        let target = find_target(shared, &table, host, path)?;
        if target.state == ServiceState::Ready {
            return Ok(target);
        }
        if let Some(page) = messages::for_state(&target) {
            return Err(page.into());
        }
        if !matches!(timeout_at(limit, changes.changed()).await, Ok(Ok(()))) {
            return Err(messages::still_starting(&target, shared.start_timeout.as_secs()).into());
        }
    }
}

/// A person looks at it: browsers say so, older ones only ask for HTML.
fn is_navigation(parts: &Parts) -> bool {
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    reads && parts.headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
}

/// One request on its way to one service.
struct Exchange<'a> {
    authority: &'a str,
    peer: IpAddr,
    target: &'a RouteTarget,
}

impl Exchange<'_> {
    async fn forward(
        &self,
        shared: &ProxyState,
        mut parts: Parts,
        body: Incoming,
    ) -> Result<Response<Download>, Refusal> {
        self.prepare(&mut parts, self.target.upstream.uses_h2c)?;
        let request = Request::from_parts(parts, Upload::new(body));
        let answer = forward_request(&shared.pool, &self.target.upstream, request).await;
        let mut answer = answer.map_err(|failure| messages::upstream_failure(self.target, &failure))?;
        headers::prepare_response(answer.headers_mut());
        // The version belongs to a connection: the server writes what its client speaks.
        *answer.version_mut() = Version::HTTP_11;
        Ok(answer)
    }

    async fn switch(
        &self,
        shared: &ProxyState,
        mut parts: Parts,
        body: Incoming,
        how: &ProtocolSwitch,
    ) -> Result<Response<Download>, Refusal> {
        let Some(client) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
            return Err(messages::bad_request("Its connection cannot switch protocols.").into());
        };
        self.prepare(&mut parts, false)?;
        how.write_headers(&mut parts);
        // The stream of an extended CONNECT is the tunnel itself, not a body.
        let upload = if matches!(how, ProtocolSwitch::ExtendedConnect(_)) { Upload::Empty } else { Upload::new(body) };
        let request = Request::from_parts(parts, upload);
        let answer = switch_protocol(&shared.pool, &shared.tunnels, &self.target.upstream, request, client, how).await;
        match answer.map_err(|failure| messages::upstream_failure(self.target, &failure))? {
            Some(mut answer) => {
                if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                    headers::prepare_response(answer.headers_mut());
                }
                Ok(answer)
            }
            None => Err(messages::too_many_tunnels(shared.tunnels_max).into()),
        }
    }

    fn prepare(&self, parts: &mut Parts, h2c: bool) -> Result<(), Refusal> {
        parts.extensions.clear();
        headers::prepare_request(&mut parts.headers, self.authority, self.peer);
        let port = self.target.upstream.addresses.first().map_or(0, std::net::SocketAddr::port);
        headers::rewrite_next_origin(&mut parts.headers, parts.uri.path(), self.authority, port);
        rewrite_target(parts, self.authority, h2c)
            .map_err(|error| messages::bad_request(&format!("Its target cannot be passed on: {error}.")).into())
    }
}
