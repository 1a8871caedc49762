//! Reads facts from the body of a container.

use serde_json::Value as Json;

use super::{HOST_CONFIG_PREFIX, body_path, fields};
use crate::application::{Container, ImageSource};
use crate::container_facts::{ContainerFacts, Fact, HostPath, PublishedPort};
use crate::container_spec::ALL_CAPABILITIES;

const HOST_NAMESPACES: [(&str, &str); 5] = [
    (fields::NETWORK_MODE, "NetworkMode: host"),
    (fields::PID_MODE, "PidMode: host"),
    (fields::IPC_MODE, "IpcMode: host"),
    (fields::UTS_MODE, "UTSMode: host"),
    (fields::USER_NAMESPACE_MODE, "UsernsMode: host"),
];

pub(super) fn read(container: &Container) -> ContainerFacts<'_> {
    let body = BodyReader::new(&container.create_body);
    let security_options = || body.texts(fields::SECURITY_OPTIONS);
    let is_unconfined = |option: &&str| option.ends_with("=unconfined") || option.ends_with(":unconfined");
    ContainerFacts {
        image: match &container.image {
            ImageSource::Reference(image) => Some(image),
            ImageSource::Build(_) => None,
        },
        runs_shell: body.items(fields::COMMAND).next().and_then(Json::as_str) == Some("/bin/sh"),
        user: body.text(fields::USER).map(|user| fact(user, fields::USER)),
        is_privileged: fact(body.is_true(fields::PRIVILEGED), fields::PRIVILEGED),
        forbids_escalation: fact(security_options().any(forbids_escalation), fields::SECURITY_OPTIONS),
        added_capabilities: fact(body.texts(fields::CAP_ADD).collect(), fields::CAP_ADD),
        drops_all_capabilities: fact(
            body.texts(fields::CAP_DROP).any(|name| name == ALL_CAPABILITIES),
            fields::CAP_DROP,
        ),
        disabled_profiles: fact(security_options().filter(is_unconfined).collect(), fields::SECURITY_OPTIONS),
        host_namespaces: body.host_namespaces().collect(),
        host_paths: fact(body.host_paths().collect(), fields::BINDS),
        published_ports: body.published_ports().collect(),
        has_read_only_root: body.is_true(fields::READ_ONLY_ROOT),
        has_memory_limit: fact(body.integer(fields::MEMORY) > 0, fields::MEMORY),
        has_cpu_size: fields::CPU_SIZES.iter().any(|field| body.get(field).is_some()),
    }
}

fn fact<T>(value: T, field: &'static str) -> Fact<T> {
    Fact { value, field }
}

fn forbids_escalation(option: &str) -> bool {
    option.starts_with("no-new-privileges") && !option.ends_with("false")
}

/// A field of the wrong type counts as missing: the engine rejects such a body.
#[derive(Clone, Copy)]
struct BodyReader<'a> {
    body: &'a Json,
    host_config: Option<&'a Json>,
}

impl<'a> BodyReader<'a> {
    fn new(body: &'a Json) -> Self {
        Self { body, host_config: body.get("HostConfig") }
    }

