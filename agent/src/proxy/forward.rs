//! One request to one service: picks a connection, sends, and sends again once where that is safe.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body::{Download, Upload};
use super::pool::{Connection, Pool, Unreachable};
use super::routes::Upstream;

/// Long enough for a breakpoint or a slow report, short enough that a dead service does not hold connections for days.
const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a service gave no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("the connection ended before the answer began: {cause}")]
    ConnectionBroken { address: SocketAddr, cause: String },
    #[error("what came back is not HTTP: {cause}")]
    NotHttp { address: SocketAddr, cause: String },
    #[error("no answer within {} seconds", RESPONSE_HEAD_TIMEOUT.as_secs())]
    TimedOut { address: SocketAddr },
}

/// Sends a prepared request and gives back the answer as it streams in.
pub(super) async fn forward_request(
    pool: &Arc<Pool>,
    upstream: &Upstream,
    mut request: Request<Upload>,
) -> Result<Response<Download>, Failure> {
    let upload = request.body().end();
    if let Some(mut connection) = pool.reuse_connection(upstream).await {
        let spare = copy_if_repeatable(&request);
        match send_request(&mut connection, request).await {
            Ok(answer) => return lease_response(pool, connection, upload, answer),
            Err(AttemptError::NotSent(unsent)) => request = *unsent,
            // The service closed an idle connection while this request was under way to it.
            Err(AttemptError::Failed(failure)) => match (failure, spare) {
                (Failure::ConnectionBroken { .. }, Some(spare)) => request = spare,
                (failure, _) => return Err(failure),
            },
        }
    }
    let mut connection = pool.dial(upstream).await?;
    match send_request(&mut connection, request).await {
        Ok(answer) => lease_response(pool, connection, upload, answer),
        Err(attempt) => Err(attempt.into_failure(connection.address)),
    }
}

fn lease_response(
    pool: &Arc<Pool>,
    connection: Connection,
    upload: Option<super::body::UploadEnd>,
    answer: Response<Incoming>,
) -> Result<Response<Download>, Failure> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let cause = "it switched protocols without being asked to".to_owned();
        return Err(Failure::NotHttp { address: connection.address, cause });
    }
    let lease = pool.lease(connection, upload);
    Ok(answer.map(|body| Download::stream(body, lease)))
}

/// How one attempt ended, if not with an answer.
pub(super) enum AttemptError {
    /// Not a byte was written, so any request may be sent again.
    NotSent(Box<Request<Upload>>),
    Failed(Failure),
}

impl AttemptError {
    pub(super) fn into_failure(self, address: SocketAddr) -> Failure {
        match self {
            Self::Failed(failure) => failure,
            Self::NotSent(_) => {
                Failure::ConnectionBroken { address, cause: "closed before the request was sent".to_owned() }
            }
        }
    }
}

pub(super) async fn send_request(
    connection: &mut Connection,
    request: Request<Upload>,
) -> Result<Response<Incoming>, AttemptError> {
    let address = connection.address;
    match timeout(RESPONSE_HEAD_TIMEOUT, connection.send(request)).await {
        Err(_) => Err(AttemptError::Failed(Failure::TimedOut { address })),
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(mut error)) => Err(match error.take_message() {
            Some(request) => AttemptError::NotSent(Box::new(request)),
            None => AttemptError::Failed(to_failure(address, &error.into_error())),
        }),
    }
}

fn to_failure(address: SocketAddr, error: &hyper::Error) -> Failure {
    let cause = describe_error(error);
    if error.is_parse() { Failure::NotHttp { address, cause } } else { Failure::ConnectionBroken { address, cause } }
}

/// The innermost sentence is the one that helps: `connection reset by peer`, not `error reading`.
fn describe_error(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => match source.downcast_ref::<io::Error>() {
            Some(inner) => format!("{error}: {}", inner.kind()),
            None => format!("{error}: {source}"),
        },
        None => error.to_string(),
    }
}

/// A copy of a request that may be sent twice: idempotent by definition, and without a body to lose.
fn copy_if_repeatable(request: &Request<Upload>) -> Option<Request<Upload>> {
    let repeatable = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    if !repeatable || !request.body().is_empty() {
        return None;
    }
    let mut copy = Request::new(Upload::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// The target in the form the next hop expects: a path for HTTP/1.1, scheme and authority for HTTP/2.
pub(super) fn rewrite_target(parts: &mut http::request::Parts, authority: &str, h2c: bool) -> Result<(), http::Error> {
    let path = parts.uri.path_and_query().cloned();
    let is_options_star = parts.uri.path() == "*";
    let mut uri = Uri::builder();
    if h2c {
        uri = uri.scheme("http").authority(authority);
        parts.headers.remove(http::header::HOST);
        parts.version = Version::HTTP_2;
    } else {
        parts.version = Version::HTTP_11;
    }
    parts.uri = match path {
        Some(path) if !(h2c && is_options_star) => uri.path_and_query(path).build()?,
        _ => uri.path_and_query("/").build()?,
    };
    Ok(())
}
