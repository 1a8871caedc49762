//! Starting, stopping, surviving, cleaning up.

use drivers::driver::{Driver, ProblemKind};
use plan::application::Argv;
use plan::observed::RunState;
use rustix::process::Signal;

use crate::test_preview::{TestPreview, eventually, is_alive, process_spec, send_signal};

#[tokio::test]
async fn unit_survives_client_and_is_removed_completely() {
    let mut bench = TestPreview::new();
    bench.add_shell_unit("web", "echo $$ > pid; exec sleep 300");
    bench.create_and_start("web").await;
    let (pid, keeper) = (bench.wait_for_pid("pid").await, bench.keeper_pid().expect("a keeper"));
    bench.replace_driver();
    assert_eq!(bench.unit_state("web").await, RunState::Running);
    assert!(is_alive(pid) && bench.create("web").await.is_ok() && bench.start("web").await.is_ok());
    assert_eq!(bench.keeper_pid(), Some(keeper));
    bench.stop("web").await;
    assert!(!is_alive(pid));
    let RunState::Exited(exit) = bench.unit_state("web").await else { panic!("stopped") };
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    bench.remove("web").await;
    assert!(bench.observe().await.units.is_empty());
    eventually("keeper gone", || (!is_alive(keeper)).then_some(())).await;
    eventually("files gone", || (!bench.locations().runtime.exists()).then_some(())).await;
    let left: Vec<_> =
        std::fs::read_dir(bench.locations().state).expect("folder").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn exit_code_is_kept_without_keeper() {
    let mut bench = TestPreview::new();
    bench.add_shell_unit("job", "exit 7");
    let exit = bench.run_to_exit("job").await;
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    send_signal(bench.keeper_pid().expect("a keeper"), Signal::TERM);
    let keeper = bench.keeper_pid().expect("a keeper");
    eventually("keeper gone", || (!is_alive(keeper)).then_some(())).await;
    assert_eq!(bench.unit_state("job").await, RunState::Exited(exit));
    bench.remove_all().await;
    assert!(!bench.locations().state.join("keeper.json").exists());
}

#[tokio::test]
async fn no_grandchild_escapes() {
    let escape = "setsid sh -c 'setsid sh -c \"echo \\$\\$ > escaped; exec sleep 300\" & exit' & wait $!; ";
    let cleared = "env -i /usr/bin/setsid /bin/sh -c 'echo $$ > cleared; exec /bin/sleep 300' & ";
    for (case, end) in [("stopped", "exec sleep 300"), ("crashed", "while [ ! -s crash ]; do sleep 0.01; done; exit 3")]
    {
        let mut bench = TestPreview::new();
        bench.add_shell_unit("web", &format!("{cleared}{escape}{end}"));
        bench.create_and_start("web").await;
        let escaped = [bench.wait_for_pid("escaped").await, bench.wait_for_pid("cleared").await];
        if case == "stopped" {
            bench.stop("web").await;
        } else {
            std::fs::write(bench.locations().project.join("crash"), "now").expect("written");
            assert_eq!(bench.wait_for_exit("web").await.code, Some(3));
        }
        for pid in escaped {
            assert!(!is_alive(pid), "{case}: {pid} lives on");
        }
        bench.remove_all().await;
    }
}

/// What is forked in the instant of the signal may not hear it; a second one must come long before the kill.
#[tokio::test]
async fn stop_signal_is_sent_once_more() {
    let mut bench = TestPreview::new();
    let deaf = "trap 'trap - TERM' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let unit = bench.add_shell_unit("web", &format!("sh -c \"{}\" & wait", deaf.replace('$', "\\$")));
    unit.stop.grace = std::time::Duration::from_secs(60);
    bench.create_and_start("web").await;
    let (pid, before) = (bench.wait_for_pid("pid").await, std::time::Instant::now());
    bench.stop("web").await;
    assert!(!is_alive(pid) && before.elapsed() < std::time::Duration::from_secs(30), "it took the whole grace");
    bench.remove_all().await;
}

#[tokio::test]
async fn process_ignoring_stop_signal_is_killed_after_grace() {
    let mut bench = TestPreview::new();
    let unit = bench.add_shell_unit("web", "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done");
    unit.stop.grace = std::time::Duration::from_millis(150);
    bench.create_and_start("web").await;
    let pid = bench.wait_for_pid("pid").await;
    let before = std::time::Instant::now();
    bench.stop("web").await;
    assert!(!is_alive(pid) && before.elapsed() >= std::time::Duration::from_millis(150));
    let RunState::Exited(exit) = bench.unit_state("web").await else { panic!("stopped") };
    assert_eq!(exit.signal, Some(9));
    bench.remove_all().await;
}

