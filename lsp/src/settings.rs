//! What a user may set, in the editor or in `initializationOptions`, under the name `pdev`. Everything has a default.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Settings {
    /// The environment of the manifest that is looked at; `local` when empty.
    pub environment: Option<String>,
    /// `docker` or `process`: only what concerns that runtime.
    pub runtime: Option<String>,
    /// A code to `off`, `hint`, `info`, `warning` or `error`; the command line keeps its own view.
    pub codes: BTreeMap<String, String>,
    pub diagnostics: Delivery,
    pub live: Live,
    pub inlay_hints: InlayHints,
}

/// How findings reach the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// Pulled by clients that can, pushed to the others: a client given both shows them twice.
    #[default]
    Auto,
    Push,
    Pull,
    Both,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Live {
    /// Follow the agent, where one runs; it is never started by looking.
    pub enabled: bool,
    pub diagnostics: bool,
    pub lenses: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct InlayHints {
    /// State and address behind each unit's name.
    pub state: bool,
    /// What a value with placeholders stands for.
    pub values: bool,
    /// The version behind `uses`.
    pub versions: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            environment: None,
            runtime: None,
            codes: BTreeMap::new(),
            diagnostics: Delivery::Auto,
            live: Live::default(),
            inlay_hints: InlayHints::default(),
        }
    }
}

impl Default for Live {
    fn default() -> Self {
        Self { enabled: true, diagnostics: true, lenses: true }
    }
}

impl Default for InlayHints {
    fn default() -> Self {
        Self { state: true, values: true, versions: true }
    }
}

impl Settings {
    /// From what a client sent, under `pdev` or bare; what cannot be read changes nothing.
    #[must_use]
    pub fn read(value: &Value) -> Option<Self> {
        let own = value.get("pdev").unwrap_or(value);
        if own.is_null() { None } else { serde_json::from_value(own.clone()).ok() }
    }
}
