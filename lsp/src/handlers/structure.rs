//! Symbols, folds, selections, links, semantic tokens and formatting. All of them need only the document.

use std::path::Path;

use manifest::{FileId, syntax};
use tower_lsp::ls_types::*;

use crate::analysis::format::{self, LineEdit, Refusal};
use crate::analysis::links::{self, LinkTarget};
use crate::analysis::outline::{self, OutlineKind, Symbol};
use crate::analysis::{on_type, tokens};
use crate::check::Analysis;
use crate::convert::Encoding;
use crate::text::Text;
use crate::workspace::Snapshot;

/// Editors render the whole outline, so it is truncated.
const SYMBOLS_MAX: usize = 10_000;

#[must_use]
pub fn document_symbols(snapshot: &Snapshot, is_hierarchical: bool) -> Option<DocumentSymbolResponse> {
    let all = outline::symbols(snapshot.root()?);
    if is_hierarchical {
        let mut remaining = SYMBOLS_MAX;
        return Some(DocumentSymbolResponse::Nested(nested_symbols(&all, snapshot, &mut remaining)));
    }
    let mut flat = Vec::new();
    visit_symbols(&all, None, &mut |symbol, container| {
        flat.push(symbol_information(symbol, container, &snapshot.uri, &snapshot.text, snapshot.encoding));
    });
    flat.truncate(SYMBOLS_MAX);
    Some(DocumentSymbolResponse::Flat(flat))
}

fn nested_symbols(symbols: &[Symbol], snapshot: &Snapshot, remaining: &mut usize) -> Vec<DocumentSymbol> {
    let mut all = Vec::new();
    for symbol in symbols {
        if *remaining == 0 {
            break;
        }
        *remaining -= 1;
        #[expect(deprecated, reason = "the struct has no other constructor than with its deprecated field")]
        all.push(DocumentSymbol {
            name: symbol.name.clone(),
            detail: (!symbol.detail.is_empty()).then(|| symbol.detail.clone()),
            kind: symbol_kind(symbol.kind),
            tags: None,
            deprecated: None,
            range: snapshot.encoding.range(&snapshot.text, symbol.range.clone()),
            selection_range: snapshot.encoding.range(&snapshot.text, symbol.selection_range.clone()),
            children: (!symbol.children.is_empty()).then(|| nested_symbols(&symbol.children, snapshot, remaining)),
        });
    }
    all
}

fn visit_symbols<'a>(
    symbols: &'a [Symbol],
    container: Option<&'a str>,
    visit: &mut dyn FnMut(&'a Symbol, Option<&'a str>),
) {
    for symbol in symbols {
        visit(symbol, container);
        visit_symbols(&symbol.children, Some(&symbol.name), visit);
    }
}

fn symbol_kind(kind: OutlineKind) -> SymbolKind {
    match kind {
        OutlineKind::Section => SymbolKind::NAMESPACE,
        OutlineKind::Service => SymbolKind::CLASS,
        OutlineKind::Job => SymbolKind::FUNCTION,
        OutlineKind::Resource => SymbolKind::OBJECT,
        OutlineKind::Secret => SymbolKind::KEY,
        OutlineKind::Variable => SymbolKind::VARIABLE,
        OutlineKind::Environment => SymbolKind::MODULE,
        OutlineKind::Value => SymbolKind::PROPERTY,
    }
}

fn symbol_information(
    symbol: &Symbol,
    container: Option<&str>,
    uri: &Uri,
    text: &Text,
    encoding: Encoding,
) -> SymbolInformation {
    #[expect(deprecated, reason = "the struct has no other constructor than with its deprecated field")]
    SymbolInformation {
        name: symbol.name.clone(),
        kind: symbol_kind(symbol.kind),
        tags: None,
        deprecated: None,
        location: Location { uri: uri.clone(), range: encoding.range(text, symbol.selection_range.clone()) },
        container_name: container.map(str::to_owned),
    }
}

