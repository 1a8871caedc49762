//! pdev as the credential helper of other tools, in the protocol of each tool (docs/credentials.md).
//!
//! A helper runs before every command of its tool, so it must start fast: no runtime and no option parser, only one
//! blocking request to the agent.

mod agent_request;
mod cargo;
mod docker;
mod git;
pub(crate) mod program;
pub(crate) mod setup;

use std::ffi::OsString;
use std::io::Write;

use protocol::Problem;
use protocol::identity::CredentialRequest;

use agent_request::{fetch_credential, send_request};

/// The links to this program, by which docker, git and cargo find their helpers.
pub(crate) const HELPER_LINKS: [(&str, &str); 3] =
    [("docker-credential-pdev", "docker"), ("git-credential-pdev", "git"), ("cargo-credential-pdev", "cargo")];

/// The exit code, if this process was started as a helper: through a link, or as `pdev credential TOOL ...`. `None` for
/// all other commands, for help, and for invalid requests.
pub(crate) fn run_as_helper(arguments: &[OsString]) -> Option<u8> {
    let mut arguments = arguments.iter().map(|argument| argument.to_str());
    let program = arguments.next()??;
    let name = program.rsplit('/').next().unwrap_or(program);
    if let Some((_, tool)) = HELPER_LINKS.iter().find(|(link, _)| *link == name) {
        return run(tool, &arguments.collect::<Option<Vec<_>>>()?);
    }
    if arguments.next() != Some(Some("credential")) {
        return None;
    }
    let tool = arguments.next()??;
    run(tool, &arguments.collect::<Option<Vec<_>>>()?)
}

fn run(tool: &str, arguments: &[&str]) -> Option<u8> {
    if arguments.iter().any(|argument| matches!(*argument, "-h" | "--help")) {
        return None;
    }
    match (tool, arguments) {
        ("docker", [operation]) => Some(docker::run(operation)),
        // git passes only the operation, never options. A later git may add operations, which `git::run` ignores.
        ("git", [operation]) => Some(git::run(operation)),
        ("cargo", ["--cargo-plugin", ..]) => Some(cargo::run()),
        ("aws" | "token", [identity]) if !identity.starts_with('-') => Some(print_credential(tool, identity)),
        ("kubectl", [identity]) if !identity.starts_with('-') => Some(print_credential(tool, identity)),
        _ => None,
    }
}

/// For tools that read the credential from standard output and show standard error to the user.
fn print_credential(form: &str, identity: &str) -> u8 {
    let request = CredentialRequest {
        identity: Some(identity.to_owned()),
        form: form.to_owned(),
        api_version: (form == "kubectl").then(api_version).flatten(),
        ..CredentialRequest::default()
    };
    match fetch_credential(&request) {
        Ok(bytes) => write_stdout(&bytes),
        Err(problem) => {
            print_problem(&problem);
            1
        }
    }
}

/// The version that kubectl requests in the variable that it sets for its plugins.
fn api_version() -> Option<String> {
    let text = std::env::var("KUBERNETES_EXEC_INFO").ok()?;
    let value: serde_json::Value = serde_json::from_str(&text).ok()?;
    value["apiVersion"].as_str().map(str::to_owned)
}

fn write_stdout(bytes: &[u8]) -> u8 {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Prints one or two lines, which the tool shows to the user.
fn print_problem(problem: &Problem) {
    let hint = problem.hint.as_ref().map(|hint| format!("\ntry: {hint}")).unwrap_or_default();
    let text = format!("pdev: {}{hint}\n", problem.title);
    // A failed write cannot be reported anywhere.
    let _ignored = std::io::stderr().lock().write_all(text.as_bytes());
}

/// Reads standard input up to a limit.
fn read_stdin() -> String {
    use std::io::Read;
    const BYTES_MAX: u64 = 64 << 10;
    let mut text = String::new();
    // After an error, the request is parsed from the text that was read.
    let _ignored = std::io::stdin().lock().take(BYTES_MAX).read_to_string(&mut text);
    text
}
