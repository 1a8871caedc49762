//! Reading and checking a manifest on this side, so that a wrong one needs no agent.
//!
//! What is found is `plan::check`'s; here are the words of the command line around it.

use std::collections::BTreeMap;
use std::ffi::OsString;

use agent::disk::Disk;
use manifest::model::Date;
use manifest::nearest::nearest;
use manifest::{Diagnostic, Severity};
use plan::application::RuntimeKind;
use plan::check::{CheckOptions, CheckResult, check};
use plan::load::{LoadOptions, LoadedManifest};
use protocol::Problem;

use crate::context::Context;
use crate::exit::{self, Failure};
use crate::humanize;
use crate::manifest_location::ManifestLocation;
use crate::render::diagnostic;

/// A manifest as read, and everything found in it, in the order of the files.
pub(crate) struct CheckedManifest {
    pub(crate) location: ManifestLocation,
    pub(crate) loaded: LoadedManifest,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// What changes the answer.
#[derive(Clone, Copy, Default)]
pub(crate) struct ManifestOptions<'a> {
    pub(crate) environment: Option<&'a str>,
    pub(crate) sets: &'a [String],
    pub(crate) runtime: Option<&'a str>,
}

impl ManifestOptions<'_> {
    pub(crate) fn to_check_options(self) -> Result<CheckOptions, Failure> {
        let runtime = self.runtime.map(|runtime| match runtime {
            "process" => RuntimeKind::Process,
            _ => RuntimeKind::Docker,
        });
        let options = LoadOptions { environment: self.environment.map(str::to_owned), sets: parse_sets(self.sets)? };
        let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
        Ok(CheckOptions {
            load_options: options,
            runtime,
            variables: std::env::vars_os().filter_map(text).collect(),
            today: today(),
        })
    }
}

pub(crate) fn read_and_check(place: &ManifestLocation, wish: ManifestOptions<'_>) -> Result<CheckedManifest, Failure> {
    let question = wish.to_check_options()?;
    let CheckResult { loaded, diagnostics, .. } = check(&place.file, &Disk::new(&place.folder), &question);
    Ok(CheckedManifest { location: place.clone(), loaded, diagnostics })
}

fn parse_sets(texts: &[String]) -> Result<Vec<manifest::SetOverride>, Failure> {
    let parse = |text: &String| {
        manifest::SetOverride::parse(text).map_err(|words| {
            Failure::invalid_input(format!("`--set {text}`: {words}"))
                .hint("Write it as `--set services.web.replicas=2`.")
        })
    };
    texts.iter().map(parse).collect()
}

fn today() -> Date {
    let now = time::OffsetDateTime::now_utc();
    Date { year: u16::try_from(now.year()).unwrap_or_default(), month: now.month().into(), day: now.day() }
}

impl CheckedManifest {
    pub(crate) fn count(&self, severity: Severity) -> usize {
        self.diagnostics.iter().filter(|found| found.severity == severity).count()
    }

    /// Shows the errors and ends the command; warnings are `check`'s and the editor's matter.
    pub(crate) fn refuse_errors(&self, context: &Context) -> Result<(), Failure> {
        let errors = self.count(Severity::Error);
        if errors == 0 {
            return Ok(());
        }
        if !context.json {
            for found in self.diagnostics.iter().filter(|found| found.severity == Severity::Error) {
                context.terminal.eprint_line(&diagnostic::render(
                    found,
                    &self.loaded.sources,
                    context.terminal.stderr_paint,
                ));
                context.terminal.eprint_line("");
            }
        }
        let words = format!("`{}` has {}; nothing was touched", self.location.file, humanize::count(errors, "error"));
        let mut problem = Problem::new("manifest", 0, words).hint(format!(
            "`pdev explain {}` tells more about the first.",
            self.diagnostics
                .iter()
                .find(|found| found.severity == Severity::Error)
                .map_or("CODE", |found| found.code.0)
        ));
        if context.json {
            problem.diagnostics = agent::convert::diagnostics(&self.diagnostics, &self.loaded.sources);
        }
        Err(Failure { exit_code: exit::INVALID_INPUT, problem: Box::new(problem) })
    }

    /// `--service` of a name the manifest does not have.
    pub(crate) fn refuse_unknown_units(&self, wanted: &[String]) -> Result<(), Failure> {
        let manifest = &self.loaded.manifest;
        let known = || manifest.services.keys().chain(manifest.jobs.keys()).chain(manifest.resources.keys());
        let Some(unknown) = wanted.iter().find(|name| !known().any(|unit| unit == *name)) else { return Ok(()) };
        let failure = Failure::not_found(format!("`{}` has no service `{unknown}`", self.location.file));
        Err(match nearest(unknown, known().map(String::as_str)) {
            Some(near) => failure.hint(format!("Did you mean `{near}`?")),
            None => failure.hint(format!("It has {}.", known().cloned().collect::<Vec<_>>().join(", "))),
        })
    }

    pub(crate) fn refuse_unknown_job(&self, wanted: &str) -> Result<(), Failure> {
        let jobs = &self.loaded.manifest.jobs;
        if jobs.contains_key(wanted) {
            return Ok(());
        }
        let failure = Failure::not_found(format!("`{}` has no job `{wanted}`", self.location.file));
        Err(match nearest(wanted, jobs.keys().map(String::as_str)) {
            Some(near) => failure.hint(format!("Did you mean `{near}`?")),
            None if self.loaded.manifest.services.contains_key(wanted) => {
                failure.hint(format!("It is a service: `pdev up --service {wanted}` or `pdev restart {wanted}`."))
            }
            None if jobs.is_empty() => failure.hint("Jobs stand under `jobs:`; `pdev explain jobs` tells more."),
            None => failure.hint(format!("It has {}.", jobs.keys().cloned().collect::<Vec<_>>().join(", "))),
        })
    }

    /// The variables of this process that the manifest names as `${env.X}`; no others leave it.
    pub(crate) fn referenced_variables(&self) -> BTreeMap<String, String> {
        let texts = self.loaded.sources.iter().map(|(_, source)| source.text.as_ref());
        let names = texts.flat_map(env_references);
        names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
    }

    /// The names of the secrets it declares.
    pub(crate) fn secret_names(&self) -> Vec<String> {
        self.loaded.manifest.secrets.keys().cloned().collect()
    }
}

/// The names after `${env.`; one inside a comment does no harm.
fn env_references(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${env.").map(|(at, start)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}
