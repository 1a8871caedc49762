//! `pdev identity approve | approvals | revoke`: the user's approvals of services that act as an identity.
//!
//! This module only shows the request and prompts for it. The agent decides whether the approving process may approve.

use std::io::{BufRead, IsTerminal};

use client::{Client, ClientError};
use protocol::approval::{ApprovalView, RevokeRequest};
use serde_json::json;

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;
use crate::render::table::{self, Cell};

pub(super) fn approve(code: &str, context: &Context) -> Outcome {
    let request = call_agent(async |client: &mut Client| client.approval_request(code).await)?;
    let identity_use = &request.identity_use;
    if !std::io::stdin().is_terminal() {
        let message = "approvals need a user, but standard input is not a terminal";
        return Err(Failure::invalid_input(message)
            .hint("Run it in your own terminal, or set `ask = \"never\"` in identities.toml."));
    }
    // Before the question, so that the user does not answer it in vain.
    if let Some(refusal) = &request.refusal {
        return Err(Failure { exit_code: exit::FAILED, problem: Box::new(refusal.clone()) });
    }
    let terminal = &context.terminal;
    let identity = terminal.stderr_paint.bold(&identity_use.identity);
    if let Some(session) = &identity_use.session {
        terminal.eprint_line(&format!("session    {} ({session})", identity_use.service));
        terminal.eprint_line(&format!("would get full access to {identity}, with every program in it, for an hour"));
    } else {
        terminal.eprint_line(&format!("service    {}", identity_use.service));
        terminal.eprint_line(&format!("of         {}", identity_use.repository));
        terminal.eprint_line(&format!("would act as {identity}, whenever it runs, for 90 days"));
    }
    terminal.eprint_bytes(format!("Type {} to approve: ", identity_use.identity).as_bytes());
    // The name has to be typed, so a stray Enter approves nothing.
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != identity_use.identity {
        terminal.eprint_line("not approved; nothing was changed");
        return Ok(exit::FAILED);
    }
    let approved = call_agent(async |client: &mut Client| client.approve(code).await)?;
    if let Some(weakness) = approved.weakness.as_ref().filter(|_| !context.quiet) {
        let warning = terminal.stderr_paint.yellow("warning");
        terminal.eprint_line(&format!("{warning}: this approval is weak: {weakness}"));
        terminal.eprint_line("  `pdev audit` marks it, and `pdev doctor security` shows how to give stronger ones");
    }
    if context.json {
        terminal.print_json(&approved);
    } else if identity_use.session.is_some() {
        terminal.print_line(&format!(
            "the session `{}` has access until {} UTC",
            identity_use.service,
            humanize::time_of_day(approved.until)
        ));
    } else {
        terminal.print_line(&format!(
            "approved; `pdev up` in {} applies it to `{}`",
            identity_use.repository.trim_end_matches("/.git"),
            identity_use.service
        ));
    }
    crate::success()
}

pub(super) fn list(context: &Context) -> Outcome {
    let all: Vec<ApprovalView> = call_agent(async |client: &mut Client| client.approvals().await)?;
    if context.json {
        context.terminal.print_json(&all);
        return crate::success();
    }
    if all.is_empty() {
        context.terminal.eprint_line("no approvals; `pdev up` asks at the first use of an identity");
        return crate::success();
    }
    let row = |approval: &ApprovalView| {
        let identity_use = &approval.identity_use;
        let repository = identity_use.repository.trim_end_matches("/.git");
        [&identity_use.identity, &identity_use.service, repository, &humanize::date(approval.until)]
            .map(|text: &str| Cell::new(text))
            .into()
    };
    let rows: Vec<Vec<Cell>> = all.iter().map(row).collect();
    let lines = table::lines(&["IDENTITY", "SERVICE", "REPOSITORY", "UNTIL"], &rows, 0, context.terminal.stdout_paint);
    lines.iter().for_each(|line| context.terminal.print_line(line));
    crate::success()
}

pub(super) fn revoke(
    identity: &str,
    service: Option<String>,
    repository: Option<String>,
    context: &Context,
) -> Outcome {
    let request = RevokeRequest { identity: identity.to_owned(), service, repository };
    let revoked = call_agent(async |client: &mut Client| client.revoke(&request).await)?.revoked;
    if context.json {
        context.terminal.print_json(&json!({ "revoked": revoked }));
    } else if revoked > 0 {
        let count = humanize::count(revoked, "approval");
        context.terminal.print_line(&format!("{count} revoked; running services are refused from now on"));
    }
    if revoked == 0 {
        return Err(Failure::not_found(format!("no approval matches `{identity}`"))
            .hint("Run `pdev identity approvals` to list the approvals."));
    }
    crate::success()
}

fn call_agent<T>(call: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, Failure> {
    Context::block_on_value(async {
        let mut client = Context::connect().await?;
        call(&mut client).await.map_err(Failure::from)
    })?
}
