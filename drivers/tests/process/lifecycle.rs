//! The life of a unit: start, stop, survival of the client, cleanup.

use drivers::driver::Driver;
use drivers::problem::ProblemKind;
use plan::application::Argv;
use plan::observed::RunState;
use rustix::process::Signal;

use crate::test_preview::{TestPreview, eventually, is_alive, process_spec, send_signal};

#[tokio::test]
async fn unit_survives_client_and_is_removed_completely() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "echo $$ > pid; exec sleep 300");
    preview.create_and_start("web").await;
    let (pid, keeper) = (preview.wait_for_pid("pid").await, preview.keeper_pid().expect("a keeper"));
    preview.replace_driver();
    assert_eq!(preview.unit_state("web").await, RunState::Running);
    assert!(is_alive(pid) && preview.create("web").await.is_ok() && preview.start("web").await.is_ok());
    assert_eq!(preview.keeper_pid(), Some(keeper));
    preview.stop("web").await;
    assert!(!is_alive(pid));
    let RunState::Exited(exit) = preview.unit_state("web").await else { panic!("stopped") };
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    preview.remove("web").await;
    assert!(preview.observe().await.units.is_empty());
    eventually("keeper gone", || (!is_alive(keeper)).then_some(())).await;
    eventually("files gone", || (!preview.locations().runtime.exists()).then_some(())).await;
    let remaining_files: Vec<_> =
        std::fs::read_dir(preview.locations().state).expect("folder").flatten().map(|e| e.path()).collect();
    assert!(remaining_files.is_empty(), "{remaining_files:?}");
}

#[tokio::test]
async fn exit_code_survives_keeper() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("job", "exit 7");
    let exit = preview.run_to_exit("job").await;
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    send_signal(preview.keeper_pid().expect("a keeper"), Signal::TERM);
    let keeper = preview.keeper_pid().expect("a keeper");
    eventually("keeper gone", || (!is_alive(keeper)).then_some(())).await;
    assert_eq!(preview.unit_state("job").await, RunState::Exited(exit));
    preview.remove_all().await;
    assert!(!preview.locations().state.join("keeper.json").exists());
}

#[tokio::test]
async fn no_grandchild_escapes() {
    // Two ways to hide from the keeper: `setsid` leaves the session and the process group, `env -i` removes the marker.
    let escape = "setsid sh -c 'setsid sh -c \"echo \\$\\$ > escaped; exec sleep 300\" & exit' & wait $!; ";
    let cleared = "env -i /usr/bin/setsid /bin/sh -c 'echo $$ > cleared; exec /bin/sleep 300' & ";
    for (case, end) in [("stopped", "exec sleep 300"), ("crashed", "while [ ! -s crash ]; do sleep 0.01; done; exit 3")]
    {
        let mut preview = TestPreview::new();
        preview.add_shell_unit("web", &format!("{cleared}{escape}{end}"));
        preview.create_and_start("web").await;
        let escaped_pids = [preview.wait_for_pid("escaped").await, preview.wait_for_pid("cleared").await];
        if case == "stopped" {
            preview.stop("web").await;
        } else {
            std::fs::write(preview.locations().project.join("crash"), "now").expect("written");
            assert_eq!(preview.wait_for_exit("web").await.code, Some(3));
        }
        for pid in escaped_pids {
            assert!(!is_alive(pid), "{case}: {pid} is still alive");
        }
        preview.remove_all().await;
    }
}

/// A child that is forked at the instant of the signal may not receive it, so a second signal must come long before the
/// kill.
#[tokio::test]
async fn stop_signal_is_sent_once_more() {
    let mut preview = TestPreview::new();
    let ignore_first_signal = "trap 'trap - TERM' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let unit = preview.add_shell_unit("web", &format!("sh -c \"{}\" & wait", ignore_first_signal.replace('$', "\\$")));
    unit.stop.grace = std::time::Duration::from_secs(60);
    preview.create_and_start("web").await;
    let (pid, started_at) = (preview.wait_for_pid("pid").await, std::time::Instant::now());
    preview.stop("web").await;
    assert!(!is_alive(pid) && started_at.elapsed() < std::time::Duration::from_secs(30), "took the full grace period");
    preview.remove_all().await;
}

