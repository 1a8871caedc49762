//! `pdev run`: runs a job now, with its output on this terminal, and exits with its exit code.

use std::ffi::OsString;
use std::time::Duration;

use client::{ClientError, EventStream, LineStream};
use host::clock::now_milliseconds;
use protocol::request::{LogEntry, LogQuery};
use protocol::status::{PreviewStatus, UnitState};
use protocol::{Event, EventKind};
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::up::{self, UpOptions};
use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::follow::{OperationOutcome, outcome_of};
use crate::humanize;
use crate::render::progress::Progress;

/// The default of `--timeout`: every wait has a deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(24 * 3600);

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev run seed                                  run a job again, or one with `when: manual`
  pdev run seed --set jobs.seed.env.ROWS=100
  pdev run --as shop-dev -- ./script             run a program with renewed credentials
  pdev run --as shop-dev --in-env -- ./script    run a program with one credential, not renewed

The units that the job needs are started first; all other units stay unchanged. The output of the job is printed to \
standard output and standard error.

Exit codes: the job's own; 2 wrong manifest, 4 no such job, 124 timeout, 130 Ctrl-C (the job continues).")]
pub(crate) struct Arguments {
    /// Job of the manifest to run
    #[arg(value_name = "JOB", required_unless_present = "identity", conflicts_with = "identity")]
    job: Option<String>,
    /// Run a program as this identity
    #[arg(long = "as", value_name = "IDENTITY", requires = "program")]
    identity: Option<String>,
    #[command(flatten)]
    options: UpOptions,
    /// Stop waiting after this duration, such as `90s` or `10m`; the job continues [default: 24h, in practice no limit]
    #[arg(long, value_name = "DURATION", value_parser = humanize::parse_duration)]
    timeout: Option<Duration>,
    /// With `--as`: put one credential into the program's environment, instead of an endpoint that renews it
    #[arg(long, requires = "identity")]
    in_env: bool,
    /// With `--as`: program and its arguments
    #[arg(last = true, value_name = "PROGRAM", requires = "identity")]
    program: Vec<OsString>,
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    let Arguments { job, identity, in_env, program, options, timeout } = arguments;
    if let Some(identity) = identity {
        return crate::credential::program::run(&identity, &program, &context.folder, in_env);
    }
    let Some(job) = job else { return Err(Failure::invalid_input("no job is named")) };
    let (mut request, checked) = options.into_request(context)?;
    checked.refuse_unknown_job(&job)?;
    request.services.push(job.clone());
    request.jobs.push(job.clone());
    Context::block_on(async {
        let started_at = now_milliseconds();
        let mut stream = Context::connect().await?.up(&request).await?;
        let mut output = JobOutput { job: &job, since: started_at, printed_lines: 0 };
        let followed = follow_job(&mut stream, &mut output, context);
        let Ok(result) = tokio::time::timeout(timeout.unwrap_or(DEFAULT_TIMEOUT), followed).await else {
            return up::print_outcome(OperationOutcome::TimedOut, &format!("job `{job}`"), context);
        };
        let (outcome, preview) = result?;
        if let Some(preview) = preview {
            output.print_remaining(&preview, context).await?;
        }
        print_outcome(outcome, &job, context)
    })
}

