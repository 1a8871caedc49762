//! Origins of what has no runtime object: runtime, ports, health, stopping, restarting.

use manifest::Span;
use manifest::model::{Restart, Service};
use serde_json::json;

use super::units::Builder;
use crate::application::{Check, ReadyCheck, Unit};
use crate::origin::Origin;

pub(super) fn of_service(builder: &mut Builder<'_, '_>, service: &Service, unit: &Unit) {
    runtime(builder, service);
    for (name, entry) in &service.ports {
        let Some(port) = unit.ports.get(name) else { continue };
        let origin = builder.origin(entry.span);
        builder.note(&format!("ports.{name}"), || json!(port.inside), origin);
        let host = match &entry.value.host {
            Some(host) => builder.origin(host.span),
            None => Origin::Default { reason: "chosen free on this machine and remembered for this preview" },
        };
        builder.note(&format!("ports.{name}.host"), || json!(port.host), host);
    }
    let ready = service.health.ready.as_ref().map(|probe| probe.span);
    let reason = match unit.health.ready {
        ReadyCheck::StaysUp(_) => "nothing is written and there is no port to ask",
        _ => "nothing is written, so its port has to accept a connection",
    };
    let origin = written_or(builder, ready, reason);
    builder.note("health.ready", || json!(ready_words(&unit.health.ready)), origin);
    let limit = service.health.start_limit.as_ref().map(|limit| limit.span);
    let origin = written_or(builder, limit, "longer than most programs need, shorter than patience");
    builder.note("health.start_limit", || json!(seconds(unit.health.start_limit)), origin);
    let grace = service.stop.grace.as_ref().map(|grace| grace.span);
    let origin = written_or(builder, grace, "the time Docker gives too");
    builder.note("stop.grace", || json!(seconds(unit.stop.grace)), origin);
    let restart = service.restart.as_ref().map(|restart| restart.span);
    let origin = written_or(builder, restart, "a crash restarts with back-off, five times");
    let word = match unit.restart {
        Restart::OnFailure => "on-failure",
        Restart::Always => "always",
        Restart::Never => "never",
    };
    builder.note("restart", || json!(word), origin);
}

fn runtime(builder: &mut Builder<'_, '_>, service: &Service) {
    let environment = &builder.world.loaded.manifest.environment;
    let span = service.runtime.as_ref().or(environment.runtime.as_ref()).map(|runtime| runtime.span);
    let origin =
        written_or(builder, span, "docker where an engine answers and the unit can be a container, else process");
    builder.note("runtime", || json!(builder.draft.runtime), origin);
}

fn written_or(builder: &Builder<'_, '_>, span: Option<Span>, reason: &'static str) -> Origin {
    span.map_or(Origin::Default { reason }, |span| builder.origin(span))
}

fn seconds(duration: std::time::Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

fn ready_words(ready: &ReadyCheck) -> String {
    match ready {
        ReadyCheck::StaysUp(time) => format!("still running after {} ms", time.as_millis()),
        ReadyCheck::Started => "started".to_owned(),
        ReadyCheck::Exit => "exit code 0".to_owned(),
        ReadyCheck::Probe(probe) => match &probe.check {
            Check::Http { port, path, .. } => format!("HTTP GET {path} on port {port}"),
            Check::Tcp { port } => format!("TCP connect to port {port}"),
            Check::Grpc { port, .. } => format!("gRPC health on port {port}"),
            Check::Exec { .. } => "a command inside".to_owned(),
        },
    }
}
