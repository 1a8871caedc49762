//! Builds, files, first-time initialisation and users.

use drivers::capabilities::ImageInspection;
use drivers::problem::ProblemKind;
use plan::application::{Argv, ProcessDir, RuntimeKind, UnitPort};
use plan::step::Action;

use crate::test_preview::{TestPreview, process_spec};

fn prepare_action() -> Action {
    Action::PrepareImage { unit: "web".to_owned(), runtime: RuntimeKind::PROCESS }
}

#[tokio::test]
async fn build_runs_only_on_changed_inputs_with_reason() {
    let mut preview = TestPreview::new();
    let unit = preview.add_shell_unit("web", "cat built; exec sleep 300");
    process_spec(unit).build = Some(Argv::Shell("echo run >> runs; cp source built".to_owned()));
    process_spec(unit).build_inputs = vec!["source".to_owned()];
    let project = preview.locations().project;
    std::fs::write(project.join("source"), "1").expect("written");
    let images = preview.driver.inspect_images(&preview.scope()).await.expect("images");
    assert_eq!(images.stale["web"], "not built yet");
    let identity = preview.perform(prepare_action()).await.expect("builds").image.expect("an identity");
    let images = preview.driver.inspect_images(&preview.scope()).await.expect("images");
    assert_eq!((images.current.get("web"), images.stale.len()), (Some(&identity), 0));
    assert_eq!(preview.perform(prepare_action()).await.expect("nothing to do").image.as_ref(), Some(&identity));
    preview.create_and_start("web").await;
    assert_eq!(preview.observe().await.units["web"].image.as_ref(), Some(&identity));
    std::fs::write(project.join("source"), "2").expect("written");
    let images = preview.driver.inspect_images(&preview.scope()).await.expect("images");
    assert_eq!(images.stale["web"], "build input changed: source");
    assert_ne!(preview.perform(prepare_action()).await.expect("builds").image.expect("an identity"), identity);
    assert_eq!(std::fs::read_to_string(project.join("runs")).expect("ran"), "run\nrun\n");
    preview.remove_all().await;
}

#[tokio::test]
async fn failed_build_reports_last_lines_and_is_retried() {
    let mut preview = TestPreview::new();
    let unit = preview.add_shell_unit("web", "true");
    process_spec(unit).build = Some(Argv::Shell("seq 1 100 >&2; echo broken >&2; exit 4".to_owned()));
    for _ in 0..2 {
        let problem = preview.perform(prepare_action()).await.expect_err("fails");
        assert_eq!(problem.kind, ProblemKind::BuildFailed);
        assert!(problem.message.contains("`web` failed with exit code `4`"), "{problem}");
        assert!(problem.output.len() == 20 && problem.output.contains(&"broken".to_owned()), "{:?}", problem.output);
    }
}

#[tokio::test]
async fn data_is_initialised_once_and_survives_removal() {
    let mut preview = TestPreview::new();
    let unit = preview.add_shell_unit("db", "cat conf/settings state > copy; exec sleep 300");
    process_spec(unit).dir = ProcessDir::Data;
    process_spec(unit).init = vec![Argv::Shell("echo created >> state".to_owned())];
    process_spec(unit).files = [("conf/settings".to_owned(), "a = 1\n".to_owned())].into();
    for _ in 0..2 {
        preview.create_and_start("db").await;
        preview.remove_all().await;
    }
    let data = preview.locations().data.join("db");
    assert_eq!(std::fs::read_to_string(data.join("state")).expect("initialised"), "created\n");
    assert!(preview.observe().await.volumes.iter().any(|volume| volume.name == "db"));
    preview
        .perform(Action::RemoveVolume { runtime: RuntimeKind::PROCESS, volume: "db".to_owned() })
        .await
        .expect("removes");
    assert!(!data.exists());
}

