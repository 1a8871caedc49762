//! Builds at a real engine: what is sent, what it is called, how it fails, and that giving up ends it.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use drivers::driver::{Driver, LogRequest, ProblemKind, ProgressLine};
use futures_util::StreamExt;
use plan::application::{Body, BuildSpec, ImageSource, PullPolicy, Unit};
use serde_json::json;

use crate::test_preview::{
    TIMEOUT, TestPreview, container_unit, create_action, prepare_action, should_skip, start_action,
};

fn built_unit(name: &str, args: &[(&str, &str)]) -> Unit {
    let spec = BuildSpec {
        context: "app".to_owned(),
        dockerfile: "Dockerfile".to_owned(),
        target: None,
        args: args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>(),
        platform: None,
    };
    let mut unit = container_unit(
        name,
        json!({ "Entrypoint": ["/bin/sh", "-c"], "Cmd": ["cat /word; cd /app; find . -type f | sort"] }),
    );
    if let Body::Container(container) = &mut unit.body {
        container.image = ImageSource::Build(spec);
        container.pull = PullPolicy::Missing;
    }
    unit
}

fn write_context(bench: &TestPreview, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = bench.locations().project.join("app").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
}

async fn wait_for_output(bench: &TestPreview, unit: &str) -> Vec<String> {
    bench.wait_for_exit(unit).await;
    let lines =
        bench.driver.logs(&bench.name.id, &bench.locations(), unit, LogRequest::default()).await.expect("opens");
    lines.map(|line| line.expect("reads").text).collect().await
}

/// The images of a test are of no use to anybody.
async fn remove_images(bench: &TestPreview) {
    for image in bench.driver.inspect_images(&bench.scope()).await.expect("images").current.into_values() {
        let options = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true).build();
        drop(crate::test_preview::engine().remove_image(&image, Some(options), None).await);
    }
}

const DOCKERFILE: &str = "FROM debian:stable-slim\nARG WORD=none\nCOPY . /app\nRUN echo \"$WORD\" > /word\n";

#[tokio::test]
async fn image_contains_only_its_build_inputs() {
    if should_skip().await {
        return;
    }
    let mut bench = TestPreview::open("inputs", vec![built_unit("web", &[("WORD", "hello")])]).await;
    write_context(
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
    let before = bench.driver.inspect_images(&bench.scope()).await.expect("images");
    assert_eq!(before.stale["web"], "not built yet");
    let made = bench.perform_ok(prepare_action("web")).await.image.expect("an image");
    let known = bench.driver.inspect_images(&bench.scope()).await.expect("images");
    assert_eq!((known.current.get("web"), known.stale.len()), (Some(&made), 0));
    bench.perform_ok(create_action("web")).await;
    bench.perform_ok(start_action("web")).await;
    let files = ["./.dockerignore", "./Dockerfile", "./a.txt", "./lib/keep"];
    assert_eq!(wait_for_output(&bench, "web").await, [&["hello"], files.as_slice()].concat());
    write_context(&bench, &[("deep/y.log", "ignored")]);
    assert_eq!(bench.driver.inspect_images(&bench.scope()).await.expect("images").current["web"], made);
    write_context(&bench, &[("a.txt", "2")]);
    let changed = bench.driver.inspect_images(&bench.scope()).await.expect("images");
    assert_eq!(changed.stale["web"], "context changed: a.txt");
    write_context(&bench, &[("a.txt", "1")]);
    bench.units.insert("web".to_owned(), built_unit("web", &[("WORD", "other")]));
    assert!(
        bench.driver.inspect_images(&bench.scope()).await.expect("images").stale.contains_key("web"),
        "arguments count"
    );
    bench.units.insert("web".to_owned(), built_unit("web", &[("WORD", "hello")]));
    remove_images(&bench).await;
    bench.close().await;
}

#[tokio::test]
async fn edit_between_build_and_create_keeps_image() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open("edited", vec![built_unit("web", &[])]).await;
    write_context(&bench, &[("Dockerfile", DOCKERFILE), ("a.txt", "1")]);
    let made = bench.perform_ok(prepare_action("web")).await.image.expect("an image");
    write_context(&bench, &[("a.txt", "2")]);
    bench.perform_ok(create_action("web")).await;
    assert_eq!(bench.observe_unit("web").await.image, Some(made));
    write_context(&bench, &[("a.txt", "1")]);
    remove_images(&bench).await;
    bench.close().await;
}

#[tokio::test]
async fn build_failure_names_step_with_output() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open("failing", vec![built_unit("web", &[])]).await;
    write_context(&bench, &[("Dockerfile", "FROM debian:stable-slim\nRUN echo because-of-this && exit 3\n")]);
    let problem = bench.perform(prepare_action("web")).await.expect_err("fails");
    assert_eq!(problem.kind, ProblemKind::BuildFailed);
    assert!(problem.message.contains("RUN echo because-of-this"), "{problem}");
    assert!(problem.output.iter().any(|line| line.contains("because-of-this")), "{problem:?}");
    write_context(&bench, &[(".dockerignore", "[")]);
    let problem = bench.perform(prepare_action("web")).await.expect_err("is no pattern");
    assert!(problem.message.contains("`[` in `.dockerignore`"), "{problem}");
    bench.close().await;
}

/// Commands of this machine that hold the text: the engine's steps are seen from outside.
fn is_command_running(text: &str) -> bool {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).any(|line| line.contains(text))
}

#[tokio::test]
async fn cancelled_build_stops_running_step() {
    if should_skip().await {
        return;
    }
    let bench = TestPreview::open("given-up", vec![built_unit("web", &[])]).await;
    let line = format!("sleep 7{}", std::process::id());
    write_context(&bench, &[("Dockerfile", &format!("FROM debian:stable-slim\nRUN echo begun && {line}\n"))]);
    let begun = async {
        loop {
            let said = |line: &ProgressLine| matches!(line, ProgressLine::BuildOutput(text) if text.contains("begun"));
            if bench.progress.0.lock().expect("lock").iter().any(said) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let scope = bench.scope();
    let action = prepare_action("web");
    tokio::select! {
        done = bench.driver.perform(&scope, &action) => panic!("ended by itself: {done:?}"),
        waited = tokio::time::timeout(TIMEOUT, begun) => waited.expect("the step begins"),
    }
    if cfg!(target_os = "linux") {
        let ended = async {
            while is_command_running(&line) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, ended).await.expect("the engine ends the step");
    }
    bench.close().await;
}
