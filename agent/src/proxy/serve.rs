//! Handles one request: finds its service, waits until the service is ready, then forwards it or switches protocols.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

use super::body::{RequestBody, ResponseBody};
use super::forward::{forward_request, rewrite_target};
use super::headers::{self, HOPS_MAX};
use super::host::{BadHost, authority, host_name};
use super::list_access::{ListAccess, ListToken};
use super::messages;
use super::page::{Page, ResponseFormat};
use super::pool::{Pool, has_acceptable_size};
use super::routes::{RouteLookup, RouteTable, RouteTarget, Routes, STATUS_HOST, ServiceState};
use super::upgrade::{ProtocolSwitch, Tunnels, switch_protocol};

/// The state that all requests share.
#[derive(Debug)]
pub(super) struct ProxyState {
    pub(super) routes: Routes,
    pub(super) port: u16,
    pub(super) list_token: ListToken,
    pub(super) pool: Arc<Pool>,
    pub(super) tunnels: Tunnels,
    pub(super) tunnels_max: usize,
    /// Limits how many requests wait for starting services.
    pub(super) waiting_requests: Semaphore,
    pub(super) start_timeout: Duration,
}

/// Answers one request. Every failure becomes a response too.
pub(super) async fn serve(
    shared: Arc<ProxyState>,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let format = ResponseFormat::from_headers(request.headers());
    Ok(match route_request(&shared, peer, request, format).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(format),
    })
}

/// A response of the proxy itself.
enum Refusal {
    /// Boxed to keep the result of ordinary requests small, because pages are rare.
    Page(Box<Page>),
    /// A foreign host gets an empty response, so that a DNS rebinding attack learns nothing.
    Misdirected,
}

impl Refusal {
    fn into_response(self, format: ResponseFormat) -> Response<ResponseBody> {
        match self {
            Self::Page(page) => page.to_response(format),
            Self::Misdirected => {
                let mut response = Response::new(ResponseBody::empty());
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
    format: ResponseFormat,
) -> Result<Response<ResponseBody>, Refusal> {
    let (parts, body) = request.into_parts();
    if !has_acceptable_size(&parts.headers) {
        return Err(messages::too_many_headers().into());
    }
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
        return match shared.list_token.check(&parts) {
            ListAccess::Allowed => Err(messages::status(&shared.routes.snapshot(), shared.port).into()),
            ListAccess::Redirect(response) => Ok(*response),
            ListAccess::Denied => Err(messages::list_is_closed().into()),
        };
    }
    let target = find_target(shared, &shared.routes.snapshot(), &host, parts.uri.path())?;
    // Checked before waiting, so that a loop does not use up the slots of waiting requests.
    if headers::hop_count(&parts.headers) >= HOPS_MAX {
        return Err(messages::loop_detected(&host).into());
    }
    let target = ensure_ready(shared, target, &host, &parts, format).await?;
    let exchange = Exchange { authority: &authority, peer, target: &target };
    match switch {
        Some(switch) => exchange.switch(shared, parts, body, &switch).await,
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

/// Returns the target when it is ready. For a starting service, a browser gets a page that reloads, and a program's
/// request waits until the limit.
async fn ensure_ready(
    shared: &ProxyState,
    target: Arc<RouteTarget>,
    host: &str,
    parts: &Parts,
    format: ResponseFormat,
) -> Result<Arc<RouteTarget>, Refusal> {
    if target.state == ServiceState::Ready {
        return Ok(target);
    }
    if let Some(page) = messages::for_state(&target) {
        return Err(page.into());
    }
    if format == ResponseFormat::Html && is_navigation(parts) {
        return Err(messages::starting(&target).into());
    }
    let Ok(_slot) = shared.waiting_requests.try_acquire() else {
        return Err(messages::too_many_waiting(&target).into());
    };
    wait_until_ready(shared, host, parts.uri.path()).await
}

async fn wait_until_ready(shared: &ProxyState, host: &str, path: &str) -> Result<Arc<RouteTarget>, Refusal> {
    let mut changes = shared.routes.subscribe();
    let limit = Instant::now() + shared.start_timeout;
    loop {
        // Look up the route again for each table: the preview may have been removed or restarted meanwhile.
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

/// Whether a user opens a page. Browsers report it in `Sec-Fetch-Mode`; older ones only accept HTML.
fn is_navigation(parts: &Parts) -> bool {
    let is_read = parts.method == Method::GET || parts.method == Method::HEAD;
    is_read && parts.headers.get("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
}

/// One request and the service that it is forwarded to.
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
    ) -> Result<Response<ResponseBody>, Refusal> {
        self.prepare(&mut parts, self.target.upstream.uses_h2c)?;
        let request = Request::from_parts(parts, RequestBody::new(body));
        let result = forward_request(&shared.pool, &self.target.upstream, request).await;
        let mut response = result.map_err(|failure| messages::upstream_failure(self.target, &failure))?;
        headers::prepare_response(response.headers_mut());
        // The service's version must not reach the client: hyper writes the version of the client's connection.
        *response.version_mut() = Version::HTTP_11;
        Ok(response)
    }

    async fn switch(
        &self,
        shared: &ProxyState,
        mut parts: Parts,
        body: Incoming,
        switch: &ProtocolSwitch,
    ) -> Result<Response<ResponseBody>, Refusal> {
        let Some(client) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
            return Err(messages::bad_request("Its connection cannot switch protocols.").into());
        };
        self.prepare(&mut parts, false)?;
        switch.write_headers(&mut parts);
        // The stream of an extended CONNECT is the tunnel itself, not a body.
        let is_connect = matches!(switch, ProtocolSwitch::ExtendedConnect(_));
        let upload = if is_connect { RequestBody::Empty } else { RequestBody::new(body) };
        let request = Request::from_parts(parts, upload);
        let (pool, tunnels) = (&shared.pool, &shared.tunnels);
        let result = switch_protocol(pool, tunnels, &self.target.upstream, request, client, switch).await;
        match result.map_err(|failure| messages::upstream_failure(self.target, &failure))? {
            Some(mut response) => {
                if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                    headers::prepare_response(response.headers_mut());
                }
                Ok(response)
            }
            None => Err(messages::too_many_tunnels(shared.tunnels_max).into()),
        }
    }

    fn prepare(&self, parts: &mut Parts, h2c: bool) -> Result<(), Refusal> {
        // hyper's extensions belong to the client's connection.
        parts.extensions.clear();
        headers::prepare_request(&mut parts.headers, self.authority, self.peer);
        let port = self.target.upstream.addresses.first().map_or(0, std::net::SocketAddr::port);
        headers::rewrite_next_origin(&mut parts.headers, parts.uri.path(), self.authority, port);
        rewrite_target(parts, self.authority, h2c)
            .map_err(|error| messages::bad_request(&format!("Its target cannot be forwarded: {error}.")).into())
    }
}
