//! Where the units of a preview run: one target for each runtime that the preview uses.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::runtime::RuntimeKind;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Target {
    pub runtime: RuntimeKind,
    #[serde(flatten)]
    pub place: Place,
    /// The setting that selected it, for messages: `DOCKER_HOST`, ``the context `colima` ``. Empty if nothing was
    /// selected.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub chosen_by: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "place", rename_all = "snake_case")]
pub enum Place {
    /// This machine, without an engine.
    Machine,
    Engine {
        /// `unix:///var/run/docker.sock`.
        address: String,
        /// The folder with `ca.pem`, `cert.pem` and `key.pem`, if the connection uses TLS.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        certificates: Option<String>,
    },
    Cluster {
        /// The context of the kubeconfig.
        context: String,
        namespace: String,
    },
}

impl Target {
    /// The target of a runtime that needs no engine.
    #[must_use]
    pub fn machine(runtime: RuntimeKind) -> Self {
        Self { runtime, place: Place::Machine, chosen_by: String::new() }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Machine => formatter.write_str("this machine")?,
            Place::Engine { address, .. } => write!(formatter, "the engine `{address}`")?,
            Place::Cluster { context, namespace } => {
                write!(formatter, "the namespace `{namespace}` of the cluster `{context}`")?;
            }
        }
        if self.chosen_by.is_empty() { Ok(()) } else { write!(formatter, " (chosen by {})", self.chosen_by) }
    }
}

/// At most one target for each runtime.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Target>", into = "Vec<Target>")]
pub struct Targets(BTreeMap<RuntimeKind, Target>);

impl Targets {
    #[must_use]
    pub fn get(&self, runtime: RuntimeKind) -> Option<&Target> {
        self.0.get(&runtime)
    }

    /// Adds a target, or replaces the one of its runtime.
    pub fn set(&mut self, target: Target) {
        self.0.insert(target.runtime, target);
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Target> {
        self.0.values()
    }

    /// Only the targets of these runtimes.
    #[must_use]
    pub fn only(&self, is_selected: impl Fn(RuntimeKind) -> bool) -> Self {
        self.iter().filter(|target| is_selected(target.runtime)).cloned().collect()
    }
}

impl FromIterator<Target> for Targets {
    fn from_iter<I: IntoIterator<Item = Target>>(targets: I) -> Self {
        Self(targets.into_iter().map(|target| (target.runtime, target)).collect())
    }
}

impl From<Vec<Target>> for Targets {
    fn from(targets: Vec<Target>) -> Self {
        targets.into_iter().collect()
    }
}

impl From<Targets> for Vec<Target> {
    fn from(targets: Targets) -> Self {
        targets.0.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_as_written_and_described() {
        let engine = Place::Engine { address: "unix:///run/docker.sock".into(), certificates: None };
        let cluster = Place::Cluster { context: "kind".into(), namespace: "shop-main".into() };
        let [first, second] = [RuntimeKind::ALL[0], RuntimeKind::ALL[1]];
        let target = |runtime, place| Target { runtime, place, chosen_by: "DOCKER_HOST".into() };
        let targets: Targets = [target(first, engine), Target::machine(second)].into_iter().collect();
        let text = serde_json::to_string(&targets).unwrap();
        assert_eq!(serde_json::from_str::<Targets>(&text).unwrap(), targets);
        let described: Vec<String> = targets.iter().map(ToString::to_string).collect();
        assert_eq!(described, ["the engine `unix:///run/docker.sock` (chosen by DOCKER_HOST)", "this machine"]);
        assert!(target(first, cluster).to_string().starts_with("the namespace `shop-main` of the cluster `kind`"));
        assert_eq!(targets.only(|runtime| runtime == second).iter().count(), 1);
    }
}
