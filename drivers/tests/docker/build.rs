//! Builds at a real engine: what is sent, what it is called, how it fails, and that giving up ends it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use drivers::driver::{Driver, LogRequest, ProblemKind, ProgressLine};
use futures_util::StreamExt;
use plan::application::{Body, BuildSpec, ImageSource, PullPolicy, Unit};
use serde_json::json;

use crate::bench::{Bench, PATIENCE, create, missing, prepare, start, unit};

fn built(name: &str, args: &[(&str, &str)]) -> Unit {
    let spec = BuildSpec {
        context: "app".to_owned(),
        dockerfile: "Dockerfile".to_owned(),
        target: None,
        args: args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>(),
        platform: None,
    };
    let mut unit =
        unit(name, json!({ "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["cat /word; cd /app; find . -type f | sort"] }));
    if let Body::Container(container) = &mut unit.body {
        container.image = ImageSource::Build(spec);
        container.pull = PullPolicy::Missing;
    }
    unit
}

fn write(bench: &Bench, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = bench.places().project.join("app").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
}

async fn output(bench: &Bench, unit: &str) -> Vec<String> {
    bench.exit(unit).await;
    let lines = bench.driver.logs(&bench.name.id, &bench.places(), unit, LogRequest::default()).await.expect("opens");
    lines.map(|line| line.expect("reads").text).collect().await
}

/// The images of a test are of no use to anybody.
async fn forget(bench: &Bench) {
    for image in bench.driver.images(&bench.scope()).await.expect("images").current.into_values() {
        let options = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true).build();
        drop(crate::bench::engine().remove_image(&image, Some(options), None).await);
    }
}

const DOCKERFILE: &str = "FROM debian:stable-slim\nARG WORD=none\nCOPY . /app\nRUN echo \"$WORD\" > /word\n";

#[tokio::test]
async fn an_image_holds_its_inputs_and_nothing_else() {
    if missing().await {
        return;
    }
    let mut bench = Bench::open("inputs", vec![built("web", &[("WORD", "hello")])]).await;
    write(
        &bench,
        &[
            ("Dockerfile", DOCKERFILE),
            (".dockerignore", "\u{feff}# kept out\n**/*.log\nlib/**\n!lib/keep\n"),
            ("a.txt", "1"),
            ("deep/x.log", "out"),
            ("lib/drop", "out"),
            ("lib/keep", "in"),
        ],
    );
    let before = bench.driver.images(&bench.scope()).await.expect("images");
    assert_eq!(before.stale["web"], "not built yet");
    let made = bench.done(prepare("web")).await.image.expect("an image");
    let known = bench.driver.images(&bench.scope()).await.expect("images");
    assert_eq!((known.current.get("web"), known.stale.len()), (Some(&made), 0));
    bench.done(create("web")).await;
    bench.done(start("web")).await;
    let files = ["./.dockerignore", "./Dockerfile", "./a.txt", "./lib/keep"];
    assert_eq!(output(&bench, "web").await, [&["hello"], files.as_slice()].concat());
    write(&bench, &[("deep/y.log", "ignored")]);
    assert_eq!(bench.driver.images(&bench.scope()).await.expect("images").current["web"], made);
    write(&bench, &[("a.txt", "2")]);
    let changed = bench.driver.images(&bench.scope()).await.expect("images");
    assert_eq!(changed.stale["web"], "context changed: a.txt");
    write(&bench, &[("a.txt", "1")]);
    bench.units.insert("web".to_owned(), built("web", &[("WORD", "other")]));
    assert!(bench.driver.images(&bench.scope()).await.expect("images").stale.contains_key("web"), "arguments count");
    bench.units.insert("web".to_owned(), built("web", &[("WORD", "hello")]));
    forget(&bench).await;
    bench.close().await;
}

#[tokio::test]
async fn an_edit_between_build_and_creation_changes_nothing() {
    if missing().await {
        return;
    }
    let bench = Bench::open("edited", vec![built("web", &[])]).await;
    write(&bench, &[("Dockerfile", DOCKERFILE), ("a.txt", "1")]);
    let made = bench.done(prepare("web")).await.image.expect("an image");
    write(&bench, &[("a.txt", "2")]);
    bench.done(create("web")).await;
    assert_eq!(bench.unit("web").await.image, Some(made));
    write(&bench, &[("a.txt", "1")]);
    forget(&bench).await;
    bench.close().await;
}

#[tokio::test]
async fn a_failing_step_is_named_with_its_output() {
    if missing().await {
        return;
    }
    let bench = Bench::open("failing", vec![built("web", &[])]).await;
    write(&bench, &[("Dockerfile", "FROM debian:stable-slim\nRUN echo because-of-this && exit 3\n")]);
    let problem = bench.perform(prepare("web")).await.expect_err("fails");
    assert_eq!(problem.kind, ProblemKind::BuildFailed);
    assert!(problem.message.contains("RUN echo because-of-this"), "{problem}");
    assert!(problem.output.iter().any(|line| line.contains("because-of-this")), "{problem:?}");
    write(&bench, &[(".dockerignore", "[")]);
    let problem = bench.perform(prepare("web")).await.expect_err("is no pattern");
    assert!(problem.message.contains("`[` in `.dockerignore`"), "{problem}");
    bench.close().await;
}

/// Commands of this machine that hold the text: the engine's steps are seen from outside.
fn running(text: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).any(|line| line.contains(text))
}

#[tokio::test]
async fn a_build_that_is_given_up_ends() {
    if missing().await {
        return;
    }
    let bench = Bench::open("given-up", vec![built("web", &[])]).await;
    let line = format!("sleep 7{}", std::process::id());
    write(&bench, &[("Dockerfile", &format!("FROM debian:stable-slim\nRUN echo begun && {line}\n"))]);
    let begun = async {
        loop {
            let said = |line: &ProgressLine| matches!(line, ProgressLine::BuildOutput(text) if text.contains("begun"));
            if bench.heard.0.lock().expect("lock").iter().any(said) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let scope = bench.scope();
    let action = prepare("web");
    tokio::select! {
        done = bench.driver.perform(&scope, &action) => panic!("ended by itself: {done:?}"),
        waited = tokio::time::timeout(PATIENCE, begun) => waited.expect("the step begins"),
    }
    if cfg!(target_os = "linux") {
        let ended = async {
            while running(&line) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ended).await.expect("the engine ends the step");
    }
    bench.close().await;
}
