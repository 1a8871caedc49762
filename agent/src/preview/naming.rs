//! Which preview a request means, and which labels it has: identity decides, the holder of a label never loses it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use plan::application::{PreviewId, PreviewName};
use plan::naming::{self, CheckoutLocation, Label};
use protocol::Problem;
use protocol::request::{LocateRequest, UpRequest};
use protocol::status::LocateReply;

use super::{ManifestSource, PreviewHandle, desired_state};
use crate::checkout::{Checkout, find_checkout};
use crate::convert;
use crate::registry::Record;
use crate::shared::Shared;

pub const DEFAULT_ENVIRONMENT: &str = "local";

/// What makes a copy itself.
pub struct CheckoutIdentity {
    pub parts: Vec<String>,
    pub checkout: Option<Checkout>,
}

impl CheckoutIdentity {
    /// # Errors
    /// When the folder is not there.
    pub fn of_folder(folder: &Path) -> Result<Self, Problem> {
        let real = folder.canonicalize().map_err(|error| {
            let title = format!("cannot look at the folder `{}`: {error}", folder.display());
            Problem::new("folder_missing", 422, title)
        })?;
        Ok(Self::of_canonical(&real))
    }

    fn of_canonical(real: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let Some(checkout) = find_checkout(real) else { return Self { parts: vec![text(real)], checkout: None } };
        let mut parts = vec![text(&checkout.common_dir), text(&checkout.git_dir)];
        // Several manifests in one worktree (a monorepo) are several apps.
        if let Ok(inside) =
            real.strip_prefix(checkout.worktree_root.canonicalize().unwrap_or_else(|_| checkout.worktree_root.clone()))
            && !inside.as_os_str().is_empty()
        {
            parts.push(text(inside));
        }
        Self { parts, checkout: Some(checkout) }
    }

    #[must_use]
    pub fn preview_id(&self, environment: &str) -> PreviewId {
        match self.parts.as_slice() {
            [common, own] => naming::preview_id(
                CheckoutLocation::Worktree { common_dir: common.as_bytes(), git_dir: own.as_bytes() },
                environment,
            ),
            [common, own, inside] => {
                let own = format!("{own}\0{inside}");
                naming::preview_id(
                    CheckoutLocation::Worktree { common_dir: common.as_bytes(), git_dir: own.as_bytes() },
                    environment,
                )
            }
            parts => naming::preview_id(CheckoutLocation::Folder { path: parts.join("\0").as_bytes() }, environment),
        }
    }

    /// The name of this copy for people, before it is made a label.
    #[must_use]
    pub fn display_name(&self) -> String {
        match &self.checkout {
            Some(checkout) => match &checkout.branch {
                Some(branch) => branch.clone(),
                None => {
                    let folder = checkout
                        .worktree_root
                        .file_name()
                        .map(|name| name.to_string_lossy().into_owned())
                        .unwrap_or_default();
                    naming::detached_name(&folder, checkout.commit.as_deref().unwrap_or_default())
                }
            },
            None => "main".to_owned(),
        }
    }

    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.checkout.as_ref().is_none_or(|checkout| checkout.is_primary)
    }
}

/// # Errors
/// When the folder is gone and no preview remembers it.
pub fn locate_preview(shared: &Shared, request: &LocateRequest) -> Result<LocateReply, Problem> {
    let environment = request.environment.as_deref().unwrap_or(DEFAULT_ENVIRONMENT);
    let folder = PathBuf::from(&request.folder);
    let identity = CheckoutIdentity::of_folder(&folder);
    if let Ok(identity) = &identity {
        let id = identity.preview_id(environment);
        if let Some(record) = shared.registry.get(&id) {
            return Ok(LocateReply { preview: convert::preview_ref(&record.name), known: true });
        }
    }
    // A removed worktree, or a folder inside one: the nearest remembered folder above it.
    let remembered = shared.registry.all().into_iter().filter(|record| record.name.environment == environment);
    let above = remembered
        .filter(|record| folder.starts_with(&record.folder))
        .max_by_key(|record| record.folder.as_os_str().len());
    if let Some(record) = above {
        return Ok(LocateReply { preview: convert::preview_ref(&record.name), known: true });
    }
    let identity = identity?;
    let name = PreviewName {
        id: identity.preview_id(environment),
        app: String::new(),
        branch: naming::branch_label(&identity.display_name(), environment, &[]).text,
        environment: environment.to_owned(),
    };
    Ok(LocateReply { preview: convert::preview_ref(&name), known: false })
}

