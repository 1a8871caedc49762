//! Whether a unit itself listens on its port. A probe cannot tell: another program may have taken the port before the
//! unit, and would then get the unit's requests with their cookies.

use std::fmt;
use std::time::Duration;

use drivers::Scope;
use drivers::capabilities::{Listener, PortUse};
use host::ports::ListeningAddress;
use plan::application::{Argv, Body, Probe, Unit};

use super::Context;
use super::unit_command::run_command;
use crate::probe::{self, ProbeResult};

const TABLE_LIMIT: Duration = Duration::from_secs(2);

/// Checked at the first success only: from then on, the unit has the port.
pub(super) async fn check(context: &Context, scope: &Scope, unit: &Unit, ready_probe: &Probe) -> ProbeResult {
    if ready_probe.allows_any_listener {
        return ProbeResult::Success;
    }
    let Some((port, port_use)) = inspect_port(context, scope, unit, ready_probe).await else {
        return ProbeResult::Success;
    };
    let unit_ports = describe_ports(&port_use.unit_ports, port);
    match port_use.listener {
        Listener::Expected | Listener::Absent => ProbeResult::Success,
        Listener::Other(owner) => {
            ProbeResult::Failure(format!("port {port} is taken{owner}, which does not belong to this unit{unit_ports}"))
        }
        Listener::Hidden => ProbeResult::Failure(format!(
            "port {port} belongs to a program of another user{unit_ports}; `health: {{ ready: {{ listener: any }} }}` \
             accepts it"
        )),
    }
}

/// Why a program that listens cannot be reached on its port.
#[derive(Debug)]
pub(super) enum PortMismatch {
    /// It listens on other ports than the one it was given.
    Elsewhere { port: u16, unit_ports: Vec<u16> },
    /// Its container has it listen on other ports.
    ElsewhereInContainer { unit: String, port: u16, unit_ports: Vec<u16> },
    /// It listens on the loopback address of its container.
    LoopbackOfContainer { port: u16 },
}

impl fmt::Display for PortMismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elsewhere { port, unit_ports } | Self::ElsewhereInContainer { port, unit_ports, .. } => {
                write!(formatter, "it listens on {}, not on port {port}", port_list(unit_ports))
            }
            Self::LoopbackOfContainer { port } => {
                write!(formatter, "it listens on port {port} of 127.0.0.1 inside its container only")
            }
        }
    }
}

impl PortMismatch {
    pub(super) fn hint(&self) -> String {
        match self {
            Self::Elsewhere { port, .. } => format!(
                "Let the program listen on the port in its variable `PORT`, which is {port} here, or pass `$PORT` in its command."
            ),
            Self::ElsewhereInContainer { unit, unit_ports, .. } => {
                let port = unit_ports.first().copied().unwrap_or_default();
                format!("Set `services.{unit}.port: {port}`, or let the program listen on the port of the manifest.")
            }
            Self::LoopbackOfContainer { .. } => {
                "Let the program listen on 0.0.0.0, often with `--host 0.0.0.0` or the \
                variable `HOST`: other containers and this machine cannot reach the loopback address of a container."
                    .to_owned()
            }
        }
    }
}

/// The ports of a unit that does not listen on the probed one.
pub(super) async fn ports_of_unit(
    context: &Context,
    scope: &Scope,
    unit: &Unit,
    ready_probe: &Probe,
) -> Option<PortMismatch> {
    if matches!(unit.body, Body::Container(_)) {
        return mismatch_in_container(context, scope, unit, ready_probe).await;
    }
    let (port, port_use) = inspect_port(context, scope, unit, ready_probe).await?;
    let is_elsewhere = !port_use.unit_ports.is_empty() && !port_use.unit_ports.contains(&port);
    is_elsewhere.then_some(PortMismatch::Elsewhere { port, unit_ports: port_use.unit_ports })
}

