//! `pdev version`: this program's, and the running agent's. Starts nothing.

use client::{Client, Place};
use serde_json::json;

use crate::context::Context;
use crate::exit::Outcome;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let agent = Client::connect(&Place::from_environment()).await.ok().map(|client| client.info().clone());
        let own = env!("CARGO_PKG_VERSION");
        if context.json {
            let agent = agent.map(|info| json!({ "version": info.version, "protocol": info.protocol }));
            context.terminal.say_json(&json!({ "version": own, "protocol": protocol::PROTOCOL, "agent": agent }));
            return crate::done();
        }
        context.terminal.say(&format!("pdev {own}, protocol {}", protocol::PROTOCOL));
        context.terminal.say(&match agent {
            Some(info) => format!("agent {}, protocol {}, pid {}", info.version, info.protocol, info.pid),
            None => "agent not running".to_owned(),
        });
        crate::done()
    })
}
