//! Describes a service or job as a container: the manifest's settings on top of the hardened defaults.

use manifest::model::{Raw, Security, Service, Size, Volume, VolumeSource};
use manifest::{Span, Spanned};
use serde_json::{Value as Json, json};

use super::modules::PASSWORD_TOKEN;
use super::object_patches;
use super::processes::command_span;
use super::units::{BuiltBody, UnitBuilder, pull_policy};
use crate::application::{BuildSpec, Container, ImageSource, PullPolicy, SupportLevel};
use crate::container_spec::{ContainerPort, ContainerSpec, Mount, MountSource, Setting};
use crate::origin::Origin;
use crate::render::{ContainerRenderer, RenderedContainer};

pub(super) fn build_container(
    builder: &mut UnitBuilder<'_, '_>,
    renderer: &dyn ContainerRenderer,
    service: &Service,
) -> BuiltBody {
    let image = resolve_image(builder, service);
    let mut spec = ContainerSpec::hardened();
    set_commands(builder, &mut spec, service);
    set_resources(builder, &mut spec, &service.size);
    set_security(builder, &mut spec, &service.security);
    let reason = "each of the unit's `ports`; the driver publishes them on the loopback only";
    spec.ports = listen_ports(builder, Origin::Default { reason });
    for (name, entry) in &service.volumes {
        add_mount(builder, &mut spec, name, &entry.value, entry.span);
    }
    spec.stop_signal = text_setting(builder, "stop.signal", service.stop.signal.as_ref());
    let has_security_settings = service.security != Security::default();
    let typed_support = if has_security_settings { SupportLevel::Adjusted } else { SupportLevel::Paved };
    let pull = pull_policy(service.pull.as_ref().map(|pull| pull.value));
    render_body(builder, renderer, &spec, &service.raw, ContainerParts { image, pull, typed_support })
}

/// The parts of a container that its specification does not contain.
pub(super) struct ContainerParts {
    pub(super) image: ImageSource,
    pub(super) pull: PullPolicy,
    /// The support level without `raw` and patches.
    pub(super) typed_support: SupportLevel,
}

/// Renders a container with `raw` and the patches that target the unit.
pub(super) fn render_body(
    builder: &mut UnitBuilder<'_, '_>,
    renderer: &dyn ContainerRenderer,
    spec: &ContainerSpec,
    raw: &Raw,
    parts: ContainerParts,
) -> BuiltBody {
    let changes = object_patches::resolve_unit_patches(builder, raw);
    let mut rendered = renderer.render(spec, &changes);
    builder.diagnostics.append(&mut rendered.diagnostics);
    record_settings(builder, renderer, spec, &rendered);
    let volume_names = rendered.volumes.iter().map(|mount| mount.volume.clone()).collect();
    let container = Container {
        image: parts.image,
        create_body: rendered.object,
        aliases: vec![builder.draft.name.clone()],
        gateway_peers: Vec::new(),
        volumes: rendered.volumes,
        pull: parts.pull,
    };
    let support = if changes.is_empty() { parts.typed_support } else { SupportLevel::OffRoad };
    BuiltBody { body: container.into(), volumes: volume_names, support }
}

