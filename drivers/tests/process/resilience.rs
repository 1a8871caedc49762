//! Rough treatment: swept sockets, two clients at once, zombies, a real database.

use plan::application::{Argv, ProcessDir};
use plan::observed::RunState;

use crate::test_preview::{TestPreview, eventually, is_alive, new_driver, process_spec};

#[tokio::test]
async fn deleted_keeper_socket_is_recreated() {
    let mut bench = TestPreview::new();
    bench.add_shell_unit("web", "exec sleep 300");
    bench.create_and_start("web").await;
    let keeper = bench.keeper_pid();
    std::fs::remove_dir_all(bench.locations().runtime).expect("swept");
    assert_eq!(bench.unit_state("web").await, RunState::Running);
    bench.stop("web").await;
    bench.start("web").await.expect("starts");
    assert_eq!(bench.keeper_pid(), keeper);
    bench.remove_all().await;
}

#[tokio::test]
async fn concurrent_clients_share_one_keeper() {
    let mut bench = TestPreview::new();
    let names: Vec<String> = (0..8).map(|number| format!("u{number}")).collect();
    for name in &names {
        bench.add_shell_unit(name, "echo $PPID > parent.$PDEV_UNIT; exec sleep 300");
    }
    for name in &names {
        bench.create(name).await.expect("creates");
    }
    let drivers: Vec<_> = names.iter().map(|_| new_driver(bench.folder.path().join("state/previews"))).collect();
    let scope = bench.scope();
    let starts = names.iter().zip(&drivers).map(|(name, driver)| {
        let runtime = plan::application::RuntimeKind::Process;
        let action = plan::step::Action::Start { unit: name.clone(), runtime };
        let scope = &scope;
        async move { drivers::Driver::perform(driver, scope, &action).await }
    });
    for started in futures_util::future::join_all(starts).await {
        started.expect("starts");
    }
    let keeper = bench.keeper_pid().expect("a keeper");
    for name in &names {
        assert_eq!(bench.wait_for_pid(&format!("parent.{name}")).await, keeper);
    }
    bench.remove_all().await;
}

#[tokio::test]
async fn orphans_that_end_are_reaped() {
    let mut bench = TestPreview::new();
    let forks = "for i in 1 2 3 4 5; do sh -c 'setsid sh -c \"echo \\$\\$ > orphan.$0\" &' $i; done; ";
    bench.add_shell_unit("web", &format!("{forks} exec sleep 300"));
    bench.create_and_start("web").await;
    for number in 1..=5 {
        let pid = bench.wait_for_pid(&format!("orphan.{number}")).await;
        eventually("reaped", || (!std::path::Path::new(&format!("/proc/{pid}")).exists()).then_some(())).await;
    }
    assert_eq!(bench.unit_state("web").await, RunState::Running);
    bench.remove_all().await;
}

#[tokio::test]
async fn crash_on_port_conflict_reports_address_in_use() {
    let mut bench = TestPreview::new();
    bench.add_shell_unit("web", "echo 'Error: listen EADDRINUSE: address already in use 127.0.0.1:8000' >&2; exit 1");
    let exit = bench.run_to_exit("web").await;
    assert!(exit.error.is_some_and(|error| error.contains("address already in use")));
    bench.remove_all().await;
}

/// As the module does it: found where Debian puts it, initialised once, with a user of its own under root.
#[tokio::test]
async fn postgres_runs_and_stops_cleanly() {
    if !std::path::Path::new("/usr/lib/postgresql").exists() {
        println!("skipped: no PostgreSQL on this machine");
        return;
    }
    let mut bench = TestPreview::new();
    let list = |words: &[&str]| Argv::List(words.iter().map(|word| (*word).to_owned()).collect());
    let serve = list(&["postgres", "-D", "pgdata", "-c", "listen_addresses=", "-c", "unix_socket_directories=."]);
    let unit = bench.add_unit("db", serve);
    unit.stop.signal = "SIGINT".to_owned();
    let spec = process_spec(unit);
    spec.dir = ProcessDir::Data;
    spec.user = Some("postgres".to_owned());
    spec.search_paths = vec!["/usr/lib/postgresql/*/bin".to_owned()];
    spec.init = vec![list(&["initdb", "-D", "pgdata", "-A", "trust", "--no-sync", "-U", "postgres"])];
    bench.create_and_start("db").await;
    let folder = std::fs::canonicalize(bench.locations().data.join("db")).expect("data folder");
    let pid = eventually("postmaster ready", || {
        let text = std::fs::read_to_string(folder.join("pgdata/postmaster.pid")).ok()?;
        text.contains("ready").then(|| text.lines().next()?.parse::<i32>().ok()).flatten()
    });
    let pid = pid.await;
    bench.stop("db").await;
    assert!(!is_alive(pid));
    let RunState::Exited(exit) = bench.unit_state("db").await else { panic!("stopped") };
    assert_eq!(exit.code, Some(0));
    bench.start("db").await.expect("starts again with its data");
    bench.remove_all().await;
    let remove = plan::step::Action::RemoveVolume { volume: "db".to_owned() };
    bench.perform(remove).await.expect("removes");
}
