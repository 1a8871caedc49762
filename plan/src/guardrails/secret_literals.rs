//! Finds secrets written as literals in environment variables, commands and build arguments.
//!
//! Known token formats are reported everywhere. Other literals are reported only if their name suggests a secret and
//! their value looks random, so that `PASSWORD: example` in a sample is not reported.

use std::fmt::Display;

use manifest::Span;
use manifest::model::{Command, Service};
use manifest::template::{Part, Scope, Template};

use super::{Finding, UnitCheck};
use crate::application::Role;

/// Prefix, minimum length, description.
const TOKEN_PREFIXES: &[(&str, usize, &str)] = &[
    ("AKIA", 20, "an AWS access key"),
    ("ASIA", 20, "an AWS session key"),
    ("ghp_", 30, "a GitHub token"),
    ("gho_", 30, "a GitHub token"),
    ("ghs_", 30, "a GitHub token"),
    ("github_pat_", 40, "a GitHub token"),
    ("glpat-", 20, "a GitLab token"),
    ("sk_live_", 20, "a live Stripe key"),
    ("rk_live_", 20, "a live Stripe key"),
    ("sk-ant-", 30, "an API key"),
    ("xoxb-", 20, "a Slack token"),
    ("xoxp-", 20, "a Slack token"),
    ("AIza", 35, "a Google API key"),
    ("npm_", 36, "an npm token"),
    ("-----BEGIN", 20, "a private key"),
];

const SECRET_NAME_PARTS: &[&str] =
    &["SECRET", "TOKEN", "PASSWORD", "PASSWD", "API_KEY", "APIKEY", "PRIVATE_KEY", "ACCESS_KEY"];

pub(super) fn check(checked: &UnitCheck<'_>, findings: &mut Vec<Finding>) {
    let manifest = &checked.loaded.manifest;
    let name = &checked.unit.name;
    let service: &Service = match checked.unit.role {
        Role::Service => match manifest.services.get(name) {
            Some(entry) => &entry.value,
            None => return,
        },
        Role::Job => match manifest.jobs.get(name) {
            Some(entry) => &entry.value.body,
            None => return,
        },
        Role::Resource => return,
    };
    let process = service.process.as_ref();
    for (variable, entry) in service.env.iter().chain(process.into_iter().flat_map(|process| &process.env)) {
        let path = format_args!("env.{variable}");
        findings.extend(find_literal_secret(checked, &path, variable, &entry.value.value, entry.span));
        findings.extend(find_passed_through_secret(checked, &path, variable, &entry.value.value, entry.span));
    }
    for (argument, entry) in service.build.iter().flat_map(|build| &build.args) {
        findings.extend(find_literal_secret(
            checked,
            &format_args!("build.args.{argument}"),
            argument,
            &entry.value.value,
            entry.span,
        ));
    }
    for command in [&service.command, &service.entrypoint].into_iter().flatten() {
        match command {
            Command::Shell(line) => {
                findings.extend(find_literal_secret(checked, &"command", "", &line.value, line.span));
            }
            Command::Arguments(words) => {
                for word in words {
                    findings.extend(find_literal_secret(checked, &"command", "", &word.value, word.span));
                }
            }
        }
    }
}

fn find_literal_secret(
    checked: &UnitCheck<'_>,
    path: &dyn Display,
    name: &str,
    template: &Template,
    span: Span,
) -> Option<Finding> {
    let texts = template.parts.iter().filter_map(|part| match part {
        Part::Text(text) => Some(text.as_str()),
        Part::Reference(_) => None,
    });
    let is_single_part = template.parts.len() == 1;
    for text in texts {
        if let Some(kind) = known_token_kind(text) {
            return checked.finding_at("PD016", &path.to_string(), span, format!("this looks like {kind}"));
        }
        if is_single_part && looks_random(text) && is_secret_name(name) {
            return checked.finding_at(
                "PD016",
                &path.to_string(),
                span,
                format!("`{name}` holds what looks like a real secret"),
            );
        }
    }
    None
}

fn known_token_kind(text: &str) -> Option<&'static str> {
    let is_separator =
        |c: char| matches!(c, '"' | '\'' | '=' | ',' | ';' | '@' | ':' | '/' | '?' | '&') || c.is_whitespace();
    let words = text.split(is_separator);
    // The complete text as well, because `-----BEGIN RSA PRIVATE KEY-----` contains separators.
    let mut words = words.chain(std::iter::once(text.trim()));
    words.find_map(|word| {
        let (_, _, kind) =
            TOKEN_PREFIXES.iter().find(|(prefix, length, _)| word.starts_with(prefix) && word.len() >= *length)?;
        Some(*kind)
    })
}

fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    !name.ends_with("_FILE") && !name.ends_with("_PATH") && SECRET_NAME_PARTS.iter().any(|part| name.contains(part))
}

/// True for a text of at least 16 characters with high entropy and at least one digit. Paths, URLs and texts with
/// spaces are excluded.
fn looks_random(text: &str) -> bool {
    if text.len() < 16 || text.contains(char::is_whitespace) || text.starts_with('/') || text.contains("://") {
        return false;
    }
    let mut counts = [0u32; 256];
    for byte in text.bytes() {
        counts[usize::from(byte)] += 1;
    }
    let length = f64::from(u32::try_from(text.len()).unwrap_or(u32::MAX));
    let share = |count: u32| f64::from(count) / length;
    let entropy: f64 =
        counts.iter().filter(|&&count| count > 0).map(|&count| -share(count) * share(count).log2()).sum();
    entropy >= 3.4 && text.bytes().any(|byte| byte.is_ascii_digit())
}

/// Finds a secret that is copied from the user's environment to the unit's environment.
fn find_passed_through_secret(
    checked: &UnitCheck<'_>,
    path: &dyn Display,
    name: &str,
    template: &Template,
    span: Span,
) -> Option<Finding> {
    let from_environment = template.references().any(|reference| reference.scope == Scope::Env);
    let is_violation = from_environment && is_secret_name(name);
    let message = || format!("`{name}` is visible to everything that can list the unit's environment");
    is_violation.then(|| checked.finding_at("PD017", &path.to_string(), span, message()))?
}

#[cfg(test)]
mod tests {
    use super::{is_secret_name, known_token_kind, looks_random};

    #[test]
    fn known_token_prefixes_are_recognised() {
        let aws = format!("AKIA{}", "ABCDEFGHIJKLMNOP");
        let cases = [
            (aws.as_str(), Some("an AWS access key")),
            ("AKIA", None),
            ("--key=sk_live_0123456789abcdef", Some("a live Stripe key")),
            ("-----BEGIN RSA PRIVATE KEY-----", Some("a private key")),
            ("hello", None),
        ];
        for (text, kind) in cases {
            assert_eq!(known_token_kind(text), kind, "{text}");
        }
    }

    #[test]
    fn random_text_and_secret_names_are_recognised() {
        for (text, random) in [
            ("changeme", false),
            ("correct-horse-battery", false),
            ("/run/secrets/stripe-key-01", false),
            ("q8Zt1Lw0xP9rVb3nKc7e", true),
        ] {
            assert_eq!(looks_random(text), random, "{text}");
        }
        for (name, is_secret) in
            [("STRIPE_KEY_FILE", false), ("api_token", true), ("TOKEN_PATH", false), ("LOG", false)]
        {
            assert_eq!(is_secret_name(name), is_secret, "{name}");
        }
    }
}
