//! Builds with a real engine: the sent context, the image's tag, failures, and cancellation.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use drivers::capabilities::ImageInspection;
use drivers::driver::{Driver, LogRequest};
use drivers::problem::ProblemKind;
use drivers::scope::ProgressLine;
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

fn write_context(preview: &TestPreview, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = preview.locations().project.join("app").join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
}

async fn wait_for_output(preview: &TestPreview, unit: &str) -> Vec<String> {
    preview.wait_for_exit(unit).await;
    let lines =
        preview.driver.logs(&preview.name.id, &preview.locations(), unit, LogRequest::default()).await.expect("opens");
    lines.map(|line| line.expect("reads").text).collect().await
}

/// Removes the images of a test, which no other test uses.
async fn remove_images(preview: &TestPreview) {
    for image in preview.driver.inspect_images(&preview.scope()).await.expect("images").current.into_values() {
        let options = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true).build();
        drop(crate::test_preview::engine().remove_image(&image, Some(options), None).await);
    }
}

const DOCKERFILE: &str = "FROM debian:stable-slim\nARG WORD=none\nCOPY . /app\nRUN echo \"$WORD\" > /word\n";

/// The Dockerfile outside of the context, and a link to it; files keep their times.
#[tokio::test]
async fn foreign_dockerfile_builds_and_files_keep_their_times() {
    if should_skip().await {
        return;
    }
    for dockerfile in ["../web.Dockerfile", "link"] {
        let mut unit = built_unit("web", &[("WORD", "hello")]);
        if let Body::Container(container) = &mut unit.body {
            if let ImageSource::Build(spec) = &mut container.image {
                spec.dockerfile = dockerfile.to_owned();
            }
            container.create_body["Cmd"] = json!(["cat /word; stat -c '%n %Y' /app/old.txt"]);
        }
        let preview = TestPreview::open("foreign", vec![unit]).await;
        write_context(&preview, &[("../web.Dockerfile", DOCKERFILE), ("old.txt", "1")]);
        let context = preview.locations().project.join("app");
        std::os::unix::fs::symlink("../web.Dockerfile", context.join("link")).expect("linked");
        let time = std::time::UNIX_EPOCH + Duration::from_secs(1_234_567_890);
        let file = fs::File::options().write(true).open(context.join("old.txt")).expect("opens");
        file.set_modified(time).expect("the time is set");
        preview.perform_ok(prepare_action("web")).await;
        preview.perform_ok(create_action("web")).await;
        preview.perform_ok(start_action("web")).await;
        assert_eq!(wait_for_output(&preview, "web").await, ["hello", "/app/old.txt 1234567890"], "{dockerfile}");
        remove_images(&preview).await;
        preview.close().await;
    }
}

#[tokio::test]
async fn image_contains_only_its_build_inputs() {
    if should_skip().await {
        return;
    }
    let mut preview = TestPreview::open("inputs", vec![built_unit("web", &[("WORD", "hello")])]).await;
    write_context(
        &preview,
        &[
            ("Dockerfile", DOCKERFILE),
            (".dockerignore", "\u{feff}# kept out\n**/*.log\nlib/**\n!lib/keep\n"),
            ("a.txt", "1"),
            ("deep/x.log", "out"),
            ("lib/drop", "out"),
            ("lib/keep", "in"),
        ],
    );
    let images = preview.driver.inspect_images(&preview.scope()).await.expect("images");
    assert_eq!(images.stale["web"], "not built yet");
    let image = preview.perform_ok(prepare_action("web")).await.image.expect("an image");
    let images = preview.driver.inspect_images(&preview.scope()).await.expect("images");
    assert_eq!((images.current.get("web"), images.stale.len()), (Some(&image), 0));
    preview.perform_ok(create_action("web")).await;
    preview.perform_ok(start_action("web")).await;
    let files = ["./.dockerignore", "./Dockerfile", "./a.txt", "./lib/keep"];
    assert_eq!(wait_for_output(&preview, "web").await, [&["hello"], files.as_slice()].concat());
    write_context(&preview, &[("deep/y.log", "ignored")]);
    assert_eq!(preview.driver.inspect_images(&preview.scope()).await.expect("images").current["web"], image);
    write_context(&preview, &[("a.txt", "2")]);
    let images = preview.driver.inspect_images(&preview.scope()).await.expect("images");
    assert_eq!(images.stale["web"], "context changed: a.txt");
    write_context(&preview, &[("a.txt", "1")]);
    preview.units.insert("web".to_owned(), built_unit("web", &[("WORD", "other")]));
    assert!(
        preview.driver.inspect_images(&preview.scope()).await.expect("images").stale.contains_key("web"),
        "build arguments are inputs"
    );
    preview.units.insert("web".to_owned(), built_unit("web", &[("WORD", "hello")]));
    remove_images(&preview).await;
    preview.close().await;
}

#[tokio::test]
async fn edit_between_build_and_create_does_not_change_image() {
    if should_skip().await {
        return;
    }
    let preview = TestPreview::open("edited", vec![built_unit("web", &[])]).await;
    write_context(&preview, &[("Dockerfile", DOCKERFILE), ("a.txt", "1")]);
    let image = preview.perform_ok(prepare_action("web")).await.image.expect("an image");
    write_context(&preview, &[("a.txt", "2")]);
    preview.perform_ok(create_action("web")).await;
    assert_eq!(preview.observe_unit("web").await.image, Some(image));
    write_context(&preview, &[("a.txt", "1")]);
    remove_images(&preview).await;
    preview.close().await;
}

#[tokio::test]
async fn build_failure_names_step_with_output() {
    if should_skip().await {
        return;
    }
    let preview = TestPreview::open("failing", vec![built_unit("web", &[])]).await;
    write_context(&preview, &[("Dockerfile", "FROM debian:stable-slim\nRUN echo because-of-this && exit 3\n")]);
    let problem = preview.perform(prepare_action("web")).await.expect_err("fails");
    assert_eq!(problem.kind, ProblemKind::BuildFailed);
    assert!(problem.message.contains("RUN echo because-of-this"), "{problem}");
    assert!(problem.output.iter().any(|line| line.contains("because-of-this")), "{problem:?}");
    write_context(&preview, &[(".dockerignore", "[")]);
    let problem = preview.perform(prepare_action("web")).await.expect_err("is not a valid pattern");
    assert!(problem.message.contains("`[` in `.dockerignore`"), "{problem}");
    preview.close().await;
}

/// Whether any process of this machine has this text in its command line. Build steps run outside the test's process
/// tree.
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
    let preview = TestPreview::open("cancelled", vec![built_unit("web", &[])]).await;
    let line = format!("sleep 7{}", std::process::id());
    write_context(&preview, &[("Dockerfile", &format!("FROM debian:stable-slim\nRUN echo begun && {line}\n"))]);
    let started = async {
        loop {
            let has_output =
                |line: &ProgressLine| matches!(line, ProgressLine::BuildOutput(text) if text.contains("begun"));
            if preview.progress.0.lock().expect("lock").iter().any(has_output) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let scope = preview.scope();
    let action = prepare_action("web");
    tokio::select! {
        result = preview.driver.perform(&scope, &action) => panic!("ended by itself: {result:?}"),
        result = tokio::time::timeout(TIMEOUT, started) => result.expect("the step starts"),
    }
    if cfg!(target_os = "linux") {
        let stopped = async {
            while is_command_running(&line) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(TIMEOUT, stopped).await.expect("the engine ends the step");
    }
    preview.close().await;
}
