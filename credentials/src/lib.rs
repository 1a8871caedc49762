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
mod form_encoding;
pub mod format;
mod http;
pub mod identity;
pub mod launch;
mod lease;
pub mod memory;
mod problem;
mod redaction;
mod schedule;
mod secret;
pub mod secrets;
pub mod session;
mod source;
mod storage;
pub mod vault;
mod wiped_json;

pub use delivery::{DeliveryProblem, SecretDelivery};
pub use endpoint::ENDPOINT_TOKEN_FILE;
pub use problem::BrokerProblem;
pub use secret::Secret;
pub use source::{LoginPrompt, OAuthFlow, exchange};
pub use storage::CredentialPaths;
