//! Engine errors put into the words and kinds of [`Problem`]. Knows texts of engines from 20.10 on; calls nothing.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error;
use plan::application::{Role, Unit};

use crate::driver::{Problem, ProblemKind};

/// Waits for an engine call no longer than `limit`: a paused engine accepts connections and never answers.
pub(super) async fn with_timeout<T>(
    limit: Duration,
    what: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(|error| to_problem(what, &error)),
        Err(_) => Err(Problem::new(
            ProblemKind::Timeout,
            format!("{what}: the Docker engine did not answer within {} s", limit.as_secs()),
        )
        .hint("See whether `docker info` answers; restart the engine when it does not.")),
    }
}

pub(super) fn response_status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

pub(super) fn to_problem(what: &str, error: &Error) -> Problem {
    let (kind, words) = match error {
        Error::DockerResponseServerError { status_code, message } => (classify(*status_code, message), message.clone()),
        Error::DockerStreamError { error } => (classify(0, error), error.clone()),
        Error::RequestTimeoutError => (ProblemKind::Timeout, "no answer in time".to_owned()),
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => (ProblemKind::Internal, error.to_string()),
        other => (ProblemKind::Unavailable, other.to_string()),
    };
    let problem = Problem::new(kind, format!("{what}: {}", words.trim()));
    match default_hint(kind, &words) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// What the engine's text says went wrong. The order matters: runc wraps one error in another.
pub(super) fn classify(status: u16, text: &str) -> ProblemKind {
    let text = text.to_ascii_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| text.contains(needle));
    if has(&["port is already allocated", "address already in use", "ports are not available"]) {
        ProblemKind::PortTaken
    } else if has(&["no space left on device", "disk quota exceeded"]) {
        ProblemKind::DiskFull
    } else if has(&["exec format error"]) {
        ProblemKind::ExecFormat
    } else if has(&["pull access denied", "unauthorized", "authentication required", "resource is denied"]) {
        ProblemKind::PullDenied
    } else if has(&["no such image", "manifest unknown", "manifest for", "repository name not known"]) {
        ProblemKind::ImageNotFound
    } else if has(&["read-only file system"]) {
        ProblemKind::ReadOnlyFilesystem
    } else if has(&["no such file or directory", "executable file not found"]) {
        ProblemKind::ProgramNotFound
    } else if has(&["permission denied", "operation not permitted"]) {
        ProblemKind::PermissionDenied
    } else if has(&["cannot allocate memory", "minimum memory limit"]) {
        ProblemKind::OutOfMemory
    } else if status == 404 {
        ProblemKind::NotFound
    } else if has(&["dial tcp", "no such host", "tls handshake timeout", "i/o timeout", "connection refused"]) {
        ProblemKind::Unavailable
    } else if (400..500).contains(&status) || has(&["invalid", "non-overlapping", "all predefined address pools"]) {
        ProblemKind::Refused
    } else {
        ProblemKind::Internal
    }
}

/// Why a unit did not start: the engine's wrappers cut away, and the one line that changes it.
pub(super) fn start_problem(name: &str, unit: Option<&Unit>, error: &Error) -> Problem {
    let (status, words) = match error {
        Error::DockerResponseServerError { status_code, message } => (*status_code, message.as_str()),
        other => return to_problem(&format!("cannot start `{name}`"), other),
    };
    let kind = classify(status, words);
    let problem = Problem::new(kind, format!("cannot start `{name}`: {}", innermost_message(words)));
    match unit
        .and_then(|unit| override_hint(unit, kind, words))
        .or_else(|| default_hint(kind, words).map(str::to_owned))
    {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// `OCI runtime create failed: ...: exec: "x": executable file not found in $PATH: unknown`: what is behind `exec:`.
pub(super) fn innermost_message(words: &str) -> String {
    let words = words.trim().trim_end_matches(": unknown");
    let signs = ["error mounting ", "exec: ", "error during container init: ", "process caused: "];
    let found = signs.into_iter().find_map(|sign| {
        let at = words.rfind(sign)?;
        Some(&words[if sign.starts_with("error mounting") { at } else { at + sign.len() }..])
    });
    let words = found.unwrap_or(words).trim();
    words.trim_end_matches(": unknown").trim_end_matches('.').to_owned()
}

/// What to write where, for refusals that the hardened rendering or the manifest can cause.
fn override_hint(unit: &Unit, kind: ProblemKind, words: &str) -> Option<String> {
    let place = match unit.role {
        Role::Service => format!("services.{}", unit.name),
        Role::Job => format!("jobs.{}", unit.name),
        // A module's container is not written by the user.
        Role::Resource => return None,
    };
    let lower = words.to_ascii_lowercase();
    Some(match kind {
        _ if lower.contains("bind source path does not exist") => {
            format!("Create that file or folder, or correct `{place}.volumes`.")
        }
        ProblemKind::ReadOnlyFilesystem => {
            format!("Set `{place}.security: {{ read_only: false }}`, or mount a volume where it writes.")
        }
        ProblemKind::PermissionDenied if lower.contains("exec") => {
            "Make the program executable in the image (`RUN chmod +x PROGRAM`).".to_owned()
        }
        ProblemKind::PermissionDenied => format!(
            "If it needs a capability, add it: `{place}.security: {{ capabilities: [NAME] }}`; `pdev explain PD005` tells more."
        ),
        ProblemKind::ProgramNotFound => {
            format!("Name a program that is in the image: `{place}.command: [PROGRAM, ARGUMENT]`.")
        }
        ProblemKind::ExecFormat => format!(
            "Build or pull it for the engine's processor (`{place}.build: {{ platform: linux/amd64 }}`), or begin the script with `#!`."
        ),
        ProblemKind::OutOfMemory => format!("Give it more: `{place}.size: {{ memory: 4Gi }}`."),
        ProblemKind::PortTaken => {
            format!("Stop what holds the port, or let pdev choose one: leave `host` out of `{place}.port`.")
        }
        _ => return None,
    })
}

/// The port of this machine that the engine could not listen on: `Bind for 127.0.0.1:8080 failed: ...`.
pub(super) fn find_taken_port(words: &str) -> Option<u16> {
    let ports = words.match_indices("127.0.0.1:").filter_map(|(at, sign)| {
        let digits: String = words[at + sign.len()..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    ports.last()
}

fn default_hint(kind: ProblemKind, text: &str) -> Option<&'static str> {
    if text.contains("non-overlapping") || text.contains("predefined address pools") {
        return Some("The engine ran out of network addresses: remove unused networks with `docker network prune`.");
    }
    Some(match kind {
        ProblemKind::PortTaken => "Stop the program that holds the port, or give the unit another one.",
        ProblemKind::DiskFull => "Free space on the engine's disk, for example with `docker system prune`.",
        ProblemKind::ExecFormat => {
            "The image is for another processor or its script lacks a `#!` line: set `platform`, or fix the script."
        }
        ProblemKind::PullDenied => "Log in with `docker login`, or correct the image's name.",
        ProblemKind::ImageNotFound => "Correct the image's name and tag.",
        ProblemKind::ReadOnlyFilesystem => {
            "Set `security: { read_only: false }`, or mount a volume where the program writes."
        }
        ProblemKind::ProgramNotFound => "Correct `command`, or use an image that holds the program.",
        ProblemKind::PermissionDenied => {
            "Make the program executable, or grant the capability it needs with `security.capabilities`."
        }
        ProblemKind::OutOfMemory => "Raise the unit's memory limit.",
        ProblemKind::Unavailable => "Check the network and the engine, then try again.",
        _ => return None,
    })
}
