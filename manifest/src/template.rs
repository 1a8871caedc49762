//! Placeholders, the only expressions of the language: `${scope.name.field}`, `${x:-default}`, `$$` for a dollar sign.
//! A default is a template itself, so placeholders nest.

use std::fmt;

use crate::text::Span;

/// Limit of the nesting, because the parser is recursive and a hostile file must not overflow its stack.
const DEPTH_MAX: usize = 16;

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
    pub default: Option<Template>,
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

    /// The references in the order of the text, without those in defaults.
    pub fn outer_references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Text(_) => None,
        })
    }

    /// All references in the order of the text, each followed by those in its default.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let mut pending: Vec<&Reference> = self.outer_references().collect();
        pending.reverse();
        std::iter::from_fn(move || {
            let next = pending.pop()?;
            if let Some(default) = &next.default {
                let first = pending.len();
                pending.extend(default.outer_references());
                pending[first..].reverse();
            }
            Some(next)
        })
    }
}

/// The source text, with full scope names.
impl fmt::Display for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => formatter.write_str(&text.replace('$', "$$")),
            Part::Reference(reference) => reference.fmt(formatter),
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "${{{}.{}", self.scope.name(), self.path.join("."))?;
        if let Some(default) = &self.default {
            write!(formatter, ":-{default}")?;
        }
        formatter.write_str("}")
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
    let base = Span { start: span.start + u32::from(quoted), ..span };
    let mut parser = Parser { base, problems: Vec::new() };
    let template = parser.parse_template(text, 0, 0);
    (template, parser.problems)
}

struct Parser {
    /// Starts at the first byte of the text.
    base: Span,
    problems: Vec<TemplateProblem>,
}

impl Parser {
    fn report(&mut self, from: usize, to: usize, message: impl Into<String>) {
        let start = self.base.start as usize;
        let span = Span::new(self.base.file, start + from, start + to);
        self.problems.push(TemplateProblem { span, message: message.into() });
    }

    /// `offset` is the position of `text` in the complete text, `depth` the number of placeholders around it.
    fn parse_template(&mut self, text: &str, offset: usize, depth: usize) -> Template {
        let mut parts = Vec::new();
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
                    let message = "this placeholder is never closed: `}` is missing";
                    self.report(offset + dollar, offset + text.len(), message);
                    literal.push_str(&text[dollar..]);
                    position = text.len();
                    break;
                };
                if let Some(reference) = self.parse_placeholder(&text[dollar..=end], offset + dollar, depth) {
                    if !literal.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut literal)));
                    }
                    parts.push(Part::Reference(reference));
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
        Template { parts }
    }

    /// Parses `text`, a complete `${...}`. Problems of its default are reported too, even if the name is invalid.
    fn parse_placeholder(&mut self, text: &str, offset: usize, depth: usize) -> Option<Reference> {
        let end = offset + text.len();
        if depth >= DEPTH_MAX {
            self.report(offset, end, format!("more than {DEPTH_MAX} placeholders are nested"));
            return None;
        }
        let inside = &text["${".len()..text.len() - "}".len()];
        let (name, default) = match inside.split_once(":-") {
            Some((name, default)) => (name, Some((default, offset + text.len() - "}".len() - default.len()))),
            None => (inside, None),
        };
        let parsed = parse_name(name.trim());
        if let Err(message) = &parsed {
            self.report(offset, end, message.clone());
        }
        let default = default.map(|(default, offset)| self.parse_template(default, offset, depth + 1));
        let (scope, path) = parsed.ok()?;
        let start = self.base.start as usize;
        Some(Reference { scope, path, default, span: Span::new(self.base.file, start + offset, start + end) })
    }
}

/// The position of the `}` that closes a placeholder; `from` is the start of its name. Only in a default can another
/// placeholder begin, and `$$` there is a dollar sign.
fn find_closing_brace(text: &str, from: usize) -> Option<usize> {
    let bytes = text.as_bytes();
    // For each open placeholder, whether the position is in its default.
    let mut open = vec![false];
    let mut position = from;
    while let Some(byte) = bytes.get(position) {
        let rest = &bytes[position..];
        let in_default = open.last().copied().unwrap_or_default();
        if *byte == b'}' {
            open.pop();
            if open.is_empty() {
                return Some(position);
            }
        } else if in_default && rest.starts_with(b"${") {
            open.push(false);
            position += 1;
        } else if in_default && rest.starts_with(b"$$") {
            position += 1;
        } else if !in_default && rest.starts_with(b":-") {
            open.pop();
            open.push(true);
            position += 1;
        }
        position += 1;
    }
    None
}

fn parse_name(name: &str) -> Result<(Scope, Vec<String>), String> {
    if name.is_empty() {
        return Err("this placeholder is empty".into());
    }
    let parts: Vec<String> = name.split('.').map(str::to_owned).collect();
    let is_valid = |part: &String| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    if !parts.iter().all(is_valid) {
        return Err(format!("`{name}` cannot be read as a placeholder"));
    }
    let [first, path @ ..] = parts.as_slice() else { return Err("this placeholder is empty".into()) };
    if path.is_empty() {
        return Ok((Scope::Env, vec![first.clone()]));
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
    Ok((scope, path.to_vec()))
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

    /// The first part of a placeholder, such as `services`.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, scope)| *scope == self).map_or("", |(name, _)| name)
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
        assert_eq!((references[2].scope, &references[2].default), (Scope::Env, &Some(Template::literal("a b"))));
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

    #[test]
    fn defaults_nest() {
        let text = "${A:-${B:-$$5}/${vars.c:-}-${git.commit}}!${D}";
        let (template, problems) = parse(text, Span::new(FileId(0), 10, 10 + text.len()), false);
        assert_eq!(problems, []);
        let sources: Vec<&str> = template
            .references()
            .map(|reference| &text[reference.span.start as usize - 10..reference.span.end as usize - 10])
            .collect();
        let outer = "${A:-${B:-$$5}/${vars.c:-}-${git.commit}}";
        assert_eq!(sources, [outer, "${B:-$$5}", "${vars.c:-}", "${git.commit}", "${D}"]);
    }

    #[test]
    fn problems_in_defaults_are_reported_at_their_position() {
        for (text, at, expected) in [
            ("${A:-${resorces.db.url}}", "${resorces.db.url}", "did you mean `resources`"),
            ("${A:-${B:-${}}}", "${}", "empty"),
            ("x${A:-y${B}", "${A:-y${B}", "never closed"),
            ("${A:-${B", "${A:-${B", "never closed"),
            ("${a b:-${c d}}", "${c d}", "`c d` cannot be read"),
        ] {
            let (_, problems) = parse(text, Span::new(FileId(0), 0, text.len()), false);
            let matching = problems.iter().find(|problem| problem.message.contains(expected));
            assert_eq!(matching.map(|problem| &text[problem.span.range()]), Some(at), "{text}: {problems:?}");
        }
        let deep = "${A:-".repeat(100_000) + &"}".repeat(100_000);
        assert!(parse(&deep, Span::default(), false).1[0].message.contains("nested"));
    }

    #[test]
    fn display_is_the_source_with_full_scopes() {
        for (text, expected) in
            [("a$$b${X:-${vars.y:-$$5}}", "a$$b${env.X:-${vars.y:-$$5}}"), ("${A:-{}}", "${env.A:-{}}")]
        {
            assert_eq!(parse(text, Span::default(), false).0.to_string(), expected);
        }
    }
}
