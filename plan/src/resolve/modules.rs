//! Builds the unit of a resource from the rendering of its module. The module is the origin of the unit's fields.
//!
//! A module is rendered twice: once with the values that pdev chose (ports, the password), and once with tokens instead
//! for the hash. A new password or a moved port therefore does not count as a change of the user's intent.

use std::borrow::Cow;
use std::collections::BTreeMap;

use manifest::model::Resource;
use serde_json::{Value as Json, json};

use super::containers::{ContainerParts, listen_ports, render_body};
use super::draft::{Kind, UnitDraft};
use super::health;
use super::references::{ResolveContext, ResolvedText};
use super::units::{BuiltBody, BuiltUnit, UnitBuilder};
use crate::application::{
    Argv, EnvValue, Health, ImageSource, ProcessDir, ProcessSpec, PullPolicy, ReadyCheck, RuntimeKind, Stop,
    SupportLevel, Unit,
};
use crate::container_spec::{ContainerSpec, EngineField, Mount, MountSource, Setting};
use crate::hash::base32_digest;
use crate::module::{Address, ContainerRendering, Module, ProcessRendering, Program, RenderInputs};
use crate::origin::Origin;
use crate::render::{ContainerRenderer, UnitForm};

/// Replaces a resource's password in everything that is displayed or hashed.
pub(super) const PASSWORD_TOKEN: &str = "{password}";

pub(super) fn build_resource<'a>(
    mut builder: UnitBuilder<'_, 'a>,
    resource: &'a Resource,
    module: &'a Module,
) -> BuiltUnit {
    let text = module.renderer.render(&render_inputs(builder.context, builder.draft, false));
    let stable = module.renderer.render(&render_inputs(builder.context, builder.draft, true));
    let origin = Origin::Module { name: module.name.clone(), version: module.version.clone() };
    let program = text.program();
    let env = build_resource_env(&mut builder, program, stable.program(), &origin);
    let built = match builder.draft.runtime.form() {
        UnitForm::Container(renderer) => {
            let renderings = (text.to_container(), stable.to_container());
            build_resource_container(&mut builder, renderer, resource, &renderings, &origin)
        }
        UnitForm::Process => build_resource_process(&mut builder, &text.to_process(), &stable.to_process(), &origin),
    };
    let main = builder.ports.keys().find(|name| *name == "main").or_else(|| builder.ports.keys().next());
    let default_ready =
        main.map_or(ReadyCheck::StaysUp(health::STAYS_UP_DURATION), |port| ReadyCheck::Probe(health::tcp_probe(port)));
    let unit = Unit {
        health: Health {
            ready: program.ready.clone().map_or(default_ready, ReadyCheck::Probe),
            live: None,
            start_limit: program.start_limit.unwrap_or(health::START_LIMIT),
        },
        stop: Stop {
            signal: program.stop_signal.clone().unwrap_or_else(|| "SIGTERM".to_owned()),
            grace: program.stop_grace.unwrap_or(super::units::STOP_GRACE),
        },
        module: Some(format!("{} {} ({})", module.name, module.version, module.source)),
        ..builder.default_unit(built.body, env, built.support)
    };
    builder.finish(unit, built.volumes)
}

/// The value of an output for a consumer. The error is the list of outputs that exist.
pub(super) fn resource_output(
    context: &ResolveContext<'_>,
    consumer: RuntimeKind,
    resource: &str,
    output: &str,
) -> Result<ResolvedText, Vec<String>> {
    let Some(draft) = context.drafts.get(resource) else { return Err(Vec::new()) };
    let Kind::Resource(_, module) = &draft.kind else { return Err(Vec::new()) };
    let outputs = context.cached_outputs(resource, consumer, || {
        let render_outputs = |stable| {
            module
                .renderer
                .outputs(&render_inputs(context, draft, stable), &resource_address(context, consumer, resource, stable))
        };
        let (texts, mut stable_texts) = (render_outputs(false), render_outputs(true));
        let resolved = |(name, (text, sensitive)): (String, (String, bool))| {
            let stable = stable_texts.remove(&name).map(|(stable, _)| stable).unwrap_or_default();
            (name, ResolvedText { text, stable, sensitive })
        };
        texts.into_iter().map(resolved).collect()
    });
    outputs.get(output).cloned().ok_or_else(|| outputs.keys().cloned().collect())
}

fn resource_address(context: &ResolveContext<'_>, consumer: RuntimeKind, resource: &str, stable: bool) -> Address {
    let ports = context.units.get(resource).map(|unit| &unit.ports);
    let mut address = Address { host: String::new(), ports: BTreeMap::new() };
    for name in ports.into_iter().flat_map(BTreeMap::keys) {
        let Some((host, port)) = context.address(consumer, resource, name) else { continue };
        address.host = host.text;
        address.ports.insert(name.clone(), if stable { port.stable } else { port.text });
    }
    address
}

