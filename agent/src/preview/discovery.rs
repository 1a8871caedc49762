//! Restores the records of previews that run although their record was lost, for example with the state folder.
//!
//! Runtimes report these previews by their labels. A restored preview is listed and can be taken down. It is supervised
//! again after the next `up`, because only a user knows whether its manifest is still the one that it was started with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use drivers::TargetSource;
use drivers::driver::{DiscoveredPreview, Driver};
use plan::application::RuntimeKind;
use plan::observed::{Observed, ObservedUnit, RunState};
use plan::target::Target;
use protocol::Problem;
use protocol::request::UpRequest;
use protocol::status::{UnitState, UnitStatus};

use super::down::merge_observed;
use super::naming::{self, CheckoutIdentity};
use crate::convert;
use crate::registry::Record;
use crate::shared::Shared;

/// An engine that starts on demand must not delay a list of previews for long.
const RUNTIME_LIMIT: Duration = Duration::from_secs(3);

/// Asks the target of each runtime that `variables` select, or the default one. Returns the number of restored previews.
/// Runtimes that do not answer are ignored.
pub async fn restore_lost_records(shared: &Arc<Shared>, variables: &BTreeMap<String, String>) -> usize {
    let mut restored = 0;
    for runtime in shared.drivers.runtimes() {
        let Some((target, driver)) = select_driver(shared, runtime, variables) else { continue };
        let Ok(Ok(found)) = tokio::time::timeout(RUNTIME_LIMIT, driver.discover()).await else { continue };
        for discovered in found {
            restored += usize::from(restore_record(shared, &target, &driver, discovered).await);
        }
    }
    restored
}

fn select_driver(
    shared: &Shared,
    runtime: RuntimeKind,
    variables: &BTreeMap<String, String>,
) -> Option<(Target, Arc<dyn Driver>)> {
    let select = |source| shared.drivers.select_target(runtime, variables, source).ok();
    let by_variables = select(TargetSource::Variables)?;
    let selected = by_variables.map_or_else(|| select(TargetSource::Default), |target| Some(Some(target)))?;
    let target = selected.unwrap_or_else(|| Target::machine(runtime));
    let driver = shared.drivers.driver(&target).ok()?;
    Some((target, driver))
}

/// Returns false if the preview has an ordinary record, or nothing tells where its manifest is.
async fn restore_record(
    shared: &Arc<Shared>,
    target: &Target,
    driver: &Arc<dyn Driver>,
    discovered: DiscoveredPreview,
) -> bool {
    let id = discovered.preview.id.clone();
    let existing = shared.registry.get(&id);
    if existing.as_ref().is_some_and(|record| !record.is_restored) {
        return false;
    }
    let Some(project) = discovered.project.clone() else { return false };
    let locations = shared.locations.preview_locations(&id, &project);
    let Ok(observed) = driver.observe(&id, &locations).await else { return false };
    let mut record = existing.unwrap_or_else(|| new_record(discovered.preview, project));
    record.targets.set(target.clone());
    for (unit, observed_unit) in &observed.units {
        record.ports.extend(observed_unit.host_ports.iter().map(|(name, port)| (format!("{unit}.{name}"), *port)));
    }
    if let Err(error) = shared.registry.save(record.clone()) {
        tracing::warn!(%error, preview = record.name.title(), "the record of a found preview cannot be written");
        return false;
    }
    tracing::info!(preview = record.name.title(), "restored the record of a preview that was found in a runtime");
    publish_restored(Arc::clone(shared), record).await;
    true
}

/// Publishes the units of a preview that was found without a record.
pub async fn publish_restored(shared: Arc<Shared>, record: Record) {
    let (id, folder) = (&record.name.id, record.folder.display().to_string());
    let locations = shared.locations.preview_locations(id, &record.folder);
    let mut observed = Observed::default();
    for target in record.targets.iter() {
        let Ok(driver) = shared.drivers.driver(target) else { continue };
        if let Ok(part) = driver.observe(id, &locations).await {
            merge_observed(&mut observed, part);
        }
    }
    let handle = naming::find_or_start_actor(&shared, convert::preview_ref(&record.name), folder.clone());
    handle.published.replace_units(&unit_statuses(&observed));
    handle.published.set_problem("", lost_record_problem(&record.name.title(), &folder));
}

fn new_record(name: plan::application::PreviewName, project: PathBuf) -> Record {
    let identity = CheckoutIdentity::of_folder(&project).ok();
    let is_primary = identity.as_ref().is_none_or(CheckoutIdentity::is_primary);
    let parts = identity.map_or_else(|| vec![project.display().to_string()], |identity| identity.parts);
    let request = UpRequest {
        folder: project.display().to_string(),
        environment: Some(name.environment.clone()),
        ..UpRequest::default()
    };
    Record { is_restored: true, ..Record::new(name, project, parts, is_primary, request) }
}

fn unit_statuses(observed: &Observed) -> Vec<UnitStatus> {
    let status = |unit: &ObservedUnit| UnitStatus {
        name: unit.name.clone(),
        role: "service".to_owned(),
        runtime: unit.runtime.name().to_owned(),
        // Nothing probes it, so it is not reported as ready.
        state: if is_running(unit) { UnitState::Unhealthy } else { UnitState::Stopped },
        reason: is_running(unit).then(|| "it runs, but nothing supervises it".to_owned()),
        ports: unit.host_ports.clone(),
        started_at: unit.started_at,
        handle: Some(unit.handle.clone()),
        ..UnitStatus::default()
    };
    observed.units.values().map(status).collect()
}

fn is_running(unit: &ObservedUnit) -> bool {
    matches!(unit.state, RunState::Running | RunState::Paused)
}

fn lost_record_problem(title: &str, folder: &str) -> Problem {
    let text = "the agent's record of this preview was lost, so nothing supervises its units";
    let hint = format!("Run `pdev up` in `{folder}` to continue with it, or `pdev down -p {title}` to remove it.");
    Problem::new("record_lost", 0, text).hint(hint)
}
