//! The checks of one rendered unit, one function for each rule.

use manifest::model::Command;
use serde_json::Value as Json;

use super::{Finding, UnitCheck};
use crate::application::{Body, Container, ImageSource, ReadyCheck, Role};
use crate::container_spec::DEFAULT_CAPABILITIES;

pub(super) fn check(checked: &UnitCheck<'_>, findings: &mut Vec<Finding>) {
    findings.extend(check_readiness(checked));
    findings.extend(check_routes(checked));
    let Body::Container(container) = &checked.unit.body else { return };
    let docker = ContainerCheck { checked, create_body: &container.create_body };
    findings.extend(docker.check_privileged());
    docker.check_host_namespaces(findings);
    docker.check_host_paths(findings);
    docker.check_security_options(findings);
    findings.extend(docker.check_capabilities());
    findings.extend(docker.check_root_user());
    findings.extend(docker.check_memory_limit());
    findings.extend(check_image_tag(checked, container));
    docker.check_published_ports(findings);
    if checked.unit.role == Role::Service {
        findings.extend(docker.check_read_only_root());
        findings.extend(docker.check_cpu_share());
        findings.extend(docker.check_shell_command());
    }
}

fn check_readiness(checked: &UnitCheck<'_>) -> Option<Finding> {
    let unit = checked.unit;
    if unit.role != Role::Service || unit.ports.is_empty() || unit.health.ready != ReadyCheck::Started {
        return None;
    }
    checked.finding_for_field(
        "PD013",
        "health",
        format!("`{}` has a port but counts as ready as soon as it is started", unit.name),
    )
}

fn check_routes(checked: &UnitCheck<'_>) -> Option<Finding> {
    let unit = checked.unit;
    let route = unit.routes.first().filter(|_| unit.ports.is_empty())?;
    let route_span = checked.loaded.manifest.services.get(&unit.name)?.value.routes.first()?.span;
    checked.finding_at(
        "PD015",
        "routes",
        route_span,
        format!("route `{route}` leads to `{}`, which has no port", unit.name),
    )
}

fn check_image_tag(checked: &UnitCheck<'_>, container: &Container) -> Option<Finding> {
    let ImageSource::Reference(image) = &container.image else { return None };
    if image.is_empty() || image.contains('@') {
        return None;
    }
    // Only the last part can have a tag: a colon before it belongs to the port of a registry.
    let last_part = image.rsplit('/').next().unwrap_or(image);
    match last_part.split_once(':') {
        Some((_, tag)) if tag != "latest" => None,
        Some(_) => checked.finding_for_field("PD011", "image", format!("image `{image}` may be another one tomorrow")),
        None => {
            checked.finding_for_field("PD011", "image", format!("image `{image}` has no tag, so it means `latest`"))
        }
    }
}

struct ContainerCheck<'a> {
    checked: &'a UnitCheck<'a>,
    create_body: &'a Json,
}

