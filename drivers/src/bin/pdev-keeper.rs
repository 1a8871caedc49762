//! A keeper alone, for the tests of this crate: the same `main` that `pdev keeper` runs.

use std::process::ExitCode;

fn main() -> ExitCode {
    drivers::process::keeper::main(std::env::args_os().skip(2))
}
