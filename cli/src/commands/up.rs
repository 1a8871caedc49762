//! `pdev up`: checks the manifest in this process, sends the request to the agent and follows the operation.

use std::path::PathBuf;
use std::time::Duration;

use client::Client;
use plan::shell_environment::ShellEnvironment;
use protocol::request::{ShellVariables, UpRequest};
use protocol::status::{PreviewStatus, UnitState};

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::follow::{OperationOutcome, follow_operation};
use crate::manifest_check::ManifestOptions;
use crate::render::problem;
use crate::render::progress::Progress;
use crate::secrets::{self, SecretSource};
use crate::{humanize, manifest_check, manifest_location};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev up                           start this folder's preview
  pdev up examples/hello            start the preview of another folder
  pdev up --service api --detach    start one service and its dependencies without waiting
  pdev up --set services.web.env.LOG_LEVEL=debug
  pdev up --secret stripe=@key.txt

A preview keeps `--runtime`, `--name` and `--set`: later commands use them until `pdev up --reset`, or until a `pdev \
down` that leaves no data.

After Ctrl-C the operation continues in the background.

Exit codes: 0 healthy, 1 failed, 2 wrong manifest, 124 timeout, 130 Ctrl-C.")]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: UpOptions,
    /// Return once the agent has accepted the plan
    #[arg(short, long)]
    detach: bool,
    /// Forget `--runtime`, `--name` and `--set` of earlier `up`s
    #[arg(long)]
    reset: bool,
    /// Let units move to another runtime without their data, which stays where it is
    #[arg(long)]
    yes: bool,
    /// Set a secret from a file, or with `NAME=-` from standard input; PDEV_SECRET_<NAME> also sets one (may be
    /// repeated)
    #[arg(long = "secret", value_name = "NAME=@FILE", value_parser = secrets::parse_secret_source)]
    secrets: Vec<SecretSource>,
    /// Stop waiting after this duration, such as `90s` or `10m`; the operation continues [default: 24h, in practice no
    /// limit]
    #[arg(long, value_name = "DURATION", value_parser = humanize::parse_duration, env = "PDEV_TIMEOUT", hide_env = true)]
    timeout: Option<Duration>,
}

// The options that `up`, `plan` and `run` share. No `///`: clap would use it as the description of these commands.
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
    /// Replace every unit (service, job or resource), even if nothing changed
    #[arg(long)]
    force: bool,
    /// Runtime for services that do not set one
    #[arg(long, value_name = "RUNTIME", value_parser = crate::manifest_check::runtime_names(), env = "PDEV_RUNTIME", hide_env = true)]
    runtime: Option<String>,
}

impl UpOptions {
    /// Finds and checks the manifest. A wrong manifest fails here, before the agent is started.
    pub(crate) fn into_request(
        self,
        context: &Context,
    ) -> Result<(UpRequest, manifest_check::CheckedManifest), Failure> {
        let location = manifest_location::find_for_up(&context.folder, self.folder.as_deref())?;
        let options = ManifestOptions {
            environment: self.environment.as_deref(),
            sets: &self.sets,
            runtime: self.runtime.as_deref(),
        };
        let checked = manifest_check::read_and_check(&location, options)?;
        checked.refuse_errors(context)?;
        checked.refuse_unknown_units(&self.services)?;
        let request = UpRequest {
            folder: location.folder.to_string_lossy().into_owned(),
            file: (location.file != manifest_location::MANIFEST_FILE).then_some(location.file),
            environment: self.environment,
            sets: self.sets,
            name: self.name,
            services: self.services,
            jobs: Vec::new(),
            force: self.force,
            variables: checked.referenced_variables(),
            shell_environment: Some(shell_variables()),
            target_variables: plan::runtime::RuntimeKind::target_variables(|name| std::env::var(name).ok()),
            runtime: self.runtime,
            reset: false,
            leave_data: false,
            detach: false,
        };
        Ok((request, checked))
    }
}

/// The environment of this command, which is that of the shell in which it was typed.
fn shell_variables() -> ShellVariables {
    let variables = std::env::vars_os();
    let text = variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    // Secrets of pdev's own variables must not leave this process.
    ShellVariables(ShellEnvironment::from_variables(text).0)
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    let (mut request, checked) = arguments.options.into_request(context)?;
    request.detach = arguments.detach;
    request.reset = arguments.reset;
    request.leave_data = arguments.yes;
    let secrets = secrets::collect(&arguments.secrets, &checked, context)?;
    let mut progress = Progress::new(context);
    Context::block_on(async {
        let mut client = Context::connect().await?;
        // Before `up`: the units that start may read the secrets immediately.
        if !secrets.names().is_empty() {
            secrets::delivery::deliver_secrets(
                &mut client,
                request.folder.clone(),
                request.environment.clone(),
                secrets,
                context,
            )
            .await?;
        }
        let mut outcome = up_with_retries(client, &request, &mut progress, context, arguments.timeout).await?;
        if may_leave_data(&outcome, context)? {
            request.leave_data = true;
            let client = Context::connect().await?;
            outcome = up_with_retries(client, &request, &mut progress, context, arguments.timeout).await?;
        }
        print_outcome(outcome, "the preview", context)
    })
}

