//! Diagnostics as text: the message, the source lines and the fixes.
//!
//! `annotate-snippets` gets only the lines that it shows, because it reads the complete source for each diagnostic.

use std::ops::Range;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Group, Level, Patch, Renderer, Snippet};
use manifest::diagnostic::{Fix, RelatedInformation};
use manifest::{Diagnostic, FileId, Severity, Sources, Span};

use crate::terminal::Paint;

/// Positions further apart are shown in separate snippets.
const SNIPPET_LINES_MAX: usize = 12;

pub(crate) fn render(diagnostic: &Diagnostic, sources: &Sources, paint: Paint) -> String {
    let (near, far): (Vec<&RelatedInformation>, Vec<&RelatedInformation>) =
        diagnostic.related.iter().partition(|related| is_near(diagnostic.span, related.span, sources));
    let title = level(diagnostic.severity).primary_title(diagnostic.message.as_str()).id(diagnostic.code.0);
    let mut group = title.elements(primary_snippet(diagnostic.span, &near, sources));
    for related in far {
        group = group.elements(related_snippet(related, sources));
    }
    if let Some(help) = &diagnostic.help {
        group = group.element(Level::HELP.message(help.as_str()));
    }
    let mut groups = vec![group];
    groups.extend(diagnostic.fixes.iter().map(|fix| fix_group(fix, sources)));
    let renderer = if paint.is_enabled { Renderer::styled() } else { Renderer::plain() };
    renderer.decor_style(DecorStyle::Ascii).render(&groups)
}

fn level(severity: Severity) -> Level<'static> {
    match severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
        Severity::Info => Level::INFO,
    }
}

fn is_near(first: Span, second: Span, sources: &Sources) -> bool {
    let line = |span: Span| sources.position(span.file, span.start as usize).line;
    first.file == second.file && line(first).abs_diff(line(second)) as usize <= SNIPPET_LINES_MAX
}

fn primary_snippet<'a>(span: Span, near: &[&'a RelatedInformation], sources: &'a Sources) -> Vec<Element<'a>> {
    let spans = || std::iter::once(span).chain(near.iter().map(|related| related.span));
    let Some(window) = Window::around(span.file, spans(), sources) else { return Vec::new() };
    let mut snippet = window.snippet().annotation(AnnotationKind::Primary.span(window.range_in_window(span)));
    for related in near {
        let annotation = AnnotationKind::Context.span(window.range_in_window(related.span));
        snippet = snippet.annotation(annotation.label(related.message.as_str()));
    }
    vec![snippet.into()]
}

fn related_snippet<'a>(related: &'a RelatedInformation, sources: &'a Sources) -> Vec<Element<'a>> {
    let Some(window) = Window::around(related.span.file, [related.span].into_iter(), sources) else {
        return vec![Level::NOTE.message(related.message.as_str()).into()];
    };
    let annotation = AnnotationKind::Context.span(window.range_in_window(related.span)).label(related.message.as_str());
    vec![window.snippet().annotation(annotation).into()]
}

fn fix_group<'a>(fix: &'a Fix, sources: &'a Sources) -> Group<'a> {
    let group = Level::HELP.secondary_title(fix.title.as_str());
    let Some(first) = fix.edits.first() else { return Group::with_title(group) };
    let are_near = fix.edits.iter().all(|edit| is_near(first.span, edit.span, sources));
    let window = Window::around(first.span.file, fix.edits.iter().map(|edit| edit.span), sources);
    // For edits in distant lines, the title alone is clearer.
    let Some(window) = window.filter(|_| are_near) else { return Group::with_title(group) };
    let mut snippet = Snippet::source(window.text).line_start(window.first_line).path(window.path);
    for edit in &fix.edits {
        snippet = snippet.patch(Patch::new(window.range_in_window(edit.span), edit.text.as_str()));
    }
    group.element(snippet)
}

