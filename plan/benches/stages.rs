//! Measures each stage of loading and checking by manifest size: `cargo bench -p plan`. Prints the minimum of many
//! rounds in milliseconds. This is the cost of `pdev check`, without process start, and of each keystroke in an editor.
#![expect(clippy::print_stdout, reason = "a benchmark prints its results")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use manifest::date::Date;
use manifest::{FileProblem, Files};
use plan::application::{PreviewId, PreviewName, RuntimeKind};
use plan::check::{CheckOptions, check};
use plan::load::{LoadOptions, load};
use plan::resolve::{Git, ResolveInputs, diagnose, required_ports, resolve};

/// The same manifest as in `tests/bench`: services of eight lines that refer to the previous service and to a database.
fn generate_manifest(lines: usize) -> String {
    let mut text = String::from("pdev: 1\napp: long\nresources:\n  db: { uses: postgres@16 }\nservices:\n");
    for number in 0..(lines - 3) / 9 {
        let previous = number.saturating_sub(1);
        let written = write!(
            text,
            "  s{number}:\n    image: example:1\n    port: 8080\n    health: /healthz\n    env:\n      NAME: s{number}\n      \
             WHERE: \"${{services.s{previous}.host}}\"\n      LEVEL: info\n      \
             DATABASE: \"${{resources.db.url}}\"\n"
        );
        assert!(written.is_ok(), "writing to a string cannot fail");
    }
    text
}

struct SingleFile(String);

impl Files for SingleFile {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        if path == "pdev.yaml" { Ok(self.0.clone().into_bytes()) } else { Err(FileProblem::Missing) }
    }

    fn list(&self, _path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

fn resolve_inputs(ports: BTreeMap<(String, String), u16>) -> ResolveInputs {
    ResolveInputs {
        preview: PreviewName {
            id: PreviewId("bench".into()),
            app: "long".into(),
            branch: "main".into(),
            environment: "local".into(),
        },
        default_runtime: RuntimeKind::DOCKER,
        ports,
        proxy_port: 8642,
        environment: BTreeMap::new(),
        git: Git::default(),
        secrets_folder: "/run/secrets".into(),
        password_seed: String::new(),
        today: Date { year: 2026, month: 1, day: 1 },
    }
}

/// The fastest of `rounds`, in milliseconds.
fn fastest_ms<T>(rounds: usize, work: impl Fn() -> T) -> f64 {
    let durations = (0..rounds).map(|_| {
        let start = Instant::now();
        black_box(work());
        start.elapsed().as_secs_f64() * 1000.0
    });
    durations.fold(f64::INFINITY, f64::min)
}

fn main() {
    println!(
        "{:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}   milliseconds, minimum of the rounds",
        "lines", "parse", "read", "load", "ports", "findings", "everything", "check"
    );
    for (lines, rounds) in [(200, 200), (2_000, 40), (20_000, 8)] {
        let text = generate_manifest(lines);
        let files = SingleFile(text.clone());
        let options = LoadOptions::default();
        let parse = fastest_ms(rounds, || manifest::syntax::parse(&text, manifest::FileId(0)));
        let read = fastest_ms(rounds, || manifest::read("pdev.yaml", &files).select(None, &[]));
        let load_ms = fastest_ms(rounds, || load("pdev.yaml", &files, &options));
        let loaded = load("pdev.yaml", &files, &options);
        let ports = fastest_ms(rounds, || required_ports(&loaded, RuntimeKind::DOCKER));
        let requests = required_ports(&loaded, RuntimeKind::DOCKER).into_iter().zip(20_000_u16..);
        let host_ports: BTreeMap<_, _> = requests.map(|(request, port)| ((request.unit, request.port), port)).collect();
        let inputs = resolve_inputs(host_ports);
        let findings = fastest_ms(rounds, || diagnose(&loaded, &inputs, &|_| true));
        let everything = fastest_ms(rounds, || resolve(&loaded, &inputs));
        // Includes loading, and resolving for every possible runtime.
        let check = fastest_ms(rounds, || check("pdev.yaml", &files, &CheckOptions::default()));
        println!(
            "{lines:>7} {parse:>9.2} {read:>9.2} {load_ms:>9.2} {ports:>9.2} {findings:>9.2} {everything:>10.2} {check:>9.2}"
        );
    }
}
