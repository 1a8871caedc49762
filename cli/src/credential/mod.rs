//! pdev as the credential helper of other tools: their words in, their bytes out.
//!
//! A helper runs before every command of its tool, so nothing is set up here: no runtime, no parser of options, one
//! blocking request to the agent. What each tool expects byte for byte stands in docs/credentials.md.

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

/// Links to the one binary, by which docker, git and cargo find their helpers.
pub(crate) const HELPER_LINKS: [(&str, &str); 3] =
    [("docker-credential-pdev", "docker"), ("git-credential-pdev", "git"), ("cargo-credential-pdev", "cargo")];

/// The exit code, if this process was started as a helper: by the name of a link, or as `pdev credential TOOL ...`.
pub(crate) fn run_as_helper(arguments: &[OsString]) -> Option<u8> {
    let mut words = arguments.iter().map(|word| word.to_str());
    let program = words.next()??;
    let name = program.rsplit('/').next().unwrap_or(program);
    if let Some((_, tool)) = HELPER_LINKS.iter().find(|(link, _)| *link == name) {
        return run(tool, &words.collect::<Option<Vec<_>>>()?);
    }
    if words.next() != Some(Some("credential")) {
        return None;
    }
    let tool = words.next()??;
    run(tool, &words.collect::<Option<Vec<_>>>()?)
}

fn run(tool: &str, words: &[&str]) -> Option<u8> {
    if words.iter().any(|word| matches!(*word, "-h" | "--help")) {
        return None;
    }
    match (tool, words) {
        ("docker", [verb]) => Some(docker::run(verb)),
        // A later git may know more verbs, and passes none of its options.
        ("git", [verb]) => Some(git::run(verb)),
        ("cargo", ["--cargo-plugin", ..]) => Some(cargo::run()),
        ("aws" | "token", [identity]) if !identity.starts_with('-') => Some(print_credential(tool, identity)),
        ("kubectl", [identity]) if !identity.starts_with('-') => Some(print_credential(tool, identity)),
        _ => None,
    }
}

/// Tools that take the answer as it is and show standard error to their user.
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

/// What kubectl asks for, in the variable that it sets for its plugins.
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

/// One or two lines, which the tool shows to its user.
fn print_problem(problem: &Problem) {
    let hint = problem.hint.as_ref().map(|hint| format!("\ntry: {hint}")).unwrap_or_default();
    let text = format!("pdev: {}{hint}\n", problem.title);
    let _nobody_reads = std::io::stderr().lock().write_all(text.as_bytes());
}

/// All of standard input, bounded.
fn read_stdin() -> String {
    use std::io::Read;
    const BYTES_MAX: u64 = 64 << 10;
    let mut text = String::new();
    let _what_there_is = std::io::stdin().lock().take(BYTES_MAX).read_to_string(&mut text);
    text
}
