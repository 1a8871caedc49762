//! An incremental check after an edit must return the same as a full check: messages, spans, fixes, model and tree.

use manifest::date::Date;
use manifest::{FileProblem, Files};
use plan::application::RuntimeKind;
use plan::check::{CheckOptions, CheckResult, check, check_incremental};

struct SingleFile<'a>(&'a str);

impl Files for SingleFile<'_> {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        (path == "pdev.yaml").then(|| self.0.as_bytes().to_vec()).ok_or(FileProblem::Missing)
    }

    fn list(&self, _: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

/// Units that refer to each other in every possible way, most of them with findings.
const INTERLINKED_MANIFEST: &str = r#"pdev: 1
app: { name: shop, default: web }
vars: { level: debug, loop: "${vars.loop}", far: "${services.web.url}" }
services:
  # the first
  web:
    image: "shop/web:latest"
    ports: { http: 3000, admin: { port: 3001, protocol: tcp } }
    routes: ["/"]
    env:
      API: "${services.api.internal_url}"
      ADMIN: "${services.web.ports.admin}"
      LEVEL: "${vars.level}"
      AGAIN: "${vars.loop}"
      TOKEN: "q8Zt1Lw0xP9rVb3nKc7e"
    needs: { api: healthy, migrate: completed }
  api:
    image: "shop/api:1"
    process: { command: [./api], env: { PORT_OF: "${services.web.port}" } }
    port: 8080
    health: /healthz
    security: { privileged: true }
    env: { DATABASE: "${resources.db.url}", KEY: "${secrets.stripe.path}", WHO: "${identities.bucket.name}" }
    volumes: { data: { target: /data }, host: { path: ../.., target: /x } }
  worker: # pdev: allow PD009 -- it is small
    command: ./worker
    env: { WEB: "${services.wob.url}", DB: "${resources.db.nothing}", NONE: "${env.NOT_SET}" }
    runtime: process
  Web: { image: "x:1", port: 80, raw: { docker: { HostConfig: { NetworkMode: "${vars.level}" } } } }
jobs:
  migrate: { service: api, command: [./migrate, "${resources.db.url}"] }
  seed:
    service: worker
    when: manual
resources:
  db: { uses: postgres@16, with: { max_connections: 200 } }
  cache: { uses: redis@7 }
secrets: { stripe: { description: key } }
identities: { bucket: { provider: aws } }
patches:
  - { target: { runtime: docker, from: services.web }, merge: { HostConfig: { Privileged: true, X: "${vars.none}" } }, why: test }
"#;

const WAIVERS: &str = "guardrails:\n  waivers:\n    - { rule: PD001, scope: services.api, reason: \"it loads a kernel module\", owner: me, expires: \"2027-03-31\" }\n    - { rule: PD009, scope: services.*, reason: short, owner: me, expires: \"2026-11-30\" }\n";

const SNIPPETS: &[&str] = &[
    "a",
    "1",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "{",
    "}",
    "\"",
    "# x",
    " # pdev: allow PD009 -- why\n",
    ": ",
    "- ",
    "😀",
    "    port: 81\n",
    "    port: { port: 80, host: 8080 }\n",
    "    runtime: docker\n",
    "    re\n",
    "    image: \"a:latest\"\n",
    "    command: [x]\n",
    "    env: { A: \"${services.api.port}\" }\n",
    "  new: { image: \"y:1\", port: 9 }\n",
    "${vars.level}",
    "${services.web.ports.x}",
    "    needs: { seed: healthy }\n",
    "    service: web\n",
    "&a ",
    "",
    "",
];

fn generate_manifest(services: usize) -> String {
    let mut text = String::from("pdev: 1\napp: bench\nresources:\n  db: { uses: postgres@16 }\nservices:\n");
    for number in 0..services {
        text.push_str(&format!(
            "  service-{number}:\n    image: \"example/service:{number}\"\n    port: {}\n    env:\n      LEVEL: debug\n      DATABASE: \"${{resources.db.url}}\"\n    needs:\n      db: healthy\n",
            8000 + number
        ));
    }
    text
}

/// Deterministic pseudo-random numbers.
struct PseudoRandom(u64);

impl PseudoRandom {
    fn next_below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % bound.max(1)
    }

    fn apply_random_edit(&mut self, text: &mut String) {
        let floor = |text: &str, mut at: usize| {
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let at = floor(text, self.next_below(text.len() + 1));
        let line = text[..at].rfind('\n').map_or(0, |found| found + 1);
        let end = text[at..].find('\n').map_or(text.len(), |found| at + found + 1);
        match self.next_below(8) {
            0 => text.replace_range(line..end, ""),
            1 => text.insert_str(line, &" ".repeat(1 + self.next_below(4))),
            2 => {
                let copy = text[line..end].to_owned();
                text.insert_str(line, &copy);
            }
            3 => text.insert_str(end, SNIPPETS[self.next_below(SNIPPETS.len())]),
            4 => text.insert_str(line, SNIPPETS[self.next_below(SNIPPETS.len())]),
            _ => {
                let to = floor(text, (at + self.next_below(4)).min(text.len()));
                text.replace_range(at..to, SNIPPETS[self.next_below(SNIPPETS.len())]);
            }
        }
    }
}

fn assert_same_result(incremental: &CheckResult, full: &CheckResult, describe: &dyn Fn() -> String) {
    assert_eq!(incremental.diagnostics, full.diagnostics, "{}", describe());
    let (incremental, full) = (&incremental.loaded, &full.loaded);
    // Equality of entries ignores spans, but their debug output contains them, so compare both.
    assert_eq!(format!("{:?}", incremental.manifest), format!("{:?}", full.manifest), "{}", describe());
    assert_eq!(incremental.manifest, full.manifest, "{}", describe());
    assert_eq!((&incremental.root, &incremental.comments), (&full.root, &full.comments), "{}", describe());
    assert_eq!(incremental.lock_update, full.lock_update, "{}", describe());
}

fn assert_incremental_matches_full(original: &str, options: &CheckOptions, rounds: usize, random: &mut PseudoRandom) {
    for _ in 0..rounds {
        let mut text = original.to_owned();
        let mut previous = check("pdev.yaml", &SingleFile(&text), options);
        for _ in 0..=random.next_below(5) {
            let mut next = text.clone();
            random.apply_random_edit(&mut next);
            let incremental = check_incremental("pdev.yaml", &SingleFile(&next), options, Some(&previous));
            let full = check("pdev.yaml", &SingleFile(&next), options);
            assert_same_result(&incremental, &full, &|| format!("{text:?}\n-> {next:?}"));
            (text, previous) = (next, incremental);
        }
    }
}

fn check_options() -> [CheckOptions; 3] {
    let today = Date { year: 2026, month: 11, day: 23 };
    let any_runtime = CheckOptions { today, ..CheckOptions::default() };
    let process = CheckOptions { runtime: Some(RuntimeKind::PROCESS), ..any_runtime.clone() };
    let mut staging = any_runtime.clone();
    staging.load_options.environment = Some("staging".to_owned());
    [any_runtime, process, staging]
}

#[test]
fn incremental_check_matches_full_check_of_interlinked_units() {
    let overlay = "environments:\n  staging: { services: { web: { port: 4000 } } }\n";
    let mut random = PseudoRandom(5);
    for options in check_options() {
        for text in [
            INTERLINKED_MANIFEST.to_owned(),
            format!("{INTERLINKED_MANIFEST}{WAIVERS}"),
            format!("{INTERLINKED_MANIFEST}{overlay}"),
            INTERLINKED_MANIFEST.replace('\n', "\r\n"),
        ] {
            assert_incremental_matches_full(&text, &options, 5, &mut random);
        }
    }
}

#[test]
fn incremental_check_matches_full_check_of_valid_manifest() {
    let manifest = generate_manifest(12);
    assert_incremental_matches_full(&manifest, &check_options()[0], 20, &mut PseudoRandom(6));
}

#[test]
fn incremental_check_matches_full_check_of_code_page_examples() {
    let pages = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/codes")).expect("pages");
    let mut paths: Vec<_> = pages.map(|page| page.expect("an entry").path()).collect();
    paths.sort();
    let mut random = PseudoRandom(7);
    let mut checked = 0;
    for path in paths {
        let page = std::fs::read_to_string(path).expect("text");
        for text in page.split("```yaml\n").skip(1).map(|part| part.split("```").next().unwrap_or_default()) {
            assert_incremental_matches_full(text, &check_options()[0], 1, &mut random);
            checked += 1;
        }
    }
    assert!(checked >= 120, "only {checked} examples were checked");
}

#[test]
fn incremental_check_matches_full_check_of_long_manifest() {
    assert_incremental_matches_full(&generate_manifest(250), &check_options()[0], 1, &mut PseudoRandom(8));
}

/// A manifest without findings, until something that its units refer to changes.
const VALID_MANIFEST: &str = r#"pdev: 1
app: shop
vars: { level: debug }
services:
  web:
    image: "shop/web:1"
    security: { read_only: true }
    ports: { http: 3000, admin: 3001 }
    process: { command: [./web] }
  api:
    image: "shop/api:1"
    port: 8080
    env: { A: "${services.web.ports.admin}", D: "${resources.db.url}", L: "${vars.level}", W: "${identities.cloud.name}" }
jobs:
  migrate: { service: web, command: [./migrate] }
resources:
  db: { uses: postgres@16 }
identities: { cloud: { provider: aws } }
guardrails:
  waivers: [{ rule: PD008, scope: services.api, reason: "it writes to its own cache", owner: me, expires: "2027-03-31" }]
"#;

/// Each edit changes one place and the findings of a unit elsewhere.
#[test]
fn change_in_one_place_updates_findings_elsewhere() {
    let edits = [
        ("admin: 3001", "inner: 3001", "services.api"),
        (", admin: 3001", "", "services.api"),
        ("level: debug", "degree: debug", "services.api"),
        ("  db: {", "  bd: {", "services.api"),
        ("cloud: { provider", "sky: { provider", "services.api"),
        ("scope: services.api", "scope: services.web", "services.api"),
        ("  web:\n", "  front:\n", "services.api"),
        ("jobs:\n", "  more: { image: \"x:1\" }\njobs:\n", "services.more"),
    ];
    let options = &check_options()[0];
    for (from, to, unit) in edits {
        assert_eq!(VALID_MANIFEST.matches(from).count(), 1, "{from}");
        let edited = VALID_MANIFEST.replace(from, to);
        let findings_of_unit = |result: &CheckResult| {
            let is_of_unit = |diagnostic: &&manifest::Diagnostic| diagnostic.path.starts_with(unit);
            let key = |diagnostic: &manifest::Diagnostic| {
                (diagnostic.code.0, diagnostic.severity, diagnostic.message.clone())
            };
            result.diagnostics.iter().filter(is_of_unit).map(key).collect::<Vec<_>>()
        };
        for (old, new) in [(VALID_MANIFEST, edited.as_str()), (edited.as_str(), VALID_MANIFEST)] {
            let previous = check("pdev.yaml", &SingleFile(old), options);
            let incremental = check_incremental("pdev.yaml", &SingleFile(new), options, Some(&previous));
            let full = check("pdev.yaml", &SingleFile(new), options);
            assert_same_result(&incremental, &full, &|| format!("{from} -> {to}"));
            assert_ne!(findings_of_unit(&incremental), findings_of_unit(&previous), "{from} -> {to}");
        }
    }
}
