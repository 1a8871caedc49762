//! The proxy over real sockets: one case per rule. Services are real servers on free loopback ports.

mod names;
mod rig;
