//! Who you are: the only crate that can hold a secret.
//!
//! Identities are names in the user's configuration. Secrets a manifest names are delivered as files on tmpfs where
//! there is one. Nothing else in the tree may learn how a secret looks.

pub mod approval;
pub mod audit;
pub mod broker;
pub mod clock;
mod delivery;
pub mod endpoint;
pub mod exchange;
pub mod format;
mod http;
pub mod identity;
pub mod launch;
mod lease;
pub mod memory;
mod redaction;
mod schedule;
mod secret;
pub mod secrets;
pub mod session;
mod source;
mod storage;
pub use source::{LoginPrompt, OAuthFlow};
pub mod vault;
mod wiped_json;

pub use delivery::{DeliveryProblem, ENDPOINT_TOKEN_FILE, SecretDelivery};
pub use secret::Secret;
pub use storage::CredentialPaths;
