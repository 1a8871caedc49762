//! Renders a container to the body of the Engine API's `POST /containers/create`.
//!
//! The source of a bind or mount that starts with `./` or `../` is relative to the manifest's folder. The driver makes it absolute,
//! because neither this crate nor the hash may depend on the location of the checkout. The driver also adds the image,
//! environment, labels, published ports, network, and the mounts of named volumes and secrets.

pub(super) mod capabilities;
mod engine_fields;
mod facts;
mod fields;

use std::borrow::Cow;

use serde_json::{Map, Value as Json, json};

use super::patch::{self, ObjectPatch};
use super::{ContainerRenderer, RenderedContainer, RenderedSetting};
use crate::application::{Argv, Container, PortProtocol, VolumeMount};
use crate::container_facts::ContainerFacts;
use crate::container_spec::{
    Capabilities, ContainerPort, ContainerSpec, Defaulted, EngineField, Mount, MountSource, Setting,
};
use crate::hash;

/// The prefix of fields in the map of origins.
const ORIGIN_PREFIX: &str = "docker.";
const HOST_CONFIG_PREFIX: &str = "docker.HostConfig.";

#[derive(Debug)]
struct DockerRenderer;

impl ContainerRenderer for DockerRenderer {
    fn render(&self, spec: &ContainerSpec, changes: &[ObjectPatch]) -> RenderedContainer {
        render(spec, changes)
    }

    fn default_settings(&self, spec: &ContainerSpec) -> Vec<RenderedSetting> {
        default_settings(spec)
    }

    fn read_facts<'a>(&self, container: &'a Container) -> ContainerFacts<'a> {
        facts::read(container)
    }

    fn value_at<'a>(&self, object: &'a Json, field: &str) -> Option<&'a Json> {
        get_at(object, field)
    }

    fn object_kinds(&self) -> &'static [&'static str] {
        &["Container"]
    }
}

fn render(spec: &ContainerSpec, changes: &[ObjectPatch]) -> RenderedContainer {
    // The defaults and two or three more fields.
    let mut renderer = BodyRenderer { host_config: Map::with_capacity(8), ..BodyRenderer::default() };
    renderer.add_program(spec);
    renderer.add_resources(spec);
    renderer.add_security(spec);
    renderer.set_and_record(fields::EXPOSED_PORTS, spec.ports.as_ref(), |ports| exposed_ports(ports));
    renderer.add_mounts(spec);
    let mut rendered = renderer.into_container();
    spec.docker_host_config.iter().for_each(|field| add_engine_field(&mut rendered, field));
    changes.iter().for_each(|change| apply_change(&mut rendered, change));
    rendered
}

fn default_settings(spec: &ContainerSpec) -> Vec<RenderedSetting> {
    let (resources, security) = (&spec.resources, &spec.security);
    let capabilities = &security.capabilities;
    let settings = [
        capabilities.dropped.map(|names| rendered_setting(fields::CAP_DROP, names, |names| json!(names))),
        capabilities.defaults.map(|names| rendered_setting(fields::CAP_ADD, names, |names| json!(names))),
        security.no_new_privileges.default.map(|on| rendered_setting(fields::SECURITY_OPTIONS, on, security_options)),
        resources.memory_bytes.default.map(|bytes| rendered_setting(fields::MEMORY, bytes, |bytes| json!(bytes))),
        resources.pids.default.map(|pids| rendered_setting(fields::PIDS_LIMIT, pids, |pids| json!(pids))),
    ];
    settings.into_iter().flatten().collect()
}

fn add_engine_field(rendered: &mut RenderedContainer, field: &EngineField) {
    let path = format!("{HOST_CONFIG_PREFIX}{}", field.name);
    set_at(&mut rendered.object, &path, field.value.clone());
    rendered.settings.push(RenderedSetting {
        field: Cow::Owned(path),
        manifest_key: None,
        value: field.value.clone(),
        stable: None,
        origin: field.origin.clone(),
    });
}

fn apply_change(rendered: &mut RenderedContainer, change: &ObjectPatch) {
    engine_fields::check(change, &mut rendered.diagnostics);
    patch::apply(&mut rendered.object, change, &mut rendered.diagnostics);
    rendered.settings.extend(patch::patched_fields(change).into_iter().map(|patched| RenderedSetting {
        field: Cow::Owned(format!("{ORIGIN_PREFIX}{}", patched.field)),
        manifest_key: None,
        value: patched.stable,
        stable: None,
        origin: patched.origin,
    }));
}