#[tokio::test]
async fn a_killed_keeper_leaves_nothing_behind() {
    let mut bench = TestPreview::new();
    bench.add_shell_unit("web", "setsid sh -c 'echo $$ > escaped; exec sleep 300' & echo $$ > pid; exec sleep 300");
    bench.create_and_start("web").await;
    let (pid, escaped) = (bench.wait_for_pid("pid").await, bench.wait_for_pid("escaped").await);
    send_signal(bench.keeper_pid().expect("a keeper"), Signal::KILL);
    eventually("child gone", || (!is_alive(pid)).then_some(())).await;
    let RunState::Exited(exit) = bench.unit_state("web").await else { panic!("exited") };
    assert!(exit.error.expect("a reason").contains("keeper was killed"));
    eventually("grandchild gone", || (!is_alive(escaped)).then_some(())).await;
    bench.start("web").await.expect("starts again under a new keeper");
    assert_eq!(bench.unit_state("web").await, RunState::Running);
    bench.remove_all().await;
}

#[tokio::test]
async fn fifty_units_start_and_stop_concurrently() {
    let mut bench = TestPreview::new();
    for number in 0..50 {
        bench.add_shell_unit(&format!("u{number}"), "exec sleep 300");
    }
    let names: Vec<String> = bench.units.keys().cloned().collect();
    futures_util::future::join_all(names.iter().map(|name| bench.create_and_start(name))).await;
    let observed = bench.observe().await;
    assert!(observed.units.len() == 50 && observed.units.values().all(|unit| unit.state == RunState::Running));
    futures_util::future::join_all(names.iter().map(|name| bench.remove(name))).await;
    assert!(bench.observe().await.units.is_empty());
}

#[tokio::test]
async fn start_problems_have_distinct_kinds() {
    use std::os::unix::fs::PermissionsExt;
    let write = |bench: &TestPreview, name: &str, text: &str, mode: u32| {
        let path = bench.locations().project.join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
    };
    let cases: [(&str, &str, ProblemKind, &str); 5] = [
        (
            "nowhere-to-be-found",
            ".",
            ProblemKind::ProgramNotFound,
            "program `nowhere-to-be-found` not found (looked in ",
        ),
        ("./plain", ".", ProblemKind::PermissionDenied, "`./plain` is not executable"),
        ("./garbage", ".", ProblemKind::ExecFormat, "exec format error"),
        ("./script", ".", ProblemKind::ProgramNotFound, "`/no/such/interpreter`"),
        ("true", "absent", ProblemKind::NotFound, "cannot run `web` in `absent`"),
    ];
    for (program, dir, kind, words) in cases {
        let mut bench = TestPreview::new();
        write(&bench, "plain", "text", 0o644);
        write(&bench, "garbage", "\u{1}\u{0}text", 0o755);
        write(&bench, "script", "#!/no/such/interpreter\n", 0o755);
        let unit = bench.add_unit("web", Argv::List(vec![program.to_owned()]));
        process_spec(unit).dir = plan::application::ProcessDir::Project(dir.to_owned());
        process_spec(unit).install_hint = Some("nowhere (Debian: apt install nowhere)".to_owned());
        let problem = match bench.create("web").await {
            Ok(_) => bench.start("web").await.expect_err("cannot start"),
            Err(problem) => problem,
        };
        assert!(problem.kind == kind && problem.message.contains(words), "{program}: {problem:?}");
        assert!(problem.hint.is_some(), "{program}");
        bench.remove_all().await;
    }
}

#[tokio::test]
async fn previews_are_discovered_from_state_folder() {
    let mut bench = TestPreview::new();
    bench.add_shell_unit("web", "exec sleep 300");
    bench.add_shell_unit("job", "true");
    bench.create_and_start("web").await;
    bench.run_to_exit("job").await;
    let found = bench.driver.discover().await.expect("discovers");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].preview.clone(), found[0].unit_count, found[0].running_count), (bench.name.clone(), 2, 1));
    assert_eq!(found[0].project, Some(bench.locations().project));
    bench.remove_all().await;
    assert!(bench.driver.discover().await.expect("discovers").is_empty());
}
