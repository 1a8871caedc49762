//! The fields of a container as the Engine API 1.41 and later know them, so that a misspelt raw key is told with the
//! nearest right one instead of being dropped by the engine in silence.

use manifest::{Diagnostic, Severity, Span};

use super::patch::ObjectPatch;
use crate::codes;
use crate::nearest::nearest;

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

/// Fields that the manifest itself has a word for, and that pdev sets last.
const PDEV_MANAGED_FIELDS: &[(&str, &str)] = &[("Image", "`image` or `build`"), ("Env", "`env`")];

/// Says which keys of a raw body or a merge no engine knows.
pub(crate) fn check(change: &ObjectPatch, diagnostics: &mut Vec<Diagnostic>) {
    if matches!(change, ObjectPatch::JsonPatch(_)) {
        return;
    }
    for (path, span) in &change.data().keys {
        let path = path.replace('+', "");
        let (known, key, place): (&[&str], &str, &str) = match path.split('.').collect::<Vec<_>>().as_slice() {
            [key] => (TOP_LEVEL_FIELDS, key, ""),
            ["HostConfig", key] => (HOST_CONFIG_FIELDS, key, "HostConfig."),
            _ => continue,
        };
        if !known.contains(&key) {
            diagnostics.push(unknown_field_diagnostic(key, place, known, *span).at_path(change.data().path.clone()));
        }
    }
}

fn unknown_field_diagnostic(key: &str, place: &str, known: &[&str], span: Span) -> Diagnostic {
    if let Some((_, word)) = PDEV_MANAGED_FIELDS.iter().find(|(ours, _)| place.is_empty() && *ours == key) {
        let message = format!("`{key}` is set from {word} of the manifest");
        return Diagnostic::new(codes::RAW_FIELD_UNKNOWN, Severity::Error, span, message)
            .help(format!("Write it as {word} instead."));
    }
    if place.is_empty() && HOST_CONFIG_FIELDS.contains(&key) {
        let message = format!("`{key}` belongs into `HostConfig`");
        return Diagnostic::new(codes::RAW_FIELD_UNKNOWN, Severity::Error, span, message)
            .help(format!("Write `HostConfig: {{ {key}: ... }}`."));
    }
    let folded = key.replace('_', "");
    let near = known.iter().find(|field| field.eq_ignore_ascii_case(&folded)).copied();
    let near = near.or_else(|| nearest(key, known.iter().copied()));
    let host = HOST_CONFIG_FIELDS.iter().find(|field| place.is_empty() && field.eq_ignore_ascii_case(&folded));
    let allowed = match (near, host) {
        (Some(near), _) => format!(" (nearest: `{place}{near}`)"),
        (None, Some(host)) => format!(" (nearest: `HostConfig.{host}`)"),
        (None, None) => String::new(),
    };
    let diagnostic = Diagnostic::new(
        codes::RAW_FIELD_UNKNOWN,
        Severity::Error,
        span,
        format!("the Docker engine knows no field `{place}{key}`{allowed}"),
    );
    match near {
        Some(near) => {
            let edit = manifest::diagnostic::Edit { span, text: near.to_owned() };
            diagnostic.fix(format!("change `{key}` to `{near}`"), false, vec![edit])
        }
        None => diagnostic.help("See the Engine API's `ContainerCreate` for the fields there are."),
    }
}
