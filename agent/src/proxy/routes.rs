//! Which host and path lead to which service: an immutable table behind a handle that the agent replaces.
//!
//! A route is visible to every request that starts after `publish` returned. Nothing here opens a socket or decides
//! on names: labels come ready-made from the registry.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::watch;

/// The suffix under which all names live; browsers resolve it to the loopback by themselves.
pub const SUFFIX: &str = "localhost";
/// The host of the status page.
pub const STATUS_HOST: &str = "pdev.localhost";

/// Where a service stands, as far as a request has to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceState {
    Starting,
    Ready,
    Stopped,
    /// The reason is one line; the log holds the last lines of the service, oldest first.
    Failed {
        reason: String,
        log: Vec<String>,
    },
}

/// Where the bytes go: addresses are tried in order, so processes are given on both families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upstream {
    pub addresses: Vec<SocketAddr>,
    /// The service speaks HTTP/2 without TLS and nothing else (gRPC servers).
    pub uses_h2c: bool,
}

/// One service of one preview, as seen from the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteTarget {
    pub preview_id: String,
    pub service: String,
    pub upstream: Upstream,
    pub state: ServiceState,
    /// Any name below this service's host leads here too (tenants); an exact host always wins.
    pub is_wildcard: bool,
}

/// A service with the path prefixes it owns on its preview's default host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRoute {
    pub target: RouteTarget,
    pub prefixes: Vec<String>,
}

/// Everything the proxy knows about one preview; `app` and `branch` are labels, not names.
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
    /// `<branch>.<app>.localhost`: the default host, and the cookie parent of the preview.
    pub fn host(&self) -> String {
        format!("{}.{}.{SUFFIX}", self.branch, self.app)
    }

    /// `<service>.<branch>.<app>.localhost`.
    pub fn service_host(&self, service: &str) -> String {
        format!("{service}.{}", self.host())
    }
}

/// What a host leads to: one service, or several told apart by path.
#[derive(Debug, Clone)]
struct HostRoutes {
    /// Longest first, so the first match is the right one.
    prefixes: Vec<(String, Arc<RouteTarget>)>,
    default_target: Option<Arc<RouteTarget>>,
    preview_id: String,
}

/// The answer to "who serves this?".
#[derive(Debug, Clone)]
pub enum RouteLookup {
    Target(Arc<RouteTarget>),
    /// The host was renamed; the new host is named, never followed.
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
            let site = HostRoutes {
                prefixes: Vec::new(),
                default_target: Some(target.clone()),
                preview_id: preview.id.clone(),
            };
            self.insert_host(&preview.service_host(&target.service), site);
        }
        let site = default_host_routes(&preview, &targets);
        if preview.is_primary {
            self.insert_host(&format!("{}.{SUFFIX}", preview.app), site.clone());
        }
        self.insert_host(&preview.host(), site);
        self.previews.insert(preview.id.clone(), Arc::new(preview));
    }

    /// Forgets a preview; its hosts answer 404 from then on.
    pub fn remove_preview(&mut self, preview_id: &str) -> Option<Arc<PreviewRoutes>> {
        self.hosts.retain(|_, site| site.preview_id != preview_id);
        self.previews.remove(preview_id)
    }

    /// Remembers that `old` is now called `new`; a live host of that name still wins.
    pub fn rename_host(&mut self, old: &str, new: &str) {
        self.renamed_hosts.insert(old.to_ascii_lowercase(), new.to_ascii_lowercase());
    }

    pub fn previews(&self) -> impl Iterator<Item = &Arc<PreviewRoutes>> {
        self.previews.values()
    }

    /// Looks up a host (lower case, without port and trailing dot) and a path.
    pub fn find(&self, host: &str, path: &str) -> RouteLookup {
        if let Some(site) = self.hosts.get(host) {
            return site.find(path);
        }
        if let Some(new) = self.renamed_hosts.get(host) {
            return RouteLookup::Renamed(new.clone());
        }
        self.find_wildcard(host).map_or(RouteLookup::UnknownHost, RouteLookup::Target)
    }

    fn find_wildcard(&self, host: &str) -> Option<Arc<RouteTarget>> {
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(site) = self.hosts.get(parent) {
                return site.default_target.clone().filter(|target| target.is_wildcard);
            }
            rest = parent;
        }
        None
    }

    fn insert_host(&mut self, host: &str, site: HostRoutes) {
        self.hosts.insert(host.to_ascii_lowercase(), site);
    }
}

impl HostRoutes {
    fn find(&self, path: &str) -> RouteLookup {
        let owner = self.prefixes.iter().find(|(prefix, _)| is_path_prefix(prefix, path)).map(|(_, target)| target);
        match owner.or(self.default_target.as_ref()) {
            Some(target) => RouteLookup::Target(target.clone()),
            None => RouteLookup::NoService { preview_id: self.preview_id.clone() },
        }
    }
}

fn default_host_routes(preview: &PreviewRoutes, targets: &[(Arc<RouteTarget>, &[String])]) -> HostRoutes {
    let mut rest = targets
        .iter()
        .find(|(target, _)| Some(&target.service) == preview.default_service.as_ref())
        .map(|found| found.0.clone());
    let mut prefixes = Vec::new();
    for (target, owned) in targets {
        for prefix in *owned {
            match prefix.trim_end_matches('/') {
                // `/` says that the service is the default one, in the words of the manifest.
                "" => rest = Some(target.clone()),
                trimmed => prefixes.push((trimmed.to_owned(), target.clone())),
            }
        }
    }
    prefixes.sort_by(|a, b| b.0.len().cmp(&a.0.len()).then_with(|| a.0.cmp(&b.0)));
    HostRoutes { prefixes, default_target: rest, preview_id: preview.id.clone() }
}

/// `/api` owns `/api` and `/api/x`, not `/apis`.
fn is_path_prefix(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The handle that the agent and the proxy share. Cloning it is cheap and gives the same table.
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

    /// Replaces the whole table.
    pub fn publish(&self, table: RouteTable) {
        self.current.send_replace(Arc::new(table));
    }

    /// Changes a copy and publishes it; concurrent changes wait for one another, so none is lost.
    pub fn update(&self, change: impl FnOnce(&mut RouteTable)) {
        self.current.send_modify(|table| change(Arc::make_mut(table)));
    }

    pub fn snapshot(&self) -> Arc<RouteTable> {
        self.current.borrow().clone()
    }

    /// Wakes whoever waits for a service to become ready.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<RouteTable>> {
        self.current.subscribe()
    }
}
