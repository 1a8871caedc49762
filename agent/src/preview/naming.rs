//! Finds the preview of a request and assigns its labels. The checkout's identity decides which preview it is; a
//! preview that has a label never loses it to another one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use host::checkout::{Checkout, find_checkout};
use host::folder_id::FolderId;
use plan::application::{PreviewId, PreviewName, RuntimeKind};
use plan::naming::{self, CheckoutLocation, Label};
use protocol::Problem;
use protocol::request::{LocateRequest, UpRequest};
use protocol::status::LocateReply;

use super::{ManifestSource, PreviewHandle, desired_state};
use crate::convert;
use crate::registry::{Intent, Record};
use crate::shared::Shared;

pub const DEFAULT_ENVIRONMENT: &str = "local";

/// Identifies one copy of an app.
pub struct CheckoutIdentity {
    pub parts: Vec<String>,
    pub checkout: Option<Checkout>,
}

impl CheckoutIdentity {
    /// # Errors
    /// When the folder does not exist or cannot be accessed.
    pub fn of_folder(folder: &Path) -> Result<Self, Problem> {
        let real = folder.canonicalize().map_err(|error| {
            let title = format!("cannot access the folder `{}`: {error}", folder.display());
            Problem::new("folder_missing", 422, title)
        })?;
        Ok(Self::of_canonical(&real))
    }

    fn of_canonical(real: &Path) -> Self {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let Some(checkout) = find_checkout(real) else { return Self { parts: vec![text(real)], checkout: None } };
        let mut parts = vec![text(&checkout.common_dir), text(&checkout.git_dir)];
        // Several manifests in one worktree (a monorepo) are different apps.
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
            [common_dir, git_dir] => naming::preview_id(
                CheckoutLocation::Worktree { common_dir: common_dir.as_bytes(), git_dir: git_dir.as_bytes() },
                environment,
            ),
            [common_dir, git_dir, folder] => {
                // NUL cannot be part of a path, so two different pairs never give the same text.
                let git_dir = format!("{git_dir}\0{folder}");
                naming::preview_id(
                    CheckoutLocation::Worktree { common_dir: common_dir.as_bytes(), git_dir: git_dir.as_bytes() },
                    environment,
                )
            }
            parts => naming::preview_id(CheckoutLocation::Folder { path: parts.join("\0").as_bytes() }, environment),
        }
    }

    /// The name of this copy as shown to users; labels are derived from it.
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

/// Finds the preview of a folder, without creating it. Without an environment, it is the only preview of the folder, or
/// the only one that is up.
///
/// # Errors
/// When the folder does not exist and no record has it, or when it has several previews.
pub fn locate_preview(shared: &Shared, request: &LocateRequest) -> Result<LocateReply, Problem> {
    let folder = PathBuf::from(&request.folder);
    let identity = CheckoutIdentity::of_folder(&folder);
    let mut records = shared.registry.all();
    let is_known = |record: &Record| identity.as_ref().is_ok_and(|identity| identity.parts == record.identity);
    if !records.iter().any(is_known) && adopt_moved_checkout(shared, &records, &folder) {
        records = shared.registry.all();
    }
    records.retain(|record| request.environment.as_ref().is_none_or(|name| *name == record.name.environment));
    if let Some(record) = choose_record(records_of_folder(&records, identity.as_ref().ok(), &folder))? {
        return Ok(LocateReply { preview: convert::preview_ref(&record.name), known: true });
    }
    let identity = identity?;
    let environment = request.environment.as_deref().unwrap_or(DEFAULT_ENVIRONMENT);
    let name = PreviewName {
        id: identity.preview_id(environment),
        app: String::new(),
        branch: naming::branch_label(&identity.display_name(), environment, &[]).text,
        environment: environment.to_owned(),
    };
    Ok(LocateReply { preview: convert::preview_ref(&name), known: false })
}

fn records_of_folder<'a>(records: &'a [Record], identity: Option<&CheckoutIdentity>, folder: &Path) -> Vec<&'a Record> {
    let is_same = |record: &&Record| identity.is_some_and(|identity| identity.parts == record.identity);
    let same: Vec<&Record> = records.iter().filter(is_same).collect();
    if !same.is_empty() {
        return same;
    }
    // The folder may be a removed worktree, or inside one: use the nearest recorded folder that contains it.
    let around = records.iter().filter(|record| folder.starts_with(&record.folder));
    let nearest = around.clone().map(|record| record.folder.as_os_str().len()).max();
    around.filter(|record| Some(record.folder.as_os_str().len()) == nearest).collect()
}

