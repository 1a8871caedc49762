//! The options of `up` that stay in effect for later commands of the same preview, until `up --reset`.

use protocol::request::UpRequest;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RetainedOptions {
    #[serde(skip_serializing_if = "Option::is_none")]
    runtime: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    sets: Vec<String>,
}

impl RetainedOptions {
    /// The options of a completed request, which an accepted `up` records.
    pub fn of(request: &UpRequest) -> Self {
        Self { runtime: request.runtime.clone(), name: request.name.clone(), sets: request.sets.clone() }
    }

    /// Adds these options to a request that does not contradict them. A later `--set` of the same path wins.
    pub fn complete(&self, request: UpRequest) -> UpRequest {
        if request.reset {
            return request;
        }
        let is_overridden = |retained: &String| request.sets.iter().any(|set| path_of(set) == path_of(retained));
        let retained_sets = self.sets.iter().filter(|retained| !is_overridden(retained)).cloned();
        let sets = retained_sets.chain(request.sets.iter().cloned()).collect();
        let runtime = request.runtime.clone().or_else(|| self.runtime.clone());
        let name = request.name.clone().or_else(|| self.name.clone());
        UpRequest { runtime, name, sets, ..request }
    }

    /// Tells the user which options are in effect; `None` without any.
    pub fn note(&self) -> Option<String> {
        let runtime = self.runtime.iter().map(|runtime| format!("--runtime {runtime}"));
        let name = self.name.iter().map(|name| format!("--name {name}"));
        let sets = self.sets.iter().map(|set| format!("--set {set}"));
        let options: Vec<String> = runtime.chain(name).chain(sets).collect();
        (!options.is_empty())
            .then(|| format!("this preview keeps the options `{}` until `pdev up --reset`", options.join(" ")))
    }
}

/// `services.web.replicas` of `services.web.replicas=2`.
fn path_of(set: &str) -> &str {
    set.split_once('=').map_or(set, |(path, _)| path).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_options_win_and_reset_forgets() {
        let request = |runtime: Option<&str>, sets: &[&str], reset| UpRequest {
            runtime: runtime.map(str::to_owned),
            sets: sets.iter().map(|set| (*set).to_owned()).collect(),
            reset,
            ..UpRequest::default()
        };
        let retained = RetainedOptions::of(&request(Some("process"), &["vars.a=1", "vars.b=1"], false));
        let completed = retained.complete(request(None, &["vars.b=2"], false));
        assert_eq!(
            (completed.runtime.as_deref(), completed.sets),
            (Some("process"), vec!["vars.a=1".into(), "vars.b=2".into()])
        );
        assert_eq!(retained.complete(request(Some("docker"), &[], false)).runtime.as_deref(), Some("docker"));
        let reset = retained.complete(request(None, &[], true));
        assert_eq!((reset.runtime, reset.sets.len()), (None, 0));
        assert!(retained.note().is_some_and(|note| note.contains("`--runtime process --set vars.a=1 --set vars.b=1`")));
        assert_eq!(RetainedOptions::default().note(), None);
    }
}