#[tokio::test]
async fn port_is_passed_in_env_and_conflict_is_reported() {
    let mut preview = TestPreview::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let port = listener.local_addr().expect("address").port();
    let unit = preview.add_shell_unit("web", "echo $HOST:$PORT > address; exec sleep 300");
    let protocol = plan::application::PortProtocol::Http;
    unit.ports.insert("main".to_owned(), UnitPort { listen_port: port, host_port: port, protocol });
    preview.create("web").await.expect("creates");
    let problem = preview.start("web").await.expect_err("taken");
    assert!(problem.kind == ProblemKind::PortTaken && problem.message.contains(&port.to_string()), "{problem}");
    let owner = format!("(pid {})", std::process::id());
    assert!(cfg!(not(target_os = "linux")) || problem.message.contains(&owner), "{problem}");
    drop(listener);
    preview.start("web").await.expect("starts");
    assert_eq!(preview.wait_for_file("address").await, format!("127.0.0.1:{port}"));
    assert_eq!(preview.observe().await.units["web"].host_ports["main"], port);
    preview.remove_all().await;
}

#[tokio::test]
async fn root_runs_programs_as_requested_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut preview = TestPreview::new();
    let unit =
        preview.add_shell_unit("db", "id -u > who; id -G >> who; echo $HOME >> who; echo >> who; exec sleep 300");
    process_spec(unit).dir = ProcessDir::Data;
    process_spec(unit).user = Some("nobody".to_owned());
    preview.create_and_start("db").await;
    let folder = std::fs::canonicalize(preview.locations().data.join("db")).expect("data folder");
    let user_ids = crate::test_preview::eventually("who", || {
        std::fs::read_to_string(folder.join("who")).ok().filter(|text| text.ends_with("\n\n"))
    });
    assert_eq!(user_ids.await, "65534\n65534\n/nonexistent\n\n");
    preview.remove_all().await;
    preview
        .perform(Action::RemoveVolume { runtime: RuntimeKind::PROCESS, volume: "db".to_owned() })
        .await
        .expect("removes");
    assert!(!folder.exists());
}

#[tokio::test]
async fn own_commands_find_programs_in_search_folders() {
    let mut preview = TestPreview::new();
    let tools = preview.locations().project.join("pg/16/bin");
    std::fs::create_dir_all(&tools).expect("created");
    let tool = tools.join("make-data");
    std::fs::write(&tool, "#!/bin/sh\necho made > made\n").expect("written");
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("executable");
    let pattern = preview.locations().project.join("pg/*/bin").display().to_string();
    let unit = preview.add_shell_unit("db", "make-data && exec sleep 300");
    process_spec(unit).dir = ProcessDir::Data;
    process_spec(unit).search_paths = vec![pattern];
    // A shell finds it too, not only the program that pdev starts itself.
    process_spec(unit).init = vec![Argv::Shell("make-data".to_owned())];
    preview.create_and_start("db").await;
    assert!(preview.locations().data.join("db/made").exists());
    preview.remove_all().await;
}

/// A killed agent leaves its initialisation running for a moment. The next agent's must not overlap with it.
#[tokio::test]
async fn interrupted_initialisation_has_ended_before_the_next_begins() {
    let mut preview = TestPreview::new();
    let unit = preview.add_shell_unit("db", "exec sleep 300");
    process_spec(unit).dir = ProcessDir::Data;
    // Like many installers, it ignores the hang-up of its terminal.
    let script = "trap '' HUP TERM; if test -e pid && kill -0 $(cat pid); then echo alive > overlap; fi; \
                  echo $$ > pid; echo begun >> begun; sleep ${SLOW:-0}";
    process_spec(unit).init = vec![Argv::Shell(script.to_owned())];
    unit.env.insert("SLOW".to_owned(), plan::application::EnvValue { value: "20".to_owned(), sensitive: false });
    let data = preview.locations().data.join("db");
    {
        let creating = preview.create("db");
        tokio::pin!(creating);
        let begun = crate::test_preview::eventually("begun", || data.join("begun").exists().then_some(()));
        tokio::select! {
            result = &mut creating => panic!("it ended: {result:?}"),
            () = begun => {}
        }
    }
    preview.replace_driver();
    preview.units.get_mut("db").expect("known").env.clear();
    preview.create("db").await.expect("creates");
    assert_eq!(std::fs::read_to_string(data.join("begun")).expect("ran"), "begun\nbegun\n");
    assert!(!data.join("overlap").exists(), "the first run was alive when the second began");
    preview.remove_all().await;
}
