//! A unit as the engine's create body, and labels in both directions. Pure: no engine, no disk.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use bollard::models::ContainerCreateBody;
use plan::application::{Container, PortProtocol, PreviewId, PreviewName, Unit};
use serde_json::{Map, Value, json};

use crate::driver::{Problem, ProblemKind};

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
/// Host ports by name, as `main=40001,admin=40002`.
pub(super) const PORTS: &str = "dev.pdev.ports";

pub(super) fn common_labels(preview: &PreviewName, project: &Path) -> HashMap<String, String> {
    [
        (PREVIEW, preview.id.0.clone()),
        (APP, preview.app.clone()),
        (BRANCH, preview.branch.clone()),
        (ENVIRONMENT, preview.environment.clone()),
        (SCHEMA, "1".to_owned()),
        (PROJECT, project.to_string_lossy().into_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

pub(super) fn preview_of(labels: &HashMap<String, String>) -> Option<PreviewName> {
    let text = |name| labels.get(name).cloned().unwrap_or_default();
    let id = PreviewId(labels.get(PREVIEW)?.clone());
    Some(PreviewName { id, app: text(APP), branch: text(BRANCH), environment: text(ENVIRONMENT) })
}

pub(super) fn ports_of(labels: &HashMap<String, String>) -> BTreeMap<String, u16> {
    let text = labels.get(PORTS).map_or("", String::as_str);
    text.split(',')
        .filter_map(|pair| pair.split_once('='))
        .filter_map(|(name, port)| Some((name.to_owned(), port.parse().ok()?)))
        .collect()
}

/// What the unit is put into.
pub(super) struct Setting<'a> {
    pub(super) preview: &'a PreviewName,
    pub(super) project: &'a Path,
    pub(super) network: &'a str,
    pub(super) gateway: Option<IpAddr>,
    /// What the engine is asked to run.
    pub(super) image: &'a str,
    /// The image's id, for comparing.
    pub(super) identity: &'a str,
    pub(super) secrets: Option<&'a Path>,
}

pub(super) fn create_body(
    unit: &Unit,
    container: &Container,
    setting: &Setting<'_>,
) -> Result<ContainerCreateBody, Problem> {
    let refused = |why: String| Problem::new(ProblemKind::Refused, format!("`{}`: {why}", unit.name));
    let Value::Object(mut body) = container.create.clone() else {
        return Err(refused("the create body is not an object".to_owned()));
    };
    body.insert("Image".to_owned(), json!(setting.image));
    let env: Vec<String> = unit.env.iter().map(|(name, value)| format!("{name}={}", value.value)).collect();
    body.insert("Env".to_owned(), json!(env));
    let labels = object(&mut body, "Labels").ok_or_else(|| refused("`Labels` is not an object".to_owned()))?;
    for (name, value) in unit_labels(unit, setting) {
        labels.insert(name, json!(value));
    }
    // Engines before API 1.42 take no signal with the stop call, and who stops it by hand shall grant the same grace.
    body.entry("StopSignal").or_insert_with(|| json!(unit.stop.signal));
    body.entry("StopTimeout").or_insert_with(|| json!(grace_seconds(unit.stop.grace)));
    let exposed =
        object(&mut body, "ExposedPorts").ok_or_else(|| refused("`ExposedPorts` is not an object".to_owned()))?;
    for port in unit.ports.values() {
        exposed.insert(format!("{}/{}", port.inside, protocol(port.protocol)), json!({}));
    }
    let host = object(&mut body, "HostConfig").ok_or_else(|| refused("`HostConfig` is not an object".to_owned()))?;
    fill_host(host, unit, container, setting).map_err(refused)?;
    let network = setting.network;
    body.insert(
        "NetworkingConfig".to_owned(),
        json!({ "EndpointsConfig": { network: { "Aliases": container.aliases } } }),
    );
    serde_json::from_value(Value::Object(body)).map_err(|error| {
        refused(format!("the engine's create body is wrong: {error}")).hint("Correct the field under `raw`.")
    })
}

/// Whole seconds, because the engine knows no others; never less than was asked.
pub(super) fn grace_seconds(grace: Duration) -> i64 {
    i64::try_from(grace.as_secs() + u64::from(grace.subsec_nanos() > 0)).unwrap_or(i64::MAX)
}

fn unit_labels(unit: &Unit, setting: &Setting<'_>) -> HashMap<String, String> {
    let mut labels = common_labels(setting.preview, setting.project);
    let ports: Vec<String> = unit.ports.iter().map(|(name, port)| format!("{name}={}", port.host)).collect();
    let role = serde_json::to_value(unit.role).ok().and_then(|role| role.as_str().map(str::to_owned));
    labels.insert(SERVICE.to_owned(), unit.name.clone());
    labels.insert(HASH.to_owned(), unit.hash.clone());
    labels.insert(IMAGE.to_owned(), setting.identity.to_owned());
    labels.insert(ROLE.to_owned(), role.unwrap_or_default());
    labels.insert(PORTS.to_owned(), ports.join(","));
    labels
}

fn fill_host(
    host: &mut Map<String, Value>,
    unit: &Unit,
    container: &Container,
    setting: &Setting<'_>,
) -> Result<(), String> {
    host.insert("NetworkMode".to_owned(), json!(setting.network));
    let bindings = object(host, "PortBindings").ok_or("`HostConfig.PortBindings` is not an object")?;
    for port in unit.ports.values() {
        bindings.insert(
            format!("{}/{}", port.inside, protocol(port.protocol)),
            json!([{ "HostIp": "127.0.0.1", "HostPort": port.host.to_string() }]),
        );
    }
    let binds = array(host, "Binds").ok_or("`HostConfig.Binds` is not a list")?;
    for bind in binds.iter_mut() {
        if let Some(text) = bind.as_str().and_then(|text| absolute(text, setting.project)) {
            *bind = Value::String(text);
        }
    }
    let prefix = setting.preview.object_prefix();
    binds.extend(container.volumes.iter().map(|(volume, path)| json!(format!("{prefix}-{volume}:{path}"))));
    if let Some(folder) = setting.secrets {
        binds.push(json!(format!("{}:/run/secrets:ro", folder.display())));
    }
    if let Some(gateway) = setting.gateway {
        let hosts = array(host, "ExtraHosts").ok_or("`HostConfig.ExtraHosts` is not a list")?;
        hosts.extend(container.process_peers.iter().map(|peer| json!(format!("{peer}:{gateway}"))));
    }
    Ok(())
}

/// `./data:/data` from the manifest's folder; a bare word is a volume's name and stays.
fn absolute(bind: &str, project: &Path) -> Option<String> {
    let (source, rest) = bind.split_once(':')?;
    let relative = source == "." || source == ".." || source.starts_with("./") || source.starts_with("../");
    relative.then(|| format!("{}:{rest}", project.join(source.strip_prefix("./").unwrap_or(source)).display()))
}

fn object<'a>(parent: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Map<String, Value>> {
    let value = parent.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!({});
    }
    value.as_object_mut()
}

fn array<'a>(parent: &'a mut Map<String, Value>, name: &str) -> Option<&'a mut Vec<Value>> {
    let value = parent.entry(name).or_insert(Value::Null);
    if value.is_null() {
        *value = json!([]);
    }
    value.as_array_mut()
}

fn protocol(protocol: PortProtocol) -> &'static str {
    match protocol {
        PortProtocol::Udp => "udp",
        _ => "tcp",
    }
}
