//! Files and folders beside the manifest that a value may name: includes, build contexts, Dockerfiles, local modules.
//!
//! One or two levels, and never many: a completion is no file browser.

use super::Completer;
use crate::analysis::names::NameInfo;

const NAMES_MAX: usize = 50;
/// Folders that hold what others made.
const IGNORED_FOLDERS: [&str; 4] = ["node_modules", "target", "vendor", "dist"];

fn name_info(name: impl Into<String>, words: &str) -> NameInfo {
    NameInfo { name: name.into(), description: words.to_owned() }
}

impl Completer<'_> {
    fn list_folder(&self, folder: &str) -> Vec<(String, bool)> {
        let mut all = self.context.files.list(folder).unwrap_or_default();
        all.retain(|(entry, _)| !entry.starts_with('.'));
        all.truncate(NAMES_MAX);
        all
    }

    fn subfolders(&self, folder: &str) -> Vec<String> {
        let all = self
            .list_folder(folder)
            .into_iter()
            .filter(|(entry, is_folder)| *is_folder && !IGNORED_FOLDERS.contains(&entry.as_str()));
        all.map(|(entry, _)| entry).collect()
    }

    /// YAML files beside the manifest that are no manifest.
    pub(super) fn include_files(&self) -> Vec<NameInfo> {
        let all = self.list_folder(".").into_iter().filter(|(entry, is_folder)| {
            !is_folder && entry != "pdev.yaml" && (entry.ends_with(".yaml") || entry.ends_with(".yml"))
        });
        all.map(|(entry, _)| name_info(entry, "a file to include")).collect()
    }

    /// Folders with a Dockerfile: this one, and those in it.
    pub(super) fn build_contexts(&self) -> Vec<NameInfo> {
        let has = |folder: &str| {
            self.list_folder(folder).iter().any(|(entry, is_folder)| !is_folder && entry == "Dockerfile")
        };
        let own = has(".").then(|| name_info(".", "the folder with the manifest"));
        let others = self.subfolders(".").into_iter().filter(|folder| has(folder));
        own.into_iter().chain(others.map(|folder| name_info(folder, "a folder with a Dockerfile"))).collect()
    }

    /// Dockerfiles in the context of the unit, as far as it is known.
    pub(super) fn dockerfiles(&self, unit: Option<&str>) -> Vec<NameInfo> {
        let service = unit.and_then(|unit| self.context.manifest.services.get(unit));
        let build = service.and_then(|entry| entry.value.build.as_ref());
        let context = build.map_or(".", |build| build.context.value.as_str());
        let all = self.list_folder(if context.is_empty() { "." } else { context }).into_iter();
        let all = all.filter(|(entry, is_folder)| !is_folder && entry.to_ascii_lowercase().contains("dockerfile"));
        all.map(|(entry, _)| name_info(entry, "a Dockerfile")).collect()
    }

    /// `./modules/NAME`, where they usually are.
    pub(super) fn local_modules(&self) -> Vec<NameInfo> {
        let has = |folder: &String| self.context.files.read(&format!("modules/{folder}/module.yaml")).is_ok();
        let all = self.subfolders("modules").into_iter().filter(has);
        all.map(|folder| name_info(format!("./modules/{folder}"), "a module of this repository")).collect()
    }
}
