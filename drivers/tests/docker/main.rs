//! The Docker driver with a real engine. Without an engine, each test skips itself and reports it.

mod build;
mod credential_network;
mod driver_contract;
mod engine_restart;
mod exits;
mod foreign_objects;
mod ownership;
mod private_engine;
mod pull;
mod test_preview;
mod tls;