/// Whether the recorded folder was moved to the folder with this identity: it has the same one and its old path is gone.
fn was_moved(record: &Record, folder: Option<FolderId>) -> bool {
    folder.is_some() && record.folder_id == folder && !record.folder.exists()
}

/// Updates the records of previews whose folder was moved to `folder` or to one that contains it. From then on, restarts
/// use the new path; mounts of containers do so at the next `up`.
/// Returns whether there were any.
fn adopt_moved_checkout(shared: &Shared, records: &[Record], folder: &Path) -> bool {
    let mut is_adopted = false;
    for record in records.iter().filter(|record| !record.folder.exists()) {
        let moved_to = |ancestor: &&Path| was_moved(record, FolderId::of(ancestor));
        let Some(found) = folder.ancestors().find(moved_to) else { continue };
        let Ok(identity) = CheckoutIdentity::of_folder(found) else { continue };
        let updated = shared.registry.edit(&record.name.id, |record| {
            record.folder = found.to_owned();
            record.identity.clone_from(&identity.parts);
            record.request.folder = found.display().to_string();
        });
        if let Err(error) = updated {
            tracing::warn!(%error, "the new folder of a moved checkout cannot be recorded");
        }
        if let Some(handle) = shared.preview_handle(&record.name.id) {
            handle.published.edit_preview(|status| status.folder = found.display().to_string());
            handle.live.move_project(found);
        }
        is_adopted = true;
    }
    is_adopted
}

/// The record of this checkout and environment, and the id for a new one. A moved checkout keeps its preview, and with
/// it the id that was derived from its old path, so a new checkout at that path needs another id.
fn find_record(
    shared: &Shared,
    identity: &CheckoutIdentity,
    environment: &str,
    folder: &Path,
) -> (PreviewId, Option<Record>) {
    let mut id = identity.preview_id(environment);
    // The usual case first: it copies one record only.
    if let Some(record) = shared.registry.get(&id).filter(|record| record.identity == identity.parts) {
        return (id, Some(record));
    }
    let folder_id = FolderId::of(folder);
    let records: Vec<Record> =
        shared.registry.all().into_iter().filter(|record| record.name.environment == environment).collect();
    let same = records.iter().find(|record| record.identity == identity.parts);
    if let Some(record) = same.or_else(|| records.iter().find(|record| was_moved(record, folder_id))) {
        return (record.name.id.clone(), Some(record.clone()));
    }
    let mut attempt = 1;
    while shared.registry.get(&id).is_some() {
        attempt += 1;
        // NUL cannot be part of an environment's name.
        id = identity.preview_id(&format!("{environment}\0{attempt}"));
    }
    (id, None)
}

fn choose_record(mut records: Vec<&Record>) -> Result<Option<&Record>, Problem> {
    if records.len() > 1 && records.iter().any(|record| record.intent == Intent::Up) {
        records.retain(|record| record.intent == Intent::Up);
    }
    records.sort_by_key(|record| record.name.title());
    match records.as_slice() {
        [] => Ok(None),
        [record] => Ok(Some(record)),
        several => {
            let titles: Vec<String> = several.iter().map(|record| format!("`{}`", record.name.title())).collect();
            let title = format!("this folder has several previews: {}", titles.join(", "));
            let environments: Vec<String> =
                several.iter().map(|record| format!("`-e {}`", record.name.environment)).collect();
            let hint = format!("Choose one with {}.", environments.join(" or "));
            Err(Problem::new("several_previews", 404, title).hint(hint))
        }
    }
}

