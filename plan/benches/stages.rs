//! How long each stage of reading and checking takes, by manifest size: `cargo bench -p plan`. Prints minima of many
//! rounds in milliseconds. What `pdev check` and each keystroke in an editor cost beyond the start of a program.
#![expect(clippy::print_stdout, reason = "its output is the point")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use manifest::model::Date;
use manifest::{FileProblem, Files};
use plan::application::{PreviewId, PreviewName, RuntimeKind};
use plan::check::{Question, check};
use plan::load::{LoadOptions, load};
use plan::resolve::{Context, Git, findings, required_ports, resolve};

/// The manifest of `tests/bench`: services of eight lines, each calling the one before it and a database.
fn text(lines: usize) -> String {
    let mut text = String::from("pdev: 1\napp: long\nresources:\n  db: { uses: postgres@16 }\nservices:\n");
    for number in 0..(lines - 3) / 9 {
        let before = number.saturating_sub(1);
        let written = write!(
            text,
            "  s{number}:\n    image: example:1\n    port: 8080\n    health: /healthz\n    env:\n      NAME: s{number}\n      \
             WHERE: \"${{services.s{before}.host}}\"\n      LEVEL: info\n      \
             DATABASE: \"${{resources.db.url}}\"\n"
        );
        assert!(written.is_ok(), "a string takes everything");
    }
    text
}

struct One(String);

impl Files for One {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        if path == "pdev.yaml" { Ok(self.0.clone().into_bytes()) } else { Err(FileProblem::Missing) }
    }

    fn list(&self, _path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

fn context(ports: BTreeMap<(String, String), u16>) -> Context {
    Context {
        preview: PreviewName {
            id: PreviewId("bench".into()),
            app: "long".into(),
            branch: "main".into(),
            environment: "local".into(),
        },
        default_runtime: RuntimeKind::Docker,
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
fn least<T>(rounds: usize, work: impl Fn() -> T) -> f64 {
    let took = (0..rounds).map(|_| {
        let begun = Instant::now();
        black_box(work());
        begun.elapsed().as_secs_f64() * 1000.0
    });
    took.fold(f64::INFINITY, f64::min)
}

fn main() {
    println!(
        "{:>7} {:>9} {:>9} {:>9} {:>9} {:>9} {:>10} {:>9}   milliseconds, the least of the rounds",
        "lines", "parse", "read", "load", "ports", "findings", "everything", "check"
    );
    for (lines, rounds) in [(200, 200), (2_000, 40), (20_000, 8)] {
        let text = text(lines);
        let files = One(text.clone());
        let options = LoadOptions::default();
        let parse = least(rounds, || manifest::syntax::parse(&text, manifest::FileId(0)));
        let read = least(rounds, || manifest::read("pdev.yaml", &files).select(None, &[]));
        let whole = least(rounds, || load("pdev.yaml", &files, &options));
        let loaded = load("pdev.yaml", &files, &options);
        let ports = least(rounds, || required_ports(&loaded, RuntimeKind::Docker));
        let wishes = required_ports(&loaded, RuntimeKind::Docker).into_iter().zip(20_000_u16..);
        let wishes: BTreeMap<_, _> = wishes.map(|(wish, port)| ((wish.unit, wish.port), port)).collect();
        let context = context(wishes);
        let found = least(rounds, || findings(&loaded, &context, &|_| true));
        let everything = least(rounds, || resolve(&loaded, &context));
        // Reading, and resolving for every runtime in question.
        let check = least(rounds, || check("pdev.yaml", &files, &Question::default()));
        println!(
            "{lines:>7} {parse:>9.2} {read:>9.2} {whole:>9.2} {ports:>9.2} {found:>9.2} {everything:>10.2} {check:>9.2}"
        );
    }
}
