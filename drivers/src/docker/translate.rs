//! Renders a unit as the engine's create body, and translates labels in both directions. Pure: no engine, no disk.

use std::collections::{BTreeMap, HashMap};
use std::path::{Component, Path};
use std::time::Duration;

use bollard::models::{ContainerCreateBody, EndpointSettings};
use plan::application::{Container, PortProtocol, PreviewId, PreviewName, Unit, is_project_source};
use serde_json::{Map, Value, json};

use crate::problem::{Problem, ProblemKind};

pub(super) const PREVIEW: &str = "dev.pdev.preview";
pub(super) const APP: &str = "dev.pdev.app";
pub(super) const BRANCH: &str = "dev.pdev.branch";
pub(super) const ENVIRONMENT: &str = "dev.pdev.environment";
pub(super) const SERVICE: &str = "dev.pdev.service";
pub(super) const HASH: &str = "dev.pdev.hash";
pub(super) const IMAGE: &str = "dev.pdev.image";
pub(super) const SCHEMA: &str = "dev.pdev.schema";
pub(super) const PROJECT: &str = "dev.pdev.project";
pub(super) const ROLE: &str = "dev.pdev.role";
pub(super) const VOLUME: &str = "dev.pdev.volume";
/// The agent that made the object, because several users and machines may share an engine.
pub(super) const OWNER: &str = "dev.pdev.owner";
/// Host ports by name, as `main=40001,admin=40002`.
pub(super) const PORTS: &str = "dev.pdev.ports";

pub(super) fn common_labels(preview: &PreviewName, project: &Path, owner: &str) -> HashMap<String, String> {
    [
        (PREVIEW, preview.id.0.clone()),
        (APP, preview.app.clone()),
        (BRANCH, preview.branch.clone()),
        (ENVIRONMENT, preview.environment.clone()),
        (SCHEMA, "1".to_owned()),
        (PROJECT, project.to_string_lossy().into_owned()),
        (OWNER, owner.to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

pub(super) fn preview_from_labels(labels: &HashMap<String, String>) -> Option<PreviewName> {
    let text = |name| labels.get(name).cloned().unwrap_or_default();
    let id = PreviewId(labels.get(PREVIEW)?.clone());
    Some(PreviewName { id, app: text(APP), branch: text(BRANCH), environment: text(ENVIRONMENT) })
}

pub(super) fn ports_from_labels(labels: &HashMap<String, String>) -> BTreeMap<String, u16> {
    let text = labels.get(PORTS).map_or("", String::as_str);
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(name, port)| Some((name.to_owned(), port.parse().ok()?)))
        .collect()
}

/// The surroundings of a new container: its preview, network, image and secrets.
pub(super) struct CreateContext<'a> {
    pub(super) preview: &'a PreviewName,
    pub(super) project: &'a Path,
    /// The value of the label [`OWNER`].
    pub(super) owner: &'a str,
    pub(super) network: &'a str,
    /// An address, or the engine's alias for its host (`host-gateway`).
    pub(super) gateway: &'a str,
    /// The image name for the create call.
    pub(super) image_reference: &'a str,
    /// The image's id, recorded in a label for later comparison.
    pub(super) image_id: &'a str,
    pub(super) secrets_folder: Option<&'a Path>,
}

/// A container ready to be created.
#[derive(Debug)]
pub(super) struct RenderedContainer {
    pub(super) body: ContainerCreateBody,
    /// Networks that `raw` names in addition to the preview's. They are connected after the creation, because engines
    /// before API 1.44 accept only one network at creation.
    pub(super) extra_networks: BTreeMap<String, EndpointSettings>,
}

pub(super) fn render_container(
    unit: &Unit,
    container: &Container,
    context: &CreateContext<'_>,
) -> Result<RenderedContainer, Problem> {
    let raw_problem = |reason: String| {
        Problem::new(ProblemKind::Refused, format!("`{}`: {reason}", unit.name)).hint("Correct the field under `raw`.")
    };
    let Value::Object(mut body) = container.create_body.clone() else {
        return Err(raw_problem("the create body is not an object".to_owned()));
    };
    body.insert("Image".to_owned(), json!(context.image_reference));
    let env = merge_environment(unit, body.remove("Env"))
        .ok_or_else(|| raw_problem("`Env` is not a list of strings".to_owned()))?;
    body.insert("Env".to_owned(), json!(env));
    let labels =
        object_entry(&mut body, "Labels").ok_or_else(|| raw_problem("`Labels` is not an object".to_owned()))?;
    for (name, value) in unit_labels(unit, context) {
        labels.insert(name, json!(value));
    }
    // Engines before API 1.42 accept no signal in the stop call. Also, a manual `docker stop` gets the same grace
    // period.
    body.entry("StopSignal").or_insert_with(|| json!(unit.stop.signal));
    body.entry("StopTimeout").or_insert_with(|| json!(grace_seconds(unit.stop.grace)));
    let host_config =
        object_entry(&mut body, "HostConfig").ok_or_else(|| raw_problem("`HostConfig` is not an object".to_owned()))?;
    let mode = host_config.remove("NetworkMode").and_then(|mode| mode.as_str().map(str::to_owned)).unwrap_or_default();
    let leaves_network = matches!(mode.as_str(), "host" | "none") || mode.starts_with("container:");
    fill_host_config(host_config, unit, container, context, leaves_network).map_err(raw_problem)?;
    if leaves_network {
        // `raw` removed the container from the preview's network; the engine refuses ports and host names there.
        host_config.insert("NetworkMode".to_owned(), json!(mode));
        let body = deserialize(Value::Object(body)).map_err(raw_problem)?;
        return Ok(RenderedContainer { body, extra_networks: BTreeMap::new() });
    }
    let exposed_ports = object_entry(&mut body, "ExposedPorts")
        .ok_or_else(|| raw_problem("`ExposedPorts` is not an object".to_owned()))?;
    for port in unit.ports.values() {
        exposed_ports.insert(format!("{}/{}", port.listen_port, protocol_name(port.protocol)), json!({}));
    }
    let mut extra_networks: BTreeMap<String, EndpointSettings> = match body.remove("NetworkingConfig") {
        Some(mut raw) => deserialize(raw["EndpointsConfig"].take()).map_err(raw_problem)?,
        None => BTreeMap::new(),
    };
    if !matches!(mode.as_str(), "" | "default") {
        extra_networks.entry(mode).or_default();
    }
    let network = context.network;
    body.insert(
        "NetworkingConfig".to_owned(),
        json!({ "EndpointsConfig": { network: { "Aliases": container.aliases } } }),
    );
    Ok(RenderedContainer { body: deserialize(Value::Object(body)).map_err(raw_problem)?, extra_networks })
}

fn deserialize<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|error| format!("the engine's create body is invalid: {error}"))
}

