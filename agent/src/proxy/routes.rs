//! The table of hosts and paths and the services they lead to. The table is immutable; the agent replaces it through a
//! shared handle.
//!
//! A route applies to all requests that start after `publish` has returned. This module opens no sockets and chooses no
//! names: the registry provides the labels.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

/// The suffix of all host names. Browsers resolve it to the loopback address without DNS.
pub const SUFFIX: &str = "localhost";
/// The host of the status page.
pub const STATUS_HOST: &str = "pdev.localhost";

/// The state of a service, as far as it matters for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    Starting,
    Ready,
    Stopped,
    /// The reason is one line; the log has the last lines of the service, oldest first.
    Failed {
        reason: String,
        log: Vec<String>,
    },
}

/// The addresses of a service. They are tried in order; a local process has one for IPv4 and one for IPv6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub addresses: Vec<SocketAddr>,
    /// The service speaks HTTP/2 without TLS and nothing else (gRPC servers).
    pub uses_h2c: bool,
}

/// One service of one preview, as the proxy needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget {
    pub preview_id: String,
    pub service: String,
    pub upstream: Upstream,
    pub state: ServiceState,
    /// All hosts below this service's host lead to it too (tenants). An exact host takes precedence.
    pub is_wildcard: bool,
}

/// A service with the path prefixes it owns on its preview's default host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRoute {
    pub target: RouteTarget,
    pub prefixes: Vec<String>,
}

/// The routes of one preview. `app` and `branch` are labels, not full names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRoutes {
    pub id: String,
    pub app: String,
    pub branch: String,
    /// The primary checkout also answers on `<app>.localhost`.
    pub is_primary: bool,
    pub default_service: Option<String>,
    pub services: Vec<ServiceRoute>,
}

impl PreviewRoutes {
    /// `<branch>.<app>.localhost`: the default host, and the parent domain for cookies of all services.
    pub fn host(&self) -> String {
        format!("{}.{}.{SUFFIX}", self.branch, self.app)
    }

    /// `<service>.<branch>.<app>.localhost`.
    pub fn service_host(&self, service: &str) -> String {
        format!("{service}.{}", self.host())
    }
}

/// The services of one host: a single one, or several that are distinguished by path.
#[derive(Debug, Clone)]
struct HostRoutes {
    /// Longest prefix first, so the first match is the right one.
    prefixes: Vec<(String, Arc<RouteTarget>)>,
    default_target: Option<Arc<RouteTarget>>,
    preview_id: String,
}

/// The result of looking up a host and path.
#[derive(Debug, Clone)]
pub enum RouteLookup {
    Target(Arc<RouteTarget>),
    /// The host was renamed. The response names the new host but does not redirect to it.
    Renamed(String),
    /// The preview exists, but none of its services owns this path.
    NoService {
        preview_id: String,
    },
    UnknownHost,
}

/// An immutable set of routes. Build one, or change a copy, then publish it.
#[derive(Debug, Clone, Default)]
pub struct RouteTable {
    hosts: HashMap<String, HostRoutes>,
    renamed_hosts: HashMap<String, String>,
    previews: BTreeMap<String, Arc<PreviewRoutes>>,
}

impl RouteTable {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces all hosts of one preview.
    pub fn set_preview(&mut self, preview: PreviewRoutes) {
        self.remove_preview(&preview.id);
        let targets: Vec<(Arc<RouteTarget>, &[String])> =
            preview.services.iter().map(|route| (Arc::new(route.target.clone()), route.prefixes.as_slice())).collect();
        for (target, _) in &targets {
            let routes = HostRoutes {
                prefixes: Vec::new(),
                default_target: Some(target.clone()),
                preview_id: preview.id.clone(),
            };
            self.insert_host(&preview.service_host(&target.service), routes);
        }
        let routes = default_host_routes(&preview, &targets);
        if preview.is_primary {
            self.insert_host(&format!("{}.{SUFFIX}", preview.app), routes.clone());
        }
        self.insert_host(&preview.host(), routes);
        self.previews.insert(preview.id.clone(), Arc::new(preview));
    }