#[tokio::test]
async fn process_ignoring_stop_signal_is_killed_after_grace() {
    let mut preview = TestPreview::new();
    let unit = preview.add_shell_unit("web", "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done");
    unit.stop.grace = std::time::Duration::from_millis(150);
    preview.create_and_start("web").await;
    let pid = preview.wait_for_pid("pid").await;
    let started_at = std::time::Instant::now();
    preview.stop("web").await;
    assert!(!is_alive(pid) && started_at.elapsed() >= std::time::Duration::from_millis(150));
    let RunState::Exited(exit) = preview.unit_state("web").await else { panic!("stopped") };
    assert_eq!(exit.signal, Some(9));
    preview.remove_all().await;
}

#[tokio::test]
async fn killed_keeper_leaves_no_processes() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "setsid sh -c 'echo $$ > escaped; exec sleep 300' & echo $$ > pid; exec sleep 300");
    preview.create_and_start("web").await;
    let (pid, escaped) = (preview.wait_for_pid("pid").await, preview.wait_for_pid("escaped").await);
    send_signal(preview.keeper_pid().expect("a keeper"), Signal::KILL);
    eventually("child gone", || (!is_alive(pid)).then_some(())).await;
    let RunState::Exited(exit) = preview.unit_state("web").await else { panic!("exited") };
    assert!(exit.error.expect("a reason").contains("keeper was killed"));
    eventually("grandchild gone", || (!is_alive(escaped)).then_some(())).await;
    preview.start("web").await.expect("starts again under a new keeper");
    assert_eq!(preview.unit_state("web").await, RunState::Running);
    preview.remove_all().await;
}

#[tokio::test]
async fn fifty_units_start_and_stop_concurrently() {
    let mut preview = TestPreview::new();
    for number in 0..50 {
        preview.add_shell_unit(&format!("u{number}"), "exec sleep 300");
    }
    let names: Vec<String> = preview.units.keys().cloned().collect();
    futures_util::future::join_all(names.iter().map(|name| preview.create_and_start(name))).await;
    let observed = preview.observe().await;
    assert!(observed.units.len() == 50 && observed.units.values().all(|unit| unit.state == RunState::Running));
    futures_util::future::join_all(names.iter().map(|name| preview.remove(name))).await;
    assert!(preview.observe().await.units.is_empty());
}

#[tokio::test]
async fn start_problems_have_distinct_kinds() {
    use std::os::unix::fs::PermissionsExt;
    let write = |preview: &TestPreview, name: &str, text: &str, mode: u32| {
        let path = preview.locations().project.join(name);
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
    for (program, dir, kind, message_part) in cases {
        let mut preview = TestPreview::new();
        write(&preview, "plain", "text", 0o644);
        write(&preview, "garbage", "\u{1}\u{0}text", 0o755);
        write(&preview, "script", "#!/no/such/interpreter\n", 0o755);
        let unit = preview.add_unit("web", Argv::List(vec![program.to_owned()]));
        process_spec(unit).dir = plan::application::ProcessDir::Project(dir.to_owned());
        process_spec(unit).install_hint = Some("nowhere (Debian: apt install nowhere)".to_owned());
        let problem = match preview.create("web").await {
            Ok(_) => preview.start("web").await.expect_err("cannot start"),
            Err(problem) => problem,
        };
        assert!(problem.kind == kind && problem.message.contains(message_part), "{program}: {problem:?}");
        assert!(problem.hint.is_some(), "{program}");
        preview.remove_all().await;
    }
}

#[tokio::test]
async fn previews_are_discovered_from_state_folder() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "exec sleep 300");
    preview.add_shell_unit("job", "true");
    preview.create_and_start("web").await;
    preview.run_to_exit("job").await;
    let previews = preview.driver.discover().await.expect("discovers");
    assert_eq!(previews.len(), 1);
    assert_eq!(
        (previews[0].preview.clone(), previews[0].unit_count, previews[0].running_count),
        (preview.name.clone(), 2, 1)
    );
    assert_eq!(previews[0].project, Some(preview.locations().project));
    preview.remove_all().await;
    assert!(preview.driver.discover().await.expect("discovers").is_empty());
}
