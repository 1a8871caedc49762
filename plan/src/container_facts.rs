//! The rights and limits of a rendered container. A renderer in `render/` reads them from the final object, after `raw`
//! and patches, so guardrails see what the runtime will see without knowing its fields.

/// A fact with the field that it was read from, as in the map of origins: `docker.HostConfig.Memory`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Fact<T> {
    pub(crate) value: T,
    pub(crate) field: &'static str,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) struct ContainerFacts<'a> {
    /// `None` for an image that is built.
    pub(crate) image: Option<&'a str>,
    /// True if the command is run by a shell.
    pub(crate) runs_shell: bool,
    /// `None`: the user of the image.
    pub(crate) user: Option<Fact<&'a str>>,
    pub(crate) is_privileged: Fact<bool>,
    pub(crate) forbids_escalation: Fact<bool>,
    /// Added to the capabilities that remain after dropping, without the prefix `CAP_`.
    pub(crate) added_capabilities: Fact<Vec<&'a str>>,
    pub(crate) drops_all_capabilities: Fact<bool>,
    /// Options that switch a security profile of the runtime off, as written: `seccomp=unconfined`.
    pub(crate) disabled_profiles: Fact<Vec<&'a str>>,
    /// Namespaces shared with the machine, as the runtime's users write them: `PidMode: host`.
    pub(crate) host_namespaces: Vec<Fact<&'static str>>,
    pub(crate) host_paths: Fact<Vec<HostPath<'a>>>,
    pub(crate) published_ports: Vec<Fact<PublishedPort<'a>>>,
    pub(crate) has_read_only_root: bool,
    pub(crate) has_memory_limit: Fact<bool>,
    /// True if something says how much CPU it gets.
    pub(crate) has_cpu_size: bool,
}

/// A mount of a path that is not a volume.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostPath<'a> {
    /// Absolute, or relative to the manifest's folder.
    pub(crate) source: &'a str,
    /// True if whoever can open the path controls the container engine.
    pub(crate) is_engine_socket: bool,
}

/// A port of the container at an address of the machine, in addition to those that the driver publishes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PublishedPort<'a> {
    /// `80/tcp`. `None`: every port.
    pub(crate) port: Option<&'a str>,
    /// Empty: every address.
    pub(crate) address: &'a str,
}
