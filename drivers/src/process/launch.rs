//! Turns a unit into a spawn spec that the keeper can execute: finds the program, builds the environment, and
//! determines the folder and the user.
//!
//! Programs receive the environment of the shell that ran `pdev up`, and the variables of the manifest. If no shell's
//! environment is recorded, they receive [`INHERITED_ENV`] of the agent instead: nothing else that happened to be set
//! where the agent was started.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plan::application::{Argv, Body, ProcessDir, ProcessSpec, Unit};
use strings::glob;

use super::record::create_private_folder;
use super::wire::{Account, SpawnSpec};
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, Scope};

/// Variables that are inherited from the agent, by reason: finding programs and the user's own files (`PATH`, `HOME`, `USER`, `LOGNAME`,
/// `SHELL`, `TMPDIR`); the user's language and time zone (`LANG`, `LC_*`, `TZ`); network access inside a company
/// (proxies, certificates); tool chains in a custom location. `TERM` is not inherited, because the output goes to a
/// log.
const INHERITED_ENV: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "LANG",
    "LC_*",
    "TZ",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "JAVA_HOME",
    "GOPATH",
    "GOROOT",
    "CARGO_HOME",
    "RUSTUP_HOME",
    "NVM_DIR",
    "PYENV_ROOT",
    "RBENV_ROOT",
    "ASDF_DIR",
    "ASDF_DATA_DIR",
    "MISE_DATA_DIR",
    "VOLTA_HOME",
    "PNPM_HOME",
    "BUN_INSTALL",
    "DOTNET_ROOT",
];

/// Data folders of programs with their own user, for the case that pdev runs as root and such a user cannot enter
/// root's data folder.
const SHARED_DATA_FOLDER: &str = "/var/lib/pdev/previews";

/// Filters the agent's environment down to the variables that programs may see.
pub(crate) fn filter_inherited_env(
    variables: impl IntoIterator<Item = (OsString, OsString)>,
) -> BTreeMap<String, String> {
    let is_inherited = |name: &str| {
        INHERITED_ENV.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == *pattern,
        })
    };
    variables
        .into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| is_inherited(name))
        .collect()
}

pub(crate) struct Launcher<'a> {
    pub locations: &'a Locations,
    /// Of the shell that ran `pdev up`, else of the agent.
    pub inherited_env: BTreeMap<String, String>,
    pub unit: &'a Unit,
    pub spec: &'a ProcessSpec,
    pub secrets_folder: Option<PathBuf>,
    pub preview_id: &'a str,
    /// The unit's user, unless a command requests another.
    pub user: Option<String>,
}

impl<'a> Launcher<'a> {
    pub(crate) fn new(scope: &'a Scope, unit: &'a Unit, agent_env: &BTreeMap<String, String>) -> Result<Self, Problem> {
        let Body::Process(spec) = &unit.body else {
            let message = format!("`{}` is a container, not a process", unit.name);
            return Err(Problem::new(ProblemKind::Internal, message));
        };
        let secrets = scope.secrets.folder(&unit.name);
        let shell = scope.shell_environment.as_ref().map(|shell| shell.variables_for(unit.declares_identity));
        Ok(Self {
            locations: &scope.locations,
            inherited_env: shell.unwrap_or_else(|| agent_env.clone()),
            unit,
            spec,
            secrets_folder: secrets,
            preview_id: &scope.preview.id.0,
            user: spec.user.clone(),
        })
    }

    pub(crate) fn build_spawn_spec(&self, argv: &Argv, dir: &Path) -> Result<SpawnSpec, Problem> {
        let account = self.resolve_account()?;
        let env = self.build_environment(account.as_ref());
        let (name, arguments) = match argv {
            Argv::List(list) => match list.split_first() {
                Some((name, arguments)) => (name.clone(), arguments.to_vec()),
                None => {
                    let message = format!("the command of `{}` is empty", self.unit.name);
                    return Err(Problem::new(ProblemKind::Refused, message));
                }
            },
            Argv::Shell(line) => ("/bin/sh".to_owned(), vec!["-c".to_owned(), line.clone()]),
        };
        let program = self.find_program(&name, &env, dir)?;
        self.check_executable_format(&program)?;
        let account = account.map(|user| user.account);
        Ok(SpawnSpec { program: program.into(), arguments, env, dir: dir.into(), account, terminal: false })
    }

    pub(crate) fn data_folder(&self) -> PathBuf {
        self.locations.data.join(&self.unit.name)
    }

