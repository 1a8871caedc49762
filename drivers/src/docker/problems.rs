//! Translates engine errors into [`Problem`]s. Knows the error texts of engines from 20.10 on; makes no calls.

use std::future::Future;
use std::time::Duration;

use bollard::errors::Error;
use plan::application::{Role, Unit};

use crate::problem::{Problem, ProblemKind};

/// Limits the wait for an engine call, because a paused engine accepts connections but never answers.
pub(super) async fn with_timeout<T>(
    limit: Duration,
    context: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Problem> {
    match tokio::time::timeout(limit, call).await {
        Ok(response) => response.map_err(|error| to_problem(context, &error)),
        Err(_) => Err(Problem::new(
            ProblemKind::Timeout,
            format!("{context}: the Docker engine did not answer within {} s", limit.as_secs()),
        )
        .hint("Check whether `docker info` answers, and restart the engine if it does not.")),
    }
}

pub(super) fn response_status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

pub(super) fn to_problem(context: &str, error: &Error) -> Problem {
    let (kind, message) = match error {
        Error::DockerResponseServerError { status_code, message } => (classify(*status_code, message), message.clone()),
        // Errors within a stream have no HTTP status.
        Error::DockerStreamError { error } => (classify(0, error), error.clone()),
        Error::RequestTimeoutError => (ProblemKind::Timeout, "no answer in time".to_owned()),
        Error::JsonDataError { .. } | Error::JsonSerdeError { .. } => (ProblemKind::Internal, error.to_string()),
        // All other errors are transport errors: the connection failed or broke.
        other => (ProblemKind::Unavailable, other.to_string()),
    };
    let problem = Problem::new(kind, format!("{context}: {}", message.trim()));
    match default_hint(kind, &message) {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Determines the kind from the engine's text. The order of the checks matters, because runc wraps one error in
/// another.
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

/// Why a unit did not start: the engine's innermost error, and a hint with the setting that fixes it.
pub(super) fn start_problem(name: &str, unit: Option<&Unit>, error: &Error) -> Problem {
    let (status, message) = match error {
        Error::DockerResponseServerError { status_code, message } => (*status_code, message.as_str()),
        other => return to_problem(&format!("cannot start `{name}`"), other),
    };
    let kind = classify(status, message);
    let problem = Problem::new(kind, format!("cannot start `{name}`: {}", innermost_message(message)));
    match unit
        .and_then(|unit| override_hint(unit, kind, message))
        .or_else(|| default_hint(kind, message).map(str::to_owned))
    {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Strips the engine's wrappers: for `OCI runtime create failed: ...: exec: "x": executable file not found in $PATH:
/// unknown`, returns the text after `exec:`.
pub(super) fn innermost_message(message: &str) -> String {
    let message = message.trim().trim_end_matches(": unknown");
    let prefixes = ["error mounting ", "exec: ", "error during container init: ", "process caused: "];
    let innermost = prefixes.into_iter().find_map(|prefix| {
        let position = message.rfind(prefix)?;
        // Keep the words `error mounting`, because the text after them is not understandable alone.
        Some(&message[if prefix.starts_with("error mounting") { position } else { position + prefix.len() }..])
    });
    let message = innermost.unwrap_or(message).trim();
    message.trim_end_matches(": unknown").trim_end_matches('.').to_owned()
}

/// The setting to change, for errors that the hardened rendering or the manifest can cause.
fn override_hint(unit: &Unit, kind: ProblemKind, message: &str) -> Option<String> {
    let path = match unit.role {
        Role::Service => format!("services.{}", unit.name),
        Role::Job => format!("jobs.{}", unit.name),
        // The user does not write a module's container, so no setting of theirs fixes it.
        Role::Resource => return None,
    };
    let lower = message.to_ascii_lowercase();
    Some(match kind {
        _ if lower.contains("bind source path does not exist") => {
            format!("Create that file or folder, or correct `{path}.volumes`.")
        }
        ProblemKind::ReadOnlyFilesystem => {
            format!("Set `{path}.security: {{ read_only: false }}`, or mount a volume where the program writes.")
        }
        ProblemKind::PermissionDenied if lower.contains("exec") => {
            "Make the program executable in the image (`RUN chmod +x PROGRAM`).".to_owned()
        }
        ProblemKind::PermissionDenied => format!(
            "If it needs a capability, add it: `{path}.security: {{ capabilities: [NAME] }}`; see `pdev explain PD005`."
        ),
        ProblemKind::ProgramNotFound => {
            format!("Use a program that the image contains: `{path}.command: [PROGRAM, ARGUMENT]`.")
        }
        ProblemKind::ExecFormat => format!(
            "Build or pull it for the engine's processor (`{path}.build: {{ platform: linux/amd64 }}`), or start the script with a `#!` line."
        ),
        ProblemKind::OutOfMemory => format!("Raise its memory limit: `{path}.size: {{ memory: 4Gi }}`."),
        ProblemKind::PortTaken => {
            format!(
                "Stop the program that uses the port, or remove `host` from `{path}.port` so that pdev chooses one."
            )
        }
        _ => return None,
    })
}

/// Extracts the port that the engine could not listen on: `Bind for 127.0.0.1:8080 failed: ...`.
pub(super) fn find_taken_port(message: &str) -> Option<u16> {
    let ports = message.match_indices("127.0.0.1:").filter_map(|(position, prefix)| {
        let digits: String = message[position + prefix.len()..].chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    });
    // The engine wraps errors, so the last address is the innermost one.
    ports.last()
}

fn default_hint(kind: ProblemKind, text: &str) -> Option<&'static str> {
    if text.contains("non-overlapping") || text.contains("predefined address pools") {
        return Some(
            "Remove unused networks with `docker network prune`, because the engine has no free network addresses.",
        );
    }
    Some(match kind {
        ProblemKind::PortTaken => "Stop the program that uses the port, or choose another port.",
        ProblemKind::DiskFull => "Free space on the engine's disk, for example with `docker system prune`.",
        ProblemKind::ExecFormat => {
            "Set `platform` if the image is for another processor, or add the missing `#!` line to its script."
        }
        ProblemKind::PullDenied => "Log in with `docker login`, or correct the image's name.",
        ProblemKind::ImageNotFound => "Correct the image's name and tag.",
        ProblemKind::ReadOnlyFilesystem => {
            "Set `security: { read_only: false }`, or mount a volume where the program writes."
        }
        ProblemKind::ProgramNotFound => "Correct `command`, or use an image that contains the program.",
        ProblemKind::PermissionDenied => {
            "Make the program executable, or grant the capability it needs with `security.capabilities`."
        }
        ProblemKind::OutOfMemory => "Raise the unit's memory limit.",
        ProblemKind::Unavailable => "Check the network and the engine, then try again.",
        _ => return None,
    })
}
