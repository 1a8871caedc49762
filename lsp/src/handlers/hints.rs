//! `textDocument/inlayHint`: the hints about the manifest. Hints about the running preview are in `live`.

use std::collections::BTreeMap;

use manifest::Files;
use tower_lsp::ls_types::*;

use crate::analysis::hints::{self, Hint, HintContext};
use crate::check::Analysis;
use crate::workspace::{LOCK_FILE, Snapshot};

#[must_use]
pub fn inlay_hints(
    snapshot: &Snapshot,
    analysis: &Analysis,
    running: &BTreeMap<String, String>,
    range: Range,
) -> Vec<InlayHint> {
    let Some(root) = snapshot.root() else { return Vec::new() };
    let requested = snapshot.encoding.byte_range(&snapshot.text, range);
    let (environment, variables) = (analysis.environment(), analysis.variables());
    let text = snapshot.text.as_str();
    let context =
        HintContext { root, text, loaded: analysis.loaded(), environment, variables, running_values: running };
    let kinds = snapshot.settings.inlay_hints;
    let mut hints = Vec::new();
    if kinds.versions {
        // A missing or invalid lock counts as empty; an invalid one has its own diagnostic.
        let bytes = analysis.buffers.read(LOCK_FILE).unwrap_or_default();
        let lock = catalog::Lock::parse(&String::from_utf8_lossy(&bytes)).unwrap_or_default();
        hints.extend(hints::version_hints(&context, &requested, &lock));
    }
    if kinds.values {
        hints.extend(hints::value_hints(&context, &requested));
    }
    let convert = |hint: Hint| InlayHint {
        position: snapshot.encoding.position(&snapshot.text, hint.offset),
        label: InlayHintLabel::String(hint.text),
        kind: None,
        text_edits: None,
        tooltip: Some(InlayHintTooltip::String(hint.tooltip)),
        padding_left: Some(true),
        padding_right: None,
        data: None,
    };
    hints.into_iter().map(convert).collect()
}
