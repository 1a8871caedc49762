//! `pdev.approve`: a person says, in the editor, that a service may act as an identity for the first time.
//!
//! Always as a question of the server's own, so that whoever only sends commands gets nothing by it. Whether this editor may
//! answer it is the agent's to decide, by who asked; where it may not, the command for another terminal is shown instead.

use std::collections::HashMap;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use client::{Client, ClientError};
use protocol::Problem;
use protocol::approval::WaitingView;
use tower_lsp::ls_types::{MessageActionItem, MessageActionItemProperty, MessageType};

use crate::commands;
use crate::desk::Desk;

const LATER: &str = "Not now";
const AGAIN: &str = "Bring it up again";
const COPY: &str = "Copy the command";

/// One question after the other; the first one that is not answered with yes ends it.
pub async fn ask(desk: Arc<Desk>, root: PathBuf, waiting: Vec<WaitingView>) {
    for one in waiting {
        let outcome = decide(&desk, &one).await;
        match outcome {
            Ok(true) => again(&desk, &root, &one).await,
            Ok(false) => return,
            Err(problem) => return elsewhere(&desk, &one, &problem).await,
        }
    }
}

fn say(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => *problem,
        error => Problem { hint: error.hint(), ..Problem::new("agent", 0, error.to_string()) },
    }
}

/// True when it is approved now.
async fn decide(desk: &Desk, one: &WaitingView) -> Result<bool, Problem> {
    let mut client = Client::connect(&desk.place).await.map_err(say)?;
    let seen = client.approval_request(&one.code).await.map_err(say)?;
    // Told before anybody types a word that would be refused.
    if let Some(refusal) = seen.refusal {
        return Err(refusal);
    }
    let of = &seen.of;
    let place = of.repository.trim_end_matches("/.git");
    let words = format!("`{}` of {place} would act as `{}`, whenever it runs, for 90 days.", of.service, of.identity);
    let yes = format!("Approve `{}`", of.identity);
    // Sent back by clients that say so: who writes into the pipe blindly cannot know it.
    let token = if desk.can().approve { Some(token()?) } else { None };
    let typed = token.iter().flat_map(|token| [("typed", of.identity.clone()), ("token", token.clone())]);
    let actions = vec![action(LATER, []), action(&yes, typed)];
    let answer = desk.client.show_message_request(MessageType::WARNING, words, Some(actions)).await;
    let fits = |chosen: &MessageActionItem| {
        let own = token.clone().map(MessageActionItemProperty::String);
        chosen.title == yes && (own.is_none() || chosen.properties.get("token") == own.as_ref())
    };
    match answer {
        Ok(Some(chosen)) if fits(&chosen) => {}
        Ok(_) => return Ok(false),
        Err(_) => return Err(Problem::new("unanswered", 0, "this editor asks no questions")),
    }
    // Some time has passed: the connection may have been closed.
    let mut client = Client::connect(&desk.place).await.map_err(say)?;
    client.approve(&one.code).await.map_err(say)?;
    desk.look_for_agent.notify_one();
    Ok(true)
}

/// 128 random bits of the system's.
fn token() -> Result<String, Problem> {
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Problem::new("agent", 0, format!("this machine gives no random bytes: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn action<'a>(title: &str, properties: impl IntoIterator<Item = (&'a str, String)>) -> MessageActionItem {
    let properties =
        properties.into_iter().map(|(name, value)| (name.to_owned(), MessageActionItemProperty::String(value)));
    MessageActionItem { title: title.to_owned(), properties: HashMap::from_iter(properties) }
}

/// A service is given its identity when it is brought up; nobody wants to type that again.
async fn again(desk: &Arc<Desk>, root: &std::path::Path, one: &WaitingView) {
    let words = format!("approved: the next `up` gives `{}` to `{}`", one.of.identity, one.of.service);
    let answer = desk.client.show_message_request(MessageType::INFO, words, Some(vec![action(AGAIN, [])])).await;
    if matches!(answer, Ok(Some(chosen)) if chosen.title == AGAIN) {
        commands::up(Arc::clone(desk), root.to_owned()).await;
    }
}

/// What a person types where nobody but they can.
async fn elsewhere(desk: &Desk, one: &WaitingView, problem: &Problem) {
    let command = format!("pdev identity approve {}", one.code);
    let hint = problem.hint.as_ref().map(|hint| format!(" {hint}")).unwrap_or_default();
    let words = match problem.code.as_str() {
        // The code means nothing any more.
        "request_unknown" => format!("{}.{hint}", problem.title),
        _ => format!(
            "`{}` is not approved for `{}` here: {}. In a terminal outside of this editor: {command}",
            one.of.identity, one.of.service, problem.title
        ),
    };
    if !desk.can().copy || problem.code == "request_unknown" {
        return desk.client.show_message(MessageType::WARNING, words).await;
    }
    let actions = vec![action(COPY, [("copy", command)])];
    drop(desk.client.show_message_request(MessageType::WARNING, words, Some(actions)).await);
}
