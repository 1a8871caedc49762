//! Guardrails: rules that are on by default. A table defines their codes, levels and texts; checks read the rendered
//! units. The map of origins leads from a finding back to its line in the manifest.
//!
//! In `local`, denied rules are warnings; in every other environment they are errors. [`decide_waiver`] alone decides
//! whether a finding is waived.

mod rules;
mod secret_literals;
mod waivers;

use manifest::date::Date;
use manifest::{Code, Diagnostic, Severity, Span};

use crate::application::{Application, Role, Unit};
use crate::load::LoadedManifest;
use crate::origin::Origins;

pub use waivers::{WaiverDecision, decide_waiver};

/// PD015: a health check or route needs a port that does not exist. It can never work, so it cannot be waived.
pub const PORT_MISSING: Code = Code("PD015");

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    Deny,
    Warn,
    Info,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    pub code: Code,
    pub level: Level,
    /// The desired state, in one line.
    pub summary: &'static str,
    /// How to fix a violation: one sentence.
    pub fix: &'static str,
}

/// The rules for containers and processes. Each has a page in `docs/codes/`.
pub const RULES: &[Rule] = &[
    rule(
        "PD001",
        Level::Deny,
        "not privileged",
        "Remove `privileged` and add the one capability that the program needs.",
    ),
    rule(
        "PD002",
        Level::Deny,
        "no host network, process or IPC namespace",
        "Remove the mode; publish a port or share a volume instead.",
    ),
    rule(
        "PD003",
        Level::Deny,
        "no engine socket and no host path outside the project",
        "Use a named volume, or a path inside the project.",
    ),
    rule(
        "PD004",
        Level::Deny,
        "no privilege escalation",
        "Remove `no_new_privileges: false`; start as the right user instead.",
    ),
    rule(
        "PD005",
        Level::Deny,
        "no capabilities beyond the default set",
        "Remove the capability, or record a waiver that says why it is needed.",
    ),
    rule(
        "PD006",
        Level::Deny,
        "does not run as root",
        "Set `security.user` to a number other than 0, and `USER` in the Dockerfile.",
    ),
    rule("PD007", Level::Deny, "the engine's seccomp and AppArmor profiles stay on", "Remove the `unconfined` option."),
    rule(
        "PD008",
        Level::Info,
        "read-only root file system",
        "Try `security: { read_only: true }`; `/tmp` stays writable.",
    ),
    rule("PD009", Level::Warn, "a memory limit", "Set `size.memory`."),
    rule("PD010", Level::Info, "a CPU share", "Set `size.cpu`, as in `250m`."),
    rule("PD011", Level::Warn, "an image with a fixed tag", "Name the version, as in `redis:7.4`, or a digest."),
    rule(
        "PD013",
        Level::Warn,
        "a readiness check on what has a port",
        "Give `health` a path, or remove `health: none` for a TCP check.",
    ),
    rule(
        "PD015",
        Level::Deny,
        "ports of health checks and routes exist",
        "Name one of the unit's `ports`, or add the port.",
    ),
    rule(
        "PD016",
        Level::Deny,
        "no secret literals",
        "Declare it under `secrets` and read `${secrets.NAME.path}`; then change the leaked value.",
    ),
    rule("PD017", Level::Info, "secrets as files", "Declare it under `secrets` and read `${secrets.NAME.path}`."),
    rule(
        "PD021",
        Level::Deny,
        "published on the loopback only",
        "Remove the port binding; pdev publishes each of `ports` on 127.0.0.1.",
    ),
    rule(
        "PD025",
        Level::Info,
        "stops when asked",
        "Write the command as a list, so that the program itself receives the signal.",
    ),
];

const fn rule(code: &'static str, level: Level, summary: &'static str, fix: &'static str) -> Rule {
    Rule { code: Code(code), level, summary, fix }
}

#[must_use]
pub fn find_rule(code: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.code.0 == code)
}

/// A violation, before its severity and waivers are decided.
#[derive(Clone, PartialEq, Debug)]
pub struct Finding {
    pub rule: &'static Rule,
    /// `services.api`.
    pub scope: String,
    pub path: String,
    pub message: String,
    pub span: Span,
}

/// All findings of an application with waivers applied, and diagnostics about the waivers themselves.
#[must_use]
pub fn check(loaded: &LoadedManifest, application: &Application, origins: &Origins, today: Date) -> Vec<Diagnostic> {
    let mut findings = Vec::new();
    application.units.values().for_each(|unit| check_unit(loaded, unit, origins, &mut findings));
    to_diagnostics(loaded, &application.preview.environment, today, findings)
}

/// Adds the findings of one unit.
pub(crate) fn check_unit(loaded: &LoadedManifest, unit: &Unit, origins: &Origins, findings: &mut Vec<Finding>) {
    let checked = UnitCheck { loaded, unit, origins, scope: unit_scope(unit) };
    rules::check(&checked, findings);
    secret_literals::check(&checked, findings);
}

/// Converts findings to diagnostics for this environment, with waivers applied, and adds diagnostics about the waivers.
pub(crate) fn to_diagnostics(
    loaded: &LoadedManifest,
    environment: &str,
    today: Date,
    findings: Vec<Finding>,
) -> Vec<Diagnostic> {
    waivers::apply(loaded, environment, today, findings)
}

fn unit_scope(unit: &Unit) -> String {
    let section = match unit.role {
        Role::Service => "services",
        Role::Job => "jobs",
        Role::Resource => "resources",
    };
    format!("{section}.{}", unit.name)
}

/// A unit that is being checked.
struct UnitCheck<'a> {
    loaded: &'a LoadedManifest,
    unit: &'a Unit,
    origins: &'a Origins,
    scope: String,
}

impl UnitCheck<'_> {
    /// A finding about a rendered field. Its span is the line that set the field, else the unit's name.
    fn finding_for_field(&self, code: &str, field: &str, message: impl Into<String>) -> Option<Finding> {
        let field_path = format!("{}.{field}", self.scope);
        let field_origin = self.origins.nearest(&field_path);
        let span = field_origin.and_then(|(_, field)| field.origins.iter().rev().find_map(crate::Origin::span));
        let span = span.unwrap_or_else(|| self.name_span());
        self.finding_at(code, field, span, message)
    }

    fn finding_at(&self, code: &str, field: &str, span: Span, message: impl Into<String>) -> Option<Finding> {
        let path = if field.is_empty() { self.scope.clone() } else { format!("{}.{field}", self.scope) };
        Some(Finding { rule: find_rule(code)?, scope: self.scope.clone(), path, message: message.into(), span })
    }

    fn name_span(&self) -> Span {
        let manifest = &self.loaded.manifest;
        let name = &self.unit.name;
        let span = match self.unit.role {
            Role::Service => manifest.services.get(name).map(|entry| entry.key),
            Role::Job => manifest.jobs.get(name).map(|entry| entry.key),
            Role::Resource => manifest.resources.get(name).map(|entry| entry.key),
        };
        span.unwrap_or_default()
    }
}

/// The severity of a level in an environment.
fn severity(level: Level, environment: &str) -> Severity {
    match level {
        Level::Info => Severity::Info,
        Level::Deny if environment != "local" => Severity::Error,
        Level::Deny | Level::Warn => Severity::Warning,
    }
}
