//! Maps hosts to units: keeps the proxy's table in sync with the published status of the previews.

use std::collections::{BTreeSet, VecDeque};

use plan::Application;
use plan::application::{PortProtocol, PreviewId, PreviewName, Role, Unit};
use plan::naming;
use protocol::status::{UnitState, UnitStatus};

use crate::preview::PreviewHandle;
use crate::proxy::{PreviewRoutes, RouteTarget, Routes, ServiceRoute, ServiceState, Upstream};
use crate::published_status::PublishedStatus;
use crate::shared::Shared;

pub struct Routing {
    routes: Routes,
    port: Option<u16>,
}

impl Routing {
    #[must_use]
    pub fn new(routes: Routes, port: Option<u16>) -> Self {
        Self { routes, port }
    }

    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The URL of a service; `None` if it does not speak HTTP or the proxy has no port.
    #[must_use]
    pub fn service_url(&self, preview: &PreviewName, application: &Application, unit: &str) -> Option<String> {
        let unit = application.units.get(unit).filter(|unit| is_routable(unit))?;
        Some(naming::url(&naming::service_host(preview, &unit.name), self.port?))
    }

    #[must_use]
    pub fn preview_url(&self, preview: &PreviewName) -> Option<String> {
        Some(naming::url(&naming::preview_host(preview), self.port?))
    }

    /// Updates the table from the published status. Requests that start after this returns use the new table.
    pub fn refresh(&self, shared: &Shared, id: &PreviewId) {
        let Some(handle) = shared.preview_handle(id) else {
            self.routes.update(|table| drop(table.remove_preview(&id.0)));
            return;
        };
        let routes = preview_routes(shared, &handle);
        let former_labels = shared.registry.get(id).map(|record| record.former_labels).unwrap_or_default();
        self.routes.update(|table| match routes {
            Some(routes) => {
                let host = routes.host();
                for old in former_labels {
                    table.rename_host(&format!("{old}.{}.localhost", routes.app), &host);
                }
                table.set_preview(routes);
            }
            None => drop(table.remove_preview(&id.0)),
        });
    }
}

fn is_routable(unit: &Unit) -> bool {
    let speaks_http = |protocol| matches!(protocol, PortProtocol::Http | PortProtocol::H2c);
    unit.role == Role::Service && unit.ports.values().any(|port| speaks_http(port.protocol))
}

fn preview_routes(shared: &Shared, handle: &PreviewHandle) -> Option<PreviewRoutes> {
    let application = handle.live.application()?;
    let record = shared.registry.get(&handle.id)?;
    let services = application
        .units
        .values()
        .filter(|unit| is_routable(unit))
        .map(|unit| service_route(handle, &application, unit));
    Some(PreviewRoutes {
        id: handle.id.0.clone(),
        app: record.name.app,
        branch: record.name.branch,
        // Several environments of the main checkout may run, but only one can have `<app>.localhost`.
        is_primary: record.is_primary && record.name.environment == "local",
        default_service: application.default_service.as_deref().map(service_label),
        services: services.collect(),
    })
}

fn service_label(service: &str) -> String {
    naming::service_label(service).text
}

fn service_route(handle: &PreviewHandle, application: &Application, unit: &Unit) -> ServiceRoute {
    let http = unit.ports.iter().find(|(_, port)| matches!(port.protocol, PortProtocol::Http | PortProtocol::H2c));
    let (addresses, h2c) = match http {
        Some((name, port)) => (handle.live.addresses(unit, name), port.protocol == PortProtocol::H2c),
        None => (Vec::new(), false),
    };
    let target = RouteTarget {
        preview_id: handle.id.0.clone(),
        service: service_label(&unit.name),
        upstream: Upstream { addresses, uses_h2c: h2c },
        state: service_state(&handle.published, application, &unit.name),
        is_wildcard: unit.wildcard,
    };
    ServiceRoute { target, prefixes: unit.routes.clone() }
}

fn service_state(published: &PublishedStatus, application: &Application, unit: &str) -> ServiceState {
    let Some(UnitStatus { state, reason, .. }) = published.unit_status(unit) else { return ServiceState::Stopped };
    match state {
        // Keep forwarding while a live probe fails, so that a developer can open the service and see why.
        UnitState::Ready | UnitState::Unhealthy => ServiceState::Ready,
        UnitState::Waiting => waiting_state(published, application, unit),
        UnitState::Preparing | UnitState::Starting | UnitState::Restarting => ServiceState::Starting,
        UnitState::Failed => ServiceState::Failed {
            reason: reason.unwrap_or_else(|| "it failed".into()),
            log: last_lines(published, unit),
        },
        UnitState::Done | UnitState::Stopping | UnitState::Stopped => ServiceState::Stopped,
    }
}

/// A unit that waits for a failed one is not started any more, and neither is one that no operation starts.
fn waiting_state(published: &PublishedStatus, application: &Application, unit: &str) -> ServiceState {
    if let Some(failed) = find_failed_dependency(published, application, unit) {
        let cause = published.unit_status(&failed).and_then(|status| status.reason);
        let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
        let reason = format!("it was not started, because `{failed}` failed{cause}");
        return ServiceState::Failed { reason, log: last_lines(published, &failed) };
    }
    if published.is_operation_running() { ServiceState::Starting } else { ServiceState::Stopped }
}

/// The nearest failed unit that this one needs, directly or through others.
fn find_failed_dependency(published: &PublishedStatus, application: &Application, unit: &str) -> Option<String> {
    let mut seen = BTreeSet::from([unit.to_owned()]);
    let mut pending = VecDeque::from([unit.to_owned()]);
    while let Some(name) = pending.pop_front() {
        if published.unit_status(&name).is_some_and(|status| status.state == UnitState::Failed) {
            return Some(name);
        }
        let needed = application.units.get(&name).into_iter().flat_map(|unit| unit.needs.keys());
        pending.extend(needed.filter(|needed| seen.insert((*needed).clone())).cloned());
    }
    None
}

fn last_lines(published: &PublishedStatus, unit: &str) -> Vec<String> {
    let problem = published.problems().into_iter().find(|problem| problem.unit.as_deref() == Some(unit));
    problem.map(|problem| problem.output).unwrap_or_default()
}