/// Follows the operation to its end and prints the lines of the job as they arrive. Also returns the id of the preview,
/// if it became known.
async fn follow_job(
    stream: &mut EventStream,
    output: &mut JobOutput<'_>,
    context: &Context,
) -> Result<(OperationOutcome, Option<String>), Failure> {
    let mut interrupts = signal(SignalKind::interrupt())?;
    let mut progress = Progress::new(context);
    let mut lines: Option<LineStream<LogEntry>> = None;
    let mut preview = None;
    loop {
        tokio::select! {
            biased;
            _ = interrupts.recv() => break Ok((OperationOutcome::Interrupted, None)),
            entry = next_entry(&mut lines) => match entry {
                Some(entry) => output.print_entry(&entry, context),
                None => lines = None,
            },
            event = stream.next() => {
                let event = match event {
                    Ok(Some(event)) => event,
                    Ok(None) => break Ok((OperationOutcome::Detached, preview)),
                    Err(error) => break Ok((OperationOutcome::ConnectionLost(error), preview)),
                };
                let starts = is_job_start(&event, output.job);
                // Redrawn progress and the lines of a program cannot share a terminal.
                if preview.is_none() || context.json {
                    progress.handle_event(&event, &context.terminal);
                }
                if starts && preview.is_none() {
                    progress.finish(&context.terminal);
                    lines = output.open_stream(&event.preview.id, context).await?;
                    preview = Some(event.preview.id.clone());
                }
                if event.kind.ends_operation() {
                    progress.finish(&context.terminal);
                    break Ok((outcome_of(event.kind), preview.or(Some(event.preview.id))));
                }
            }
        }
    }
}

fn is_job_start(event: &Event, job: &str) -> bool {
    matches!(&event.kind, EventKind::UnitChanged { unit }
        if unit.name == job && matches!(unit.state, UnitState::Starting | UnitState::Done | UnitState::Failed))
}

/// Never completes without a stream, so `select!` waits for its other branches.
async fn next_entry(lines: &mut Option<LineStream<LogEntry>>) -> Option<LogEntry> {
    match lines {
        Some(lines) => lines.next().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

/// The output of a job: which lines were already printed.
struct JobOutput<'a> {
    job: &'a str,
    since: i64,
    printed_lines: usize,
}

impl JobOutput<'_> {
    async fn open_stream(&self, preview: &str, context: &Context) -> Result<Option<LineStream<LogEntry>>, Failure> {
        if context.json {
            return Ok(None);
        }
        self.request_logs(preview, true).await
    }

    async fn request_logs(&self, preview: &str, follow: bool) -> Result<Option<LineStream<LogEntry>>, Failure> {
        let query =
            LogQuery { units: Some(self.job.to_owned()), follow, since: Some(self.since), ..LogQuery::default() };
        match Context::connect().await?.logs(preview, &query).await {
            Ok(lines) => Ok(Some(lines)),
            // The preview may already be down again. The operation still reports its result.
            Err(ClientError::Problem(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn print_entry(&mut self, entry: &LogEntry, context: &Context) {
        self.printed_lines += 1;
        if entry.stream == "stderr" {
            context.terminal.eprint_line(&entry.text);
        } else {
            context.terminal.print_line(&entry.text);
        }
    }

    /// Prints the lines that the stream has not delivered before the job ended.
    async fn print_remaining(&mut self, preview: &str, context: &Context) -> Result<(), Failure> {
        if context.json {
            return Ok(());
        }
        let Some(mut lines) = self.request_logs(preview, false).await? else { return Ok(()) };
        let mut number = 0;
        while let Some(entry) = lines.next().await? {
            number += 1;
            if number > self.printed_lines {
                self.print_entry(&entry, context);
            }
        }
        Ok(())
    }
}

/// Returns the exit code of the job if only the job failed. Its output is already printed, so it is not repeated.
fn print_outcome(outcome: OperationOutcome, job: &str, context: &Context) -> Outcome {
    let exit_code = |status: &PreviewStatus| {
        let unit = status.units.iter().find(|unit| unit.name == job)?;
        unit.exit_code.and_then(|code| u8::try_from(code).ok())
    };
    match outcome {
        OperationOutcome::Finished { .. } => crate::success(),
        OperationOutcome::Failed { problems, status, .. }
            if problems.iter().all(|problem| problem.unit.as_deref() == Some(job)) && exit_code(&status).is_some() =>
        {
            let code = exit_code(&status).unwrap_or(crate::exit::FAILED);
            if !context.json {
                context.terminal.eprint_line(&format!("job `{job}` ended with exit code {code}"));
            }
            Ok(code)
        }
        other => up::print_outcome(other, &format!("job `{job}`"), context),
    }
}