impl ContainerCheck<'_> {
    fn host_config_field(&self, field: &str) -> Option<&Json> {
        self.create_body.get("HostConfig")?.get(field)
    }

    fn host_config_str(&self, field: &str) -> &str {
        self.host_config_field(field).and_then(Json::as_str).unwrap_or_default()
    }

    fn host_config_strings(&self, field: &str) -> Vec<&str> {
        self.host_config_field(field).and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str).collect()
    }

    fn is_privileged(&self) -> bool {
        self.host_config_field("Privileged") == Some(&Json::Bool(true))
    }

    fn check_privileged(&self) -> Option<Finding> {
        let message = "a privileged container can take over this machine";
        self.is_privileged()
            .then(|| self.checked.finding_for_field("PD001", "docker.HostConfig.Privileged", message))?
    }

    fn check_host_namespaces(&self, findings: &mut Vec<Finding>) {
        for field in ["NetworkMode", "PidMode", "IpcMode", "UTSMode", "UsernsMode"] {
            if self.host_config_str(field) == "host" {
                let message = format!("`{field}: host` takes the container out of its isolation");
                findings.extend(self.checked.finding_for_field(
                    "PD002",
                    &format!("docker.HostConfig.{field}"),
                    message,
                ));
            }
        }
    }

    fn check_host_paths(&self, findings: &mut Vec<Finding>) {
        let binds = self.host_config_strings("Binds").into_iter().map(|bind| bind.split(':').next().unwrap_or(bind));
        let mounts = self.host_config_field("Mounts").and_then(Json::as_array).into_iter().flatten();
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
                Some(span) => self.checked.finding_at("PD003", "volumes", span, message),
                None => self.checked.finding_for_field("PD003", "docker.HostConfig.Binds", message),
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

    fn check_security_options(&self, findings: &mut Vec<Finding>) {
        let options = self.host_config_strings("SecurityOpt");
        let forbids_escalation = |option: &&str| option.starts_with("no-new-privileges") && !option.ends_with("false");
        let field = "docker.HostConfig.SecurityOpt";
        if !self.is_privileged() && !options.iter().any(forbids_escalation) {
            findings.extend(self.checked.finding_for_field(
                "PD004",
                field,
                "setuid programs may raise their privileges",
            ));
        }
        for option in options.iter().filter(|option| option.ends_with("=unconfined") || option.ends_with(":unconfined"))
        {
            findings.extend(self.checked.finding_for_field(
                "PD007",
                field,
                format!("`{option}` takes the engine's protection away"),
            ));
        }
    }

    fn check_capabilities(&self) -> Option<Finding> {
        if self.is_privileged() {
            return None;
        }
        let field = "docker.HostConfig.CapAdd";
        let beyond: Vec<&str> = self
            .host_config_strings("CapAdd")
            .into_iter()
            .filter(|name| !DEFAULT_CAPABILITIES.contains(name))
            .collect();
        if !beyond.is_empty() {
            let message = format!("`{}` goes beyond the default capabilities", beyond.join("`, `"));
            return self.checked.finding_for_field("PD005", field, message);
        }
        let drops_all = self.host_config_strings("CapDrop").contains(&"ALL");
        (!drops_all).then(|| {
            self.checked.finding_for_field("PD005", "docker.HostConfig.CapDrop", "not all capabilities are dropped")
        })?
    }

    fn check_root_user(&self) -> Option<Finding> {
        let user = self.create_body.get("User").and_then(Json::as_str)?;
        let name = user.split(':').next().unwrap_or(user);
        let is_root = name == "root" || name.parse() == Ok(0u32);
        is_root.then(|| self.checked.finding_for_field("PD006", "docker.User", format!("user `{user}` is root")))?
    }

    fn check_memory_limit(&self) -> Option<Finding> {
        let limit = self.host_config_field("Memory").and_then(Json::as_i64).unwrap_or_default();
        (limit <= 0)
            .then(|| self.checked.finding_for_field("PD009", "docker.HostConfig.Memory", "there is no memory limit"))?
    }

    fn check_published_ports(&self, findings: &mut Vec<Finding>) {
        let field = "docker.HostConfig.PortBindings";
        let bindings = self.host_config_field("PortBindings").and_then(Json::as_object).into_iter().flatten();
        for (port, binding) in
            bindings.flat_map(|(port, list)| list.as_array().into_iter().flatten().map(move |binding| (port, binding)))
        {
            let address = binding.get("HostIp").and_then(Json::as_str).unwrap_or_default();
            if !(address.starts_with("127.") || address == "::1") {
                let message = format!("port `{port}` is published to the whole network");
                findings.extend(self.checked.finding_for_field("PD021", field, message));
            }
        }
        if self.host_config_field("PublishAllPorts") == Some(&Json::Bool(true)) {
            let message = "all ports are published to the whole network";
            findings.extend(self.checked.finding_for_field("PD021", "docker.HostConfig.PublishAllPorts", message));
        }
    }

    fn check_read_only_root(&self) -> Option<Finding> {
        let read_only = self.host_config_field("ReadonlyRootfs") == Some(&Json::Bool(true));
        let name = &self.checked.unit.name;
        (!read_only).then(|| {
            self.checked.finding_for_field("PD008", "", format!("`{name}` can write to its image's file system"))
        })?
    }

    /// CPU shares matter where several users compete for a machine, so `local` does not need them.
    fn check_cpu_share(&self) -> Option<Finding> {
        let is_local = self.checked.loaded.manifest.environment.name == "local";
        let has_cpu_setting =
            ["CpuShares", "NanoCpus", "CpuQuota"].iter().any(|field| self.host_config_field(field).is_some());
        (!is_local && !has_cpu_setting)
            .then(|| self.checked.finding_for_field("PD010", "size", "no CPU share is set"))?
    }

    fn check_shell_command(&self) -> Option<Finding> {
        let service = &self.checked.loaded.manifest.services.get(&self.checked.unit.name)?.value;
        let Some(Command::Shell(line)) = &service.command else { return None };
        let runs_shell = self.create_body.pointer("/Cmd/0").and_then(Json::as_str) == Some("/bin/sh");
        let replaces_itself = line.value.as_literal().is_some_and(|text| text.trim_start().starts_with("exec "));
        // With `exec`, the shell replaces itself by the program, which then receives the signal.
        let message = "the shell receives the stop signal instead of the program";
        (runs_shell && !replaces_itself).then(|| self.checked.finding_at("PD025", "command", line.span, message))?
    }
}

/// True for a path that leads above the project root: `./a/../../b` does, `./a/../b` does not.
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
    fn only_paths_above_project_root_leave_it() {
        for (path, leaves) in [("./a/../b", false), ("../a", true), ("./a/../../b", true), (".", false)] {
            assert_eq!(super::leaves_project(path), leaves, "{path}");
        }
    }
}
