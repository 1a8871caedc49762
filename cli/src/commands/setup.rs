//! `pdev credential setup`: configures another tool to get credentials from pdev, or removes this configuration. The
//! user sees every change before it is made.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use credentials::endpoint::Cloud;
use credentials::identity::Identity;
use serde_json::{Value, json};

use super::login::find_identity;
use crate::context::Context;
use crate::credential::setup::{self, EditResult};
use crate::exit::{self, Failure, Outcome};
use crate::humanize;

/// docker runs the program of this name for servers with the helper `pdev`.
const DOCKER_LINK: &str = "docker-credential-pdev";

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev credential setup aws shop-dev       add a profile `shop-dev` to ~/.aws/config
  pdev credential setup docker registry    add the identity's `hosts` to docker's config.json
  pdev credential setup gcloud shop-ops    create `gcloud-shop-ops`, which runs gcloud as shop-ops
  pdev credential setup git forge --undo   remove the configuration

The command shows the changes, and makes them after you confirm, or if you pass `--yes`. For docker it also creates a \
link `docker-credential-pdev` to pdev, because docker finds its helpers by name.

Exit codes: 0 done or nothing to change, 1 failed, 2 refused or not confirmed, 4 no such identity.")]
pub(crate) struct Arguments {
    /// Tool to configure
    #[arg(value_name = "TOOL", value_parser = ["aws", "docker", "gcloud", "git", "kubectl"])]
    tool: String,
    /// Identity that the tool uses
    #[arg(value_name = "IDENTITY")]
    identity: String,
    /// Remove the configuration that an earlier setup added
    #[arg(long)]
    undo: bool,
    /// Make the changes without confirmation
    #[arg(short, long)]
    yes: bool,
}

/// A change, with the lines that the user sees before it is made.
struct Change {
    /// The changed file, or `run` for a command.
    title: String,
    /// The difference, or the command line. Empty if there is nothing to change.
    lines: Vec<String>,
    action: ChangeAction,
}

enum ChangeAction {
    WriteConfiguration { path: PathBuf, text: String },
    WriteScript { path: PathBuf, text: String },
    CreateLink { path: PathBuf, program: PathBuf },
    RemoveFile(PathBuf),
    RunKubectl(Vec<String>),
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let identity = find_identity(&arguments.identity)?;
    let changes = match arguments.tool.as_str() {
        "aws" => vec![aws_change(&identity, arguments.undo)?],
        "git" => vec![git_change(&identity, arguments.undo)?],
        "docker" => docker_changes(&identity, arguments.undo)?,
        "gcloud" => gcloud_change(&identity, arguments.undo)?.into_iter().collect(),
        "kubectl" => kubectl_change(&identity, arguments.undo)?.into_iter().collect(),
        other => return Err(Failure::invalid_input(format!("pdev cannot configure `{other}`"))),
    };
    let changes: Vec<Change> = changes.into_iter().filter(|change| !change.lines.is_empty()).collect();
    if changes.is_empty() {
        return print_result(context, &changes, false, "nothing to change");
    }
    if !context.json {
        for change in &changes {
            context.terminal.print_line(&format!("{}:", change.title));
            change.lines.iter().for_each(|line| context.terminal.print_line(&format!("  {line}")));
        }
    }
    if !arguments.yes && !context.confirm("write this?")? {
        print_result(context, &changes, false, "nothing was changed; pass `--yes` to make these changes")?;
        return Ok(exit::INVALID_INPUT);
    }
    for change in &changes {
        perform(&change.action)?;
    }
    print_result(context, &changes, true, "written; pass `--undo` to remove it again")
}

fn print_result(context: &Context, changes: &[Change], is_written: bool, message: &str) -> Outcome {
    if context.json {
        let view = |change: &Change| json!({ "what": change.title, "lines": change.lines });
        let views: Vec<Value> = changes.iter().map(view).collect();
        context.terminal.print_json(&json!({ "written": is_written, "changes": views }));
    } else {
        context.terminal.eprint_line(message);
    }
    crate::success()
}

fn home_folder() -> Result<PathBuf, Failure> {
    std::env::home_dir()
        .filter(|path| !path.as_os_str().is_empty())
        .ok_or_else(|| Failure::failed("no home folder is set"))
}

fn program_path() -> Result<String, Failure> {
    let path = std::env::current_exe()?;
    path.into_os_string().into_string().map_err(|_| Failure::failed("the path of this program is not UTF-8"))
}

fn config_path(variable: &str, default: &str) -> Result<PathBuf, Failure> {
    match std::env::var_os(variable).filter(|value| !value.is_empty()) {
        Some(path) => Ok(path.into()),
        None => Ok(home_folder()?.join(default)),
    }
}

fn read_or_empty(path: &Path) -> Result<String, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Failure::failed(format!("cannot read `{}`: {}", path.display(), humanize::io_error(&error)))),
    }
}

