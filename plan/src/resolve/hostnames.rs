//! Reports services whose names differ in the manifest but have the same host name.

use std::collections::BTreeMap;

use manifest::{Diagnostic, Manifest, Severity, Span};

use crate::codes;
use crate::naming::service_label;

pub(super) fn check(manifest: &Manifest, diagnostics: &mut Vec<Diagnostic>) {
    let mut services_by_label: BTreeMap<String, (&str, Span)> = BTreeMap::new();
    for (name, entry) in manifest.services.iter().filter(|(_, entry)| !entry.value.ports.is_empty()) {
        let label = service_label(name).text;
        match services_by_label.get(&label) {
            None => {
                services_by_label.insert(label, (name, entry.key));
            }
            Some((first, span)) => {
                let message = format!("`{name}` and `{first}` would both answer at `{label}.BRANCH.APP.localhost`");
                diagnostics.push(
                    Diagnostic::new(codes::HOST_CLASH, Severity::Error, entry.key, message)
                        .at_path(format!("services.{name}"))
                        .help("Give one of them a name that differs in more than punctuation and case.")
                        .related(*span, "the first one"),
                );
            }
        }
    }
}
