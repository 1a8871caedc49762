//! Diagnostics about the user's files: code, span, message, fix. The CLI, the agent and the language server share them,
//! so all three report the same.

use crate::text::Span;

/// A stable code such as `PD0104`, never reused; its page is `docs/codes/PD0104.md`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Code(pub &'static str);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Prevents `pdev up`.
    Error,
    /// The preview runs but may behave unexpectedly, or a guardrail that can be waived.
    Warning,
    /// Advice.
    Info,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    /// One sentence in the user's terms, with the found and the expected value; no final period.
    pub message: String,
    /// The smallest text that the user must change.
    pub span: Span,
    /// Path in the manifest, such as `services.api.ports.web`; empty for the file itself.
    pub path: String,
    /// The remedy if no mechanical fix exists: one complete sentence.
    pub help: Option<String>,
    /// Related positions: the first of two duplicates, the nearest definition.
    pub related: Vec<RelatedInformation>,
    pub fixes: Vec<Fix>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RelatedInformation {
    pub span: Span,
    pub message: String,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fix {
    /// An imperative phrase: "change `helth` to `health`".
    pub title: String,
    /// `pdev check --fix` applies only safe fixes; editors offer the others too.
    pub safe: bool,
    pub edits: Vec<Edit>,
}

/// Replaces the bytes of `span` with `text`; an empty span inserts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    pub span: Span,
    pub text: String,
}

impl Diagnostic {
    pub fn new(code: Code, severity: Severity, span: Span, message: impl Into<String>) -> Self {
        Self {
            code,
            severity,
            message: message.into(),
            span,
            path: String::new(),
            help: None,
            related: Vec::new(),
            fixes: Vec::new(),
        }
    }

    /// A copy after text before it has grown or shrunk by `by` bytes.
    #[must_use]
    pub fn shifted(&self, by: i32) -> Self {
        let mut copy = self.clone();
        copy.span = copy.span.shifted(by);
        for related in &mut copy.related {
            related.span = related.span.shifted(by);
        }
        for edit in copy.fixes.iter_mut().flat_map(|fix| &mut fix.edits) {
            edit.span = edit.span.shifted(by);
        }
        copy
    }

    #[must_use]
    pub fn at_path(mut self, path: impl Into<String>) -> Self {
        self.path = path.into();
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    #[must_use]
    pub fn related(mut self, span: Span, message: impl Into<String>) -> Self {
        self.related.push(RelatedInformation { span, message: message.into() });
        self
    }

    #[must_use]
    pub fn fix(mut self, title: impl Into<String>, safe: bool, edits: Vec<Edit>) -> Self {
        self.fixes.push(Fix { title: title.into(), safe, edits });
        self
    }
}
