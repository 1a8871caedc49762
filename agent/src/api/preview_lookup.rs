//! Finds the preview that a request names.

use std::time::Duration;

use plan::application::PreviewId;
use protocol::status::PreviewState;

use super::{Api, ProblemResponse};
use crate::preview::PreviewHandle;

/// How long a request waits for the recovery of a preview after the agent has started.
const RECOVERY_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn find_preview(api: &Api, preview: &str) -> Result<PreviewHandle, ProblemResponse> {
    api.shared.preview_handle(&PreviewId(preview.to_owned())).ok_or_else(|| unknown_preview(preview))
}

pub(super) fn unknown_preview(preview: &str) -> ProblemResponse {
    let title = format!("there is no preview `{preview}`");
    ProblemResponse(protocol::Problem::new("unknown_preview", 404, title).hint("Run `pdev ls` to list all previews."))
}

/// Finds a preview and waits until its units are known: right after the agent has started, its actor is still
/// recovering.
pub(super) async fn find_recovered(api: &Api, preview: &str) -> Result<PreviewHandle, ProblemResponse> {
    let handle = find_preview(api, preview)?;
    let recovering = |state| matches!(state, PreviewState::Starting);
    let units_known =
        handle.published.wait_for(|status| (!status.units.is_empty() || !recovering(status.state)).then_some(()));
    // After the limit, the request continues with the units that are known so far.
    let _in_time = tokio::time::timeout(RECOVERY_LIMIT, units_known).await;
    Ok(handle)
}
