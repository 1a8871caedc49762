//! `pdev.waive` and `pdev.keep`: commands that edit the manifest through the client.

use std::path::Path;
use std::sync::Arc;

use manifest::FileId;
use serde_json::{Value, json};
use tower_lsp::jsonrpc::{Error, Result};

use super::{Argument, current_analysis, invalid_params_error};
use crate::analysis::{actions, refactors};
use crate::check::{Analysis, today};
use crate::convert::edits;
use crate::server_state::ServerState;

/// Writes the waiver through the editor, so that it can be undone there.
pub(super) fn waive(state: &Arc<ServerState>, analysis: &Analysis, argument: &Argument) -> Result<Value> {
    let (Some(code), Some(scope)) = (&argument.code, &argument.scope) else {
        return Err(invalid_params_error("`pdev.waive` needs `code` and `scope`, such as `PD005` and `services.api`"));
    };
    let encoding = state.workspace().encoding;
    let reason = argument.reason.as_deref().unwrap_or("say why this is right here");
    let edit = actions::waiver_edit(analysis.loaded(), code, scope, reason, argument.owner.as_deref(), today());
    let edit = edit.ok_or_else(|| invalid_params_error("`guardrails` has a form that cannot be added to"))?;
    let edit = edits::workspace_edit(analysis, &[edit], encoding);
    if state.client_capabilities().apply_edit {
        let client = state.client.clone();
        let applied = edit.clone();
        drop(tokio::spawn(async move { client.apply_edit(applied).await }));
    }
    Ok(json!(edit))
}

/// The literal of a variable goes into the vault; only then the manifest names the secret instead.
pub(super) async fn move_to_vault(state: &Arc<ServerState>, root: &Path, argument: &Argument) -> Result<Value> {
    let (Some(unit), Some(variable)) = (&argument.unit, &argument.variable) else {
        return Err(invalid_params_error("`pdev.keep` needs `unit` and `variable`, such as `api` and `STRIPE_KEY`"));
    };
    if !state.client_capabilities().apply_edit {
        return Err(invalid_params_error("the client cannot apply edits; `pdev secret set NAME` keeps a value"));
    }
    let found = find_literal(&*current_analysis(state, root).await?, unit, variable);
    let (_, kept) = found.ok_or_else(|| invalid_params_error(format!("`{variable}` of `{unit}` is no literal")))?;
    let folder = root.parent().unwrap_or(root);
    let refused = |words: String| Error { message: words.into(), ..Error::internal_error() };
    crate::vault::store_secret(folder, &kept.secret, &kept.value).await.map_err(refused)?;
    // The file may have changed meanwhile: the edit is that of now.
    let analysis = current_analysis(state, root).await?;
    let now = find_literal(&analysis, unit, variable).filter(|(_, now)| now.value == kept.value);
    let (now, _) =
        now.ok_or_else(|| invalid_params_error(format!("`{variable}` changed meanwhile; the vault has what it was")))?;
    let edit = edits::workspace_edit(&analysis, &now.edits, state.workspace().encoding);
    let client = state.client.clone();
    drop(tokio::spawn(async move { client.apply_edit(edit).await }));
    Ok(json!({ "secret": kept.secret }))
}

fn find_literal(analysis: &Analysis, unit: &str, variable: &str) -> Option<(actions::Action, actions::SecretLiteral)> {
    let loaded = analysis.loaded();
    let context = refactors::RefactorContext {
        root: loaded.root.as_ref()?,
        text: analysis.text(FileId(0))?,
        manifest: &loaded.manifest,
        file: FileId(0),
        files: &analysis.buffers,
        has_other_files: analysis.paths().count() > 1,
    };
    let action = refactors::literal_to_secret(&context, unit, variable)?;
    let kept = action.secret_literal.clone()?;
    Some((action, kept))
}
