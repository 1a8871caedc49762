//! A plan: a graph of atomic steps, each with the reason it exists. Executors follow it and decide nothing.

use serde::{Deserialize, Serialize};

use crate::application::{RuntimeKind, UnitName};

#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    pub steps: Vec<Step>,
}

impl Plan {
    /// True when `up` has nothing to do but to look whether all is well.
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
    /// What is lost for good by this step (`volume db-data`), when something is.
    pub destroys: Option<String>,
}

/// One call to a driver each, but `AwaitReady` and `AwaitExit`, which the agent does by probing and listening.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Action {
    CreateNetwork,
    RemoveNetwork {
        name: String,
    },
    CreateVolume {
        volume: String,
    },
    RemoveVolume {
        volume: String,
    },
    /// Build or pull the unit's image (docker), or run its build command (process).
    PrepareImage {
        unit: UnitName,
        runtime: RuntimeKind,
    },
    Create {
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
    /// `handle` tells which object, because a stray shares its unit's name.
    Remove {
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
    /// A job: wait for exit code 0.
    AwaitExit {
        unit: UnitName,
    },
}

impl Action {
    #[must_use]
    pub fn unit(&self) -> Option<&UnitName> {
        match self {
            Self::PrepareImage { unit, .. }
            | Self::Create { unit, .. }
            | Self::Start { unit, .. }
            | Self::Stop { unit, .. }
            | Self::Remove { unit, .. }
            | Self::Connect { unit, .. }
            | Self::AwaitReady { unit }
            | Self::AwaitExit { unit } => Some(unit),
            _ => None,
        }
    }
}

/// Why a step is there, as data; `Display` gives the words of `pdev plan`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    /// Nothing of it exists yet.
    Absent,
    /// The user's intent changed; the fields that differ where they are known (`env.LOG_LEVEL`, `image`).
    Changed {
        fields: Vec<String>,
    },
    ImageStale {
        reason: String,
    },
    ImageChanged,
    /// It stopped or crashed since.
    NotRunning {
        was: String,
    },
    /// In the manifest no more.
    Removed,
    /// A second object for the same unit.
    Stray,
    /// Runs under another runtime now.
    RuntimeChanged,
    LostNetwork,
    /// Another unit that this one depends on is replaced.
    Needs {
        unit: UnitName,
    },
    /// The previous step makes it necessary (start after create).
    Follows,
    /// A job whose last run did not succeed or whose inputs changed.
    JobDue {
        reason: String,
    },
    Forced,
    DownAsked,
}