/// Merges the unit's variables with those of `raw`, which take precedence. Sorted by name.
fn merge_environment(unit: &Unit, raw: Option<Value>) -> Option<Vec<String>> {
    let raw: Vec<String> = match raw {
        None | Some(Value::Null) => Vec::new(),
        Some(raw) => serde_json::from_value(raw).ok()?,
    };
    let mut variables: BTreeMap<String, String> =
        unit.env.iter().map(|(name, value)| (name.clone(), format!("{name}={}", value.value))).collect();
    for entry in raw {
        // An entry without `=` makes the engine remove the image's own variable.
        let name = entry.split_once('=').map_or(entry.as_str(), |(name, _)| name).to_owned();
        variables.insert(name, entry);
    }
    Some(variables.into_values().collect())
}

/// Rounds up to whole seconds, because the engine accepts no fractions and the grace period must not get shorter.
pub(super) fn grace_seconds(grace: Duration) -> i64 {
    i64::try_from(grace.as_secs() + u64::from(grace.subsec_nanos() > 0)).unwrap_or(i64::MAX)
}

fn unit_labels(unit: &Unit, context: &CreateContext<'_>) -> HashMap<String, String> {
    let mut labels = common_labels(context.preview, context.project, context.owner);
    let ports: Vec<String> = unit.ports.iter().map(|(name, port)| format!("{name}={}", port.host_port)).collect();
    let role = serde_json::to_value(unit.role).ok().and_then(|role| role.as_str().map(str::to_owned));
    labels.insert(SERVICE.to_owned(), unit.name.clone());
    labels.insert(HASH.to_owned(), unit.hash.clone());
    labels.insert(IMAGE.to_owned(), context.image_id.to_owned());
    labels.insert(ROLE.to_owned(), role.unwrap_or_default());
    labels.insert(PORTS.to_owned(), ports.join(","));
    labels
}

