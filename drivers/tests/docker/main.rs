//! The Docker driver against a real engine; skipped, and said so, where there is none.

mod bench;
mod build;
mod ends;
mod objects;
mod promises;
mod pull;
