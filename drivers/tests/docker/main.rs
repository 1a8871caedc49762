//! The Docker driver against a real engine; skipped, and said so, where there is none.

mod build;
mod credential_network;
mod driver_contract;
mod engine_restart;
mod exits;
mod ownership;
mod private_engine;
mod pull;
mod test_preview;
mod tls;
