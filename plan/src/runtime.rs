//! The runtimes as values: each one has a name and answers to the questions that other code asks about it.
//!
//! Code outside `render/` and the drivers asks for a capability and never for a certain runtime. A further runtime
//! therefore needs a definition in `render/` and a driver, and no change elsewhere.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::render::UnitForm;

/// A runtime. The constants and the list of all runtimes are in `render.rs`. A value has no variants to match on, so
/// that code has to ask for its [`capabilities`](Self::capabilities).
#[derive(Clone, Copy)]
pub struct RuntimeKind(&'static RuntimeDefinition);

/// Everything that planning knows about a runtime.
#[derive(Clone, Debug)]
pub struct RuntimeDefinition {
    /// The word for it in manifests, on the command line, in settings and on the wire. It identifies the runtime.
    pub name: &'static str,
    /// The word for it in the hash of a unit. It must not change, because another hash replaces running units.
    pub hash_name: &'static str,
    pub capabilities: RuntimeCapabilities,
    /// The rendering of a module that its units use.
    pub module_rendering: catalog::RenderTarget,
    pub(crate) form: UnitForm,
}

/// The answers of a runtime, each named after the question.
#[derive(Clone, Debug)]
pub struct RuntimeCapabilities {
    /// Its position among the runtimes that pdev may choose when the user chose none, the lowest first. `None`: it is
    /// used only on request.
    pub default_rank: Option<u8>,
    pub availability: Availability,
    /// The variables of the caller's environment that select an engine.
    pub target_variables: &'static [&'static str],
    pub addressing: Addressing,
    pub secrets: SecretLocation,
    /// True if a preview has a network of its own there, which pdev creates and removes. A unit that loses it is
    /// connected again.
    pub has_preview_network: bool,
    /// True if units start from images. Otherwise a unit may have a build command.
    pub has_images: bool,
    /// True if an image that was built has to be pushed to the place from which the runtime starts units.
    pub pushes_images: bool,
    /// Who restarts its units when they end, and checks their health.
    pub supervisor: Supervisor,
    /// What a change of a unit does to its object.
    pub object_changes: ObjectChanges,
    /// True if a unit's programs have the rights and the home folder of the user.
    pub runs_as_user: bool,
    /// True if the settings `security` and `size` of a unit take effect.
    pub applies_security: bool,
    /// True if its units end when the runtime itself stops. They are started again when it is back.
    pub ends_units_when_stopped: bool,
    /// True if the names of a unit's cgroups contain the handle of the unit.
    pub handle_is_in_cgroups: bool,
    pub wording: Wording,
}

/// What a runtime needs before it can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Availability {
    /// It is part of pdev.
    Always,
    /// A program beside pdev has to answer.
    Engine {
        /// `container engine`.
        name: &'static str,
        /// `Start Docker`.
        how_to_start: &'static str,
    },
}

/// Who keeps units running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Supervisor {
    /// pdev's agent probes them from outside and restarts them.
    Agent,
    /// The runtime does both, and reports the health of units.
    Runtime,
}

/// What a change of a unit does to its object.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ObjectChanges {
    /// The object is removed and created again.
    Replace,
    /// One call creates the object or changes it in place; the runtime replaces what runs.
    Apply,
}

/// How units reach each other, and on which ports they listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Addressing {
    /// Units have names and addresses on a network of their own. A program listens on the port of its choice, which is
    /// also published on this machine's loopback address.
    OwnNetwork,
    /// Units share the loopback address of this machine. pdev assigns the port on which a program listens.
    Loopback,
}

/// How a unit reaches a port of another unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// By its name, on the port on which it listens.
    Network,
    /// By its name, on its host port. The name leads to a gateway, where the agent forwards connections.
    Gateway,
    /// At this machine's loopback address, on its host port.
    Loopback,
}

/// Where a program finds its secrets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SecretLocation {
    /// In a folder that is the same for each unit.
    Mounted { folder: &'static str },
    /// In the unit's own folder on this machine, to which the agent delivers them.
    HostFolder,
}

/// Parts of messages.
#[derive(Clone, Copy, Debug)]
pub struct Wording {
    /// `Docker`, `the process runtime`.
    pub runtime: &'static str,
    /// `in Docker`, `as a process`.
    pub in_runtime: &'static str,
    /// How a unit runs there: `in a container`, `as a process`.
    pub as_unit: &'static str,
    /// The noun for a unit: `container`, `local process`.
    pub unit: &'static str,
    /// What to do to run a unit there, after "let it run": ``in a container with `runtime: docker` ``.
    pub selection: &'static str,
    /// The state of a unit while the agent cannot reach the runtime. `{reason}` is replaced by the driver's reason.
    pub lost: &'static str,
    /// Why a unit cannot use an identity if its driver has no address for credential endpoints.
    pub no_credential_endpoint: &'static str,
}

/// A word that is not the name of a runtime.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnknownRuntime {
    pub word: String,
}

impl RuntimeKind {
    #[must_use]
    pub const fn new(definition: &'static RuntimeDefinition) -> Self {
        Self(definition)
    }

