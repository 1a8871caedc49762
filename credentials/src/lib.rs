//! Identities, credentials and secrets. This is the only crate that stores secrets and reads their values.
//!
//! Identities are names in the user's configuration. Secrets that a manifest names are delivered as files, on tmpfs
//! where available. Other crates only pass secrets on, as opaque [`Secret`] values.

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
