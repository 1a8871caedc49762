//! Resources: what their module renders becomes a unit like any other, with the module as the origin of its fields.
//!
//! A module is rendered twice: once with what pdev chose (ports, the password), once with tokens in their place, for
//! the hash. So a password that was made anew or a port that moved is no change of the user's mind.

use std::collections::BTreeMap;

use manifest::model::Resource;
use serde_json::{Value as Json, json};

use super::containers::keep;
use super::draft::{Draft, Kind};
use super::references::{Value, World};
use super::units::{Builder, Built, Made};
use super::{changes, health};
use crate::application::{
    Argv, Body, Container, EnvValue, Health, ImageSource, ProcessDir, ProcessSpec, PullPolicy, ReadyCheck, RuntimeKind,
    Stop, Support, Unit,
};
use crate::hash::base32;
use crate::module::{Address, Facts, Module, Rendering};
use crate::origin::Origin;
use crate::render::Dual;
use crate::render::docker::Drawing;

/// Stands for a resource's password wherever something is shown or hashed.
pub(super) const PASSWORD_TOKEN: &str = "{password}";

pub(super) fn build<'a>(mut builder: Builder<'_, 'a>, resource: &'a Resource, module: &'a Module) -> Built {
    let text = module.renderer.render(&facts(builder.world, builder.draft, false));
    let stable = module.renderer.render(&facts(builder.world, builder.draft, true));
    let origin = Origin::Module { name: module.name.clone(), version: module.version.clone() };
    let env = environment(&mut builder, &text, &stable, &origin);
    let made = match builder.draft.runtime {
        RuntimeKind::Docker => container(&mut builder, resource, &text, &stable, &origin),
        RuntimeKind::Process => process(&mut builder, &text, &stable, &origin),
    };
    let main = builder.ports.keys().find(|name| *name == "main").or_else(|| builder.ports.keys().next());
    let default_ready = main.map_or(ReadyCheck::StaysUp(health::STAYS_UP), |port| ReadyCheck::Probe(health::tcp(port)));
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
        ..builder.bare(made.body, env, made.support)
    };
    builder.built(unit, made.volumes)
}

/// The names there are, when this one is not.
pub(super) fn output(
    world: &World<'_>,
    consumer: RuntimeKind,
    resource: &str,
    output: &str,
) -> Result<Value, Vec<String>> {
    let Some(draft) = world.drafts.get(resource) else { return Err(Vec::new()) };
    let Kind::Resource(_, module) = &draft.kind else { return Err(Vec::new()) };
    let outputs = world.outputs(resource, consumer, || {
        let all =
            |stable| module.renderer.outputs(&facts(world, draft, stable), &address(world, consumer, resource, stable));
        let (texts, mut stable) = (all(false), all(true));
        let value = |(name, (text, sensitive)): (String, (String, bool))| {
            let stable = stable.remove(&name).map(|(stable, _)| stable).unwrap_or_default();
            (name, Value { text, stable, sensitive })
        };
        texts.into_iter().map(value).collect()
    });
    outputs.get(output).cloned().ok_or_else(|| outputs.keys().cloned().collect())
}

fn address(world: &World<'_>, consumer: RuntimeKind, resource: &str, stable: bool) -> Address {
    let ports = world.units.get(resource).map(|known| &known.ports);
    let mut address = Address { host: String::new(), ports: BTreeMap::new() };
    for name in ports.into_iter().flat_map(BTreeMap::keys) {
        let Some((host, port)) = world.address(consumer, resource, name) else { continue };
        address.host = host.text;
        address.ports.insert(name.clone(), if stable { port.stable } else { port.text });
    }
    address
}

fn facts(world: &World<'_>, draft: &Draft<'_>, stable: bool) -> Facts {
    let context = world.context;
    let ports = world.units.get(draft.name.as_str()).map(|known| &known.ports);
    let listen = ports.into_iter().flatten().map(|(name, port)| {
        let chosen = draft.runtime == RuntimeKind::Process && stable;
        (name.clone(), if chosen { format!("{{port:{}.{name}}}", draft.name) } else { port.inside.to_string() })
    });
    let secret = format!("{}\0{}\0{}", context.password_seed, context.preview.id.0, draft.name);
    Facts {
        runtime: draft.runtime,
        resource: draft.name.clone(),
        app: context.preview.app.clone(),
        ports: listen.collect(),
        password: if stable { PASSWORD_TOKEN.to_owned() } else { base32(secret.as_bytes(), 26) },
    }
}

