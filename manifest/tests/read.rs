//! Tests of the public API: examples decode, half-typed files keep their valid parts, hostile files are rejected.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod memory_files;

use std::collections::BTreeMap;

use manifest::model::{Command, Condition, JobTiming, PortProtocol, Runtime};
use manifest::{Diagnostic, SetOverride, Severity, read};
use memory_files::{MemoryFiles, read_and_select};

fn corpus() -> Vec<(String, String)> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut found: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(&path).unwrap())
        })
        .collect();
    for name in ["hello", "shop"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name).join("pdev.yaml");
        found.push((name.to_owned(), std::fs::read_to_string(path).unwrap()));
    }
    found.sort();
    found
}

fn error_messages(found: &[Diagnostic]) -> Vec<String> {
    found
        .iter()
        .filter(|diagnostic| diagnostic.severity == Severity::Error)
        .map(|diagnostic| format!("{} {}", diagnostic.code.0, diagnostic.message))
        .collect()
}

#[test]
fn corpus_has_no_errors_and_matches_the_schema() {
    let schema = jsonschema::validator_for(&manifest::schema::json_schema()).unwrap();
    for (name, text) in corpus() {
        let selected = read_and_select(&text);
        assert_eq!(error_messages(&selected.diagnostics), Vec::<String>::new(), "{name}");
        let tree = manifest::syntax::parse(&text, manifest::FileId(0)).root.unwrap();
        let value = to_json(&tree);
        let schema_errors: Vec<String> =
            schema.iter_errors(&value).map(|error| format!("{error} at {}", error.instance_path())).collect();
        assert_eq!(schema_errors, Vec::<String>::new(), "{name} against the schema");
    }
}

fn to_json(node: &manifest::syntax::Node) -> serde_json::Value {
    use manifest::syntax::{Kind, Value};
    match &node.kind {
        Kind::List(items) => items.iter().map(to_json).collect(),
        Kind::Map(pairs) => {
            serde_json::Value::Object(pairs.iter().map(|pair| (pair.key.value.clone(), to_json(&pair.value))).collect())
        }
        Kind::Scalar(scalar) => match scalar.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(on) => on.into(),
            Value::Integer(number) => number.into(),
            Value::Float(number) => number.into(),
            Value::Text => scalar.text.clone().into(),
        },
    }
}

#[test]
fn typical_manifest_decodes_completely() {
    let (_, text) = corpus().into_iter().find(|(name, _)| name == "typical.yaml").unwrap();
    let selected = read_and_select(&text);
    let found = &selected.manifest;
    assert_eq!(found.app.name.value, "shop");
    let api = &found.services["api"].value;
    assert_eq!(api.build.as_ref().unwrap().target.as_ref().unwrap().value, "runtime");
    assert_eq!(api.ports["main"].value.number.value, 8080);
    assert_eq!(api.ports["main"].value.protocol, PortProtocol::Http);
    assert_eq!(api.size.memory.as_ref().unwrap().value, 256 << 20);
    assert_eq!(api.watch.len(), 2);
    assert!(api.health.ready.is_some() && api.health.live.is_some());
    let web = &found.services["web"].value;
    assert_eq!(web.runtime.as_ref().unwrap().value, Runtime::Process, "the overlay of `local`");
    assert!(matches!(web.process.as_ref().unwrap().command, Some(Command::Arguments(ref words)) if words.len() == 3));
    assert_eq!(web.needs["api"].value.condition, Condition::Healthy);
    assert_eq!(found.jobs["migrate"].value.when, JobTiming::Before);
    assert_eq!(found.resources["db"].value.uses.value, "postgres@16");
    assert_eq!(found.waivers[0].expires.value.year, 2027);
    assert_eq!(found.environment.runtime.as_ref().unwrap().value, Runtime::Docker);
    let url = &api.env["DATABASE_URL"];
    assert_eq!(selected.sources.slice(url.span), "\"${resources.db.url}\"");
    let reference = url.value.value.references().next().unwrap();
    assert_eq!(selected.sources.slice(reference.span), "${resources.db.url}");
}

