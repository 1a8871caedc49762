//! `pdev version`: this program's, and the running agent's. Starts nothing.

use client::{Client, SocketLocation};
use serde_json::json;

use crate::context::Context;
use crate::exit::Outcome;

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {}

pub(crate) fn run(_arguments: &Arguments, context: &Context) -> Outcome {
    Context::block_on(async {
        let agent = Client::connect(&SocketLocation::from_environment()).await.ok().map(|client| client.info().clone());
        let own = env!("CARGO_PKG_VERSION");
        if context.json {
            let agent = agent.map(|info| json!({ "version": info.version, "protocol": info.protocol }));
            context
                .terminal
                .print_json(&json!({ "version": own, "protocol": protocol::PROTOCOL_VERSION, "agent": agent }));
            return crate::success();
        }
        context.terminal.print_line(&format!("pdev {own}, protocol {}", protocol::PROTOCOL_VERSION));
        context.terminal.print_line(&match agent {
            Some(info) => format!("agent {}, protocol {}, pid {}", info.version, info.protocol, info.pid),
            None => "agent not running".to_owned(),
        });
        crate::success()
    })
}
