//! Forwards one request to one service: picks a connection, sends the request, and retries once if that is safe.

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use tokio::time::timeout;

use super::body::{RequestBody, ResponseBody};
use super::pool::{Connection, Pool, Unreachable, has_acceptable_size};
use super::routes::Upstream;

/// Long enough for a debugger's breakpoint or a slow report. Short enough that a hung service does not keep connections
/// open for days.
const RESPONSE_HEAD_TIMEOUT: Duration = Duration::from_secs(600);

/// Why a service did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    #[error("the connection ended before the response began: {cause}")]
    ConnectionBroken { address: SocketAddr, cause: String },
    #[error("the response is not HTTP: {cause}")]
    NotHttp { address: SocketAddr, cause: String },
    #[error("the head of the response is larger than the proxy accepts")]
    HeadTooLarge { address: SocketAddr },
    #[error("no response within {} seconds", RESPONSE_HEAD_TIMEOUT.as_secs())]
    TimedOut { address: SocketAddr },
}

/// Sends a prepared request. Returns the response as soon as its head has arrived; the body is streamed.
pub(super) async fn forward_request(
    pool: &Arc<Pool>,
    upstream: &Upstream,
    mut request: Request<RequestBody>,
) -> Result<Response<ResponseBody>, Failure> {
    let upload = request.body().end();
    if let Some(mut connection) = pool.reuse_connection(upstream).await {
        let retry_copy = copy_if_repeatable(&request);
        match send_request(&mut connection, request).await {
            Ok(response) => return lease_response(pool, connection, upload, response),
            Err(AttemptError::NotSent(unsent)) => request = *unsent,
            // The service may have closed the idle connection just when the request was sent. Retry only if that cannot
            // execute the request twice.
            Err(AttemptError::Failed(failure)) => match (failure, retry_copy) {
                (Failure::ConnectionBroken { .. }, Some(retry_copy)) => request = retry_copy,
                (failure, _) => return Err(failure),
            },
        }
    }
    // A new connection, because other idle ones may be stale too. Its failure is final.
    let mut connection = pool.dial(upstream).await?;
    match send_request(&mut connection, request).await {
        Ok(response) => lease_response(pool, connection, upload, response),
        Err(attempt) => Err(attempt.into_failure(connection.address)),
    }
}

fn lease_response(
    pool: &Arc<Pool>,
    connection: Connection,
    upload: Option<super::body::RequestBodyEnd>,
    response: Response<Incoming>,
) -> Result<Response<ResponseBody>, Failure> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let cause = "it switched protocols without a request to do so".to_owned();
        return Err(Failure::NotHttp { address: connection.address, cause });
    }
    if !has_acceptable_size(response.headers()) {
        return Err(Failure::HeadTooLarge { address: connection.address });
    }
    let lease = pool.lease(connection, upload);
    Ok(response.map(|body| ResponseBody::stream(body, lease)))
}

/// How an attempt ended without a response.
pub(super) enum AttemptError {
    /// No byte was written, so any request can be sent again.
    NotSent(Box<Request<RequestBody>>),
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
    request: Request<RequestBody>,
) -> Result<Response<Incoming>, AttemptError> {
    let address = connection.address;
    match timeout(RESPONSE_HEAD_TIMEOUT, connection.send(request)).await {
        Err(_) => Err(AttemptError::Failed(Failure::TimedOut { address })),
        Ok(Ok(response)) => Ok(response),
        Ok(Err(mut error)) => Err(match error.take_message() {
            Some(request) => AttemptError::NotSent(Box::new(request)),
            None => AttemptError::Failed(to_failure(address, &error.into_error())),
        }),
    }
}

fn to_failure(address: SocketAddr, error: &hyper::Error) -> Failure {
    if error.is_parse_too_large() {
        return Failure::HeadTooLarge { address };
    }
    let cause = describe_error(error);
    if error.is_parse() { Failure::NotHttp { address, cause } } else { Failure::ConnectionBroken { address, cause } }
}

/// Includes the innermost error, because `connection reset by peer` helps more than `error reading`.
fn describe_error(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => match source.downcast_ref::<io::Error>() {
            Some(inner) => format!("{error}: {}", inner.kind()),
            None => format!("{error}: {source}"),
        },
        None => error.to_string(),
    }
}

/// Copies a request that may be sent twice: its method is idempotent (RFC 9110 section 9.2.2) and it has no body.
fn copy_if_repeatable(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let is_idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    if !is_idempotent || !request.body().is_empty() {
        return None;
    }
    let mut copy = Request::new(RequestBody::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.version_mut() = request.version();
    copy.headers_mut().clone_from(request.headers());
    Some(copy)
}

/// Rewrites the request target for the next hop: a path for HTTP/1.1, scheme and authority for HTTP/2.
pub(super) fn rewrite_target(parts: &mut http::request::Parts, authority: &str, h2c: bool) -> Result<(), http::Error> {
    let path = parts.uri.path_and_query().cloned();
    let is_options_star = parts.uri.path() == "*";
    let mut uri = Uri::builder();
    if h2c {
        uri = uri.scheme("http").authority(authority);
        // HTTP/2 sends the host as `:authority`.
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
