//! Plans as text: one line per step, with its cause. `pdev plan` prints [`lines`]. Tests compare [`graph`], which also
//! numbers the steps and lists the predecessors of each.

use std::fmt;

use crate::observed::{Exit, RunState};
use crate::step::{Action, Cause, Plan, Step};

/// `create db: does not exist yet`, one line per step, in the order of the plan.
#[must_use]
pub fn lines(plan: &Plan) -> Vec<String> {
    plan.steps.iter().map(ToString::to_string).collect()
}

/// The same lines with numbers and edges: ` 3 start db: follows <- 1 2`.
#[must_use]
pub fn graph(plan: &Plan) -> String {
    let mut text = String::new();
    for step in &plan.steps {
        let mut line = format!("{:>2} {step}", step.id);
        if !step.after.is_empty() {
            let after: Vec<String> = step.after.iter().map(ToString::to_string).collect();
            line.push_str(" <- ");
            line.push_str(&after.join(" "));
        }
        text.push_str(&line);
        text.push('\n');
    }
    text
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.action, self.cause)?;
        match &self.destroys {
            Some(data) => write!(formatter, " (destroys {data})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (verb, object) = match self {
            Self::CreateNetwork { .. } => ("create", "network"),
            Self::RemoveNetwork { name, .. } => return write!(formatter, "remove network {name}"),
            Self::CreateVolume { volume, .. } => return write!(formatter, "create volume {volume}"),
            Self::RemoveVolume { volume, .. } => return write!(formatter, "remove volume {volume}"),
            Self::PrepareImage { unit, runtime } if runtime.capabilities().has_images => {
                return write!(formatter, "prepare image of {unit}");
            }
            Self::PrepareImage { unit, .. } => ("build", unit.as_str()),
            Self::PushImage { unit, .. } => return write!(formatter, "push image of {unit}"),
            Self::Create { unit, .. } => ("create", unit.as_str()),
            Self::Apply { unit, .. } => ("apply", unit.as_str()),
            Self::Delete { unit, .. } => ("delete", unit.as_str()),
            Self::Start { unit, .. } => ("start", unit.as_str()),
            Self::Stop { unit, .. } => ("stop", unit.as_str()),
            Self::Remove { unit, .. } => ("remove", unit.as_str()),
            Self::Connect { unit, .. } => ("connect", unit.as_str()),
            Self::AwaitReady { unit } => ("await health of", unit.as_str()),
            Self::AwaitExit { unit } => ("await end of", unit.as_str()),
        };
        write!(formatter, "{verb} {object}")
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => formatter.write_str("does not exist yet"),
            Self::Changed { fields } if fields.is_empty() => formatter.write_str("its definition changed"),
            Self::Changed { fields } => write!(formatter, "changed: {}", fields.join(", ")),
            Self::ImageStale { reason } => formatter.write_str(reason),
            Self::ImageChanged => formatter.write_str("its image changed"),
            Self::NotRunning { was } => formatter.write_str(was),
            Self::Removed => formatter.write_str("no longer in the manifest"),
            Self::Stray => formatter.write_str("left over from an interrupted replacement"),
            Self::RuntimeChanged => formatter.write_str("its runtime changed"),
            Self::LostNetwork => formatter.write_str("it lost the network of the preview"),
            Self::Needs { unit } => write!(formatter, "`{unit}`, which it needs, moves to another port"),
            Self::Follows => formatter.write_str("follows"),
            Self::JobDue { reason } => formatter.write_str(reason),
            Self::Forced => formatter.write_str("forced"),
            Self::DownRequested => formatter.write_str("requested"),
        }
    }
}

/// `running`, `exited with code 1`, `ended by signal 9 (out of memory)`.
#[must_use]
pub fn describe_state(state: &RunState) -> String {
    match state {
        RunState::Created => "created but never started".to_owned(),
        RunState::Running => "running".to_owned(),
        RunState::Paused => "paused".to_owned(),
        RunState::Exited(exit) => describe_exit(exit),
    }
}

/// `exited with code 1`, `not started: exec format error`.
#[must_use]
pub fn describe_exit(exit: &Exit) -> String {
    if let Some(error) = &exit.error {
        return format!("not started: {error}");
    }
    let out_of_memory = if exit.out_of_memory { " (out of memory)" } else { "" };
    match (exit.code, exit.signal) {
        (_, Some(signal)) => format!("ended by signal {signal}{out_of_memory}"),
        (Some(code), None) => format!("exited with code {code}{out_of_memory}"),
        (None, None) => format!("ended{out_of_memory}"),
    }
}