/// Adds the settings to the unit's hash and to the map of origins.
fn record_settings(
    builder: &mut UnitBuilder<'_, '_>,
    renderer: &dyn ContainerRenderer,
    spec: &ContainerSpec,
    rendered: &RenderedContainer,
) {
    let defaults = if builder.is_full_depth() { renderer.default_settings(spec) } else { Vec::new() };
    for setting in defaults.iter().chain(&rendered.settings) {
        let stable = setting.stable();
        if setting.is_intent() && builder.is_full_depth() {
            // Two settings may write one field (a list and its `+` key). Both are part of the hash.
            let earlier = builder.intent.get(setting.intent_key()).cloned().unwrap_or_default();
            builder.record_intent(setting.intent_key(), &format!("{earlier}{stable}"));
        }
        // Show the token instead of a password that pdev generated.
        let is_secret = contains_text(stable, PASSWORD_TOKEN);
        // A setting may have appended to the field, so show the final value.
        let final_value = || {
            let value = renderer.value_at(&rendered.object, &setting.field).filter(|_| !is_secret);
            value.unwrap_or(stable).clone()
        };
        builder.record_origin(&setting.field, final_value, setting.origin.clone());
        if let Some(manifest_key) = &setting.manifest_key {
            let own_value = || if is_secret { stable.clone() } else { setting.value.clone() };
            builder.record_origin(manifest_key, own_value, setting.origin.clone());
        }
    }
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

fn set_commands(builder: &mut UnitBuilder<'_, '_>, spec: &mut ContainerSpec, service: &Service) {
    let path = builder.draft.path.as_str();
    let commands =
        [("command", &service.command, &mut spec.command), ("entrypoint", &service.entrypoint, &mut spec.entrypoint)];
    for (manifest_key, command, setting) in commands {
        let Some(command) = command else { continue };
        let Some(resolved) = builder.resolve_command(command, &format_args!("{path}.{manifest_key}")) else { continue };
        let origin = builder.origin(command_span(command));
        *setting = Some(Setting::new(manifest_key, resolved.to_argv(), origin).with_stable(resolved.to_stable_argv()));
    }
    // A relative `dir` is a folder of the project and applies to processes only.
    let dir = service.dir.as_ref().filter(|dir| dir.value.starts_with('/'));
    spec.working_dir = text_setting(builder, "dir", dir);
}

fn set_resources(builder: &UnitBuilder<'_, '_>, spec: &mut ContainerSpec, size: &Size) {
    let resources = &mut spec.resources;
    resources.memory_bytes.set = value_setting(builder, "size.memory", size.memory.as_ref());
    resources.cpu_milli = value_setting(builder, "size.cpu", size.cpu_milli.as_ref());
    resources.pids.set = value_setting(builder, "size.pids", size.pids.as_ref());
}

fn set_security(builder: &UnitBuilder<'_, '_>, spec: &mut ContainerSpec, security: &Security) {
    let enabled = |setting: &Option<Spanned<bool>>| setting.clone().filter(|setting| setting.value);
    if let Some(setting) = value_setting(builder, "security.privileged", enabled(&security.privileged).as_ref()) {
        spec.security.set_privileged(setting);
    }
    let capabilities = &mut spec.security.capabilities;
    capabilities.added = capability_setting(builder, "security.capabilities", &security.capabilities);
    capabilities.removed = capability_setting(builder, "security.drop", &security.drop);
    let allows_escalation = security.no_new_privileges.as_ref().filter(|setting| !setting.value);
    spec.security.no_new_privileges.set = value_setting(builder, "security.no_new_privileges", allows_escalation);
    spec.user = text_setting(builder, "security.user", security.user.as_ref());
    spec.security.read_only_root = value_setting(builder, "security.read_only", enabled(&security.read_only).as_ref());
    if spec.security.read_only_root.is_some() {
        let reason = "programs expect to write there even when the root file system is read-only";
        let source = MountSource::Tmpfs { size_bytes: None };
        let mount = Mount { source, target: "/tmp".to_owned(), read_only: false };
        spec.mounts.push(Setting::new("tmp", mount, Origin::Default { reason }));
    }
}

fn value_setting<T: Copy>(
    builder: &UnitBuilder<'_, '_>,
    manifest_key: &'static str,
    value: Option<&Spanned<T>>,
) -> Option<Setting<T>> {
    value.map(|value| Setting::new(manifest_key, value.value, builder.origin(value.span)))
}

fn text_setting(
    builder: &UnitBuilder<'_, '_>,
    manifest_key: &'static str,
    text: Option<&Spanned<String>>,
) -> Option<Setting<String>> {
    text.map(|text| Setting::new(manifest_key, text.value.clone(), builder.origin(text.span)))
}

fn capability_setting(
    builder: &UnitBuilder<'_, '_>,
    manifest_key: &'static str,
    names: &[Spanned<String>],
) -> Option<Setting<Vec<String>>> {
    let first = names.first()?;
    let normalised = names.iter().map(|name| normalise_capability(&name.value)).collect();
    Some(Setting::new(manifest_key, normalised, builder.origin(first.span)))
}

fn normalise_capability(name: &str) -> String {
    let name = name.to_ascii_uppercase();
    name.strip_prefix("CAP_").map_or(name.clone(), str::to_owned)
}

/// The unit's ports, or `None` if it has none.
pub(super) fn listen_ports(builder: &UnitBuilder<'_, '_>, origin: Origin) -> Option<Setting<Vec<ContainerPort>>> {
    let ports = builder.ports.values();
    let ports: Vec<_> =
        ports.map(|port| ContainerPort { listen_port: port.listen_port, protocol: port.protocol }).collect();
    (!ports.is_empty()).then(|| Setting::new("ports", ports, origin))
}

fn add_mount(builder: &mut UnitBuilder<'_, '_>, spec: &mut ContainerSpec, name: &str, volume: &Volume, span: Span) {
    let (manifest_key, target) = (format!("volumes.{name}"), volume.target.value.clone());
    let origin = builder.origin(span);
    let source = match &volume.source {
        VolumeSource::Named => {
            let mode = if volume.read_only { ":ro" } else { "" };
            // Quoted, because the path `/data:ro` is not the path `/data`, read-only.
            let path = if target.contains(':') { format!("{target:?}") } else { target.clone() };
            builder.record_intent(&manifest_key, &format!("{path}{mode}"));
            builder.record_origin(&manifest_key, || json!(target), origin.clone());
            MountSource::NamedVolume(name.to_owned())
        }
        VolumeSource::Path(path) if path.value.starts_with('/') => MountSource::HostPath(path.value.clone()),
        VolumeSource::Path(path) => MountSource::ProjectPath(path.value.clone()),
        VolumeSource::Tmpfs { size } => MountSource::Tmpfs { size_bytes: *size },
    };
    let mount = Mount { source, target, read_only: volume.read_only };
    spec.mounts.push(Setting::new(manifest_key, mount, origin));
}
