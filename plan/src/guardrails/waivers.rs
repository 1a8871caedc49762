//! Waivers, the recorded exceptions to guardrails. [`decide_waiver`] alone decides whether a finding is waived.

use manifest::date::Date;
use manifest::model::Waiver;
use manifest::{Diagnostic, Severity};
use strings::nearest;

use super::{Finding, PORT_MISSING, RULES, find_rule, severity};
use crate::codes;
use crate::load::LoadedManifest;

const REASON_CHARS_MIN: usize = 15;
const VALIDITY_DAYS_MAX: i64 = 180;
const EXPIRY_NOTICE_DAYS: i64 = 14;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WaiverDecision {
    NotWaived,
    /// Waived by the waiver at this index.
    Waived(usize),
}

/// Decides whether a waiver covers this rule in this scope on this day.
#[must_use]
pub fn decide_waiver(waivers: &[Waiver], rule: &str, scope: &str, today: Date) -> WaiverDecision {
    if rule == PORT_MISSING.0 {
        return WaiverDecision::NotWaived;
    }
    let valid = |waiver: &Waiver| covers(waiver, rule, scope) && waiver.expires.value >= today;
    waivers.iter().position(valid).map_or(WaiverDecision::NotWaived, WaiverDecision::Waived)
}

fn covers(waiver: &Waiver, rule: &str, scope: &str) -> bool {
    let in_scope = match waiver.scope.value.strip_suffix(".*") {
        Some(section) => scope.split_once('.').is_some_and(|(unit_section, _)| unit_section == section),
        None => waiver.scope.value == scope,
    };
    waiver.rule.value == rule && in_scope
}

pub(super) fn apply(
    loaded: &LoadedManifest,
    environment: &str,
    today: Date,
    findings: Vec<Finding>,
) -> Vec<Diagnostic> {
    let waivers = &loaded.manifest.waivers;
    let mut waiver_diagnostics = Vec::new();
    for (index, waiver) in waivers.iter().enumerate() {
        let path = format!("guardrails.waivers.{index}");
        let used = findings.iter().any(|finding| covers(waiver, finding.rule.code.0, &finding.scope));
        waiver_diagnostics
            .extend(check_waiver(waiver, used, today).into_iter().map(|diagnostic| diagnostic.at_path(path.clone())));
    }
    let finding_diagnostics = findings.into_iter().map(|finding| to_diagnostic(loaded, finding, environment, today));
    finding_diagnostics.chain(waiver_diagnostics).collect()
}

fn to_diagnostic(loaded: &LoadedManifest, finding: Finding, environment: &str, today: Date) -> Diagnostic {
    let rule = finding.rule;
    let waivers = &loaded.manifest.waivers;
    if let WaiverDecision::Waived(index) = decide_waiver(waivers, rule.code.0, &finding.scope, today)
        && let Some(waiver) = waivers.get(index)
    {
        let message = format!("{} (waived until {}: {})", finding.message, waiver.expires.value, waiver.reason.value);
        return Diagnostic::new(rule.code, Severity::Info, finding.span, message)
            .at_path(finding.path)
            .related(waiver.span, "the waiver");
    }
    let level = if rule.code == PORT_MISSING { Severity::Error } else { severity(rule.level, environment) };
    let mut diagnostic =
        Diagnostic::new(rule.code, level, finding.span, finding.message).at_path(finding.path).help(rule.fix);
    if let Some(waiver) = waivers.iter().find(|waiver| covers(waiver, rule.code.0, &finding.scope)) {
        diagnostic = diagnostic.related(waiver.span, format!("this waiver expired on {}", waiver.expires.value));
    }
    diagnostic
}

fn check_waiver(waiver: &Waiver, used: bool, today: Date) -> Vec<Diagnostic> {
    let mut diagnostics = Vec::new();
    let days_left = waiver.expires.value.days_since_epoch() - today.days_since_epoch();
    let rule = &waiver.rule.value;
    if days_left < 0 {
        let message = format!("the waiver of `{rule}` expired on {}", waiver.expires.value);
        diagnostics.push(
            Diagnostic::new(codes::WAIVER_EXPIRED, Severity::Warning, waiver.expires.span, message)
                .help("Fix the finding, or review the waiver again and record a new date."),
        );
    } else if used && days_left <= EXPIRY_NOTICE_DAYS {
        let message = format!("the waiver of `{rule}` expires in {days_left} days");
        diagnostics.push(Diagnostic::new(codes::WAIVER_EXPIRED, Severity::Info, waiver.expires.span, message));
    }
    if !used {
        let known_codes = RULES.iter().map(|rule| rule.code.0);
        let message = match find_rule(rule) {
            Some(_) => format!("this waiver of `{rule}` in `{}` waives nothing", waiver.scope.value),
            None => {
                let near = nearest(rule, known_codes).map(|near| format!(" (nearest: `{near}`)")).unwrap_or_default();
                format!("there is no rule `{rule}`{near}")
            }
        };
        diagnostics.push(
            Diagnostic::new(codes::WAIVER_UNUSED, Severity::Warning, waiver.span, message)
                .help("Remove it: the finding is gone, or the scope is misspelt (`services.NAME`)."),
        );
    }
    if waiver.reason.value.trim().chars().count() < REASON_CHARS_MIN {
        let message =
            format!("`{}` is too short to be a reason ({REASON_CHARS_MIN} characters or more)", waiver.reason.value);
        diagnostics.push(Diagnostic::new(codes::WAIVER_WEAK, Severity::Warning, waiver.reason.span, message));
    }
    // The default date means that today is unknown, and then so is the remaining time.
    if today != Date::default() && days_left > VALIDITY_DAYS_MAX {
        let message = format!("the waiver of `{rule}` lasts {days_left} days (more than {VALIDITY_DAYS_MAX})");
        diagnostics.push(Diagnostic::new(codes::WAIVER_WEAK, Severity::Info, waiver.expires.span, message));
    }
    diagnostics
}