/// The actor for an `up`: found or made, its labels bound on the disk.
///
/// # Errors
/// A wrong manifest; a label that another repository holds; a state folder that cannot be written.
pub fn bind_preview(shared: &Arc<Shared>, request: &UpRequest) -> Result<PreviewHandle, Problem> {
    let loaded = desired_state::load_manifest(request, &ManifestSource::Disk)?;
    let folder = PathBuf::from(&request.folder);
    let identity = CheckoutIdentity::of_folder(&folder)?;
    let environment = request.environment.as_deref().unwrap_or(DEFAULT_ENVIRONMENT);
    let _one_at_a_time = shared.naming_lock.lock().unwrap_or_else(PoisonError::into_inner);
    let id = identity.preview_id(environment);
    let strip: Vec<&str> = loaded.manifest.names_strip.iter().map(|prefix| prefix.value.as_str()).collect();
    let asked = request.name.clone().unwrap_or_else(|| identity.display_name());
    let branch = naming::branch_label(&asked, environment, &strip);
    let app = naming::app_label(&loaded.manifest.app.name).text;
    let known = shared.registry.get(&id);
    let branch = choose_label(shared, &id, &app, &branch, &asked, &identity, known.as_ref())?;
    let name = PreviewName { id: id.clone(), app, branch, environment: environment.to_owned() };
    let record = match known {
        Some(record) => rename_record(record, name, folder),
        None => Record::new(name, folder, identity.parts.clone(), identity.is_primary(), request.clone()),
    };
    let preview = convert::preview_ref(&record.name);
    let shown = record.folder.display().to_string();
    shared.registry.save(record).map_err(|error| state_write_problem(&error))?;
    Ok(find_or_start_actor(shared, preview, shown))
}

/// The actor of a known preview.
pub fn find_or_start_actor(
    shared: &Arc<Shared>,
    preview: protocol::status::PreviewRef,
    folder: String,
) -> PreviewHandle {
    let session = shared.registry.session_of(&PreviewId(preview.id.clone())).map(|session| session.name);
    let mut previews = shared.previews.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = previews.get(&PreviewId(preview.id.clone())) {
        found.published.edit_preview(|status| {
            status.preview = preview;
            status.folder = folder;
        });
        return found.clone();
    }
    let made = super::start_actor(shared, preview, folder);
    made.published.edit_preview(|status| status.session = session);
    previews.insert(made.id.clone(), made.clone());
    made
}

fn rename_record(mut record: Record, name: PreviewName, folder: PathBuf) -> Record {
    if record.name.branch != name.branch {
        record.former_labels.retain(|former| *former != name.branch);
        record.former_labels.push(record.name.branch.clone());
        // A handful of earlier names is help; a history is not.
        let surplus = record.former_labels.len().saturating_sub(8);
        record.former_labels.drain(..surplus);
    }
    record.name = name;
    record.folder = folder;
    record
}

fn choose_label(
    shared: &Shared,
    id: &PreviewId,
    app: &str,
    label: &Label,
    asked: &str,
    identity: &CheckoutIdentity,
    known: Option<&Record>,
) -> Result<String, Problem> {
    // Bound at the first `up`: a suffix once given stays, whoever else comes and goes.
    let suffixed = naming::label_on_collision(&label.text, asked);
    if known.is_some_and(|record| record.name.app == app && record.name.branch == suffixed) {
        return Ok(suffixed);
    }
    let holder = shared
        .registry
        .all()
        .into_iter()
        .find(|record| record.name.id != *id && record.name.app == app && record.name.branch == label.text);
    let Some(holder) = holder else { return Ok(label.text.clone()) };
    let same_repository = holder.identity.first() == identity.parts.first() && identity.checkout.is_some();
    if label.lossy || same_repository {
        return Ok(suffixed);
    }
    let title = format!("`{app}/{}` is the preview of another project, at `{}`", label.text, holder.folder.display());
    let hint = format!("Give this one another name: `app:` in its pdev.yaml, or `pdev up --name {}-2`.", label.text);
    Err(Problem::new("name_taken", 409, title).hint(hint))
}

pub(crate) fn state_write_problem(error: &std::io::Error) -> Problem {
    let words = error.to_string();
    // Without Rust's "(os error 28)".
    let words = words.split(" (os error").next().unwrap_or_default();
    Problem::new("state_not_written", 500, format!("cannot write pdev's state: {words}"))
        .hint("Is the disk full? `pdev doctor` shows the folders and their space.")
}
