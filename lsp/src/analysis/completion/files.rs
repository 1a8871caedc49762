//! Completion of files and folders next to the manifest: includes, build contexts, Dockerfiles and local modules.
//!
//! It lists at most two levels and [`NAMES_MAX`] names, because it runs for each keystroke.

use super::Completer;
use crate::analysis::names::NameInfo;

const NAMES_MAX: usize = 50;
/// Folders with generated or third-party files.
const IGNORED_FOLDERS: [&str; 4] = ["node_modules", "target", "vendor", "dist"];

fn name_info(name: impl Into<String>, description: &str) -> NameInfo {
    NameInfo { name: name.into(), description: description.to_owned() }
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

    /// The other YAML files in the folder of the manifest.
    pub(super) fn include_files(&self) -> Vec<NameInfo> {
        let all = self.list_folder(".").into_iter().filter(|(entry, is_folder)| {
            !is_folder && entry != "pdev.yaml" && (entry.ends_with(".yaml") || entry.ends_with(".yml"))
        });
        all.map(|(entry, _)| name_info(entry, "a file to include")).collect()
    }

    /// The manifest's folder and its subfolders, as far as they contain a Dockerfile.
    pub(super) fn build_contexts(&self) -> Vec<NameInfo> {
        let has_dockerfile = |folder: &str| {
            self.list_folder(folder).iter().any(|(entry, is_folder)| !is_folder && entry == "Dockerfile")
        };
        let own_folder = has_dockerfile(".").then(|| name_info(".", "the folder with the manifest"));
        let others = self.subfolders(".").into_iter().filter(|folder| has_dockerfile(folder));
        own_folder.into_iter().chain(others.map(|folder| name_info(folder, "a folder with a Dockerfile"))).collect()
    }

    /// The Dockerfiles in the build context of the unit.
    pub(super) fn dockerfiles(&self, unit: Option<&str>) -> Vec<NameInfo> {
        let service = unit.and_then(|unit| self.context.manifest.services.get(unit));
        let build = service.and_then(|entry| entry.value.build.as_ref());
        let context = build.map_or(".", |build| build.context.value.as_str());
        let all = self.list_folder(if context.is_empty() { "." } else { context }).into_iter();
        let all = all.filter(|(entry, is_folder)| !is_folder && entry.to_ascii_lowercase().contains("dockerfile"));
        all.map(|(entry, _)| name_info(entry, "a Dockerfile")).collect()
    }

    /// The named stages of the unit's Dockerfile.
    pub(super) fn stages(&self, unit: Option<&str>) -> Vec<NameInfo> {
        let manifest = self.context.manifest;
        let service = unit.and_then(|unit| manifest.services.get(unit)).map(|entry| &entry.value);
        let body = service.or_else(|| Some(&manifest.jobs.get(unit?)?.value.body));
        let Some(build) = body.and_then(|body| body.build.as_ref()) else { return Vec::new() };
        let folder = if build.context.value.is_empty() { "." } else { build.context.value.as_str() };
        let file = build.dockerfile.as_ref().map_or("Dockerfile", |file| file.value.as_str());
        let Ok(bytes) = self.context.files.read(&format!("{folder}/{file}")) else { return Vec::new() };
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let stage = |line: &str| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let is_from = words.first()?.eq_ignore_ascii_case("from");
            let named = words.windows(2).find(|two| two[0].eq_ignore_ascii_case("as"))?;
            is_from.then(|| name_info(named[1], "a stage of the Dockerfile"))
        };
        text.lines().filter_map(stage).take(NAMES_MAX).collect()
    }

    /// The modules in `./modules/NAME`, the usual folder for them.
    pub(super) fn local_modules(&self) -> Vec<NameInfo> {
        let is_module = |folder: &String| self.context.files.read(&format!("modules/{folder}/module.yaml")).is_ok();
        let all = self.subfolders("modules").into_iter().filter(is_module);
        all.map(|folder| name_info(format!("./modules/{folder}"), "a module of this repository")).collect()
    }
}
