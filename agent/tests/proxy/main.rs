//! Tests of the proxy over real sockets. Services are real servers on free loopback ports.
#![expect(clippy::unwrap_used, reason = "a helper that fails here fails its test")]

mod aborted_exchanges;
mod harness;
mod host_routing;
mod lifecycle;
mod protocol_upgrades;
mod traffic;
