//! The process the editor starts: documents, analysis at an offset, and the protocol around it.
//!
//! What a manifest means is decided in the pure crates; here is what an editor asks about it. Works without the agent.

mod agent_watcher;
pub mod analysis;
mod analysis_worker;
pub mod check;
mod client_capabilities;
mod commands;
pub mod convert;
pub mod files;
mod handlers;
mod live;
mod log_tail;
mod server;
mod server_capabilities;
mod server_state;
pub mod settings;
pub mod text;
pub mod vault;
mod virtual_documents;
mod workspace;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use client::SocketLocation;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tower_lsp::{LspService, Server as Wire};

pub use convert::diagnostics::set_pages_folder;

/// Serves one client until it says `exit` or closes its end. True when it said `shutdown` before, as it should.
pub async fn serve<Input, Output>(input: Input, output: Output) -> bool
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite,
{
    serve_with_agent_at(input, output, SocketLocation::from_environment()).await
}

/// The same with an agent at another place than the user's own.
pub async fn serve_with_agent_at<Input, Output>(input: Input, output: Output, place: SocketLocation) -> bool
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite,
{
    let (service, socket) = LspService::new(|client| server::Server::new(client, place));
    let state = Arc::clone(&service.inner().state);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&state).run_analysis_loop());
    tasks.spawn(Arc::clone(&state).run_refresh_loop());
    tasks.spawn(live::follow_agent(Arc::clone(&state)));
    tasks.spawn(log_tail::run_log_tail_loop(Arc::clone(&state)));
    Wire::new(input, output, socket).serve(service).await;
    tasks.abort_all();
    state.is_shut_down.load(Ordering::Relaxed)
}
