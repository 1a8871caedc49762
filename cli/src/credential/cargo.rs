//! `cargo-credential-pdev` (the Cargo book, "Credential Provider Protocol"): one JSON message per line, both ways.

use std::io::BufRead;

use protocol::identity::CredentialRequest;
use serde_json::{Value, json};

use super::{fetch_credential, write_stdout};

pub(super) fn run() -> u8 {
    // The provider sends the first message: the protocol versions that it supports.
    if write_stdout(b"{\"v\":[1]}\n") != 0 {
        return 1;
    }
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return 1 };
        if write_stdout(&handle_request(&line)) != 0 {
            return 1;
        }
    }
    0
}

fn handle_request(line: &str) -> Vec<u8> {
    let Ok(request) = serde_json::from_str::<Value>(line) else {
        return error_line(&json!({ "kind": "other", "message": "the request is not JSON", "caused-by": [] }));
    };
    if request["kind"] != "get" {
        return error_line(&json!({ "kind": "operation-not-supported" }));
    }
    let url = request["registry"]["index-url"].as_str().unwrap_or_default();
    let server = url.trim_start_matches("sparse+").to_owned();
    // A secret must not travel over plain HTTP, except on the loopback.
    if !server.starts_with("https://")
        && !server.starts_with("http://127.0.0.1")
        && !server.starts_with("http://localhost")
    {
        return error_line(&json!({ "kind": "url-not-supported" }));
    }
    let request = CredentialRequest { server: Some(server), form: "cargo".to_owned(), ..CredentialRequest::default() };
    match fetch_credential(&request) {
        Ok(bytes) => bytes,
        Err(problem) if problem.code == "identity_unknown" => error_line(&json!({ "kind": "not-found" })),
        Err(problem) => {
            let causes: Vec<String> = problem.hint.iter().cloned().collect();
            error_line(&json!({ "kind": "other", "message": problem.title, "caused-by": causes }))
        }
    }
}

fn error_line(value: &Value) -> Vec<u8> {
    format!("{}\n", json!({ "Err": value })).into_bytes()
}
