//! Tests what `check` adds to loading and resolving: findings for both runtimes at once, and `# pdev: allow`.

use manifest::date::Date;
use manifest::{FileProblem, Files};
use plan::application::{PreviewId, PreviewName, RuntimeKind};
use plan::check::{CheckOptions, check};
use plan::resolve::diagnose;

struct SingleFile<'a>(&'a str);

impl Files for SingleFile<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        (path == "pdev.yaml").then(|| self.0.as_bytes().to_vec()).ok_or(FileProblem::Missing)
    }

    fn list(&self, _: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

fn check_text(text: &str) -> Vec<manifest::Diagnostic> {
    let options = CheckOptions { today: Date { year: 2026, month: 11, day: 23 }, ..CheckOptions::default() };
    check("pdev.yaml", &SingleFile(text), &options).diagnostics
}

fn diagnostic_codes(text: &str) -> Vec<&'static str> {
    check_text(text).iter().map(|diagnostic| diagnostic.code.0).collect()
}

fn manifest_with_service(service: &str) -> String {
    format!("pdev: 1\napp: shop\nservices:\n{service}\n")
}

#[test]
fn allow_comment_with_reason_silences_its_line_or_the_next() {
    let cases = [
        ("  a: { image: \"x:latest\", port: 80 }", true, false),
        ("  a: { image: \"x:latest\", port: 80 } # pdev: allow PD011 -- on purpose", false, false),
        ("  # pdev: allow PD011 -- on purpose\n  # and so on\n\n  a: { image: \"x:latest\", port: 80 }", false, false),
        ("  # pdev: allow PD011\n  a: { image: \"x:latest\", port: 80 }", true, true),
        ("  # pdev: allow PD011 -- on purpose\n  a: { image: \"x:1\", port: 80 }", false, true),
        (
            "  # pdev: allow PD011 -- on purpose\n  b: { image: \"x:1\", port: 81 }\n  a: { image: \"x:latest\" }",
            true,
            true,
        ),
    ];
    for (text, is_reported, is_unused) in cases {
        let codes = diagnostic_codes(&manifest_with_service(text));
        assert_eq!(
            (codes.contains(&"PD011"), codes.contains(&"PD0264")),
            (is_reported, is_unused),
            "{text}: {codes:?}"
        );
    }
}

#[test]
fn an_error_cannot_be_silenced() {
    let codes =
        diagnostic_codes(&manifest_with_service("  # pdev: allow PD0110 -- please\n  a: { image: \"x:1\", prot: 80 }"));
    assert!(codes.contains(&"PD0110") && codes.contains(&"PD0264"), "{codes:?}");
}

#[test]
fn unused_allow_comment_page_matches_behaviour() {
    let page = include_str!("../../docs/codes/PD0264.md");
    let examples: Vec<&str> =
        page.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap_or_default()).collect();
    assert!(diagnostic_codes(examples[0]).contains(&"PD0264") && !diagnostic_codes(examples[1]).contains(&"PD0264"));
    assert!(!diagnostic_codes(examples[1]).contains(&"PD011"));
}

#[test]
fn unresolved_references_are_reported_in_unusable_manifest() {
    let text = "pdev: 1\napp: x\nservices:\n  web:\n    image: a:1\n    port: nine\n    env:\n      \
                A: \"${services.wob.url}\"\n      B: \"${services.web.port}\"\n";
    let codes = diagnostic_codes(text);
    assert!(codes.contains(&"PD0250"), "{codes:?}");
    assert_eq!(
        codes.iter().filter(|code| **code == "PD0250").count(),
        1,
        "the unreadable port has its own diagnostic: {codes:?}"
    );
}

#[test]
fn listener_is_reported_where_it_has_no_effect() {
    let with = |service: &str| diagnostic_codes(&format!("pdev: 1\napp: x\nservices:\n  web: {{ {service} }}\n"));
    let process = "port: 80, process: { command: [x] }, runtime: process";
    let ready = "{ tcp: main, listener: any }";
    assert!(!with(&format!("{process}, health: {{ ready: {ready} }}")).contains(&"PD0112"));
    assert!(with(&format!("{process}, health: {{ live: {ready} }}")).contains(&"PD0112"));
    assert!(with(&format!("{process}, health: {{ ready: {{ exec: [x], listener: any }} }}")).contains(&"PD0112"));
    assert!(with(&format!("image: a, port: 80, runtime: docker, health: {{ ready: {ready} }}")).contains(&"PD0112"));
}

/// `diagnose` takes a shorter path than `resolve`. Both have to report the same diagnostics.
#[test]
fn diagnose_matches_full_resolve() {
    let pages = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/codes")).expect("pages");
    let mut compared = 0;
    for page in pages {
        let page = std::fs::read_to_string(page.expect("an entry").path()).expect("text");
        for text in page.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap_or_default()) {
            let loaded = plan::load::load("pdev.yaml", &SingleFile(text), &plan::load::LoadOptions::default());
            // In an unusable manifest, `diagnose` and `resolve` may differ: parts of the model may be missing.
            let runtimes = [RuntimeKind::DOCKER, RuntimeKind::PROCESS].into_iter().filter(|_| loaded.is_usable());
            for runtime in runtimes {
                let inputs = resolve_inputs(&loaded, runtime);
                let expected = plan::resolve(&loaded, &inputs).diagnostics;
                assert_eq!(diagnose(&loaded, &inputs, &|_| true), expected, "{text}");
                compared += expected.len();
            }
        }
    }
    assert!(compared > 100, "only {compared} diagnostics were compared");
}

