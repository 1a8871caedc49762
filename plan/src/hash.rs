//! Hashes of the user's intent, and the fields in which two hashes differ.
//!
//! A hash is one line of text that the runtime stores as a label: `TOTAL field=PART field=PART`. Only the total decides
//! whether a unit changed; the parts let a plan name the changed fields. The label contains no secret: a part is 20
//! bits of a digest.

use std::collections::BTreeMap;

use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::application::Argv;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// The first `length` characters of the lower-case base32 of the SHA-256 of `bytes`.
#[must_use]
pub fn base32_digest(bytes: &[u8], length: usize) -> String {
    let digest = Sha256::digest(bytes);
    let mut text = String::with_capacity(length);
    for index in 0..length {
        let bit = index * 5;
        let high = u16::from(digest.get(bit / 8).copied().unwrap_or_default());
        let low = u16::from(digest.get(bit / 8 + 1).copied().unwrap_or_default());
        let window = (high << 8 | low) >> (11 - bit % 8);
        text.push(char::from(ALPHABET[usize::from(window & 31)]));
    }
    text
}

/// The fields that differ between two hashes, sorted. Empty if one of the hashes has no parts.
#[must_use]
pub fn changed_fields(old: &str, new: &str) -> Vec<String> {
    let (old, new) = (field_digests(old), field_digests(new));
    if old.is_empty() || new.is_empty() {
        return Vec::new();
    }
    let mut fields: Vec<String> = new
        .iter()
        .filter(|(field, part)| old.get(*field) != Some(*part))
        .map(|(field, _)| (*field).to_owned())
        .chain(old.keys().filter(|field| !new.contains_key(*field)).map(|field| (*field).to_owned()))
        .collect();
    fields.sort();
    fields
}

fn field_digests(hash: &str) -> BTreeMap<&str, &str> {
    hash.split(' ').skip(1).filter_map(|part| part.rsplit_once('=')).collect()
}

/// A hash of fields, each with its canonical text.
#[must_use]
pub fn hash_fields(fields: &BTreeMap<String, String>) -> String {
    let mut all_fields = String::new();
    let mut parts = String::new();
    for (field, value) in fields {
        // Lengths make the concatenation unambiguous.
        all_fields.push_str(&format!("{}:{field}{}:{value}", field.len(), value.len()));
        parts.push_str(&format!(" {field}={}", base32_digest(value.as_bytes(), 4)));
    }
    format!("{}{parts}", base32_digest(all_fields.as_bytes(), 20))
}

/// The canonical form of a command in a hash. It does not depend on how a runtime starts a shell.
pub(crate) fn command_json(command: &Argv) -> Json {
    match command {
        Argv::List(words) => json!(words),
        Argv::Shell(line) => json!({ "shell": line }),
    }
}

/// Adds the contents of a job's input files to its hash. The agent computes `inputs` from the files.
#[must_use]
pub fn with_inputs(hash: &str, inputs: &str) -> String {
    with_field(hash, "inputs", inputs)
}

/// Adds one field behind the existing ones. The new total depends on the old total and on `value`.
fn with_field(hash: &str, field: &str, value: &str) -> String {
    let (total, parts) = hash.split_once(' ').unwrap_or((hash, ""));
    let total = base32_digest(format!("{total} {value}").as_bytes(), 20);
    let part = base32_digest(value.as_bytes(), 4);
    if parts.is_empty() { format!("{total} {field}={part}") } else { format!("{total} {parts} {field}={part}") }
}

/// Adds the environment variables that point a unit to its credential endpoint. A unit that runs without them is
/// therefore replaced.
#[must_use]
pub fn with_endpoint(hash: &str, variables: &str) -> String {
    with_field(hash, "identity", variables)
}
