//! Renders a service or job as a container: the manifest's settings on top of the hardened defaults.

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
    let mut container = ContainerBuilder::hardened();
    set_commands(builder, &mut container, service);
    set_limits(builder, &mut container, service);
    let has_security_settings = set_security(builder, &mut container, service);
    set_exposed_ports(builder, &mut container);
    let mut volumes = Vec::new();
    for (name, entry) in &service.volumes {
        add_volume(builder, &mut container, name, &entry.value, entry.span, &mut volumes);
    }
    if let Some(signal) = &service.stop.signal {
        let origin = builder.origin(signal.span);
        container.set("stop.signal", "StopSignal", RenderedValue::literal(signal.value.clone()), origin);
    }
    let changes = object_patches::resolve_unit_patches(builder, service.raw.docker.as_ref());
    let rendered = container.finish(&changes);
    let support = match (rendered.off_road, has_security_settings) {
        (true, _) => SupportLevel::OffRoad,
        (false, true) => SupportLevel::Adjusted,
        (false, false) => SupportLevel::Paved,
    };
    let create_body = record_settings(builder, rendered);
    let volume_names = volumes.iter().map(|(name, _)| name.clone()).collect();
    let container = Container {
        image,
        create_body,
        aliases: vec![builder.draft.name.clone()],
        process_peers: Vec::new(),
        volumes,
        pull: pull_policy(service.pull.as_ref().map(|pull| pull.value)),
    };
    BuiltBody { body: Body::Container(container), volumes: volume_names, support }
}

/// Adds the settings to the unit's hash and to the map of origins. Returns the rendered body.
pub(super) fn record_settings(builder: &mut UnitBuilder<'_, '_>, rendered: RenderedContainer) -> Json {
    builder.diagnostics.extend(rendered.diagnostics);
    if builder.is_full_depth() {
        for default in rendered.defaults {
            // A setting may have appended to the default, so show the final value.
            let final_value = get_at(&rendered.create_body, &default.field).unwrap_or(&default.value.actual).clone();
            let field = format!("docker.{}", default.field);
            builder.record_origin(&field, || final_value, default.origin.clone());
            builder.record_origin(&default.manifest_key, || default.value.actual.clone(), default.origin.clone());
        }
    }
    for setting in rendered.settings {
        if setting.is_intent() && builder.is_full_depth() {
            // Two settings may write one field (a list and its `+` key). Both are part of the hash.
            let earlier = builder.intent.get(&setting.manifest_key).cloned().unwrap_or_default();
            builder.record_intent(&setting.manifest_key, &format!("{earlier}{}", setting.value.stable));
        }
        let field = format!("docker.{}", setting.field);
        // Show the token instead of a password that pdev generated.
        let RenderedValue { actual, stable } = setting.value;
        let is_secret = contains_text(&stable, PASSWORD_TOKEN);
        let shown_value =
            || get_at(&rendered.create_body, &setting.field).filter(|_| !is_secret).unwrap_or(&stable).clone();
        builder.record_origin(&field, shown_value, setting.origin.clone());
        if !setting.manifest_key.starts_with("docker.") {
            builder.record_origin(&setting.manifest_key, || if is_secret { stable } else { actual }, setting.origin);
        }
    }
    rendered.create_body
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
        let optional_text = |field: &Option<Spanned<String>>| field.as_ref().map(|field| field.value.clone());
        let spec = BuildSpec {
            context: build.context.value.clone(),
            dockerfile: optional_text(&build.dockerfile).unwrap_or_else(|| "Dockerfile".to_owned()),
            target: optional_text(&build.target),
            args,
            platform: optional_text(&build.platform),
        };
        // `args` have fields of their own in the hash.
        let build_text = format!("{} {} {:?} {:?}", spec.context, spec.dockerfile, spec.target, spec.platform);
        builder.record_intent("build", &build_text);
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

fn set_commands(builder: &mut UnitBuilder<'_, '_>, container: &mut ContainerBuilder, service: &Service) {
    let commands = [("command", "Cmd", &service.command), ("entrypoint", "Entrypoint", &service.entrypoint)];
    for (manifest_key, field, command) in commands {
        let Some(command) = command else { continue };
        let path = builder.draft.path.as_str();
        let Some(resolved) = builder.resolve_command(command, &format_args!("{path}.{manifest_key}")) else { continue };
        let origin = builder.origin(command_span(command));
        container.set(
            manifest_key,
            field,
            RenderedValue { actual: resolved.engine_json(), stable: resolved.stable_json() },
            origin,
        );
    }
    // A relative `dir` is a folder of the project and applies to processes only.
    if let Some(dir) = service.dir.as_ref().filter(|dir| dir.value.starts_with('/')) {
        container.set("dir", "WorkingDir", RenderedValue::literal(dir.value.clone()), builder.origin(dir.span));
    }
}

fn set_limits(builder: &UnitBuilder<'_, '_>, container: &mut ContainerBuilder, service: &Service) {
    if let Some(memory) = &service.size.memory {
        container.set(
            "size.memory",
            "HostConfig.Memory",
            RenderedValue::literal(memory.value),
            builder.origin(memory.span),
        );
    }
    if let Some(cpu) = &service.size.cpu_milli {
        // A share under contention and not a ceiling, so that a unit can use idle cores of a laptop. The kernel accepts
        // shares from 2 to 262144.
        let shares = (cpu.value.saturating_mul(1024) / 1000).clamp(2, 262_144);
        container.set("size.cpu", "HostConfig.CpuShares", RenderedValue::literal(shares), builder.origin(cpu.span));
    }
    if let Some(pids) = &service.size.pids {
        container.set(
            "size.pids",
            "HostConfig.PidsLimit",
            RenderedValue::literal(pids.value),
            builder.origin(pids.span),
        );
    }
}

/// Returns true if the manifest has any security setting.
fn set_security(builder: &UnitBuilder<'_, '_>, container: &mut ContainerBuilder, service: &Service) -> bool {
    let security = &service.security;
    if let Some(privileged) = security.privileged.as_ref().filter(|privileged| privileged.value) {
        // A privileged container has every capability, and the engine refuses to combine the two.
        for field in ["HostConfig.CapDrop", "HostConfig.CapAdd", "HostConfig.SecurityOpt"] {
            container.drop_default(field);
        }
        container.set(
            "security.privileged",
            "HostConfig.Privileged",
            RenderedValue::literal(true),
            builder.origin(privileged.span),
        );
    }
    let capability_list = |names: &[Spanned<String>]| {
        RenderedValue::literal(names.iter().map(|name| normalise_capability(&name.value)).collect::<Json>())
    };
    if let Some(first) = security.capabilities.first() {
        container.append(
            "security.capabilities",
            "HostConfig.CapAdd",
            capability_list(&security.capabilities),
            builder.origin(first.span),
        );
    }
    if let Some(first) = security.drop.first() {
        // `CapDrop` is `ALL` anyway. A capability named in `drop` is therefore removed from the default `CapAdd`.
        let dropped: Vec<String> = security.drop.iter().map(|name| normalise_capability(&name.value)).collect();
        let all = dropped.iter().any(|name| name == "ALL");
        let added = security.capabilities.iter().map(|name| normalise_capability(&name.value));
        let defaults = crate::render::docker::DEFAULT_CAPABILITIES.iter().map(|name| (*name).to_owned());
        let remaining: Vec<String> =
            if all { Vec::new() } else { defaults.filter(|name| !dropped.contains(name)).collect() };
        let cap_add: Json = remaining.into_iter().chain(added).collect();
        container.set(
            "security.drop",
            "HostConfig.CapAdd",
            RenderedValue { actual: cap_add, stable: dropped.into() },
            builder.origin(first.span),
        );
    }
    if let Some(setting) = security.no_new_privileges.as_ref().filter(|value| !value.value) {
        let no_options = Json::Array(Vec::new());
        container.set(
            "security.no_new_privileges",
            "HostConfig.SecurityOpt",
            RenderedValue::literal(no_options),
            builder.origin(setting.span),
        );
    }
    if let Some(user) = &security.user {
        container.set("security.user", "User", RenderedValue::literal(user.value.clone()), builder.origin(user.span));
    }
    if let Some(read_only) = security.read_only.as_ref().filter(|value| value.value) {
        let origin = builder.origin(read_only.span);
        container.set("security.read_only", "HostConfig.ReadonlyRootfs", RenderedValue::literal(true), origin);
        let reason = "programs expect to write there even when the root file system is read-only";
        container.set(
            "tmp",
            "HostConfig.Tmpfs",
            RenderedValue::literal(json!({ "/tmp": "" })),
            Origin::Default { reason },
        );
    }
    *security != manifest::model::Security::default()
}

fn normalise_capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
}

