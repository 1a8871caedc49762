//! Whether a unit itself listens on its port. A probe cannot tell: another program may have taken the port before the
//! unit, and would then get the unit's requests with their cookies.

use std::fmt;

use drivers::Scope;
use drivers::driver::{Listener, PortUse};
use plan::application::{Probe, Unit};

use super::Context;
use crate::probe::{self, ProbeResult};

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

/// A program that listens on other ports than the one it was given.
pub(super) struct PortMismatch {
    port: u16,
    unit_ports: Vec<u16>,
}

impl fmt::Display for PortMismatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, unit_ports } = self;
        write!(formatter, "it listens on {}, not on port {port}", port_list(unit_ports))
    }
}

impl PortMismatch {
    pub(super) fn hint(&self) -> String {
        let Self { port, .. } = self;
        format!(
            "Let the program listen on the port in its variable `PORT`, which is {port} here, or pass `$PORT` in its command."
        )
    }
}

/// The ports of a unit that does not listen on the probed one.
pub(super) async fn ports_of_unit(
    context: &Context,
    scope: &Scope,
    unit: &Unit,
    ready_probe: &Probe,
) -> Option<PortMismatch> {
    let (port, port_use) = inspect_port(context, scope, unit, ready_probe).await?;
    let is_elsewhere = !port_use.unit_ports.is_empty() && !port_use.unit_ports.contains(&port);
    is_elsewhere.then_some(PortMismatch { port, unit_ports: port_use.unit_ports })
}

/// `None` if the probe uses no port, or if the runtime publishes the port itself.
async fn inspect_port(context: &Context, scope: &Scope, unit: &Unit, ready_probe: &Probe) -> Option<(u16, PortUse)> {
    let port = unit.ports.get(probe::port_name(&ready_probe.check)?)?.listen_port;
    let driver = context.shared.drivers.driver_of(&scope.targets, unit.runtime).ok()?;
    let port_use = driver.port_use(&scope.preview.id, &unit.name, port).await.ok()??;
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
        let mismatch = PortMismatch { port: 20123, unit_ports: vec![5173, 5174] };
        assert_eq!(mismatch.to_string(), "it listens on ports 5173, 5174, not on port 20123");
        assert!(mismatch.hint().contains("`PORT`, which is 20123 here"));
        assert_eq!(describe_ports(&[20123], 20123), "");
    }
}
