//! The process the editor starts: documents, analysis at an offset, and the protocol around it.
//!
//! What a manifest means is decided in the pure crates; here is what an editor asks about it. Works without the agent.

pub mod analysis;
mod answers;
mod appear;
mod approve;
mod capabilities;
pub mod check;
mod client_can;
mod commands;
pub mod convert;
mod desk;
pub mod files;
mod live;
mod login;
mod looker;
mod peek;
mod report;
mod server;
pub mod settings;
mod shown;
pub mod text;
pub mod vault;
mod workspace;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::Place;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tower_lsp::{LspService, Server as Wire};

pub use convert::diagnostics::pages_in;

/// Serves one client until it says `exit` or closes its end. True when it said `shutdown` before, as it should.
pub async fn serve<Input, Output>(input: Input, output: Output) -> bool
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite,
{
    serve_at(input, output, Place::from_environment()).await
}

/// The same with an agent at another place than the user's own.
pub async fn serve_at<Input, Output>(input: Input, output: Output, place: Place) -> bool
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite,
{
    let (service, socket) = LspService::new(|client| server::Server::new(client, place));
    let desk = Arc::clone(&service.inner().desk);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&desk).work());
    tasks.spawn(Arc::clone(&desk).refresh());
    tasks.spawn(live::follow(Arc::clone(&desk)));
    tasks.spawn(peek::work(Arc::clone(&desk)));
    Wire::new(input, output, socket).serve(service).await;
    tasks.abort_all();
    desk.shut_down.load(Ordering::Relaxed)
}
