//! Guardrails: each rule with a manifest that violates it, severities by environment, waivers.

mod files;

use files::{TODAY, format_diagnostics, load_manifest, load_manifest_for, resolve_inputs};
use plan::application::RuntimeKind;
use plan::guardrails::{self, RULES};
use plan::{LoadedManifest, resolve};

fn findings(loaded: &LoadedManifest, environment: &str) -> Vec<manifest::Diagnostic> {
    let mut inputs = resolve_inputs(loaded, RuntimeKind::DOCKER);
    inputs.preview.environment = environment.to_owned();
    let resolved = resolve(loaded, &inputs);
    guardrails::check(loaded, &resolved.application, &resolved.origins, TODAY)
}

fn service_manifest(body: &str) -> String {
    format!("pdev: 1\napp: a\nservices:\n  s: {{ {body} }}\nsecrets: {{ k: {{}} }}\n")
}

/// Rule, a service that violates it, the text at the finding's span.
const VIOLATIONS: &[(&str, &str, &str)] = &[
    ("PD001", "image: \"e:1\", security: { privileged: true }", "true"),
    ("PD002", "image: \"e:1\", raw: { docker: { HostConfig: { PidMode: host } } }", "PidMode"),
    ("PD003", "image: \"e:1\", volumes: { sock: { path: /var/run/docker.sock, target: /s } }", "/var/run/docker.sock"),
    ("PD003", "image: \"e:1\", volumes: { up: { path: ../other, target: /s } }", "../other"),
    ("PD004", "image: \"e:1\", security: { no_new_privileges: false }", "false"),
    ("PD005", "image: \"e:1\", security: { capabilities: [IPC_LOCK] }", "IPC_LOCK"),
    ("PD006", "image: \"e:1\", security: { user: root }", "root"),
    (
        "PD007",
        "image: \"e:1\", raw: { docker: { HostConfig: { +SecurityOpt: [\"seccomp=unconfined\"] } } }",
        "+SecurityOpt",
    ),
    ("PD008", "image: \"e:1\"", "s"),
    ("PD009", "image: \"e:1\", raw: { docker: { HostConfig: { Memory: 0 } } }", "Memory"),
    ("PD011", "image: example/latest", "example/latest"),
    ("PD013", "image: \"e:1\", port: 80, health: none", "s"),
    ("PD015", "image: \"e:1\", routes: [\"/x\"]", "\"/x\""),
    ("PD016", "image: \"e:1\", env: { A: glpat-0123456789abcdefghij }", "glpat-0123456789abcdefghij"),
    ("PD017", "image: \"e:1\", env: { API_TOKEN: \"${env.TOKEN:-x}\" }", "\"${env.TOKEN:-x}\""),
    (
        "PD021",
        "image: \"e:1\", raw: { docker: { HostConfig: { PortBindings: { 80/tcp: [{ HostPort: \"80\" }] } } } }",
        "PortBindings",
    ),
    ("PD025", "image: \"e:1\", command: serve it", "serve it"),
];

#[test]
fn each_rule_points_at_violating_text() {
    for (rule, body, expected) in VIOLATIONS {
        let loaded = load_manifest(&service_manifest(body));
        let all = findings(&loaded, "local");
        let finding = all.iter().find(|diagnostic| diagnostic.code.0 == *rule);
        let finding = finding.unwrap_or_else(|| {
            panic!(
                "{rule} finds nothing in {body}: {:#?} {:#?}",
                format_diagnostics(&all),
                format_diagnostics(&loaded.diagnostics)
            )
        });
        assert_eq!(loaded.sources.slice(finding.span), *expected, "{rule}: {}", finding.message);
        assert!(finding.help.is_some(), "{rule}");
    }
}

#[test]
fn plain_service_has_no_findings() {
    let loaded = load_manifest(&service_manifest("image: \"e:1\", port: 80, security: { read_only: true }"));
    assert_eq!(format_diagnostics(&findings(&loaded, "local")), Vec::<String>::new());
}

#[test]
fn denied_rules_are_errors_outside_local() {
    let loaded = load_manifest_for(&service_manifest("image: \"e:1\", security: { privileged: true }"), None);
    let severity = |environment: &str| {
        findings(&loaded, environment)
            .into_iter()
            .find(|finding| finding.code.0 == "PD001")
            .map(|finding| finding.severity)
    };
    assert_eq!(severity("local"), Some(manifest::Severity::Warning));
    assert_eq!(severity("preview"), Some(manifest::Severity::Error));
}

fn findings_with_waiver(waiver: &str) -> Vec<String> {
    let text = service_manifest("image: \"e:1\", port: 80, security: { capabilities: [IPC_LOCK], read_only: true }");
    let loaded = load_manifest(&format!("{text}guardrails: {{ waivers: [{{ {waiver} }}] }}\n"));
    format_diagnostics(&findings(&loaded, "preview")).into_iter().filter(|line| !line.starts_with("PD010")).collect()
}

#[test]
fn waivers_apply_until_they_expire() {
    let denied = "PD005 error at services.s.docker.HostConfig.CapAdd: `IPC_LOCK` goes beyond the default capabilities";
    let waived = "PD005 info at services.s.docker.HostConfig.CapAdd: `IPC_LOCK` goes beyond the default capabilities";
    let fields = "scope: services.s, reason: pinned memory needs it, owner: team-a";
    let cases: &[(String, Vec<String>)] = &[
        (
            format!("rule: PD005, {fields}, expires: \"2027-03-31\""),
            vec![format!("{waived} (waived until 2027-03-31: pinned memory needs it)")],
        ),
        (
            format!("rule: PD005, {fields}, expires: \"2026-11-22\""),
            vec![
                denied.into(),
                "PD0262 warning at guardrails.waivers.0: the waiver of `PD005` expired on 2026-11-22".into(),
            ],
        ),
        (
            format!("rule: PD005, {fields}, expires: \"2026-11-23\""),
            vec![
                format!("{waived} (waived until 2026-11-23: pinned memory needs it)"),
                "PD0262 info at guardrails.waivers.0: the waiver of `PD005` expires in 0 days".into(),
            ],
        ),
        (
            format!("rule: PD001, {fields}, expires: \"2027-03-31\""),
            vec![
                denied.into(),
                "PD0261 warning at guardrails.waivers.0: this waiver of `PD001` in `services.s` waives nothing".into(),
            ],
        ),
        (
            "rule: PD005, scope: services.*, reason: because, owner: me, expires: \"2028-03-31\"".into(),
            vec![
                format!("{waived} (waived until 2028-03-31: because)"),
                "PD0263 warning at guardrails.waivers.0: `because` is too short to be a reason (15 characters or more)"
                    .into(),
                "PD0263 info at guardrails.waivers.0: the waiver of `PD005` lasts 494 days (more than 180)".into(),
            ],
        ),
    ];
    for (waiver, expected) in cases {
        assert_eq!(findings_with_waiver(waiver), *expected, "{waiver}");
    }
}

#[test]
fn every_rule_has_a_bad_example() {
    for rule in RULES.iter().filter(|rule| rule.code.0 != "PD010") {
        assert!(VIOLATIONS.iter().any(|(code, ..)| *code == rule.code.0), "{}", rule.code.0);
    }
}
