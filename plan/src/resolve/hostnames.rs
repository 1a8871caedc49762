//! Names that differ in the manifest and meet in the browser: one host for each service.

use std::collections::BTreeMap;

use manifest::{Diagnostic, Manifest, Severity, Span};

use crate::codes;
use crate::naming::service_label;

pub(super) fn check(manifest: &Manifest, diagnostics: &mut Vec<Diagnostic>) {
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
                        .at_path(format!("services.{name}"))
                        .help("Give one of them a name that differs in more than punctuation and case.")
                        .related(*span, "the first one"),
                );
            }
        }
    }
}