fn file_change(path: PathBuf, edit: impl FnOnce(&str) -> EditResult) -> Result<Change, Failure> {
    let before = read_or_empty(&path)?;
    let text = edit(&before)
        .map_err(|reason| Failure::invalid_input(format!("`{}` was not changed: {reason}", path.display())))?;
    let lines = setup::diff_lines(&before, &text);
    Ok(Change { title: path.display().to_string(), lines, action: ChangeAction::WriteConfiguration { path, text } })
}

fn aws_change(identity: &Identity, undo: bool) -> Result<Change, Failure> {
    let path = config_path("AWS_CONFIG_FILE", ".aws/config")?;
    let program = program_path()?;
    file_change(path, |text| {
        if undo {
            Ok(setup::remove_block(text, &identity.name))
        } else {
            setup::add_aws_profile(text, &program, &identity.name)
        }
    })
}

fn git_change(identity: &Identity, undo: bool) -> Result<Change, Failure> {
    let path = config_path("GIT_CONFIG_GLOBAL", ".gitconfig")?;
    let program = program_path()?;
    let hosts = configurable_hosts(identity)?;
    file_change(path, |text| {
        if undo {
            Ok(setup::remove_block(text, &identity.name))
        } else {
            setup::add_git_helpers(text, &program, &identity.name, &hosts)
        }
    })
}

/// The `hosts` of an identity. Fails if none can be configured: git and docker have no settings for wildcards.
fn configurable_hosts(identity: &Identity) -> Result<Vec<String>, Failure> {
    let hosts = identity.list("hosts").unwrap_or_default().to_vec();
    if hosts.iter().all(|host| host.starts_with("*.")) {
        let message = format!("`{}` has no server in its `hosts`, apart from wildcards", identity.name);
        return Err(Failure::invalid_input(message)
            .hint("Add `hosts = [\"registry.example.org\"]` to the identity in identities.toml."));
    }
    Ok(hosts)
}

fn docker_changes(identity: &Identity, undo: bool) -> Result<Vec<Change>, Failure> {
    let folder = config_path("DOCKER_CONFIG", ".docker")?;
    let hosts = configurable_hosts(identity)?;
    let mut changes = vec![file_change(folder.join("config.json"), |text| {
        if !undo {
            setup::add_docker_helpers(text, &hosts)
        } else if text.is_empty() {
            // Do not create a file just to remove something from it.
            Ok(String::new())
        } else {
            setup::remove_docker_helpers(text, &hosts)
        }
    })?];
    if !undo && !is_on_path(DOCKER_LINK) {
        changes.push(link_change()?);
    }
    Ok(changes)
}

fn path_folders() -> Vec<PathBuf> {
    std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default()
}

fn is_on_path(name: &str) -> bool {
    path_folders().iter().any(|folder| folder.join(name).exists())
}

/// The folder for a new command: the folder of this program, else `~/.local/bin`. A folder that is not on the `PATH` is
/// skipped.
fn find_bin_folder() -> Result<Option<PathBuf>, Failure> {
    let own_folder = std::env::current_exe()?.parent().map(Path::to_path_buf);
    let folders = path_folders();
    let candidates = own_folder.into_iter().chain(home_folder().ok().map(|home| home.join(".local/bin")));
    Ok(candidates.into_iter().find(|folder| folders.contains(folder)))
}

fn no_bin_folder_failure(name: &str) -> Failure {
    let message = format!("`{name}` would not be found: neither the folder of pdev nor ~/.local/bin is on the PATH");
    Failure::failed(message)
}

/// Creates or removes the command `gcloud-NAME`, which starts gcloud with a metadata server of pdev. gcloud has no
/// credential helpers. It could read a token from a file, but the token in that file would be unsealed and would not be
/// renewed.
fn gcloud_change(identity: &Identity, undo: bool) -> Result<Option<Change>, Failure> {
    let name = format!("gcloud-{}", identity.name);
    if Cloud::of_identity(identity) != Some(Cloud::Google) {
        return Err(Failure::invalid_input(format!("`{}` is not a Google identity", identity.name))
            .hint("If the identity provides Google tokens, add `cloud = \"google\"` to it in identities.toml."));
    }
    if !undo && identity.text("email").or(identity.text("service_account")).is_none() {
        let message = format!("`{}` has no `email`, but gcloud requires the name of an account", identity.name);
        return Err(Failure::invalid_input(message)
            .hint("Add `email = \"you@example.org\"` to the identity in identities.toml."));
    }
    let folder = find_bin_folder()?
        .ok_or_else(|| no_bin_folder_failure(&name).hint("Add ~/.local/bin to your PATH, then try again."))?;
    let path = folder.join(&name);
    let title = path.display().to_string();
    let before = read_or_empty(&path)?;
    let after = if undo { String::new() } else { setup::gcloud_script(&program_path()?, &identity.name) };
    if before == after {
        return Ok(None);
    }
    if !before.is_empty() && !setup::is_gcloud_script(&before, &identity.name) {
        return Err(Failure::invalid_input(format!("`{title}` exists, but pdev did not write it")));
    }
    let lines = setup::diff_lines(&before, &after);
    let action = if undo { ChangeAction::RemoveFile(path) } else { ChangeAction::WriteScript { path, text: after } };
    Ok(Some(Change { title, lines, action }))
}

