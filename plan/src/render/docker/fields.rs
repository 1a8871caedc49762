//! Paths of the fields that pdev sets or reads, as in the map of origins: `docker.` and the path in the body of the
//! Engine API's `POST /containers/create`.

pub(super) const COMMAND: &str = "docker.Cmd";
pub(super) const ENTRYPOINT: &str = "docker.Entrypoint";
pub(super) const EXPOSED_PORTS: &str = "docker.ExposedPorts";
pub(super) const STOP_SIGNAL: &str = "docker.StopSignal";
pub(super) const USER: &str = "docker.User";
pub(super) const WORKING_DIR: &str = "docker.WorkingDir";

pub(super) const BINDS: &str = "docker.HostConfig.Binds";
pub(super) const CAP_ADD: &str = "docker.HostConfig.CapAdd";
pub(super) const CAP_DROP: &str = "docker.HostConfig.CapDrop";
pub(super) const CPU_SHARES: &str = "docker.HostConfig.CpuShares";
pub(super) const IPC_MODE: &str = "docker.HostConfig.IpcMode";
pub(super) const MEMORY: &str = "docker.HostConfig.Memory";
pub(super) const MOUNTS: &str = "docker.HostConfig.Mounts";
pub(super) const NETWORK_MODE: &str = "docker.HostConfig.NetworkMode";
pub(super) const PID_MODE: &str = "docker.HostConfig.PidMode";
pub(super) const PIDS_LIMIT: &str = "docker.HostConfig.PidsLimit";
pub(super) const PORT_BINDINGS: &str = "docker.HostConfig.PortBindings";
pub(super) const PRIVILEGED: &str = "docker.HostConfig.Privileged";
pub(super) const PUBLISH_ALL_PORTS: &str = "docker.HostConfig.PublishAllPorts";
pub(super) const READ_ONLY_ROOT: &str = "docker.HostConfig.ReadonlyRootfs";
pub(super) const SECURITY_OPTIONS: &str = "docker.HostConfig.SecurityOpt";
pub(super) const TMPFS: &str = "docker.HostConfig.Tmpfs";
pub(super) const USER_NAMESPACE_MODE: &str = "docker.HostConfig.UsernsMode";
pub(super) const UTS_MODE: &str = "docker.HostConfig.UTSMode";

/// Each of them says how much CPU the container gets.
pub(super) const CPU_SIZES: [&str; 3] = [CPU_SHARES, "docker.HostConfig.NanoCpus", "docker.HostConfig.CpuQuota"];
