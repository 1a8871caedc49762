//! `pdev run --as IDENTITY -- PROGRAM`: a program with an identity's credential in its environment, and in nobody else's.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;

use protocol::identity::CredentialRequest;

use super::credential;
use crate::exit::{EXEC_FAILED, Failure, Outcome};
use crate::words;

/// Other credentials of the caller's environment would win over the asked ones, or mix with them.
const CLEARED: [&str; 6] = [
    "AWS_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
];

/// Becomes the program: its exit code and signals are its own.
pub(crate) fn run(identity: &str, command: &[OsString], folder: &std::path::Path) -> Outcome {
    let Some((program, arguments)) = command.split_first() else {
        return Err(Failure::wrong("no program is given").hint("Write it after `--`: `pdev run --as NAME -- PROGRAM`."));
    };
    let request = CredentialRequest {
        identity: Some(identity.to_owned()),
        form: "env".to_owned(),
        ..CredentialRequest::default()
    };
    let bytes = credential(&request).map_err(|problem| Failure { exit: EXEC_FAILED, problem })?;
    let mut started = std::process::Command::new(program);
    started.args(arguments).current_dir(folder);
    for name in CLEARED {
        started.env_remove(name);
    }
    for (name, value) in pairs(bytes) {
        started.env(name, value);
    }
    let error = started.exec();
    let code = if error.kind() == std::io::ErrorKind::NotFound { 127 } else { 126 };
    let message = format!("cannot start `{}`: {}", program.display(), words::plain(&error));
    Err(Failure::new(code, "program_not_started", message))
}

/// `NAME=value`, each ended by a NUL.
fn pairs(bytes: Vec<u8>) -> Vec<(OsString, OsString)> {
    let split = |pair: &[u8]| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        Some((OsString::from_vec(pair[..at].to_vec()), OsString::from_vec(pair[at + 1..].to_vec())))
    };
    bytes.split(|byte| *byte == 0).filter_map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environments() {
        let read = pairs(b"A=1\0B=x=y\nz\0".to_vec());
        assert_eq!(read, [("A".into(), "1".into()), ("B".into(), "x=y\nz".into())]);
    }
}
