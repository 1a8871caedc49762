//! Starts programs of the user with the open-file limit that the agent's starter had, not with the limit that the agent
//! raised for itself.
//!
//! Setting the limit between fork and exec needs unsafe code, which the workspace forbids. Therefore this binary is
//! started a second time, lowers its own limit, and replaces itself by the program.

use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::process::Command;

/// The first argument of such a start. It is internal and not in the help.
pub const COMMAND_NAME: &str = "launch";
/// Most programs do not exit with this code. The message on standard error decides whether it came from the launcher.
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
    /// False if this binary was removed while the agent runs. Programs then start with the limit of the agent.
    pub(crate) fn is_available(&self) -> bool {
        self.program.is_file()
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(COMMAND_NAME).arg(self.open_files_limit.to_string()).arg(program);
        command
    }
}

/// Whether the launcher failed to start the program, judged by the exit code and the last line of standard error.
pub(crate) fn is_start_failure(code: Option<i32>, last_line: &str) -> bool {
    code == Some(i32::from(NOT_STARTED_EXIT_CODE)) && last_line.starts_with(FAILURE_PREFIX)
}

/// Replaces this process by the program. Arguments: the limit, the program, and the arguments of the program. Returns
/// only if the program cannot be started.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let mut arguments = arguments.into_iter();
    let limit = arguments.next().and_then(|limit| limit.to_str()?.parse().ok());
    let (Some(limit), Some(program)) = (limit, arguments.next()) else { return NOT_STARTED_EXIT_CODE };
    // Lower only the soft limit, so that the program can raise it again.
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _keeping_the_higher_limit_is_harmless = setrlimit(Resource::Nofile, Rlimit { current: Some(limit), maximum });
    let error = std::process::Command::new(&program).args(arguments).exec();
    let _stderr_may_be_closed = writeln!(std::io::stderr(), "{FAILURE_PREFIX}{}`: {error}", program.display());
    NOT_STARTED_EXIT_CODE
}
