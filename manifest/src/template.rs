//! The one expression form of the language: `${scope.name.field}`, `${x:-default}`, `$$` for a dollar sign.

use crate::text::Span;

/// Text with placeholders, as written. Resolving it is the planner's work.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Template {
    pub parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Part {
    Text(String),
    Reference(Reference),
}

/// `${resources.db.url}`: scope `resources`, path `["db", "url"]`. `vars.x`, `env.X`, `app.name`, `preview.branch`
/// and `git.commit` have a path of one; `${X}` alone is short for `${env.X}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    pub scope: Scope,
    pub path: Vec<String>,
    pub default: Option<String>,
    /// The whole `${...}` in the file.
    pub span: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Scope {
    Resources,
    Services,
    Secrets,
    Identities,
    Vars,
    Env,
    App,
    Preview,
    Git,
}

impl Template {
    #[must_use]
    pub fn literal(text: impl Into<String>) -> Self {
        let text = text.into();
        Self { parts: if text.is_empty() { Vec::new() } else { vec![Part::Text(text)] } }
    }

    /// The text, if nothing in it has to be resolved.
    #[must_use]
    pub fn as_literal(&self) -> Option<String> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Reference(_) => None,
            })
            .collect::<Option<String>>()
    }

    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Text(_) => None,
        })
    }
}