/// Complete lines of one file.
struct Window<'a> {
    path: &'a str,
    text: &'a str,
    /// The number of the first line, starting at 1.
    first_line: usize,
    /// The offset of `text` in the file.
    start_offset: usize,
}

impl<'a> Window<'a> {
    fn around(file: FileId, spans: impl Iterator<Item = Span>, sources: &'a Sources) -> Option<Self> {
        let source = sources.get(file)?;
        let (from, to) = spans.fold((usize::MAX, 0), |(from, to), span| {
            (from.min(span.start as usize), to.max(span.end as usize).max(span.start as usize))
        });
        let line_of = |offset: usize| source.line_starts.partition_point(|&start| start as usize <= offset).max(1) - 1;
        let (first, last) = (line_of(from), line_of(to.min(source.text.len())));
        let mut start = source.line_starts.get(first).copied()? as usize;
        // A byte order mark has no width, so the first column is the character after it.
        if first == 0 && source.text.starts_with('\u{feff}') {
            start = '\u{feff}'.len_utf8();
        }
        let end = source.line_starts.get(last + 1).map_or(source.text.len(), |&next| next as usize);
        let text = source.text.get(start..end)?;
        Some(Self { path: &source.path, text, first_line: first + 1, start_offset: start })
    }

    fn snippet<T: Clone>(&self) -> Snippet<'a, T> {
        Snippet::source(self.text).line_start(self.first_line).path(self.path)
    }

    /// Converts a span of the file to a range of the window. Rounds down to character boundaries, because a wrong span
    /// must not panic.
    fn range_in_window(&self, span: Span) -> Range<usize> {
        let clamp = |offset: u32| {
            let mut offset = (offset as usize).saturating_sub(self.start_offset).min(self.text.len());
            while !self.text.is_char_boundary(offset) {
                offset -= 1;
            }
            offset
        };
        let start = clamp(span.start);
        start..clamp(span.end).max(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifest::Code;
    use manifest::diagnostic::Edit;

    fn sources(text: &str) -> Sources {
        let mut sources = Sources::default();
        sources.add("pdev.yaml", text);
        sources
    }

    fn span(start: usize, end: usize) -> Span {
        Span::new(FileId(0), start, end)
    }

    #[test]
    fn diagnostic_shows_related_position_and_fix() {
        let text = "\u{feff}pdev: 1\nservices:\n  web:\n    helth: /\n    health: /a\n";
        let (bad, good) = (text.find("helth").unwrap(), text.find("health").unwrap());
        let diagnostic = Diagnostic::new(Code("PD0104"), Severity::Error, span(bad, bad + 5), "unknown field `helth`")
            .help("Read `pdev explain services.web`.")
            .related(span(good, good + 6), "this spelling is right")
            .fix("change it to `health`", true, vec![Edit { span: span(bad, bad + 5), text: "health".into() }]);
        let rendered = render(&diagnostic, &sources(text), Paint { is_enabled: false });
        let expected = "\
error[PD0104]: unknown field `helth`
 --> pdev.yaml:4:5
  |
4 |     helth: /
  |     ^^^^^
5 |     health: /a
  |     ------ this spelling is right
  |
  = help: Read `pdev explain services.web`.
help: change it to `health`
  |
4 |     health: /
  |       +";
        assert_eq!(rendered.trim_end(), expected, "\n{rendered}");
    }

    #[test]
    fn any_span_renders_without_panic() {
        let text = "a: é\r\nb: \u{202e}x\r\n";
        for start in 0..30 {
            for end in 0..30 {
                let diagnostic =
                    Diagnostic::new(Code("PD0001"), Severity::Info, Span { file: FileId(0), start, end }, "m")
                        .related(Span { file: FileId(1), start, end }, "elsewhere")
                        .fix("f", true, vec![Edit { span: Span { file: FileId(0), start, end }, text: "x".into() }]);
                let _rendered = render(&diagnostic, &sources(text), Paint { is_enabled: true });
                let _empty = render(&diagnostic, &sources(""), Paint { is_enabled: true });
            }
        }
    }
}