    fn get(self, field: &str) -> Option<&'a Json> {
        match field.strip_prefix(HOST_CONFIG_PREFIX) {
            Some(name) => self.host_config?.get(name),
            None => self.body.get(body_path(field)),
        }
    }

    fn is_true(self, field: &str) -> bool {
        self.get(field) == Some(&Json::Bool(true))
    }

    fn text(self, field: &str) -> Option<&'a str> {
        self.get(field).and_then(Json::as_str)
    }

    fn integer(self, field: &str) -> i64 {
        self.get(field).and_then(Json::as_i64).unwrap_or_default()
    }

    fn items(self, field: &str) -> impl Iterator<Item = &'a Json> {
        self.get(field).and_then(Json::as_array).into_iter().flatten()
    }

    fn texts(self, field: &str) -> impl Iterator<Item = &'a str> {
        self.items(field).filter_map(Json::as_str)
    }

    fn host_namespaces(self) -> impl Iterator<Item = Fact<&'static str>> {
        let shared = HOST_NAMESPACES.into_iter().filter(move |(field, _)| self.text(field) == Some("host"));
        shared.map(|(field, text)| fact(text, field))
    }

    /// The sources of bind mounts. A source may also be the name of a volume, which no rule objects to.
    fn host_paths(self) -> impl Iterator<Item = HostPath<'a>> {
        let binds = self.texts(fields::BINDS).map(|bind| bind.split(':').next().unwrap_or(bind));
        let mounts = self.items(fields::MOUNTS);
        let mounts = mounts.filter(|mount| mount.get("Type").and_then(Json::as_str) == Some("bind"));
        let mounts = mounts.filter_map(|mount| mount.get("Source")?.as_str());
        binds.chain(mounts).map(|source| HostPath { source, is_engine_socket: source.ends_with("docker.sock") })
    }

    fn published_ports(self) -> impl Iterator<Item = Fact<PublishedPort<'a>>> {
        let by_port = self.get(fields::PORT_BINDINGS).and_then(Json::as_object).into_iter().flatten();
        let bindings = by_port.flat_map(|(port, list)| {
            let addresses = list.as_array().into_iter().flatten();
            addresses.map(move |binding| PublishedPort {
                port: Some(port),
                address: binding.get("HostIp").and_then(Json::as_str).unwrap_or_default(),
            })
        });
        let all_ports = self.is_true(fields::PUBLISH_ALL_PORTS).then_some(PublishedPort { port: None, address: "" });
        bindings
            .map(|port| fact(port, fields::PORT_BINDINGS))
            .chain(all_ports.map(|port| fact(port, fields::PUBLISH_ALL_PORTS)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::application::PullPolicy;

    fn container(create_body: Json) -> Container {
        Container {
            image: ImageSource::Reference("example:1".to_owned()),
            create_body,
            aliases: Vec::new(),
            gateway_peers: Vec::new(),
            volumes: Vec::new(),
            pull: PullPolicy::Missing,
        }
    }

    #[test]
    fn hardened_container_has_no_rights() {
        let spec = crate::container_spec::ContainerSpec::hardened();
        let container = container(super::super::render(&spec, &[]).object);
        let facts = read(&container);
        assert!(facts.forbids_escalation.value && facts.drops_all_capabilities.value && facts.has_memory_limit.value);
        assert!(!facts.is_privileged.value && facts.host_paths.value.is_empty() && facts.published_ports.is_empty());
        assert_eq!(facts.added_capabilities.value, crate::container_spec::DEFAULT_CAPABILITIES);
    }

    #[test]
    fn facts_name_fields_that_grant_rights() {
        let container = container(json!({
            "Cmd": ["/bin/sh", "-c", "x"],
            "User": "0:0",
            "HostConfig": {
                "Privileged": true,
                "PidMode": "host",
                "SecurityOpt": ["no-new-privileges:false", "seccomp=unconfined"],
                "Binds": ["./src:/src", "/run/docker.sock:/s"],
                "Mounts": [{ "Type": "bind", "Source": "/etc" }, { "Type": "volume", "Source": "data" }],
                "PortBindings": { "80/tcp": [{ "HostPort": "80" }] },
                "PublishAllPorts": true,
                "CpuQuota": 1000
            }
        }));
        let facts = read(&container);
        assert!(facts.runs_shell && facts.is_privileged.value && facts.has_cpu_size);
        assert!(!facts.forbids_escalation.value && !facts.has_memory_limit.value && !facts.has_read_only_root);
        assert_eq!(facts.user, Some(fact("0:0", "docker.User")));
        assert_eq!(facts.host_namespaces, [fact("PidMode: host", "docker.HostConfig.PidMode")]);
        assert_eq!(facts.disabled_profiles.value, ["seccomp=unconfined"]);
        let path = |source, is_engine_socket| HostPath { source, is_engine_socket };
        assert_eq!(facts.host_paths.value, [path("./src", false), path("/run/docker.sock", true), path("/etc", false)]);
        let fields: Vec<_> = facts.published_ports.iter().map(|port| (port.value.port, port.field)).collect();
        let expected =
            [(Some("80/tcp"), "docker.HostConfig.PortBindings"), (None, "docker.HostConfig.PublishAllPorts")];
        assert_eq!(fields, expected);
    }
}