/// The body under construction.
#[derive(Default)]
struct BodyRenderer {
    body: Map<String, Json>,
    host_config: Map<String, Json>,
    volumes: Vec<VolumeMount>,
    settings: Vec<RenderedSetting>,
}

impl BodyRenderer {
    fn add_program(&mut self, spec: &ContainerSpec) {
        for (field, command) in [(fields::COMMAND, &spec.command), (fields::ENTRYPOINT, &spec.entrypoint)] {
            let Some(command) = command else { continue };
            self.set(field, engine_command(&command.value));
            let stable = command.stable.as_ref().unwrap_or(&command.value);
            self.settings.push(RenderedSetting {
                // The hash has the shell line itself, so that another way to run it changes no hash.
                stable: Some(hash::command_json(stable)),
                ..rendered_setting(field, command, engine_command)
            });
        }
        let texts = [
            (fields::WORKING_DIR, &spec.working_dir),
            (fields::USER, &spec.user),
            (fields::STOP_SIGNAL, &spec.stop_signal),
        ];
        for (field, text) in texts {
            self.set_and_record(field, text.as_ref(), |text| json!(text));
        }
    }

    fn add_resources(&mut self, spec: &ContainerSpec) {
        let resources = &spec.resources;
        self.set_defaulted(fields::MEMORY, &resources.memory_bytes, |bytes| json!(bytes));
        self.set_and_record(fields::CPU_SHARES, resources.cpu_milli.as_ref(), |milli| json!(cpu_shares(*milli)));
        self.set_defaulted(fields::PIDS_LIMIT, &resources.pids, |pids| json!(pids));
    }

    fn add_security(&mut self, spec: &ContainerSpec) {
        let security = &spec.security;
        self.set_and_record(fields::PRIVILEGED, security.privileged.as_ref(), |on| json!(on));
        self.add_capabilities(&security.capabilities);
        self.set_defaulted(fields::SECURITY_OPTIONS, &security.no_new_privileges, security_options);
        self.set_and_record(fields::READ_ONLY_ROOT, security.read_only_root.as_ref(), |on| json!(on));
    }

    fn add_capabilities(&mut self, capabilities: &Capabilities) {
        if let Some(dropped) = capabilities.dropped {
            self.set(fields::CAP_DROP, json!(dropped.value));
        }
        let Some(granted) = capabilities.granted() else { return };
        self.record(fields::CAP_ADD, capabilities.added.as_ref(), |names| json!(names));
        self.settings.extend(capabilities.removed.as_ref().map(|removed| RenderedSetting {
            // The engine drops all capabilities, so a removed one is missing in those that it adds.
            value: json!(granted),
            stable: Some(json!(removed.value)),
            ..rendered_setting(fields::CAP_ADD, removed, |_| Json::Null)
        }));
        self.set(fields::CAP_ADD, json!(granted));
    }

    fn add_mounts(&mut self, spec: &ContainerSpec) {
        let (mut binds, mut mounts, mut tmpfs) = (Vec::new(), Vec::new(), Map::new());
        for mount in &spec.mounts {
            let Mount { source, target, read_only } = &mount.value;
            match source {
                MountSource::NamedVolume(name) => self.volumes.push(VolumeMount {
                    volume: name.clone(),
                    target: target.clone(),
                    read_only: *read_only,
                }),
                // A bind separates its parts by colons.
                MountSource::ProjectPath(source) | MountSource::HostPath(source)
                    if source.contains(':') || target.contains(':') =>
                {
                    let structured = structured_bind(&bind_source(source), target, *read_only);
                    mounts.push(structured.clone());
                    self.record(fields::MOUNTS, Some(mount), |_| json!([structured]));
                }
                MountSource::ProjectPath(source) | MountSource::HostPath(source) => {
                    let mode = if *read_only { ":ro" } else { "" };
                    let bind = Json::String(format!("{}:{target}{mode}", bind_source(source)));
                    // A list has each entry once.
                    if !binds.contains(&bind) {
                        binds.push(bind.clone());
                    }
                    self.record(fields::BINDS, Some(mount), |_| json!([bind]));
                }
                MountSource::Tmpfs { size_bytes } => {
                    let options = size_bytes.map(|size| format!("size={size}")).unwrap_or_default();
                    self.record(fields::TMPFS, Some(mount), |_| json!({ target: options }));
                    tmpfs.insert(target.clone(), Json::String(options));
                }
            }
        }
        if !binds.is_empty() {
            self.set(fields::BINDS, Json::Array(binds));
        }
        if !mounts.is_empty() {
            self.set(fields::MOUNTS, Json::Array(mounts));
        }
        if !tmpfs.is_empty() {
            self.set(fields::TMPFS, Json::Object(tmpfs));
        }
    }

