//! Decides when a unit is ready: by the check in the manifest, else by a default that depends on whether it has a port.

use std::time::Duration;

use manifest::{Diagnostic, Severity, model};

use super::units::UnitBuilder;
use crate::application::{Argv, Check, Health, PortProtocol, Probe, ReadyCheck};

pub(super) const START_LIMIT: Duration = Duration::from_secs(60);
pub(super) const STAYS_UP_DURATION: Duration = Duration::from_millis(300);

/// A TCP connect, the default check of a port.
pub(super) fn tcp_probe(port: &str) -> Probe {
    Probe {
        check: Check::Tcp { port: port.to_owned() },
        interval: Duration::from_secs(10),
        timeout: Duration::from_secs(1),
        failures: 3,
        successes: 1,
        allows_any_listener: false,
    }
}

pub(super) fn resolve_health(builder: &mut UnitBuilder<'_, '_>, health: &model::Health) -> Health {
    let start_limit = health.start_limit.as_ref().map_or(START_LIMIT, |limit| limit.value);
    let live = health.live.as_ref().and_then(|live| resolve_probe(builder, live, "live"));
    let ready = match &health.ready {
        Some(ready) => resolve_probe(builder, ready, "ready").map(ReadyCheck::Probe),
        None if health.is_disabled => Some(ReadyCheck::Started),
        None => None,
    };
    Health { ready: ready.unwrap_or_else(|| default_ready_check(builder)), live, start_limit }
}

fn default_ready_check(builder: &UnitBuilder<'_, '_>) -> ReadyCheck {
    // UDP has no connection, so a connect to a UDP port proves nothing.
    let ports = &builder.ports;
    let is_probeable = |name: &&str| ports.get(*name).is_some_and(|port| port.protocol != PortProtocol::Udp);
    let main_port = builder.context.main_port(&builder.draft.name).filter(is_probeable);
    let first_port = || ports.keys().map(String::as_str).find(is_probeable);
    main_port
        .or_else(first_port)
        .map_or(ReadyCheck::StaysUp(STAYS_UP_DURATION), |port| ReadyCheck::Probe(tcp_probe(port)))
}

/// Reports `listener` where it has no effect.
fn check_listener(builder: &mut UnitBuilder<'_, '_>, probe: &model::Probe, key: &str) {
    let Some(written) = &probe.allows_any_listener else { return };
    let reason = if key == "live" {
        "`listener` is checked only when a unit becomes ready"
    } else if matches!(probe.check, model::Check::Exec { .. }) {
        "`listener` has no effect on `exec`, which probes no port"
    } else if !builder.draft.runtime.capabilities().addressing.assigns_ports() {
        "`listener` has no effect here: the runtime publishes the port, so no other program can have it"
    } else {
        return;
    };
    let path = format!("{}.health.{key}.listener", builder.draft.path);
    builder.diagnostics.push(
        Diagnostic::new(manifest::codes::BAD_VALUE, Severity::Warning, written.span, reason.to_owned())
            .at_path(path)
            .help("Remove it."),
    );
}

fn resolve_probe(builder: &mut UnitBuilder<'_, '_>, probe: &model::Probe, key: &str) -> Option<Probe> {
    check_listener(builder, probe, key);
    let check = match &probe.check {
        model::Check::Http { path: url_path, port, host, headers, status } => Check::Http {
            port: probe_port_name(builder, port.as_ref())?,
            path: url_path.value.clone(),
            host: host.clone(),
            headers: headers.clone(),
            status: status.clone(),
        },
        model::Check::Tcp { port } => Check::Tcp { port: probe_port_name(builder, port.as_ref())? },
        model::Check::Grpc { port, service } => {
            Check::Grpc { port: probe_port_name(builder, port.as_ref())?, service: service.clone().unwrap_or_default() }
        }
        model::Check::Exec { command } => {
            let argv = {
                let unit = builder.draft.path.as_str();
                builder.resolve_command(command, &format_args!("{unit}.health.{key}"))
            };
            Check::Exec { argv: argv.map_or(Argv::List(Vec::new()), |argv| argv.to_argv()) }
        }
    };
    Some(Probe {
        check,
        interval: probe.interval,
        timeout: probe.timeout,
        failures: probe.failures,
        successes: probe.successes,
        allows_any_listener: probe.allows_any_listener.as_ref().is_some_and(|allowed| allowed.value),
    })
}

/// The port that a probe refers to, by name or number; the main port if it names none. The manifest reader already
/// reported a port that does not exist.
fn probe_port_name(builder: &UnitBuilder<'_, '_>, reference: Option<&manifest::Spanned<String>>) -> Option<String> {
    let Some(reference) = reference else { return builder.context.main_port(&builder.draft.name).map(str::to_owned) };
    if builder.ports.contains_key(&reference.value) {
        return Some(reference.value.clone());
    }
    let number: u16 = reference.value.parse().ok()?;
    let mut ports = builder.draft.service()?.ports.iter();
    ports.find(|(_, port)| port.value.number.value == number).map(|(name, _)| name.clone())
}
