//! `pdev.render`: the fields of all units, resolved without an agent. Values that may be secret are hidden.

use plan::origin::CHOSEN_AT_UP;
use tower_lsp::jsonrpc::Result;

use super::{Argument, invalid_params_error};
use crate::check::Analysis;

/// Formats each field as `path = value  # origin`.
pub(super) fn render(analysis: &Analysis, argument: &Argument) -> Result<String> {
    let resolved = analysis
        .resolve_application()
        .ok_or_else(|| invalid_params_error("the manifest has errors; fix them first"))?;
    let is_requested = |path: &str| argument.unit.as_deref().is_none_or(|unit| path.split('.').nth(1) == Some(unit));
    let mut text = String::new();
    for (path, field) in resolved.origins.iter().filter(|(path, _)| is_requested(path.as_ref())) {
        let sources = &analysis.loaded().sources;
        let origin =
            field.origins.last().map(|origin| plan::explain::describe_origin(origin, sources)).unwrap_or_default();
        // A default of pdev, such as the address of another service, contains no secret.
        let is_default = matches!(field.origins.last(), Some(plan::origin::Origin::Default { .. }));
        if field.value == CHOSEN_AT_UP {
            text.push_str(&format!("{path}: {CHOSEN_AT_UP}\n"));
            continue;
        }
        let hidden = !is_default && crate::analysis::hover::is_secret_path(&path);
        let value = if hidden { "(not shown)".to_owned() } else { field.value.to_string() };
        text.push_str(&format!("{path} = {value}  # {origin}\n"));
    }
    Ok(text)
}
