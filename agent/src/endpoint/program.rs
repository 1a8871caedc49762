//! `pdev run --as`: an endpoint for one program and its child processes, open until the program ends.
//!
//! A restarted agent opens the endpoint again at the same address, because the program received the address only once,
//! at its start. Requests are answered, refused and audited as for a service.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use credentials::BrokerProblem;
use credentials::broker::Requester;
use credentials::endpoint::{EndpointAccess, EndpointLocation, variables};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::listener::{self, AllowedCaller};
use crate::shared::Shared;

/// The name of their folder among those of the previews in the folder for secrets. No preview has this id.
const RUN_PREVIEW_ID: &str = "run";
const RECORD_FILE: &str = "run.json";
/// The environment variable that names the run. It is not a secret and grants no access: it only lets the program of a
/// nested `pdev run` be refused at the outer endpoint.
pub const RUN_VARIABLE: &str = "PDEV_RUN";

/// The stored state from which a restarted agent opens the endpoint again.
#[derive(Serialize, Deserialize, Clone)]
struct ProgramRun {
    pid: i32,
    /// The start time in kernel ticks since boot. Together with the pid it identifies the process uniquely.
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
        host::processes::find(self.pid).is_some_and(|process| process.start == self.started_ticks)
    }
}

/// Opens the endpoint of a program and returns the variables through which the program finds it.
///
/// Returns `None` if no SDK supports an endpoint for this credential, or the user configured the variable that takes
/// the credential.
///
/// # Errors
/// When there is no credential, or the endpoint cannot be opened.
pub async fn open_endpoint(
    shared: &Arc<Shared>,
    identity: &str,
    pid: i32,
    requester: &Requester,
) -> Result<Option<Vec<(String, String)>>, BrokerProblem> {
    let configured = shared.broker.identity(identity)?;
    let Some(cloud) = shared.broker.resolve_cloud(identity, requester).await? else { return Ok(None) };
    if configured.text("variable").is_some() || !cfg!(target_os = "linux") {
        return Ok(None);
    }
    let program = host::processes::find(pid).ok_or_else(|| endpoint_problem("the program has ended already"))?;
    let mut run = ProgramRun { pid, started_ticks: program.start, identity: identity.to_owned(), port: 0 };
    let (token, address) = start_endpoint(shared, &mut run).map_err(|reason| endpoint_problem(&reason))?;
    let folder = shared.delivery.unit_folder(RUN_PREVIEW_ID, &run.run_id());
    let text = serde_json::to_vec(&run).unwrap_or_default();
    host::files::replace_file(&folder.join(RECORD_FILE), &text, 0o600)
        .map_err(|error| endpoint_problem(&error.to_string()))?;
    let location =
        EndpointLocation { address, token: &token, token_folder: &folder.display().to_string(), shares_home: true };
    let mut environment: Vec<(String, String)> = variables(cloud, &configured, &location)
        .into_iter()
        .map(|variable| (variable.name.to_owned(), variable.value))
        .collect();
    environment.push((RUN_VARIABLE.to_owned(), run.run_id()));
    Ok(Some(environment))
}

fn endpoint_problem(reason: &str) -> BrokerProblem {
    let hint = "Run `pdev run --in-env --as NAME -- PROGRAM` to pass the credential in the environment.".to_owned();
    let message = format!("cannot open an endpoint for this program: {reason}");
    BrokerProblem { code: "endpoint", message, hint: Some(hint), login_identity: None }
}

/// Listens on the recorded port, or on a free one if it is 0, until the program ends.
fn start_endpoint(shared: &Arc<Shared>, run: &mut ProgramRun) -> Result<(credentials::Secret, SocketAddr), String> {
    let slot = Arc::clone(&shared.program_endpoints)
        .try_acquire_owned()
        .map_err(|_| "too many endpoints of programs are open".to_owned())?;
    let token = || shared.delivery.endpoint_token(RUN_PREVIEW_ID, &run.run_id()).map_err(|error| error.to_string());
    // Read twice, because a `Secret` cannot be cloned: one for the caller and one for the listener.
    let (token, listener_token) = (token()?, token()?);
    let listener = listener::bind_listener(SocketAddr::from((Ipv4Addr::LOCALHOST, run.port)))
        .map_err(|error| error.to_string())?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    run.port = address.port();
    let exit_watch = watch_exit(run)?;
    let access = EndpointAccess::new(run.identity.clone(), listener_token, vec![address.to_string()]);
    let allowed_caller = AllowedCaller::Program { run_id: run.run_id(), pid: run.pid };
    let open_listener = listener::open_for_program(shared, listener, access, allowed_caller)?;
    let (shared_of_task, run_id) = (Arc::clone(shared), run.run_id());
    shared.tasks.spawn(async move {
        // The descriptor becomes readable when the process has ended; waiting cannot fail before.
        drop(exit_watch.readable().await.map(|_| ()));
        drop(open_listener);
        drop(slot);
        if let Err(error) = shared_of_task.delivery.remove_unit(RUN_PREVIEW_ID, &run_id) {
            tracing::warn!(%error, "cannot remove the folder of a program that has ended");
        }
    });
    Ok((token, address))
}

#[cfg(target_os = "linux")]
fn watch_exit(run: &ProgramRun) -> Result<AsyncFd<OwnedFd>, String> {
    use rustix::process::{Pid, PidfdFlags, pidfd_open};
    use tokio::io::Interest;
    let has_ended = || "the program has ended already".to_owned();
    let pid = Pid::from_raw(run.pid).ok_or_else(has_ended)?;
    let descriptor =
        pidfd_open(pid, PidfdFlags::NONBLOCK).map_err(|error| format!("cannot watch the program: {error}"))?;
    // Compare the start time after opening the descriptor: another process could have the pid by now.
    if !run.is_running() {
        return Err(has_ended());
    }
    #[expect(
        deprecated,
        reason = "unsound only if other code closes the descriptor; this one is owned, and the replacement is unsafe"
    )]
    AsyncFd::with_interest(descriptor, Interest::READABLE).map_err(|error| format!("cannot watch the program: {error}"))
}

#[cfg(not(target_os = "linux"))]
fn watch_exit(_: &ProgramRun) -> Result<AsyncFd<OwnedFd>, String> {
    Err("this system cannot tell which process opened a connection".to_owned())
}

/// Opens the endpoints of an earlier run of the agent again, and removes the folders of programs that have ended.
pub fn reopen_endpoints(shared: &Arc<Shared>) {
    let folders = fs::read_dir(shared.delivery.units_folder(RUN_PREVIEW_ID)).into_iter().flatten().flatten();
    for folder in folders.map(|entry| entry.path()).collect::<Vec<PathBuf>>() {
        let record =
            fs::read(folder.join(RECORD_FILE)).ok().and_then(|text| serde_json::from_slice::<ProgramRun>(&text).ok());
        let opened = match record {
            Some(mut run) if run.is_running() => start_endpoint(shared, &mut run).map(drop),
            _ => Err("the program has ended".to_owned()),
        };
        if let Err(reason) = opened {
            tracing::debug!(folder = %folder.display(), reason, "the endpoint of a program is not opened again");
            drop(fs::remove_dir_all(folder));
        }
    }
}