/// The symbols of one file whose names contain the letters of the query in this order.
#[must_use]
pub fn matching_symbols(path: &Path, text: &Text, query: &str, encoding: Encoding) -> Vec<SymbolInformation> {
    let (Some(root), Some(uri)) = (syntax::parse(text.as_str(), FileId(0)).root, Uri::from_file_path(path)) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    visit_symbols(&outline::symbols(&root), None, &mut |symbol, container| {
        if container.is_some() && matches_query(&symbol.name, query) {
            found.push(symbol_information(symbol, container, &uri, text, encoding));
        }
    });
    found
}

fn matches_query(name: &str, query: &str) -> bool {
    let mut letters = name.chars().flat_map(char::to_lowercase);
    query.chars().flat_map(char::to_lowercase).all(|query_letter| letters.any(|letter| letter == query_letter))
}

#[must_use]
pub fn folding_ranges(snapshot: &Snapshot) -> Vec<FoldingRange> {
    let parsed = snapshot.parsed();
    let number = |line: usize| u32::try_from(line).unwrap_or(u32::MAX);
    let convert = |fold: outline::Fold| FoldingRange {
        start_line: number(fold.start),
        end_line: number(fold.end),
        kind: fold.is_comment.then_some(FoldingRangeKind::Comment),
        ..FoldingRange::default()
    };
    outline::folds(parsed.root.as_ref(), &parsed.comments, &snapshot.text).into_iter().map(convert).collect()
}

#[must_use]
pub fn selection_ranges(snapshot: &Snapshot, positions: &[Position]) -> Vec<SelectionRange> {
    let whole_text = || {
        let range = 0..snapshot.text.len();
        Vec::from([range])
    };
    let selection = |position: &Position| {
        let offset = snapshot.encoding.offset(&snapshot.text, *position);
        let root = snapshot.root();
        let ranges = root.map_or_else(whole_text, |root| outline::selection_ranges(root, &snapshot.text, offset));
        let grow = |inner: Option<Box<SelectionRange>>, range: &std::ops::Range<usize>| {
            let range = snapshot.encoding.range(&snapshot.text, range.clone());
            Some(Box::new(SelectionRange { range, parent: inner }))
        };
        // Fold from the outermost range inwards: each is the parent of the next.
        let innermost = ranges.iter().rev().fold(None, grow);
        innermost.map_or(SelectionRange { range: Range::default(), parent: None }, |range| *range)
    };
    positions.iter().map(selection).collect()
}

/// Only links whose target exists. A missing target is reported as a diagnostic.
#[must_use]
pub fn document_links(snapshot: &Snapshot) -> Vec<DocumentLink> {
    let (Some(root), Some(folder)) = (snapshot.root(), snapshot.path.parent()) else {
        return Vec::new();
    };
    let convert = |link: links::Link| {
        let range = snapshot.encoding.range(&snapshot.text, link.span.range());
        Some(DocumentLink { range, target: Some(link_uri(folder, link.target)?), tooltip: None, data: None })
    };
    let all = match snapshot.kind {
        crate::workspace::FileKind::Module => links::module_links(root, snapshot.text.as_str()),
        _ => links::links(root, snapshot.text.as_str()),
    };
    all.into_iter().filter_map(convert).collect()
}

fn link_uri(folder: &Path, target: LinkTarget) -> Option<Uri> {
    let path = |file: &str| crate::files::normalise_path(&folder.join(file));
    match target {
        LinkTarget::Url(url) => url.parse().ok(),
        LinkTarget::Files(files) => {
            files.iter().map(|file| path(file)).filter(|path| path.is_file()).find_map(Uri::from_file_path)
        }
        LinkTarget::Stage { file, stage } => {
            let bytes = crate::files::read_from_disk(&path(&file)).ok()?;
            let line = links::stage_line(&String::from_utf8_lossy(&bytes), &stage)?;
            let uri = Uri::from_file_path(path(&file))?;
            // Editors jump to the line in a fragment of this form.
            format!("{}#L{}", uri.as_str(), line + 1).parse().ok()
        }
    }
}

