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

use super::answers;
use super::body::{Download, Upload};
use super::forward::{address_request, forward};
use super::headers::{self, HOPS_MAX};
use super::host::{BadHost, authority, host_name};
use super::pages::{Form, Page};
use super::pool::Pool;
use super::routes::{Found, Routes, STATUS_HOST, State, Table, Target};
use super::upgrade::{Switch, Tunnels, switch};

/// What all requests share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) routes: Routes,
    pub(super) port: u16,
    pub(super) pool: Arc<Pool>,
    pub(super) tunnels: Tunnels,
    pub(super) tunnels_max: usize,
    /// Requests that may wait for a starting service at once.
    pub(super) waiting: Semaphore,
    pub(super) start_max: Duration,
}

/// Answers one request; whatever goes wrong becomes an answer too.
pub(super) async fn serve(
    shared: Arc<Shared>,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Result<Response<Download>, Infallible> {
    let form = Form::of(request.headers());
    Ok(match decide(&shared, peer, request, form).await {
        Ok(response) => response,
        Err(refusal) => refusal.answer(form),
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
    fn answer(self, form: Form) -> Response<Download> {
        match self {
            Self::Page(page) => page.answer(form),
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

async fn decide(
    shared: &Arc<Shared>,
    peer: IpAddr,
    request: Request<Incoming>,
    form: Form,
) -> Result<Response<Download>, Refusal> {
    let (parts, body) = request.into_parts();
    let Some(authority) = authority(&parts).map(str::to_owned) else {
        return Err(answers::bad_request("It must have exactly one `Host`.").into());
    };
    let host = match host_name(&authority) {
        Ok(host) => host,
        Err(BadHost::Foreign) => return Err(Refusal::Misdirected),
        Err(BadHost::Invalid) => return Err(answers::bad_request("Its `Host` is not a host name.").into()),
    };
    let switch = wanted_switch(&parts)?;
    if host == STATUS_HOST {
        return Err(answers::status(&shared.routes.snapshot(), shared.port).into());
    }
    let target = find(shared, &shared.routes.snapshot(), &host, parts.uri.path())?;
    if headers::hops(&parts.headers) >= HOPS_MAX {
        return Err(answers::looping(&host).into());
    }
    let target = ready(shared, target, &host, &parts, form).await?;
    let exchange = Exchange { authority: &authority, peer, target: &target };
    match switch {
        Some(how) => exchange.switch(shared, parts, body, &how).await,
        None => exchange.forward(shared, parts, body).await,
    }
}

fn wanted_switch(parts: &Parts) -> Result<Option<Switch>, Refusal> {
    if parts.method == Method::CONNECT {
        return Switch::extended(parts).map(Some).ok_or_else(|| answers::no_tunnels().into());
    }
    Ok(headers::upgrade_wanted(&parts.headers, parts.version).map(Switch::Http1))
}

fn find(shared: &Shared, table: &Table, host: &str, path: &str) -> Result<Arc<Target>, Refusal> {
    match table.find(host, path) {
        Found::Target(target) => Ok(target),
        Found::Moved(new) => Err(answers::moved(host, &new, shared.port).into()),
        Found::NoService { preview_id } => Err(answers::no_service(table, &preview_id, path, shared.port).into()),
        Found::Unknown => Err(answers::unknown_host(table, host, shared.port).into()),
    }
}

/// The target once it is ready. People get a page meanwhile, programs are held until the limit.
async fn ready(
    shared: &Shared,
    target: Arc<Target>,
    host: &str,
    parts: &Parts,
    form: Form,
) -> Result<Arc<Target>, Refusal> {
    if target.state == State::Ready {
        return Ok(target);
    }
    if let Some(page) = answers::for_state(&target) {
        return Err(page.into());
    }
    if form == Form::Html && is_navigation(parts) {
        return Err(answers::starting(&target).into());
    }
    let Ok(_place) = shared.waiting.try_acquire() else {
        return Err(answers::too_many_waiting(&target).into());
    };
    hold(shared, host, parts.uri.path()).await
}

async fn hold(shared: &Shared, host: &str, path: &str) -> Result<Arc<Target>, Refusal> {
    let mut changes = shared.routes.subscribe();
    let limit = Instant::now() + shared.start_max;
    loop {
        let table = changes.borrow_and_update().clone();
        let target = find(shared, &table, host, path)?;
        if target.state == State::Ready {
            return Ok(target);
        }
        if let Some(page) = answers::for_state(&target) {
            return Err(page.into());
        }
        if !matches!(timeout_at(limit, changes.changed()).await, Ok(Ok(()))) {
            return Err(answers::still_starting(&target, shared.start_max.as_secs()).into());
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
    target: &'a Target,
}

impl Exchange<'_> {
    async fn forward(&self, shared: &Shared, mut parts: Parts, body: Incoming) -> Result<Response<Download>, Refusal> {
        self.prepare(&mut parts, self.target.upstream.h2c)?;
        let request = Request::from_parts(parts, Upload::new(body));
        let answer = forward(&shared.pool, &self.target.upstream, request).await;
        let mut answer = answer.map_err(|failure| answers::gateway(self.target, &failure))?;
        headers::prepare_answer(answer.headers_mut());
        // The version belongs to a connection: the server writes what its client speaks.
        *answer.version_mut() = Version::HTTP_11;
        Ok(answer)
    }

    async fn switch(
        &self,
        shared: &Shared,
        mut parts: Parts,
        body: Incoming,
        how: &Switch,
    ) -> Result<Response<Download>, Refusal> {
        let Some(client) = parts.extensions.remove::<hyper::upgrade::OnUpgrade>() else {
            return Err(answers::bad_request("Its connection cannot switch protocols.").into());
        };
        self.prepare(&mut parts, false)?;
        how.write(&mut parts);
        // The stream of an extended CONNECT is the tunnel itself, not a body.
        let upload = if matches!(how, Switch::ExtendedConnect(_)) { Upload::Empty } else { Upload::new(body) };
        let request = Request::from_parts(parts, upload);
        let answer = switch(&shared.pool, &shared.tunnels, &self.target.upstream, request, client, how).await;
        match answer.map_err(|failure| answers::gateway(self.target, &failure))? {
            Some(mut answer) => {
                if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
                    headers::prepare_answer(answer.headers_mut());
                }
                Ok(answer)
            }
            None => Err(answers::too_many_tunnels(shared.tunnels_max).into()),
        }
    }

    fn prepare(&self, parts: &mut Parts, h2c: bool) -> Result<(), Refusal> {
        parts.extensions.clear();
        headers::prepare_request(&mut parts.headers, self.authority, self.peer);
        let port = self.target.upstream.addresses.first().map_or(0, std::net::SocketAddr::port);
        headers::soften_next_origin(&mut parts.headers, parts.uri.path(), self.authority, port);
        address_request(parts, self.authority, h2c)
            .map_err(|error| answers::bad_request(&format!("Its target cannot be passed on: {error}.")).into())
    }
}
