//! A container as the manifest or a module describes it, independent of the runtime that runs it. A renderer in
//! `render/` translates it to the runtime's own object.
//!
//! Each setting has its manifest key and origin, because `explain`, hover, the hash and diagnostics read them. `raw` and
//! `patches` belong to one runtime, so they apply to the rendered object and not to this specification.

use std::borrow::Cow;

use serde_json::Value as Json;

use crate::application::{Argv, PortProtocol};
use crate::origin::Origin;

/// The capabilities that common entrypoints need to switch from root to another user. All others are dropped.
pub const DEFAULT_CAPABILITIES: &[&str] =
    &["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];

/// The name that means every capability.
pub const ALL_CAPABILITIES: &str = "ALL";

static DROPPED_CAPABILITIES: Setting<&[&str]> =
    default_setting("security.drop", &[ALL_CAPABILITIES], "a program gets only the capabilities it needs");
static GRANTED_CAPABILITIES: Setting<&[&str]> = default_setting(
    "security.capabilities",
    DEFAULT_CAPABILITIES,
    "common entrypoints need them to switch from root to another user and to listen on a low port",
);
static NO_NEW_PRIVILEGES: Setting<bool> =
    default_setting("security.no_new_privileges", true, "setuid programs inside the image cannot raise privileges");
static MEMORY_BYTES: Setting<u64> = default_setting("size.memory", 2 << 30, "a leak stops one unit, not the laptop");
static PIDS: Setting<u32> = default_setting("size.pids", 2048, "a fork bomb stops one unit, not the laptop");

const fn default_setting<T>(manifest_key: &'static str, value: T, reason: &'static str) -> Setting<T> {
    Setting { manifest_key: Cow::Borrowed(manifest_key), value, stable: None, origin: Origin::Default { reason } }
}

/// The image, environment and probes are not here, because [`Unit`](crate::application::Unit) and
/// [`Container`](crate::application::Container) have them in a form that every runtime understands.
#[derive(Clone, PartialEq, Debug)]
pub struct ContainerSpec {
    pub command: Option<Setting<Argv>>,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<Setting<Argv>>,
    pub working_dir: Option<Setting<String>>,
    /// A name or number, with an optional group: `1000:1000`.
    pub user: Option<Setting<String>>,
    pub stop_signal: Option<Setting<String>>,
    pub resources: Resources,
    pub security: Security,
    pub ports: Option<Setting<Vec<ContainerPort>>>,
    pub mounts: Vec<Setting<Mount>>,
    /// Fields of the Docker engine's `HostConfig` from the `docker` rendering of a module. Other runtimes ignore them.
    pub docker_host_config: Vec<EngineField>,
}

/// A value with its name in the manifest.
#[derive(Clone, PartialEq, Debug)]
pub struct Setting<T> {
    /// `size.memory`.
    pub manifest_key: Cow<'static, str>,
    pub value: T,
    /// The form for the hash, which has tokens instead of values that pdev chose. `None` if it equals `value`.
    pub stable: Option<T>,
    pub origin: Origin,
}

/// A field with a default of pdev. Both settings remain, because `explain` shows both.
#[derive(Clone, PartialEq, Debug)]
pub struct Defaulted<T: 'static> {
    pub default: Option<&'static Setting<T>>,
    /// Overrides the default.
    pub set: Option<Setting<T>>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Resources {
    pub memory_bytes: Defaulted<u64>,
    /// Thousandths of a core that the container gets under contention. Not a limit.
    pub cpu_milli: Option<Setting<u64>>,
    /// The maximum number of processes and threads.
    pub pids: Defaulted<u32>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Security {
    pub privileged: Option<Setting<bool>>,
    pub no_new_privileges: Defaulted<bool>,
    pub capabilities: Capabilities,
    pub read_only_root: Option<Setting<bool>>,
}

/// Linux capabilities, without the prefix `CAP_`.
#[derive(Clone, PartialEq, Debug)]
pub struct Capabilities {
    /// Dropped before any is granted.
    pub dropped: Option<&'static Setting<&'static [&'static str]>>,
    pub defaults: Option<&'static Setting<&'static [&'static str]>>,
    /// Granted in addition to the defaults.
    pub added: Option<Setting<Vec<String>>>,
    /// Removed from the defaults. [`ALL_CAPABILITIES`] removes every default.
    pub removed: Option<Setting<Vec<String>>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ContainerPort {
    pub listen_port: u16,
    pub protocol: PortProtocol,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mount {
    pub source: MountSource,
    /// Absolute path in the container.
    pub target: String,
    pub read_only: bool,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MountSource {
    /// Relative to the manifest's folder. It may lead out of the project: `../data`.
    ProjectPath(String),
    /// Absolute path on the machine that runs the container.
    HostPath(String),
    /// Short name of a volume of the preview.
    NamedVolume(String),
    /// A folder in memory.
    Tmpfs { size_bytes: Option<u64> },
}

#[derive(Clone, PartialEq, Debug)]
pub struct EngineField {
    pub name: String,
    pub value: Json,
    pub origin: Origin,
}

impl ContainerSpec {
    /// A container with pdev's defaults, the same ones for each runtime.
    #[must_use]
    pub fn hardened() -> Self {
        let capabilities = Capabilities {
            dropped: Some(&DROPPED_CAPABILITIES),
            defaults: Some(&GRANTED_CAPABILITIES),
            added: None,
            removed: None,
        };
        Self {
            command: None,
            entrypoint: None,
            working_dir: None,
            user: None,
            stop_signal: None,
            resources: Resources {
                memory_bytes: Defaulted::new(&MEMORY_BYTES),
                cpu_milli: None,
                pids: Defaulted::new(&PIDS),
            },
            security: Security {
                privileged: None,
                no_new_privileges: Defaulted::new(&NO_NEW_PRIVILEGES),
                capabilities,
                read_only_root: None,
            },
            ports: None,
            mounts: Vec::new(),
            docker_host_config: Vec::new(),
        }
    }
}

impl<T> Setting<T> {
    pub fn new(manifest_key: impl Into<Cow<'static, str>>, value: T, origin: Origin) -> Self {
        Self { manifest_key: manifest_key.into(), value, stable: None, origin }
    }

    #[must_use]
    pub fn with_stable(self, stable: T) -> Self {
        Self { stable: Some(stable), ..self }
    }
}

impl<T> Defaulted<T> {
    fn new(default: &'static Setting<T>) -> Self {
        Self { default: Some(default), set: None }
    }

    #[must_use]
    pub fn value(&self) -> Option<&T> {
        self.set.as_ref().or(self.default).map(|setting| &setting.value)
    }
}

impl Security {
    /// A privileged container has every capability and may raise its privileges, so the defaults that deny them go.
    pub fn set_privileged(&mut self, privileged: Setting<bool>) {
        self.privileged = Some(privileged);
        self.no_new_privileges.default = None;
        self.capabilities.dropped = None;
        self.capabilities.defaults = None;
    }
}

impl Capabilities {
    /// The capabilities of the container. `None` if neither pdev nor the manifest says anything about them.
    #[must_use]
    pub fn granted(&self) -> Option<Vec<&str>> {
        let added = self.added.iter().flat_map(|added| &added.value).map(String::as_str);
        if let Some(removed) = &self.removed {
            let is_removed = |name: &&str| removed.value.iter().any(|other| other == name || other == ALL_CAPABILITIES);
            let remaining = DEFAULT_CAPABILITIES.iter().copied().filter(|name| !is_removed(name));
            return Some(remaining.chain(added).collect());
        }
        let mut granted = self.defaults.map(|defaults| defaults.value.to_vec()).unwrap_or_default();
        for name in added {
            if !granted.contains(&name) {
                granted.push(name);
            }
        }
        (self.defaults.is_some() || self.added.is_some()).then_some(granted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Option<Setting<Vec<String>>> {
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        Some(Setting::new("security", names, Origin::Default { reason: "test" }))
    }

    #[test]
    fn granted_capabilities_are_defaults_with_changes() {
        let granted = |added: Option<Setting<Vec<String>>>, removed: Option<Setting<Vec<String>>>| {
            let capabilities = Capabilities { added, removed, ..ContainerSpec::hardened().security.capabilities };
            capabilities.granted().unwrap().join(" ")
        };
        let defaults = DEFAULT_CAPABILITIES.join(" ");
        assert_eq!(granted(None, None), defaults);
        assert_eq!(granted(names(&["IPC_LOCK", "CHOWN"]), None), format!("{defaults} IPC_LOCK"));
        assert_eq!(granted(None, names(&["CHOWN", "SETGID", "SETUID"])), "DAC_OVERRIDE FOWNER KILL NET_BIND_SERVICE");
        assert_eq!(granted(names(&["IPC_LOCK"]), names(&["ALL"])), "IPC_LOCK");
    }

    #[test]
    fn privileged_container_loses_only_defaults_that_deny_privileges() {
        let mut spec = ContainerSpec::hardened();
        spec.security.set_privileged(Setting::new("security.privileged", true, Origin::Default { reason: "test" }));
        assert_eq!(spec.security.capabilities.granted(), None);
        assert_eq!((spec.security.capabilities.dropped, spec.security.no_new_privileges.value()), (None, None));
        assert_eq!((spec.resources.memory_bytes.value(), spec.resources.pids.value()), (Some(&(2 << 30)), Some(&2048)));
    }
}
