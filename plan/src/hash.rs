//! Hashes of what the user asked for, and what two of them say about the difference.
//!
//! A hash is one line of text, kept as a label at the runtime: `WHOLE field=PART field=PART`. The whole decides; the
//! parts only let a plan name the fields that changed. It holds no secret: parts are 20 bits of a digest.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

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

/// The fields that differ between two hashes, sorted; empty where one of them was written without parts.
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

/// A hash of the given fields, each with its own canonical text.
#[must_use]
pub fn hash_fields(fields: &BTreeMap<String, String>) -> String {
    let mut all = String::new();
    let mut short = String::new();
    for (field, value) in fields {
        all.push_str(&format!("{}:{field}{}:{value}", field.len(), value.len()));
        short.push_str(&format!(" {field}={}", base32_digest(value.as_bytes(), 4)));
    }
    format!("{}{short}", base32_digest(all.as_bytes(), 20))
}

/// The hash of a job that also depends on the contents of files: the agent hashes `inputs`, the definition stays.
#[must_use]
pub fn with_inputs(hash: &str, inputs: &str) -> String {
    with_field(hash, "inputs", inputs)
}

/// The hash with one more field, which sorts behind the others.
fn with_field(hash: &str, field: &str, value: &str) -> String {
    let (whole, rest) = hash.split_once(' ').unwrap_or((hash, ""));
    let whole = base32_digest(format!("{whole} {value}").as_bytes(), 20);
    let part = base32_digest(value.as_bytes(), 4);
    if rest.is_empty() { format!("{whole} {field}={part}") } else { format!("{whole} {rest} {field}={part}") }
}

/// The hash of a unit that finds an endpoint by these variables: one that has none yet has to be made anew.
#[must_use]
pub fn with_endpoint(hash: &str, variables: &str) -> String {
    with_field(hash, "identity", variables)
}
