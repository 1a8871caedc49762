//! The checks over one rendered unit, one small function each.

use manifest::model::Command;
use serde_json::Value as Json;

use super::{Checked, Finding};
use crate::application::{Body, Container, ImageSource, ReadyCheck, Role};
use crate::render::docker::{CAPABILITIES, lookup};

pub(super) fn check(checked: &Checked<'_>, findings: &mut Vec<Finding>) {
    findings.extend(readiness(checked));
    findings.extend(routes(checked));
    let Body::Container(container) = &checked.unit.body else { return };
    let docker = Docker { checked, create: &container.create };
    findings.extend(docker.privileged());
    docker.host_namespaces(findings);
    docker.host_paths(findings);
    docker.security_options(findings);
    findings.extend(docker.capabilities());
    findings.extend(docker.root());
    findings.extend(docker.memory());
    findings.extend(image_tag(checked, container));
    docker.published(findings);
    if checked.unit.role == Role::Service {
        findings.extend(docker.read_only());
        findings.extend(docker.cpu());
        findings.extend(docker.shell_command());
    }
}

fn readiness(checked: &Checked<'_>) -> Option<Finding> {
    let unit = checked.unit;
    if unit.role != Role::Service || unit.ports.is_empty() || unit.health.ready != ReadyCheck::Started {
        return None;
    }
    checked.finding(
        "PD013",
        "health",
        format!("`{}` has a port but counts as ready as soon as it is started", unit.name),
    )
}

fn routes(checked: &Checked<'_>) -> Option<Finding> {
    let unit = checked.unit;
    let route = unit.routes.first().filter(|_| unit.ports.is_empty())?;
    let written = checked.loaded.manifest.services.get(&unit.name)?.value.routes.first()?.span;
    checked.at("PD015", "routes", written, format!("route `{route}` leads to `{}`, which has no port", unit.name))
}

fn image_tag(checked: &Checked<'_>, container: &Container) -> Option<Finding> {
    let ImageSource::Reference(image) = &container.image else { return None };
    if image.is_empty() || image.contains('@') {
        return None;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        Some((_, tag)) if tag != "latest" => None,
        Some(_) => checked.finding("PD011", "image", format!("image `{image}` may be another one tomorrow")),
        None => checked.finding("PD011", "image", format!("image `{image}` has no tag, so it means `latest`")),
    }
}

struct Docker<'a> {
    checked: &'a Checked<'a>,
    create: &'a Json,
}

