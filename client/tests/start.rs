//! Tests of the agent's start: concurrent clients start one agent, and a failed start reports its cause.
//!
//! This program is also the fake agent: with the argument `agent` it takes the lock, listens, reports it and serves.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the tests check the line on standard output")]

mod fake;

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, ClientError, Launch, READY_WORD, SocketLocation};

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    if std::env::args().nth(1).as_deref() == Some("agent") {
        return runtime.block_on(run_fake_agent());
    }
    runtime.block_on(async {
        two_clients_start_one_agent().await;
        failed_start_reports_the_reason().await;
    });
    println!("start: 2 tests passed");
}

/// Ends when a client requests a stop, or after a deadline, so that no test run leaves an agent behind.
async fn run_fake_agent() {
    let folder = std::env::var("PDEV_SOCKET_DIR").unwrap();
    let location = SocketLocation::in_folder(&folder);
    let lock = File::create(Path::new(&folder).join("agent.lock")).unwrap();
    if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        println!(r#"{{"code":"already_running","title":"another agent runs"}}"#);
        return;
    }
    writeln!(OpenOptions::new().create(true).append(true).open(Path::new(&folder).join("starts")).unwrap(), "x")
        .unwrap();
    let (stop, mut stopped) = tokio::sync::mpsc::channel::<()>(1);
    fake::serve(
        &location.socket_path(),
        Arc::new(move |request| {
            if request.starts_with("POST /v1/agent/stop") {
                assert!(request.body.is_empty());
                let _ = stop.try_send(());
                return fake::json_response("202 Accepted", "{}");
            }
            fake::agent_info_response(1)
        }),
    );
    println!("{READY_WORD}");
    let _ = tokio::time::timeout(Duration::from_secs(20), stopped.recv()).await;
}

fn private_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

async fn two_clients_start_one_agent() {
    let folder = private_folder();
    let location = SocketLocation::in_folder(folder.path().join("inner"));
    let launch = Launch {
        program: std::env::current_exe().unwrap(),
        arguments: vec!["agent".into()],
        timeout: Duration::from_secs(10),
    };
    let tasks = (0..6).map(|_| {
        let (location, launch) = (location.clone(), launch.clone());
        tokio::spawn(
            async move { Client::connect_or_start(&location, &launch).await.map(|client| client.info().clone()) },
        )
    });
    for task in tasks.collect::<Vec<_>>() {
        assert_eq!(task.await.unwrap().unwrap().version, "9.9.9");
    }
    assert_eq!(std::fs::read_to_string(location.folder().join("starts")).unwrap(), "x\n");
    assert_eq!(std::fs::metadata(location.folder()).unwrap().permissions().mode() & 0o777, 0o700);
    Client::stop_agent(&location).await.unwrap();
}

type Expected = fn(&ClientError) -> bool;

async fn failed_start_reports_the_reason() {
    let cases: [(&str, Expected); 4] = [
        (r#"echo '{"code":"disk_full","title":"no space","hint":"Free some."}'"#, |error| {
            error.to_string() == "the agent did not start: no space" && error.hint().as_deref() == Some("Free some.")
        }),
        ("exit 3", |error| error.to_string().contains("exited without a message (exit status: 3)")),
        ("echo ready", |error| error.to_string().contains("but no process listens")),
        ("exec sleep 3", |error| matches!(error, ClientError::StartTimeout { .. })),
    ];
    for (script, expected) in cases {
        let folder = private_folder();
        let launch = Launch {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            timeout: Duration::from_millis(300),
        };
        let error = Client::connect_or_start(&SocketLocation::in_folder(folder.path()), &launch).await.unwrap_err();
        assert!(expected(&error), "{script}: {error}");
    }
}