/// Reads the kernel's tables inside the container. An image without `cat` gives no answer.
async fn mismatch_in_container(
    context: &Context,
    scope: &Scope,
    unit: &Unit,
    ready_probe: &Probe,
) -> Option<PortMismatch> {
    let port = unit.ports.get(probe::port_name(&ready_probe.check)?)?.listen_port;
    let argv = Argv::List(["cat", "/proc/net/tcp", "/proc/net/tcp6"].map(str::to_owned).to_vec());
    // The report of the failure must not wait for a slow engine.
    let read = tokio::time::timeout(TABLE_LIMIT, run_command(context, scope, unit, &argv)).await;
    // Without IPv6, the exit code is 1 although the first table was read.
    let (_, lines) = read.ok()?.ok()?;
    classify(&unit.name, port, &host::ports::listening_addresses(&lines.join("\n")))
}

fn classify(unit: &str, port: u16, listening: &[ListeningAddress]) -> Option<PortMismatch> {
    let on_port: Vec<&ListeningAddress> = listening.iter().filter(|address| address.port == port).collect();
    if !on_port.is_empty() {
        let is_loopback = on_port.iter().all(|address| address.is_loopback);
        return is_loopback.then_some(PortMismatch::LoopbackOfContainer { port });
    }
    let mut unit_ports: Vec<u16> =
        listening.iter().filter(|address| !address.is_loopback).map(|address| address.port).collect();
    unit_ports.sort_unstable();
    unit_ports.dedup();
    let unit = unit.to_owned();
    (!unit_ports.is_empty()).then_some(PortMismatch::ElsewhereInContainer { unit, port, unit_ports })
}

/// `None` if the probe uses no port, or if the runtime publishes the port itself.
async fn inspect_port(context: &Context, scope: &Scope, unit: &Unit, ready_probe: &Probe) -> Option<(u16, PortUse)> {
    let port = unit.ports.get(probe::port_name(&ready_probe.check)?)?.listen_port;
    let driver = context.shared.drivers.driver_of(&scope.targets, unit.runtime).ok()?;
    let port_use = driver.host_ports()?.port_use(&scope.preview.id, &unit.name, port).await.ok()??;
    Some((port, port_use))
}

fn describe_ports(unit_ports: &[u16], port: u16) -> String {
    if unit_ports.is_empty() || unit_ports.contains(&port) {
        return String::new();
    }
    format!("; the unit listens on {}", port_list(unit_ports))
}

fn port_list(ports: &[u16]) -> String {
    let numbers: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("port{} {}", if ports.len() == 1 { "" } else { "s" }, numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mismatch_names_ports_and_variable() {
        let mismatch = PortMismatch::Elsewhere { port: 20123, unit_ports: vec![5173, 5174] };
        assert_eq!(mismatch.to_string(), "it listens on ports 5173, 5174, not on port 20123");
        assert!(mismatch.hint().contains("`PORT`, which is 20123 here"));
        assert_eq!(describe_ports(&[20123], 20123), "");
    }

    #[test]
    fn addresses_inside_a_container_are_classified() {
        let address = |port, is_loopback| ListeningAddress { port, is_loopback };
        let title = |listening: &[ListeningAddress]| classify("web", 80, listening).map(|found| found.to_string());
        assert_eq!(title(&[]), None);
        assert_eq!(title(&[address(80, false)]), None);
        assert_eq!(title(&[address(80, true), address(80, false)]), None);
        let loopback = title(&[address(80, true), address(9000, false)]);
        assert_eq!(loopback.as_deref(), Some("it listens on port 80 of 127.0.0.1 inside its container only"));
        // The engine's own DNS server listens on a loopback address of each container.
        let elsewhere = title(&[address(3000, false), address(3000, false), address(45_123, true)]);
        assert_eq!(elsewhere.as_deref(), Some("it listens on port 3000, not on port 80"));
        assert_eq!(title(&[address(45_123, true)]), None);
    }
}
