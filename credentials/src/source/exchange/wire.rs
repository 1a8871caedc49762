//! Messages between the agent and the exchange process. Both are the same build, so the format has no version.
//!
//! ```text
//! request: the vault's data key, 32 bytes | JSON
//! reply:   JSON, one line | the provider's body
//! ```
//!
//! Secrets are raw bytes next to the JSON, in buffers that are wiped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::token_exchange::secret_digest;
use crate::http::HttpResponse;
use crate::identity::{Identity, Value, find_source_kind};
use crate::problem::{BrokerProblem, SourceProblem};
use crate::secret::Secret;
use crate::source;
use crate::vault::{self, KEY_BYTES, Vault, VaultDescriptor};

/// The login to exchange. It contains no secret.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct ExchangeRequest {
    name: String,
    kind: String,
    fields: BTreeMap<String, Value>,
    /// The scope to request, if the identity does not define it.
    pub(super) scope: Option<String>,
    /// The digest of the stored login for which the exchange is needed.
    pub(super) secret_digest: Option<String>,
}

impl ExchangeRequest {
    pub(crate) fn new(identity: &Identity) -> Self {
        let Identity { name, kind, fields } = identity.clone();
        Self { name, kind: kind.to_owned(), fields, scope: None, secret_digest: None }
    }

    pub(crate) fn with_scope(self, scope: Option<String>) -> Self {
        Self { scope, ..self }
    }

    /// Skips the exchange if the stored login has changed: another process has already made it.
    pub(crate) fn unless_exchanged(self, stored: &Secret) -> Self {
        Self { secret_digest: Some(secret_digest(stored)), ..self }
    }

    pub(super) fn identity(&self) -> Identity {
        let kind = find_source_kind(&self.kind).map_or("", |kind| kind.name);
        Identity { name: self.name.clone(), kind, fields: self.fields.clone() }
    }

    /// The name of the vault item with the login.
    pub(super) fn item(&self) -> String {
        source::login_item(&self.identity())
    }
}

#[derive(Serialize, Deserialize)]
struct RequestMessage {
    request: ExchangeRequest,
    vault: VaultDescriptor,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ReplyMessage {
    Response { status: u16, skew: i64, is_dated: bool, host: String },
    NeedsLogin(String),
    Transient(String),
    Refused(String),
    Problem { code: String, message: String, hint: Option<String>, login: Option<String> },
}

pub(super) fn encode_request(vault: &Vault, request: &ExchangeRequest) -> Zeroizing<Vec<u8>> {
    let message = RequestMessage { request: request.clone(), vault: vault.descriptor() };
    // A large initial capacity, because a growing buffer leaves copies of the key in freed memory.
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    bytes.extend_from_slice(vault.key());
    bytes.append(&mut serde_json::to_vec(&message).unwrap_or_default());
    bytes
}

/// `None` for a truncated request, whose sender was killed.
pub(super) fn decode_request(bytes: &[u8]) -> Option<(Vault, ExchangeRequest)> {
    let (key, rest) = bytes.split_first_chunk::<KEY_BYTES>()?;
    let RequestMessage { request, vault } = serde_json::from_slice(rest).ok()?;
    Some((Vault::from_descriptor(vault, key), request))
}

pub(super) fn encode_reply(outcome: &Result<HttpResponse, SourceProblem>) -> Zeroizing<Vec<u8>> {
    let (message, body) = match outcome {
        Ok(HttpResponse { status, skew, has_date: is_dated, host, body }) => {
            let (status, skew, is_dated, host) = (*status, *skew, *is_dated, host.clone());
            (ReplyMessage::Response { status, skew, is_dated, host }, body.as_slice())
        }
        Err(SourceProblem::NeedsLogin(reason)) => (ReplyMessage::NeedsLogin(reason.clone()), &[][..]),
        Err(SourceProblem::Transient(reason)) => (ReplyMessage::Transient(reason.clone()), &[][..]),
        // `NotCompleted` does not occur, because an exchange has no steps for the user.
        Err(SourceProblem::Refused(reason) | SourceProblem::NotCompleted(reason)) => {
            (ReplyMessage::Refused(reason.clone()), &[][..])
        }
        Err(SourceProblem::Vault(problem)) => {
            let (code, message) = (problem.code().to_owned(), problem.to_string());
            (ReplyMessage::Problem { code, message, hint: problem.hint(), login: None }, &[][..])
        }
        Err(SourceProblem::BaseIdentity(problem) | SourceProblem::Described(problem)) => {
            let BrokerProblem { code, message, hint, login_identity: login } = problem.clone();
            (ReplyMessage::Problem { code: code.to_owned(), message, hint, login }, &[][..])
        }
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(body.len() + 1024));
    bytes.append(&mut serde_json::to_vec(&message).unwrap_or_default());
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    bytes
}

/// `None` if the process ended before its reply was complete.
pub(super) fn decode_reply(bytes: &[u8]) -> Option<Result<HttpResponse, SourceProblem>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let body = Zeroizing::new(bytes[end + 1..].to_vec());
    Some(match serde_json::from_slice(&bytes[..end]).ok()? {
        ReplyMessage::Response { status, skew, is_dated, host } => {
            Ok(HttpResponse { status, skew, has_date: is_dated, body, host })
        }
        ReplyMessage::NeedsLogin(reason) => Err(SourceProblem::NeedsLogin(reason)),
        ReplyMessage::Transient(reason) => Err(SourceProblem::Transient(reason)),
        ReplyMessage::Refused(reason) => Err(SourceProblem::Refused(reason)),
        ReplyMessage::Problem { code, message, hint, login } => Err(SourceProblem::Described(BrokerProblem {
            code: vault::problem_code(&code),
            message,
            hint,
            login_identity: login,
        })),
    })
}
