//! Builds, files, first-time initialisation, users.

use drivers::driver::{Driver, ProblemKind};
use plan::application::{Argv, ProcessDir, RuntimeKind, UnitPort};
use plan::step::Action;

use crate::bench::{Bench, process};

fn prepare() -> Action {
    Action::PrepareImage { unit: "web".to_owned(), runtime: RuntimeKind::Process }
}

#[tokio::test]
async fn a_build_runs_when_its_inputs_changed_and_says_why() {
    let mut bench = Bench::new();
    let unit = bench.shell("web", "cat built; exec sleep 300");
    process(unit).build = Some(Argv::Shell("echo run >> runs; cp source built".to_owned()));
    process(unit).build_inputs = vec!["source".to_owned()];
    let project = bench.places().project;
    std::fs::write(project.join("source"), "1").expect("written");
    let images = bench.driver.images(&bench.scope()).await.expect("images");
    assert_eq!(images.stale["web"], "not built yet");
    let first = bench.perform(prepare()).await.expect("builds").image.expect("an identity");
    let images = bench.driver.images(&bench.scope()).await.expect("images");
    assert_eq!((images.current.get("web"), images.stale.len()), (Some(&first), 0));
    assert_eq!(bench.perform(prepare()).await.expect("nothing to do").image.as_ref(), Some(&first));
    bench.up("web").await;
    assert_eq!(bench.observe().await.units["web"].image.as_ref(), Some(&first));
    std::fs::write(project.join("source"), "2").expect("written");
    let images = bench.driver.images(&bench.scope()).await.expect("images");
    assert_eq!(images.stale["web"], "build input changed: source");
    assert_ne!(bench.perform(prepare()).await.expect("builds").image.expect("an identity"), first);
    assert_eq!(std::fs::read_to_string(project.join("runs")).expect("ran"), "run\nrun\n");
    bench.down().await;
}

#[tokio::test]
async fn a_failing_build_shows_its_last_lines_and_runs_again() {
    let mut bench = Bench::new();
    let unit = bench.shell("web", "true");
    process(unit).build = Some(Argv::Shell("seq 1 100; echo broken >&2; exit 4".to_owned()));
    for _ in 0..2 {
        let problem = bench.perform(prepare()).await.expect_err("fails");
        assert_eq!(problem.kind, ProblemKind::BuildFailed);
        assert!(problem.message.contains("`web` failed with exit code `4`"), "{problem}");
        assert!(problem.output.len() == 20 && problem.output.contains(&"broken".to_owned()), "{:?}", problem.output);
    }
}

#[tokio::test]
async fn data_is_initialised_once_and_kept() {
    let mut bench = Bench::new();
    let unit = bench.shell("db", "cat conf/settings state > seen; exec sleep 300");
    process(unit).dir = ProcessDir::Data;
    process(unit).init = vec![Argv::Shell("echo made >> state".to_owned())];
    process(unit).files = [("conf/settings".to_owned(), "a = 1\n".to_owned())].into();
    for _ in 0..2 {
        bench.up("db").await;
        bench.down().await;
    }
    let data = bench.places().data.join("db");
    assert_eq!(std::fs::read_to_string(data.join("state")).expect("initialised"), "made\n");
    assert!(bench.observe().await.volumes.contains("db"));
    bench.perform(Action::RemoveVolume { volume: "db".to_owned() }).await.expect("removes");
    assert!(!data.exists());
}

#[tokio::test]
async fn ports_are_told_and_a_taken_one_is_refused() {
    let mut bench = Bench::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("address").port();
    let unit = bench.shell("web", "echo $HOST:$PORT > told; exec sleep 300");
    let protocol = plan::application::PortProtocol::Http;
    unit.ports.insert("main".to_owned(), UnitPort { inside: port, host: port, protocol });
    bench.create("web").await.expect("creates");
    let problem = bench.start("web").await.expect_err("taken");
    assert!(problem.kind == ProblemKind::PortTaken && problem.message.contains(&port.to_string()), "{problem}");
    let holder = format!("(pid {})", std::process::id());
    assert!(cfg!(not(target_os = "linux")) || problem.message.contains(&holder), "{problem}");
    drop(listener);
    bench.start("web").await.expect("starts");
    assert_eq!(bench.file("told").await, format!("127.0.0.1:{port}"));
    assert_eq!(bench.observe().await.units["web"].host_ports["main"], port);
    bench.down().await;
}

#[tokio::test]
async fn root_gives_programs_the_user_they_ask_for() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = Bench::new();
    let unit = bench.shell("db", "id -u > who; id -G >> who; echo $HOME >> who; echo >> who; exec sleep 300");
    process(unit).dir = ProcessDir::Data;
    process(unit).user = Some("nobody".to_owned());
    bench.up("db").await;
    let folder = std::fs::canonicalize(bench.places().data.join("db")).expect("data folder");
    let who = crate::bench::eventually("who", || {
        std::fs::read_to_string(folder.join("who")).ok().filter(|text| text.ends_with("\n\n"))
    });
    assert_eq!(who.await, "65534\n65534\n/nonexistent\n\n");
    bench.down().await;
    bench.perform(Action::RemoveVolume { volume: "db".to_owned() }).await.expect("removes");
    assert!(!folder.exists());
}
