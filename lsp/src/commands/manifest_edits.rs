//! `pdev.waive` and `pdev.keep`: commands that edit the manifest. Only the client writes the file.

use std::path::Path;
use std::sync::Arc;

use host::clock::now_milliseconds;
use manifest::FileId;
use manifest::date::Date;
use serde_json::{Value, json};
use tower_lsp::jsonrpc::{Error, Result};

use super::{Argument, current_analysis, invalid_params_error};
use crate::analysis::{actions, refactors};
use crate::check::Analysis;
use crate::convert::edits;
use crate::edit_check::{self, CheckedEdit};
use crate::server_state::ServerState;

/// Adds the waiver through the client, so the user can undo it in the editor.
pub(super) fn waive(state: &Arc<ServerState>, analysis: &Analysis, argument: &Argument) -> Result<Value> {
    let (Some(code), Some(scope)) = (&argument.code, &argument.scope) else {
        return Err(invalid_params_error("`pdev.waive` needs `code` and `scope`, such as `PD005` and `services.api`"));
    };
    let encoding = state.workspace().encoding;
    let reason = argument.reason.as_deref().unwrap_or(actions::REASON_PLACEHOLDER);
    let edit = actions::waiver_edit(
        analysis.loaded(),
        code,
        scope,
        reason,
        argument.owner.as_deref(),
        Date::from_unix_milliseconds(now_milliseconds()),
    );
    let edit = edit.ok_or_else(|| {
        invalid_params_error(
            "cannot add to this form of `guardrails`; write `waivers` as a list with at least one entry",
        )
    })?;
    if !CheckedEdit::new(analysis, std::slice::from_ref(&edit), &[]).is_some_and(|checked| checked.is_valid()) {
        return Err(invalid_params_error("this waiver would make the manifest invalid; check `code` and `scope`"));
    }
    let edit = edits::workspace_edit(analysis, &[edit], encoding);
    if state.client_capabilities().apply_edit {
        let client = state.client.clone();
        let requested_edit = edit.clone();
        state.tasks.spawn(async move { drop(client.apply_edit(requested_edit).await) });
    }
    Ok(json!(edit))
}

/// Stores the literal of a variable in the vault, then replaces it by a reference in the manifest. In this order no
/// failure can lose the value.
pub(super) async fn move_to_vault(state: &Arc<ServerState>, root: &Path, argument: &Argument) -> Result<Value> {
    let (Some(unit), Some(variable)) = (&argument.unit, &argument.variable) else {
        return Err(invalid_params_error("`pdev.keep` needs `unit` and `variable`, such as `api` and `STRIPE_KEY`"));
    };
    if !state.client_capabilities().apply_edit {
        return Err(invalid_params_error("the client cannot apply edits; store the value with `pdev secret set NAME`"));
    }
    let analysis = current_analysis(state, root).await?;
    let (action, stored) = find_literal(&analysis, unit, variable)
        .ok_or_else(|| invalid_params_error(format!("`{variable}` of `{unit}` has no literal value")))?;
    // Check the edit before the value is stored, so that a refusal has no effect.
    require_valid_edit(&analysis, &action, variable)?;
    let folder = root.parent().unwrap_or(root);
    let to_error = |message: String| Error { message: message.into(), ..Error::internal_error() };
    crate::vault::store_secret(folder, &stored.secret, &stored.value).await.map_err(to_error)?;
    // The keyring prompt may have taken a minute: compute the edit for the text as it is now.
    let analysis = current_analysis(state, root).await?;
    let action = find_literal(&analysis, unit, variable).filter(|(_, literal)| literal.value == stored.value);
    let (action, _) = action.ok_or_else(|| {
        invalid_params_error(format!("`{variable}` changed in the meantime; the vault has its previous value"))
    })?;
    require_valid_edit(&analysis, &action, variable)?;
    let edit = edits::workspace_edit(&analysis, &action.edits, state.workspace().encoding);
    // Not awaited: a client that rejects the edit leaves the literal in place, and the vault has it too.
    let client = state.client.clone();
    state.tasks.spawn(async move { drop(client.apply_edit(edit).await) });
    Ok(json!({ "secret": stored.secret }))
}

fn require_valid_edit(analysis: &Analysis, action: &actions::Action, variable: &str) -> Result<()> {
    if edit_check::is_valid_refactoring(analysis, action) {
        return Ok(());
    }
    Err(invalid_params_error(format!(
        "cannot replace `{variable}` without changing other parts of the manifest; store it with `pdev secret set`, and \
         edit the manifest by hand"
    )))
}

fn find_literal(analysis: &Analysis, unit: &str, variable: &str) -> Option<(actions::Action, actions::SecretLiteral)> {
    let loaded = analysis.loaded();
    let context = refactors::RefactorContext {
        root: loaded.root.as_ref()?,
        text: analysis.text(FileId(0))?,
        comments: &loaded.comments,
        manifest: &loaded.manifest,
        file: FileId(0),
        files: &analysis.buffers,
        has_other_files: analysis.paths().count() > 1,
    };
    let action = refactors::literal_to_secret(&context, unit, variable)?;
    let literal = action.secret_literal.clone()?;
    Some((action, literal))
}
