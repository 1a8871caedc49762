//! A stand-alone keeper for the tests of this crate: runs the same `main` as `pdev keeper`.

use std::process::ExitCode;

fn main() -> ExitCode {
    drivers::process::keeper::main(std::env::args_os().skip(2))
}
