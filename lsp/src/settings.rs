//! The settings under `pdev`, from the editor's configuration or `initializationOptions`. All have defaults.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, rename_all = "camelCase")]
pub struct Settings {
    /// The environment of the manifest to analyse; `local` when empty.
    pub environment: Option<String>,
    /// `docker` or `process`: report only diagnostics of that runtime.
    pub runtime: Option<String>,
    /// Overrides the severity of a code in the editor. `pdev check` has its own.
    #[serde(deserialize_with = "read_known_overrides")]
    pub codes: BTreeMap<String, SeverityOverride>,
    pub diagnostics: DiagnosticDelivery,
    pub live: LiveSettings,
    pub inlay_hints: InlayHintSettings,
}

/// The severity that a user chooses for a code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(test, derive(serde::Serialize))]
#[cfg_attr(test, serde(rename_all = "lowercase"))]
pub enum SeverityOverride {
    /// Not shown.
    Off,
    Hint,
    Info,
    Warning,
    Error,
}

impl SeverityOverride {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "off" => Some(Self::Off),
            "hint" => Some(Self::Hint),
            "info" => Some(Self::Info),
            "warning" => Some(Self::Warning),
            "error" => Some(Self::Error),
            _ => None,
        }
    }
}

/// Drops a code with an unknown severity: an error would discard all other settings too.
fn read_known_overrides<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, SeverityOverride>, D::Error> {
    let words: BTreeMap<String, String> = BTreeMap::deserialize(deserializer)?;
    Ok(words.into_iter().filter_map(|(code, word)| Some((code, SeverityOverride::parse(&word)?))).collect())
}

/// How diagnostics reach the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(rename_all = "lowercase")]
pub enum DiagnosticDelivery {
    /// Pull if the client supports it, else push. A client that gets both shows each diagnostic twice.
    #[default]
    Auto,
    Push,
    Pull,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, rename_all = "camelCase")]
pub struct LiveSettings {
    /// Follow the agent if one runs. Analysis never starts one.
    pub enabled: bool,
    pub diagnostics: bool,
    pub lenses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[cfg_attr(test, derive(serde::Serialize))]
#[serde(default, rename_all = "camelCase")]
pub struct InlayHintSettings {
    /// State and address of each unit.
    pub state: bool,
    /// The resolved value of `${...}`.
    pub values: bool,
    /// The module's version after `uses`.
    pub versions: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            environment: None,
            runtime: None,
            codes: BTreeMap::new(),
            diagnostics: DiagnosticDelivery::Auto,
            live: LiveSettings::default(),
            inlay_hints: InlayHintSettings::default(),
        }
    }
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self { enabled: true, diagnostics: true, lenses: true }
    }
}

impl Default for InlayHintSettings {
    fn default() -> Self {
        Self { state: true, values: true, versions: true }
    }
}

impl Settings {
    /// Reads the settings under `pdev`, or the bare object. Returns `None` if the client sent nothing readable, so that
    /// a mistake does not reset all settings.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        let settings = value.get("pdev").unwrap_or(value);
        if settings.is_null() { None } else { serde_json::from_value(settings.clone()).ok() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use serde_json::{Value, json};

    use super::{Settings, SeverityOverride};

    fn read_page(name: &str) -> String {
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)).unwrap()
    }

    /// Maps names such as `live.enabled` to their defaults.
    fn flatten_settings(value: &Value) -> BTreeMap<String, Value> {
        let mut all = BTreeMap::new();
        for (name, value) in value.as_object().unwrap() {
            match value.as_object().filter(|fields| !fields.is_empty()) {
                Some(_) => all.extend(
                    flatten_settings(value).into_iter().map(|(inner, value)| (format!("{name}.{inner}"), value)),
                ),
                None => drop(all.insert(name.clone(), value.clone())),
            }
        }
        all
    }

    #[test]
    fn unknown_severity_drops_only_its_code() {
        let settings =
            Settings::read(&json!({ "runtime": "docker", "codes": { "PD005": "loud", "PD008": "off" } })).unwrap();
        assert_eq!(settings.runtime.as_deref(), Some("docker"));
        assert_eq!(settings.codes, BTreeMap::from([("PD008".to_owned(), SeverityOverride::Off)]));
    }

    #[test]
    fn server_docs_and_vscode_declare_the_same_settings() {
        let mut defaults = flatten_settings(&serde_json::to_value(Settings::default()).unwrap());

        let lsp = read_page("docs/lsp.md");
        let table = lsp.split("## Settings").nth(1).unwrap().split("\n## ").next().unwrap();
        let documented = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
        assert_eq!(
            documented.collect::<std::collections::BTreeSet<_>>(),
            defaults.keys().map(String::as_str).collect()
        );

        let editors = read_page("docs/editors.md");
        let block = editors.split("## Settings").nth(1).unwrap().split("```json\n").nth(1).unwrap();
        let shown: Value = serde_json::from_str(block.split("```").next().unwrap()).unwrap();
        assert_eq!(flatten_settings(&shown["pdev"]), defaults, "docs/editors.md");
        assert_eq!(Settings::read(&shown), Some(Settings::default()));

        let package: Value = serde_json::from_str(&read_page("editors/vscode/package.json")).unwrap();
        let declared = package["contributes"]["configuration"]["properties"].as_object().unwrap();
        // These settings belong to the extension. `diagnostics` is missing there, because its client decides that.
        let extension_settings = ["pdev.path", "pdev.trace.server"];
        let declared = declared.iter().filter(|(name, _)| !extension_settings.contains(&name.as_str()));
        let declared: BTreeMap<String, Value> =
            declared.map(|(name, about)| (name.replacen("pdev.", "", 1), about["default"].clone())).collect();
        assert_eq!(defaults.remove("diagnostics"), Some(json!("auto")));
        assert_eq!(declared, defaults, "editors/vscode/package.json");
    }
}
