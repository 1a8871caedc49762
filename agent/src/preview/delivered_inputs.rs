//! Detects that a secret or a sensitive value differs from the one that a unit was started with.
//!
//! Such values are not part of a unit's hash, because the hash is stored with the unit's object. Their digests are keyed
//! with this machine's seed, so that a copy of the record tells nothing about a value that can be guessed.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use plan::Application;
use plan::application::{PreviewId, Role, Unit, UnitName};
use plan::load::LoadedManifest;
use sha2::{Digest, Sha256};
use strings::to_hex;

use super::Context;
use crate::registry::InputDigests;
use crate::shared::Shared;

const DIGEST_DIGITS: usize = 32;

/// The digests of the inputs that restart a unit when they change. Jobs are left out: a new secret is no reason to
/// repeat finished work.
pub(super) fn digest_inputs(
    shared: &Shared,
    preview: &PreviewId,
    loaded: &LoadedManifest,
    application: &Application,
    folder: &Path,
    seed: &str,
) -> BTreeMap<UnitName, InputDigests> {
    let restarts_units =
        |secret: &String| loaded.manifest.secrets.get(secret).is_none_or(|declared| declared.value.restarts_units);
    let mut all = BTreeMap::new();
    for unit in application.units.values().filter(|unit| unit.role != Role::Job) {
        let mut digests: InputDigests = sensitive_variables(unit, seed).collect();
        digests.extend(mounted_folders(shared, preview, unit, folder, seed));
        for secret in unit.secrets.iter().filter(|secret| restarts_units(secret)) {
            if let Some(value) = shared.delivery.read_stored(&preview.0, secret) {
                let name = format!("secrets.{secret}");
                let mut sink = DigestSink::default();
                if value.write_to(&mut sink).is_ok() {
                    let digest = keyed_digest(seed, &unit.name, &name, &sink.0.finalize());
                    digests.insert(name, digest);
                }
            }
        }
        if !digests.is_empty() {
            all.insert(unit.name.clone(), digests);
        }
    }
    all
}

fn sensitive_variables<'a>(unit: &'a Unit, seed: &'a str) -> impl Iterator<Item = (String, String)> + 'a {
    unit.env.iter().filter(|(_, value)| value.sensitive).map(move |(variable, value)| {
        let name = format!("env.{variable}");
        let digest = keyed_digest(seed, &unit.name, &name, &Sha256::digest(value.value.as_bytes()));
        (name, digest)
    })
}

/// The folders of this machine that a container mounts: those of a moved checkout have another path, and so does the
/// folder of delivered secrets after the runtime folder has changed.
fn mounted_folders(
    shared: &Shared,
    preview: &PreviewId,
    unit: &Unit,
    folder: &Path,
    seed: &str,
) -> Vec<(String, String)> {
    let mut folders = Vec::new();
    if unit.body.has_project_mounts() {
        folders.push(("the path of the project", folder.to_owned()));
    }
    if unit.body.as_container().is_some() && !unit.secrets.is_empty() {
        folders.push(("the path of its secrets", shared.delivery.unit_folder(&preview.0, &unit.name)));
    }
    let digest = |(name, path): (&str, PathBuf)| {
        let digest = keyed_digest(seed, &unit.name, name, &Sha256::digest(path.as_os_str().as_bytes()));
        (name.to_owned(), digest)
    };
    folders.into_iter().map(digest).collect()
}

/// Hashes a secret without another copy of it.
#[derive(Default)]
struct DigestSink(Sha256);

impl Write for DigestSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn keyed_digest(seed: &str, unit: &str, name: &str, value: &[u8]) -> String {
    let mut digest = Sha256::new();
    for part in [seed.as_bytes(), unit.as_bytes(), name.as_bytes(), value] {
        // The lengths separate the parts.
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part);
    }
    let mut text = to_hex(digest.finalize());
    text.truncate(DIGEST_DIGITS);
    text
}

/// The inputs of each unit that differ from those of its last start. An input that was not recorded is no difference.
pub(super) fn changed_inputs(
    recorded: &BTreeMap<UnitName, InputDigests>,
    current: &BTreeMap<UnitName, InputDigests>,
) -> BTreeMap<UnitName, Vec<String>> {
    let mut changed = BTreeMap::new();
    for (unit, digests) in current {
        let Some(before) = recorded.get(unit) else { continue };
        let differs = |(name, digest): &(&String, &String)| before.get(*name) != Some(*digest);
        // A new secret was absent at the start; a new variable is part of the hash already.
        let is_comparable = |(name, _): &(&String, &String)| before.contains_key(*name) || name.starts_with("secrets.");
        let names: Vec<String> =
            digests.iter().filter(differs).filter(is_comparable).map(|(name, _)| name.clone()).collect();
        if !names.is_empty() {
            changed.insert(unit.clone(), names);
        }
    }
    changed
}

/// Records the inputs of a unit that was just started. Nothing is written if they are recorded already.
pub(super) fn record_start(context: &Context, unit: &str) {
    let current = context.live.input_digests(unit).unwrap_or_default();
    let recorded =
        context.shared.registry.get(&context.id).and_then(|record| record.delivered_inputs.get(unit).cloned());
    if recorded.unwrap_or_default() == current {
        return;
    }
    let written = context.shared.registry.edit(&context.id, |record| {
        record.delivered_inputs.insert(unit.to_owned(), current);
    });
    if let Err(error) = written {
        // The next `up` restarts the unit once more.
        tracing::warn!(%error, unit, "the digests of delivered inputs cannot be recorded");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_inputs_and_new_secrets_are_changes() {
        let inputs = |pairs: &[(&str, &str)]| -> BTreeMap<UnitName, InputDigests> {
            let digests = pairs.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect();
            [("web".to_owned(), digests)].into()
        };
        let recorded = inputs(&[("secrets.a", "1"), ("env.URL", "1")]);
        let current = inputs(&[("secrets.a", "2"), ("secrets.b", "1"), ("env.URL", "1"), ("env.NEW", "1")]);
        assert_eq!(changed_inputs(&recorded, &current)["web"], ["secrets.a", "secrets.b"]);
        assert!(changed_inputs(&BTreeMap::new(), &current).is_empty(), "a record of an earlier version");
        assert!(changed_inputs(&current, &current).is_empty());
    }

    #[test]
    fn digests_depend_on_the_machine_and_on_the_unit() {
        let digest = keyed_digest("seed", "web", "secrets.a", b"value");
        assert_eq!(digest.len(), DIGEST_DIGITS);
        for other in [
            keyed_digest("other", "web", "secrets.a", b"value"),
            keyed_digest("seed", "api", "secrets.a", b"value"),
            keyed_digest("seed", "web", "secrets.a", b"values"),
            keyed_digest("seed", "we", "bsecrets.a", b"value"),
        ] {
            assert_ne!(digest, other);
        }
    }
}