impl Docker<'_> {
    fn host(&self, field: &str) -> Option<&Json> {
        self.create.get("HostConfig")?.get(field)
    }

    fn text(&self, field: &str) -> &str {
        self.host(field).and_then(Json::as_str).unwrap_or_default()
    }

    fn words(&self, field: &str) -> Vec<&str> {
        self.host(field).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect()
    }

    fn is_privileged(&self) -> bool {
        self.host("Privileged") == Some(&Json::Bool(true))
    }

    fn privileged(&self) -> Option<Finding> {
        let message = "a privileged container can take over this machine";
        self.is_privileged().then(|| self.checked.finding("PD001", "docker.HostConfig.Privileged", message))?
    }

    fn host_namespaces(&self, findings: &mut Vec<Finding>) {
        for field in ["NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode"] {
            if self.text(field) == "host" {
                let message = format!("`{field}: host` takes the container out of its isolation");
                findings.extend(self.checked.finding("PD002", &format!("docker.HostConfig.{field}"), message));
            }
        }
    }

    fn host_paths(&self, findings: &mut Vec<Finding>) {
        let binds = self.words("Binds").into_iter().map(|bind| bind.split(':').next().unwrap_or(bind));
        let mounts = self.host("Mounts").and_then(Json::as_array).into_iter().flatten();
        let mounts = mounts.filter(|mount| mount.get("Type").and_then(Json::as_str) == Some("bind"));
        let mounts = mounts.filter_map(|mount| mount.get("Source")?.as_str());
        for source in binds.chain(mounts) {
            let message = if source.ends_with("docker.sock") {
                format!("`{source}` gives this container the whole machine")
            } else if source.starts_with('/') || leaves_project(source) {
                format!("`{source}` lies outside the project")
            } else {
                continue;
            };
            let span = self.volume_span(source);
            findings.extend(match span {
                Some(span) => self.checked.at("PD003", "volumes", span, message),
                None => self.checked.finding("PD003", "docker.HostConfig.Binds", message),
            });
        }
    }

    fn volume_span(&self, source: &str) -> Option<manifest::Span> {
        let service = self.checked.loaded.manifest.services.get(&self.checked.unit.name)?;
        service.value.volumes.values().find_map(|volume| match &volume.value.source {
            manifest::model::VolumeSource::Path(path) if path.value == source => Some(path.span),
            _ => None,
        })
    }

    fn security_options(&self, findings: &mut Vec<Finding>) {
        let options = self.words("SecurityOpt");
        let kept = |option: &&str| option.starts_with("no-new-privileges") && !option.ends_with("false");
        let field = "docker.HostConfig.SecurityOpt";
        if !self.is_privileged() && !options.iter().any(kept) {
            findings.extend(self.checked.finding("PD004", field, "setuid programs may raise their privileges"));
        }
        for option in options.iter().filter(|option| option.ends_with("=unconfined") || option.ends_with(":unconfined"))
        {
            findings.extend(self.checked.finding(
                "PD007",
                field,
                format!("`{option}` takes the engine's protection away"),
            ));
        }
    }

    fn capabilities(&self) -> Option<Finding> {
        if self.is_privileged() {
            return None;
        }
        let field = "docker.HostConfig.CapAdd";
        let beyond: Vec<&str> = self.words("CapAdd").into_iter().filter(|name| !CAPABILITIES.contains(name)).collect();
        if !beyond.is_empty() {
            let message = format!("`{}` goes beyond the default capabilities", beyond.join("`, `"));
            return self.checked.finding("PD005", field, message);
        }
        let drops_all = self.words("CapDrop").contains(&"ALL");
        (!drops_all)
            .then(|| self.checked.finding("PD005", "docker.HostConfig.CapDrop", "not all capabilities are dropped"))?
    }

    fn root(&self) -> Option<Finding> {
        let user = self.create.get("User").and_then(Json::as_str)?;
        let name = user.split(':').next().unwrap_or(user);
        let is_root = name == "root" || name.parse() == Ok(0u32);
        is_root.then(|| self.checked.finding("PD006", "docker.User", format!("user `{user}` is root")))?
    }

    fn memory(&self) -> Option<Finding> {
        let limit = self.host("Memory").and_then(Json::as_i64).unwrap_or_default();
        (limit <= 0).then(|| self.checked.finding("PD009", "docker.HostConfig.Memory", "there is no memory limit"))?
    }

    fn published(&self, findings: &mut Vec<Finding>) {
        let field = "docker.HostConfig.PortBindings";
        let bindings = self.host("PortBindings").and_then(Json::as_object).into_iter().flatten();
        for (port, binding) in
            bindings.flat_map(|(port, list)| list.as_array().into_iter().flatten().map(move |one| (port, one)))
        {
            let address = binding.get("HostIp").and_then(Json::as_str).unwrap_or_default();
            if !(address.starts_with("127.") || address == "::1") {
                let message = format!("port `{port}` is published to the whole network");
                findings.extend(self.checked.finding("PD021", field, message));
            }
        }
        if self.host("PublishAllPorts") == Some(&Json::Bool(true)) {
            let message = "all ports are published to the whole network";
            findings.extend(self.checked.finding("PD021", "docker.HostConfig.PublishAllPorts", message));
        }
    }

    fn read_only(&self) -> Option<Finding> {
        let read_only = self.host("ReadonlyRootfs") == Some(&Json::Bool(true));
        let name = &self.checked.unit.name;
        (!read_only)
            .then(|| self.checked.finding("PD008", "", format!("`{name}` can write to its image's file system")))?
    }

    /// Shares matter where strangers compete; one laptop has one user.
    fn cpu(&self) -> Option<Finding> {
        let local = self.checked.loaded.manifest.environment.name == "local";
        let said = ["CpuShares", "NanoCpus", "CpuQuota"].iter().any(|field| self.host(field).is_some());
        (!local && !said).then(|| self.checked.finding("PD010", "size", "nothing says how much CPU it needs"))?
    }

    fn shell_command(&self) -> Option<Finding> {
        let service = &self.checked.loaded.manifest.services.get(&self.checked.unit.name)?.value;
        let Some(Command::Shell(line)) = &service.command else { return None };
        let runs_shell = lookup(self.create, "Cmd.0").and_then(Json::as_str) == Some("/bin/sh");
        let replaces_itself = line.value.as_literal().is_some_and(|text| text.trim_start().starts_with("exec "));
        let message = "the shell receives the stop signal instead of the program";
        (runs_shell && !replaces_itself).then(|| self.checked.at("PD025", "command", line.span, message))?
    }
}

/// `./a/../../b` leaves; `./a/../b` does not.
fn leaves_project(path: &str) -> bool {
    let mut depth = 0i32;
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => depth -= 1,
            _ => depth += 1,
        }
        if depth < 0 {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_that_leave() {
        for (path, leaves) in [("./a/../b", false), ("../a", true), ("./a/../../b", true), (".", false)] {
            assert_eq!(super::leaves_project(path), leaves, "{path}");
        }
    }
}
