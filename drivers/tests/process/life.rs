//! Starting, stopping, surviving, cleaning up.

use drivers::driver::{Driver, ProblemKind};
use plan::application::Argv;
use plan::observed::RunState;
use rustix::process::Signal;

use crate::bench::{Bench, alive, eventually, kill, process};

#[tokio::test]
async fn a_unit_survives_its_client_and_goes_away_whole() {
    let mut bench = Bench::new();
    bench.shell("web", "echo $$ > pid; exec sleep 300");
    bench.up("web").await;
    let (pid, keeper) = (bench.pid_in("pid").await, bench.keeper_pid().expect("a keeper"));
    bench.forget_driver();
    assert_eq!(bench.state("web").await, RunState::Running);
    assert!(alive(pid) && bench.create("web").await.is_ok() && bench.start("web").await.is_ok());
    assert_eq!(bench.keeper_pid(), Some(keeper));
    bench.stop("web").await;
    assert!(!alive(pid));
    let RunState::Exited(exit) = bench.state("web").await else { panic!("stopped") };
    assert_eq!((exit.code, exit.signal), (None, Some(15)));
    bench.remove("web").await;
    assert!(bench.observe().await.units.is_empty());
    eventually("keeper gone", || (!alive(keeper)).then_some(())).await;
    eventually("files gone", || (!bench.places().runtime.exists()).then_some(())).await;
    let left: Vec<_> = std::fs::read_dir(bench.places().state).expect("folder").flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn exit_codes_stay_known_without_a_keeper() {
    let mut bench = Bench::new();
    bench.shell("job", "exit 7");
    let exit = bench.run("job").await;
    assert_eq!((exit.code, exit.signal), (Some(7), None));
    kill(bench.keeper_pid().expect("a keeper"), Signal::TERM);
    let keeper = bench.keeper_pid().expect("a keeper");
    eventually("keeper gone", || (!alive(keeper)).then_some(())).await;
    assert_eq!(bench.state("job").await, RunState::Exited(exit));
    bench.down().await;
    assert!(!bench.places().state.join("keeper.json").exists());
}

#[tokio::test]
async fn no_grandchild_escapes() {
    let escape = "setsid sh -c 'setsid sh -c \"echo \\$\\$ > escaped; exec sleep 300\" & exit' & wait $!; ";
    let cleared = "env -i /usr/bin/setsid /bin/sh -c 'echo $$ > cleared; exec /bin/sleep 300' & ";
    for (case, end) in [("stopped", "exec sleep 300"), ("crashed", "while [ ! -s crash ]; do sleep 0.01; done; exit 3")]
    {
        let mut bench = Bench::new();
        bench.shell("web", &format!("{cleared}{escape}{end}"));
        bench.up("web").await;
        let escaped = [bench.pid_in("escaped").await, bench.pid_in("cleared").await];
        if case == "stopped" {
            bench.stop("web").await;
        } else {
            std::fs::write(bench.places().project.join("crash"), "now").expect("written");
            assert_eq!(bench.exit("web").await.code, Some(3));
        }
        for pid in escaped {
            assert!(!alive(pid), "{case}: {pid} lives on");
        }
        bench.down().await;
    }
}

/// What is forked in the instant of the signal may not hear it; a second one must come long before the kill.
#[tokio::test]
async fn who_missed_the_signal_hears_it_once_more() {
    let mut bench = Bench::new();
    let deaf = "trap 'trap - TERM' TERM; echo $$ > pid; while :; do sleep 0.02; done";
    let unit = bench.shell("web", &format!("sh -c \"{}\" & wait", deaf.replace('$', "\\$")));
    unit.stop.grace = std::time::Duration::from_secs(60);
    bench.up("web").await;
    let (pid, before) = (bench.pid_in("pid").await, std::time::Instant::now());
    bench.stop("web").await;
    assert!(!alive(pid) && before.elapsed() < std::time::Duration::from_secs(30), "it took the whole grace");
    bench.down().await;
}

#[tokio::test]
async fn who_ignores_the_signal_is_killed_after_the_grace() {
    let mut bench = Bench::new();
    let unit = bench.shell("web", "trap '' TERM; echo $$ > pid; while :; do sleep 0.05; done");
    unit.stop.grace = std::time::Duration::from_millis(150);
    bench.up("web").await;
    let pid = bench.pid_in("pid").await;
    let before = std::time::Instant::now();
    bench.stop("web").await;
    assert!(!alive(pid) && before.elapsed() >= std::time::Duration::from_millis(150));
    let RunState::Exited(exit) = bench.state("web").await else { panic!("stopped") };
    assert_eq!(exit.signal, Some(9));
    bench.down().await;
}

#[tokio::test]
async fn a_killed_keeper_leaves_nothing_behind() {
    let mut bench = Bench::new();
    bench.shell("web", "setsid sh -c 'echo $$ > escaped; exec sleep 300' & echo $$ > pid; exec sleep 300");
    bench.up("web").await;
    let (pid, escaped) = (bench.pid_in("pid").await, bench.pid_in("escaped").await);
    kill(bench.keeper_pid().expect("a keeper"), Signal::KILL);
    eventually("child gone", || (!alive(pid)).then_some(())).await;
    let RunState::Exited(exit) = bench.state("web").await else { panic!("exited") };
    assert!(exit.error.expect("a reason").contains("keeper was killed"));
    eventually("grandchild gone", || (!alive(escaped)).then_some(())).await;
    bench.start("web").await.expect("starts again under a new keeper");
    assert_eq!(bench.state("web").await, RunState::Running);
    bench.down().await;
}

#[tokio::test]
async fn fifty_units_at_once() {
    let mut bench = Bench::new();
    for number in 0..50 {
        bench.shell(&format!("u{number}"), "exec sleep 300");
    }
    let names: Vec<String> = bench.units.keys().cloned().collect();
    futures_util::future::join_all(names.iter().map(|name| bench.up(name))).await;
    let observed = bench.observe().await;
    assert!(observed.units.len() == 50 && observed.units.values().all(|unit| unit.state == RunState::Running));
    futures_util::future::join_all(names.iter().map(|name| bench.remove(name))).await;
    assert!(bench.observe().await.units.is_empty());
}

#[tokio::test]
async fn start_problems_are_told_apart() {
    use std::os::unix::fs::PermissionsExt;
    let write = |bench: &Bench, name: &str, text: &str, mode: u32| {
        let path = bench.places().project.join(name);
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
        ("./plain", ".", ProblemKind::Denied, "`./plain` is not executable"),
        ("./garbage", ".", ProblemKind::ExecFormat, "exec format error"),
        ("./script", ".", ProblemKind::ProgramNotFound, "`/no/such/interpreter`"),
        ("true", "absent", ProblemKind::NotFound, "cannot run `web` in `absent`"),
    ];
    for (program, dir, kind, words) in cases {
        let mut bench = Bench::new();
        write(&bench, "plain", "text", 0o644);
        write(&bench, "garbage", "\u{1}\u{0}text", 0o755);
        write(&bench, "script", "#!/no/such/interpreter\n", 0o755);
        let unit = bench.unit("web", Argv::List(vec![program.to_owned()]));
        process(unit).dir = plan::application::ProcessDir::Project(dir.to_owned());
        process(unit).install_hint = Some("nowhere (Debian: apt install nowhere)".to_owned());
        let problem = match bench.create("web").await {
            Ok(_) => bench.start("web").await.expect_err("cannot start"),
            Err(problem) => problem,
        };
        assert!(problem.kind == kind && problem.message.contains(words), "{program}: {problem:?}");
        assert!(problem.hint.is_some(), "{program}");
        bench.down().await;
    }
}

#[tokio::test]
async fn previews_are_found_by_their_folder() {
    let mut bench = Bench::new();
    bench.shell("web", "exec sleep 300");
    bench.shell("job", "true");
    bench.up("web").await;
    bench.run("job").await;
    let found = bench.driver.discover().await.expect("discovers");
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].preview.clone(), found[0].units, found[0].running), (bench.name.clone(), 2, 1));
    assert_eq!(found[0].project, Some(bench.places().project));
    bench.down().await;
    assert!(bench.driver.discover().await.expect("discovers").is_empty());
}
