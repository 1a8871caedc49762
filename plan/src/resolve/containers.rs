//! A service or job as a container: the manifest's words drawn over the hardened defaults.

use manifest::model::{Service, Volume, VolumeSource};
use manifest::{Span, Spanned};
use serde_json::{Value as Json, json};

use super::modules::PASSWORD_TOKEN;
use super::object_patches;
use super::processes::command_span;
use super::units::{BuiltBody, UnitBuilder, pull_policy};
use crate::application::{Body, BuildSpec, Container, ImageSource, PortProtocol, SupportLevel};
use crate::origin::Origin;
use crate::render::RenderedValue;
use crate::render::docker::{ContainerBuilder, RenderedContainer, get_at};

pub(super) fn build_container(builder: &mut UnitBuilder<'_, '_>, service: &Service) -> BuiltBody {
    let image = resolve_image(builder, service);
    let mut drawing = ContainerBuilder::hardened();
    set_commands(builder, &mut drawing, service);
    set_limits(builder, &mut drawing, service);
    let secured = set_security(builder, &mut drawing, service);
    set_exposed_ports(builder, &mut drawing);
    let mut volumes = Vec::new();
    for (name, entry) in &service.volumes {
        add_volume(builder, &mut drawing, name, &entry.value, entry.span, &mut volumes);
    }
    if let Some(signal) = &service.stop.signal {
        let origin = builder.origin(signal.span);
        drawing.set("stop.signal", "StopSignal", RenderedValue::literal(signal.value.clone()), origin);
    }
    let changes = object_patches::resolve_unit_patches(builder, service.raw.docker.as_ref());
    let drawn = drawing.finish(&changes);
    let support = match (drawn.off_road, secured) {
        (true, _) => SupportLevel::OffRoad,
        (false, true) => SupportLevel::Adjusted,
        (false, false) => SupportLevel::Paved,
    };
    let create = record_settings(builder, drawn);
    let own = volumes.iter().map(|(name, _)| name.clone()).collect();
    let container = Container {
        image,
        create_body: create,
        aliases: vec![builder.draft.name.clone()],
        process_peers: Vec::new(),
        volumes,
        pull: pull_policy(service.pull.as_ref().map(|pull| pull.value)),
    };
    BuiltBody { body: Body::Container(container), volumes: own, support }
}

/// Hands the settings to the hash and to the map of origins.
pub(super) fn record_settings(builder: &mut UnitBuilder<'_, '_>, drawn: RenderedContainer) -> Json {
    builder.diagnostics.extend(drawn.diagnostics);
    if builder.is_full_depth() {
        for default in drawn.defaults {
            let whole = get_at(&drawn.create_body, &default.field).unwrap_or(&default.value.actual).clone();
            let field = format!("docker.{}", default.field);
            builder.record_origin(&field, || whole, default.origin.clone());
            builder.record_origin(&default.manifest_key, || default.value.actual.clone(), default.origin.clone());
        }
    }
    for setting in drawn.settings {
        if setting.is_intent() && builder.is_full_depth() {
            // Two writers of one field (a list and its `+`) both count.
            let earlier = builder.intent.get(&setting.manifest_key).cloned().unwrap_or_default();
            builder.record_intent(&setting.manifest_key, &format!("{earlier}{}", setting.value.stable));
        }
        let field = format!("docker.{}", setting.field);
        // A password that pdev made is shown as its token.
        let RenderedValue { actual: text, stable } = setting.value;
        let is_secret = contains_text(&stable, PASSWORD_TOKEN);
        let whole = || get_at(&drawn.create_body, &setting.field).filter(|_| !is_secret).unwrap_or(&stable).clone();
        builder.record_origin(&field, whole, setting.origin.clone());
        if !setting.manifest_key.starts_with("docker.") {
            builder.record_origin(&setting.manifest_key, || if is_secret { stable } else { text }, setting.origin);
        }
    }
    drawn.create_body
}