fn render_inputs(context: &ResolveContext<'_>, draft: &UnitDraft<'_>, stable: bool) -> RenderInputs {
    let inputs = context.inputs;
    let ports = context.units.get(draft.name.as_str()).map(|unit| &unit.ports);
    let listen = ports.into_iter().flatten().map(|(name, port)| {
        // A port of the module is the same everywhere, but a port that pdev chose is not.
        let use_token = stable && draft.runtime.capabilities().addressing.assigns_ports();
        (name.clone(), if use_token { format!("{{port:{}.{name}}}", draft.name) } else { port.listen_port.to_string() })
    });
    let password_input = format!("{}\0{}\0{}", inputs.password_seed, inputs.preview.id.0, draft.name);
    RenderInputs {
        runtime: draft.runtime,
        resource: draft.name.clone(),
        app: inputs.preview.app.clone(),
        ports: listen.collect(),
        password: if stable { PASSWORD_TOKEN.to_owned() } else { base32_digest(password_input.as_bytes(), 26) },
    }
}

fn build_resource_env(
    builder: &mut UnitBuilder<'_, '_>,
    text: &Program,
    stable: &Program,
    origin: &Origin,
) -> BTreeMap<String, EnvValue> {
    let mut env = BTreeMap::new();
    for (name, (value, sensitive)) in &text.env {
        let shown = if *sensitive { "(sensitive)" } else { value };
        builder.record_origin(&format!("env.{name}"), || json!(shown), origin.clone());
        let stable_value = stable.env.get(name).map(|(value, _)| value.clone()).unwrap_or_default();
        builder.record_intent(&format!("env.{name}"), &stable_value);
        env.insert(name.clone(), EnvValue { value: value.clone(), sensitive: *sensitive });
    }
    env
}

fn build_resource_container(
    builder: &mut UnitBuilder<'_, '_>,
    renderer: &dyn ContainerRenderer,
    resource: &Resource,
    (text, stable): &(Cow<'_, ContainerRendering>, Cow<'_, ContainerRendering>),
    origin: &Origin,
) -> BuiltBody {
    let program = &text.program;
    let mut spec = ContainerSpec::hardened();
    let argv = |manifest_key: &'static str, words: &[String], stable: &[String]| {
        let setting = || Setting::new(manifest_key, Argv::List(words.to_vec()), origin.clone());
        (!words.is_empty()).then(|| setting().with_stable(Argv::List(stable.to_vec())))
    };
    spec.command = argv("command", &program.command, &stable.program.command);
    spec.entrypoint = argv("entrypoint", &text.entrypoint, &stable.entrypoint);
    let setting = |manifest_key: &'static str, text: &Option<String>| {
        text.clone().map(|text| Setting::new(manifest_key, text, origin.clone()))
    };
    spec.stop_signal = setting("stop.signal", &program.stop_signal);
    spec.user = setting("user", &program.user);
    spec.ports = listen_ports(builder, origin.clone());
    let engine_field = |(name, value): (&String, &Json)| EngineField {
        name: name.clone(),
        value: value.clone(),
        origin: origin.clone(),
    };
    spec.docker_host_config = text.docker_host_config.iter().map(engine_field).collect();
    for (short, path) in &text.volumes {
        // Volumes of all units share one namespace, so prefix them with the resource's name.
        let name = format!("{}-{short}", builder.draft.name);
        let manifest_key = format!("volumes.{name}");
        builder.record_intent(&manifest_key, path);
        let mount = Mount { source: MountSource::NamedVolume(name), target: path.clone(), read_only: false };
        spec.mounts.push(Setting::new(manifest_key, mount, origin.clone()));
    }
    builder.record_intent("image", &stable.image);
    builder.record_origin("image", || json!(text.image), origin.clone());
    let image = ImageSource::Reference(text.image.clone());
    let parts = ContainerParts { image, pull: PullPolicy::Missing, typed_support: SupportLevel::Paved };
    render_body(builder, renderer, &spec, &resource.raw, parts)
}

fn build_resource_process(
    builder: &mut UnitBuilder<'_, '_>,
    text: &ProcessRendering,
    stable: &ProcessRendering,
    origin: &Origin,
) -> BuiltBody {
    let words = text.program.command.iter().zip(&stable.program.command);
    let shown: Vec<&str> = words
        .map(|(text, stable)| if stable.contains(PASSWORD_TOKEN) { "(sensitive)" } else { text.as_str() })
        .collect();
    builder.record_origin("process.argv", || json!(shown), origin.clone());
    let intent = [
        ("command", format!("{:?}", stable.program.command)),
        ("process.init", format!("{:?}", stable.init)),
        ("process.after_ready", format!("{:?}", stable.after_ready)),
        ("process.files", format!("{:?}", stable.files)),
        ("process.user", format!("{:?}", stable.program.user)),
    ];
    for (field, stable_text) in intent {
        builder.record_intent(field, &stable_text);
    }
    let argv_list = |commands: &[Vec<String>]| commands.iter().cloned().map(Argv::List).collect();
    let spec = ProcessSpec {
        argv: Argv::List(text.program.command.clone()),
        dir: ProcessDir::Data,
        build: None,
        build_inputs: Vec::new(),
        user: text.program.user.clone(),
        init: argv_list(&text.init),
        after_ready: argv_list(&text.after_ready),
        files: text.files.clone(),
        search_paths: text.search_paths.clone(),
        install_hint: text.install_hint.clone(),
        version: text.version.clone(),
    };
    BuiltBody { body: spec.into(), volumes: Vec::new(), support: SupportLevel::Paved }
}
