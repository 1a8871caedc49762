//! The checks of one rendered unit, one function for each rule.

use manifest::model::Command;

use super::{Finding, UnitCheck};
use crate::application::{ReadyCheck, Role};
use crate::container_facts::ContainerFacts;
use crate::container_spec::DEFAULT_CAPABILITIES;
use crate::render;

pub(super) fn check(checked: &UnitCheck<'_>, findings: &mut Vec<Finding>) {
    findings.extend(check_readiness(checked));
    findings.extend(check_routes(checked));
    let Some(facts) = render::read_facts(checked.unit) else { return };
    let container = ContainerCheck { checked, facts: &facts };
    findings.extend(container.check_privileged());
    container.check_host_namespaces(findings);
    container.check_host_paths(findings);
    findings.extend(container.check_escalation());
    container.check_security_profiles(findings);
    findings.extend(container.check_capabilities());
    findings.extend(container.check_root_user());
    findings.extend(container.check_memory_limit());
    findings.extend(container.check_image_tag());
    container.check_published_ports(findings);
    if checked.unit.role == Role::Service {
        findings.extend(container.check_read_only_root());
        findings.extend(container.check_cpu_size());
        findings.extend(container.check_shell_command());
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

struct ContainerCheck<'a> {
    checked: &'a UnitCheck<'a>,
    facts: &'a ContainerFacts<'a>,
}

impl ContainerCheck<'_> {
    fn check_privileged(&self) -> Option<Finding> {
        let privileged = &self.facts.is_privileged;
        let message = "a privileged container can take over this machine";
        privileged.value.then(|| self.checked.finding_for_field("PD001", privileged.field, message))?
    }

    fn check_host_namespaces(&self, findings: &mut Vec<Finding>) {
        for namespace in &self.facts.host_namespaces {
            let message = format!("`{}` takes the container out of its isolation", namespace.value);
            findings.extend(self.checked.finding_for_field("PD002", namespace.field, message));
        }
    }

    fn check_host_paths(&self, findings: &mut Vec<Finding>) {
        for path in &self.facts.host_paths.value {
            let source = path.source;
            let message = if path.is_engine_socket {
                format!("`{source}` gives this container the whole machine")
            } else if source.starts_with('/') || leaves_project(source) {
                format!("`{source}` lies outside the project")
            } else {
                continue;
            };
            findings.extend(match self.volume_span(source) {
                Some(span) => self.checked.finding_at("PD003", "volumes", span, message),
                None => self.checked.finding_for_field("PD003", self.facts.host_paths.field, message),
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

    fn check_escalation(&self) -> Option<Finding> {
        let forbids = &self.facts.forbids_escalation;
        let message = "setuid programs may raise their privileges";
        (!self.facts.is_privileged.value && !forbids.value)
            .then(|| self.checked.finding_for_field("PD004", forbids.field, message))?
    }

    fn check_security_profiles(&self, findings: &mut Vec<Finding>) {
        let disabled = &self.facts.disabled_profiles;
        for option in &disabled.value {
            let message = format!("`{option}` takes the engine's protection away");
            findings.extend(self.checked.finding_for_field("PD007", disabled.field, message));
        }
    }

    fn check_capabilities(&self) -> Option<Finding> {
        if self.facts.is_privileged.value {
            return None;
        }
        let (added, drops_all) = (&self.facts.added_capabilities, &self.facts.drops_all_capabilities);
        let beyond: Vec<&str> =
            added.value.iter().copied().filter(|name| !DEFAULT_CAPABILITIES.contains(name)).collect();
        if !beyond.is_empty() {
            let message = format!("`{}` goes beyond the default capabilities", beyond.join("`, `"));
            return self.checked.finding_for_field("PD005", added.field, message);
        }
        let message = "not all capabilities are dropped";
        (!drops_all.value).then(|| self.checked.finding_for_field("PD005", drops_all.field, message))?
    }

    fn check_root_user(&self) -> Option<Finding> {
        let user = self.facts.user.as_ref()?;
        let name = user.value.split(':').next().unwrap_or(user.value);
        let is_root = name == "root" || name.parse() == Ok(0u32);
        let message = || format!("user `{}` is root", user.value);
        is_root.then(|| self.checked.finding_for_field("PD006", user.field, message()))?
    }

    fn check_memory_limit(&self) -> Option<Finding> {
        let limit = &self.facts.has_memory_limit;
        (!limit.value).then(|| self.checked.finding_for_field("PD009", limit.field, "there is no memory limit"))?
    }

    fn check_image_tag(&self) -> Option<Finding> {
        let image = self.facts.image.filter(|image| !image.is_empty() && !image.contains('@'))?;
        // Only the last part can have a tag: a colon before it belongs to the port of a registry.
        let last_part = image.rsplit('/').next().unwrap_or(image);
        let message = match last_part.split_once(':') {
            Some((_, tag)) if tag != "latest" => return None,
            Some(_) => format!("image `{image}` may be another one tomorrow"),
            None => format!("image `{image}` has no tag, so it means `latest`"),
        };
        self.checked.finding_for_field("PD011", "image", message)
    }

    fn check_published_ports(&self, findings: &mut Vec<Finding>) {
        for published in &self.facts.published_ports {
            let address = published.value.address;
            if address.starts_with("127.") || address == "::1" {
                continue;
            }
            let message = match published.value.port {
                Some(port) => format!("port `{port}` is published to the whole network"),
                None => "all ports are published to the whole network".to_owned(),
            };
            findings.extend(self.checked.finding_for_field("PD021", published.field, message));
        }
    }

    fn check_read_only_root(&self) -> Option<Finding> {
        let name = &self.checked.unit.name;
        let message = || format!("`{name}` can write to its image's file system");
        (!self.facts.has_read_only_root).then(|| self.checked.finding_for_field("PD008", "", message()))?
    }

    /// A CPU size matters where several users compete for a machine, so `local` does not need it.
    fn check_cpu_size(&self) -> Option<Finding> {
        let is_local = self.checked.loaded.manifest.environment.name == "local";
        (!is_local && !self.facts.has_cpu_size)
            .then(|| self.checked.finding_for_field("PD010", "size", "no CPU share is set"))?
    }

    fn check_shell_command(&self) -> Option<Finding> {
        let service = &self.checked.loaded.manifest.services.get(&self.checked.unit.name)?.value;
        let Some(Command::Shell(line)) = &service.command else { return None };
        let replaces_itself = line.value.as_literal().is_some_and(|text| text.trim_start().starts_with("exec "));
        // With `exec`, the shell replaces itself by the program, which then receives the signal.
        let message = "the shell receives the stop signal instead of the program";
        (self.facts.runs_shell && !replaces_itself)
            .then(|| self.checked.finding_at("PD025", "command", line.span, message))?
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