fn link_change() -> Result<Change, Failure> {
    let program = std::env::current_exe()?;
    let folder = find_bin_folder()?.ok_or_else(|| {
        let target = program.display();
        let hint = format!(
            "In a folder on your PATH, create a link `{DOCKER_LINK}` that points to `{target}`, then try again."
        );
        no_bin_folder_failure(DOCKER_LINK).hint(hint)
    })?;
    let path = folder.join(DOCKER_LINK);
    let lines = vec![format!("+link to {}", program.display())];
    Ok(Change { title: path.display().to_string(), lines, action: ChangeAction::CreateLink { path, program } })
}

/// Runs kubectl to change its configuration, which `KUBECONFIG` may spread over several files.
fn kubectl_change(identity: &Identity, undo: bool) -> Result<Option<Change>, Failure> {
    let name = &identity.name;
    let user = find_kubectl_user(name)?;
    let is_ours = user.as_ref().is_some_and(|user| user["exec"]["args"] == json!(["credential", "kubectl", name]));
    let arguments = match (undo, is_ours) {
        (true, true) => ["config", "delete-user", name].map(str::to_owned).to_vec(),
        (true, false) | (false, true) => return Ok(None),
        (false, false) if user.is_some() => {
            return Err(Failure::invalid_input(format!("kubectl already has a user `{name}`")));
        }
        (false, false) => set_credentials_arguments(name, &program_path()?),
    };
    let lines = vec![format!("kubectl {}", arguments.join(" "))];
    Ok(Some(Change { title: "run".to_owned(), lines, action: ChangeAction::RunKubectl(arguments) }))
}

/// The user of this name in kubectl's merged configuration.
fn find_kubectl_user(name: &str) -> Result<Option<Value>, Failure> {
    // Without `--raw`, kubectl masks the secrets in its configuration.
    let output = run_kubectl(&["config", "view", "-o", "json"].map(str::to_owned))?;
    let configuration: Value = serde_json::from_slice(&output)
        .map_err(|_| Failure::failed("`kubectl config view -o json` printed something else than JSON"))?;
    // `users` is null if there are none.
    let users = configuration["users"].as_array();
    Ok(users.into_iter().flatten().find(|user| user["name"] == name).map(|user| user["user"].clone()))
}

fn set_credentials_arguments(name: &str, program: &str) -> Vec<String> {
    let mut arguments = ["config", "set-credentials", name].map(str::to_owned).to_vec();
    arguments.push(format!("--exec-command={program}"));
    arguments.extend(["credential", "kubectl", name].map(|argument| format!("--exec-arg={argument}")));
    arguments.push("--exec-api-version=client.authentication.k8s.io/v1".to_owned());
    arguments.push("--exec-interactive-mode=IfAvailable".to_owned());
    arguments
}

/// Runs kubectl and returns its standard output.
fn run_kubectl(arguments: &[String]) -> Result<Vec<u8>, Failure> {
    let output = Command::new("kubectl")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Failure::failed(format!("cannot start `kubectl`: {}", humanize::io_error(&error))))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Failure::failed(format!("kubectl failed: {message}")))
}

fn perform(action: &ChangeAction) -> Result<(), Failure> {
    match action {
        ChangeAction::WriteConfiguration { path, text } => {
            // Follow a symbolic link instead of replacing it: dot files are often links into another folder.
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            // The configuration files of these tools may contain passwords, so a new file is private.
            let mode = fs::metadata(&path).map_or(0o600, |file| file.permissions().mode() & 0o777);
            write_file(&path, text, mode)
        }
        ChangeAction::WriteScript { path, text } => write_file(path, text, 0o755),
        ChangeAction::RemoveFile(path) => fs::remove_file(path).map_err(|error| {
            Failure::failed(format!("cannot remove `{}`: {}", path.display(), humanize::io_error(&error)))
        }),
        ChangeAction::CreateLink { path, program } => symlink(program, path).map_err(|error| {
            Failure::failed(format!("cannot create `{}`: {}", path.display(), humanize::io_error(&error)))
        }),
        ChangeAction::RunKubectl(arguments) => run_kubectl(arguments).map(drop),
    }
}

/// Replaces a file atomically. Creates its folder if needed.
fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), Failure> {
    host::files::replace_file(path, text.as_bytes(), mode)
        .map_err(|error| Failure::failed(format!("cannot write `{}`: {}", path.display(), humanize::io_error(&error))))
}
