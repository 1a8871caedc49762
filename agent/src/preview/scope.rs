//! The scope of a preview: what drivers need to know about it.

use std::sync::Arc;

use drivers::scope::{Progress, ProgressLine};
use drivers::{Locations, Scope};
use plan::Application;
use plan::application::PreviewName;
use plan::shell_environment::ShellEnvironment;
use plan::target::Targets;
use protocol::EventKind;

use super::{Context, UnitSecrets};
use crate::convert;
use crate::published_status::PublishedStatus;
use crate::shared::Shared;

/// The scope that is passed to drivers.
pub(super) fn scope_for(
    context: &Context,
    preview: PreviewName,
    locations: Locations,
    application: Arc<Application>,
    targets: Targets,
) -> Scope {
    let environment = context.live.shell_environment();
    build_scope(&context.shared, &context.published, preview, locations, application, targets, environment)
}

pub(super) fn build_scope(
    shared: &Arc<Shared>,
    published: &Arc<PublishedStatus>,
    preview: PreviewName,
    locations: Locations,
    application: Arc<Application>,
    targets: Targets,
    shell_environment: Option<Arc<ShellEnvironment>>,
) -> Scope {
    let has_files = |unit: &&plan::application::Unit| !unit.secrets.is_empty() || unit.identity.is_some();
    let units = application.units.values().filter(has_files).map(|unit| unit.name.clone()).collect();
    let secrets = UnitSecrets { shared: Arc::clone(shared), preview: preview.id.clone(), units };
    Scope {
        preview,
        locations,
        application,
        targets,
        shell_environment,
        secrets: Arc::new(secrets),
        progress: Arc::new(ProgressPublisher(Arc::clone(published))),
    }
}

struct ProgressPublisher(Arc<PublishedStatus>);

impl Progress for ProgressPublisher {
    fn report(&self, unit: &str, line: ProgressLine) {
        self.0.publish_event(EventKind::Progress { unit: unit.to_owned(), line: convert::progress_view(line) });
    }
}