#[test]
fn layers_merge_in_order_and_keep_their_spans() {
    let files = MemoryFiles(BTreeMap::from([
        ("pdev.yaml".to_owned(), b"pdev: 1\napp: x\ninclude: [common/base.yaml]\nservices:\n  web: { image: a, env: { A: base, B: base } }\nenvironments:\n  ci: { runtime: process, services: { web: { env: { B: ci, A: null }, +routes: [/b] } } }\n".to_vec()),
        ("common/base.yaml".to_owned(), b"services:\n  web: { image: included, restart: never, routes: [/a], env: { C: included } }\n".to_vec()),
    ]));
    let parsed = read("pdev.yaml", &files);
    let sets =
        [SetOverride::parse("services.web.env.D=[1]").unwrap(), SetOverride::parse("services.web.port=81").unwrap()];
    let selected = parsed.select(Some("ci"), &sets);
    assert_eq!(
        error_messages(&selected.diagnostics),
        ["PD0111 `D` must be text or a whole number or true or false, found a list"]
    );
    let web = &selected.manifest.services["web"].value;
    let env: Vec<(&str, String)> =
        web.env.iter().filter_map(|(name, entry)| Some((name.as_str(), entry.value.value.as_literal()?))).collect();
    assert_eq!(env, [("C", "included".to_owned()), ("B", "ci".to_owned())]);
    let routes: Vec<&str> = web.routes.iter().map(|route| route.value.as_str()).collect();
    assert_eq!(routes, ["/a", "/b"]);
    assert_eq!(web.image.as_ref().unwrap().value.as_literal().as_deref(), Some("a"));
    assert_eq!(selected.sources.get(web.restart.as_ref().unwrap().span.file).unwrap().path, "common/base.yaml");
    let port = &web.ports["main"].value.number;
    assert_eq!((port.value, selected.sources.slice(port.span)), (81, "81"));
}

#[test]
fn all_problems_are_found_in_one_run() {
    let selected = read_and_select(
        "pdev: 1\napp: My App\nservices:\n  web: { imag: x, port: 80800, health: healthz, needs: { dbb: healthy } }\n  api: { replicas: two }\nresources:\n  db: { uses: postgres@16 }\n",
    );
    let codes: Vec<&str> = selected.diagnostics.iter().map(|diagnostic| diagnostic.code.0).collect();
    for code in ["PD0110", "PD0112", "PD0114", "PD0111", "PD0120", "PD0121"] {
        assert!(codes.contains(&code), "{code} is missing in {codes:?}");
    }
    let unknown = selected.diagnostics.iter().find(|diagnostic| diagnostic.code.0 == "PD0110").unwrap();
    assert_eq!(selected.sources.slice(unknown.span), "imag");
    assert_eq!(unknown.fixes[0].edits[0].text, "image");
    assert_eq!(unknown.path, "services.web.imag");
}

#[test]
fn half_typed_unit_keeps_the_other_units() {
    let template =
        "pdev: 1\napp: x\nservices:\n  a: { image: one }\n@\n  c: { image: three }\njobs:\n  j: { image: four }\n";
    for typed in [
        "  b",
        "  b:",
        "  b: {",
        "  b: { image: \"two",
        "  b: [",
        "  b: c: d",
        "\tb: 1",
        "  b: 'x",
        "  - ",
        "  ima",
        "  b: { image: two, env: { A: 1 }",
    ] {
        let text = template.replace('@', typed);
        let selected = read_and_select(&text);
        let names: Vec<&String> = selected.manifest.services.keys().collect();
        assert!(
            names.iter().any(|name| *name == "a"),
            "{typed:?} lost a: {names:?} {:?}",
            error_messages(&selected.diagnostics)
        );
        assert!(
            names.iter().any(|name| *name == "c"),
            "{typed:?} lost c: {names:?} {:?}",
            error_messages(&selected.diagnostics)
        );
        assert!(selected.manifest.jobs.contains_key("j"), "{typed:?} lost j");
    }
}

#[test]
fn every_prefix_reads_with_spans_in_bounds() {
    for (name, text) in corpus() {
        for end in (0..text.len()).filter(|end| text.is_char_boundary(*end)) {
            let selected = read_and_select(&text[..end]);
            for found in &selected.diagnostics {
                assert!(found.span.range().end <= text.len().max(end), "{name} at {end}: {found:?}");
            }
        }
    }
}

#[test]
fn random_text_does_not_panic() {
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let alphabet: Vec<char> = "abc:-[]{}\"'#&*|>!%@` \n\n\t  ,?${}.1é\u{feff}".chars().collect();
    for _ in 0..2_000 {
        let mut text = String::new();
        for _ in 0..40 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            text.push(alphabet[(state >> 33) as usize % alphabet.len()]);
        }
        drop(read_and_select(&text));
    }
}

