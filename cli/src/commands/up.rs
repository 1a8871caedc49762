//! `pdev up`: check the manifest here, hand the request to the agent, follow it to the end.

use std::path::PathBuf;
use std::time::Duration;

use client::{Client, ClientError};
use protocol::request::{DeliverSecretsRequest, LocateRequest, UpRequest};
use protocol::status::{PreviewStatus, UnitState};

use super::secret;
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::follow::{OperationOutcome, follow_operation};
use crate::manifest_check::ManifestOptions;
use crate::render::problem;
use crate::render::progress::Progress;
use crate::secrets::{self, CollectedSecrets, SecretSource};
use crate::{humanize, manifest_check, manifest_location};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev up                           start this folder's preview
  pdev up examples/hello            start the preview of another folder
  pdev up --service api --detach    start one service and its dependencies without waiting
  pdev up --set services.web.env.LOG_LEVEL=debug
  pdev up --secret stripe=@key.txt

After Ctrl-C the operation continues in the background.

Exit codes: 0 healthy, 1 failed, 2 wrong manifest, 124 timeout, 130 Ctrl-C.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: UpOptions,
    /// Return once the agent has accepted the plan
    #[arg(short, long)]
    detach: bool,
    /// Set a secret from a file, or with `NAME=-` from standard input; PDEV_SECRET_<NAME> also sets one (may be repeated)
    #[arg(long = "secret", value_name = "NAME=@FILE", value_parser = secrets::parse_secret_source)]
    secrets: Vec<SecretSource>,
    /// Stop waiting after this duration, such as `90s` or `10m`; the operation continues [default: 24h]
    #[arg(long, value_name = "DURATION", value_parser = humanize::parse_duration, env = "PDEV_TIMEOUT", hide_env = true)]
    timeout: Option<Duration>,
}

// What is to be brought up, the same for `up` and `plan`.
#[derive(clap::Args, Debug)]
pub(crate) struct UpOptions {
    /// Folder of the manifest, or the manifest file [default: the nearest pdev.yaml in or above this folder]
    #[arg(value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Environment of the manifest [default: local]
    #[arg(short = 'e', long = "env", value_name = "NAME", env = "PDEV_ENV", hide_env = true)]
    environment: Option<String>,
    /// Override a field, with the highest precedence: `services.web.replicas=2` (may be repeated)
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Name of the preview [default: derived from the branch]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Include only this service and its dependencies (may be repeated)
    #[arg(short, long = "service", value_name = "SERVICE")]
    services: Vec<String>,
    /// Replace every unit, even if nothing changed
    #[arg(long)]
    force: bool,
    /// Runtime for services that do not set one
    #[arg(long, value_name = "RUNTIME", value_parser = ["docker", "process"], env = "PDEV_RUNTIME", hide_env = true)]
    runtime: Option<String>,
}

impl UpOptions {
    /// Finds and checks the manifest; a wrong one ends here, before any agent is asked.
    pub(crate) fn into_request(
        self,
        context: &Context,
    ) -> Result<(UpRequest, manifest_check::CheckedManifest), Failure> {
        let place = manifest_location::find(&context.folder, self.folder.as_deref())?;
        let wish = ManifestOptions {
            environment: self.environment.as_deref(),
            sets: &self.sets,
            runtime: self.runtime.as_deref(),
        };
        let read = manifest_check::read_and_check(&place, wish)?;
        read.refuse_errors(context)?;
        read.refuse_unknown_units(&self.services)?;
        let request = UpRequest {
            folder: place.folder.to_string_lossy().into_owned(),
            file: (place.file != manifest_location::MANIFEST_FILE).then_some(place.file),
            environment: self.environment,
            sets: self.sets,
            name: self.name,
            services: self.services,
            jobs: Vec::new(),
            force: self.force,
            variables: read.referenced_variables(),
            runtime: self.runtime,
            detach: false,
        };
        Ok((request, read))
    }
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    let (mut request, read) = arguments.options.into_request(context)?;
    request.detach = arguments.detach;
    let secrets = secrets::collect(&arguments.secrets, &read, context)?;
    let mut progress = Progress::new(context);
    Context::block_on(async {
        let mut client = Context::connect().await?;
        if !secrets.names().is_empty() {
            deliver_secrets(&mut client, request.folder.clone(), request.environment.clone(), secrets, context).await?;
        }
        let ended = up_with_retries(client, &request, &mut progress, context, arguments.timeout).await?;
        print_outcome(ended, "the preview", context)
    })
}

pub(super) async fn deliver_secrets(
    client: &mut Client,
    folder: String,
    environment: Option<String>,
    secrets: CollectedSecrets,
    context: &Context,
) -> Result<(), Failure> {
    let locate = LocateRequest { folder, environment };
    let preview = client.locate(&locate).await?.preview;
    let CollectedSecrets { values: mut given, in_vault: kept } = secrets;
    if !kept.names.is_empty() {
        // What the vault says against it is told from here, and an agent of an older version knows no such route.
        let is_done = secret::has_passphrase_key()
            && match client.deliver_secrets(&preview.id, &kept).await {
                Ok(_) => true,
                Err(ClientError::Problem(_)) => false,
                Err(error) => return Err(error.into()),
            };
        if !is_done {
            given.extend(read_vault_on_thread(&kept, context)?);
        }
    }
    for (name, value) in given {
        client.put_secret(&preview.id, &name, value).await?;
    }
    Ok(())
}