fn fill_host_config(
    host_config: &mut Map<String, Value>,
    unit: &Unit,
    container: &Container,
    context: &CreateContext<'_>,
    leaves_network: bool,
) -> Result<(), String> {
    if !leaves_network {
        join_network(host_config, unit, container, context)?;
    }
    let binds = array_entry(host_config, "Binds").ok_or("`HostConfig.Binds` is not a list")?;
    let mut structured = Vec::new();
    let written_binds = std::mem::take(binds);
    let mut add = |mount: Option<Value>, bind: Value| match mount {
        Some(mount) => structured.push(mount),
        None => binds.push(bind),
    };
    for bind in written_binds {
        match bind.as_str().and_then(|text| project_bind(text, context.project)) {
            Some(bind) => add(bind.to_structured(), bind.to_json()),
            None => add(None, bind),
        }
    }
    let prefix = context.preview.object_prefix();
    for mount in &container.volumes {
        let mode = if mount.read_only { "ro" } else { "" };
        let source = format!("{prefix}-{}", mount.volume);
        let bind = Bind { source, target: &mount.target, mode, kind: "volume" };
        add(bind.to_structured(), bind.to_json());
    }
    if let Some(folder) = context.secrets_folder {
        let bind = Bind { source: folder.display().to_string(), target: "/run/secrets", mode: "ro", kind: "bind" };
        add(bind.to_structured(), bind.to_json());
    }
    add_mounts(host_config, structured, context.project)
}

/// Adds structured mounts, and makes the project's folders in those of the manifest absolute.
fn add_mounts(host_config: &mut Map<String, Value>, structured: Vec<Value>, project: &Path) -> Result<(), String> {
    if structured.is_empty() && !host_config.contains_key("Mounts") {
        return Ok(());
    }
    let mounts = array_entry(host_config, "Mounts").ok_or("`HostConfig.Mounts` is not a list")?;
    for mount in mounts.iter_mut().filter(|mount| mount["Type"] == "bind") {
        if let Some(source) = mount["Source"].as_str().filter(|source| is_project_source(source)) {
            mount["Source"] = json!(absolute_source(source, project));
        }
    }
    mounts.extend(structured);
    Ok(())
}

/// A mount in the engine's short form `SOURCE:TARGET[:MODE]`.
struct Bind<'a> {
    source: String,
    target: &'a str,
    mode: &'a str,
    kind: &'static str,
}

impl Bind<'_> {
    /// The structured form, if a path contains a colon, which separates the parts of the short form. Modes without a
    /// structured form keep the short one, so that the engine reports it.
    fn to_structured(&self) -> Option<Value> {
        let Self { source, target, mode, kind } = self;
        let is_ambiguous = source.contains(':') || target.contains(':');
        let mut mount = match *mode {
            _ if !is_ambiguous => return None,
            "" | "rw" => json!({ "Type": kind, "Source": source, "Target": target }),
            "ro" => json!({ "Type": kind, "Source": source, "Target": target, "ReadOnly": true }),
            _ => return None,
        };
        if *kind == "bind" {
            mount["BindOptions"] = json!({ "CreateMountpoint": true });
        }
        Some(mount)
    }

    fn to_json(&self) -> Value {
        let Self { source, target, mode, .. } = self;
        json!(if mode.is_empty() { format!("{source}:{target}") } else { format!("{source}:{target}:{mode}") })
    }
}

fn join_network(
    host_config: &mut Map<String, Value>,
    unit: &Unit,
    container: &Container,
    context: &CreateContext<'_>,
) -> Result<(), String> {
    host_config.insert("NetworkMode".to_owned(), json!(context.network));
    let bindings = object_entry(host_config, "PortBindings").ok_or("`HostConfig.PortBindings` is not an object")?;
    for port in unit.ports.values() {
        let host_bindings = array_entry(bindings, &format!("{}/{}", port.listen_port, protocol_name(port.protocol)))
            .ok_or("a port of `HostConfig.PortBindings` is not a list")?;
        host_bindings.push(json!({ "HostIp": "127.0.0.1", "HostPort": port.host_port.to_string() }));
    }
    let hosts = array_entry(host_config, "ExtraHosts").ok_or("`HostConfig.ExtraHosts` is not a list")?;
    hosts.extend(container.gateway_peers.iter().map(|peer| json!(format!("{peer}:{}", context.gateway))));
    Ok(())
}

