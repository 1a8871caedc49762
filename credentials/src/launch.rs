//! How the agent starts other people's programs: with the limit of open files that its own starter had, not the one it
//! raised for itself. What happens between fork and exec cannot be said safely, so this binary starts once more,
//! lowers its own limit, and becomes the program.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Command;

/// The first word of such a start; not for people.
pub const COMMAND_NAME: &str = "launch";
/// Beyond what programs end with by themselves; the words on standard error say which it was.
const NOT_STARTED_EXIT_CODE: u8 = 125;
const FAILURE_PREFIX: &str = "cannot start `";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Launcher {
    /// This binary.
    pub program: PathBuf,
    /// The soft limit of open files.
    pub open_files_limit: u64,
}

impl Launcher {
    /// Not where this binary was removed under the agent that runs: then programs start with the agent's limit.
    pub(crate) fn is_available(&self) -> bool {
        self.program.is_file()
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(COMMAND_NAME).arg(self.open_files_limit.to_string()).arg(program);
        command
    }
}

/// Why the program was never started, if it is so: by how the process ended, and the last it said.
pub(crate) fn is_start_failure(code: Option<i32>, last: &str) -> bool {
    code == Some(i32::from(NOT_STARTED_EXIT_CODE)) && last.starts_with(FAILURE_PREFIX)
}

/// Becomes the program. Arguments: the limit, the program, and its own.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments = arguments.into_iter();
    let limit = arguments.next().and_then(|limit| limit.to_str()?.parse().ok());
    let (Some(limit), Some(program)) = (limit, arguments.next()) else { return NOT_STARTED_EXIT_CODE };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _higher_is_no_harm = setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum });
    let error = std::process::Command::new(&program).args(arguments).exec();
    let _nobody_reads = writeln!(std::io::stderr(), "{FAILURE_PREFIX}{}`: {error}", program.display());
    NOT_STARTED_EXIT_CODE
}
