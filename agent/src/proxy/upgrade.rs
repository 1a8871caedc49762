//! Connections that stop being HTTP: WebSockets and anything else a service agrees to switch to.
//!
//! An HTTP/2 client asks by extended CONNECT (RFC 8441); services get the HTTP/1.1 handshake in both cases. After the
//! handshake the bytes are nobody's business: they are copied both ways.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::header::{CONNECTION, HOST, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::body::{Download, Upload};
use super::forward::{Failure, send_request};
use super::pool::{Pool, lock};
use super::routes::Upstream;

/// The handshake is over when this starts; a client that then does not take its connection is gone.
const SWITCH_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 16 * 1024;

/// What a client wants to switch to, and how it asked.
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

    /// Writes the question in HTTP/1.1, whichever way it came.
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

/// 16 random bytes in base64: 21 free characters and one of which only the upper two bits count.
/// It only guards against caches, so the hasher's seed is random enough.
fn websocket_key() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let seed = RandomState::new();
    let mut key: String =
        (0..21u8).map(|place| char::from(ALPHABET[usize::try_from(seed.hash_one(place) % 64).unwrap_or(0)])).collect();
    key.push_str("A==");
    key
}

/// The tunnels under way: owned here, so that nothing outlives the proxy.
#[derive(Debug)]
pub(super) struct Tunnels {
    running: Mutex<JoinSet<()>>,
    slots: Arc<Semaphore>,
}

impl Tunnels {
    pub(super) fn new(most: usize) -> Self {
        Self { running: Mutex::default(), slots: Arc::new(Semaphore::new(most)) }
    }

    fn start(&self, client: OnUpgrade, service: OnUpgrade) -> bool {
        let Ok(place) = self.slots.clone().try_acquire_owned() else { return false };
        let mut running = lock(&self.running);
        while running.try_join_next().is_some() {}
        running.spawn(async move {
            copy_both_ways(client, service).await;
            drop(place);
        });
        true
    }

    pub(super) async fn close(&self) {
        let mut running = std::mem::take(&mut *lock(&self.running));
        running.shutdown().await;
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

/// Asks the service over a connection of its own. `client` resolves once our own answer was written. `None` where too
/// many tunnels are open already.
pub(super) async fn switch_protocol(
    pool: &Arc<Pool>,
    tunnels: &Tunnels,
    upstream: &Upstream,
    request: Request<Upload>,
    client: OnUpgrade,
    how: &ProtocolSwitch,
) -> Result<Option<Response<Download>>, Failure> {
    let upstream = Upstream { uses_h2c: false, ..upstream.clone() };
    let upload = request.body().end();
    let mut connection = pool.dial(&upstream).await?;
    let address = connection.address;
    let mut answer = send_request(&mut connection, request).await.map_err(|attempt| attempt.into_failure(address))?;
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The service refused; its answer is as good as any other.
        let lease = pool.lease(connection, upload);
        return Ok(Some(answer.map(|body| Download::stream(body, lease))));
    }
    let service = hyper::upgrade::on(&mut answer);
    if !tunnels.start(client, service) {
        return Ok(None);
    }
    Ok(Some(switch_response(how, answer)))
}

fn switch_response(how: &ProtocolSwitch, answer: Response<hyper::body::Incoming>) -> Response<Download> {
    let (mut parts, _) = answer.into_parts();
    let protocol = parts.headers.get(UPGRADE).cloned();
    super::headers::prepare_response(&mut parts.headers);
    parts.extensions.clear();
    match how {
        ProtocolSwitch::Http1(asked) => {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            parts.headers.insert(UPGRADE, protocol.unwrap_or_else(|| asked.clone()));
        }
        ProtocolSwitch::ExtendedConnect(_) => {
            parts.status = StatusCode::OK;
            parts.version = http::Version::HTTP_2;
            parts.headers.remove(SEC_WEBSOCKET_ACCEPT);
            parts.headers.remove(HOST);
        }
    }
    Response::from_parts(parts, Download::empty())
}
