//! Failures from outside: deleted sockets, concurrent clients, zombies; and a real database.

use plan::application::{Argv, ProcessDir, RuntimeKind};
use plan::observed::RunState;

use crate::test_preview::{TestPreview, eventually, is_alive, new_driver, process_spec};

#[tokio::test]
async fn deleted_keeper_socket_is_recreated() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "exec sleep 300");
    preview.create_and_start("web").await;
    let keeper = preview.keeper_pid();
    std::fs::remove_dir_all(preview.locations().runtime).expect("deleted");
    assert_eq!(preview.unit_state("web").await, RunState::Running);
    preview.stop("web").await;
    preview.start("web").await.expect("starts");
    assert_eq!(preview.keeper_pid(), keeper);
    preview.remove_all().await;
}

#[tokio::test]
async fn concurrent_clients_share_one_keeper() {
    let mut preview = TestPreview::new();
    let names: Vec<String> = (0..8).map(|number| format!("u{number}")).collect();
    for name in &names {
        preview.add_shell_unit(name, "echo $PPID > parent.$PDEV_UNIT; exec sleep 300");
    }
    for name in &names {
        preview.create(name).await.expect("creates");
    }
    let drivers: Vec<_> = names.iter().map(|_| new_driver(preview.folder.path().join("state/previews"))).collect();
    let scope = preview.scope();
    let starts = names.iter().zip(&drivers).map(|(name, driver)| {
        let runtime = RuntimeKind::PROCESS;
        let action = plan::step::Action::Start { unit: name.clone(), runtime };
        let scope = &scope;
        async move { drivers::Driver::perform(driver, scope, &action).await }
    });
    for result in futures_util::future::join_all(starts).await {
        result.expect("starts");
    }
    let keeper = preview.keeper_pid().expect("a keeper");
    for name in &names {
        assert_eq!(preview.wait_for_pid(&format!("parent.{name}")).await, keeper);
    }
    preview.remove_all().await;
}

#[tokio::test]
async fn orphans_that_end_are_reaped() {
    let mut preview = TestPreview::new();
    let forks = "for i in 1 2 3 4 5; do sh -c 'setsid sh -c \"echo \\$\\$ > orphan.$0\" &' $i; done; ";
    preview.add_shell_unit("web", &format!("{forks} exec sleep 300"));
    preview.create_and_start("web").await;
    for number in 1..=5 {
        let pid = preview.wait_for_pid(&format!("orphan.{number}")).await;
        eventually("reaped", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())).await;
    }
    assert_eq!(preview.unit_state("web").await, RunState::Running);
    preview.remove_all().await;
}

#[tokio::test]
async fn crash_on_port_conflict_reports_address_in_use() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "echo 'Error: listen EADDRINUSE: address already in use 127.0.0.1:8000' >&2; exit 1");
    let exit = preview.run_to_exit("web").await;
    assert!(exit.error.is_some_and(|error| error.contains("address already in use")));
    preview.remove_all().await;
}

/// Like the built-in module: finds the program where Debian installs it, initialises once, and uses its own user as
/// root.
#[tokio::test]
async fn postgres_runs_and_stops_cleanly() {
    if !std::path::Path::new("/usr/lib/postgresql").exists() {
        println!("skipped: no PostgreSQL on this machine");
        return;
    }
    let mut preview = TestPreview::new();
    let list = |words: &[&str]| Argv::List(words.iter().map(|word| (*word).to_owned()).collect());
    let serve = list(&["postgres", "-D", "pgdata", "-c", "listen_addresses=", "-c", "unix_socket_directories=."]);
    let unit = preview.add_unit("db", serve);
    unit.stop.signal = "SIGINT".to_owned();
    let spec = process_spec(unit);
    spec.dir = ProcessDir::Data;
    spec.user = Some("postgres".to_owned());
    spec.search_paths = vec!["/usr/lib/postgresql/*/bin".to_owned()];
    spec.init = vec![list(&["initdb", "-D", "pgdata", "-A", "trust", "--no-sync", "-U", "postgres"])];
    preview.create_and_start("db").await;
    let folder = std::fs::canonicalize(preview.locations().data.join("db")).expect("data folder");
    let pid = eventually("postmaster ready", || {
        let text = std::fs::read_to_string(folder.join("pgdata/postmaster.pid")).ok()?;
        text.contains("ready").then(|| text.lines().next()?.parse::<i32>().ok()).flatten()
    });
    let pid = pid.await;
    preview.stop("db").await;
    assert!(!is_alive(pid));
    let RunState::Exited(exit) = preview.unit_state("db").await else { panic!("stopped") };
    assert_eq!(exit.code, Some(0));
    preview.start("db").await.expect("starts again with its data");
    preview.remove_all().await;
    let remove = plan::step::Action::RemoveVolume { runtime: RuntimeKind::PROCESS, volume: "db".to_owned() };
    preview.perform(remove).await.expect("removes");
}
