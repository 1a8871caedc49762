//! Manifests in memory, and default inputs that a test can modify.

use std::collections::BTreeMap;

use manifest::date::Date;
use manifest::{Diagnostic, FileProblem, Files};
use plan::application::{PreviewId, PreviewName, RuntimeKind};
use plan::load::{LoadOptions, load};
use plan::{Git, LoadedManifest, ResolveInputs, required_ports};

pub(crate) struct MemoryFiles(pub(crate) BTreeMap<String, String>);

impl Files for MemoryFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        let path = path.trim_start_matches("./");
        self.0.get(path).map(|text| text.clone().into_bytes()).ok_or(FileProblem::Missing)
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let prefix = format!("{}/", path.trim_start_matches("./").trim_end_matches('/'));
        let mut entries: Vec<(String, bool)> = self
            .0
            .keys()
            .filter_map(|name| name.strip_prefix(&prefix))
            .map(|rest| rest.split_once('/').map_or((rest.to_owned(), false), |(folder, _)| (folder.to_owned(), true)))
            .collect();
        entries.sort();
        entries.dedup();
        if entries.is_empty() { Err(FileProblem::Missing) } else { Ok(entries) }
    }
}

pub(crate) const TODAY: Date = Date { year: 2026, month: 11, day: 23 };

pub(crate) fn load_manifest(text: &str) -> LoadedManifest {
    load_manifest_for(text, None)
}

pub(crate) fn load_manifest_for(text: &str, environment: Option<&str>) -> LoadedManifest {
    let files = MemoryFiles(BTreeMap::from([("pdev.yaml".to_owned(), text.to_owned())]));
    let environment = environment.map(str::to_owned);
    load("pdev.yaml", &files, &LoadOptions { environment, sets: Vec::new() })
}

pub(crate) fn resolve_inputs(loaded: &LoadedManifest, runtime: RuntimeKind) -> ResolveInputs {
    let requests = required_ports(loaded, runtime);
    let ports = requests
        .iter()
        .zip(40_000u16..)
        .map(|(request, free)| ((request.unit.clone(), request.port.clone()), request.fixed.unwrap_or(free)))
        .collect();
    ResolveInputs {
        preview: PreviewName {
            id: PreviewId("abcdefghijklmnop".into()),
            app: loaded.manifest.app.name.value.clone(),
            branch: "main".into(),
            environment: "local".into(),
        },
        default_runtime: runtime,
        ports,
        proxy_port: 8642,
        environment: BTreeMap::from([("HOME_TOWN".to_owned(), "Bern".to_owned())]),
        git: Git { branch: Some("main".into()), commit: Some("0123abcd".into()) },
        secrets_folder: "/run/user/1000/pdev/secrets".into(),
        password_seed: "seed".into(),
        today: TODAY,
    }
}

/// `PD0250 error at services.api.env.X: message`.
pub(crate) fn format_diagnostics(diagnostics: &[Diagnostic]) -> Vec<String> {
    let format_line = |diagnostic: &Diagnostic| {
        let severity = format!("{:?}", diagnostic.severity).to_lowercase();
        format!("{} {severity} at {}: {}", diagnostic.code.0, diagnostic.path, diagnostic.message)
    };
    diagnostics.iter().map(format_line).collect()
}