/// Finds or starts the actor for an `up`, after storing the preview's labels in its record. Returns it with the request,
/// completed by the options that the preview keeps.
///
/// # Errors
/// When the manifest has errors, another project's preview has the label, or the state folder cannot be written.
pub fn bind_preview(shared: &Arc<Shared>, request: &UpRequest) -> Result<(PreviewHandle, UpRequest), Problem> {
    let folder = PathBuf::from(&request.folder);
    let identity = CheckoutIdentity::of_folder(&folder)?;
    let environment = request.environment.as_deref().unwrap_or(DEFAULT_ENVIRONMENT);
    let known = find_record(shared, &identity, environment, &folder).1;
    let retained_options = known.map(|record| record.retained_options).unwrap_or_default();
    let request = retained_options.complete(request.clone());
    let loaded = desired_state::load_manifest(&request, &ManifestSource::Disk)?;
    // Two concurrent first `up`s must not choose the same label.
    let _naming_guard = shared.naming_lock.lock().unwrap_or_else(PoisonError::into_inner);
    let strip: Vec<&str> = loaded.manifest.names_strip.iter().map(|prefix| prefix.value.as_str()).collect();
    let full_name = request.name.clone().unwrap_or_else(|| identity.display_name());
    let branch = naming::branch_label(&full_name, environment, &strip);
    let app = naming::app_label(&loaded.manifest.app.name).text;
    let (id, existing) = find_record(shared, &identity, environment, &folder);
    let branch = choose_label(shared, &id, &app, &branch, &full_name, &identity, existing.as_ref())?;
    let name = PreviewName { id: id.clone(), app, branch, environment: environment.to_owned() };
    // Without a driver for the environment's runtime, the context is of no engine that pdev knows.
    let manifest_environment = &loaded.manifest.environment;
    let has_driver =
        manifest_environment.runtime.as_ref().is_none_or(|runtime| RuntimeKind::from_manifest(runtime.value).is_some());
    let context = manifest_environment.context.as_ref().filter(|_| has_driver).map(|context| context.value.clone());
    let mut record = match existing {
        Some(record) => rename_record(record, name, folder, &identity),
        None => Record::new(name, folder, identity.parts.clone(), identity.is_primary(), request.clone()),
    };
    record.context = context;
    let preview = convert::preview_ref(&record.name);
    let folder = record.folder.display().to_string();
    shared.registry.save(record).map_err(|error| convert::state_write_problem(&error))?;
    Ok((find_or_start_actor(shared, preview, folder), request))
}

/// Finds or starts the actor of a recorded preview.
pub fn find_or_start_actor(
    shared: &Arc<Shared>,
    preview: protocol::status::PreviewRef,
    folder: String,
) -> PreviewHandle {
    let session = shared.registry.session_of(&PreviewId(preview.id.clone())).map(|session| session.name);
    // Locked until the new handle is inserted, so that a preview never has two actors.
    let mut previews = shared.previews.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(existing) = previews.get(&PreviewId(preview.id.clone())) {
        existing.published.edit_preview(|status| {
            status.preview = preview;
            status.folder = folder;
        });
        return existing.clone();
    }
    let started = super::start_actor(shared, preview, folder);
    started.published.edit_preview(|status| status.session = session);
    previews.insert(started.id.clone(), started.clone());
    started
}

fn rename_record(mut record: Record, name: PreviewName, folder: PathBuf, identity: &CheckoutIdentity) -> Record {
    if record.name.branch != name.branch {
        record.former_labels.retain(|former| *former != name.branch);
        record.former_labels.push(record.name.branch.clone());
        // Keep only the eight latest labels: a few earlier names help users, a history does not.
        let surplus = record.former_labels.len().saturating_sub(8);
        record.former_labels.drain(..surplus);
    }
    record.name = name;
    record.folder_id = FolderId::of(&folder);
    record.folder = folder;
    record.identity.clone_from(&identity.parts);
    record.is_primary = identity.is_primary();
    record
}

fn choose_label(
    shared: &Shared,
    id: &PreviewId,
    app: &str,
    label: &Label,
    full_name: &str,
    identity: &CheckoutIdentity,
    existing: Option<&Record>,
) -> Result<String, Problem> {
    // A suffix that was assigned at the first `up` stays, even if the other preview is removed later.
    let suffixed = naming::label_on_collision(&label.text, full_name);
    if existing.is_some_and(|record| record.name.app == app && record.name.branch == suffixed) {
        return Ok(suffixed);
    }
    let holder = shared
        .registry
        .all()
        .into_iter()
        .find(|record| record.name.id != *id && record.name.app == app && record.name.branch == label.text);
    let Some(holder) = holder else { return Ok(label.text.clone()) };
    // Two branches of one repository may have the same label, so the later one gets a suffix. Between projects, only a
    // shortened (lossy) label gets one; otherwise the names are really equal, and the user has to change one of them.
    let same_repository = holder.identity.first() == identity.parts.first() && identity.checkout.is_some();
    if label.lossy || same_repository {
        return Ok(suffixed);
    }
    let title = format!("`{app}/{}` is the preview of another project, at `{}`", label.text, holder.folder.display());
    let hint = format!("Change `app:` in this pdev.yaml, or run `pdev up --name {}-2`.", label.text);
    Err(Problem::new("name_taken", 409, title).hint(hint))
}
