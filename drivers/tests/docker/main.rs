//! The Docker driver against a real engine; skipped, and said so, where there is none.

mod bench;
mod build;
mod endpoint;
mod ends;
mod engines;
mod objects;
mod private;
mod promises;
mod pull;
mod tls;
