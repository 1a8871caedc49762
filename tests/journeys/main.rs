//! Journeys: what a person does, through the real binary, against real programs and a real engine.
//!
//! Each journey has a home, a socket folder and a checkout of its own, and leaves nothing behind; see `sandbox`.
//! A journey whose counterpart is missing here says `skipped: REASON` and counts as skipped in `tests/run`.
#![expect(clippy::unwrap_used, reason = "a failed step of a journey ends it, with its line")]
#![expect(clippy::print_stdout, reason = "`tests/run` reads why a journey was skipped")]

mod agent_life;
mod approvals;
mod askers;
mod aws;
mod canary;
mod codes;
mod doctor;
mod endings;
mod endpoints;
mod engine;
mod failures;
mod first_up;
mod http;
mod identities;
mod keyring;
mod logins;
mod memory;
mod mishaps;
mod outlets;
#[path = "../../drivers/tests/docker/private.rs"]
mod private;
mod proxied;
mod proxy;
mod rotations;
mod running_as;
mod sandbox;
mod search;
mod secrets;
mod self_approval;
mod session_previews;
mod sessions;
mod shop;
mod sources;
mod unruly;
mod words;