/// Asks the user on a terminal whether units may move without their data, if the agent has refused that.
fn may_leave_data(outcome: &OperationOutcome, context: &Context) -> Result<bool, Failure> {
    let OperationOutcome::Failed { problems, .. } = outcome else { return Ok(false) };
    let Some(problem) = problems.iter().find(|problem| problem.code == "data_left_behind") else { return Ok(false) };
    Ok(context.confirm(&format!("{}. Start without it?", problem.title))?)
}

/// Follows `up`. If the agent is lost, starts it and sends the request again: `up` of the same manifest joins or
/// completes the operation that the lost agent began.
async fn up_with_retries(
    client: Client,
    request: &UpRequest,
    progress: &mut Progress,
    context: &Context,
    timeout: Option<Duration>,
) -> Result<OperationOutcome, Failure> {
    const ATTEMPTS_MAX: usize = 3;
    let mut client = Some(client);
    for is_last in (0..ATTEMPTS_MAX).map(|attempt| attempt + 1 == ATTEMPTS_MAX) {
        let connected = match client.take() {
            Some(client) => client,
            None => Context::connect().await?,
        };
        let mut stream = connected.up(request).await?;
        match follow_operation(&mut stream, progress, context, timeout).await? {
            OperationOutcome::ConnectionLost(error) if !is_last => {
                if !context.json && !context.quiet {
                    context.terminal.eprint_line(&format!("note: {error}; retrying"));
                }
            }
            outcome => return Ok(outcome),
        }
    }
    Err(Failure::failed(format!("the connection to the agent was lost {ATTEMPTS_MAX} times")))
}

/// Prints the last lines of `up`, `restart` and other operations, and returns their exit code.
pub(crate) fn print_outcome(outcome: OperationOutcome, title: &str, context: &Context) -> Outcome {
    let terminal = &context.terminal;
    match outcome {
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
                terminal.print_line("accepted; `pdev wait` waits until it is ready, `pdev status` shows its state");
            }
            Ok(exit::OK)
        }
        OperationOutcome::Interrupted => {
            terminal.eprint_line(
                "stopped watching; the operation continues: `pdev status` shows it, `pdev logs -f` follows the output, `pdev down` stops the preview",
            );
            Ok(exit::INTERRUPTED)
        }
        OperationOutcome::TimedOut => {
            Err(Failure::new(exit::TIMEOUT, "timeout", format!("{title} is not ready yet; the operation continues"))
                .hint("Run `pdev status` to see what it waits for."))
        }
        OperationOutcome::Superseded { by } => {
            Err(Failure::failed(format!("another request superseded this one: {by}"))
                .hint("Run `pdev wait` to wait for its result."))
        }
        OperationOutcome::AgentStopping => {
            Err(Failure::new(exit::UNREACHABLE, "agent_stopping", "the agent is stopping")
                .hint("Run `pdev up` to start the agent again and complete the operation; programs keep running."))
        }
        OperationOutcome::ConnectionLost(error) => Err(error.into()),
    }
}

fn print_finished(status: &PreviewStatus, milliseconds: u64, unchanged: bool, context: &Context) {
    let (terminal, paint) = (&context.terminal, context.terminal.stdout_paint);
    let duration = humanize::duration(milliseconds);
    let title = paint.bold(&status.preview.title);
    if unchanged {
        let url = status.url.as_ref().map(|url| format!("  {}", paint.cyan(url))).unwrap_or_default();
        return terminal.print_line(&format!("{title}: nothing changed, all healthy ({duration}){url}"));
    }
    terminal.print_line(&format!("{} {title} is ready in {duration}", paint.green("✔")));
    address_lines(status).iter().for_each(|line| terminal.print_line(line));
    if !context.quiet {
        terminal.print_line(&paint.dim("next: `pdev logs -f`, `pdev status`, `pdev open`, `pdev down`"));
    }
}

/// A line for each unit with a URL; if no unit has one, the local ports of the running units.
fn address_lines(status: &PreviewStatus) -> Vec<String> {
    let is_running = |state| matches!(state, UnitState::Ready | UnitState::Starting | UnitState::Unhealthy);
    let with_url = status.units.iter().filter_map(|unit| unit.url.clone().map(|url| (unit, url)));
    let mut rows: Vec<(String, String)> = with_url.map(|(unit, url)| (unit.name.clone(), url)).collect();
    if rows.is_empty() {
        rows = status
            .units
            .iter()
            .filter(|unit| is_running(unit.state))
            .flat_map(|unit| unit.ports.values().map(|port| (unit.name.clone(), format!("127.0.0.1:{port}"))))
            .collect();
    }
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    rows.iter().map(|(name, address)| format!("  {name:<width$}  {address}")).collect()
}

fn print_failed(status: &PreviewStatus, milliseconds: u64, context: &Context) {
    let terminal = &context.terminal;
    let healthy = status.units.iter().filter(|unit| matches!(unit.state, UnitState::Ready | UnitState::Done)).count();
    terminal.eprint_line("");
    if status.units.is_empty() {
        return terminal.eprint_line(&format!(
            "{} failed after {}; nothing runs",
            terminal.stderr_paint.bold(&status.preview.title),
            humanize::duration(milliseconds)
        ));
    }
    terminal.eprint_line(&format!(
        "{} failed after {}; {healthy} of {} healthy. `pdev status` shows them, `pdev logs` their output.",
        terminal.stderr_paint.bold(&status.preview.title),
        humanize::duration(milliseconds),
        humanize::count(status.units.len(), "unit"),
    ));
}