fn environment(
    builder: &mut Builder<'_, '_>,
    text: &Rendering,
    stable: &Rendering,
    origin: &Origin,
) -> BTreeMap<String, EnvValue> {
    let mut env = BTreeMap::new();
    for (name, (value, sensitive)) in &text.env {
        let shown = if *sensitive { "(sensitive)" } else { value };
        builder.note(&format!("env.{name}"), || json!(shown), origin.clone());
        let hashed = stable.env.get(name).map(|(value, _)| value.clone()).unwrap_or_default();
        builder.intend(&format!("env.{name}"), &hashed);
        env.insert(name.clone(), EnvValue { value: value.clone(), sensitive: *sensitive });
    }
    env
}

fn container(
    builder: &mut Builder<'_, '_>,
    resource: &Resource,
    text: &Rendering,
    stable: &Rendering,
    origin: &Origin,
) -> Made {
    let mut drawing = Drawing::hardened();
    let mut list = |word: &str, field: &str, words: &[String], hashed: &[String]| {
        if !words.is_empty() {
            drawing.set(word, field, Dual { text: json!(words), stable: json!(hashed) }, origin.clone());
        }
    };
    list("command", "Cmd", &text.command, &stable.command);
    list("entrypoint", "Entrypoint", &text.entrypoint, &stable.entrypoint);
    if let Some(signal) = &text.stop_signal {
        drawing.set("stop.signal", "StopSignal", Dual::same(signal.clone()), origin.clone());
    }
    let exposed: serde_json::Map<String, Json> =
        builder.ports.values().map(|port| (format!("{}/tcp", port.inside), json!({}))).collect();
    if !exposed.is_empty() {
        drawing.set("ports", "ExposedPorts", Dual::same(Json::Object(exposed)), origin.clone());
    }
    for (field, value) in &text.host_config {
        drawing.set(
            &format!("docker.HostConfig.{field}"),
            &format!("HostConfig.{field}"),
            Dual::same(value.clone()),
            origin.clone(),
        );
    }
    if let Some(user) = &text.user {
        drawing.set("user", "User", Dual::same(user.clone()), origin.clone());
    }
    let changes = changes::of_unit(builder, resource.raw.docker.as_ref());
    let drawn = drawing.finish(&changes);
    let support = if drawn.off_road { Support::OffRoad } else { Support::Paved };
    let create = keep(builder, drawn);
    let image = text.image.clone().unwrap_or_default();
    builder.intend("image", stable.image.as_deref().unwrap_or_default());
    builder.note("image", || json!(image), origin.clone());
    let prefix = |short: &String| format!("{}-{short}", builder.draft.name);
    let volumes: Vec<(String, String)> =
        text.volumes.iter().map(|(short, path)| (prefix(short), path.clone())).collect();
    for (short, path) in &volumes {
        builder.intend(&format!("volumes.{short}"), path);
    }
    let own = volumes.iter().map(|(short, _)| short.clone()).collect();
    let body = Body::Container(Container {
        image: ImageSource::Reference(image),
        create,
        aliases: vec![builder.draft.name.clone()],
        process_peers: Vec::new(),
        volumes,
        pull: PullPolicy::Missing,
    });
    Made { body, volumes: own, support }
}

fn process(builder: &mut Builder<'_, '_>, text: &Rendering, stable: &Rendering, origin: &Origin) -> Made {
    builder.note("process.argv", || json!(stable.command), origin.clone());
    let hashed = [
        ("command", format!("{:?}", stable.command)),
        ("process.init", format!("{:?}", stable.init)),
        ("process.after_ready", format!("{:?}", stable.after_ready)),
        ("process.files", format!("{:?}", stable.files)),
        ("process.user", format!("{:?}", stable.user)),
    ];
    for (field, said) in hashed {
        builder.intend(field, &said);
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
        search: text.search.clone(),
        install_hint: text.install_hint.clone(),
    };
    Made { body: Body::Process(spec), volumes: Vec::new(), support: Support::Paved }
}
