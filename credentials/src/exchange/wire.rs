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

use super::spend::mark;
use crate::broker::BrokerProblem;
use crate::http::Answer;
use crate::identity::{Identity, Value, kind};
use crate::secret::Secret;
use crate::source::{self, SourceProblem};
use crate::vault::{self, Handed, KEY_BYTES, Vault};

/// What is to be exchanged. No secret is in it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(crate) struct Errand {
    name: String,
    kind: String,
    fields: BTreeMap<String, Value>,
    /// What is asked for, where the identity itself does not say.
    pub(super) scope: Option<String>,
    /// The digest of what was kept when the exchange was found needed.
    pub(super) seen: Option<String>,
}

impl Errand {
    pub(crate) fn new(identity: &Identity) -> Self {
        let Identity { name, kind, fields } = identity.clone();
        Self { name, kind: kind.to_owned(), fields, scope: None, seen: None }
    }

    pub(crate) fn asking_for(self, scope: Option<String>) -> Self {
        Self { scope, ..self }
    }

    /// Not where what is kept is another than this by now: somebody else has made the exchange.
    pub(crate) fn unless_made(self, kept: &Secret) -> Self {
        Self { seen: Some(mark(kept)), ..self }
    }

    pub(super) fn identity(&self) -> Identity {
        let kind = kind(&self.kind).map_or("", |kind| kind.name);
        Identity { name: self.name.clone(), kind, fields: self.fields.clone() }
    }

    /// Where the vault keeps what is spent.
    pub(super) fn item(&self) -> String {
        source::login_item(&self.identity())
    }
}

#[derive(Serialize, Deserialize)]
struct Order {
    errand: Errand,
    vault: Handed,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Told {
    Answered { status: u16, skew: i64, is_dated: bool, host: String },
    NeedsLogin(String),
    Passing(String),
    Refused(String),
    Said { code: String, message: String, hint: Option<String>, login: Option<String> },
}

pub(super) fn order(vault: &Vault, errand: &Errand) -> Zeroizing<Vec<u8>> {
    let order = Order { errand: errand.clone(), vault: vault.handed() };
    let mut bytes = Zeroizing::new(Vec::with_capacity(64 << 10));
    bytes.extend_from_slice(vault.key());
    bytes.append(&mut serde_json::to_vec(&order).unwrap_or_default());
    bytes
}

/// `None` for one that breaks off, because its sender was killed.
pub(super) fn taken(bytes: &[u8]) -> Option<(Vault, Errand)> {
    let (key, rest) = bytes.split_first_chunk::<KEY_BYTES>()?;
    let Order { errand, vault } = serde_json::from_slice(rest).ok()?;
    Some((Vault::taken(vault, key), errand))
}

pub(super) fn told(outcome: &Result<Answer, SourceProblem>) -> Zeroizing<Vec<u8>> {
    let (told, body) = match outcome {
        Ok(Answer { status, skew, is_dated, host, body }) => {
            let (status, skew, is_dated, host) = (*status, *skew, *is_dated, host.clone());
            (Told::Answered { status, skew, is_dated, host }, body.as_slice())
        }
        Err(SourceProblem::NeedsLogin(words)) => (Told::NeedsLogin(words.clone()), &[][..]),
        Err(SourceProblem::Passing(words)) => (Told::Passing(words.clone()), &[][..]),
        Err(SourceProblem::Refused(words) | SourceProblem::NotDone(words)) => (Told::Refused(words.clone()), &[][..]),
        Err(SourceProblem::Vault(problem)) => {
            let (code, message) = (problem.code().to_owned(), problem.to_string());
            (Told::Said { code, message, hint: problem.hint(), login: None }, &[][..])
        }
        Err(SourceProblem::Below(problem) | SourceProblem::Said(problem)) => {
            let BrokerProblem { code, message, hint, login } = problem.clone();
            (Told::Said { code: code.to_owned(), message, hint, login }, &[][..])
        }
    };
    let mut bytes = Zeroizing::new(Vec::with_capacity(body.len() + 1024));
    bytes.append(&mut serde_json::to_vec(&told).unwrap_or_default());
    bytes.push(b'\n');
    bytes.extend_from_slice(body);
    bytes
}

/// `None` where the process was ended before it had answered.
pub(super) fn read(bytes: &[u8]) -> Option<Result<Answer, SourceProblem>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let body = Zeroizing::new(bytes[end + 1..].to_vec());
    Some(match serde_json::from_slice(&bytes[..end]).ok()? {
        Told::Answered { status, skew, is_dated, host } => Ok(Answer { status, skew, is_dated, body, host }),
        Told::NeedsLogin(words) => Err(SourceProblem::NeedsLogin(words)),
        Told::Passing(words) => Err(SourceProblem::Passing(words)),
        Told::Refused(words) => Err(SourceProblem::Refused(words)),
        Told::Said { code, message, hint, login } => {
            Err(SourceProblem::Said(BrokerProblem { code: vault::code(&code), message, hint, login }))
        }
    })
}
