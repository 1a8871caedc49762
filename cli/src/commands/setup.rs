//! `pdev credential setup`: changes the configuration of another tool, after showing the change, and undoes it.

use std::fs;
use std::io::{BufRead, ErrorKind};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use credentials::endpoint::Cloud;
use credentials::identity::Identity;
use serde_json::json;

use super::login::find_identity;
use crate::context::Context;
use crate::credential::setup::{self, EditResult};
use crate::exit::{self, Failure, Outcome};
use crate::humanize;

const DOCKER_LINK: &str = "docker-credential-pdev";

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev credential setup aws shop-dev       add a profile `shop-dev` to ~/.aws/config
  pdev credential setup docker registry    add the identity's `hosts` to docker's config.json
  pdev credential setup gcloud shop-ops    create `gcloud-shop-ops`, which runs gcloud as shop-ops
  pdev credential setup git forge --undo   remove the configuration

The change is shown first, and written after you confirm it or with `--yes`. For docker, the link to the credential \
helper is created too.")]
pub(crate) struct Arguments {
    /// Tool to configure
    #[arg(value_name = "TOOL", value_parser = ["aws", "docker", "gcloud", "git", "kubectl"])]
    tool: String,
    /// Identity that the tool uses
    #[arg(value_name = "IDENTITY")]
    identity: String,
    /// Remove what an earlier setup wrote
    #[arg(long)]
    undo: bool,
    /// Write without confirmation
    #[arg(short, long)]
    yes: bool,
}

/// A change of one file or command, with the lines that the user sees before it is made.
struct Change {
    title: String,
    lines: Vec<String>,
    action: ChangeAction,
}

