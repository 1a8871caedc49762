//! Chooses the engine: `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context, then the default socket.
//! Does not connect. bollard has no support for contexts.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};
use strings::to_hex;

use crate::problem::{Problem, ProblemKind};

pub(super) const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineEndpoint {
    pub host: String,
    /// For messages: `DOCKER_HOST`, ``the context `colima` ``.
    pub chosen_by: String,
    /// For `tcp://`: certificates that verify the engine and identify this client.
    pub tls: Option<TlsFiles>,
    /// Set after connecting: the engine runs in another machine or network, so containers can only be reached at their
    /// published ports.
    pub is_isolated: bool,
}

/// PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl TlsFiles {
    /// The file names that every Docker tool uses.
    pub(super) fn in_folder(folder: &Path) -> Self {
        Self { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") }
    }

    /// Reports a missing file here, because the error of a failed handshake would not name it.
    fn ensure_files_exist(self, chosen_by: &str) -> Result<Self, Problem> {
        let missing = [&self.ca, &self.cert, &self.key].into_iter().find(|path| !path.is_file());
        match missing {
            None => Ok(self),
            Some(path) => Err(Problem::new(
                ProblemKind::Unavailable,
                format!("cannot use TLS with the Docker engine ({chosen_by}): `{}` does not exist", path.display()),
            )
            .hint("Put ca.pem, cert.pem and key.pem there, or set DOCKER_CERT_PATH to their folder.")),
        }
    }
}

impl EngineEndpoint {
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host.starts_with("unix://") || self.host.starts_with("npipe://")
    }
}

/// The settings that determine the choice.
#[derive(Clone, Debug, Default)]
pub struct DockerEnv {
    pub docker_host: Option<String>,
    pub docker_context: Option<String>,
    /// `DOCKER_TLS_VERIFY` is set.
    pub tls_verify: bool,
    /// `DOCKER_CERT_PATH`; if unset, the configuration folder is used.
    pub cert_path: Option<PathBuf>,
    /// `DOCKER_CONFIG` or `~/.docker`.
    pub config_folder: Option<PathBuf>,
}

impl DockerEnv {
    #[must_use]
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok())
    }

    /// The choice of a caller with these variables. Without `DOCKER_CONFIG`, it is the folder in this user's home.
    pub fn from_variables(variable: impl Fn(&str) -> Option<String>) -> Self {
        // The docker command also treats an empty variable as unset.
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        let home_folder = || std::env::var_os("HOME").map(|home_folder| PathBuf::from(home_folder).join(".docker"));
        Self {
            docker_host: variable("DOCKER_HOST"),
            docker_context: variable("DOCKER_CONTEXT"),
            tls_verify: variable("DOCKER_TLS_VERIFY").is_some(),
            cert_path: variable("DOCKER_CERT_PATH").map(PathBuf::from),
            config_folder: variable("DOCKER_CONFIG").map(PathBuf::from).or_else(home_folder),
        }
    }
}

#[derive(Deserialize, Default)]
struct Config {
    #[serde(rename = "currentContext")]
    current: Option<String>,
}

#[derive(Deserialize)]
struct ContextMetadata {
    #[serde(rename = "Endpoints")]
    endpoints: Endpoints,
}

#[derive(Deserialize)]
struct Endpoints {
    docker: DockerEndpoint,
}

#[derive(Deserialize)]
struct DockerEndpoint {
    #[serde(rename = "Host", default)]
    host: String,
    #[serde(rename = "SkipTLSVerify", default)]
    skips_verification: bool,
}

pub fn choose_endpoint(docker_env: &DockerEnv) -> Result<EngineEndpoint, Problem> {
    if let Some(host) = &docker_env.docker_host {
        // Like the docker command, use TLS only if `DOCKER_TLS_VERIFY` is set.
        let tls = match docker_env.tls_verify && is_network_host(host) {
            true => {
                let folder =
                    docker_env.cert_path.clone().or_else(|| docker_env.config_folder.clone()).unwrap_or_default();
                Some(TlsFiles::in_folder(&folder).ensure_files_exist("DOCKER_TLS_VERIFY")?)
            }
            false => None,
        };
        return check_scheme(EngineEndpoint {
            host: host.clone(),
            chosen_by: "DOCKER_HOST".to_owned(),
            tls,
            is_isolated: false,
        });
    }
    let (name, chosen_by) = match &docker_env.docker_context {
        Some(name) => (Some(name.clone()), "DOCKER_CONTEXT"),
        None => (current_context(docker_env.config_folder.as_deref())?, "currentContext of Docker's config.json"),
    };
    // `default` is Docker's built-in context, which has no files.
    match name.filter(|name| !name.is_empty() && name != "default") {
        None => Ok(EngineEndpoint {
            host: DEFAULT_HOST.to_owned(),
            chosen_by: "the default".to_owned(),
            tls: None,
            is_isolated: false,
        }),
        Some(name) => check_scheme(context_endpoint(docker_env.config_folder.as_deref(), &name, chosen_by)?),
    }
}