fn contains_text(value: &Json, word: &str) -> bool {
    match value {
        Json::String(text) => text.contains(word),
        Json::Array(items) => items.iter().any(|item| contains_text(item, word)),
        Json::Object(fields) => fields.iter().any(|(key, value)| key.contains(word) || contains_text(value, word)),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

fn resolve_image(builder: &mut UnitBuilder<'_, '_>, service: &Service) -> ImageSource {
    let path = builder.draft.path.as_str();
    if let Some(build) = &service.build {
        let args = build.args.iter().map(|(name, entry)| {
            let value = builder.resolve_template(&entry.value.value, &format_args!("{path}.build.args.{name}"));
            builder.record_intent(&format!("build.args.{name}"), &value.stable);
            (name.clone(), value.text)
        });
        let args = args.collect();
        let text = |field: &Option<Spanned<String>>| field.as_ref().map(|field| field.value.clone());
        let spec = BuildSpec {
            context: build.context.value.clone(),
            dockerfile: text(&build.dockerfile).unwrap_or_else(|| "Dockerfile".to_owned()),
            target: text(&build.target),
            args,
            platform: text(&build.platform),
        };
        let said = format!("{} {} {:?} {:?}", spec.context, spec.dockerfile, spec.target, spec.platform);
        builder.record_intent("build", &said);
        let origin = builder.origin(build.span);
        builder.record_origin("build", || json!(spec.context), origin);
        return ImageSource::Build(spec);
    }
    let Some(image) = &service.image else { return ImageSource::Reference(String::new()) };
    let value = builder.resolve_template(&image.value, &format_args!("{path}.image"));
    builder.record_intent("image", &value.stable);
    let origin = builder.origin(image.span);
    builder.record_origin("image", || json!(value.text), origin);
    ImageSource::Reference(value.text)
}

fn set_commands(builder: &mut UnitBuilder<'_, '_>, drawing: &mut ContainerBuilder, service: &Service) {
    let both = [("command", "Cmd", &service.command), ("entrypoint", "Entrypoint", &service.entrypoint)];
    for (word, field, written) in both {
        let Some(written) = written else { continue };
        let path = builder.draft.path.as_str();
        let Some(command) = builder.resolve_command(written, &format_args!("{path}.{word}")) else { continue };
        let origin = builder.origin(command_span(written));
        drawing.set(
            word,
            field,
            RenderedValue { actual: command.engine_json(), stable: command.stable_json() },
            origin,
        );
    }
    if let Some(dir) = service.dir.as_ref().filter(|dir| dir.value.starts_with('/')) {
        drawing.set("dir", "WorkingDir", RenderedValue::literal(dir.value.clone()), builder.origin(dir.span));
    }
}

fn set_limits(builder: &UnitBuilder<'_, '_>, drawing: &mut ContainerBuilder, service: &Service) {
    if let Some(memory) = &service.size.memory {
        drawing.set(
            "size.memory",
            "HostConfig.Memory",
            RenderedValue::literal(memory.value),
            builder.origin(memory.span),
        );
    }
    if let Some(cpu) = &service.size.cpu_milli {
        // A share under contention, not a ceiling: on a laptop an idle core should be used.
        let shares = (cpu.value.saturating_mul(1024) / 1000).clamp(2, 262_144);
        drawing.set("size.cpu", "HostConfig.CpuShares", RenderedValue::literal(shares), builder.origin(cpu.span));
    }
    if let Some(pids) = &service.size.pids {
        drawing.set("size.pids", "HostConfig.PidsLimit", RenderedValue::literal(pids.value), builder.origin(pids.span));
    }
}

/// True when something of it was said.
fn set_security(builder: &UnitBuilder<'_, '_>, drawing: &mut ContainerBuilder, service: &Service) -> bool {
    let said = &service.security;
    if let Some(privileged) = said.privileged.as_ref().filter(|privileged| privileged.value) {
        // The engine refuses to mix: a privileged container has every capability.
        for field in ["HostConfig.CapDrop", "HostConfig.CapAdd", "HostConfig.SecurityOpt"] {
            drawing.drop_default(field);
        }
        drawing.set(
            "security.privileged",
            "HostConfig.Privileged",
            RenderedValue::literal(true),
            builder.origin(privileged.span),
        );
    }
    let list = |names: &[Spanned<String>]| {
        RenderedValue::literal(names.iter().map(|name| normalise_capability(&name.value)).collect::<Json>())
    };
    if let Some(first) = said.capabilities.first() {
        drawing.append(
            "security.capabilities",
            "HostConfig.CapAdd",
            list(&said.capabilities),
            builder.origin(first.span),
        );
    }
    if let Some(first) = said.drop.first() {
        // Everything is dropped anyway; naming one takes it out of the default additions.
        let dropped: Vec<String> = said.drop.iter().map(|name| normalise_capability(&name.value)).collect();
        let all = dropped.iter().any(|name| name == "ALL");
        let added = said.capabilities.iter().map(|name| normalise_capability(&name.value));
        let defaults = crate::render::docker::DEFAULT_CAPABILITIES.iter().map(|name| (*name).to_owned());
        let kept: Vec<String> =
            if all { Vec::new() } else { defaults.filter(|name| !dropped.contains(name)).collect() };
        let kept: Json = kept.into_iter().chain(added).collect();
        drawing.set(
            "security.drop",
            "HostConfig.CapAdd",
            RenderedValue { actual: kept, stable: dropped.into() },
            builder.origin(first.span),
        );
    }
    if let Some(allowed) = said.no_new_privileges.as_ref().filter(|value| !value.value) {
        let none = Json::Array(Vec::new());
        drawing.set(
            "security.no_new_privileges",
            "HostConfig.SecurityOpt",
            RenderedValue::literal(none),
            builder.origin(allowed.span),
        );
    }
    if let Some(user) = &said.user {
        drawing.set("security.user", "User", RenderedValue::literal(user.value.clone()), builder.origin(user.span));
    }
    if let Some(read_only) = said.read_only.as_ref().filter(|value| value.value) {
        let origin = builder.origin(read_only.span);
        drawing.set("security.read_only", "HostConfig.ReadonlyRootfs", RenderedValue::literal(true), origin);
        let reason = "programs expect to write there even when the root file system is read-only";
        drawing.set(
            "tmp",
            "HostConfig.Tmpfs",
            RenderedValue::literal(json!({ "/tmp": "" })),
            Origin::Default { reason },
        );
    }
    *said != manifest::model::Security::default()
}

fn normalise_capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
}

fn set_exposed_ports(builder: &UnitBuilder<'_, '_>, drawing: &mut ContainerBuilder) {
    let mut exposed = serde_json::Map::new();
    for port in builder.ports.values() {
        let protocol = if port.protocol == PortProtocol::Udp { "udp" } else { "tcp" };
        exposed.insert(format!("{}/{protocol}", port.listen_port), json!({}));
    }
    if !exposed.is_empty() {
        let reason = "each of the unit's `ports`; the driver publishes them on the loopback only";
        drawing.set("ports", "ExposedPorts", RenderedValue::literal(Json::Object(exposed)), Origin::Default { reason });
    }
}

fn add_volume(
    builder: &mut UnitBuilder<'_, '_>,
    drawing: &mut ContainerBuilder,
    name: &str,
    volume: &Volume,
    span: Span,
    named: &mut Vec<(String, String)>,
) {
    let (word, target) = (format!("volumes.{name}"), &volume.target.value);
    let mode = if volume.read_only { ":ro" } else { "" };
    let origin = builder.origin(span);
    match &volume.source {
        VolumeSource::Named => {
            builder.record_intent(&word, &format!("{target}{mode}"));
            builder.record_origin(&word, || json!(target), origin);
            named.push((name.to_owned(), format!("{target}{mode}")));
        }
        VolumeSource::Path(source) => {
            let relative =
                !source.value.starts_with('/') && !source.value.starts_with("./") && !source.value.starts_with("../");
            let source = if relative { format!("./{}", source.value) } else { source.value.clone() };
            drawing.append(
                &word,
                "HostConfig.Binds",
                RenderedValue::literal(json!([format!("{source}:{target}{mode}")])),
                origin,
            );
        }
        VolumeSource::Tmpfs { size } => {
            let options = size.map(|size| format!("size={size}")).unwrap_or_default();
            // Paths may hold dots, so the map is extended as a whole.
            drawing.append_entry(&word, "HostConfig.Tmpfs", target, &options, origin);
        }
    }
}
