//! Is somebody else already listening where this unit is to be reached?

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use plan::application::Unit;

use crate::driver::{Problem, ProblemKind};

/// Asked immediately before the start, on both loopback families: a server on `::1` alone breaks probes just as well.
/// A port that is merely bound (pdev holds it for this unit) is not taken, and neither is one in TIME_WAIT.
pub(super) fn check_ports(unit: &Unit) -> Result<(), Problem> {
    for (name, port) in &unit.ports {
        let attempts =
            [TcpListener::bind((Ipv4Addr::LOCALHOST, port.host)), TcpListener::bind((Ipv6Addr::LOCALHOST, port.host))];
        for attempt in attempts {
            if attempt.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
                return Err(taken(unit, name, port.host));
            }
        }
    }
    Ok(())
}

fn taken(unit: &Unit, name: &str, port: u16) -> Problem {
    let which = if name == "main" { "port".to_owned() } else { format!("port `{name}`") };
    let message = format!("{which} `{port}` of `{}` is taken", unit.name);
    Problem::new(ProblemKind::PortTaken, message).hint("End the program that listens there, or choose another port.")
}
