//! Journeys: user actions through the real binary, with real programs and a real engine.
//!
//! Each journey has its own home, socket folder and checkout, and removes everything at the end; see `sandbox`.
//! A journey whose counterpart is missing prints `skipped: WHAT: WHY`, and `tests/run` counts it as skipped.
#![expect(clippy::unwrap_used, reason = "a failed step of a journey ends it, with its line")]
#![expect(clippy::print_stdout, reason = "`tests/run` reads the reason of a skip from standard output")]

mod agent_lifecycle;
mod approvals;
mod aws;
mod cli_basics;
mod cloud_sources;
mod concurrent_requests;
mod credential_formats;
mod doctor;
mod endpoints;
mod engine;
mod failures;
mod faulty_provider;
mod first_up;
mod http;
mod identities;
mod keyring;
mod leak_search;
mod login_expiry;
mod login_failures;
mod logins;
mod lost_records;
mod memory;
mod mfa_codes;
mod moves;
mod ordinary_user;
mod outbound_proxy;
mod preview_programs;
#[path = "../../drivers/tests/docker/private_engine.rs"]
mod private_engine;
mod proxy;
mod random_actions;
mod restarts;
mod run_as;
mod sandbox;
mod secret_leaks;
mod secrets;
mod self_approval;
mod session_previews;
mod sessions;
mod shells;
mod shop;
mod targets;
mod token_rotation;
mod weak_approvals;
