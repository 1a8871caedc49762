//! `pdev identity approve | approvals | revoke`: a person's word on who may act as whom.
//!
//! Who may give that word is the agent's to decide, by the process that asks it; here is only shown what it is about.

use std::io::{BufRead, IsTerminal};

use client::{Client, ClientError};
use protocol::approval::{ApprovalView, RevokeRequest};
use serde_json::json;

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::render::table::{self, Cell};
use crate::words;

pub(super) fn approve(code: &str, context: &Context) -> Outcome {
    let asked = call(async |client: &mut Client| client.approval_request(code).await)?;
    let of = &asked.of;
    if !std::io::stdin().is_terminal() {
        let words = "an approval is given by a person: the standard input is no terminal";
        return Err(Failure::wrong(words)
            .hint("Run it in a terminal of your own; `ask = \"never\"` in identities.toml asks nobody."));
    }
    let terminal = &context.terminal;
    let identity = terminal.paint_error.bold(&of.identity);
    if let Some(session) = &of.session {
        terminal.tell(&format!("session    {} ({session})", of.service));
        terminal.tell(&format!("would have all of {identity}, with every program in it, for an hour"));
    } else {
        terminal.tell(&format!("service    {}", of.service));
        terminal.tell(&format!("of         {}", of.repository));
        terminal.tell(&format!("would act as {identity}, whenever it runs, for 90 days"));
    }
    terminal.tell_raw(format!("Type {} to approve: ", of.identity).as_bytes());
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    if line.trim() != of.identity {
        terminal.tell("not approved; nothing was changed");
        return Ok(exit::FAILED);
    }
    let approved = call(async |client: &mut Client| client.approve(code).await)?;
    if context.json {
        terminal.say_json(&approved);
    } else if of.session.is_some() {
        terminal.say(&format!("allowed to the session `{}` until {} UTC", of.service, words::clock(approved.until)));
    } else {
        terminal.say(&format!(
            "approved; `pdev up` in {} gives it to `{}`",
            of.repository.trim_end_matches("/.git"),
            of.service
        ));
    }
    crate::done()
}

pub(super) fn list(context: &Context) -> Outcome {
    let all: Vec<ApprovalView> = call(async |client: &mut Client| client.approvals().await)?;
    if context.json {
        context.terminal.say_json(&all);
        return crate::done();
    }
    if all.is_empty() {
        context.terminal.tell("nothing is approved; `pdev up` asks at the first use of an identity");
        return crate::done();
    }
    let row = |one: &ApprovalView| {
        let of = &one.of;
        let place = of.repository.trim_end_matches("/.git");
        [&of.identity, &of.service, place, &words::day(one.until)].map(|text: &str| Cell::new(text)).into()
    };
    let rows: Vec<Vec<Cell>> = all.iter().map(row).collect();
    let lines = table::lines(&["IDENTITY", "SERVICE", "REPOSITORY", "UNTIL"], &rows, 0, context.terminal.paint);
    lines.iter().for_each(|line| context.terminal.say(line));
    crate::done()
}

pub(super) fn revoke(
    identity: &str,
    service: Option<String>,
    repository: Option<String>,
    context: &Context,
) -> Outcome {
    let request = RevokeRequest { identity: identity.to_owned(), service, repository };
    let revoked = call(async |client: &mut Client| client.revoke(&request).await)?.revoked;
    if context.json {
        context.terminal.say_json(&json!({ "revoked": revoked }));
    } else if revoked > 0 {
        let count = words::count(revoked, "approval");
        context.terminal.say(&format!("{count} taken back; what runs is refused from now on"));
    }
    if revoked == 0 {
        return Err(Failure::not_found(format!("nothing approved fits `{identity}`"))
            .hint("`pdev identity approvals` lists what is."));
    }
    crate::done()
}

fn call<T>(asking: impl AsyncFnOnce(&mut Client) -> Result<T, ClientError>) -> Result<T, Failure> {
    Context::block_on_value(async {
        let mut client = Context::connect().await?;
        asking(&mut client).await.map_err(Failure::from)
    })?
}
