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
pub enum State {
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
    pub h2c: bool,
}

/// One service of one preview, as seen from the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub preview_id: String,
    pub service: String,
    pub upstream: Upstream,
    pub state: State,
    /// Any name below this service's host leads here too (tenants); an exact host always wins.
    pub wildcard: bool,
}

/// A service with the path prefixes it owns on its preview's default host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRoute {
    pub target: Target,
    pub prefixes: Vec<String>,
}

/// Everything the proxy knows about one preview; `app` and `branch` are labels, not names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviewRoutes {
    pub id: String,
    pub app: String,
    pub branch: String,
    /// The primary checkout also answers on `<app>.localhost`.
    pub primary: bool,
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
struct Site {
    /// Longest first, so the first match is the right one.
    prefixes: Vec<(String, Arc<Target>)>,
    rest: Option<Arc<Target>>,
    preview_id: String,
}

/// The answer to "who serves this?".
#[derive(Debug, Clone)]
pub enum Found {
    Target(Arc<Target>),
    /// The host was renamed; the new host is named, never followed.
    Moved(String),
    /// The preview exists, but none of its services owns this path.
    NoService {
        preview_id: String,
    },
    Unknown,
}

/// An immutable set of routes. Build one, or change a copy, then publish it.
#[derive(Debug, Clone, Default)]
pub struct Table {
    hosts: HashMap<String, Site>,
    moved: HashMap<String, String>,
    previews: BTreeMap<String, Arc<PreviewRoutes>>,
}

impl Table {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds or replaces all hosts of one preview.
    pub fn set(&mut self, preview: PreviewRoutes) {
        self.remove(&preview.id);
        let targets: Vec<(Arc<Target>, &[String])> =
            preview.services.iter().map(|route| (Arc::new(route.target.clone()), route.prefixes.as_slice())).collect();
        for (target, _) in &targets {
            let site = Site { prefixes: Vec::new(), rest: Some(target.clone()), preview_id: preview.id.clone() };
            self.put(&preview.service_host(&target.service), site);
        }
        let site = default_site(&preview, &targets);
        if preview.primary {
            self.put(&format!("{}.{SUFFIX}", preview.app), site.clone());
        }
        self.put(&preview.host(), site);
        self.previews.insert(preview.id.clone(), Arc::new(preview));
    }

    /// Forgets a preview; its hosts answer 404 from then on.
    pub fn remove(&mut self, preview_id: &str) -> Option<Arc<PreviewRoutes>> {
        self.hosts.retain(|_, site| site.preview_id != preview_id);
        self.previews.remove(preview_id)
    }

    /// Remembers that `old` is now called `new`; a live host of that name still wins.
    pub fn moved(&mut self, old: &str, new: &str) {
        self.moved.insert(old.to_ascii_lowercase(), new.to_ascii_lowercase());
    }

    /// Forgets a renamed host, when its time is over.
    pub fn forget_moved(&mut self, old: &str) {
        self.moved.remove(&old.to_ascii_lowercase());
    }

    pub fn previews(&self) -> impl Iterator<Item = &Arc<PreviewRoutes>> {
        self.previews.values()
    }

    /// Looks up a host (lower case, without port and trailing dot) and a path.
    pub fn find(&self, host: &str, path: &str) -> Found {
        if let Some(site) = self.hosts.get(host) {
            return site.find(path);
        }
        if let Some(new) = self.moved.get(host) {
            return Found::Moved(new.clone());
        }
        self.find_wildcard(host).map_or(Found::Unknown, Found::Target)
    }

    fn find_wildcard(&self, host: &str) -> Option<Arc<Target>> {
        let mut rest = host;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(site) = self.hosts.get(parent) {
                return site.rest.clone().filter(|target| target.wildcard);
            }
            rest = parent;
        }
        None
    }

    fn put(&mut self, host: &str, site: Site) {
        self.hosts.insert(host.to_ascii_lowercase(), site);
    }
}

impl Site {
    fn find(&self, path: &str) -> Found {
        let owner = self.prefixes.iter().find(|(prefix, _)| owns(prefix, path)).map(|(_, target)| target);
        match owner.or(self.rest.as_ref()) {
            Some(target) => Found::Target(target.clone()),
            None => Found::NoService { preview_id: self.preview_id.clone() },
        }
    }
}

fn default_site(preview: &PreviewRoutes, targets: &[(Arc<Target>, &[String])]) -> Site {
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
    Site { prefixes, rest, preview_id: preview.id.clone() }
}

/// `/api` owns `/api` and `/api/x`, not `/apis`.
fn owns(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The handle that the agent and the proxy share. Cloning it is cheap and gives the same table.
#[derive(Debug, Clone)]
pub struct Routes {
    current: Arc<watch::Sender<Arc<Table>>>,
}

impl Default for Routes {
    fn default() -> Self {
        Self { current: Arc::new(watch::Sender::new(Arc::new(Table::new()))) }
    }
}

impl Routes {
    pub fn new() -> Self {
        Self::default()
    }

    /// Replaces the whole table.
    pub fn publish(&self, table: Table) {
        self.current.send_replace(Arc::new(table));
    }

    /// Changes a copy and publishes it; concurrent changes wait for one another, so none is lost.
    pub fn change(&self, change: impl FnOnce(&mut Table)) {
        self.current.send_modify(|table| change(Arc::make_mut(table)));
    }

    pub fn snapshot(&self) -> Arc<Table> {
        self.current.borrow().clone()
    }

    /// Wakes whoever waits for a service to become ready.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Table>> {
        self.current.subscribe()
    }
}
