//! What is wrong with what the user wrote: code, span, words, fix. Shared by the command line, the agent and the
//! language server, whose answers are therefore identical.

use crate::text::Span;

/// A stable code such as `PD0104`, never reused; its page is `docs/codes/PD0104.md`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Code(pub &'static str);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// `pdev up` refuses.
    Error,
    /// It will run, but surprise; or a guardrail that can be waived.
    Warning,
    /// Advice.
    Info,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    /// One sentence in the user's words, with the found value and what was expected; no final dot.
    pub message: String,
    /// The smallest text the user must change.
    pub span: Span,
    /// Where in the manifest, as `services.api.ports.web`; empty for the whole file.
    pub path: String,
    /// The way out, when it is not a mechanical fix: one whole sentence.
    pub help: Option<String>,
    /// The second place: the first of two duplicates, the nearest definition.
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
    /// An imperative: "change `helth` to `health`".
    pub title: String,
    /// Safe fixes are applied by `pdev check --fix`; others are only offered.
    pub safe: bool,
    pub edits: Vec<Edit>,
}

/// Replace the bytes of `span` by `text`; an empty span inserts.
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

    /// The same, after something before it became longer or shorter.
    #[must_use]
    pub fn shifted(&self, by: i32) -> Self {
        let mut moved = self.clone();
        moved.span = moved.span.shifted(by);
        for related in &mut moved.related {
            related.span = related.span.shifted(by);
        }
        for edit in moved.fixes.iter_mut().flat_map(|fix| &mut fix.edits) {
            edit.span = edit.span.shifted(by);
        }
        moved
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
