//! Which engine is meant: `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context, then the default socket.
//! Does not connect; bollard has no contexts of its own.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::driver::{Problem, ProblemKind};

pub(super) const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EngineEndpoint {
    pub host: String,
    /// For messages: `DOCKER_HOST`, `the context colima`.
    pub chosen_by: String,
    /// For `tcp://`: who the engine has to be, and who we are.
    pub tls: Option<TlsFiles>,
    /// Known once connected: the engine runs in a machine or a network of its own, so containers are reached by their
    /// published ports alone.
    pub is_isolated: bool,
}

/// Files in PEM form.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl TlsFiles {
    /// The names that every Docker tool gives them.
    fn in_folder(folder: &Path) -> Self {
        Self { ca: folder.join("ca.pem"), cert: folder.join("cert.pem"), key: folder.join("key.pem") }
    }

    /// A missing file is said here, because the handshake's failure would not name it.
    fn ensure_files_exist(self, by: &str) -> Result<Self, Problem> {
        let missing = [&self.ca, &self.cert, &self.key].into_iter().find(|path| !path.is_file());
        match missing {
            None => Ok(self),
            Some(path) => Err(Problem::new(
                ProblemKind::Unavailable,
                format!("cannot speak TLS to the Docker engine ({by}): there is no `{}`", path.display()),
            )
            .hint("Put ca.pem, cert.pem and key.pem there, or point DOCKER_CERT_PATH at their folder.")),
        }
    }
}

impl EngineEndpoint {
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.host.starts_with("unix://") || self.host.starts_with("npipe://")
    }
}

/// What the choice depends on, read once from the environment by the caller.
#[derive(Clone, Debug, Default)]
pub struct DockerEnv {
    pub docker_host: Option<String>,
    pub docker_context: Option<String>,
    /// `DOCKER_TLS_VERIFY` is set.
    pub tls_verify: bool,
    /// `DOCKER_CERT_PATH`; without it the configuration's folder.
    pub cert_path: Option<PathBuf>,
    /// `DOCKER_CONFIG` or `~/.docker`.
    pub config_folder: Option<PathBuf>,
}

impl DockerEnv {
    #[must_use]
    pub fn from_env() -> Self {
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".docker"));
        Self {
            docker_host: text("DOCKER_HOST"),
            docker_context: text("DOCKER_CONTEXT"),
            tls_verify: text("DOCKER_TLS_VERIFY").is_some(),
            cert_path: text("DOCKER_CERT_PATH").map(PathBuf::from),
            config_folder: text("DOCKER_CONFIG").map(PathBuf::from).or_else(home),
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

pub fn choose_endpoint(around: &DockerEnv) -> Result<EngineEndpoint, Problem> {
    if let Some(host) = &around.docker_host {
        let tls = match around.tls_verify && is_network_host(host) {
            true => {
                let folder = around.cert_path.clone().or_else(|| around.config_folder.clone()).unwrap_or_default();
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
    let (name, by) = match &around.docker_context {
        Some(name) => (Some(name.clone()), "DOCKER_CONTEXT"),
        None => (current_context(around.config_folder.as_deref())?, "currentContext of Docker's config.json"),
    };
    match name.filter(|name| !name.is_empty() && name != "default") {
        None => Ok(EngineEndpoint {
            host: DEFAULT_HOST.to_owned(),
            chosen_by: "the default".to_owned(),
            tls: None,
            is_isolated: false,
        }),
        Some(name) => check_scheme(context_endpoint(around.config_folder.as_deref(), &name, by)?),
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

fn context_endpoint(config: Option<&Path>, name: &str, by: &str) -> Result<EngineEndpoint, Problem> {
    let unknown = |why: String| {
        Problem::new(ProblemKind::Unavailable, format!("the Docker context `{name}` (chosen by {by}) {why}"))
            .hint("`docker context ls` lists the contexts; choose one with `docker context use`.")
    };
    let folder: String = Sha256::digest(name.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let path = config.map(|config| config.join("contexts/meta").join(&folder).join("meta.json"));
    let path = path.ok_or_else(|| unknown("cannot be looked up without a home folder".to_owned()))?;
    let text =
        std::fs::read_to_string(&path).map_err(|error| unknown(format!("has no readable description: {error}")))?;
    let meta: ContextMetadata =
        serde_json::from_str(&text).map_err(|error| unknown(format!("has a broken description: {error}")))?;
    let docker = meta.endpoints.docker;
    let chosen_by = format!("the context `{name}`, from {by}");
    let material = config.map(|config| config.join("contexts/tls").join(&folder).join("docker"));
    let tls = match material.filter(|folder| folder.is_dir() && is_network_host(&docker.host)) {
        Some(_) if docker.skips_verification => {
            return Err(unknown("does not verify its engine (`skip-tls-verify`), which pdev does not do".to_owned()));
        }
        Some(folder) => Some(TlsFiles::in_folder(&folder).ensure_files_exist(&chosen_by)?),
        None => None,
    };
    Ok(EngineEndpoint { host: docker.host, chosen_by, tls, is_isolated: false })
}

fn is_network_host(host: &str) -> bool {
    ["tcp://", "http://", "https://"].iter().any(|scheme| host.starts_with(scheme))
}

/// Schemes that this build can speak; the others are answered with a way out.
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
        "ssh" => Err(Problem::new(ProblemKind::Unavailable, format!("{message}: `ssh://` is not spoken"))
            .hint("Forward the socket (`ssh -NL /tmp/docker.sock:/var/run/docker.sock HOST`) and set DOCKER_HOST=unix:///tmp/docker.sock.")),
        _ => Err(Problem::new(ProblemKind::Refused, format!("{message}: allowed are unix://, npipe://, tcp:// and http://"))
            .hint("Set DOCKER_HOST to one of these.")),
    }
}