fn resolve_inputs(loaded: &plan::LoadedManifest, runtime: RuntimeKind) -> plan::ResolveInputs {
    let ports = plan::required_ports(loaded, runtime).into_iter().zip(20_000_u16..);
    plan::ResolveInputs {
        preview: PreviewName {
            id: PreviewId("test".into()),
            app: "shop".into(),
            branch: "main".into(),
            environment: "local".into(),
        },
        default_runtime: runtime,
        ports: ports.map(|(request, port)| ((request.unit, request.port), port)).collect(),
        proxy_port: 8642,
        environment: std::collections::BTreeMap::new(),
        git: plan::Git::default(),
        secrets_folder: "/run/secrets".into(),
        password_seed: String::new(),
        today: Date { year: 2026, month: 11, day: 23 },
    }
}

/// A unit with warnings, a waiver, an allow comment and a reference to another unit.
const SEVERAL_UNITS: &str = "pdev: 1\napp: { name: shop, owner: team-a }\nservices:\n  web:\n    image: \"w:latest\"\n    port: 80\n    \
    needs: [api]\n    env: { API: \"${services.api.url}\", BAD: \"${services.api.nothing}\" }\n  api:\n    image: \"a:latest\"\n    \
    port: 81\n  worker:\n    # pdev: allow PD011 -- an old library needs it\n    image: \"b:latest\"\njobs:\n  seed:\n    \
    image: \"s:latest\"\nguardrails:\n  waivers:\n    - { rule: PD011, scope: jobs.seed, reason: \"an old library needs it\", owner: team-a, expires: \"2030-01-01\" }\n";

#[test]
fn error_in_one_unit_leaves_findings_of_others_unchanged() {
    let findings = |text: &str, unit: &str| {
        let own = format!(".{unit}");
        let mut all: Vec<(String, String)> = check_text(text)
            .into_iter()
            .filter(|found| !found.path.contains(&own) && !found.message.contains(&format!("`{unit}`")))
            .filter(|found| !found.message.contains(&format!("services.{unit}.")) && found.code.0 != "PD0101")
            .map(|found| (found.code.0.to_owned(), found.message))
            .collect();
        all.sort();
        all
    };
    assert!(findings(SEVERAL_UNITS, "none").len() > 6, "{:#?}", findings(SEVERAL_UNITS, "none"));
    for unit in ["web", "api", "worker", "seed"] {
        let expected = findings(SEVERAL_UNITS, unit);
        for line in [
            "    prot: 1",
            "    p",
            "    volumes: [",
            "    size: { memory: many }",
            "    entrypoint: \"x",
            "    : :",
            "    health: {{",
        ] {
            let name = format!("\n  {unit}:\n");
            let text = SEVERAL_UNITS.replace(&name, &format!("{name}{line}\n"));
            let mut found = findings(&text, unit);
            // The finding about the line itself has no path if the line is no YAML.
            found.retain(|finding| expected.contains(finding) || !finding.1.contains(line.trim()));
            assert_eq!(found, expected, "{unit}: {line}");
        }
    }
}

/// The findings outside of the unit `edited`, by code and text. The unit's own text begins at `start` and has this
/// length.
fn findings_outside(text: &str, start: usize, length: usize) -> Vec<(&'static str, String)> {
    let inside = start..start + length;
    let mut all: Vec<_> = check_text(text)
        .into_iter()
        .filter(|found| !inside.contains(&found.span.range().start) && !found.message.contains("`edited`"))
        .map(|found| (found.code.0, text[found.span.range()].to_owned()))
        .collect();
    all.sort();
    all
}

#[test]
fn typing_in_one_unit_changes_no_finding_of_others() {
    let before =
        "pdev: 1\napp: { name: shop, owner: team-a }\nservices:\n  web:\n    image: \"w:latest\"\n    port: 80\n";
    let after = "  api: # why\n    image: \"a:latest\"\n    port: 81\n    env: { A: \"${services.web.nothing}\" }\n  # pdev: allow PD011 -- an old library needs it\n  \
                 worker: { image: \"b:latest\" }\njobs: { seed: { image: \"s:latest\" } }\n";
    for typed in [
        "  edited:\n    image: \"e:latest\"\n    ports:\n      http: 8080\n    health: { ready: /x, live: '/y' }\n    # a note 😀\n    \
         env:\n      A: \"${services.api.url}\"\n      B: &b {x: 1}\n    needs:\n      - api\n      - web\n    volumes: [a, {target: /b}]\n",
        "  edited: { image: \"e:latest\", port: 80, needs: [api, web], env: { A: 'x y', B: \"${vars.c:-d}\" } } # end\n",
        "  edited:\r\n\timage: x\r\n    command: |\r\n      a: b\r\n     c\r\n",
    ] {
        let expected = findings_outside(&format!("{before}{after}"), 0, 0);
        assert!(expected.len() > 4, "{expected:?}");
        for (end, letter) in typed.char_indices() {
            let part = &typed[..end + letter.len_utf8()];
            // The line of the cursor ends like the other lines.
            let text = format!("{before}{part}\n{after}");
            assert_eq!(findings_outside(&text, before.len(), part.len() + 1), expected, "{part}");
        }
    }
}
