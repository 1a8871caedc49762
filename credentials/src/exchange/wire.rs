//! What the agent and the process of an exchange say to each other: both are the same build, so nothing here has versions.
//!
//! ```text
//! order:  the vault's data key, 32 bytes | JSON
//! answer: JSON, one line | the provider's body
//! ```
//!
//! Secrets are raw bytes beside the JSON, in buffers that are wiped.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::token_exchange::secret_digest;
use crate::broker::BrokerProblem;
use crate::http::HttpResponse;
use crate::identity::{Identity, Value, find_source_kind};
use crate::secret::Secret;
use crate::source::{self, SourceProblem};
use crate::vault::{self, KEY_BYTES, Vault, VaultDescriptor};

/// What is to be exchanged. No secret is in it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct ExchangeRequest {
    name: String,
    kind: String,
    fields: BTreeMap<String, Value>,
    /// What is asked for, where the identity itself does not say.
    pub(super) scope: Option<String>,
    /// The digest of what was kept when the exchange was found needed.
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

    /// Not where what is kept is another than this by now: somebody else has made the exchange.
    pub(crate) fn unless_exchanged(self, kept: &Secret) -> Self {
        Self { secret_digest: Some(secret_digest(kept)), ..self }
    }

    pub(super) fn identity(&self) -> Identity {
        let kind = find_source_kind(&self.kind).map_or("", |kind| kind.name);
        Identity { name: self.name.clone(), kind, fields: self.fields.clone() }
    }

    /// Where the vault keeps what is spent.
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

pub(super) fn encode_request(vault: &Vault, errand: &ExchangeRequest) -> Zeroizing<Vec<u8>> {
    let order = RequestMessage { request: errand.clone(), vault: vault.descriptor() };
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    bytes.extend_from_slice(vault.key());
    bytes.append(&mut serde_json::to_vec(&order).unwrap_or_default());
    bytes
}

/// `None` for one that breaks off, because its sender was killed.
pub(super) fn decode_request(bytes: &[u8]) -> Option<(Vault, ExchangeRequest)> {
    let (key, rest) = bytes.split_first_chunk::<KEY_BYTES>()?;
    let RequestMessage { request: errand, vault } = serde_json::from_slice(rest).ok()?;
    Some((Vault::from_descriptor(vault, key), errand))
}

pub(super) fn encode_reply(outcome: &Result<HttpResponse, SourceProblem>) -> Zeroizing<Vec<u8>> {
    let (told, body) = match outcome {
        Ok(HttpResponse { status, skew, has_date: is_dated, host, body }) => {
            let (status, skew, is_dated, host) = (*status, *skew, *is_dated, host.clone());
            (ReplyMessage::Response { status, skew, is_dated, host }, body.as_slice())
        }
        Err(SourceProblem::NeedsLogin(words)) => (ReplyMessage::NeedsLogin(words.clone()), &[][..]),
        Err(SourceProblem::Transient(words)) => (ReplyMessage::Transient(words.clone()), &[][..]),
        Err(SourceProblem::Refused(words) | SourceProblem::NotCompleted(words)) => {
            (ReplyMessage::Refused(words.clone()), &[][..])
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
    bytes.append(&mut serde_json::to_vec(&told).unwrap_or_default());
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    bytes
}

/// `None` where the process was ended before it had answered.
pub(super) fn decode_reply(bytes: &[u8]) -> Option<Result<HttpResponse, SourceProblem>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let body = Zeroizing::new(bytes[end + 1..].to_vec());
    Some(match serde_json::from_slice(&bytes[..end]).ok()? {
        ReplyMessage::Response { status, skew, is_dated, host } => {
            Ok(HttpResponse { status, skew, has_date: is_dated, body, host })
        }
        ReplyMessage::NeedsLogin(words) => Err(SourceProblem::NeedsLogin(words)),
        ReplyMessage::Transient(words) => Err(SourceProblem::Transient(words)),
        ReplyMessage::Refused(words) => Err(SourceProblem::Refused(words)),
        ReplyMessage::Problem { code, message, hint, login } => Err(SourceProblem::Described(BrokerProblem {
            code: vault::problem_code(&code),
            message,
            hint,
            login_identity: login,
        })),
    })
}
