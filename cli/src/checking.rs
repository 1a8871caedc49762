//! Reading and checking a manifest on this side, so that a wrong one needs no agent.
//!
//! Everything the agent would refuse whatever it finds at the time; what depends on a container engine being there is
//! left to it.

use std::collections::BTreeMap;
use std::collections::HashSet;

use agent::disk::Disk;
use manifest::model::Date;
use manifest::nearest::nearest;
use manifest::{Diagnostic, Severity};
use plan::application::{PreviewId, PreviewName, RuntimeKind};
use plan::load::{LoadOptions, Loaded, load};
use plan::resolve::{Context as ResolveContext, Git, Resolved, required_ports, resolve};
use protocol::Problem;

use crate::context::Context;
use crate::exit::{self, Failure};
use crate::folder::ManifestPlace;
use crate::render::diagnostic;
use crate::words;

/// A manifest as read, and everything found in it, in the order of the files.
pub(crate) struct Read {
    pub(crate) place: ManifestPlace,
    pub(crate) loaded: Loaded,
    pub(crate) diagnostics: Vec<Diagnostic>,
}

/// What changes the answer.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wish<'a> {
    pub(crate) environment: Option<&'a str>,
    pub(crate) sets: &'a [String],
    pub(crate) runtime: Option<&'a str>,
}

pub(crate) fn read(place: &ManifestPlace, wish: Wish<'_>) -> Result<Read, Failure> {
    let options = LoadOptions { environment: wish.environment.map(str::to_owned), sets: sets(wish.sets)? };
    let loaded = load(&place.file, &Disk::new(&place.folder), &options);
    let mut diagnostics = loaded.diagnostics.clone();
    if loaded.is_usable() {
        diagnostics.extend(certain(&loaded, wish));
    }
    diagnostics.sort_by_key(|found| (found.span.file, found.span.start, found.code));
    diagnostics.dedup();
    Ok(Read { place: place.clone(), loaded, diagnostics })
}

fn sets(texts: &[String]) -> Result<Vec<manifest::Set>, Failure> {
    let parse = |text: &String| {
        manifest::Set::parse(text).map_err(|words| {
            Failure::wrong(format!("`--set {text}`: {words}")).hint("Write it as `--set services.web.replicas=2`.")
        })
    };
    texts.iter().map(parse).collect()
}

/// What resolving finds under every runtime that could be chosen.
fn certain(loaded: &Loaded, wish: Wish<'_>) -> Vec<Diagnostic> {
    let runtimes: &[RuntimeKind] = match wish.runtime {
        Some("process") => &[RuntimeKind::Process],
        Some(_) => &[RuntimeKind::Docker],
        None => &[RuntimeKind::Docker, RuntimeKind::Process],
    };
    let mut found = runtimes.iter().map(|&runtime| resolved(loaded, wish.environment, runtime).diagnostics);
    let first = found.next().unwrap_or_default();
    let key = |found: &Diagnostic| (found.span, found.code, found.message.clone());
    found.fold(first, |kept, other| {
        // A set, because a manifest of thousands of lines may have thousands of findings.
        let other: HashSet<_> = other.iter().map(key).collect();
        kept.into_iter().filter(|diagnostic| other.contains(&key(diagnostic))).collect()
    })
}

/// The application as it would be, with stand-ins for what only the agent hands out.
pub(crate) fn resolved(loaded: &Loaded, environment: Option<&str>, runtime: RuntimeKind) -> Resolved {
    let preview = PreviewName {
        id: PreviewId("check".to_owned()),
        app: plan::naming::app_label(&loaded.manifest.app.name.value).text,
        branch: "main".to_owned(),
        environment: environment.unwrap_or("local").to_owned(),
    };
    let wishes = required_ports(loaded, runtime).into_iter().zip(20_000_u16..);
    let context = ResolveContext {
        preview,
        default_runtime: runtime,
        ports: wishes.map(|(wish, stand_in)| ((wish.unit, wish.port), wish.fixed.unwrap_or(stand_in))).collect(),
        proxy_port: 8642,
        environment: std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        git: Git { branch: Some("main".to_owned()), commit: Some("0".repeat(40)) },
        secrets_folder: "/run/pdev/secrets".to_owned(),
        password_seed: String::new(),
        today: today(),
    };
    resolve(loaded, &context)
}

fn today() -> Date {
    let now = time::OffsetDateTime::now_utc();
    Date { year: u16::try_from(now.year()).unwrap_or_default(), month: now.month().into(), day: now.day() }
}

impl Read {
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
                context.terminal.tell(&diagnostic::render(found, &self.loaded.sources, context.terminal.paint_error));
                context.terminal.tell("");
            }
        }
        let words = format!("`{}` has {}; nothing was touched", self.place.file, words::count(errors, "error"));
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
        Err(Failure { exit: exit::WRONG, problem: Box::new(problem) })
    }

    /// `--service` of a name the manifest does not have.
    pub(crate) fn refuse_unknown_units(&self, wanted: &[String]) -> Result<(), Failure> {
        let manifest = &self.loaded.manifest;
        let known = || manifest.services.keys().chain(manifest.jobs.keys()).chain(manifest.resources.keys());
        let Some(unknown) = wanted.iter().find(|name| !known().any(|unit| unit == *name)) else { return Ok(()) };
        let failure = Failure::not_found(format!("`{}` has no service `{unknown}`", self.place.file));
        Err(match nearest(unknown, known().map(String::as_str)) {
            Some(near) => failure.hint(format!("Did you mean `{near}`?")),
            None => failure.hint(format!("It has {}.", known().cloned().collect::<Vec<_>>().join(", "))),
        })
    }

    /// The variables of this process that the manifest names as `${env.X}`; no others leave it.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        let texts = self.loaded.sources.iter().map(|(_, source)| source.text.as_ref());
        let names = texts.flat_map(named);
        names.filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
    }

    /// The names of the secrets it declares.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.loaded.manifest.secrets.keys().cloned().collect()
    }
}

/// The names after `${env.`; one inside a comment does no harm.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${env.").map(|(at, start)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}
