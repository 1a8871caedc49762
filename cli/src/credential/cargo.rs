//! `cargo-credential-pdev` (the Cargo book, "Credential Provider Protocol"): one JSON message a line, both ways.

use std::io::BufRead;

use protocol::identity::CredentialRequest;
use serde_json::{Value, json};

use super::{credential, give};

pub(super) fn run() -> u8 {
    if give(b"{\"v\":[1]}\n") != 0 {
        return 1;
    }
    for line in std::io::stdin().lock().lines() {
        let Ok(line) = line else { return 1 };
        if give(&answer(&line)) != 0 {
            return 1;
        }
    }
    0
}

fn answer(line: &str) -> Vec<u8> {
    let Ok(request) = serde_json::from_str::<Value>(line) else {
        return error(&json!({ "kind": "other", "message": "no JSON", "caused-by": [] }));
    };
    if request["kind"] != "get" {
        return error(&json!({ "kind": "operation-not-supported" }));
    }
    let url = request["registry"]["index-url"].as_str().unwrap_or_default();
    let server = url.trim_start_matches("sparse+").to_owned();
    if !server.starts_with("https://")
        && !server.starts_with("http://127.0.0.1")
        && !server.starts_with("http://localhost")
    {
        return error(&json!({ "kind": "url-not-supported" }));
    }
    let request = CredentialRequest { server: Some(server), form: "cargo".to_owned(), ..CredentialRequest::default() };
    match credential(&request) {
        Ok(bytes) => bytes,
        Err(problem) if problem.code == "identity_unknown" => error(&json!({ "kind": "not-found" })),
        Err(problem) => {
            let causes: Vec<String> = problem.hint.iter().cloned().collect();
            error(&json!({ "kind": "other", "message": problem.title, "caused-by": causes }))
        }
    }
}

fn error(value: &Value) -> Vec<u8> {
    format!("{}\n", json!({ "Err": value })).into_bytes()
}