    /// The folder in which the unit's command runs.
    pub(crate) fn resolve_working_folder(&self) -> Result<PathBuf, Problem> {
        let ProcessDir::Project(relative) = &self.spec.dir else { return self.create_data_folder() };
        let folder = self.locations.project.join(relative);
        match fs::metadata(&folder) {
            Ok(found) if found.is_dir() => Ok(folder),
            Ok(_) => Err(Problem::new(ProblemKind::Refused, format!("`{}` is not a folder", folder.display()))),
            Err(error) => {
                let problem = Problem::io(format!("cannot run `{}` in `{relative}`", self.unit.name), &error);
                Err(problem.hint(format!("Create `{}` or correct `dir`.", folder.display())))
            }
        }
    }

    /// Creates the data folder and makes the unit's user its owner. Other users cannot enter root's own folders
    /// (`/root`). In that case, the data is in [`SHARED_DATA_FOLDER`], with a symbolic link at the usual path.
    pub(crate) fn create_data_folder(&self) -> Result<PathBuf, Problem> {
        let folder = self.data_folder();
        let create_problem = |folder: &Path, error: &std::io::Error| {
            Problem::io(format!("cannot create the data folder `{}`", folder.display()), error)
        };
        // A link from an earlier creation: the data is in the shared folder.
        if let Ok(target) = fs::read_link(&folder) {
            create_private_folder(&target).map_err(|error| create_problem(&target, &error))?;
            return Ok(target);
        }
        create_private_folder(&self.locations.data).map_err(|error| create_problem(&folder, &error))?;
        let Some(user) = self.resolve_account()? else {
            create_private_folder(&folder).map_err(|error| create_problem(&folder, &error))?;
            return Ok(folder);
        };
        // Other users may pass through this folder but not list it, so that the unit's user reaches its own data.
        fs::set_permissions(&self.locations.data, fs::Permissions::from_mode(0o711))
            .map_err(|error| create_problem(&folder, &error))?;
        if !folder.exists() && find_blocked_ancestor(&folder, &user).is_some() {
            let target = Path::new(SHARED_DATA_FOLDER).join(self.preview_id).join(&self.unit.name);
            let result = create_traversable_folder(&target).and_then(|()| std::os::unix::fs::symlink(&target, &folder));
            result.map_err(|error| create_problem(&target, &error))?;
            chown_folder(&target, &user)?;
            return Ok(target);
        }
        create_private_folder(&folder).map_err(|error| create_problem(&folder, &error))?;
        chown_folder(&folder, &user)?;
        Ok(folder)
    }

    pub(crate) fn resolve_account(&self) -> Result<Option<UserAccount>, Problem> {
        match &self.user {
            Some(name) if rustix::process::geteuid().is_root() => find_user(name).map(Some),
            // Only root can change the user. Programs that refuse to run as root accept any other user.
            _ => Ok(None),
        }
    }

    pub(crate) fn build_environment(&self, account: Option<&UserAccount>) -> BTreeMap<String, String> {
        let mut env = self.inherited_env.clone();
        // A module's own commands, such as its initialisation, find the same programs as the unit.
        let folders = self.search_folders();
        if !folders.is_empty() {
            let path = env.get("PATH").map(String::as_str).unwrap_or_default();
            let of_user = std::env::split_paths(path).filter(|folder| !folder.as_os_str().is_empty());
            // The folders of a certain version come first, because the user's path may lead to another one.
            let is_exact = self.spec.version.as_ref().is_some_and(|version| !version.accept.is_empty());
            let all: Vec<PathBuf> =
                if is_exact { folders.into_iter().chain(of_user).collect() } else { of_user.chain(folders).collect() };
            if let Some(joined) = std::env::join_paths(all).ok().and_then(|joined| joined.into_string().ok()) {
                env.insert("PATH".to_owned(), joined);
            }
        }
        // Without this, Python buffers its output and the log stays empty until the buffer is full.
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        if let Some(user) = account {
            // Root's home is closed to the user, so programs get the user's own home.
            env.insert("HOME".to_owned(), user.home.clone());
            env.insert("USER".to_owned(), user.name.clone());
            env.insert("LOGNAME".to_owned(), user.name.clone());
        }
        // Programs that honour `HOST` then listen on the loopback interface only.
        env.insert("HOST".to_owned(), "127.0.0.1".to_owned());
        if let Some(port) = self.unit.ports.get("main").or_else(|| self.unit.ports.values().next()) {
            env.insert("PORT".to_owned(), port.listen_port.to_string());
        }
        env.insert("PDEV_PREVIEW".to_owned(), self.preview_id.to_owned());
        env.insert("PDEV_UNIT".to_owned(), self.unit.name.clone());
        if let Some(folder) = self.secrets_folder.as_ref().and_then(|folder| folder.to_str()) {
            env.insert("PDEV_SECRETS".to_owned(), folder.to_owned());
        }
        // Last, so that the manifest can override every variable above.
        env.extend(self.unit.env.iter().map(|(name, value)| (name.clone(), value.value.clone())));
        env
    }