    #[must_use]
    pub fn definition(self) -> &'static RuntimeDefinition {
        self.0
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    #[must_use]
    pub fn capabilities(self) -> &'static RuntimeCapabilities {
        &self.0.capabilities
    }

    pub(crate) fn form(self) -> UnitForm {
        self.0.form
    }

    /// The runtime with this name.
    ///
    /// # Errors
    /// When there is none. The message lists all names.
    pub fn parse(word: &str) -> Result<Self, UnknownRuntime> {
        let found = Self::ALL.iter().find(|runtime| runtime.name() == word);
        found.copied().ok_or_else(|| UnknownRuntime { word: word.to_owned() })
    }

    /// The runtime of a manifest's `runtime:`. `None` if this version has no driver for it.
    #[must_use]
    pub fn from_manifest(runtime: manifest::model::Runtime) -> Option<Self> {
        Self::parse(manifest::runtime_name(runtime)).ok()
    }

    /// The runtimes that pdev may choose when the user chose none, the preferred one first.
    #[must_use]
    pub fn default_candidates() -> Vec<Self> {
        let mut candidates: Vec<Self> = Self::ALL.to_vec();
        candidates.retain(|runtime| runtime.capabilities().default_rank.is_some());
        candidates.sort_by_key(|runtime| runtime.capabilities().default_rank);
        candidates
    }

    /// The variables that select an engine in any runtime, with their values in the caller's environment.
    #[must_use]
    pub fn target_variables(variable: impl Fn(&str) -> Option<String>) -> BTreeMap<String, String> {
        let names = Self::ALL.iter().flat_map(|runtime| runtime.capabilities().target_variables);
        names.filter_map(|name| Some(((*name).to_owned(), variable(name)?))).collect()
    }

    /// The runtime to analyse a manifest for when neither the manifest nor the user chose one.
    #[must_use]
    pub fn preferred() -> Self {
        Self::default_candidates().first().copied().unwrap_or(Self::ALL[0])
    }

    /// How one of its units reaches a unit of `target`.
    #[must_use]
    pub fn route_to(self, target: Self) -> Route {
        match self.capabilities().addressing {
            Addressing::Loopback => Route::Loopback,
            Addressing::OwnNetwork if self == target => Route::Network,
            Addressing::OwnNetwork => Route::Gateway,
        }
    }
}

/// The names of all runtimes for a message: `` `docker` and `process` ``.
#[must_use]
pub fn list_names(conjunction: &str) -> String {
    let names: Vec<String> = RuntimeKind::ALL.iter().map(|runtime| format!("`{runtime}`")).collect();
    join_words(&names, conjunction)
}

/// `a`, `a or b`, `a, b or c`.
pub(crate) fn join_words(words: &[impl AsRef<str>], conjunction: &str) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match words.split_last() {
        None => String::new(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, first)) => format!("{} {conjunction} {last}", first.join(", ")),
    }
}

impl Addressing {
    /// True if pdev chooses the port on which a program listens. The program reads it from its environment, and it is
    /// not part of the user's intent.
    #[must_use]
    pub fn assigns_ports(self) -> bool {
        self == Self::Loopback
    }
}

impl Availability {
    #[must_use]
    pub fn is_engine(self) -> bool {
        matches!(self, Self::Engine { .. })
    }
}

impl fmt::Display for UnknownRuntime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "unknown runtime `{}`; allowed are {}", self.word, list_names("and"))
    }
}

impl std::error::Error for UnknownRuntime {}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Debug for RuntimeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0.hash_name)
    }
}

impl PartialEq for RuntimeKind {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0) || self.name() == other.name()
    }
}

impl Eq for RuntimeKind {}

impl Ord for RuntimeKind {
    fn cmp(&self, other: &Self) -> Ordering {
        self.name().cmp(other.name())
    }
}

impl PartialOrd for RuntimeKind {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Hash for RuntimeKind {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name().hash(state);
    }
}

impl Serialize for RuntimeKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for RuntimeKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Self::parse(&word).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_parsed_and_unknown_ones_are_listed() {
        for runtime in RuntimeKind::ALL {
            assert_eq!(RuntimeKind::parse(runtime.name()), Ok(*runtime));
            let text = serde_json::to_string(runtime).unwrap();
            assert_eq!(serde_json::from_str::<RuntimeKind>(&text).unwrap(), *runtime);
        }
        let unknown = RuntimeKind::parse("podman").unwrap_err();
        assert_eq!(unknown.to_string(), "unknown runtime `podman`; allowed are `docker` and `process`");
        assert_eq!(RuntimeKind::from_manifest(manifest::model::Runtime::Kubernetes), None);
    }

    #[test]
    fn runtimes_differ_in_names_and_ranks() {
        let mut names: Vec<&str> = RuntimeKind::ALL.iter().map(|runtime| runtime.name()).collect();
        names.dedup();
        assert_eq!(names, ["docker", "process"]);
        assert_eq!(RuntimeKind::default_candidates(), RuntimeKind::ALL);
        assert_eq!(RuntimeKind::preferred(), RuntimeKind::ALL[0]);
    }

    #[test]
    fn words_are_joined_with_commas_and_conjunction() {
        assert_eq!(join_words(&["a"], "or"), "a");
        assert_eq!(join_words(&["a", "b"], "or"), "a or b");
        assert_eq!(join_words(&["a", "b", "c"], "nor"), "a, b nor c");
    }
}