fn current_context(config: Option<&Path>) -> Result<Option<String>, Problem> {
    let Some(path) = config.map(|folder| folder.join("config.json")) else { return Ok(None) };
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Problem::io(format!("cannot read `{}`", path.display()), &error)),
    };
    serde_json::from_str::<Config>(&text).map(|config| config.current).map_err(|error| {
        Problem::new(ProblemKind::Refused, format!("`{}` is not valid JSON: {error}", path.display()))
            .hint("Repair that file, or set DOCKER_HOST.")
    })
}

fn context_endpoint(config: Option<&Path>, name: &str, chosen_by: &str) -> Result<EngineEndpoint, Problem> {
    let context_problem = |reason: String| {
        Problem::new(ProblemKind::Unavailable, format!("the Docker context `{name}` (chosen by {chosen_by}) {reason}"))
            .hint("Choose one of the contexts in `docker context ls` with `docker context use`.")
    };
    // Docker names a context's folders after the SHA-256 of its name.
    let folder = to_hex(Sha256::digest(name.as_bytes()));
    let path = config.map(|config| config.join("contexts/meta").join(&folder).join("meta.json"));
    let path = path.ok_or_else(|| context_problem("cannot be found without a home folder".to_owned()))?;
    let text = std::fs::read_to_string(&path)
        .map_err(|error| context_problem(format!("has no readable description: {error}")))?;
    let metadata: ContextMetadata =
        serde_json::from_str(&text).map_err(|error| context_problem(format!("has an invalid description: {error}")))?;
    let docker = metadata.endpoints.docker;
    let chosen_by = format!("the context `{name}`, from {chosen_by}");
    let tls_folder = config.map(|config| config.join("contexts/tls").join(&folder).join("docker"));
    let tls = match tls_folder.filter(|folder| folder.is_dir() && is_network_host(&docker.host)) {
        Some(_) if docker.skips_verification => {
            return Err(context_problem(
                "does not verify its engine (`skip-tls-verify`), which pdev does not support".to_owned(),
            ));
        }
        Some(folder) => Some(TlsFiles::in_folder(&folder).ensure_files_exist(&chosen_by)?),
        None => None,
    };
    Ok(EngineEndpoint { host: docker.host, chosen_by, tls, is_isolated: false })
}

fn is_network_host(host: &str) -> bool {
    ["tcp://", "http://", "https://"].iter().any(|scheme| host.starts_with(scheme))
}

/// Rejects schemes that this build does not support, with a hint for each.
fn check_scheme(endpoint: EngineEndpoint) -> Result<EngineEndpoint, Problem> {
    let scheme = endpoint.host.split_once("://").map_or("", |(scheme, _)| scheme);
    let message = format!("cannot use the Docker endpoint `{}` (chosen by {})", endpoint.host, endpoint.chosen_by);
    match scheme {
        "https" if endpoint.tls.is_none() => Err(Problem::new(
            ProblemKind::Unavailable,
            format!("{message}: TLS needs certificates"),
        )
        .hint("Set DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH to the folder with ca.pem, cert.pem and key.pem.")),
        "unix" | "npipe" | "tcp" | "http" | "https" => Ok(endpoint),
        "ssh" => Err(Problem::new(ProblemKind::Unavailable, format!("{message}: `ssh://` is not supported"))
            .hint("Forward the socket (`ssh -NL /tmp/docker.sock:/var/run/docker.sock HOST`) and set DOCKER_HOST=unix:///tmp/docker.sock.")),
        _ => Err(Problem::new(ProblemKind::Refused, format!("{message}: allowed schemes are unix://, npipe://, tcp:// and http://"))
            .hint("Set DOCKER_HOST to an address with one of these schemes.")),
    }
}
