//! Tests of the built-in modules: their renderings, and the inputs that they reject.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use catalog::{RenderContext, RenderTarget, resolve_module};
use manifest::{Diagnostic, FileProblem, Files, Span, Spanned};

struct MemoryFiles(BTreeMap<String, String>);

impl Files for MemoryFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        self.0.get(path).map(|text| text.as_bytes().to_vec()).ok_or(FileProblem::Missing)
    }

    fn list(&self, _: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

fn resolve_built_in(uses: &str) -> catalog::ResolvedModule {
    resolve_module(&Spanned::new(uses.to_owned(), Span::default()), &MemoryFiles(BTreeMap::new())).unwrap()
}

fn render_context(constraint: &str, port: &str, inputs: &str) -> RenderContext {
    RenderContext {
        is_pinned: true,
        resource: "db".into(),
        app: "shop".into(),
        ports: BTreeMap::from([("main".to_owned(), port.to_owned())]),
        password: "s3/cr:t".into(),
        constraint: constraint.into(),
        inputs: serde_json::from_str(inputs).unwrap(),
    }
}

#[test]
fn postgres_renders_for_docker() {
    let found = resolve_built_in("postgres@16");
    let body = found
        .module
        .render(
            RenderTarget::Docker,
            &render_context(
                &found.constraint,
                "5432",
                r#"{"extensions": ["pgcrypto"], "settings": {"work_mem": "8MB"}}"#,
            ),
        )
        .unwrap();
    assert_eq!(body.image.as_deref(), Some("postgres:16"));
    assert_eq!(body.env["POSTGRES_PASSWORD"].value, "s3/cr:t");
    assert!(body.env["POSTGRES_PASSWORD"].sensitive && !body.env["POSTGRES_USER"].sensitive);
    assert!(body.command.ends_with(&["-c".to_owned(), "work_mem=8MB".to_owned()]), "{:?}", body.command);
    assert!(body.entrypoint[2].contains("CREATE EXTENSION IF NOT EXISTS \"pgcrypto\""), "{:?}", body.entrypoint);
    assert_eq!(body.volumes, [("data".to_owned(), "/var/lib/postgresql/data".to_owned())]);
    assert_eq!(body.host_config["Memory"], 512 << 20);
}

#[test]
fn postgres_renders_as_a_process() {
    let found = resolve_built_in("postgres");
    let body =
        found.module.render(RenderTarget::Process, &render_context(&found.constraint, "{port:db.main}", "{}")).unwrap();
    assert!(
        body.command.windows(2).any(|pair| pair == ["-p", "{port:db.main}"]),
        "tokens pass through: {:?}",
        body.command
    );
    assert!(body.init[0][2].contains("initdb -D pgdata") && body.init[0][4] == "app", "{:?}", body.init);
    assert!(body.after_ready[0][2].contains("CREATE DATABASE \"app\""));
    assert_eq!(body.user.as_deref(), Some("postgres"));
    assert!(body.install_hint.unwrap().contains("apt install postgresql"));
}

#[test]
fn outputs_use_the_consumers_host_and_port() {
    let found = resolve_built_in("postgres@15");
    let ports = BTreeMap::from([("main".to_owned(), "20001".to_owned())]);
    let outputs = found.module.outputs_at(&render_context("15", "5432", "{}"), "127.0.0.1", &ports).unwrap();
    assert_eq!(outputs["url"], ("postgresql://app:s3%2Fcr%3At@127.0.0.1:20001/app".to_owned(), true));
    assert_eq!(outputs["port"], ("20001".to_owned(), false));
}

#[test]
fn redis_renders_for_docker_and_process() {
    let found = resolve_built_in("redis@7");
    for target in [RenderTarget::Docker, RenderTarget::Process] {
        let body = found.module.render(target, &render_context("7", "6379", r#"{"maxmemory": "64mb"}"#)).unwrap();
        assert!(body.command.windows(2).any(|pair| pair == ["--maxmemory", "64mb"]), "{:?}", body.command);
    }
    let outputs = found
        .module
        .outputs_at(
            &render_context("7", "6379", "{}"),
            "cache",
            &BTreeMap::from([("main".to_owned(), "6379".to_owned())]),
        )
        .unwrap();
    // Every user of this machine can reach a port on the loopback.
    assert_eq!(outputs["url"], ("redis://:s3%2Fcr%3At@cache:6379".to_owned(), true));
    let open = render_context("7", "6379", r#"{"password": ""}"#);
    assert!(!found.module.render(RenderTarget::Docker, &open).unwrap().command.contains(&"/tmp/auth.conf".to_owned()));
}

fn resolve_errors(uses: &str, files: &[(&str, &str)]) -> Vec<String> {
    let files = MemoryFiles(files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect());
    resolve_module(&Spanned::new(uses.to_owned(), Span::default()), &files)
        .unwrap_err()
        .into_iter()
        .map(|diagnostic| format!("{} {}", diagnostic.code.0, diagnostic.message))
        .collect()
}

#[test]
fn unusable_modules_are_rejected_with_a_reason() {
    assert_eq!(
        resolve_errors("postgress@16", &[]),
        ["PD0201 there is no module `postgress`; did you mean `postgres`?"]
    );
    assert_eq!(
        resolve_errors("postgres@9", &[]),
        ["PD0205 the module `postgres` has no version `9`; it has 15, 16, 17"]
    );
    assert!(resolve_errors("oci://example.org/x", &[])[0].starts_with("PD0206"));
    assert_eq!(resolve_errors("./modules/none", &[]), ["PD0202 there is no `modules/none/module.yaml`"]);
    let text = "module: nats\nversion: one\nowner: { team: t }\nsummary: s\nrenders: {}\nextra: 1\n";
    let errors = resolve_errors("./m", &[("m/module.yaml", text), ("m/docs.md", "docs")]);
    assert!(errors.iter().any(|error| error.contains("line 6: unknown key `extra`")), "{errors:?}");
    assert!(errors.iter().any(|error| error.contains("no SemVer")), "{errors:?}");
}

#[test]
fn inputs_are_checked_with_spans() {
    let text = "pdev: 1\napp: x\nresources:\n  db: { uses: postgres@16, with: { max_conections: 5, max_connections: 0, durable: perhaps, version: 17, databse: a } }\n";
    let files = MemoryFiles(BTreeMap::from([("pdev.yaml".to_owned(), text.to_owned())]));
    let selected = manifest::read("pdev.yaml", &files).select(None, &[]);
    let resource = &selected.manifest.resources["db"].value;
    let module = resolve_built_in("postgres@16").module;
    let (inputs, diagnostics) = module.inputs_from(&resource.with, "resources.db", &|_| None);
    assert_eq!(inputs["version"], "17");
    let code_and_text =
        |diagnostic: &Diagnostic| (diagnostic.code.0, selected.sources.slice(diagnostic.span).to_owned());
    let found: Vec<_> = diagnostics.iter().map(code_and_text).collect();
    let expected = [("PD0203", "max_conections"), ("PD0204", "0"), ("PD0204", "perhaps"), ("PD0203", "databse")];
    assert_eq!(found, expected.map(|(code, text)| (code, text.to_owned())));
    // The nearest name of the first one is set already: a fix would cause a duplicate key.
    assert_eq!(diagnostics[0].fixes, []);
    assert_eq!(diagnostics[3].fixes[0].edits[0].text, "database");
}

const TYPED_MODULE: &str = "module: m\nversion: 1.0.0\nowner: { team: t }\nsummary: s\ndocs: docs.md\ninputs:\n  \
    bucket: { type: string, default: a, description: d, pattern: \"^[a-z-]+$\" }\n  \
    hosts: { type: array, default: [], description: d, items: { type: string, enum: [a, b] } }\n  \
    limits: { type: object, default: {}, description: d, properties: { depth: { type: integer, minimum: 1, maximum: 9 } } }\n\
    renders:\n  process: { command: [sleep, \"1\"] }\n";

#[test]
fn patterns_items_and_properties_are_checked() {
    let cases = [
        ("bucket: my-bucket", None),
        ("bucket: My_Bucket", Some("must be text that matches `^[a-z-]+$`, found `My_Bucket`")),
        ("hosts: [a, b]", None),
        ("hosts: [a, c]", Some("must be a list whose value 2 is one of a, b")),
        ("limits: { depth: 3 }", None),
        ("limits: { depth: 30 }", Some("must be a map whose `depth` is a whole number between 1 and 9")),
        ("limits: { dept: 3 }", Some("must be a map without the key `dept` (known are depth)")),
    ];
    for (with, expected_error) in cases {
        let text = format!("pdev: 1\napp: x\nresources:\n  r: {{ uses: ./m, with: {{ {with} }} }}\n");
        let files = MemoryFiles(BTreeMap::from([
            ("pdev.yaml".to_owned(), text),
            ("m/module.yaml".to_owned(), TYPED_MODULE.to_owned()),
            ("m/docs.md".to_owned(), "docs".to_owned()),
        ]));
        let selected = manifest::read("pdev.yaml", &files).select(None, &[]);
        let resource = &selected.manifest.resources["r"].value;
        let module = resolve_module(&Spanned::new("./m".to_owned(), Span::default()), &files).unwrap().module;
        let (_, diagnostics) = module.inputs_from(&resource.with, "resources.r", &|_| None);
        match expected_error {
            None => assert!(diagnostics.is_empty(), "{with}: {diagnostics:?}"),
            Some(message) => assert!(diagnostics[0].message.contains(message), "{with}: {diagnostics:?}"),
        }
    }
    let misspelt = TYPED_MODULE.replace("pattern:", "patern:");
    let errors = resolve_errors("./m", &[("m/module.yaml", &misspelt), ("m/docs.md", "docs")]);
    assert!(errors[0].contains("unknown key `patern`; did you mean `pattern`?"), "{errors:?}");
    let broken = TYPED_MODULE.replace("^[a-z-]+$", "[a-z");
    let errors = resolve_errors("./m", &[("m/module.yaml", &broken), ("m/docs.md", "docs")]);
    assert!(errors[0].contains("is no regular expression"), "{errors:?}");
}

#[test]
fn failing_output_is_named_in_the_problem() {
    let text = TYPED_MODULE.replace("renders:", "outputs:\n  url: { value: \"{{ hots }}\", description: d }\nrenders:");
    let files =
        MemoryFiles(BTreeMap::from([("m/module.yaml".to_owned(), text), ("m/docs.md".to_owned(), "docs".to_owned())]));
    let module = resolve_module(&Spanned::new("./m".to_owned(), Span::default()), &files).unwrap().module;
    let problem = module.outputs_at(&render_context("1", "1", "{}"), "127.0.0.1", &BTreeMap::new()).unwrap_err();
    assert_eq!(problem.field, "outputs.url");
}

/// All local users can read command lines, with `ps` or `docker inspect`.
#[test]
fn redis_password_is_not_on_the_command_line() {
    let found = resolve_built_in("redis@7");
    let context = render_context("7", "6379", r#"{"password": "a\"b\\c"}"#);
    let line = "requirepass \"a\\\"b\\\\c\"";
    let docker = found.module.render(RenderTarget::Docker, &context).unwrap();
    let auth = &docker.env["PDEV_REDIS_AUTH"];
    assert_eq!((auth.value.as_str(), auth.sensitive), (line, true));
    assert_eq!(docker.command[..2], ["redis-server", "/tmp/auth.conf"]);
    assert_eq!(docker.entrypoint[0], "sh");
    let process = found.module.render(RenderTarget::Process, &context).unwrap();
    assert_eq!(process.files["auth.conf"], line);
    let commands = format!("{:?} {:?} {:?}", docker.command, docker.entrypoint, process.command);
    assert!(!commands.contains("requirepass"), "{commands}");
}

#[test]
fn module_file_errors_have_exact_spans() {
    let good = "module: m\nversion: 1.0.0\nowner: { team: t }\nsummary: s\nports: { main: 80 }\n\
        inputs:\n  size: { type: integer, description: d }\nrenders:\n  docker: { image: \"x:{{ inputs.size }}\" }\n";
    let check = |text: &str, docs: &str| {
        let files = [("./module.yaml", text), ("./docs.md", docs)];
        let files = MemoryFiles(files.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect());
        let diagnostics = catalog::check_module(".", &files);
        let text_and_message = |diagnostic: Diagnostic| (text[diagnostic.span.range()].to_owned(), diagnostic.message);
        diagnostics.into_iter().map(text_and_message).collect::<Vec<_>>()
    };
    assert_eq!(check(good, "docs"), []);
    assert_eq!(check(good, ""), [("module".to_owned(), "the docs file is missing or empty".to_owned())]);
    for (old, new, expected_text, expected_message) in [
        ("version: 1.0.0", "version: one", "one", "no SemVer"),
        ("summary: s", "sumary: s", "sumary", "did you mean `summary`"),
        ("main: 80", "main: http", "http", "from 1 to 65535, found `http`"),
        ("integer", "int", "int", "needs a `type`, one of"),
        ("description: d", "desc: d", "desc", "unknown key `desc`"),
        ("inputs.size", "inputs.sise", "\"x:{{ inputs.sise }}\"", "`renders.docker.image` cannot be rendered"),
        ("{ team: t }", "{ contact: t }", "owner", "the team responsible for it"),
    ] {
        let errors = check(&good.replace(old, new), "docs");
        let is_expected = |text: &str, message: &str| text == expected_text && message.contains(expected_message);
        assert!(errors.iter().any(|(text, message)| is_expected(text, message)), "{new}: {errors:?}");
    }
}
