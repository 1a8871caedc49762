//! A plan is a graph of atomic steps, each with its cause. Executors follow the graph and make no decisions.

use serde::{Deserialize, Serialize};

use crate::application::{RuntimeKind, UnitName};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
}

impl Plan {
    /// True when `up` changes nothing and only waits for health.
    #[must_use]
    pub fn has_no_changes(&self) -> bool {
        self.steps.iter().all(|step| matches!(step.action, Action::AwaitReady { .. }))
    }
}

pub type StepId = usize;

#[derive(Clone, PartialEq, Debug)]
pub struct Step {
    /// Index into [`Plan::steps`].
    pub id: StepId,
    pub action: Action,
    /// Steps that must have succeeded before this one starts.
    pub after: Vec<StepId>,
    pub cause: Cause,
    /// The data that this step deletes permanently (`volume db-data`), if any.
    pub destroys: Option<String>,
}

/// Each action is one driver call, except `AwaitReady` and `AwaitExit`: the agent probes, or listens for the exit.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    CreateNetwork {
        runtime: RuntimeKind,
    },
    RemoveNetwork {
        runtime: RuntimeKind,
        name: String,
    },
    CreateVolume {
        runtime: RuntimeKind,
        volume: String,
    },
    RemoveVolume {
        runtime: RuntimeKind,
        volume: String,
    },
    /// Build or pull the unit's image, or run its build command if its runtime has no images.
    PrepareImage {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    /// Copy the unit's image to the place from which its runtime starts it.
    PushImage {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    Create {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    /// Create or change the unit's object in one call, and run it. For runtimes that change objects in place.
    Apply {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    Start {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    Stop {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    /// `handle` identifies the object, because a stray has the same unit name.
    Remove {
        unit: UnitName,
        runtime: RuntimeKind,
        handle: String,
    },
    /// Stop and remove an object in one call. For runtimes that change objects in place.
    Delete {
        unit: UnitName,
        runtime: RuntimeKind,
        handle: String,
    },
    /// Attach a container that lost the preview's network.
    Connect {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    AwaitReady {
        unit: UnitName,
    },
    /// For a job: wait for exit code 0.
    AwaitExit {
        unit: UnitName,
    },
}

impl Action {
    #[must_use]
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::PrepareImage { unit, .. }
            | Self::PushImage { unit, .. }
            | Self::Create { unit, .. }
            | Self::Apply { unit, .. }
            | Self::Delete { unit, .. }
            | Self::Start { unit, .. }
            | Self::Stop { unit, .. }
            | Self::Remove { unit, .. }
            | Self::Connect { unit, .. }
            | Self::AwaitReady { unit }
            | Self::AwaitExit { unit } => Some(unit),
            Self::CreateNetwork { .. }
            | Self::RemoveNetwork { .. }
            | Self::CreateVolume { .. }
            | Self::RemoveVolume { .. } => None,
        }
    }

    /// The runtime whose driver performs the action. `None` for actions of the agent.
    #[must_use]
    pub fn runtime(&self) -> Option<RuntimeKind> {
        match self {
            Self::CreateNetwork { runtime }
            | Self::RemoveNetwork { runtime, .. }
            | Self::CreateVolume { runtime, .. }
            | Self::RemoveVolume { runtime, .. }
            | Self::PrepareImage { runtime, .. }
            | Self::PushImage { runtime, .. }
            | Self::Create { runtime, .. }
            | Self::Apply { runtime, .. }
            | Self::Delete { runtime, .. }
            | Self::Start { runtime, .. }
            | Self::Stop { runtime, .. }
            | Self::Remove { runtime, .. }
            | Self::Connect { runtime, .. } => Some(*runtime),
            Self::AwaitReady { .. } | Self::AwaitExit { .. } => None,
        }
    }
}

/// The reason for a step, as data. `Display` returns the text that `pdev plan` prints.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// The object does not exist yet.
    Absent,
    /// The user's intent changed. `fields` names the fields that differ, if known (`env.LOG_LEVEL`, `image`).
    Changed {
        fields: Vec<String>,
    },
    ImageStale {
        reason: String,
    },
    ImageChanged,
    /// The unit exists but does not run: it stopped, crashed or never started.
    NotRunning {
        was: String,
    },
    /// The unit is no longer in the manifest.
    Removed,
    /// A second object for the same unit.
    Stray,
    /// The unit moved to another runtime.
    RuntimeChanged,
    LostNetwork,
    /// A unit that this one needs is replaced and gets another host port.
    Needs {
        unit: UnitName,
    },
    /// The previous step requires this one (start after create).
    Follows,
    /// The job has not run, its last run failed, its inputs changed, or the user requested it.
    JobDue {
        reason: String,
    },
    Forced,
    /// The user ran `pdev down`. The wire name predates the variant name.
    #[serde(rename = "down_asked")]
    DownRequested,
}
