//! Who you are: the only crate that can hold a secret.
//!
//! Identities are names in the user's configuration. Secrets a manifest names are delivered as files on tmpfs where
//! there is one. Nothing else in the tree may learn how a secret looks.

mod delivery;
pub mod identity;
mod place;
mod secret;
pub mod secrets;
pub mod vault;

pub use delivery::{Delivery, DeliveryProblem};
pub use place::Place;
pub use secret::Secret;
