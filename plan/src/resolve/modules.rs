//! Resources: what their module renders becomes a unit like any other, with the module as the origin of its fields.
//!
//! A module is rendered twice: once with what pdev chose (ports, the password), once with tokens in their place, for
//! the hash. So a password that was made anew or a port that moved is no change of the user's mind.

use std::collections::BTreeMap;

use manifest::model::Resource;
use serde_json::{Value as Json, json};

use super::containers::record_settings;
use super::draft::{Kind, UnitDraft};
use super::references::{ResolveContext, ResolvedText};
use super::units::{BuiltBody, BuiltUnit, UnitBuilder};
use super::{health, object_patches};
use crate::application::{
    Argv, Body, Container, EnvValue, Health, ImageSource, ProcessDir, ProcessSpec, PullPolicy, ReadyCheck, RuntimeKind,
    Stop, SupportLevel, Unit,
};
use crate::hash::base32_digest;
use crate::module::{Address, Module, RenderInputs, Rendering};
use crate::origin::Origin;
use crate::render::RenderedValue;
use crate::render::docker::ContainerBuilder;

/// Stands for a resource's password wherever something is shown or hashed.
pub(super) const PASSWORD_TOKEN: &str = "{password}";

pub(super) fn build_resource<'a>(
    mut builder: UnitBuilder<'_, 'a>,
    resource: &'a Resource,
    module: &'a Module,
) -> BuiltUnit {
    let text = module.renderer.render(&render_inputs(builder.context, builder.draft, false));
    let stable = module.renderer.render(&render_inputs(builder.context, builder.draft, true));
    let origin = Origin::Module { name: module.name.clone(), version: module.version.clone() };
    let env = build_resource_env(&mut builder, &text, &stable, &origin);
    let made = match builder.draft.runtime {
        RuntimeKind::Docker => build_resource_container(&mut builder, resource, &text, &stable, &origin),
        RuntimeKind::Process => build_resource_process(&mut builder, &text, &stable, &origin),
    };
    let main = builder.ports.keys().find(|name| *name == "main").or_else(|| builder.ports.keys().next());
    let default_ready =
        main.map_or(ReadyCheck::StaysUp(health::STAYS_UP_DURATION), |port| ReadyCheck::Probe(health::tcp_probe(port)));
    let unit = Unit {
        health: Health {
            ready: text.ready.clone().map_or(default_ready, ReadyCheck::Probe),
            live: None,
            start_limit: text.start_limit.unwrap_or(health::START_LIMIT),
        },
        stop: Stop {
            signal: text.stop_signal.clone().unwrap_or_else(|| "SIGTERM".to_owned()),
            grace: text.stop_grace.unwrap_or(super::units::STOP_GRACE),
        },
        module: Some(format!("{} {} ({})", module.name, module.version, module.source)),
        ..builder.default_unit(made.body, env, made.support)
    };
    builder.finish(unit, made.volumes)
}

/// The names there are, when this one is not.
pub(super) fn resource_output(
    world: &ResolveContext<'_>,
    consumer: RuntimeKind,
    resource: &str,
    output: &str,
) -> Result<ResolvedText, Vec<String>> {
    let Some(draft) = world.drafts.get(resource) else { return Err(Vec::new()) };
    let Kind::Resource(_, module) = &draft.kind else { return Err(Vec::new()) };
    let outputs = world.cached_outputs(resource, consumer, || {
        let all = |stable| {
            module
                .renderer
                .outputs(&render_inputs(world, draft, stable), &resource_address(world, consumer, resource, stable))
        };
        let (texts, mut stable) = (all(false), all(true));
        let value = |(name, (text, sensitive)): (String, (String, bool))| {
            let stable = stable.remove(&name).map(|(stable, _)| stable).unwrap_or_default();
            (name, ResolvedText { text, stable, sensitive })
        };
        texts.into_iter().map(value).collect()
    });
    outputs.get(output).cloned().ok_or_else(|| outputs.keys().cloned().collect())
}

fn resource_address(world: &ResolveContext<'_>, consumer: RuntimeKind, resource: &str, stable: bool) -> Address {
    let ports = world.units.get(resource).map(|known| &known.ports);
    let mut address = Address { host: String::new(), ports: BTreeMap::new() };
    for name in ports.into_iter().flat_map(BTreeMap::keys) {
        let Some((host, port)) = world.address(consumer, resource, name) else { continue };
        address.host = host.text;
        address.ports.insert(name.clone(), if stable { port.stable } else { port.text });
    }
    address
}

fn render_inputs(world: &ResolveContext<'_>, draft: &UnitDraft<'_>, stable: bool) -> RenderInputs {
    let context = world.inputs;
    let ports = world.units.get(draft.name.as_str()).map(|known| &known.ports);
    let listen = ports.into_iter().flatten().map(|(name, port)| {
        let chosen = draft.runtime == RuntimeKind::Process && stable;
        (name.clone(), if chosen { format!("{{port:{}.{name}}}", draft.name) } else { port.listen_port.to_string() })
    });
    let secret = format!("{}\0{}\0{}", context.password_seed, context.preview.id.0, draft.name);
    RenderInputs {
        runtime: draft.runtime,
        resource: draft.name.clone(),
        app: context.preview.app.clone(),
        ports: listen.collect(),
        password: if stable { PASSWORD_TOKEN.to_owned() } else { base32_digest(secret.as_bytes(), 26) },
    }
}