/// Resolves a relative bind such as `./data:/data` against the manifest's folder. Returns `None` for other sources; a
/// plain word is a volume's name.
fn project_bind<'a>(bind: &'a str, project: &Path) -> Option<Bind<'a>> {
    let (source, rest) = bind.split_once(':')?;
    if !is_project_source(source) {
        return None;
    }
    let (target, mode) = rest.split_once(':').unwrap_or((rest, ""));
    Some(Bind { source: absolute_source(source, project), target, mode, kind: "bind" })
}

/// Also removes `..`, which engines reject.
fn absolute_source(source: &str, project: &Path) -> String {
    let mut path = project.to_owned();
    for part in Path::new(source).components() {
        match part {
            Component::ParentDir => drop(path.pop()),
            Component::Normal(name) => path.push(name),
            _ => {}
        }
    }
    path.display().to_string()
}

fn object_entry<'a>(parent: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let value = parent.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

fn array_entry<'a>(parent: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Vec<Value>> {
    let value = parent.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut()
}

fn protocol_name(protocol: PortProtocol) -> &'static str {
    match protocol {
        PortProtocol::Udp => "udp",
        _ => "tcp",
    }
}

#[cfg(test)]
mod tests {
    use plan::application::*;

    use super::*;

    fn render_in_folder(
        project: &str,
        host_config: Value,
        volumes: Vec<VolumeMount>,
        secrets_folder: Option<&Path>,
    ) -> (Value, RenderedContainer) {
        let create = json!({ "HostConfig": host_config });
        let rendered = render_with(create, volumes, Path::new(project), secrets_folder);
        (serde_json::to_value(&rendered.body.host_config).unwrap(), rendered)
    }

    fn render_test_container(create: Value) -> RenderedContainer {
        render_with(create, Vec::new(), Path::new("/p"), None)
    }

    fn render_with(
        create: Value,
        volumes: Vec<VolumeMount>,
        project: &Path,
        secrets_folder: Option<&Path>,
    ) -> RenderedContainer {
        let body = Container {
            image: ImageSource::Reference("a".to_owned()),
            create_body: create,
            aliases: vec!["web".to_owned()],
            gateway_peers: vec!["api".to_owned()],
            volumes,
            pull: PullPolicy::Missing,
        };
        let port = UnitPort { listen_port: 80, host_port: 40_000, protocol: PortProtocol::Tcp };
        let value = |value: &str| EnvValue { value: value.to_owned(), sensitive: false };
        let unit = Unit {
            name: "web".to_owned(),
            role: Role::Service,
            runtime: RuntimeKind::DOCKER,
            body: Body::Container(body.clone()),
            ports: BTreeMap::from([("main".to_owned(), port)]),
            routes: Vec::new(),
            wildcard: false,
            env: BTreeMap::from([("A".to_owned(), value("1")), ("B".to_owned(), value("2"))]),
            secrets: Vec::new(),
            identity: None,
            declares_identity: false,
            health: Health { ready: ReadyCheck::Started, live: None, start_limit: Duration::ZERO },
            needs: BTreeMap::new(),
            stop: Stop { signal: "SIGTERM".to_owned(), grace: Duration::from_millis(1500) },
            restart: RestartPolicy::Never,
            when: JobTiming::default(),
            timeout: None,
            module: None,
            hash: String::new(),
            support: SupportLevel::Paved,
        };
        let preview = PreviewName {
            id: PreviewId("abcdefgh".to_owned()),
            app: "shop".to_owned(),
            branch: "main".to_owned(),
            environment: "local".to_owned(),
        };
        let context = CreateContext {
            preview: &preview,
            project,
            owner: "o",
            network: "pdev-shop",
            gateway: "172.18.0.1",
            image_reference: "a:1",
            image_id: "sha256:a",
            secrets_folder,
        };
        render_container(&unit, &body, &context).unwrap()
    }

    #[test]
    fn relative_binds_resolve_against_manifest_folder() {
        let project = Path::new("/home/me/shop");
        for (bind, path) in [
            ("./src:/app:ro", Some("/home/me/shop/src:/app:ro")),
            ("../data/./x:/d", Some("/home/me/data/x:/d")),
            (".:/app", Some("/home/me/shop:/app")),
            ("/abs:/d", None),
            ("named:/d", None),
        ] {
            assert_eq!(project_bind(bind, project).map(|bind| bind.to_json()), path.map(|path| json!(path)));
        }
    }