/// The target of the link at this position, as a definition.
#[must_use]
pub fn link_definition(snapshot: &Snapshot, position: Position) -> Option<GotoDefinitionResponse> {
    let is_at_position = |link: &DocumentLink| link.range.start <= position && position <= link.range.end;
    let link = document_links(snapshot).into_iter().find(is_at_position)?;
    let uri = link.target.filter(|uri| uri.scheme().as_str() == "file")?;
    let (file, line) = match uri.as_str().split_once("#L") {
        Some((file, line)) => (file.parse().ok()?, line.parse::<u32>().ok()?.saturating_sub(1)),
        None => (uri, 0),
    };
    let start = Position { line, character: 0 };
    Some(GotoDefinitionResponse::Scalar(Location { uri: file, range: Range { start, end: start } }))
}

/// The tokens in the range, or all.
#[must_use]
pub fn semantic_tokens(snapshot: &Snapshot, range: Option<Range>) -> SemanticTokens {
    let Some(root) = snapshot.root() else { return SemanticTokens::default() };
    let requested = range.map_or(0..snapshot.text.len(), |range| snapshot.encoding.byte_range(&snapshot.text, range));
    let mut data = Vec::new();
    // In the protocol each position is relative to the previous token.
    let mut previous = Position::default();
    for token in tokens::tokens(root, snapshot.text.as_str()) {
        if token.end <= requested.start || requested.end < token.start {
            continue;
        }
        let start = snapshot.encoding.position(&snapshot.text, token.start);
        let text = snapshot.text.as_str().get(token.start..token.end).unwrap_or_default();
        let same_line = start.line == previous.line;
        data.push(SemanticToken {
            delta_line: start.line - previous.line,
            delta_start: if same_line { start.character - previous.character } else { start.character },
            length: snapshot.encoding.code_unit_count(text),
            token_type: token.kind as u32,
            token_modifiers_bitset: u32::from(token.is_declaration),
        });
        previous = start;
    }
    SemanticTokens { result_id: None, data }
}

/// The edits of lines in the range, or all, and a message for the user about what stays as it is.
#[must_use]
pub fn formatting_edits(snapshot: &Snapshot, range: Option<Range>) -> (Vec<TextEdit>, Option<&'static str>) {
    let requested = range.map(|range| snapshot.encoding.byte_range(&snapshot.text, range));
    let formatting = match format::format(&snapshot.text, snapshot.valid_tree(), requested) {
        Ok(formatting) => formatting,
        // The diagnostics show the error. A message would repeat it after each save.
        Err(Refusal::HasErrors) => return (Vec::new(), None),
        Err(Refusal::ChangesMeaning) => {
            let message = "pdev did not format this file, because the result would have another meaning. Please report \
                           this as a bug of pdev.";
            return (Vec::new(), Some(message));
        }
    };
    let convert =
        |edit: LineEdit| TextEdit { range: snapshot.encoding.range(&snapshot.text, edit.range), new_text: edit.text };
    let message = formatting.is_indentation_unchanged.then_some(
        "pdev did not change the indentation of the selection, because it depends on the lines around it. Format the \
         whole file instead.",
    );
    (format::limit_edits(&snapshot.text, formatting.edits).into_iter().map(convert).collect(), message)
}

/// The indentation after a typed line break or dash.
#[must_use]
pub fn on_type_edits(snapshot: &Snapshot, position: Position, typed: &str) -> Vec<TextEdit> {
    let line = usize::try_from(position.line).unwrap_or(usize::MAX);
    let edit = on_type::Trigger::parse(typed).and_then(|trigger| match trigger {
        on_type::Trigger::LineBreak => on_type::indent_after_line_break(&snapshot.text, line),
        on_type::Trigger::Dash => on_type::indent_after_dash(&snapshot.text, line),
    });
    let convert = |edit: on_type::IndentEdit| TextEdit {
        range: snapshot.encoding.range(&snapshot.text, edit.range),
        new_text: " ".repeat(edit.spaces),
    };
    edit.map(convert).into_iter().collect()
}

/// The files of an analysis with their texts, for workspace symbols.
#[must_use]
pub fn source_texts(analysis: &Analysis) -> Vec<(std::path::PathBuf, Text)> {
    let files = analysis.loaded().sources.iter();
    files.filter_map(|(file, _)| Some((analysis.path(file)?.to_owned(), analysis.text(file)?.clone()))).collect()
}
