//! Placeholders, the only expressions of the language: `${scope.name.field}`, `${x:-default}`, `$$` for a dollar sign.

use crate::text::Span;

/// Text with unresolved placeholders; the planner resolves them.
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
/// and `git.commit` have a path of one part. `${X}` is short for `${env.X}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reference {
    pub scope: Scope,
    pub path: Vec<String>,
    pub default: Option<String>,
    /// Position of the complete `${...}` in the file.
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

    /// The text, if it contains no reference.
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

/// A problem in a text with placeholders.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TemplateProblem {
    pub span: Span,
    pub message: String,
}

/// Parses `${...}`. Spans are exact if the file contains the text literally (no YAML escapes before the placeholder).
#[must_use]
pub fn parse(text: &str, span: Span, quoted: bool) -> (Template, Vec<TemplateProblem>) {
    if !text.contains('$') {
        return (Template::literal(text), Vec::new());
    }
    let base = span.start as usize + usize::from(quoted);
    let at = |from: usize, to: usize| Span::new(span.file, base + from, base + to);
    let mut parts = Vec::new();
    let mut problems = Vec::new();
    let mut literal = String::new();
    let mut position = 0;
    while let Some(dollar) = text[position..].find('$').map(|found| position + found) {
        literal.push_str(&text[position..dollar]);
        let after = &text[dollar + 1..];
        if after.starts_with('$') {
            literal.push('$');
            position = dollar + 2;
        } else if after.starts_with('{') {
            let Some(end) = find_closing_brace(text, dollar + 2) else {
                problems.push(TemplateProblem {
                    span: at(dollar, text.len()),
                    message: "this placeholder is never closed: `}` is missing".into(),
                });
                literal.push_str(&text[dollar..]);
                position = text.len();
                break;
            };
            match parse_reference(&text[dollar + 2..end], at(dollar, end + 1)) {
                Ok(reference) => {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Reference(reference));
                }
                Err(message) => problems.push(TemplateProblem { span: at(dollar, end + 1), message }),
            }
            position = end + 1;
        } else {
            // A lone dollar sign is literal, because shell commands contain many.
            literal.push('$');
            position = dollar + 1;
        }
    }
    literal.push_str(&text[position..]);
    if !literal.is_empty() {
        parts.push(Part::Text(literal));
    }
    (Template { parts }, problems)
}

fn find_closing_brace(text: &str, from: usize) -> Option<usize> {
    text[from..].find('}').map(|end| from + end)
}

fn parse_reference(inside: &str, span: Span) -> Result<Reference, String> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name.trim(), Some(default.to_owned())),
        None => (inside.trim(), None),
    };
    if name.is_empty() {
        return Err("this placeholder is empty".into());
    }
    let parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    let is_valid = |part: &String| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    if !parts.iter().all(is_valid) {
        return Err(format!("`{inside}` cannot be read as a placeholder"));
    }
    let [first, path @ ..] = parts.as_slice() else { return Err("this placeholder is empty".into()) };
    if path.is_empty() {
        return Ok(Reference { scope: Scope::Env, path: vec![first.clone()], default, span });
    }
    let Some(scope) = Scope::parse(first) else {
        let known = Scope::ALL.map(|(name, _)| name);
        let suggestion =
            strings::nearest(first, known).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
        return Err(format!("unknown scope `{first}` in a placeholder{suggestion} (known: {})", known.join(", ")));
    };
    if !scope.path_length().contains(&path.len()) {
        return Err(format!("`{name}` is incomplete; write {}", scope.example()));
    }
    Ok(Reference { scope, path: path.to_vec(), default, span })
}

impl Scope {
    pub const ALL: [(&'static str, Self); 9] = [
        ("resources", Self::Resources),
        ("services", Self::Services),
        ("secrets", Self::Secrets),
        ("identities", Self::Identities),
        ("vars", Self::Vars),
        ("env", Self::Env),
        ("app", Self::App),
        ("preview", Self::Preview),
        ("git", Self::Git),
    ];

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.iter().find(|(name, _)| *name == text).map(|(_, scope)| *scope)
    }

    fn path_length(self) -> std::ops::RangeInclusive<usize> {
        match self {
            Self::Resources | Self::Secrets | Self::Identities => 2..=2,
            Self::Services => 2..=3,
            _ => 1..=1,
        }
    }

    fn example(self) -> &'static str {
        match self {
            Self::Resources => "`${resources.NAME.OUTPUT}`, such as `${resources.db.url}`",
            Self::Services => "`${services.NAME.FIELD}`, such as `${services.api.url}`",
            Self::Secrets => "`${secrets.NAME.path}`",
            Self::Identities => "`${identities.NAME.FIELD}`",
            Self::Vars => "`${vars.NAME}`",
            Self::Env => "`${env.NAME}`",
            Self::App => "`${app.name}`",
            Self::Preview => "`${preview.branch}`",
            Self::Git => "`${git.commit}`",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::FileId;

    #[test]
    fn placeholder_spans_match_the_source() {
        let text = "redis://${resources.cache.host}:${resources.cache.port}/$$0${X:-a b}";
        let (template, problems) = parse(text, Span::new(FileId(0), 100, 100 + text.len()), false);
        assert_eq!(problems, []);
        let references: Vec<_> = template.references().collect();
        assert_eq!(references[0].path, ["cache", "host"]);
        assert_eq!(
            &text[references[1].span.start as usize - 100..references[1].span.end as usize - 100],
            "${resources.cache.port}"
        );
        assert_eq!((references[2].scope, references[2].default.as_deref()), (Scope::Env, Some("a b")));
        assert!(template.parts.contains(&Part::Text("/$0".into())));
    }

    #[test]
    fn invalid_placeholders_are_reported() {
        for (text, expected) in [
            ("${resources.db.url", "never closed"),
            ("${}", "empty"),
            ("${resorces.db.url}", "did you mean `resources`"),
            ("${resources.db}", "incomplete"),
            ("${a b.c}", "cannot be read"),
        ] {
            let (_, problems) = parse(text, Span::default(), false);
            assert!(problems[0].message.contains(expected), "{text}: {problems:?}");
        }
        assert_eq!(
            parse("echo $HOME costs 5$", Span::default(), false).0.as_literal().as_deref(),
            Some("echo $HOME costs 5$")
        );
    }
}
