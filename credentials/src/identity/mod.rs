//! Identities: names in the user's own configuration, each bound to a source of credentials.
//!
//! A repository only names an identity. `identities.toml` defines its source, and never contains a secret.

mod edit;
mod import;
mod kinds;
mod read;

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use edit::{EditProblem, add, remove};
pub use import::{ImportedIdentity, import_aws_config, import_gcloud_configuration, import_kubeconfig};
pub use kinds::{COMMON_FIELDS, Field, FieldType, SOURCE_KINDS, SourceKind, find_source_kind};
pub(crate) use read::is_safe_url;
pub use read::{Finding, Identities, read};

/// The value of a field, in the types of the file. Its `Debug` text is part of the digest of stored approvals, so
/// variants keep their names.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    Text(String),
    Number(i64),
    Flag(bool),
    List(Vec<String>),
}

/// `approval` in `identities.toml`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ApprovalPolicy {
    /// Weak approvals count. They are marked in the audit log.
    #[default]
    Normal,
    /// Only confirmed approvals count.
    Strict,
}

/// One identity, validated against its [`SourceKind`]: every required field exists and has the right type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    pub name: String,
    pub kind: &'static str,
    pub fields: BTreeMap<String, Value>,
}

impl Identity {
    /// The value of a text field, if set.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        match self.fields.get(field) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }

    #[must_use]
    pub fn list(&self, field: &str) -> Option<&[String]> {
        match self.fields.get(field) {
            Some(Value::List(list)) => Some(list),
            _ => None,
        }
    }

    #[must_use]
    pub fn number(&self, field: &str) -> Option<i64> {
        match self.fields.get(field) {
            Some(Value::Number(number)) => Some(*number),
            _ => None,
        }
    }

    #[must_use]
    pub fn flag(&self, field: &str) -> Option<bool> {
        match self.fields.get(field) {
            Some(Value::Flag(flag)) => Some(*flag),
            _ => None,
        }
    }

    #[must_use]
    pub fn duration(&self, field: &str) -> Option<Duration> {
        self.text(field).and_then(read::parse_duration)
    }

    /// The secret that the user enters at the login; `None` for a login on a web page.
    #[must_use]
    pub fn secret_description(&self) -> Option<&'static str> {
        match self.needs_mfa_code() {
            true => Some("the code that its MFA device shows"),
            false => find_source_kind(self.kind).and_then(|kind| kind.secret_description),
        }
    }

    /// Whether the login needs a code of an MFA device, which is used at once and not stored.
    #[must_use]
    pub fn needs_mfa_code(&self) -> bool {
        self.text("mfa_serial").is_some()
    }

    /// Whether the user must sign in once before this identity works.
    #[must_use]
    pub fn needs_login(&self) -> bool {
        self.needs_mfa_code() || find_source_kind(self.kind).is_some_and(|kind| kind.needs_login)
    }
}

/// Up to 64 lower-case letters, digits, `.`, `-` and `_`, the first a letter or digit.
#[must_use]
pub fn is_valid_name(name: &str) -> bool {
    let is_letter_or_digit = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_allowed = |byte: u8| is_letter_or_digit(byte) || matches!(byte, b'.' | b'-' | b'_');
    name.len() <= 64 && name.bytes().all(is_allowed) && name.bytes().next().is_some_and(is_letter_or_digit)
}