    #[test]
    fn paths_with_colons_become_structured_mounts() {
        let bind = |source: &str, target: &str, read_only: Option<bool>| {
            let mut mount = json!({
                "Type": "bind", "Source": source, "Target": target, "BindOptions": { "CreateMountpoint": true },
            });
            if let Some(read_only) = read_only {
                mount["ReadOnly"] = json!(read_only);
            }
            mount
        };
        let rendered_mount = |source: &str| bind(source, "/x:y", Some(false));
        let host_config = json!({
            "Binds": ["./src:/src:ro", "named:/d", "/abs:/e", "./slave:/f:rslave"],
            "Mounts": [rendered_mount("./a:b"), { "Type": "tmpfs", "Target": "/t" }],
        });
        let volume =
            |target: &str, read_only| VolumeMount { volume: "data".to_owned(), target: target.to_owned(), read_only };
        let volumes = vec![volume("/plain", true), volume("/x:ro", false), volume("/y:z", true)];
        let host = render_in_folder("/home/col:on", host_config, volumes, Some(Path::new("/run/a:b"))).0;
        let volume_mount =
            |target: &str| json!({ "Type": "volume", "Source": "pdev-shop-main-abcdefgh-data", "Target": target });
        let mut read_only = volume_mount("/y:z");
        read_only["ReadOnly"] = json!(true);
        let source = &host["Mounts"][3]["Source"];
        let prefix = source.as_str().unwrap().trim_end_matches("-data");
        let with_prefix = |mut mount: Value| {
            mount["Source"] = json!(format!("{prefix}-data"));
            mount
        };
        assert_eq!(
            host["Mounts"],
            json!([
                rendered_mount("/home/col:on/a:b"),
                { "Type": "tmpfs", "Target": "/t" },
                bind("/home/col:on/src", "/src", Some(true)),
                with_prefix(volume_mount("/x:ro")),
                with_prefix(read_only),
                bind("/run/a:b", "/run/secrets", Some(true)),
            ])
        );
        let slave = "/home/col:on/slave:/f:rslave";
        assert_eq!(host["Binds"], json!(["named:/d", "/abs:/e", slave, format!("{prefix}-data:/plain:ro")]));
    }

    #[test]
    fn paths_without_colons_stay_binds() {
        let host = render_in_folder("/home/p", json!({ "Binds": ["./src:/src:ro"] }), Vec::new(), None).0;
        assert_eq!(host["Binds"], json!(["/home/p/src:/src:ro"]));
        assert!(host.get("Mounts").is_none_or(Value::is_null), "{host}");
    }

    #[test]
    fn raw_variables_override_unit_variables() {
        let body = render_test_container(json!({ "Env": ["B=raw", "C=3", "PATH"] })).body;
        assert_eq!(body.env.unwrap(), ["A=1", "B=raw", "C=3", "PATH"]);
    }

    #[test]
    fn raw_networks_are_added_to_preview_network() {
        let rendered = render_test_container(json!({
            "HostConfig": { "NetworkMode": "corporate", "PortBindings": { "80/tcp": [{ "HostPort": "80" }] } },
            "NetworkingConfig": { "EndpointsConfig": { "other": { "Aliases": ["w"] } } },
        }));
        assert_eq!(rendered.extra_networks.keys().collect::<Vec<_>>(), ["corporate", "other"]);
        assert_eq!(rendered.extra_networks["other"].aliases.as_deref(), Some(["w".to_owned()].as_slice()));
        let host = rendered.body.host_config.unwrap();
        assert_eq!(host.network_mode.as_deref(), Some("pdev-shop"));
        assert_eq!(host.port_bindings.unwrap()["80/tcp"].as_ref().unwrap().len(), 2);
        let endpoints = rendered.body.networking_config.unwrap().endpoints_config.unwrap();
        assert_eq!(endpoints.keys().collect::<Vec<_>>(), ["pdev-shop"]);
    }

    #[test]
    fn raw_mode_without_preview_network_is_preserved() {
        for mode in ["host", "none", "container:x"] {
            let rendered = render_test_container(json!({ "HostConfig": { "NetworkMode": mode } }));
            let host = rendered.body.host_config.unwrap();
            assert_eq!(host.network_mode.as_deref(), Some(mode));
            assert!(
                host.port_bindings.is_none() && host.extra_hosts.is_none() && rendered.body.networking_config.is_none()
            );
        }
        assert_eq!(render_test_container(json!({})).body.stop_timeout, Some(2));
    }
}
