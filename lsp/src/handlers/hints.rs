//! `textDocument/inlayHint` of what is written; what runs is `live`'s.

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
    let wanted = snapshot.encoding.byte_range(&snapshot.text, range);
    let (environment, variables) = (analysis.environment(), analysis.variables());
    let text = snapshot.text.as_str();
    let context =
        HintContext { root, text, loaded: analysis.loaded(), environment, variables, running_values: running };
    let kinds = snapshot.settings.inlay_hints;
    let mut all = Vec::new();
    if kinds.versions {
        let written = analysis.buffers.read(LOCK_FILE).unwrap_or_default();
        let lock = catalog::Lock::parse(&String::from_utf8_lossy(&written)).unwrap_or_default();
        all.extend(hints::version_hints(&context, &wanted, &lock));
    }
    if kinds.values {
        all.extend(hints::value_hints(&context, &wanted));
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
    all.into_iter().map(convert).collect()
}
