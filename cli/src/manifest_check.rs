//! Reads and checks a manifest in this process, so a wrong manifest does not start the agent.
//!
//! `plan::check` finds the problems; this module only builds its options and reports the result.

use std::collections::BTreeMap;
use std::ffi::OsString;

use agent::disk::Disk;
use host::clock::now_milliseconds;
use manifest::date::Date;
use manifest::{Diagnostic, Severity};
use plan::application::RuntimeKind;
use plan::check::{CheckOptions, CheckResult, check};
use plan::load::{LoadOptions, LoadedManifest};
use protocol::Problem;
use strings::nearest;

use crate::context::Context;
use crate::exit::{self, Failure};
use crate::humanize;
use crate::manifest_location::ManifestLocation;
use crate::render::diagnostic;

/// A loaded manifest and its diagnostics, in the order of the files.
pub(crate) struct CheckedManifest {
    pub(crate) location: ManifestLocation,
    pub(crate) loaded: LoadedManifest,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// Accepts the names of all runtimes as the value of an option.
pub(crate) fn runtime_names() -> clap::builder::PossibleValuesParser {
    clap::builder::PossibleValuesParser::new(RuntimeKind::ALL.iter().map(|runtime| runtime.name()))
}

/// The command-line options that change how a manifest is resolved.
#[derive(Clone, Copy, Default)]
pub(crate) struct ManifestOptions<'a> {
    pub(crate) environment: Option<&'a str>,
    pub(crate) sets: &'a [String],
    pub(crate) runtime: Option<&'a str>,
}

impl ManifestOptions<'_> {
    pub(crate) fn to_check_options(self) -> Result<CheckOptions, Failure> {
        // The command line accepts only known names.
        let runtime = self.runtime.and_then(|name| RuntimeKind::parse(name).ok());
        let load_options =
            LoadOptions { environment: self.environment.map(str::to_owned), sets: parse_sets(self.sets)? };
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Ok(CheckOptions {
            load_options,
            runtime,
            variables: std::env::vars_os().filter_map(text).collect(),
            today: Date::from_unix_milliseconds(now_milliseconds()),
        })
    }
}

pub(crate) fn read_and_check(
    location: &ManifestLocation,
    options: ManifestOptions<'_>,
) -> Result<CheckedManifest, Failure> {
    let options = options.to_check_options()?;
    let CheckResult { loaded, diagnostics, .. } = check(&location.file, &Disk::new(&location.folder), &options);
    Ok(CheckedManifest { location: location.clone(), loaded, diagnostics })
}

fn parse_sets(texts: &[String]) -> Result<Vec<manifest::SetOverride>, Failure> {
    let parse = |text: &String| {
        manifest::SetOverride::parse(text).map_err(|reason| {
            Failure::invalid_input(format!("`--set {text}`: {reason}"))
                .hint("Write it as `--set services.web.replicas=2`.")
        })
    };
    texts.iter().map(parse).collect()
}

impl CheckedManifest {
    pub(crate) fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count()
    }

    /// Prints the errors and fails if there are any. Only `pdev check` and the editor show warnings.
    pub(crate) fn refuse_errors(&self, context: &Context) -> Result<(), Failure> {
        let errors = self.count(Severity::Error);
        if errors == 0 {
            return Ok(());
        }
        if !context.json {
            for error in self.diagnostics.iter().filter(|diagnostic| diagnostic.severity == Severity::Error) {
                context.terminal.eprint_line(&diagnostic::render(
                    error,
                    &self.loaded.sources,
                    context.terminal.stderr_paint,
                ));
                context.terminal.eprint_line("");
            }
        }
        let message = format!("`{}` has {}; nothing was changed", self.location.file, humanize::count(errors, "error"));
        let first = self.diagnostics.iter().find(|diagnostic| diagnostic.severity == Severity::Error);
        let code = first.map_or("CODE", |diagnostic| diagnostic.code.0);
        let mut problem = Problem::new("manifest", 0, message)
            .hint(format!("Run `pdev explain {code}` to read about the first error."));
        if context.json {
            problem.diagnostics =
                agent::convert::diagnostics::diagnostic_views(&self.diagnostics, &self.loaded.sources);
        }
        Err(Failure { exit_code: exit::INVALID_INPUT, problem: Box::new(problem) })
    }

    /// Fails if `--service` names a unit that is not in the manifest.
    pub(crate) fn refuse_unknown_units(&self, names: &[String]) -> Result<(), Failure> {
        let manifest = &self.loaded.manifest;
        let known = || manifest.services.keys().chain(manifest.jobs.keys()).chain(manifest.resources.keys());
        let Some(unknown) = names.iter().find(|name| !known().any(|unit| unit == *name)) else { return Ok(()) };
        let failure = Failure::not_found(format!("`{}` has no service `{unknown}`", self.location.file));
        Err(match nearest(unknown, known().map(String::as_str)) {
            Some(near) => failure.hint(format!("Did you mean `{near}`?")),
            None => failure.hint(format!("Use one of {}.", known().cloned().collect::<Vec<_>>().join(", "))),
        })
    }

    pub(crate) fn refuse_unknown_job(&self, name: &str) -> Result<(), Failure> {
        let jobs = &self.loaded.manifest.jobs;
        if jobs.contains_key(name) {
            return Ok(());
        }
        let failure = Failure::not_found(format!("`{}` has no job `{name}`", self.location.file));
        Err(match nearest(name, jobs.keys().map(String::as_str)) {
            Some(near) => failure.hint(format!("Did you mean `{near}`?")),
            None if self.loaded.manifest.services.contains_key(name) => {
                failure.hint(format!("It is a service: run `pdev up --service {name}` or `pdev restart {name}`."))
            }
            None if jobs.is_empty() => failure.hint("Define jobs under `jobs:`; run `pdev explain jobs` to see how."),
            None => failure.hint(format!("Use one of {}.", jobs.keys().cloned().collect::<Vec<_>>().join(", "))),
        })
    }

    /// The environment variables that the manifest references as `${env.X}`. All others stay in this process, because
    /// they may contain secrets.
    pub(crate) fn referenced_variables(&self) -> BTreeMap<String, String> {
        let texts = self.loaded.sources.iter().map(|(_, source)| source.text.as_ref());
        let names = texts.flat_map(env_references);
        names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
    }

    /// The names of the secrets that the manifest declares.
    pub(crate) fn secret_names(&self) -> Vec<String> {
        self.loaded.manifest.secrets.keys().cloned().collect()
    }
}

/// The names after `${env.`. It also finds names in comments, which is harmless.
fn env_references(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${env.").map(|(at, start)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}