/// On a thread of its own, because opening the vault waits on a runtime of its own. Nothing else is under way here.
fn read_vault_on_thread(kept: &DeliverSecretsRequest, context: &Context) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let read = std::thread::scope(|scope| scope.spawn(|| secret::read_from_vault(kept, context)).join());
    read.unwrap_or_else(|_| Err(Failure::failed("reading the vault broke off")))
}

/// Follows `up`; when the agent is lost on the way, starts it and asks again: `up` of the same manifest joins or
/// completes what the lost one began.
async fn up_with_retries(
    client: Client,
    request: &UpRequest,
    progress: &mut Progress,
    context: &Context,
    timeout: Option<Duration>,
) -> Result<OperationOutcome, Failure> {
    const ATTEMPTS_MAX: usize = 3;
    let mut client = Some(client);
    for last in (0..ATTEMPTS_MAX).map(|attempt| attempt + 1 == ATTEMPTS_MAX) {
        let connected = match client.take() {
            Some(client) => client,
            None => Context::connect().await?,
        };
        let mut stream = connected.up(request).await?;
        match follow_operation(&mut stream, progress, context, timeout).await? {
            OperationOutcome::ConnectionLost(error) if !last => {
                if !context.json && !context.quiet {
                    context.terminal.eprint_line(&format!("note: {error}; asking again"));
                }
            }
            ended => return Ok(ended),
        }
    }
    Err(Failure::failed("the agent was lost again and again"))
}

/// The last words of `up` and `restart`, and their exit code.
pub(crate) fn print_outcome(ended: OperationOutcome, title: &str, context: &Context) -> Outcome {
    let terminal = &context.terminal;
    match ended {
        OperationOutcome::Finished { status, milliseconds, unchanged } => {
            if !context.json {
                print_finished(&status, milliseconds, unchanged, context);
            }
            Ok(exit::OK)
        }
        OperationOutcome::Failed { problems, status, milliseconds } => {
            if !context.json {
                problem::print_all(&problems, terminal);
                print_failed(&status, milliseconds, context);
            }
            Ok(exit::FAILED)
        }
        OperationOutcome::Detached => {
            if !context.json {
                terminal.print_line("accepted; `pdev wait` waits until it is ready, `pdev status` looks");
            }
            Ok(exit::OK)
        }
        OperationOutcome::Interrupted => {
            terminal.eprint_line(
                "stopped watching; the work goes on: `pdev status` looks, `pdev logs -f` follows, `pdev down` stops it",
            );
            Ok(exit::INTERRUPTED)
        }
        OperationOutcome::TimedOut => {
            Err(Failure::new(exit::TIMEOUT, "timeout", format!("{title} is not ready yet; the work goes on"))
                .hint("`pdev status` tells what it waits for."))
        }
        OperationOutcome::Superseded { by } => {
            Err(Failure::failed(format!("another request took over: {by}")).hint("`pdev wait` waits for its end."))
        }
        OperationOutcome::AgentStopping => {
            Err(Failure::new(exit::UNREACHABLE, "agent_stopping", "the agent was told to stop")
                .hint("What runs goes on running; `pdev up` starts the agent again and completes the rest."))
        }
        OperationOutcome::ConnectionLost(error) => Err(error.into()),
    }
}

fn print_finished(status: &PreviewStatus, milliseconds: u64, unchanged: bool, context: &Context) {
    let (terminal, paint) = (&context.terminal, context.terminal.stdout_paint);
    let took = humanize::duration(milliseconds);
    let title = paint.bold(&status.preview.title);
    if unchanged {
        let url = status.url.as_ref().map(|url| format!("  {}", paint.cyan(url))).unwrap_or_default();
        return terminal.print_line(&format!("{title}: nothing changed, all healthy ({took}){url}"));
    }
    terminal.print_line(&format!("{} {title} is ready in {took}", paint.green("✔")));
    address_lines(status).iter().for_each(|line| terminal.print_line(line));
    if !context.quiet {
        terminal.print_line(&paint.dim("next: `pdev logs -f`, `pdev status`, `pdev open`, `pdev down`"));
    }
}

/// A line a unit with a URL; without any, the ports on this machine.
fn address_lines(status: &PreviewStatus) -> Vec<String> {
    let ready = |state| matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy);
    let with_url = status.units.iter().filter_map(|unit| unit.url.clone().map(|url| (unit, url)));
    let mut rows: Vec<(String, String)> = with_url.map(|(unit, url)| (unit.name.clone(), url)).collect();
    if rows.is_empty() {
        rows = status
            .units
            .iter()
            .filter(|unit| ready(unit.state))
            .flat_map(|unit| unit.ports.values().map(|port| (unit.name.clone(), format!("127.0.0.1:{port}"))))
            .collect();
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, address)| format!("  {name:<width$}  {address}")).collect()
}

fn print_failed(status: &PreviewStatus, milliseconds: u64, context: &Context) {
    let terminal = &context.terminal;
    let fine = status.units.iter().filter(|unit| matches!(unit.state, UnitState::Ready | UnitState::Done)).count();
    terminal.eprint_line("");
    if status.units.is_empty() {
        return terminal.eprint_line(&format!(
            "{} failed after {}; nothing runs",
            terminal.stderr_paint.bold(&status.preview.title),
            humanize::duration(milliseconds)
        ));
    }
    terminal.eprint_line(&format!(
        "{} failed after {}; {fine} of {} healthy. `pdev status` shows them, `pdev logs` what they wrote.",
        terminal.stderr_paint.bold(&status.preview.title),
        humanize::duration(milliseconds),
        humanize::count(status.units.len(), "unit"),
    ));
}
