//! Commands that need no agent, and the manners of all of them.

use crate::sandbox::Sandbox;

#[test]
fn check_explain_and_schema_need_no_agent() {
    let sandbox = Sandbox::bare();
    sandbox.example("shop");
    sandbox.pdev(&["check"]).ok();
    sandbox.pdev(&["schema"]).ok().says("\"$schema\"");
    sandbox.pdev(&["explain", "services.api.env.DATABASE_URL"]).ok().says("pdev.yaml:22");
    sandbox.pdev(&["module", "list"]).ok().says("postgres").says("redis");
    assert!(!sandbox.path("run/agent.sock").exists(), "an agent was started");
}

#[test]
fn a_misspelt_command_is_answered_with_the_nearest() {
    let sandbox = Sandbox::bare();
    sandbox.pdev(&["statsu"]).fails_with(2).says("status");
}

#[test]
fn looking_at_nothing_is_no_failure() {
    let sandbox = Sandbox::bare();
    sandbox.pdev(&["ls"]).ok();
}

#[test]
fn a_pipe_that_closes_early_is_no_panic() {
    let sandbox = Sandbox::bare();
    let mut command = sandbox.command(&sandbox.project(), &["schema"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(
        !String::from_utf8_lossy(&output.stderr).contains("panicked"),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