    /// Removes a preview. Its hosts answer 404 from then on.
    pub fn remove_preview(&mut self, preview_id: &str) -> Option<Arc<PreviewRoutes>> {
        self.hosts.retain(|_, routes| routes.preview_id != preview_id);
        self.previews.remove(preview_id)
    }

    /// Records that `old` is now called `new`. A current host with the old name takes precedence.
    pub fn rename_host(&mut self, old: &str, new: &str) {
        self.renamed_hosts.insert(old.to_ascii_lowercase(), new.to_ascii_lowercase());
    }

    pub fn previews(&self) -> impl Iterator<Item = &Arc<PreviewRoutes>> {
        self.previews.values()
    }

    /// Looks up a host (lower case, without port and trailing dot) and a path.
    pub fn find(&self, host: &str, path: &str) -> RouteLookup {
        if let Some(routes) = self.hosts.get(host) {
            return routes.find(path);
        }
        if let Some(new) = self.renamed_hosts.get(host) {
            return RouteLookup::Renamed(new.clone());
        }
        self.find_wildcard(host).map_or(RouteLookup::UnknownHost, RouteLookup::Target)
    }

    fn find_wildcard(&self, host: &str) -> Option<Arc<RouteTarget>> {
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            // Only the nearest parent counts: a wildcard further up must not match below a service without one.
            if let Some(routes) = self.hosts.get(parent) {
                return routes.default_target.clone().filter(|target| target.is_wildcard);
            }
            rest = parent;
        }
        None
    }

    fn insert_host(&mut self, host: &str, routes: HostRoutes) {
        self.hosts.insert(host.to_ascii_lowercase(), routes);
    }
}

impl HostRoutes {
    fn find(&self, path: &str) -> RouteLookup {
        let by_prefix = self.prefixes.iter().find(|(prefix, _)| is_path_prefix(prefix, path)).map(|(_, target)| target);
        match by_prefix.or(self.default_target.as_ref()) {
            Some(target) => RouteLookup::Target(target.clone()),
            None => RouteLookup::NoService { preview_id: self.preview_id.clone() },
        }
    }
}

fn default_host_routes(preview: &PreviewRoutes, targets: &[(Arc<RouteTarget>, &[String])]) -> HostRoutes {
    let mut default_target = targets
        .iter()
        .find(|(target, _)| Some(&target.service) == preview.default_service.as_ref())
        .map(|(target, _)| target.clone());
    let mut prefixes = Vec::new();
    for (target, target_prefixes) in targets {
        for prefix in *target_prefixes {
            match prefix.trim_end_matches('/') {
                // The route `/` in the manifest makes the service the default one.
                "" => default_target = Some(target.clone()),
                trimmed => prefixes.push((trimmed.to_owned(), target.clone())),
            }
        }
    }
    prefixes.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
    HostRoutes { prefixes, default_target, preview_id: preview.id.clone() }
}

/// `/api` is a prefix of `/api` and `/api/x`, but not of `/apis`.
fn is_path_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The handle that the agent and the proxy share. Clones are cheap and share the same table.
#[derive(Debug, Clone)]
pub struct Routes {
    current: Arc<watch::Sender<Arc<RouteTable>>>,
}

impl Default for Routes {
    fn default() -> Self {
        Self { current: Arc::new(watch::Sender::new(Arc::new(RouteTable::new()))) }
    }
}

impl Routes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the table.
    pub fn publish(&self, table: RouteTable) {
        self.current.send_replace(Arc::new(table));
    }

    /// Changes a copy of the table and publishes it. Concurrent changes run one after another, so none is lost.
    pub fn update(&self, change: impl FnOnce(&mut RouteTable)) {
        self.current.send_modify(|table| change(Arc::make_mut(table)));
    }

    pub fn snapshot(&self) -> Arc<RouteTable> {
        self.current.borrow().clone()
    }

    /// Receives each new table. Requests use it to wait until a service is ready.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.current.subscribe()
    }
}
