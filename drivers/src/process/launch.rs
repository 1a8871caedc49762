//! From a unit to something the keeper can execute: program found, environment put together, folder and user decided.
//!
//! Programs get what the manifest gives them plus [`INHERITED`], nothing else of pdev's own environment: cloud
//! credentials and tokens of the developer's shell must not leak into services unseen, and a preview must not behave
//! differently because the agent was started from another terminal.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use plan::application::{Argv, Body, ProcessDir, ProcessSpec, Unit};

use super::record::create_private_folder;
use super::wire::{Account, SpawnSpec};
use crate::driver::{Locations, Problem, ProblemKind, Scope};

/// Variables passed on, by reason: finding programs and the user's own files (`PATH`, `HOME`, `USER`, `LOGNAME`,
/// `SHELL`, `TMPDIR`); text and time as the user reads them (`LANG`, `LC_*`, `TZ`); reaching the network from inside a
/// company (proxies, certificates); where tool chains live when not at their default. `TERM` is not: output goes to a log.
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

/// Where data of programs with a user of their own lies when pdev is root and its own data folder is closed to them.
const SHARED_DATA_FOLDER: &str = "/var/lib/pdev/previews";

/// The part of the agent's environment that programs may see.
pub(crate) fn filter_inherited_env(all: impl IntoIterator<Item = (OsString, OsString)>) -> BTreeMap<String, String> {
    let named = |name: &str| {
        INHERITED_ENV.iter().any(|known| match known.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == *known,
        })
    };
    all.into_iter()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| named(name))
        .collect()
}

pub(crate) struct Launcher<'a> {
    pub locations: &'a Locations,
    pub inherited_env: &'a BTreeMap<String, String>,
    pub unit: &'a Unit,
    pub spec: &'a ProcessSpec,
    pub secrets_folder: Option<PathBuf>,
    pub preview_id: &'a str,
    /// The unit's, unless a command asks for another.
    pub user: Option<String>,
}

impl<'a> Launcher<'a> {
    pub(crate) fn new(
        scope: &'a Scope,
        unit: &'a Unit,
        inherited: &'a BTreeMap<String, String>,
    ) -> Result<Self, Problem> {
        let Body::Process(spec) = &unit.body else {
            let message = format!("`{}` is a container, not a process", unit.name);
            return Err(Problem::new(ProblemKind::Internal, message));
        };
        let secrets = scope.secrets.folder(&unit.name);
        Ok(Self {
            locations: &scope.locations,
            inherited_env: inherited,
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
                Some((name, rest)) => (name.clone(), rest.to_vec()),
                None => {
                    let message = format!("the command of `{}` is empty", self.unit.name);
                    return Err(Problem::new(ProblemKind::Refused, message));
                }
            },
            Argv::Shell(line) => ("/bin/sh".to_owned(), vec!["-c".to_owned(), line.clone()]),
        };
        let program = self.find_program(&name, &env, dir)?;
        self.check_executable_format(&program)?;
        let account = account.map(|known| known.account);
        Ok(SpawnSpec { program: program.into(), arguments, env, dir: dir.into(), account, terminal: false })
    }

    pub(crate) fn data_folder(&self) -> PathBuf {
        self.locations.data.join(&self.unit.name)
    }

    /// Where the unit's command runs.
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

    /// Makes the data folder and gives it to the unit's user. Root's own folders are closed to other users
    /// (`/root`): then it lies in [`SHARED_DATA`], with a link where it is looked for.
    pub(crate) fn create_data_folder(&self) -> Result<PathBuf, Problem> {
        let folder = self.data_folder();
        let made = |folder: &Path, error: &std::io::Error| {
            Problem::io(format!("cannot make the data folder `{}`", folder.display()), error)
        };
        if let Ok(real) = fs::read_link(&folder) {
            create_private_folder(&real).map_err(|error| made(&real, &error))?;
            return Ok(real);
        }
        create_private_folder(&self.locations.data).map_err(|error| made(&folder, &error))?;
        let Some(known) = self.resolve_account()? else {
            create_private_folder(&folder).map_err(|error| made(&folder, &error))?;
            return Ok(folder);
        };
        fs::set_permissions(&self.locations.data, fs::Permissions::from_mode(0o711))
            .map_err(|error| made(&folder, &error))?;
        if !folder.exists() && find_blocked_ancestor(&folder, &known).is_some() {
            let real = Path::new(SHARED_DATA_FOLDER).join(self.preview_id).join(&self.unit.name);
            let linked = create_traversable_folder(&real).and_then(|()| std::os::unix::fs::symlink(&real, &folder));
            linked.map_err(|error| made(&real, &error))?;
            chown_folder(&real, &known)?;
            return Ok(real);
        }
        create_private_folder(&folder).map_err(|error| made(&folder, &error))?;
        chown_folder(&folder, &known)?;
        Ok(folder)
    }

