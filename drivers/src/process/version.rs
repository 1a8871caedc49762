//! Checks the version of an installed program that a module runs, before its data is created.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use plan::application::ProgramVersion;

use super::launch::{Launcher, expand_version_glob};
use crate::problem::{Problem, ProblemKind};

const COMMAND_LIMIT: Duration = Duration::from_secs(10);

/// Returns a note that names the version, if the manifest accepts several.
pub(super) async fn check_version(launcher: &Launcher<'_>) -> Result<Option<String>, Problem> {
    let Some(wanted) = &launcher.spec.version else { return Ok(None) };
    let Some((name, arguments)) = wanted.command.split_first() else { return Ok(None) };
    let env = launcher.build_environment(launcher.resolve_account()?.as_ref());
    let folder = launcher.locations.data.clone();
    let program = match launcher.find_program(name, &env, &folder) {
        Ok(program) => program,
        Err(problem) => return Err(with_installed_versions(problem, launcher, wanted, name, arguments).await),
    };
    let software = &wanted.software;
    let Some(version) = read_version(&program, arguments).await else {
        let message =
            format!("cannot determine the version of {software} (`{} {}`)", program.display(), arguments.join(" "));
        return Err(Problem::new(ProblemKind::Refused, message));
    };
    if is_accepted(wanted, &version) {
        let unit = &launcher.unit.name;
        let note = || format!("`{unit}` uses {software} {version} (`{}`)", program.display());
        return Ok(wanted.accept.is_empty().then(note));
    }
    let message = format!(
        "cannot start `{}`: it needs {software} {}, but `{}` has version {version}",
        launcher.unit.name,
        accepted_text(wanted),
        program.display()
    );
    let problem = Problem::new(ProblemKind::ProgramNotFound, message);
    Err(with_installed_versions(problem, launcher, wanted, name, arguments).await)
}

/// Adds the installed versions and the ways to an accepted one.
async fn with_installed_versions(
    problem: Problem,
    launcher: &Launcher<'_>,
    wanted: &ProgramVersion,
    name: &str,
    arguments: &[String],
) -> Problem {
    let mut installed = Vec::new();
    for program in candidates(launcher, name) {
        if let Some(version) = read_version(&program, arguments).await {
            installed.push(format!("{version} (`{}`)", program.display()));
        }
    }
    let installed = match installed.as_slice() {
        [] => String::new(),
        versions => format!("Installed: {}. ", versions.join(", ")),
    };
    let package = match &wanted.package {
        Some(package) => {
            format!("Install {} {}, for example the package `{package}`", wanted.software, accepted_text(wanted))
        }
        None => format!("Install {} {}", wanted.software, accepted_text(wanted)),
    };
    let other = if wanted.accept.is_empty() {
        "or run it in a container (`runtime: docker`)".to_owned()
    } else {
        "write `uses` without a version to accept others, or run it in a container (`runtime: docker`)".to_owned()
    };
    problem.hint(format!("{installed}{package}, {other}."))
}

/// Every installed version: a pattern for one version is widened to all.
fn candidates(launcher: &Launcher<'_>, name: &str) -> Vec<PathBuf> {
    let version = launcher.spec.version.as_ref().and_then(|wanted| wanted.accept.first());
    let widened = launcher.spec.search_paths.iter().map(|pattern| match version {
        Some(version) => pattern.replace(&format!("@{version}/"), "*/").replace(&format!("/{version}/"), "/*/"),
        None => pattern.clone(),
    });
    let folders = widened.flat_map(|pattern| expand_version_glob(&pattern));
    let path = launcher.inherited_env.get("PATH").map(String::as_str).unwrap_or_default();
    let mut programs: Vec<PathBuf> = std::env::split_paths(path)
        .filter(|folder| folder.is_absolute())
        .chain(folders)
        .map(|folder| folder.join(name))
        .filter(|program| program.is_file())
        .collect();
    programs.dedup();
    programs
}

fn accepted_text(wanted: &ProgramVersion) -> String {
    match wanted.accept.as_slice() {
        [] => format!("{} or newer", wanted.minimum),
        versions => versions.join(" or "),
    }
}

fn is_accepted(wanted: &ProgramVersion, version: &str) -> bool {
    let major = version.split('.').next().unwrap_or_default();
    match wanted.accept.as_slice() {
        [] => major.parse::<u64>().is_ok_and(|major| major >= wanted.minimum),
        versions => versions.iter().any(|accepted| accepted == major),
    }
}

/// Runs the program and returns the first version number of its output.
async fn read_version(program: &Path, arguments: &[String]) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env_clear().current_dir("/").stdin(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(COMMAND_LIMIT, command.output()).await.ok()?.ok()?;
    first_version(&String::from_utf8_lossy(&output.stdout))
}

/// The first number with at least one dot: `15.18` of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn first_version(text: &str) -> Option<String> {
    let words = text.split(|letter: char| !(letter.is_ascii_digit() || letter == '.'));
    let versions = words.map(|word| word.trim_matches('.')).filter(|word| word.contains('.'));
    versions.map(str::to_owned).next().or_else(|| {
        // A version before its release has no dot: `postgres (PostgreSQL) 18beta1`.
        let numbers = text.split(|letter: char| !letter.is_ascii_digit()).filter(|word| !word.is_empty());
        numbers.map(str::to_owned).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_the_output_of_servers() {
        for (text, version) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some("15.18")),
            ("postgres (PostgreSQL) 18beta1\n", Some("18")),
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=a\n", Some("7.0.15")),
            ("usage\n", None),
        ] {
            assert_eq!(first_version(text).as_deref(), version, "{text}");
        }
    }

    #[test]
    fn listed_versions_are_exact_and_others_have_a_minimum() {
        let exact = ProgramVersion { accept: vec!["16".to_owned()], ..ProgramVersion::default() };
        assert!(is_accepted(&exact, "16.2") && !is_accepted(&exact, "15.18") && !is_accepted(&exact, "160.1"));
        let minimum = ProgramVersion { minimum: 13, ..ProgramVersion::default() };
        assert!(is_accepted(&minimum, "15.18") && is_accepted(&minimum, "13.0") && !is_accepted(&minimum, "9.6.1"));
        assert_eq!((accepted_text(&exact), accepted_text(&minimum)), ("16".to_owned(), "13 or newer".to_owned()));
    }
}