fn build_resource_env(
    builder: &mut UnitBuilder<'_, '_>,
    text: &Rendering,
    stable: &Rendering,
    origin: &Origin,
) -> BTreeMap<String, EnvValue> {
    let mut env = BTreeMap::new();
    for (name, (value, sensitive)) in &text.env {
        let shown = if *sensitive { "(sensitive)" } else { value };
        builder.record_origin(&format!("env.{name}"), || json!(shown), origin.clone());
        let hashed = stable.env.get(name).map(|(value, _)| value.clone()).unwrap_or_default();
        builder.record_intent(&format!("env.{name}"), &hashed);
        env.insert(name.clone(), EnvValue { value: value.clone(), sensitive: *sensitive });
    }
    env
}

fn build_resource_container(
    builder: &mut UnitBuilder<'_, '_>,
    resource: &Resource,
    text: &Rendering,
    stable: &Rendering,
    origin: &Origin,
) -> BuiltBody {
    let mut drawing = ContainerBuilder::hardened();
    let mut list = |word: &str, field: &str, words: &[String], hashed: &[String]| {
        if !words.is_empty() {
            drawing.set(word, field, RenderedValue { actual: json!(words), stable: json!(hashed) }, origin.clone());
        }
    };
    list("command", "Cmd", &text.command, &stable.command);
    list("entrypoint", "Entrypoint", &text.entrypoint, &stable.entrypoint);
    if let Some(signal) = &text.stop_signal {
        drawing.set("stop.signal", "StopSignal", RenderedValue::literal(signal.clone()), origin.clone());
    }
    let exposed: serde_json::Map<String, Json> =
        builder.ports.values().map(|port| (format!("{}/tcp", port.listen_port), json!({}))).collect();
    if !exposed.is_empty() {
        drawing.set("ports", "ExposedPorts", RenderedValue::literal(Json::Object(exposed)), origin.clone());
    }
    for (field, value) in &text.host_config {
        drawing.set(
            &format!("docker.HostConfig.{field}"),
            &format!("HostConfig.{field}"),
            RenderedValue::literal(value.clone()),
            origin.clone(),
        );
    }
    if let Some(user) = &text.user {
        drawing.set("user", "User", RenderedValue::literal(user.clone()), origin.clone());
    }
    let changes = object_patches::resolve_unit_patches(builder, resource.raw.docker.as_ref());
    let drawn = drawing.finish(&changes);
    let support = if drawn.off_road { SupportLevel::OffRoad } else { SupportLevel::Paved };
    let create = record_settings(builder, drawn);
    let image = text.image.clone().unwrap_or_default();
    builder.record_intent("image", stable.image.as_deref().unwrap_or_default());
    builder.record_origin("image", || json!(image), origin.clone());
    let prefix = |short: &String| format!("{}-{short}", builder.draft.name);
    let volumes: Vec<(String, String)> =
        text.volumes.iter().map(|(short, path)| (prefix(short), path.clone())).collect();
    for (short, path) in &volumes {
        builder.record_intent(&format!("volumes.{short}"), path);
    }
    let own = volumes.iter().map(|(short, _)| short.clone()).collect();
    let body = Body::Container(Container {
        image: ImageSource::Reference(image),
        create_body: create,
        aliases: vec![builder.draft.name.clone()],
        process_peers: Vec::new(),
        volumes,
        pull: PullPolicy::Missing,
    });
    BuiltBody { body, volumes: own, support }
}

fn build_resource_process(
    builder: &mut UnitBuilder<'_, '_>,
    text: &Rendering,
    stable: &Rendering,
    origin: &Origin,
) -> BuiltBody {
    builder.record_origin("process.argv", || json!(stable.command), origin.clone());
    let hashed = [
        ("command", format!("{:?}", stable.command)),
        ("process.init", format!("{:?}", stable.init)),
        ("process.after_ready", format!("{:?}", stable.after_ready)),
        ("process.files", format!("{:?}", stable.files)),
        ("process.user", format!("{:?}", stable.user)),
    ];
    for (field, said) in hashed {
        builder.record_intent(field, &said);
    }
    let argv = |commands: &[Vec<String>]| commands.iter().cloned().map(Argv::List).collect();
    let spec = ProcessSpec {
        argv: Argv::List(text.command.clone()),
        dir: ProcessDir::Data,
        build: None,
        build_inputs: Vec::new(),
        user: text.user.clone(),
        init: argv(&text.init),
        after_ready: argv(&text.after_ready),
        files: text.files.clone(),
        search_paths: text.search_paths.clone(),
        install_hint: text.install_hint.clone(),
    };
    BuiltBody { body: Body::Process(spec), volumes: Vec::new(), support: SupportLevel::Paved }
}