    /// Sets the effective value. `default_settings` records the default.
    fn set_defaulted<T>(&mut self, field: &'static str, setting: &Defaulted<T>, to_json: impl Fn(&T) -> Json) {
        if let Some(value) = setting.value() {
            self.set(field, to_json(value));
        }
        self.record(field, setting.set.as_ref(), to_json);
    }

    fn set_and_record<T>(&mut self, field: &'static str, setting: Option<&Setting<T>>, to_json: impl Fn(&T) -> Json) {
        if let Some(setting) = setting {
            self.set(field, to_json(&setting.value));
            self.settings.push(rendered_setting(field, setting, to_json));
        }
    }

    fn record<T>(&mut self, field: &'static str, setting: Option<&Setting<T>>, to_json: impl Fn(&T) -> Json) {
        self.settings.extend(setting.map(|setting| rendered_setting(field, setting, to_json)));
    }

    fn set(&mut self, field: &'static str, value: Json) {
        match field.strip_prefix(HOST_CONFIG_PREFIX) {
            Some(name) => self.host_config.insert(name.to_owned(), value),
            None => self.body.insert(body_path(field).to_owned(), value),
        };
    }

    fn into_container(mut self) -> RenderedContainer {
        self.body.insert("HostConfig".to_owned(), Json::Object(self.host_config));
        RenderedContainer {
            object: Json::Object(self.body),
            volumes: self.volumes,
            settings: self.settings,
            diagnostics: Vec::new(),
        }
    }
}

fn rendered_setting<T>(field: &'static str, setting: &Setting<T>, to_json: impl Fn(&T) -> Json) -> RenderedSetting {
    RenderedSetting {
        field: Cow::Borrowed(field),
        manifest_key: Some(setting.manifest_key.clone()),
        value: to_json(&setting.value),
        stable: setting.stable.as_ref().map(to_json),
        origin: setting.origin.clone(),
    }
}

/// The image's `/bin/sh` runs a shell line.
fn engine_command(command: &Argv) -> Json {
    match command {
        Argv::List(words) => json!(words),
        Argv::Shell(line) => json!(["/bin/sh", "-c", line]),
    }
}

/// A share under contention and not a ceiling, so that a unit can use idle cores of a laptop. The kernel accepts shares
/// from 2 to 262144.
fn cpu_shares(milli: u64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(2, 262_144)
}

fn security_options(no_new_privileges: &bool) -> Json {
    if *no_new_privileges { json!(["no-new-privileges"]) } else { json!([]) }
}

fn exposed_ports(ports: &[ContainerPort]) -> Json {
    let exposed_port = |port: &ContainerPort| {
        let transport = if port.protocol == PortProtocol::Udp { "udp" } else { "tcp" };
        (format!("{}/{transport}", port.listen_port), json!({}))
    };
    Json::Object(ports.iter().map(exposed_port).collect())
}

/// The same mount as a bind `SOURCE:TARGET`: the engine creates a missing source.
fn structured_bind(source: &str, target: &str, read_only: bool) -> Json {
    json!({
        "Type": "bind",
        "Source": source,
        "Target": target,
        "ReadOnly": read_only,
        "BindOptions": { "CreateMountpoint": true },
    })
}

/// The engine reads a bare name as a named volume, so a relative path needs `./`.
fn bind_source(path: &str) -> Cow<'_, str> {
    let is_path = ["/", "./", "../"].iter().any(|start| path.starts_with(start));
    if is_path { Cow::Borrowed(path) } else { Cow::Owned(format!("./{path}")) }
}

fn body_path(field: &str) -> &str {
    field.strip_prefix(ORIGIN_PREFIX).unwrap_or(field)
}

/// Sets the value at the path of a field, and creates the objects that contain it.
fn set_at(body: &mut Json, field: &str, value: Json) {
    let mut at = body;
    for part in body_path(field).split('.') {
        if !at.is_object() {
            *at = Json::Object(Map::new());
        }
        let Json::Object(object) = at else { return };
        at = object.entry(part).or_insert(Json::Null);
    }
    *at = value;
}

/// The value at the path of a field.
fn get_at<'a>(body: &'a Json, field: &str) -> Option<&'a Json> {
    body_path(field).split('.').try_fold(body, |at, part| match at {
        Json::Array(list) => list.get(part.parse::<usize>().ok()?),
        at => at.get(part),
    })
}
