//! Who you are: the only crate that can hold a secret.
//!
//! Identities are names in the user's configuration. Secrets a manifest names are delivered as files on tmpfs where
//! there is one. Nothing else in the tree may learn how a secret looks.

pub mod approval;
pub mod audit;
pub mod broker;
pub mod clock;
mod delivery;
mod echo;
pub mod endpoint;
pub mod exchange;
mod http;
pub mod identity;
pub mod launch;
mod lease;
pub mod memory;
pub mod outlet;
mod place;
mod schedule;
mod secret;
pub mod secrets;
pub mod session;
mod source;
pub use source::{Flow, Prompt};
pub mod vault;
mod wiped;

pub use delivery::{Delivery, DeliveryProblem, ENDPOINT_TOKEN};
pub use place::Place;
pub use secret::Secret;
