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
mod framing;
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

const INPUT_BUFFER_BYTES: usize = 256 << 10;

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
    let (service, socket) = LspService::build(|client| server::Server::new(client, agent_socket))
        .custom_method(framing::INVALID_MESSAGE, server::Server::invalid_message)
        .finish();
    let state = Arc::clone(&service.inner().state);
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&state).run_analysis_loop());
    tasks.spawn(Arc::clone(&state).run_refresh_loop());
    tasks.spawn(live::follow_agent(Arc::clone(&state)));
    tasks.spawn(log_tail::run_log_tail_loop(Arc::clone(&state)));
    let (frames, corrected_input) = tokio::io::duplex(INPUT_BUFFER_BYTES);
    let forward = async {
        framing::forward_frames(input, frames).await;
        // The server ends by itself after the end of its input.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = Wire::new(corrected_input, output, socket).serve(service) => {}
        () = forward => {}
        () = state.client_ended.notified() => {}
    }
    // The loops never end on their own.
    tasks.abort_all();
    state.is_shut_down.load(Ordering::Relaxed)
}