enum ChangeAction {
    Write { path: PathBuf, text: String },
    Link { path: PathBuf, program: PathBuf },
    Script { path: PathBuf, text: String },
    Remove(PathBuf),
    Run(Vec<String>),
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let identity = find_identity(&arguments.identity)?;
    let changes = match arguments.tool.as_str() {
        "aws" => vec![aws_change(&identity, arguments.undo)?],
        "git" => vec![git_change(&identity, arguments.undo)?],
        "docker" => docker_changes(&identity, arguments.undo)?,
        "gcloud" => gcloud_change(&identity, arguments.undo)?.into_iter().collect(),
        _ => kubectl_change(&identity, arguments.undo)?.into_iter().collect(),
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
    if !arguments.yes && !confirm(context)? {
        print_result(context, &changes, false, "nothing was written; pass `--yes` to write it")?;
        return Ok(exit::INVALID_INPUT);
    }
    for change in &changes {
        perform(&change.action)?;
    }
    print_result(context, &changes, true, "written; pass `--undo` to remove it again")
}

fn confirm(context: &Context) -> Result<bool, Failure> {
    if !context.terminal.is_interactive || context.json {
        return Ok(false);
    }
    context.terminal.eprint_bytes(b"write this? [y/N] ");
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    Ok(matches!(line.trim(), "y" | "Y" | "yes"))
}

fn print_result(context: &Context, changes: &[Change], written: bool, message: &str) -> Outcome {
    if context.json {
        let view = |change: &Change| json!({ "what": change.title, "lines": change.lines });
        context
            .terminal
            .print_json(&json!({ "written": written, "changes": changes.iter().map(view).collect::<Vec<_>>() }));
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
    Ok(Change { title: path.display().to_string(), lines, action: ChangeAction::Write { path, text } })
}

fn aws_change(identity: &Identity, undo: bool) -> Result<Change, Failure> {
    let (path, program) = (config_path("AWS_CONFIG_FILE", ".aws/config")?, program_path()?);
    file_change(path, |text| match undo {
        true => Ok(setup::without_block(text, &identity.name)),
        false => setup::add_aws_profile(text, &program, &identity.name),
    })
}

fn git_change(identity: &Identity, undo: bool) -> Result<Change, Failure> {
    let (path, program, hosts) = (config_path("GIT_CONFIG_GLOBAL", ".gitconfig")?, program_path()?, hosts(identity)?);
    file_change(path, |text| match undo {
        true => Ok(setup::without_block(text, &identity.name)),
        false => setup::add_git_helpers(text, &program, &identity.name, &hosts),
    })
}

fn hosts(identity: &Identity) -> Result<Vec<String>, Failure> {
    let hosts = identity.list("hosts").unwrap_or_default().to_vec();
    if hosts.iter().all(|host| host.starts_with("*.")) {
        return Err(Failure::invalid_input(format!("`{}` names no server", identity.name))
            .hint("Add `hosts = [\"registry.example.org\"]` to the identity in identities.toml."));
    }
    Ok(hosts)
}

fn docker_changes(identity: &Identity, undo: bool) -> Result<Vec<Change>, Failure> {
    let (folder, hosts) = (config_path("DOCKER_CONFIG", ".docker")?, hosts(identity)?);
    let mut changes = vec![file_change(folder.join("config.json"), |text| match undo {
        true if text.is_empty() => Ok(String::new()),
        true => setup::remove_docker_helpers(text, &hosts),
        false => setup::add_docker_helpers(text, &hosts),
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

/// The folder of this program, else `~/.local/bin`, if it is on the `PATH`.
fn find_bin_folder() -> Result<Option<PathBuf>, Failure> {
    let own_folder = std::env::current_exe()?.parent().map(Path::to_path_buf);
    let folders = path_folders();
    let candidates = own_folder.into_iter().chain(home_folder().ok().map(|home| home.join(".local/bin")));
    Ok(candidates.into_iter().find(|folder| folders.contains(folder)))
}

/// gcloud has no credential helpers, and its token file would contain an unsealed token that is not renewed. It does
/// request tokens from a metadata server, so the created command starts gcloud with one.
fn gcloud_change(identity: &Identity, undo: bool) -> Result<Option<Change>, Failure> {
    let name = format!("gcloud-{}", identity.name);
    if Cloud::of_identity(identity) != Some(Cloud::Google) {
        return Err(Failure::invalid_input(format!("`{}` is not an identity of Google", identity.name))
            .hint("If it provides Google tokens, add `cloud = \"google\"` to it in identities.toml."));
    }
    if !undo && identity.text("email").or(identity.text("service_account")).is_none() {
        return Err(Failure::invalid_input(format!(
            "`{}` names no account, but gcloud requires the name of one",
            identity.name
        ))
        .hint("Add `email = \"you@example.org\"` to it in identities.toml."));
    }
    let folder = find_bin_folder()?.ok_or_else(|| {
        let hint = "Add ~/.local/bin to your PATH, then try again.";
        Failure::failed(format!("no folder on the PATH is suitable for `{name}`")).hint(hint)
    })?;
    let path = folder.join(&name);
    let text = setup::gcloud_script(&program_path()?, &identity.name);
    let before = read_or_empty(&path)?;
    let title = path.display().to_string();
    match (undo, before == text) {
        (false, true) => Ok(None),
        (true, _) if before.is_empty() => Ok(None),
        _ if !before.is_empty() && !setup::is_gcloud_script(&before, &identity.name) => {
            Err(Failure::invalid_input(format!("`{title}` already exists, and pdev did not write it")))
        }
        (true, _) => {
            Ok(Some(Change { title, lines: setup::diff_lines(&before, ""), action: ChangeAction::Remove(path) }))
        }
        (false, _) => Ok(Some(Change {
            title,
            lines: setup::diff_lines(&before, &text),
            action: ChangeAction::Script { path, text },
        })),
    }
}

fn link_change() -> Result<Change, Failure> {
    let program = std::env::current_exe()?;
    let folder = find_bin_folder()?.ok_or_else(|| {
        let hint = format!("Link `{DOCKER_LINK}` to `{}` in a folder of your PATH, then try again.", program.display());
        Failure::failed(format!("no folder on the PATH is suitable for `{DOCKER_LINK}`")).hint(hint)
    })?;
    let path = folder.join(DOCKER_LINK);
    let lines = vec![format!("+link to {}", program.display())];
    Ok(Change { title: path.display().to_string(), lines, action: ChangeAction::Link { path, program } })
}

/// Runs kubectl to change its configuration, which `KUBECONFIG` may spread over several files.
fn kubectl_change(identity: &Identity, undo: bool) -> Result<Option<Change>, Failure> {
    let name = &identity.name;
    let query = format!("jsonpath={{.users[?(@.name==\"{name}\")].user}}");
    let output = kubectl_command(&["config", "view", "-o", &query])
        .output()
        .map_err(|error| Failure::failed(format!("cannot start `kubectl`: {}", humanize::io_error(&error))))?;
    let user = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let is_ours = user.contains(&format!("\"credential\",\"kubectl\",\"{name}\""));
    let arguments: Vec<String> = match (undo, user.is_empty(), is_ours) {
        (true, _, true) => ["config", "delete-user", name].map(str::to_owned).to_vec(),
        (true, ..) | (false, _, true) => return Ok(None),
        (false, false, false) => return Err(Failure::invalid_input(format!("kubectl already has a user `{name}`"))),
        (false, true, _) => {
            let command = format!("--exec-command={}", program_path()?);
            let exec_arguments = ["credential", "kubectl", name.as_str()].map(|word| format!("--exec-arg={word}"));
            let exec_options =
                ["--exec-api-version=client.authentication.k8s.io/v1", "--exec-interactive-mode=IfAvailable"];
            let start = ["config", "set-credentials", name].map(str::to_owned);
            start.into_iter().chain([command]).chain(exec_arguments).chain(exec_options.map(str::to_owned)).collect()
        }
    };
    let lines = vec![format!("kubectl {}", arguments.join(" "))];
    Ok(Some(Change { title: "run".to_owned(), lines, action: ChangeAction::Run(arguments) }))
}

fn kubectl_command(arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    command.args(arguments).stdin(Stdio::null());
    command
}

fn perform(action: &ChangeAction) -> Result<(), Failure> {
    match action {
        ChangeAction::Write { path, text } => {
            // Follow a symbolic link instead of replacing it: dot files are often links into another folder.
            let path = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
            let mode = fs::metadata(&path).map_or(0o600, |file| file.permissions().mode() & 0o777);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            host::files::replace_file(&path, text.as_bytes(), mode).map_err(|error| {
                Failure::failed(format!("cannot write `{}`: {}", path.display(), humanize::io_error(&error)))
            })
        }
        ChangeAction::Script { path, text } => {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            host::files::replace_file(path, text.as_bytes(), 0o755).map_err(|error| {
                Failure::failed(format!("cannot write `{}`: {}", path.display(), humanize::io_error(&error)))
            })
        }
        ChangeAction::Remove(path) => fs::remove_file(path).map_err(|error| {
            Failure::failed(format!("cannot remove `{}`: {}", path.display(), humanize::io_error(&error)))
        }),
        ChangeAction::Link { path, program } => symlink(program, path).map_err(|error| {
            Failure::failed(format!("cannot create `{}`: {}", path.display(), humanize::io_error(&error)))
        }),
        ChangeAction::Run(arguments) => {
            let output = kubectl_command(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).output()?;
            if output.status.success() {
                return Ok(());
            }
            let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(Failure::failed(format!("kubectl failed: {message}")))
        }
    }
}
