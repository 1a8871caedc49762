//! Preparation before a unit can start: its build command if inputs changed, small files, first-time initialisation.
//! Each step records its result, so that a second `up` does nothing.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use plan::application::{Argv, ProcessSpec, Unit};
use plan::observed::Images;
use sha2::{Digest, Sha256};
use strings::to_hex;

use super::fingerprint::Fingerprint;
use super::launch::{Launcher, chown_folder};
use super::record::{Durable, write_atomically};
use super::{ProcessDriver, run_blocking};
use crate::driver::StepOutcome;
use crate::problem::{Problem, ProblemKind};
use crate::scope::{Locations, ProgressLine, Scope};

/// Maximum lines of a failed command's output in the error.
const OUTPUT_LINES_MAX: usize = 20;
/// Marker file in the data folder: initialisation succeeded with the arguments whose digest it contains.
const INIT_MARKER_FILE: &str = ".pdev-init";

/// Locks for running builds, by build key: if three services share one `npm install`, it runs once.
#[derive(Default)]
pub(super) struct BuildLocks(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl BuildLocks {
    fn lock_for(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut builds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Only the map still refers to a lock that no build uses; drop those to bound the map.
        builds.retain(|_, lock| Arc::strong_count(lock) > 1);
        builds.entry(key.to_owned()).or_default().clone()
    }
}

impl ProcessDriver {
    pub(super) async fn inspect_builds(&self, scope: &Scope) -> Result<Images, Problem> {
        let mut images = Images::default();
        for unit in scope.application.units.values() {
            let Some(build) = Build::from_unit(scope, unit) else { continue };
            match run_blocking(move || build.check_current()).await? {
                Ok(identity) => images.current.insert(unit.name.clone(), identity),
                Err(reason) => images.stale.insert(unit.name.clone(), reason),
            };
        }
        Ok(images)
    }

    /// Runs the unit's build command, unless a concurrent call has built the same inputs in the meantime.
    pub(super) async fn run_build(&self, scope: &Scope, unit: &Unit) -> Result<StepOutcome, Problem> {
        let Some(build) = Build::from_unit(scope, unit) else { return Ok(StepOutcome::default()) };
        let build_lock = self.build_locks.lock_for(&build.key);
        let _build_guard = build_lock.lock().await;
        let current_check = run_blocking({
            let build = build.clone();
            move || build.check_current()
        });
        if let Ok(identity) = current_check.await? {
            return Ok(StepOutcome { image: Some(identity), ..StepOutcome::default() });
        }
        // Computed before the build: an input that changes during the build makes the result stale again.
        let fingerprint = run_blocking({
            let build = build.clone();
            move || build.compute_fingerprint()
        });
        let fingerprint = fingerprint.await?;
        let launcher = Launcher::new(scope, unit, &self.inherited_env)?;
        let spawn = launcher.build_spawn_spec(&build.argv, &launcher.resolve_working_folder()?)?;
        self.run_or_fail(scope, unit, spawn, "build command").await?;
        let identity = build.identity(&fingerprint);
        run_blocking(move || fingerprint.write(&build.marker)).await?;
        Ok(StepOutcome { image: Some(identity), ..StepOutcome::default() })
    }

    /// Writes the unit's files, then initialises its data folder once.
    pub(super) async fn initialise_data_folder(&self, scope: &Scope, launcher: &Launcher<'_>) -> Result<(), Problem> {
        if launcher.spec.init.is_empty() && launcher.spec.files.is_empty() {
            return Ok(());
        }
        let folder = launcher.create_data_folder()?;
        write_files(launcher, &folder)?;
        let arguments = to_hex(Sha256::digest(format!("{:?}", launcher.spec.init)));
        let marker = folder.join(INIT_MARKER_FILE);
        if launcher.spec.init.is_empty() || std::fs::read_to_string(&marker).is_ok_and(|text| text == arguments) {
            return Ok(());
        }
        for argv in &launcher.spec.init {
            let spawn = launcher.build_spawn_spec(argv, &folder)?;
            self.run_or_fail(scope, launcher.unit, spawn, "initialisation").await?;
        }
        // Written last and durably, so that an interrupted initialisation runs again.
        write_atomically(&marker, arguments.as_bytes(), Durable::Yes, 0o600)
            .map_err(|error| Problem::io(format!("cannot write `{}`", marker.display()), &error))
    }

    async fn run_or_fail(
        &self,
        scope: &Scope,
        unit: &Unit,
        spawn: super::wire::SpawnSpec,
        description: &str,
    ) -> Result<(), Problem> {
        let mut last_lines = VecDeque::with_capacity(OUTPUT_LINES_MAX);
        // The message omits the arguments, which may contain a resolved secret.
        let program = Path::new(&spawn.program).display().to_string();
        let code = self
            .run_to_end(&scope.locations, &unit.name, spawn, format!("{description} of {}", unit.name), |line| {
                if last_lines.len() == OUTPUT_LINES_MAX {
                    last_lines.pop_front();
                }
                last_lines.push_back(line.clone());
                scope.progress.report(&unit.name, ProgressLine::BuildOutput(line));
            })
            .await?;
        if code == 0 {
            return Ok(());
        }
        let message = format!("the {description} of `{}` failed with exit code `{code}` (`{program}`)", unit.name);
        Err(Problem::new(ProblemKind::BuildFailed, message).output(last_lines.into()))
    }
}

fn write_files(launcher: &Launcher<'_>, folder: &Path) -> Result<(), Problem> {
    for (name, text) in &launcher.spec.files {
        let path = folder.join(name);
        let is_inside = Path::new(name).components().all(|part| matches!(part, std::path::Component::Normal(_)));
        if !is_inside {
            let message = format!("file `{name}` of `{}` would be outside its data folder", launcher.unit.name);
            return Err(Problem::new(ProblemKind::Refused, message));
        }
        let problem = |error: &std::io::Error| Problem::io(format!("cannot write `{}`", path.display()), error);
        write_atomically(&path, text.as_bytes(), Durable::No, 0o600).map_err(|error| problem(&error))?;
        let Some(account) = launcher.resolve_account()? else { continue };
        // The unit's user must own the folders that `write_atomically` created on the way, too.
        for created in path.ancestors().take_while(|ancestor| *ancestor != folder) {
            chown_folder(created, &account)
                .map_err(|problem| problem.hint("Remove the unit's data folder and try again."))?;
        }
    }
    Ok(())
}

/// A unit's build command, its inputs, and the marker file that records its last run.
#[derive(Clone)]
struct Build {
    argv: Argv,
    inputs: Vec<String>,
    project: std::path::PathBuf,
    key: String,
    marker: std::path::PathBuf,
}

impl Build {
    fn from_unit(scope: &Scope, unit: &Unit) -> Option<Self> {
        let plan::application::Body::Process(ProcessSpec { build, build_inputs, dir, .. }) = &unit.body else {
            return None;
        };
        let argv = build.clone()?;
        let Locations { project, cache, .. } = &scope.locations;
        let key = to_hex(Sha256::digest(format!("{project:?}\n{dir:?}\n{argv:?}\n{build_inputs:?}")));
        let marker = cache.join("process-builds").join(format!("{}.json", &key[..32]));
        Some(Self { argv, inputs: build_inputs.clone(), project: project.clone(), key, marker })
    }

    /// The identity of the current build, or the reason why the build must run.
    fn check_current(&self) -> Result<Result<String, String>, Problem> {
        let Some(recorded) = Fingerprint::read(&self.marker) else { return Ok(Err("not built yet".to_owned())) };
        let current = Fingerprint::compute(&self.project, &self.inputs, Some(&recorded))?;
        Ok(match recorded.first_difference(&current) {
            None => Ok(self.identity(&current)),
            Some(path) => Err(format!("build input changed: {path}")),
        })
    }

    fn compute_fingerprint(&self) -> Result<Fingerprint, Problem> {
        Fingerprint::compute(&self.project, &self.inputs, Fingerprint::read(&self.marker).as_ref())
    }

    fn identity(&self, fingerprint: &Fingerprint) -> String {
        let text = format!("{:?}\n{}", self.argv, fingerprint.digest());
        format!("build:{}", &to_hex(Sha256::digest(text))[..16])
    }
}

/// The identity of the build that a new unit uses, for its record.
pub(super) fn recorded_build_identity(scope: &Scope, unit: &Unit) -> Option<String> {
    let build = Build::from_unit(scope, unit)?;
    Some(build.identity(&Fingerprint::read(&build.marker)?))
}
