//! `pdev identity approve | approvals | revoke`: a person's word on who may act as whom.
//!
//! Who may give that word is the agent's to decide, by the process that asks it; here is only shown what it is about.

use std::io::{BufRead, IsTerminal};

use client::{Client, ClientError};
use protocol::approval::{ApprovalView, RevokeRequest};
use serde_json::json;

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;
use crate::render::table::{self, Cell};

pub(super) fn approve(code: &str, context: &Context) -> Outcome {
    let asked = call_agent(async |client: &mut Client| client.approval_request(code).await)?;
    let of = &asked.identity_use;
    if !std::io::stdin().is_terminal() {
        let words = "an approval is given by a person: the standard input is no terminal";
        return Err(Failure::invalid_input(words)
            .hint("Run it in a terminal of your own; `ask = \"never\"` in identities.toml asks nobody."));
    }
    let terminal = &context.terminal;
    let identity = terminal.stderr_paint.bold(&of.identity);
    if let Some(session) = &of.session {
        terminal.eprint_line(&format!("session    {} ({session})", of.service));
        terminal.eprint_line(&format!("would have all of {identity}, with every program in it, for an hour"));
    } else {
        terminal.eprint_line(&format!("service    {}", of.service));
        terminal.eprint_line(&format!("of         {}", of.repository));
        terminal.eprint_line(&format!("would act as {identity}, whenever it runs, for 90 days"));
    }
    terminal.eprint_bytes(format!("Type {} to approve: ", of.identity).as_bytes());
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != of.identity {
        terminal.eprint_line("not approved; nothing was changed");
        return Ok(exit::FAILED);
    }
    let approved = call_agent(async |client: &mut Client| client.approve(code).await)?;
    if context.json {
        terminal.print_json(&approved);
    } else if of.session.is_some() {
        terminal.print_line(&format!(
            "allowed to the session `{}` until {} UTC",
            of.service,
            humanize::time_of_day(approved.until)
        ));
    } else {
        terminal.print_line(&format!(
            "approved; `pdev up` in {} gives it to `{}`",
            of.repository.trim_end_matches("/.git"),
            of.service
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
        context.terminal.eprint_line("nothing is approved; `pdev up` asks at the first use of an identity");
        return crate::success();
    }
    let row = |one: &ApprovalView| {
        let of = &one.identity_use;
        let place = of.repository.trim_end_matches("/.git");
        [&of.identity, &of.service, place, &humanize::date(one.until)].map(|text: &str| Cell::new(text)).into()
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
        context.terminal.print_line(&format!("{count} taken back; what runs is refused from now on"));
    }
    if revoked == 0 {
        return Err(Failure::not_found(format!("nothing approved fits `{identity}`"))
            .hint("`pdev identity approvals` lists what is."));
    }
    crate::success()
}

fn call_agent<T>(asking: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, Failure> {
    Context::block_on_value(async {
        let mut client = Context::connect().await?;
        asking(&mut client).await.map_err(Failure::from)
    })?
}
