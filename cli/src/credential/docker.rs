//! `docker-credential-pdev` (protocol of docker-credential-helpers): get, store, erase, list.

use protocol::identity::CredentialRequest;

use super::{fetch_credential, print_problem, read_stdin, send_request, write_stdout};

/// docker compares this text exactly: it then continues without credentials. Any other text is a failure.
const NOT_FOUND: &[u8] = b"credentials not found in native keychain\n";

pub(super) fn run(operation: &str) -> u8 {
    match operation {
        "get" => get(),
        "erase" => erase(),
        "list" => write_stdout(b"{}\n"),
        "version" => write_stdout(concat!("docker-credential-pdev ", env!("CARGO_PKG_VERSION"), "\n").as_bytes()),
        "store" => {
            // docker prints this message. Without it, the user would believe that the login was stored.
            let _discarded = read_stdin();
            write_stdout(b"pdev stores logins per identity: use `pdev login NAME`\n");
            1
        }
        other => {
            write_stdout(format!("`{other}` is not an operation of a credential helper\n").as_bytes());
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
            // docker shows the standard output of a failed helper, not its standard error.
            write_stdout(format!("{}; {}\n", problem.title, problem.hint.clone().unwrap_or_default()).as_bytes());
            1
        }
    }
}

/// `docker logout`: the login stays, and the next request fetches a new credential.
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
