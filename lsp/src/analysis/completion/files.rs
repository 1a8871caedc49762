//! Files and folders beside the manifest that a value may name: includes, build contexts, Dockerfiles, local modules.
//!
//! One or two levels, and never many: a completion is no file browser.

use super::Place;
use crate::analysis::names::Name;

const NAMES_MAX: usize = 50;
/// Folders that hold what others made.
const FOREIGN: [&str; 4] = ["node_modules", "target", "vendor", "dist"];

fn name(name: impl Into<String>, words: &str) -> Name {
    Name { name: name.into(), words: words.to_owned() }
}

impl Place<'_> {
    fn list(&self, folder: &str) -> Vec<(String, bool)> {
        let mut all = self.scene.files.list(folder).unwrap_or_default();
        all.retain(|(entry, _)| !entry.starts_with('.'));
        all.truncate(NAMES_MAX);
        all
    }

    fn folders(&self, folder: &str) -> Vec<String> {
        let all =
            self.list(folder).into_iter().filter(|(entry, is_folder)| *is_folder && !FOREIGN.contains(&entry.as_str()));
        all.map(|(entry, _)| entry).collect()
    }

    /// YAML files beside the manifest that are no manifest.
    pub(super) fn includes(&self) -> Vec<Name> {
        let all = self.list(".").into_iter().filter(|(entry, is_folder)| {
            !is_folder && entry != "pdev.yaml" && (entry.ends_with(".yaml") || entry.ends_with(".yml"))
        });
        all.map(|(entry, _)| name(entry, "a file to include")).collect()
    }

    /// Folders with a Dockerfile: this one, and those in it.
    pub(super) fn contexts(&self) -> Vec<Name> {
        let has = |folder: &str| self.list(folder).iter().any(|(entry, is_folder)| !is_folder && entry == "Dockerfile");
        let own = has(".").then(|| name(".", "the folder with the manifest"));
        let others = self.folders(".").into_iter().filter(|folder| has(folder));
        own.into_iter().chain(others.map(|folder| name(folder, "a folder with a Dockerfile"))).collect()
    }

    /// Dockerfiles in the context of the unit, as far as it is known.
    pub(super) fn dockerfiles(&self, unit: Option<&str>) -> Vec<Name> {
        let service = unit.and_then(|unit| self.scene.manifest.services.get(unit));
        let build = service.and_then(|entry| entry.value.build.as_ref());
        let context = build.map_or(".", |build| build.context.value.as_str());
        let all = self.list(if context.is_empty() { "." } else { context }).into_iter();
        let all = all.filter(|(entry, is_folder)| !is_folder && entry.to_ascii_lowercase().contains("dockerfile"));
        all.map(|(entry, _)| name(entry, "a Dockerfile")).collect()
    }

    /// `./modules/NAME`, where they usually are.
    pub(super) fn local_modules(&self) -> Vec<Name> {
        let has = |folder: &String| self.scene.files.read(&format!("modules/{folder}/module.yaml")).is_ok();
        let all = self.folders("modules").into_iter().filter(has);
        all.map(|folder| name(format!("./modules/{folder}"), "a module of this repository")).collect()
    }
}
