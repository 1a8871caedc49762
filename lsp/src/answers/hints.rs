//! `textDocument/inlayHint` of what is written; what runs is `live`'s.

use std::collections::BTreeMap;

use manifest::Files;
use tower_lsp::ls_types::*;

use crate::analysis::hints::{self, Hint, Scene};
use crate::check::Analysis;
use crate::workspace::{LOCK, Snapshot};

#[must_use]
pub fn answer(
    snapshot: &Snapshot,
    analysis: &Analysis,
    running: &BTreeMap<String, String>,
    range: Range,
) -> Vec<InlayHint> {
    let Some(root) = snapshot.root() else { return Vec::new() };
    let wanted = snapshot.encoding.bytes(&snapshot.text, range);
    let (environment, variables) = (analysis.environment(), analysis.variables());
    let text = snapshot.text.as_str();
    let scene = Scene { root, text, loaded: analysis.loaded(), environment, variables, running };
    let kinds = snapshot.settings.inlay_hints;
    let mut all = Vec::new();
    if kinds.versions {
        let written = analysis.buffers.read(LOCK).unwrap_or_default();
        let lock = catalog::Lock::parse(&String::from_utf8_lossy(&written)).unwrap_or_default();
        all.extend(hints::versions(&scene, &wanted, &lock));
    }
    if kinds.values {
        all.extend(hints::values(&scene, &wanted));
    }
    let convert = |hint: Hint| InlayHint {
        position: snapshot.encoding.position(&snapshot.text, hint.offset),
        label: InlayHintLabel::String(hint.text),
        kind: None,
        text_edits: None,
        tooltip: Some(InlayHintTooltip::String(hint.words)),
        padding_left: Some(true),
        padding_right: None,
        data: None,
    };
    all.into_iter().map(convert).collect()
}
