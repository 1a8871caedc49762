//! Commands that need no agent, and behaviour that all commands share.

use crate::sandbox::Sandbox;

#[test]
fn check_explain_and_schema_need_no_agent() {
    let sandbox = Sandbox::without_docker();
    sandbox.create_example("shop");
    sandbox.pdev(&["check"]).ok();
    sandbox.pdev(&["schema"]).ok().prints("\"$schema\"");
    sandbox.pdev(&["explain", "services.api.env.DATABASE_URL"]).ok().prints("pdev.yaml:22");
    sandbox.pdev(&["module", "list"]).ok().prints("postgres").prints("redis");
    assert!(!sandbox.path("run/agent.sock").exists(), "an agent was started");
}

#[test]
fn misspelt_command_gets_suggestion() {
    let sandbox = Sandbox::without_docker();
    sandbox.pdev(&["statsu"]).fails_with(2).prints("status");
}

#[test]
fn ls_without_previews_succeeds() {
    let sandbox = Sandbox::without_docker();
    sandbox.pdev(&["ls"]).ok();
}

#[test]
fn closed_pipe_does_not_panic() {
    let sandbox = Sandbox::without_docker();
    let mut command = sandbox.command(&sandbox.project(), &["schema"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}
