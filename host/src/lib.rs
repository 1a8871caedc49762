//! This machine: pdev's folders, files, free disk space, processes, connections and git checkouts.
//!
//! It is the only crate below the impure ones, and knows nothing about previews, manifests or credentials.

pub mod checkout;
pub mod clock;
pub mod connections;
pub mod disk_space;
pub mod files;
pub mod folder_id;
pub mod locations;
pub mod machine;
pub mod ports;
pub mod processes;
#[cfg(target_os = "linux")]
mod socket_diag;
pub mod unix_socket;
