//! What planning needs of a module, whatever format it is written in: a rendering per runtime, outputs, ports.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use crate::application::{Probe, RuntimeKind};

/// The module of one resource, with the inputs of its `with:`.
#[derive(Clone, Debug)]
pub struct Module {
    pub name: String,
    pub version: String,
    /// `built-in`, `./modules/nats`.
    pub source: String,
    pub renderer: Arc<dyn Renderer>,
}

/// Pure: the same facts give the same rendering.
pub trait Renderer: Debug + Send + Sync {
    fn can_render(&self, runtime: RuntimeKind) -> bool;
    /// By name, as the program listens when nobody says otherwise.
    fn ports(&self, runtime: RuntimeKind) -> BTreeMap<String, u16>;
    fn render(&self, facts: &RenderInputs) -> Rendering;
    /// Output -> (value, sensitive), for a consumer that reaches the resource at `address`.
    fn outputs(&self, facts: &RenderInputs, address: &Address) -> BTreeMap<String, (String, bool)>;
}

/// What a rendering may depend on. Numbers are text, because the hash is made from a rendering with tokens in their place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenderInputs {
    pub runtime: RuntimeKind,
    /// The resource's name in the manifest.
    pub resource: String,
    pub app: String,
    /// Where it has to listen, by port name.
    pub ports: BTreeMap<String, String>,
    /// Stable for this preview and resource.
    pub password: String,
}

/// Where one consumer reaches the resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    pub host: String,
    pub ports: BTreeMap<String, String>,
}

/// A module rendered for one runtime; fields of the other runtime stay empty.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Rendering {
    /// The container's arguments, or the process's argument list.
    pub command: Vec<String>,
    pub env: BTreeMap<String, (String, bool)>,
    pub user: Option<String>,
    /// None: a TCP connect to the main port.
    pub ready: Option<Probe>,
    pub start_limit: Option<Duration>,
    pub stop_signal: Option<String>,
    pub stop_grace: Option<Duration>,

    pub image: Option<String>,
    pub entrypoint: Vec<String>,
    /// (short name, path in the container).
    pub volumes: Vec<(String, String)>,
    /// Further fields of `HostConfig` (`ShmSize`).
    pub host_config: BTreeMap<String, Json>,

    pub init: Vec<Vec<String>>,
    pub after_ready: Vec<Vec<String>>,
    pub files: BTreeMap<String, String>,
    pub search_paths: Vec<String>,
    pub install_hint: Option<String>,
}
