//! `pdev.render`: the fields of the application, rendered without an agent.

use tower_lsp::jsonrpc::Result;

use super::{Argument, invalid_params_error};
use crate::check::Analysis;

/// Every field as it would be rendered, each with its origin, as `path = value  # origin`.
pub(super) fn render(analysis: &Analysis, argument: &Argument) -> Result<String> {
    let resolved = analysis.resolve_application().ok_or_else(|| invalid_params_error("the manifest has errors"))?;
    let wanted = |path: &str| argument.unit.as_deref().is_none_or(|unit| path.split('.').nth(1) == Some(unit));
    let mut text = String::new();
    for (path, field) in resolved.origins.iter().filter(|(path, _)| wanted(path.as_ref())) {
        let sources = &analysis.loaded().sources;
        let origin =
            field.origins.last().map(|origin| plan::explain::describe_origin(origin, sources)).unwrap_or_default();
        // What pdev itself chose, such as the addresses of the other services, is no secret.
        let own = matches!(field.origins.last(), Some(plan::origin::Origin::Default { .. }));
        let hidden = !own && crate::analysis::hover::is_secret_path(&path);
        let value = if hidden { "(not shown)".to_owned() } else { field.value.to_string() };
        text.push_str(&format!("{path} = {value}  # {origin}\n"));
    }
    Ok(text)
}
