//! Refuses a container that would reach into another preview through `raw` or a patch: into the namespaces of a
//! container, or into a network or volume.
//!
//! An endpoint recognises a unit by its address, so a container in another unit's network namespace would get that
//! unit's credentials. `VolumesFrom` includes the mount of delivered secrets. Shared namespaces of the machine are the
//! subject of guardrail PD002, not of this module.

use bollard::Docker as Engine;
use bollard::models::{HostConfig, MountType};
use bollard::query_parameters::InspectContainerOptions;

use super::problems::with_timeout;
use super::translate::{PREVIEW, RenderedContainer};
use super::{READ_TIMEOUT, credential_network};
use crate::problem::{Problem, ProblemKind};
use crate::scope::Scope;

const CONTAINER_PREFIX: &str = "container:";

/// Replaces the names of containers by their ids, so that no other container can take the name in the meantime.
pub(super) async fn refuse(
    engine: &Engine,
    scope: &Scope,
    unit: &str,
    rendered: &mut RenderedContainer,
) -> Result<(), Problem> {
    let check = Check { engine, preview: &scope.preview.id.0, unit };
    for network in rendered.extra_networks.keys().filter(|name| *name != credential_network::NETWORK_NAME) {
        check.refuse_network(network).await?;
    }
    let Some(host_config) = &mut rendered.body.host_config else { return Ok(()) };
    for mode in namespace_modes(host_config) {
        let Some(container) = mode.strip_prefix(CONTAINER_PREFIX) else { continue };
        let id = check.own_container(container).await?;
        *mode = format!("{CONTAINER_PREFIX}{id}");
    }
    for entry in host_config.volumes_from.iter_mut().flatten() {
        let (container, access) = entry.split_once(':').unwrap_or((entry, "rw"));
        *entry = format!("{}:{access}", check.own_container(container).await?);
    }
    for entry in host_config.links.iter_mut().flatten() {
        let (container, alias) = entry.split_once(':').unwrap_or((entry, entry));
        *entry = format!("{}:{alias}", check.own_container(container).await?);
    }
    for volume in volume_names(host_config) {
        check.refuse_volume(&volume).await?;
    }
    Ok(())
}

fn namespace_modes(host_config: &mut HostConfig) -> impl Iterator<Item = &mut String> {
    let HostConfig { network_mode, pid_mode, ipc_mode, uts_mode, userns_mode, cgroup, .. } = host_config;
    [network_mode, pid_mode, ipc_mode, uts_mode, userns_mode, cgroup].into_iter().flatten()
}

/// A source without a slash is the name of a volume.
fn volume_names(host_config: &HostConfig) -> Vec<String> {
    let binds = host_config.binds.iter().flatten().filter_map(|bind| bind.split_once(':')).map(|(source, _)| source);
    let mounts = host_config.mounts.iter().flatten().filter(|mount| mount.typ == Some(MountType::VOLUME));
    let mounts = mounts.filter_map(|mount| mount.source.as_deref());
    binds.filter(|source| !source.contains('/')).chain(mounts).map(str::to_owned).collect()
}

struct Check<'a> {
    engine: &'a Engine,
    preview: &'a str,
    unit: &'a str,
}

impl Check<'_> {
    /// The id of a container of this preview.
    async fn own_container(&self, name: &str) -> Result<String, Problem> {
        let call = self.engine.inspect_container(name, None::<InspectContainerOptions>);
        let found = match with_timeout(READ_TIMEOUT, "cannot inspect a container", call).await {
            Ok(found) => found,
            Err(problem) if problem.kind == ProblemKind::NotFound => {
                let message = format!("`{}` refers to the container `{name}`, which does not exist", self.unit);
                return Err(Problem::new(ProblemKind::Refused, message).hint("Correct the field under `raw`."));
            }
            Err(problem) => return Err(problem),
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        if labels.get(PREVIEW).map(String::as_str) != Some(self.preview) {
            return Err(self.foreign("container", name));
        }
        found.id.ok_or_else(|| Problem::new(ProblemKind::Internal, "the engine reported a container without an id"))
    }

    /// Networks and volumes that pdev did not create may be shared.
    async fn refuse_network(&self, name: &str) -> Result<(), Problem> {
        let call = self.engine.inspect_network(name, None);
        match with_timeout(READ_TIMEOUT, "cannot look up a network", call).await {
            Ok(found) if self.is_of_other_preview(found.labels.as_ref().and_then(|labels| labels.get(PREVIEW))) => {
                Err(self.foreign("network", name))
            }
            Err(problem) if problem.kind != ProblemKind::NotFound => Err(problem),
            _ => Ok(()),
        }
    }

    async fn refuse_volume(&self, name: &str) -> Result<(), Problem> {
        match with_timeout(READ_TIMEOUT, "cannot look up a volume", self.engine.inspect_volume(name)).await {
            Ok(found) if self.is_of_other_preview(found.labels.get(PREVIEW)) => Err(self.foreign("volume", name)),
            Err(problem) if problem.kind != ProblemKind::NotFound => Err(problem),
            _ => Ok(()),
        }
    }

    fn is_of_other_preview(&self, label: Option<&String>) -> bool {
        label.is_some_and(|preview| preview != self.preview)
    }

    fn foreign(&self, kind: &str, name: &str) -> Problem {
        let message = format!("`{}` would use the {kind} `{name}`, which does not belong to this preview", self.unit);
        Problem::new(ProblemKind::Refused, message)
            .hint("Remove the field under `raw` or `patches`, or declare the service in this manifest.")
    }
}
