//! The planner's interface to a module: a rendering per runtime, outputs and ports. Independent of the module's file
//! format.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value as Json;

use crate::application::{Probe, ProgramVersion, RuntimeKind};

/// The module of one resource, with the inputs of its `with:`.
#[derive(Clone, Debug)]
pub struct Module {
    pub name: String,
    pub version: String,
    /// `built-in`, `./modules/nats`.
    pub source: String,
    pub renderer: Arc<dyn Renderer>,
}

/// Pure: the same inputs give the same rendering. The form of the units of `inputs.runtime` alone decides its variant.
pub trait Renderer: Debug + Send + Sync {
    fn can_render(&self, runtime: RuntimeKind) -> bool;
    /// The program's default ports, by name.
    fn ports(&self, runtime: RuntimeKind) -> BTreeMap<String, u16>;
    fn render(&self, inputs: &RenderInputs) -> Rendering;
    /// Output -> (value, sensitive), for a consumer that reaches the resource at `address`.
    fn outputs(&self, inputs: &RenderInputs, address: &Address) -> BTreeMap<String, (String, bool)>;
}

/// Everything that a rendering may depend on. Ports are text, because the rendering for the hash has tokens instead of
/// numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RenderInputs {
    pub runtime: RuntimeKind,
    /// The resource's name in the manifest.
    pub resource: String,
    pub app: String,
    /// The ports on which it has to listen, by port name.
    pub ports: BTreeMap<String, String>,
    /// Derived from the preview and the resource, so that it is the same in every run.
    pub password: String,
}

/// The address at which one consumer reaches the resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    pub host: String,
    pub ports: BTreeMap<String, String>,
}

/// A module rendered for one runtime.
#[derive(Clone, PartialEq, Debug)]
pub enum Rendering {
    Container(ContainerRendering),
    Process(ProcessRendering),
}

/// The fields that every runtime has.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Program {
    /// The container's arguments, or the process's argument list.
    pub command: Vec<String>,
    pub env: BTreeMap<String, (String, bool)>,
    pub user: Option<String>,
    /// `None`: a TCP connect to the main port.
    pub ready: Option<Probe>,
    pub start_limit: Option<Duration>,
    pub stop_signal: Option<String>,
    pub stop_grace: Option<Duration>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ContainerRendering {
    pub program: Program,
    pub image: String,
    pub entrypoint: Vec<String>,
    /// (Short name, path in the container).
    pub volumes: Vec<(String, String)>,
    /// Further fields of the Docker engine's `HostConfig` (`ShmSize`). Other runtimes ignore them.
    pub docker_host_config: BTreeMap<String, Json>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ProcessRendering {
    pub program: Program,
    pub init: Vec<Vec<String>>,
    pub after_ready: Vec<Vec<String>>,
    pub files: BTreeMap<String, String>,
    pub search_paths: Vec<String>,
    pub install_hint: Option<String>,
    pub version: Option<ProgramVersion>,
}

impl Rendering {
    #[must_use]
    pub fn program(&self) -> &Program {
        match self {
            Self::Container(container) => &container.program,
            Self::Process(process) => &process.program,
        }
    }

    /// The rendering for a runtime whose units are containers. Empty if it is for another form, which a [`Renderer`]
    /// never returns.
    pub(crate) fn to_container(&self) -> Cow<'_, ContainerRendering> {
        match self {
            Self::Container(container) => Cow::Borrowed(container),
            Self::Process(_) => Cow::Owned(ContainerRendering::default()),
        }
    }

    /// Like [`Self::to_container`], for processes.
    pub(crate) fn to_process(&self) -> Cow<'_, ProcessRendering> {
        match self {
            Self::Process(process) => Cow::Borrowed(process),
            Self::Container(_) => Cow::Owned(ProcessRendering::default()),
        }
    }
}
