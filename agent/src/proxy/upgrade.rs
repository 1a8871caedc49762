//! Connections that switch from HTTP to another protocol: WebSockets and all others that a service accepts.
//!
//! An HTTP/2 client uses extended CONNECT (RFC 8441). The service gets the HTTP/1.1 handshake in both cases. After the
//! handshake, the proxy copies bytes in both directions without interpreting them.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tasks::TaskGroup;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::body::{RequestBody, ResponseBody};
use super::forward::{Failure, send_request};
use super::pool::Pool;
use super::routes::Upstream;

/// Starts after the handshake. A client that does not take over its connection within this time has disconnected.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 16 * 1024;

/// The protocol that a client requests, and the kind of the request.
#[derive(Debug, Clone)]
pub(super) enum ProtocolSwitch {
    Http1(HeaderValue),
    ExtendedConnect(HeaderValue),
}

impl ProtocolSwitch {
    pub(super) fn from_extended_connect(parts: &Parts) -> Option<Self> {
        if parts.method != Method::CONNECT {
            return None;
        }
        let protocol = parts.extensions.get::<hyper::ext::Protocol>()?;
        HeaderValue::from_str(protocol.as_str()).ok().map(Self::ExtendedConnect)
    }

    fn protocol(&self) -> &HeaderValue {
        match self {
            Self::Http1(protocol) | Self::ExtendedConnect(protocol) => protocol,
        }
    }

    /// Writes the request as an HTTP/1.1 upgrade, whatever form it had.
    pub(super) fn write_headers(&self, parts: &mut Parts) {
        parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        parts.headers.insert(UPGRADE, self.protocol().clone());
        if let Self::ExtendedConnect(_) = self {
            parts.method = Method::GET;
            if let Ok(key) = HeaderValue::from_str(&websocket_key()) {
                parts.headers.insert(SEC_WEBSOCKET_KEY, key);
            }
        }
    }
}

/// A `Sec-WebSocket-Key`: 16 random bytes in base64, that is 21 free characters and one with two significant bits.
/// The key only protects against caches, so the seed of the hasher is random enough.
fn websocket_key() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let seed = RandomState::new();
    let mut key: String =
        (0..21u8).map(|index| char::from(ALPHABET[usize::try_from(seed.hash_one(index) % 64).unwrap_or(0)])).collect();
    key.push_str("A==");
    key
}

/// The open tunnels. They are owned here, so that none outlives the proxy.
#[derive(Debug)]
pub(super) struct Tunnels {
    running: TaskGroup,
    slots: Arc<Semaphore>,
}

impl Tunnels {
    pub(super) fn new(limit: usize) -> Self {
        Self { running: TaskGroup::default(), slots: Arc::new(Semaphore::new(limit)) }
    }

    /// Returns false if too many tunnels are open.
    fn start(&self, client: OnUpgrade, service: OnUpgrade) -> bool {
        let Ok(slot) = self.slots.clone().try_acquire_owned() else { return false };
        self.running.spawn(async move {
            copy_both_ways(client, service).await;
            drop(slot);
        });
        true
    }

    pub(super) async fn close(&self) {
        self.running.shutdown().await;
    }
}

async fn copy_both_ways(client: OnUpgrade, service: OnUpgrade) {
    let both = async { tokio::try_join!(client, service) };
    let (client, service) = match timeout(SWITCH_TIMEOUT, both).await {
        Ok(Ok(both)) => both,
        Ok(Err(error)) => return tracing::debug!(%error, "a connection ended while it was switching protocols"),
        Err(_) => return tracing::debug!("a connection did not switch protocols in time"),
    };
    let (mut client, mut service) = (TokioIo::new(client), TokioIo::new(service));
    if let Err(error) = copy_bidirectional_with_sizes(&mut client, &mut service, BUFFER_BYTES, BUFFER_BYTES).await {
        tracing::debug!(%error, "a tunnel ended");
    }
}

/// Sends the request to the service over a new connection. `client` resolves when the proxy's response was written.
/// Returns `None` if too many tunnels are open.
pub(super) async fn switch_protocol(
    pool: &Arc<Pool>,
    tunnels: &Tunnels,
    upstream: &Upstream,
    request: Request<RequestBody>,
    client: OnUpgrade,
    switch: &ProtocolSwitch,
) -> Result<Option<Response<ResponseBody>>, Failure> {
    // The HTTP/1.1 handshake needs its own connection, which does not return to the pool after a switch.
    let upstream = Upstream { uses_h2c: false, ..upstream.clone() };
    let upload = request.body().end();
    let mut connection = pool.dial(&upstream).await?;
    let address = connection.address;
    let mut response = send_request(&mut connection, request).await.map_err(|attempt| attempt.into_failure(address))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The service did not switch; forward its response as usual.
        let lease = pool.lease(connection, upload);
        return Ok(Some(response.map(|body| ResponseBody::stream(body, lease))));
    }
    let service = hyper::upgrade::on(&mut response);
    if !tunnels.start(client, service) {
        return Ok(None);
    }
    Ok(Some(switch_response(switch, response)))
}

fn switch_response(switch: &ProtocolSwitch, response: Response<hyper::body::Incoming>) -> Response<ResponseBody> {
    let (mut parts, _) = response.into_parts();
    let protocol = parts.headers.get(UPGRADE).cloned();
    super::headers::prepare_response(&mut parts.headers);
    parts.extensions.clear();
    match switch {
        ProtocolSwitch::Http1(requested) => {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol.unwrap_or_else(|| requested.clone()));
        }
        // RFC 8441: success is a 200, and there is no `Sec-WebSocket-Accept`.
        ProtocolSwitch::ExtendedConnect(_) => {
            parts.status = StatusCode::OK;
            parts.version = http::Version::HTTP_2;
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
            parts.headers.remove(HOST);
        }
    }
    Response::from_parts(parts, ResponseBody::empty())
}