    fn search_folders(&self) -> Vec<PathBuf> {
        self.spec.search_paths.iter().flat_map(|pattern| expand_version_glob(pattern)).collect()
    }

    /// Finds a program like the shell: a name with a slash is a path, any other name is searched on the `PATH`.
    pub(crate) fn find_program(
        &self,
        name: &str,
        env: &BTreeMap<String, String>,
        dir: &Path,
    ) -> Result<PathBuf, Problem> {
        if name.contains('/') {
            let path = dir.join(name);
            return match fs::metadata(&path) {
                Ok(found) if found.is_dir() => Err(self.denied_problem(&format!("`{name}` is a folder"))),
                Ok(found) if found.permissions().mode() & 0o111 == 0 => Err(self
                    .denied_problem(&format!("`{name}` is not executable"))
                    .hint(format!("Run `chmod +x {}`.", path.display()))),
                Ok(_) => Ok(path),
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                    Err(Problem::io(format!("cannot start `{}`: `{name}`", self.unit.name), &error))
                }
                Err(_) => Err(self.program_not_found_problem(name, &[dir.to_owned()])),
            };
        }
        let path = env.get("PATH").cloned().unwrap_or_default();
        // Skip relative folders: they would resolve against the unit's folder, which may contain any file. The manifest
        // may have replaced the variable with which the search folders were merged.
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        let missing: Vec<PathBuf> =
            self.search_folders().into_iter().filter(|folder| !folders.contains(folder)).collect();
        folders.extend(missing);
        let found = folders.iter().map(|folder| folder.join(name)).find(|path| is_executable(path));
        found.ok_or_else(|| self.program_not_found_problem(name, &folders))
    }

    /// Detects programs for another platform. If the kernel cannot execute a file, the C library passes it to
    /// `/bin/sh`, whose error message about a foreign binary is no help. Text without a `#!` line runs that way on
    /// purpose.
    fn check_executable_format(&self, program: &Path) -> Result<(), Problem> {
        let is_foreign = match read_header(program) {
            Some(header) if header.starts_with(b"\x7fELF") => {
                let own_header = read_header(Path::new("/proc/self/exe")).unwrap_or_default();
                own_header.len() > 20 && elf_machine(&header) != elf_machine(&own_header) && !has_emulation()
            }
            Some(header) if header.starts_with(b"#!") => false,
            Some(header) => cfg!(target_os = "linux") && !has_emulation() && header.contains(&0),
            None => false,
        };
        if !is_foreign {
            return Ok(());
        }
        let message = format!(
            "cannot start `{}`: `{}` is not a program for this machine (exec format error)",
            self.unit.name,
            program.display()
        );
        Err(Problem::new(ProblemKind::ExecFormat, message).hint("Build it for this machine's processor and system."))
    }

    fn denied_problem(&self, reason: &str) -> Problem {
        Problem::new(ProblemKind::PermissionDenied, format!("cannot start `{}`: {reason}", self.unit.name))
    }

    fn program_not_found_problem(&self, name: &str, folders: &[PathBuf]) -> Problem {
        let mut searched: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        searched.extend(self.spec.search_paths.iter().filter(|pattern| pattern.contains('*')).cloned());
        searched.dedup();
        let message = format!(
            "cannot start `{}`: program `{name}` not found (looked in {})",
            self.unit.name,
            if searched.is_empty() { "no folder: `PATH` is empty".to_owned() } else { searched.join(", ") }
        );
        let problem = Problem::new(ProblemKind::ProgramNotFound, message);
        match &self.spec.install_hint {
            Some(hint) => problem.hint(format!("Install {hint}.")),
            None => problem.hint(format!("Install `{name}` or correct the command.")),
        }
    }
}

fn read_header(program: &Path) -> Option<Vec<u8>> {
    use std::io::Read;
    let mut header = Vec::new();
    fs::File::open(program).ok()?.take(512).read_to_end(&mut header).ok()?;
    Some(header)
}

/// Field `e_machine` of an ELF header, in the file's own byte order; it is only compared for equality.
fn elf_machine(header: &[u8]) -> Option<&[u8]> {
    header.get(18..20)
}

/// With binfmt_misc entries, the kernel may be able to run a foreign binary.
fn has_emulation() -> bool {
    // A mounted binfmt_misc without any format contains the two files `register` and `status`.
    fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| entries.count() > 2)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Folders that match a pattern such as `/usr/lib/postgresql/*/bin`. If the star matches versions, the highest is
/// first.
pub(crate) fn expand_version_glob(pattern: &str) -> Vec<PathBuf> {
    let mut folders = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        if !part.contains('*') {
            folders = folders.into_iter().map(|folder| folder.join(part)).filter(|folder| folder.exists()).collect();
            continue;
        }
        folders = folders.iter().flat_map(|folder| matching_folders(folder, part)).collect();
    }
    folders
}

