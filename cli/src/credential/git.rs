//! `git-credential-pdev` (gitcredentials(7), git-credential(1)): attributes in, attributes out.
//!
//! If no identity has the host in its `hosts`, this helper prints nothing, and git asks its next helper.

use protocol::identity::CredentialRequest;

use super::{fetch_credential, print_problem, read_stdin, send_request, write_stdout};

pub(super) fn run(operation: &str) -> u8 {
    match operation {
        "get" => get(),
        // git sends this after a 401: the server refused the credential, but the login stays.
        "erase" => erase(),
        _ => {
            // `store`, and operations of later versions.
            let _discarded = read_stdin();
            0
        }
    }
}

/// The request, or `None` if a secret must not travel over its protocol.
fn parse_request(text: &str) -> Option<CredentialRequest> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let host = value("host")?;
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    let is_safe = match value("protocol")? {
        "https" => true,
        "http" => matches!(name, "localhost" | "127.0.0.1" | "[::1]"),
        _ => false,
    };
    let authtype = text.lines().any(|line| line == "capability[]=authtype");
    is_safe.then(|| CredentialRequest {
        server: Some(host.to_owned()),
        form: "git".to_owned(),
        authtype,
        ..CredentialRequest::default()
    })
}

fn get() -> u8 {
    let Some(request) = parse_request(&read_stdin()) else { return 0 };
    match fetch_credential(&request) {
        Ok(bytes) => write_stdout(&bytes),
        Err(problem) if problem.code == "identity_unknown" => 0,
        Err(problem) => {
            print_problem(&problem);
            // Stop git here: its password prompt would hide the hint that was just printed.
            write_stdout(b"quit=1\n")
        }
    }
}

fn erase() -> u8 {
    let Some(request) = parse_request(&read_stdin()) else { return 0 };
    let body = serde_json::to_vec(&request).unwrap_or_default();
    match send_request("POST", "/v1/credentials/rejected", &body) {
        Ok(_) => 0,
        Err(problem) => {
            print_problem(&problem);
            1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_allowed_only_for_localhost() {
        let server = |text: &str| parse_request(text).and_then(|request| request.server);
        assert_eq!(server("protocol=https\nhost=git.example.org\n"), Some("git.example.org".into()));
        assert_eq!(server("protocol=http\nhost=git.example.org\n"), None);
        assert_eq!(server("protocol=http\nhost=localhost:3000\n"), Some("localhost:3000".into()));
        assert_eq!(server("protocol=ftp\nhost=x\n"), None);
        assert_eq!(server("host=x\n"), None);
        let request = parse_request("capability[]=authtype\nprotocol=https\nhost=x\n").unwrap();
        assert!(request.authtype && request.form == "git");
    }
}
