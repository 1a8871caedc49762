//! The proxy over real sockets: one case per rule. Services are real servers on free loopback ports.
#![expect(clippy::unwrap_used, reason = "a helper that fails here fails its test")]

mod endings;
mod life;
mod names;
mod rig;
mod switching;
mod traffic;