fn matching_folders(folder: &Path, pattern: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| glob::matches_name(pattern, name))
        .collect();
    names.sort_by_key(|name| std::cmp::Reverse(version_key(name)));
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Sort key that compares numbers as numbers, so that 16 is newer than 9.6.
fn version_key(name: &str) -> Vec<(u64, String)> {
    let parts = name.split(|character: char| !character.is_ascii_alphanumeric());
    parts.map(|part| part.parse().map_or_else(|_| (0, part.to_owned()), |number| (number, String::new()))).collect()
}

/// A user of this machine.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct UserAccount {
    pub name: String,
    pub home: String,
    pub account: Account,
}

/// Finds the module's user, or `nobody` if there is none: the program only needs a user that is not root.
fn find_user(name: &str) -> Result<UserAccount, Problem> {
    let text = fs::read_to_string("/etc/passwd").map_err(|error| Problem::io("cannot read `/etc/passwd`", &error))?;
    let found = [name, "nobody"]
        .into_iter()
        .find_map(|user_name| text.lines().find_map(|line| parse_passwd_line(line, user_name)));
    found.ok_or_else(|| {
        Problem::new(ProblemKind::NotFound, format!("this machine has neither the user `{name}` nor the user `nobody`"))
            .hint("Run pdev as an ordinary user instead of root.")
    })
}

fn parse_passwd_line(line: &str, user_name: &str) -> Option<UserAccount> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| *name == user_name)?;
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = fields.nth(1)?.to_owned();
    Some(UserAccount { name: name.to_owned(), home, account: Account { uid, gid } })
}

/// Makes the user the folder's owner and checks that the user can reach the folder.
pub(crate) fn chown_folder(folder: &Path, user: &UserAccount) -> Result<(), Problem> {
    let Account { uid, gid } = user.account;
    std::os::unix::fs::chown(folder, Some(uid), Some(gid)).map_err(|error| {
        Problem::io(format!("cannot change the owner of `{}` to `{}`", folder.display(), user.name), &error)
    })?;
    let Some(ancestor) = find_blocked_ancestor(folder, user) else { return Ok(()) };
    let message = format!(
        "user `{}` cannot enter `{}`, so it cannot reach `{}`",
        user.name,
        ancestor.display(),
        folder.display()
    );
    Err(Problem::new(ProblemKind::PermissionDenied, message)
        .hint("Run `chmod o+x` on that folder, or run pdev as an ordinary user."))
}

/// The nearest parent folder that the user cannot enter.
fn find_blocked_ancestor<'a>(folder: &'a Path, user: &UserAccount) -> Option<&'a Path> {
    let Account { uid, gid } = user.account;
    folder.ancestors().skip(1).find(|ancestor| {
        let Ok(found) = fs::metadata(ancestor) else { return false };
        // The kernel checks exactly one of owner, group and others, in this order.
        let bit = match () {
            () if found.uid() == uid => 0o100,
            () if found.gid() == gid => 0o010,
            () => 0o001,
        };
        found.mode() & bit == 0
    })
}

/// Creates a folder whose parents any user may enter, for data that belongs to a service's own user.
fn create_traversable_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_sort_as_numbers() {
        let folder = tempfile::tempdir().expect("temporary folder");
        for version in ["9.6", "16", "15.4", "15"] {
            fs::create_dir_all(folder.path().join(version).join("bin")).expect("folder made");
        }
        let found = expand_version_glob(&format!("{}/*/bin", folder.path().display()));
        let names: Vec<_> = found.iter().map(|path| path.parent().and_then(Path::file_name).expect("named")).collect();
        assert_eq!(names, ["16", "15.4", "15", "9.6"]);
    }

    #[test]
    fn shell_credentials_are_not_inherited() {
        let variables =
            [("PATH", "/bin"), ("LC_ALL", "C"), ("AWS_SECRET_ACCESS_KEY", "x"), ("GITHUB_TOKEN", "x"), ("TERM", "x")];
        let inherited = filter_inherited_env(variables.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(inherited.keys().collect::<Vec<_>>(), ["LC_ALL", "PATH"]);
    }

    #[test]
    fn users_are_read_from_passwd() {
        let account_entry =
            parse_passwd_line("postgres:x:115:122:PostgreSQL,,,:/var/lib/postgresql:/bin/bash", "postgres");
        let account = Account { uid: 115, gid: 122 };
        let expected = UserAccount { name: "postgres".to_owned(), home: "/var/lib/postgresql".to_owned(), account };
        assert_eq!(account_entry, Some(expected));
        assert_eq!(parse_passwd_line("postgres2:x:1:1::/:/bin/sh", "postgres"), None);
    }
}
