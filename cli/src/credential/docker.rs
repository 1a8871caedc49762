//! `docker-credential-pdev` (docker-credential-helpers' protocol): get, store, erase, list.

use protocol::identity::CredentialRequest;

use super::{fetch_credential, print_problem, read_stdin, send_request, write_stdout};

/// Word for word, or docker takes it for a failure instead of "ask without credentials".
const NOT_FOUND: &[u8] = b"credentials not found in native keychain\n";

pub(super) fn run(verb: &str) -> u8 {
    match verb {
        "get" => get(),
        "erase" => erase(),
        "list" => write_stdout(b"{}\n"),
        "version" => write_stdout(concat!("docker-credential-pdev ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()),
        "store" => {
            // Docker shows this; silence would look like a login that was kept.
            let _all = read_stdin();
            write_stdout(b"pdev keeps logins by identity: use `pdev login NAME`\n");
            1
        }
        other => {
            write_stdout(format!("`{other}` is no verb of a credential helper\n").as_bytes());
            1
        }
    }
}

fn read_request() -> CredentialRequest {
    CredentialRequest { server: Some(read_stdin().trim().to_owned()), form: "docker".to_owned(), ..Default::default() }
}

fn get() -> u8 {
    match fetch_credential(&read_request()) {
        Ok(bytes) => write_stdout(&bytes),
        Err(problem) if problem.code == "identity_unknown" => {
            write_stdout(NOT_FOUND);
            1
        }
        Err(problem) => {
            // Docker shows a helper's standard output, not its standard error.
            write_stdout(format!("{}; {}\n", problem.title, problem.hint.clone().unwrap_or_default()).as_bytes());
            1
        }
    }
}

/// `docker logout`: the login stays, the credential is fetched anew.
fn erase() -> u8 {
    let body = serde_json::to_vec(&read_request()).unwrap_or_default();
    match send_request("POST", "/v1/credentials/rejected", &body) {
        Ok(_) => 0,
        Err(problem) => {
            print_problem(&problem);
            1
        }
    }
}
