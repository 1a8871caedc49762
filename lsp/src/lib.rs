//! The process the editor starts: documents, analysis at an offset, and the protocol around it.
//!
//! What a manifest means is decided in the pure crates; here is what an editor asks about it. Works without the agent.

pub mod analysis;
mod answers;
mod capabilities;
pub mod check;
mod client_can;
pub mod convert;
mod desk;
pub mod files;
mod server;
pub mod settings;
pub mod text;
mod workspace;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncWrite};
use tower_lsp::{LspService, Server as Wire};

/// Serves one client until it says `exit` or closes its end. True when it said `shutdown` before, as it should.
pub async fn serve<Input, Output>(input: Input, output: Output) -> bool
where
    Input: AsyncRead + Unpin,
    Output: AsyncWrite,
{
    let (service, socket) = LspService::new(server::Server::new);
    let desk = Arc::clone(&service.inner().desk);
    let worker = tokio::spawn(Arc::clone(&desk).work());
    Wire::new(input, output, socket).serve(service).await;
    worker.abort();
    desk.shut_down.load(Ordering::Relaxed)
}
