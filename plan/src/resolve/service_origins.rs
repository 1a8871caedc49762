//! Records the origins of settings that are in no runtime object: runtime, ports, health, stop, restart.

use manifest::Span;
use manifest::model::{RestartPolicy, Service};
use serde_json::json;

use super::units::UnitBuilder;
use crate::application::{Check, ReadyCheck, Unit};
use crate::origin::Origin;

pub(super) fn record_service_origins(builder: &mut UnitBuilder<'_, '_>, service: &Service, unit: &Unit) {
    record_runtime_origin(builder, service);
    for (name, entry) in &service.ports {
        let Some(port) = unit.ports.get(name) else { continue };
        let origin = builder.origin(entry.span);
        builder.record_origin(&format!("ports.{name}"), || json!(port.listen_port), origin);
        let host = match &entry.value.host {
            Some(host) => builder.origin(host.span),
            None => Origin::Default { reason: "a free port of this machine, remembered for this preview" },
        };
        builder.record_origin(&format!("ports.{name}.host"), || json!(port.host_port), host);
    }
    let ready = service.health.ready.as_ref().map(|probe| probe.span);
    let reason = match unit.health.ready {
        ReadyCheck::StaysUp(_) => "no check is configured and there is no port to probe",
        _ => "no check is configured, so its port has to accept a connection",
    };
    let origin = origin_or_default(builder, ready, reason);
    builder.record_origin("health.ready", || json!(describe_ready_check(&unit.health.ready)), origin);
    let limit = service.health.start_limit.as_ref().map(|limit| limit.span);
    let origin = origin_or_default(builder, limit, "enough for most programs to start");
    builder.record_origin("health.start_limit", || json!(format_seconds(unit.health.start_limit)), origin);
    let grace = service.stop.grace.as_ref().map(|grace| grace.span);
    let origin = origin_or_default(builder, grace, "the same as Docker's default");
    builder.record_origin("stop.grace", || json!(format_seconds(unit.stop.grace)), origin);
    let restart = service.restart.as_ref().map(|restart| restart.span);
    let origin = origin_or_default(builder, restart, "a crash restarts it with back-off, five times");
    let policy = match unit.restart {
        RestartPolicy::OnFailure => "on-failure",
        RestartPolicy::Always => "always",
        RestartPolicy::Never => "never",
    };
    builder.record_origin("restart", || json!(policy), origin);
}

fn record_runtime_origin(builder: &mut UnitBuilder<'_, '_>, service: &Service) {
    let environment = &builder.context.loaded.manifest.environment;
    let span = service.runtime.as_ref().or(environment.runtime.as_ref()).map(|runtime| runtime.span);
    let origin = origin_or_default(
        builder,
        span,
        "docker if an engine answers and the unit can run in a container, else process",
    );
    builder.record_origin("runtime", || json!(builder.draft.runtime), origin);
}

fn origin_or_default(builder: &UnitBuilder<'_, '_>, span: Option<Span>, reason: &'static str) -> Origin {
    span.map_or(Origin::Default { reason }, |span| builder.origin(span))
}

fn format_seconds(duration: std::time::Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

fn describe_ready_check(ready: &ReadyCheck) -> String {
    match ready {
        ReadyCheck::StaysUp(time) => format!("still running after {} ms", time.as_millis()),
        ReadyCheck::Started => "started".to_owned(),
        ReadyCheck::Exit => "exit code 0".to_owned(),
        ReadyCheck::Probe(probe) => match &probe.check {
            Check::Http { port, path, .. } => format!("HTTP GET {path} on port {port}"),
            Check::Tcp { port } => format!("TCP connect to port {port}"),
            Check::Grpc { port, .. } => format!("gRPC health on port {port}"),
            Check::Exec { .. } => "a command in the unit".to_owned(),
        },
    }
}
