//! The language server: documents, analysis at an offset, and the protocol around it.
//!
//! The pure crates decide the meaning of a manifest. This crate answers an editor's requests about it. It works without
//! the agent.

mod agent_watcher;
pub mod analysis;
mod analysis_worker;
pub mod check;
mod client_capabilities;
mod commands;
pub mod convert;
mod edit_check;
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

/// Serves one client until it sends `exit` or closes the connection. Returns true if it sent `shutdown` first, as the
/// protocol requires.
pub async fn serve<Input, Output>(input: Input, output: Output) -> bool
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite,
{
    serve_with_agent_at(input, output, SocketLocation::from_environment()).await
}

/// Like [`serve`], for an agent with another socket than the user's default.
pub async fn serve_with_agent_at<Input, Output>(input: Input, output: Output, agent_socket: SocketLocation) -> bool
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite,
{
    let (service, socket) = LspService::new(|client| server::Server::new(client, agent_socket));
    let state = Arc::clone(&service.inner().state);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&state).run_analysis_loop());
    tasks.spawn(Arc::clone(&state).run_refresh_loop());
    tasks.spawn(live::follow_agent(Arc::clone(&state)));
    tasks.spawn(log_tail::run_log_tail_loop(Arc::clone(&state)));
    Wire::new(input, output, socket).serve(service).await;
    // The loops never end on their own.
    tasks.abort_all();
    state.is_shut_down.load(Ordering::Relaxed)
}
