//! Selects engines as the docker command does, and creates a driver for each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use plan::application::RuntimeKind;
use plan::target::{Place, Target};

use super::context::{DockerEnv, EngineEndpoint, TlsFiles, choose_endpoint};
use super::{DockerDriver, Driver};
use crate::factory::{DriverFactory, TargetSource};
use crate::problem::{Problem, ProblemKind};

pub struct DockerFactory {
    owner: String,
}

impl DockerFactory {
    /// See [`crate::DriverSettings::owner`].
    #[must_use]
    pub fn new(owner: String) -> Self {
        Self { owner }
    }
}

impl DriverFactory for DockerFactory {
    fn runtime(&self) -> RuntimeKind {
        RuntimeKind::DOCKER
    }

    fn select_target(
        &self,
        variables: &BTreeMap<String, String>,
        source: TargetSource<'_>,
    ) -> Result<Option<Target>, Problem> {
        let caller = DockerEnv::from_variables(|name| variables.get(name).cloned());
        let selects_engine = caller.docker_host.is_some() || caller.docker_context.is_some();
        let docker_env = match source {
            TargetSource::Variables if !selects_engine => return Ok(None),
            TargetSource::Variables => caller,
            TargetSource::Context(name) => {
                let docker_context = Some(name.to_owned());
                return choose_endpoint(&DockerEnv { docker_host: None, docker_context, ..caller })
                    .map(|endpoint| Some(to_target(endpoint, Some("`context` in the manifest"))));
            }
            TargetSource::Default => DockerEnv { docker_host: None, docker_context: None, ..caller },
        };
        choose_endpoint(&docker_env).map(|endpoint| Some(to_target(endpoint, None)))
    }

    fn create_driver(&self, target: &Target) -> Result<Arc<dyn Driver>, Problem> {
        let Place::Engine { address, certificates } = &target.place else {
            return Err(Problem::new(ProblemKind::Internal, format!("{target} is not a container engine")));
        };
        let endpoint = EngineEndpoint {
            host: address.clone(),
            chosen_by: target.chosen_by.clone(),
            tls: certificates.as_ref().map(|folder| TlsFiles::in_folder(Path::new(folder))),
            is_isolated: false,
        };
        Ok(Arc::new(DockerDriver::new(endpoint, self.owner.as_str())))
    }
}

fn to_target(endpoint: EngineEndpoint, chosen_by: Option<&str>) -> Target {
    let folder = endpoint.tls.as_ref().and_then(|tls| tls.ca.parent()).map(|folder| folder.display().to_string());
    Target {
        runtime: RuntimeKind::DOCKER,
        place: Place::Engine { address: endpoint.host, certificates: folder },
        chosen_by: chosen_by.map_or(endpoint.chosen_by, str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caller_variables_select_before_default() {
        let folder = tempfile::tempdir().unwrap();
        let factory = DockerFactory::new("owner".to_owned());
        let config = ("DOCKER_CONFIG".to_owned(), folder.path().display().to_string());
        let select = |pairs: &[(&str, &str)], source| {
            let variables = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            factory.select_target(&variables.chain([config.clone()]).collect(), source)
        };
        let host = [("DOCKER_HOST", "unix:///other.sock")];
        assert_eq!(select(&[], TargetSource::Variables), Ok(None));
        assert_eq!(select(&[("DOCKER_HOST", "")], TargetSource::Variables), Ok(None));
        let chosen = select(&host, TargetSource::Variables).unwrap().unwrap();
        assert_eq!(chosen.to_string(), "the engine `unix:///other.sock` (chosen by DOCKER_HOST)");
        let default = select(&host, TargetSource::Default).unwrap().unwrap();
        assert_eq!(default.to_string(), "the engine `unix:///var/run/docker.sock` (chosen by the default)");
        let absent = select(&host, TargetSource::Context("absent")).unwrap_err();
        assert!(absent.message.contains("the Docker context `absent`"), "{absent}");
        assert!(select(&[("DOCKER_CONTEXT", "absent")], TargetSource::Variables).is_err());
        assert!(factory.create_driver(&chosen).is_ok());
        assert!(factory.create_driver(&Target::machine(RuntimeKind::PROCESS)).is_err());
    }
}
