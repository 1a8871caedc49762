//! Who you are: the only crate that can hold a secret.
//!
//! For now it delivers the secrets a manifest names, as files on tmpfs where there is one. Sources, the vault and the
//! outlets of cloud credentials join it here; nothing else in the tree may learn how a secret looks.

mod delivery;
mod secret;

pub use delivery::{Delivery, DeliveryProblem};
pub use secret::Secret;