#[test]
fn hostile_files_are_rejected() {
    let mut bomb = String::from("pdev: 1\napp: x\nx-a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for (name, before) in ["b", "c", "d", "e", "f", "g", "h"].iter().zip(["a", "b", "c", "d", "e", "f", "g"]) {
        bomb.push_str(&format!("x-{name}: &{name} [*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before},*{before}]\n"));
    }
    assert!(error_messages(&read_and_select(&bomb).diagnostics).iter().any(|found| found.starts_with("PD0105")));
    let deep = format!("pdev: 1\nx-a: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    assert!(!read_and_select(&deep).diagnostics.is_empty());
    let files = MemoryFiles(BTreeMap::from([
        ("pdev.yaml".to_owned(), b"pdev: 1\napp: x\ninclude: [a.yaml]\n".to_vec()),
        ("a.yaml".to_owned(), b"include: [pdev.yaml, none.yaml]\n".to_vec()),
    ]));
    let found = error_messages(&read("pdev.yaml", &files).select(None, &[]).diagnostics);
    assert!(
        found.iter().any(|error| error.starts_with("PD0108")) && found.iter().any(|error| error.starts_with("PD0107")),
        "{found:?}"
    );
    let latin = MemoryFiles(BTreeMap::from([(
        "pdev.yaml".to_owned(),
        b"pdev: 1\napp: x\nservices: { web: { image: caf\xe9 } }\n".to_vec(),
    )]));
    assert!(
        error_messages(&read("pdev.yaml", &latin).select(None, &[]).diagnostics)
            .iter()
            .any(|error| error.starts_with("PD0103"))
    );
}

#[test]
fn needs_cycle_is_reported_once_with_its_path() {
    let found = error_messages(&read_and_select("pdev: 1\napp: x\nservices:\n  a: { image: i, needs: [b] }\n  b: { image: i, needs: [c] }\n  c: { image: i, needs: [a] }\n").diagnostics);
    assert_eq!(found, ["PD0122 these wait for one another: a -> b -> c -> a"]);
}

#[test]
fn twenty_thousand_lines_read_within_three_seconds() {
    let mut text = String::from("pdev: 1\napp: big\nservices:\n");
    for n in 0..2_000 {
        text.push_str(&format!(
            "  s{n}:\n    image: example/service:{n}\n    port: 8080\n    health: /healthz\n    env:\n      A: \"${{env.HOME:-x}}\"\n      B: two\n      C: three\n    size: {{ cpu: 250m, memory: 256Mi }}\n    routes: [\"/r{n}\"]\n"
        ));
    }
    let files = MemoryFiles::new(&[("pdev.yaml", &text)]);
    let started = std::time::Instant::now();
    let selected = read("pdev.yaml", &files).select(None, &[]);
    let elapsed = started.elapsed();
    assert_eq!(selected.manifest.services.len(), 2_000);
    println!("{} lines in {elapsed:?}", text.lines().count());
    // The budget of 60 ms is for the release build (docs/benchmarks.md). This limit only detects non-linear behaviour.
    assert!(elapsed.as_millis() < 3_000, "{elapsed:?}");
}

#[test]
fn reference_page_matches_the_code() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/manifest.md");
    let generated = manifest::reference_page::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &generated).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap_or_default(), generated, "run with UPDATE_DOCS=1");
}

#[test]
fn unknown_need_suggests_no_unit_that_would_cause_another_error() {
    for (needs, fix) in [
        // The unit itself, a unit that needs it, and a unit that is listed already.
        ("[webb]", None),
        ("[apj]", None),
        ("[db, bd]", None),
        ("[bd]", Some("db")),
    ] {
        let text = format!(
            "pdev: 1\napp: a\nservices:\n  web: {{ image: \"w:1\", needs: {needs} }}\n  \
             api: {{ image: \"a:1\", needs: [web] }}\n  db: {{ image: \"d:1\" }}\n"
        );
        let found = read_and_select(&text).diagnostics;
        let unknown = found.iter().find(|found| found.code.0 == "PD0121").unwrap();
        let offered = unknown.fixes.first().map(|fix| fix.edits[0].text.as_str());
        assert_eq!(offered, fix, "{needs}: {unknown:?}");
    }
}

#[test]
fn half_typed_name_is_one_finding() {
    for typed in ["prot", "p", "health", "- x"] {
        for below in ["", "    # a comment\n", "\n    # a comment\n    # another one\n\n"] {
            let text = format!(
                "pdev: 1\napp: a\nservices:\n  web:\n    image: \"w:1\"\n    {typed}\n{below}    port: 80\n    \
                 restart: always\n    size: {{ memory: 1Gi }}\n  api:\n    image: \"a:1\"\n"
            );
            let found = read_and_select(&text).diagnostics;
            assert!(found.len() == 1 && found[0].code.0 == "PD0101", "{text}: {found:?}");
            let start = text.find(&format!("{typed}\n")).unwrap();
            assert_eq!(found[0].span.range(), start..start + typed.len(), "{text}: {found:?}");
        }
    }
}

#[test]
fn syntax_errors_contain_no_words_of_the_parser() {
    for line in [
        "a: b: c",
        "\ta: 1",
        "a: [",
        "a: \"x",
        "%x",
        "  : :",
        "? [",
        "- a\n  b: 1",
        "*x y",
        "&a &b c",
        "!!x: |3z",
        "a: @b",
        "a: `b`",
    ] {
        let text = format!("pdev: 1\napp: a\nservices:\n  web:\n    image: \"w:1\"\n    {line}\n    port: 80\n");
        for found in read_and_select(&text).diagnostics.iter().filter(|found| found.code.0 == "PD0101") {
            let words = [
                "mapping",
                "scalar",
                "token",
                "flow",
                "block",
                "simple key",
                "expected",
                "context",
                "scanning",
                "parsing",
            ];
            assert!(words.iter().all(|word| !found.message.contains(word)), "{line}: {}", found.message);
        }
    }
}
