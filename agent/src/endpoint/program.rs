//! `pdev run --as`: an endpoint for one program and what it starts, open until that program has ended.
//!
//! A restarted agent opens it again at the same place, because the program was told that place once. What is asked there
//! is answered, refused and written into the audit log as for a service.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use credentials::broker::{BrokerProblem, Requester};
use credentials::endpoint::{EndpointAccess, EndpointLocation, variables};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::listener::{self, AllowedCaller};
use crate::api::process;
use crate::shared::Shared;

/// Where the folder for secrets keeps them; no preview is called so.
const RUN_PREVIEW_ID: &str = "run";
const RECORD_FILE: &str = "run.json";
/// What the program and all it starts carry; it tells them apart, and opens nothing.
pub const RUN_VARIABLE: &str = "PDEV_RUN";

/// What the next agent has to know.
#[derive(Serialize, Deserialize, Clone)]
struct ProgramRun {
    pid: i32,
    /// With the pid it names a process for good: in the kernel's ticks since it booted.
    #[serde(rename = "started")]
    started_ticks: u64,
    identity: String,
    port: u16,
}

impl ProgramRun {
    fn run_id(&self) -> String {
        format!("{}-{}", self.pid, self.started_ticks)
    }

    fn is_running(&self) -> bool {
        process::start_ticks(self.pid) == Some(self.started_ticks)
    }
}

/// The variables by which the program finds its endpoint; `None` where its credential has no such place, or the user
/// named the variable that it goes into.
///
/// # Errors
/// Why there is no credential, or no endpoint.
pub async fn open_endpoint(
    shared: &Arc<Shared>,
    identity: &str,
    pid: i32,
    asker: &Requester,
) -> Result<Option<Vec<(String, String)>>, BrokerProblem> {
    let known = shared.broker.identity(identity)?;
    let Some(cloud) = shared.broker.resolve_cloud(identity, asker).await? else { return Ok(None) };
    if known.text("variable").is_some() || !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let started = process::start_ticks(pid).ok_or_else(|| endpoint_problem("the program has ended already"))?;
    let mut run = ProgramRun { pid, started_ticks: started, identity: identity.to_owned(), port: 0 };
    let (token, address) = start_endpoint(shared, &mut run).map_err(|words| endpoint_problem(&words))?;
    let folder = shared.delivery.unit_folder(RUN_PREVIEW_ID, &run.run_id());
    let text = serde_json::to_vec(&run).unwrap_or_default();
    crate::disk::replace_file(&folder.join(RECORD_FILE), &text, 0o600)
        .map_err(|error| endpoint_problem(&error.to_string()))?;
    let spot =
        EndpointLocation { address, token: &token, token_folder: &folder.display().to_string(), shares_home: true };
    let mut all: Vec<(String, String)> =
        variables(cloud, &known, &spot).into_iter().map(|one| (one.name.to_owned(), one.value)).collect();
    all.push((RUN_VARIABLE.to_owned(), run.run_id()));
    Ok(Some(all))
}

fn endpoint_problem(words: &str) -> BrokerProblem {
    let hint = "`pdev run --in-env --as` puts the credential into the environment instead.".to_owned();
    let message = format!("no endpoint for this program: {words}");
    BrokerProblem { code: "endpoint", message, hint: Some(hint), login_identity: None }
}

/// Listens, at the run's port or at a free one, until the program has ended.
fn start_endpoint(shared: &Arc<Shared>, run: &mut ProgramRun) -> Result<(credentials::Secret, SocketAddr), String> {
    let slot = Arc::clone(&shared.program_endpoints)
        .try_acquire_owned()
        .map_err(|_| "too many of them are open".to_owned())?;
    let token = || shared.delivery.endpoint_token(RUN_PREVIEW_ID, &run.run_id()).map_err(|error| error.to_string());
    let (token, of_door) = (token()?, token()?);
    let listener = listener::bind_listener(SocketAddr::from((Ipv4Addr::LOCALHOST, run.port)))
        .map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    run.port = address.port();
    let ended = watch_exit(run)?;
    let door = EndpointAccess::new(run.identity.clone(), of_door, vec![address.to_string()]);
    let guest = AllowedCaller::Program { variable: format!("{RUN_VARIABLE}={}", run.run_id()), pid: run.pid };
    let open = listener::open_for_program(shared, listener, door, guest)?;
    let (shared, name) = (Arc::clone(shared), run.run_id());
    tokio::spawn(async move {
        // Readable once the process has ended; it cannot fail before.
        drop(ended.readable().await.map(|_| ()));
        drop(open);
        drop(slot);
        if let Err(error) = shared.delivery.remove_unit(RUN_PREVIEW_ID, &name) {
            tracing::warn!(%error, "the folder of a program that has ended is left behind");
        }
    });
    Ok((token, address))
}

#[cfg(target_os = "linux")]
fn watch_exit(run: &ProgramRun) -> Result<AsyncFd<OwnedFd>, String> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use tokio::io::Interest;
    let gone = || "the program has ended already".to_owned();
    let pid = Pid::from_raw(run.pid).ok_or_else(gone)?;
    let descriptor = pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|error| format!("cannot watch it: {error}"))?;
    // Looked at after the descriptor was taken, or the pid could be another process's by now.
    if !run.is_running() {
        return Err(gone());
    }
    #[expect(
        deprecated,
        reason = "its fault needs a descriptor that others close; this one is owned, and its successor is unsafe"
    )]
    AsyncFd::with_interest(descriptor, Interest::READABLE).map_err(|error| format!("cannot watch it: {error}"))
}

#[cfg(not(target_os = "linux"))]
fn watch_exit(_: &ProgramRun) -> Result<AsyncFd<OwnedFd>, String> {
    Err("nothing tells here whose a connection is".to_owned())
}

/// Opens again what an earlier agent had opened, and clears away what has ended since.
pub fn reopen_endpoints(shared: &Arc<Shared>) {
    let folders = fs::read_dir(shared.delivery.units_folder(RUN_PREVIEW_ID)).into_iter().flatten().flatten();
    for folder in folders.map(|entry| entry.path()).collect::<Vec<PathBuf>>() {
        let read =
            fs::read(folder.join(RECORD_FILE)).ok().and_then(|text| serde_json::from_slice::<ProgramRun>(&text).ok());
        let opened = match read {
            Some(mut run) if run.is_running() => start_endpoint(shared, &mut run).map(drop),
            _ => Err("it has ended".to_owned()),
        };
        if let Err(words) = opened {
            tracing::debug!(folder = %folder.display(), words, "the endpoint of a program is not opened again");
            drop(fs::remove_dir_all(folder));
        }
    }
}