fn set_exposed_ports(builder: &UnitBuilder<'_, '_>, container: &mut ContainerBuilder) {
    let mut exposed = serde_json::Map::new();
    for port in builder.ports.values() {
        let protocol = if port.protocol == PortProtocol::Udp { "udp" } else { "tcp" };
        exposed.insert(format!("{}/{protocol}", port.listen_port), json!({}));
    }
    if !exposed.is_empty() {
        let reason = "each of the unit's `ports`; the driver publishes them on the loopback only";
        container.set(
            "ports",
            "ExposedPorts",
            RenderedValue::literal(Json::Object(exposed)),
            Origin::Default { reason },
        );
    }
}

fn add_volume(
    builder: &mut UnitBuilder<'_, '_>,
    container: &mut ContainerBuilder,
    name: &str,
    volume: &Volume,
    span: Span,
    named_volumes: &mut Vec<(String, String)>,
) {
    let (manifest_key, target) = (format!("volumes.{name}"), &volume.target.value);
    let mode = if volume.read_only { ":ro" } else { "" };
    let origin = builder.origin(span);
    match &volume.source {
        VolumeSource::Named => {
            builder.record_intent(&manifest_key, &format!("{target}{mode}"));
            builder.record_origin(&manifest_key, || json!(target), origin);
            named_volumes.push((name.to_owned(), format!("{target}{mode}")));
        }
        VolumeSource::Path(source) => {
            // Docker reads a bare name as a named volume, so a relative path needs `./`.
            let is_bare =
                !source.value.starts_with('/') && !source.value.starts_with("./") && !source.value.starts_with("../");
            let source = if is_bare { format!("./{}", source.value) } else { source.value.clone() };
            container.append(
                &manifest_key,
                "HostConfig.Binds",
                RenderedValue::literal(json!([format!("{source}:{target}{mode}")])),
                origin,
            );
        }
        VolumeSource::Tmpfs { size } => {
            let options = size.map(|size| format!("size={size}")).unwrap_or_default();
            // A target path may contain dots, which a dotted field path would split.
            container.append_entry(&manifest_key, "HostConfig.Tmpfs", target, &options, origin);
        }
    }
}