    pub(crate) fn resolve_account(&self) -> Result<Option<UserAccount>, Problem> {
        match &self.user {
            Some(name) if rustix::process::geteuid().is_root() => find_user(name).map(Some),
            // Who is not root cannot change the user; programs that refuse root are content with anybody else.
            _ => Ok(None),
        }
    }

    fn build_environment(&self, account: Option<&UserAccount>) -> BTreeMap<String, String> {
        let mut env = self.inherited_env.clone();
        // Without it Python keeps what it prints to itself until the buffer is full.
        env.insert("PYTHONUNBUFFERED".to_owned(), "1".to_owned());
        if let Some(known) = account {
            env.insert("HOME".to_owned(), known.home.clone());
            env.insert("USER".to_owned(), known.name.clone());
            env.insert("LOGNAME".to_owned(), known.name.clone());
        }
        env.insert("HOST".to_owned(), "127.0.0.1".to_owned());
        if let Some(port) = self.unit.ports.get("main").or_else(|| self.unit.ports.values().next()) {
            env.insert("PORT".to_owned(), port.listen_port.to_string());
        }
        env.insert("PDEV_PREVIEW".to_owned(), self.preview_id.to_owned());
        env.insert("PDEV_UNIT".to_owned(), self.unit.name.clone());
        if let Some(folder) = self.secrets_folder.as_ref().and_then(|folder| folder.to_str()) {
            env.insert("PDEV_SECRETS".to_owned(), folder.to_owned());
        }
        env.extend(self.unit.env.iter().map(|(name, value)| (name.clone(), value.value.clone())));
        env
    }

    /// As the shell would: a name with a slash is a path, any other is looked up.
    fn find_program(&self, name: &str, env: &BTreeMap<String, String>, dir: &Path) -> Result<PathBuf, Problem> {
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
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).filter(|folder| folder.is_absolute()).collect();
        folders.extend(self.spec.search_paths.iter().flat_map(|pattern| expand_version_glob(pattern)));
        let found = folders.iter().map(|folder| folder.join(name)).find(|path| is_executable(path));
        found.ok_or_else(|| self.program_not_found_problem(name, &folders))
    }

    /// The C library hands what the kernel cannot execute to `/bin/sh`, whose complaint about a foreign binary helps
    /// nobody. Text without a first line `#!` does run that way, as people expect.
    fn check_executable_format(&self, program: &Path) -> Result<(), Problem> {
        let foreign = match read_header(program) {
            Some(start) if start.starts_with(b"\x7fELF") => {
                let own = read_header(Path::new("/proc/self/exe")).unwrap_or_default();
                own.len() > 20 && elf_machine(&start) != elf_machine(&own) && !has_emulation()
            }
            Some(start) if start.starts_with(b"#!") => false,
            Some(start) => cfg!(target_os = "linux") && !has_emulation() && start.contains(&0),
            None => false,
        };
        if !foreign {
            return Ok(());
        }
        let message = format!(
            "cannot start `{}`: `{}` is not a program for this machine (exec format error)",
            self.unit.name,
            program.display()
        );
        Err(Problem::new(ProblemKind::ExecFormat, message).hint("Build it for this machine's processor and system."))
    }

    fn denied_problem(&self, what: &str) -> Problem {
        Problem::new(ProblemKind::PermissionDenied, format!("cannot start `{}`: {what}", self.unit.name))
    }

    fn program_not_found_problem(&self, name: &str, folders: &[PathBuf]) -> Problem {
        let mut looked: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        looked.extend(self.spec.search_paths.iter().filter(|pattern| pattern.contains('*')).cloned());
        looked.dedup();
        let message = format!(
            "cannot start `{}`: program `{name}` not found (looked in {})",
            self.unit.name,
            if looked.is_empty() { "no folder: `PATH` is empty".to_owned() } else { looked.join(", ") }
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
    let mut start = Vec::new();
    fs::File::open(program).ok()?.take(512).read_to_end(&mut start).ok()?;
    Some(start)
}

/// Field `e_machine` of an ELF header, in the file's own byte order: only compared for being the same.
fn elf_machine(start: &[u8]) -> Option<&[u8]> {
    start.get(18..20)
}

/// With binfmt_misc entries the kernel may well run what looks foreign.
fn has_emulation() -> bool {
    fs::read_dir("/proc/sys/fs/binfmt_misc").is_ok_and(|entries| entries.count() > 2)
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Folders that match `/usr/lib/postgresql/*/bin`; where the star stands for versions, the highest first.
fn expand_version_glob(pattern: &str) -> Vec<PathBuf> {
    let mut found = vec![PathBuf::from("/")];
    for part in pattern.split('/').filter(|part| !part.is_empty()) {
        let Some((start, end)) = part.split_once('*') else {
            found = found.into_iter().map(|folder| folder.join(part)).filter(|folder| folder.exists()).collect();
            continue;
        };
        found = found.iter().flat_map(|folder| matching_folders(folder, start, end)).collect();
    }
    found
}

fn matching_folders(folder: &Path, start: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end))
        .collect();
    names.sort_by_key(|name| std::cmp::Reverse(version_key(name)));
    names.into_iter().map(|name| folder.join(name)).collect()
}

