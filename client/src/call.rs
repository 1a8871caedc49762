//! The agent's routes as async methods. An error reply of the agent becomes the [`Problem`] that it contains.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use protocol::agent_info::AgentInfo;
use protocol::approval::{ApprovalView, PendingApprovalView, RevokeReply, RevokeRequest};
use protocol::exec::{ExecRequest, UPGRADE_PROTOCOL};
use protocol::identity::{IdentityStatus, LoginEvent, LoginFlow, LoginRequest};
use protocol::plan::PlanReply;
use protocol::request::{
    DeliverSecretsRequest, DiscoverRequest, DownRequest, LocateRequest, LogEntry, LogQuery, RestartRequest,
    StopRequest, UpRequest,
};
use protocol::session::{SessionRequest, SessionView};
use protocol::status::{LocateReply, PreviewStatus};
use protocol::{PROTOCOL_VERSION, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::connection::{self, Connection, ConnectionTask};
use crate::error::ClientError;
use crate::exec::{self, ExecReader, ExecWriter};
use crate::socket_location::SocketLocation;
use crate::start::{self, Launch};
use crate::stream::{EventStream, LineStream, connection_error_message, parse_json};

/// An ordinary reply takes milliseconds, but a plan waits for a container engine.
const REPLY_TIMEOUT_SECONDS: u64 = 30;
/// Longer than the agent waits for a password.
const PASSWORD_TIMEOUT_SECONDS: u64 = 150;
const BODY_BYTES_MAX: usize = 64 << 20;

/// A connection after the version handshake. Calls that stream (events, logs, exec, login) consume it.
#[derive(Debug)]
pub struct Client {
    location: SocketLocation,
    connection: Connection,
    info: AgentInfo,
}

impl Client {
    /// Connects to the running agent.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if no agent runs; see [`ClientError`] for the other causes.
    pub async fn connect(location: &SocketLocation) -> Result<Self, ClientError> {
        let not_running = || ClientError::NotRunning { socket: location.socket_path() };
        location.check_choice()?;
        if !location.folder().exists() {
            return Err(not_running());
        }
        location.check_folder()?;
        let connection = connection::open(&location.socket_path()).await?.ok_or_else(not_running)?;
        Self::handshake(location, connection).await
    }

    /// Connects to the agent, and starts it first if none runs.
    ///
    /// # Errors
    /// See the variants of [`ClientError`].
    pub async fn connect_or_start(location: &SocketLocation, launch: &Launch) -> Result<Self, ClientError> {
        // The socket of a killed agent accepts connections until its last thread has ended; then they break.
        const TRIES: usize = 5;
        let mut tries = 0;
        loop {
            tries += 1;
            let result = match start::open_or_start(location, launch).await {
                Ok((connection, location)) => Self::handshake(&location, connection).await,
                Err(error) => Err(error),
            };
            match result {
                Err(ClientError::ConnectionBroken(_)) if tries < TRIES => {}
                result => return result,
            }
        }
    }

    async fn handshake(location: &SocketLocation, mut connection: Connection) -> Result<Self, ClientError> {
        let response = send(&mut connection, build_request(Method::GET, "/v1/agent", Bytes::new())?).await?;
        let info: AgentInfo = read_json(response).await?;
        match info.protocol.cmp(&PROTOCOL_VERSION) {
            std::cmp::Ordering::Equal => Ok(Self { location: location.clone(), connection, info }),
            std::cmp::Ordering::Less => Err(ClientError::AgentOlder {
                version: info.version,
                agent_protocol: info.protocol,
                client_protocol: PROTOCOL_VERSION,
            }),
            std::cmp::Ordering::Greater => Err(ClientError::AgentNewer {
                version: info.version,
                agent_protocol: info.protocol,
                client_protocol: PROTOCOL_VERSION,
            }),
        }
    }

    /// Stops the agent. Works with every protocol version, because this route never changes.
    ///
    /// # Errors
    /// [`ClientError::NotRunning`] if no agent runs; see [`ClientError`] for the other causes.
    pub async fn stop_agent(location: &SocketLocation) -> Result<(), ClientError> {
        let not_running = || ClientError::NotRunning { socket: location.socket_path() };
        location.check_choice()?;
        if !location.folder().exists() {
            return Err(not_running());
        }
        location.check_folder()?;
        let mut connection = connection::open(&location.socket_path()).await?.ok_or_else(not_running)?;
        let response = send(&mut connection, build_request(Method::POST, "/v1/agent/stop", Bytes::new())?).await?;
        expect_success(response).await
    }

    #[must_use]
    pub fn info(&self) -> &AgentInfo {
        &self.info
    }

    #[must_use]
    pub fn location(&self) -> &SocketLocation {
        &self.location
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn locate(&mut self, request: &LocateRequest) -> Result<LocateReply, ClientError> {
        self.post("/v1/locate", request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn plan(&mut self, request: &UpRequest) -> Result<PlanReply, ClientError> {
        self.post("/v1/plan", request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn previews(&mut self) -> Result<Vec<PreviewStatus>, ClientError> {
        self.get("/v1/previews").await
    }

    /// Also finds previews that run although the agent's record of them was lost. Takes longer than [`Self::previews`].
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn discover_previews(&mut self, request: &DiscoverRequest) -> Result<Vec<PreviewStatus>, ClientError> {
        self.post("/v1/previews/discover", request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn status(&mut self, preview: &str) -> Result<PreviewStatus, ClientError> {
        self.get(&preview_path(preview, "")).await
    }

    /// Waits until no unit of the preview changes its state any more, or until `timeout` expires.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn wait_until_settled(&mut self, preview: &str, timeout: Duration) -> Result<PreviewStatus, ClientError> {
        let path = preview_path(preview, &format!("/wait?timeout_ms={}", timeout.as_millis()));
        let request = build_request(Method::GET, &path, Bytes::new())?;
        // The agent enforces `timeout`; this limit only guards against an agent that hangs.
        let limit = timeout + Duration::from_secs(REPLY_TIMEOUT_SECONDS);
        let reply = async { read_json(send_with_timeout(&mut self.connection, request, limit).await?).await };
        with_timeout(limit, reply).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn put_secret(&mut self, preview: &str, name: &str, value: Vec<u8>) -> Result<(), ClientError> {
        let path = preview_path(preview, &format!("/secrets/{}", percent_encode(name)));
        let response = send(&mut self.connection, build_request(Method::PUT, &path, value.into())?).await?;
        expect_success(response).await
    }

    /// Makes the agent deliver secrets from the vault. Returns the names that the vault had.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn deliver_secrets(
        &mut self,
        preview: &str,
        request: &DeliverSecretsRequest,
    ) -> Result<Vec<String>, ClientError> {
        self.post(&preview_path(preview, "/secrets"), request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn identities(&mut self) -> Result<Vec<IdentityStatus>, ClientError> {
        self.get("/v1/identities").await
    }

    /// Requests a credential from the identity's source now. Returns the resulting status, not the credential.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn check_identity(&mut self, identity: &str) -> Result<IdentityStatus, ClientError> {
        let path = format!("/v1/identities/{}/check", percent_encode(identity));
        read_json(send(&mut self.connection, build_request(Method::POST, &path, Bytes::new())?).await?).await
    }

    /// Signs the user in. Dropping the stream cancels the login.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn login(self, identity: &str, flow: LoginFlow) -> Result<LineStream<LoginEvent>, ClientError> {
        let path = format!("/v1/identities/{}/login", percent_encode(identity));
        let (body, task) =
            self.open_stream(build_request(Method::POST, &path, to_json(&LoginRequest { flow })?)?).await?;
        Ok(LineStream::new(body, task))
    }

    /// Stores the secret of a `static` identity.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn store_identity_secret(&mut self, identity: &str, value: Vec<u8>) -> Result<(), ClientError> {
        let path = format!("/v1/identities/{}/secret", percent_encode(identity));
        // Not `build_request`, which declares a body that begins with `{` as JSON. A secret may begin with any byte.
        let request = Request::builder().method(Method::PUT).uri(&path).header(header::HOST, "pdev");
        let request =
            request.body(Full::new(value.into())).map_err(|error| ClientError::InvalidReply(error.to_string()))?;
        expect_success(send(&mut self.connection, request).await?).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn sign_out(&mut self, identity: &str) -> Result<(), ClientError> {
        let path = format!("/v1/identities/{}/login", percent_encode(identity));
        expect_success(send(&mut self.connection, build_request(Method::DELETE, &path, Bytes::new())?).await?).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn approvals(&mut self) -> Result<Vec<ApprovalView>, ClientError> {
        self.get("/v1/approvals").await
    }

    /// Requests that are not approved yet.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn pending_approvals(&mut self) -> Result<Vec<PendingApprovalView>, ClientError> {
        self.get("/v1/approvals/waiting").await
    }

    /// The request behind a code, and whether the caller may approve it.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn approval_request(&mut self, code: &str) -> Result<ApprovalView, ClientError> {
        self.get(&format!("/v1/approvals/{}", percent_encode(code))).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn approve(&mut self, code: &str) -> Result<ApprovalView, ClientError> {
        let path = format!("/v1/approvals/{}", percent_encode(code));
        let request = build_request(Method::POST, &path, Bytes::new())?;
        // The user may be asked for the password.
        let limit = Duration::from_secs(PASSWORD_TIMEOUT_SECONDS);
        read_json(send_with_timeout(&mut self.connection, request, limit).await?).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn revoke(&mut self, request: &RevokeRequest) -> Result<RevokeReply, ClientError> {
        self.post("/v1/approvals/revoke", request).await
    }

    /// Begins a session that covers all programs that this process starts.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn begin_session(&mut self, request: &SessionRequest) -> Result<SessionView, ClientError> {
        self.post("/v1/sessions", request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn sessions(&mut self) -> Result<Vec<SessionView>, ClientError> {
        self.get("/v1/sessions").await
    }

    /// Ends a session, selected by its id or name.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn end_session(&mut self, session: &str) -> Result<(), ClientError> {
        let path = format!("/v1/sessions/{}", percent_encode(session));
        expect_success(send(&mut self.connection, build_request(Method::DELETE, &path, Bytes::new())?).await?).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn openapi(&mut self) -> Result<serde_json::Value, ClientError> {
        self.get("/v1/openapi.json").await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn up(self, request: &UpRequest) -> Result<EventStream, ClientError> {
        self.post_for_events("/v1/up", request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn down(self, preview: &str, request: &DownRequest) -> Result<EventStream, ClientError> {
        self.post_for_events(&preview_path(preview, "/down"), request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn restart(self, preview: &str, request: &RestartRequest) -> Result<EventStream, ClientError> {
        self.post_for_events(&preview_path(preview, "/restart"), request).await
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn stop(self, preview: &str, request: &StopRequest) -> Result<EventStream, ClientError> {
        self.post_for_events(&preview_path(preview, "/stop"), request).await
    }

    /// Streams all events from now on, or first the retained events after `last_id`.
    ///
    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn events(self, last_id: Option<u64>) -> Result<EventStream, ClientError> {
        let mut request = build_request(Method::GET, "/v1/events", Bytes::new())?;
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("text/event-stream"));
        if let Some(id) = last_id {
            request.headers_mut().insert("last-event-id", header::HeaderValue::from(id));
        }
        let (body, task) = self.open_stream(request).await?;
        Ok(EventStream::new(body, task))
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn logs(self, preview: &str, query: &LogQuery) -> Result<LineStream<LogEntry>, ClientError> {
        let path = preview_path(preview, &format!("/logs?{}", encode_log_query(query)));
        let (body, task) = self.open_stream(build_request(Method::GET, &path, Bytes::new())?).await?;
        Ok(LineStream::new(body, task))
    }

    /// # Errors
    /// The problem that the agent reports, or the connection error.
    pub async fn exec(mut self, preview: &str, body: &ExecRequest) -> Result<(ExecReader, ExecWriter), ClientError> {
        let mut request = build_request(Method::POST, &preview_path(preview, "/exec"), to_json(body)?)?;
        let headers = request.headers_mut();
        headers.insert(header::CONNECTION, header::HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, header::HeaderValue::from_static(UPGRADE_PROTOCOL));
        let response = send(&mut self.connection, request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let response = check_status(response).await?;
            return Err(ClientError::InvalidReply(format!("status `{}` instead of 101", response.status())));
        }
        let upgraded = hyper::upgrade::on(response)
            .await
            .map_err(|error| ClientError::ConnectionBroken(connection_error_message(&error)))?;
        Ok(exec::split(upgraded, self.connection.task))
    }

    async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        read_json(send(&mut self.connection, build_request(Method::GET, path, Bytes::new())?).await?).await
    }

    async fn post<B: Serialize, T: DeserializeOwned>(&mut self, path: &str, body: &B) -> Result<T, ClientError> {
        read_json(send(&mut self.connection, build_request(Method::POST, path, to_json(body)?)?).await?).await
    }

    async fn post_for_events<B: Serialize>(self, path: &str, body: &B) -> Result<EventStream, ClientError> {
        let mut request = build_request(Method::POST, path, to_json(body)?)?;
        request.headers_mut().insert(header::ACCEPT, header::HeaderValue::from_static("text/event-stream"));
        let (body, task) = self.open_stream(request).await?;
        Ok(EventStream::new(body, task))
    }

    async fn open_stream(mut self, request: Request<Full<Bytes>>) -> Result<(Incoming, ConnectionTask), ClientError> {
        let response = check_status(send(&mut self.connection, request).await?).await?;
        Ok((response.into_body(), self.connection.task))
    }
}

fn build_request(method: Method, path: &str, body: Bytes) -> Result<Request<Full<Bytes>>, ClientError> {
    let mut builder = Request::builder().method(method).uri(path).header(header::HOST, "pdev");
    if !body.is_empty() {
        // A secret is raw bytes, even if its first byte is `{`.
        let json = matches!(body.first(), Some(b'{')) && !path.contains("/secrets/");
        builder =
            builder.header(header::CONTENT_TYPE, if json { "application/json" } else { "application/octet-stream" });
    }
    builder.body(Full::new(body)).map_err(|error| ClientError::InvalidReply(format!("the path `{path}`: {error}")))
}

async fn send(connection: &mut Connection, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
    send_with_timeout(connection, request, Duration::from_secs(REPLY_TIMEOUT_SECONDS)).await
}

async fn send_with_timeout(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
    limit: Duration,
) -> Result<Response<Incoming>, ClientError> {
    let reply = async {
        connection
            .sender
            .ready()
            .await
            .map_err(|error| ClientError::ConnectionBroken(connection_error_message(&error)))?;
        connection
            .sender
            .send_request(request)
            .await
            .map_err(|error| ClientError::ConnectionBroken(connection_error_message(&error)))
    };
    with_timeout(limit, reply).await
}

async fn with_timeout<T>(
    limit: Duration,
    operation: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, ClientError> {
    let timeout_error = |_| ClientError::Timeout { seconds: limit.as_secs() };
    tokio::time::timeout(limit, operation).await.map_err(timeout_error)?
}

async fn read_json<T: DeserializeOwned>(response: Response<Incoming>) -> Result<T, ClientError> {
    let body = collect_body(check_status(response).await?.into_body()).await?;
    parse_json(&body)
}

/// Checks a reply without a value. Reads its body to the end, because the connection is used for the next request.
async fn expect_success(response: Response<Incoming>) -> Result<(), ClientError> {
    collect_body(check_status(response).await?.into_body()).await.map(drop)
}

async fn check_status(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = collect_body(response.into_body()).await?;
    let mut problem: Problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
        // The body is not a problem document, so another program or version answered. The title is limited to 300
        // characters, because the body may be a page of any length.
        let text = String::from_utf8_lossy(&body).trim().chars().take(300).collect::<String>();
        let title = if text.is_empty() { format!("the agent answered `{status}`") } else { text };
        Problem::new("unexpected_answer", status.as_u16(), title)
    });
    if problem.status == 0 {
        problem.status = status.as_u16();
    }
    Err(ClientError::Problem(Box::new(problem)))
}

async fn collect_body(body: Incoming) -> Result<Bytes, ClientError> {
    let collect = async {
        let collected = Limited::new(body, BODY_BYTES_MAX).collect().await;
        collected
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| ClientError::ConnectionBroken(error.to_string()))
    };
    with_timeout(Duration::from_secs(REPLY_TIMEOUT_SECONDS), collect).await
}

fn to_json<B: Serialize>(body: &B) -> Result<Bytes, ClientError> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| ClientError::InvalidReply(error.to_string()))
}

fn preview_path(preview: &str, rest: &str) -> String {
    format!("/v1/previews/{}{rest}", percent_encode(preview))
}

fn encode_log_query(query: &LogQuery) -> String {
    let mut parts = Vec::new();
    if let Some(units) = &query.units {
        parts.push(format!("units={}", percent_encode(units)));
    }
    if query.follow {
        parts.push("follow=true".to_owned());
    }
    if let Some(since) = query.since {
        parts.push(format!("since={since}"));
    }
    if let Some(tail) = query.tail {
        parts.push(format!("tail={tail}"));
    }
    parts.join("&")
}

/// Percent-encodes every byte except the unreserved characters of RFC 3986.
fn percent_encode(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::with_capacity(text.len()), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
