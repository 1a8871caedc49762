//! The container fields of the Engine API 1.41 and later. A misspelt raw key is reported with the nearest known field,
//! because the engine ignores unknown fields silently.

use manifest::{Diagnostic, Severity, Span};
use strings::nearest;

use crate::codes;
use crate::render::patch::ObjectPatch;

const TOP_LEVEL_FIELDS: &[&str] = &[
    "ArgsEscaped",
    "AttachStderr",
    "AttachStdin",
    "AttachStdout",
    "Cmd",
    "Domainname",
    "Entrypoint",
    "ExposedPorts",
    "Healthcheck",
    "HostConfig",
    "Hostname",
    "Labels",
    "MacAddress",
    "NetworkDisabled",
    "NetworkingConfig",
    "OnBuild",
    "OpenStdin",
    "Shell",
    "StdinOnce",
    "StopSignal",
    "StopTimeout",
    "Tty",
    "User",
    "Volumes",
    "WorkingDir",
];

const HOST_CONFIG_FIELDS: &[&str] = &[
    "Annotations",
    "AutoRemove",
    "Binds",
    "BlkioDeviceReadBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceWriteIOps",
    "BlkioWeight",
    "BlkioWeightDevice",
    "CapAdd",
    "CapDrop",
    "Cgroup",
    "CgroupParent",
    "CgroupnsMode",
    "ConsoleSize",
    "ContainerIDFile",
    "CpuCount",
    "CpuPercent",
    "CpuPeriod",
    "CpuQuota",
    "CpuRealtimePeriod",
    "CpuRealtimeRuntime",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "IOMaximumBandwidth",
    "IOMaximumIOps",
    "Init",
    "IpcMode",
    "Isolation",
    "Links",
    "LogConfig",
    "MaskedPaths",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "Mounts",
    "NanoCpus",
    "NetworkMode",
    "OomKillDisable",
    "OomScoreAdj",
    "PidMode",
    "PidsLimit",
    "PortBindings",
    "Privileged",
    "PublishAllPorts",
    "ReadonlyPaths",
    "ReadonlyRootfs",
    "RestartPolicy",
    "Runtime",
    "SecurityOpt",
    "ShmSize",
    "StorageOpt",
    "Sysctls",
    "Tmpfs",
    "UTSMode",
    "Ulimits",
    "UsernsMode",
    "VolumeDriver",
    "VolumesFrom",
];

/// Fields that have a manifest key, and that pdev sets last.
const PDEV_MANAGED_FIELDS: &[(&str, &str)] = &[("Image", "`image` or `build`"), ("Env", "`env`")];

/// Reports the keys of a raw body or a merge that the Engine API does not have.
pub(super) fn check(change: &ObjectPatch, diagnostics: &mut Vec<Diagnostic>) {
    if matches!(change, ObjectPatch::JsonPatch(_)) {
        return;
    }
    for (path, span) in &change.data().keys {
        let path = path.replace('+', "");
        let (known, key, prefix): (&[&str], &str, &str) = match path.split('.').collect::<Vec<_>>().as_slice() {
            [key] => (TOP_LEVEL_FIELDS, key, ""),
            ["HostConfig", key] => (HOST_CONFIG_FIELDS, key, "HostConfig."),
            _ => continue,
        };
        if !known.contains(&key) {
            diagnostics.push(unknown_field_diagnostic(key, prefix, known, *span).at_path(change.data().path.clone()));
        }
    }
}

fn unknown_field_diagnostic(key: &str, prefix: &str, known: &[&str], span: Span) -> Diagnostic {
    if let Some((_, manifest_key)) = PDEV_MANAGED_FIELDS.iter().find(|(field, _)| prefix.is_empty() && *field == key) {
        let message = format!("`{key}` is set from {manifest_key} of the manifest");
        return Diagnostic::new(codes::RAW_FIELD_UNKNOWN, Severity::Error, span, message)
            .help(format!("Write it as {manifest_key} instead."));
    }
    if prefix.is_empty() && HOST_CONFIG_FIELDS.contains(&key) {
        let message = format!("`{key}` belongs into `HostConfig`");
        return Diagnostic::new(codes::RAW_FIELD_UNKNOWN, Severity::Error, span, message)
            .help(format!("Write `HostConfig: {{ {key}: ... }}`."));
    }
    let folded = key.replace('_', "");
    let near = known.iter().find(|field| field.eq_ignore_ascii_case(&folded)).copied();
    let near = near.or_else(|| nearest(key, known.iter().copied()));
    let host_config = HOST_CONFIG_FIELDS.iter().find(|field| prefix.is_empty() && field.eq_ignore_ascii_case(&folded));
    let allowed = match (near, host_config) {
        (Some(near), _) => format!(" (nearest: `{prefix}{near}`)"),
        (None, Some(field)) => format!(" (nearest: `HostConfig.{field}`)"),
        (None, None) => String::new(),
    };
    let diagnostic = Diagnostic::new(
        codes::RAW_FIELD_UNKNOWN,
        Severity::Error,
        span,
        format!("the Docker engine knows no field `{prefix}{key}`{allowed}"),
    );
    match near {
        Some(near) => {
            let edit = manifest::diagnostic::Edit { span, text: near.to_owned() };
            diagnostic.fix(format!("change `{key}` to `{near}`"), false, vec![edit])
        }
        None => diagnostic.help("See the Engine API's `ContainerCreate` for the fields there are."),
    }
}
