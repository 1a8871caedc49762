//! Names that would meet: one namespace for all units, one host for each service.

use std::collections::BTreeMap;

use manifest::{Diagnostic, Manifest, Severity, Span};

use crate::codes;
use crate::naming::service_label;

pub(super) fn check(manifest: &Manifest, diagnostics: &mut Vec<Diagnostic>) {
    one_namespace(manifest, diagnostics);
    one_host_each(manifest, diagnostics);
}

fn one_namespace(manifest: &Manifest, diagnostics: &mut Vec<Diagnostic>) {
    let mut taken: BTreeMap<&str, (&str, Span)> = BTreeMap::new();
    let services = manifest.services.iter().map(|(name, entry)| (name, "service", entry.key));
    let jobs = manifest.jobs.iter().map(|(name, entry)| (name, "job", entry.key));
    let resources = manifest.resources.iter().map(|(name, entry)| (name, "resource", entry.key));
    for (name, kind, key) in services.chain(jobs).chain(resources) {
        match taken.get(name.as_str()) {
            None => {
                taken.insert(name, (kind, key));
            }
            Some((first, span)) => diagnostics.push(
                Diagnostic::new(
                    codes::NAME_CLASH,
                    Severity::Error,
                    key,
                    format!("`{name}` is already the name of a {first}"),
                )
                .at(format!("{kind}s.{name}"))
                .help("Give one of them another name: each is a host name on the preview's network.")
                .related(*span, "the first one"),
            ),
        }
    }
}

fn one_host_each(manifest: &Manifest, diagnostics: &mut Vec<Diagnostic>) {
    let mut taken: BTreeMap<String, (&str, Span)> = BTreeMap::new();
    for (name, entry) in manifest.services.iter().filter(|(_, entry)| !entry.value.ports.is_empty()) {
        let label = service_label(name).text;
        match taken.get(&label) {
            None => {
                taken.insert(label, (name, entry.key));
            }
            Some((first, span)) => {
                let message = format!("`{name}` and `{first}` would both answer at `{label}.BRANCH.APP.localhost`");
                diagnostics.push(
                    Diagnostic::new(codes::HOST_CLASH, Severity::Error, entry.key, message)
                        .at(format!("services.{name}"))
                        .help("Give one of them a name that differs in more than punctuation and case.")
                        .related(*span, "the first one"),
                );
            }
        }
    }
}
