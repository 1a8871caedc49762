//! Errors as RFC 9457 problem documents (`application/problem+json`) with a stable `code`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Problem {
    /// A stable identifier such as `image_not_found`. Scripts match on it rather than on `title`.
    pub code: String,
    /// HTTP status; 0 inside events.
    #[serde(default)]
    pub status: u16,
    /// One sentence for people: the failure, without a final period.
    pub title: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do next: one complete sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The affected unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The last lines of output that explain the failure (of a build step, or the last 20 log lines of a service).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// The errors of an invalid manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<DiagnosticView>,
}

impl Problem {
    pub fn new(code: impl Into<String>, status: u16, title: impl Into<String>) -> Self {
        Self { code: code.into(), status, title: title.into(), ..Self::default() }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    #[must_use]
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.unit = Some(unit.into());
        self
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.unit {
            Some(unit) => write!(formatter, "{unit}: {}", self.title),
            None => formatter.write_str(&self.title),
        }
    }
}

impl std::error::Error for Problem {}

/// One finding about the manifest; the same in `pdev check --json`, in problems and in the editor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DiagnosticView {
    pub code: String,
    /// `error`, `warning` or `info`.
    pub severity: String,
    pub message: String,
    /// Relative to the manifest's folder.
    pub file: String,
    /// One-based; columns count characters.
    pub line: u32,
    pub column: u32,
    pub end_line: u32,
    pub end_column: u32,
    /// Byte offsets into the file.
    pub start: u32,
    pub end: u32,
    /// `services.api.ports.web`.
    pub path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub related: Vec<RelatedView>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<FixView>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RelatedView {
    pub message: String,
    pub file: String,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FixView {
    pub title: String,
    /// Applied by `pdev check --fix`.
    pub safe: bool,
    pub edits: Vec<EditView>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct EditView {
    pub file: String,
    /// Byte offsets into the file.
    pub start: u32,
    pub end: u32,
    pub text: String,
}