/// Numbers compare as numbers, so that 16 is newer than 9.6.
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

/// The module's user, else `nobody`: what matters to the program is only not to be root.
fn find_user(name: &str) -> Result<UserAccount, Problem> {
    let text = fs::read_to_string("/etc/passwd").map_err(|error| Problem::io("cannot read `/etc/passwd`", &error))?;
    let found =
        [name, "nobody"].into_iter().find_map(|wanted| text.lines().find_map(|line| parse_passwd_line(line, wanted)));
    found.ok_or_else(|| {
        Problem::new(ProblemKind::NotFound, format!("no user `{name}` on this machine, and no `nobody` either"))
            .hint("Run pdev as an ordinary user instead of root.")
    })
}

fn parse_passwd_line(line: &str, wanted: &str) -> Option<UserAccount> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| *name == wanted)?;
    let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
    let home = fields.nth(1)?.to_owned();
    Some(UserAccount { name: name.to_owned(), home, account: Account { uid, gid } })
}

/// Makes the folder the user's own and checks that the user can get there at all.
pub(crate) fn chown_folder(folder: &Path, known: &UserAccount) -> Result<(), Problem> {
    let Account { uid, gid } = known.account;
    std::os::unix::fs::chown(folder, Some(uid), Some(gid))
        .map_err(|error| Problem::io(format!("cannot give `{}` to `{}`", folder.display(), known.name), &error))?;
    let Some(above) = find_blocked_ancestor(folder, known) else { return Ok(()) };
    let message =
        format!("user `{}` cannot enter `{}`, and so not reach `{}`", known.name, above.display(), folder.display());
    Err(Problem::new(ProblemKind::PermissionDenied, message)
        .hint("Let other users pass through that folder (`chmod o+x`), or run pdev as an ordinary user."))
}

/// The nearest folder above that the user may not enter.
fn find_blocked_ancestor<'a>(folder: &'a Path, known: &UserAccount) -> Option<&'a Path> {
    let Account { uid, gid } = known.account;
    folder.ancestors().skip(1).find(|above| {
        let Ok(found) = fs::metadata(above) else { return false };
        let bit = match () {
            () if found.uid() == uid => 0o100,
            () if found.gid() == gid => 0o010,
            () => 0o001,
        };
        found.mode() & bit == 0
    })
}

/// Folders that anybody may pass through, for data that belongs to a user of its own.
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
        let all =
            [("PATH", "/bin"), ("LC_ALL", "C"), ("AWS_SECRET_ACCESS_KEY", "x"), ("GITHUB_TOKEN", "x"), ("TERM", "x")];
        let seen = filter_inherited_env(all.map(|(name, value)| (name.into(), value.into())));
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["LC_ALL", "PATH"]);
    }

    #[test]
    fn users_are_read_from_passwd() {
        let known = parse_passwd_line("postgres:x:115:122:PostgreSQL,,,:/var/lib/postgresql:/bin/bash", "postgres");
        let account = Account { uid: 115, gid: 122 };
        let expected = UserAccount { name: "postgres".to_owned(), home: "/var/lib/postgresql".to_owned(), account };
        assert_eq!(known, Some(expected));
        assert_eq!(parse_passwd_line("postgres2:x:1:1::/:/bin/sh", "postgres"), None);
    }
}
