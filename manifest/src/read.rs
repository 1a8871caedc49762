//! Entry point: reads the files once, then selects any number of environments.

use std::borrow::Cow;

use strings::nearest;

use crate::check::Checker;
use crate::codes;
use crate::decode;
use crate::diagnostic::{Diagnostic, Severity};
use crate::layers::{has_append_keys, merge, merge_overlay, strip_append_prefixes};
use crate::model::{Manifest, Runtime};
use crate::paths::{self, normalise_path};
use crate::spec::ROOT;
use crate::syntax::{self, Comment, Kind, Node, Pair, PreviousParse, ReparseBase};
use crate::text::{FileId, FileProblem, Files, Sources, Span, Spanned};
use crate::validate::Validator;

/// Limit of the reported diagnostics; one more diagnostic reports the number of the others.
const DIAGNOSTICS_MAX: usize = 100;
const INCLUDES_MAX: usize = 64;
/// Deeper than any key of the language and any `raw` object.
const SET_PATH_PARTS_MAX: usize = 32;
const DEFAULT_ENVIRONMENT: &str = "local";

/// The parsed files, from which any environment can be selected.
#[derive(Clone, Debug, Default)]
pub struct ParsedManifest {
    pub sources: Sources,
    /// The tree of the root file alone, for editors.
    pub root: Option<Node>,
    pub comments: Vec<Comment>,
    pub diagnostics: Vec<Diagnostic>,
    /// The base for incremental parsing of the root's next version.
    pub reparse_base: ReparseBase,
    /// Includes and base merged; `None` without includes, where `root` is the merged tree.
    merged: Option<Node>,
}

/// One effective manifest.
#[derive(Clone, Debug, Default)]
pub struct EffectiveManifest {
    pub sources: Sources,
    pub manifest: Manifest,
    /// Diagnostics of all layers, sorted by position: at most `DIAGNOSTICS_MAX`, plus one that counts the others.
    pub diagnostics: Vec<Diagnostic>,
}

/// `--set services.web.replicas=2`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetOverride {
    pub path: Vec<String>,
    pub value: String,
    text: String,
}

impl SetOverride {
    /// # Errors
    /// A message, if the text is not `path=value`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (path, value) = text.split_once('=').ok_or("there is no `=`")?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        if path.iter().any(String::is_empty) {
            return Err("a part of the path is empty".into());
        }
        if path.len() > SET_PATH_PARTS_MAX {
            return Err(format!(
                "the path has {} parts; the language has no more than {SET_PATH_PARTS_MAX}",
                path.len()
            ));
        }
        Ok(Self { path, value: value.to_owned(), text: text.to_owned() })
    }
}

/// Reads `root` and all files that it includes.
#[must_use]
pub fn read(root: &str, files: &dyn Files) -> ParsedManifest {
    read_incremental(root, files, None)
}

/// Returns the same result as [`read`], but faster if `previous` differs from `root` within one unit only.
#[must_use]
pub fn read_incremental(root: &str, files: &dyn Files, previous: Option<PreviousParse<'_>>) -> ParsedManifest {
    let mut reader =
        Reader { files, previous, result: ParsedManifest::default(), include_stack: Vec::new(), file_count: 0 };
    let tree = reader.read_file(root, None);
    let mut parsed = reader.result;
    parsed.merged = tree;
    // Diagnostics of an unreadable root have positions in file 0, so that file must exist.
    if parsed.sources.get(FileId(0)).is_none() {
        parsed.sources.add(root, "");
    }
    parsed
}

struct Reader<'a> {
    files: &'a dyn Files,
    /// An earlier version of the root file.
    previous: Option<PreviousParse<'a>>,
    result: ParsedManifest,
    include_stack: Vec<String>,
    file_count: usize,
}

impl Reader<'_> {
    /// The merged tree of a file and its includes; `include_span` is the position of the `include` item.
    ///
    /// For a root without includes it returns `None`: `result.root` is then the merged tree.
    fn read_file(&mut self, path: &str, include_span: Option<Span>) -> Option<Node> {
        if self.include_stack.iter().any(|open| open == path) {
            let cycle = self.include_stack.iter().map(String::as_str).chain([path]).collect::<Vec<_>>().join(" -> ");
            self.report(
                codes::INCLUDE_CYCLE,
                include_span,
                format!("these files include one another: {cycle}"),
                "Remove one of the includes.",
            );
            return None;
        }
        self.file_count += 1;
        if self.file_count > INCLUDES_MAX {
            self.report(
                codes::TOO_BIG,
                include_span,
                format!("more than {INCLUDES_MAX} files are included"),
                "Merge some of them.",
            );
            return None;
        }
        let bytes = match self.files.read(path) {
            Ok(bytes) => bytes,
            Err(problem) => {
                self.report_unreadable(path, include_span, &problem);
                return None;
            }
        };
        // Diagnostics refer to the file by its id, so the source is added before the first of them.
        let (text, problem) = syntax::decode_utf8(bytes, FileId(self.next_file_id()));
        let file = self.result.sources.add(path, text.as_str());
        self.result.diagnostics.extend(problem);
        let previous = self.previous.filter(|_| file == FileId(0));
        let parsed = syntax::parse_incremental(&text, file, previous);
        self.result.diagnostics.extend(parsed.diagnostics);
        self.result.comments.extend(parsed.comments);
        let mut tree = parsed.root;
        if let Some(tree) = &tree {
            Validator::new(&mut self.result.diagnostics).validate_section(tree, &ROOT);
        }
        if let Some(tree) = tree.as_mut().filter(|_| file != FileId(0)) {
            paths::relocate(tree, paths::parent_folder(path));
        }
        if file == FileId(0) {
            self.result.reparse_base = parsed.reparse_base;
            // Avoids a copy of a large tree if no include can change it.
            if tree.as_ref().is_none_or(|tree| tree.get("include").is_none()) {
                self.result.root = tree;
                return None;
            }
            self.result.root.clone_from(&tree);
        }
        self.include_stack.push(path.to_owned());
        let merged = self.merge_includes(path, tree);
        self.include_stack.pop();
        merged
    }

    fn next_file_id(&self) -> u32 {
        u32::try_from(self.result.sources.iter().count()).unwrap_or(u32::MAX)
    }

    fn merge_includes(&mut self, path: &str, tree: Option<Node>) -> Option<Node> {
        let tree = tree?;
        let folder = paths::parent_folder(path);
        let includes: Vec<(String, Span)> = match tree.get("include").map(|pair| &pair.value.kind) {
            Some(Kind::List(items)) => {
                let path = |item: &Node| item.as_scalar().filter(|path| !path.is_null()).map(|path| path.text.clone());
                items.iter().filter_map(|item| Some((path(item)?, item.span))).collect()
            }
            _ => Vec::new(),
        };
        let mut lower_layers: Option<Node> = None;
        for (include, span) in includes {
            if include.contains("://") || include.starts_with("git+") {
                let message =
                    format!("`{include}` is not a file beside this one; this version includes local files only");
                self.report(
                    codes::UNREADABLE,
                    Some(span),
                    message,
                    "Copy the file into the repository and include it by its path.",
                );
                continue;
            }
            let target = if folder.is_empty() { include } else { format!("{folder}/{include}") };
            if let Some(node) = self.read_file(&normalise_path(&target), Some(span)) {
                lower_layers = Some(match lower_layers {
                    Some(lower) => merge(lower, node),
                    None => node,
                });
            }
        }
        Some(match lower_layers {
            Some(lower) => merge(lower, tree),
            None => tree,
        })
    }

    fn report_unreadable(&mut self, path: &str, include_span: Option<Span>, problem: &FileProblem) {
        let message = match problem {
            FileProblem::Missing => format!("there is no file `{path}`"),
            FileProblem::Unreadable(why) => format!("cannot read `{path}`: {why}"),
        };
        self.report(codes::UNREADABLE, include_span, message, "Check the path and who may read it.");
    }

    fn report(&mut self, code: crate::Code, span: Option<Span>, message: String, help: &str) {
        self.result
            .diagnostics
            .push(Diagnostic::new(code, Severity::Error, span.unwrap_or_default(), message).help(help));
    }
}

impl ParsedManifest {
    /// The effective manifest of an environment (`local` by default), with the `--set` overrides on top.
    #[must_use]
    pub fn select(&self, environment: Option<&str>, sets: &[SetOverride]) -> EffectiveManifest {
        let mut sources = self.sources.clone();
        let mut diagnostics = self.diagnostics.clone();
        let name = environment.unwrap_or(DEFAULT_ENVIRONMENT);
        let base = self.merged.as_ref().or(self.root.as_ref());
        // Without an overlay, `--set` or `+key`, the tree is borrowed and never copied.
        let mut tree = base.map_or_else(|| Cow::Owned(Node::null(Span::default())), Cow::Borrowed);
        let overlay = tree.get("environments").and_then(|pair| pair.value.get(name)).map(|pair| pair.value.clone());
        if overlay.is_none() && name != DEFAULT_ENVIRONMENT {
            diagnostics.push(unknown_environment(&tree, name));
        }
        let settings = decode::environment(name, overlay.as_ref());
        if let Some(overlay) = overlay {
            tree = Cow::Owned(merge_overlay(tree.into_owned(), without_settings(overlay)));
        }
        for set in sets {
            tree = Cow::Owned(merge_overlay(tree.into_owned(), set_layer(set, &mut sources, &mut diagnostics)));
        }
        if has_append_keys(&tree) {
            tree = Cow::Owned(strip_append_prefixes(tree.into_owned()));
        }
        let mut manifest = decode::manifest(&tree);
        manifest.environment = settings;
        paths::set_default_contexts(&mut manifest, &sources);
        self.check_required_keys(&tree, &manifest, &mut diagnostics);
        let mut checker = Checker { manifest: &manifest, diagnostics };
        checker.run();
        let diagnostics = sort_and_limit_diagnostics(checker.diagnostics);
        EffectiveManifest { sources, manifest, diagnostics }
    }

    /// Reports missing required keys. Skipped for a file that cannot be parsed, where the key may be in the broken
    /// part.
    fn check_required_keys(&self, tree: &Node, manifest: &Manifest, diagnostics: &mut Vec<Diagnostic>) {
        let is_broken = diagnostics.iter().any(|diagnostic| {
            diagnostic.code == codes::SYNTAX
                || diagnostic.code == codes::UNREADABLE
                || diagnostic.code == codes::MERGE_CONFLICT
        });
        if is_broken {
            return;
        }
        let start = Span { end: tree.span.start, ..tree.span };
        if tree.get("pdev").is_none_or(|pair| pair.value.is_null()) {
            let message = "the manifest does not say its version";
            let edit = crate::diagnostic::Edit { span: start, text: "pdev: 1\n".into() };
            let missing =
                Diagnostic::new(codes::MISSING_KEY, Severity::Error, start, message).help("Begin it with `pdev: 1`.");
            diagnostics.push(missing.fix("add `pdev: 1`", true, vec![edit]));
        }
        if manifest.app.name.value.is_empty() {
            let missing = Diagnostic::new(codes::MISSING_KEY, Severity::Error, start, "the application has no name")
                .at_path("app");
            diagnostics.push(missing.help("Write for example `app: shop`: it is part of every URL."));
        }
        for pair in tree
            .get("guardrails")
            .and_then(|pair| pair.value.get("waivers"))
            .into_iter()
            .flat_map(|pair| list_items(&pair.value))
        {
            for key in ["rule", "scope", "reason", "owner", "expires"] {
                report_missing_key(pair, key, "a waiver", "guardrails.waivers", diagnostics);
            }
        }
        for item in tree.get("patches").into_iter().flat_map(|pair| list_items(&pair.value)) {
            report_missing_key(item, "target", "a patch", "patches", diagnostics);
            let has = |key: &str| item.get(key).is_some_and(|pair| !pair.value.is_null());
            if !has("merge") && !has("json") {
                report_missing_key(item, "merge", "a patch", "patches", diagnostics);
            }
            if let Some(target) = item.get("target") {
                report_missing_key(&target.value, "runtime", "a patch's target", "patches", diagnostics);
            }
        }
    }
}

fn list_items(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(items) => items,
        _ => &[],
    }
}

fn report_missing_key(node: &Node, key: &str, owner: &str, path: &str, diagnostics: &mut Vec<Diagnostic>) {
    let is_present = node.get(key).is_some_and(|pair| !pair.value.is_null());
    if node.as_map().is_some() && !is_present {
        let span = node.as_map().and_then(|pairs| pairs.first()).map_or(node.span, |pair| pair.key.span);
        diagnostics.push(
            Diagnostic::new(codes::MISSING_KEY, Severity::Error, span, format!("{owner} needs `{key}`"))
                .at_path(path)
                .help(format!("Add `{key}`.")),
        );
    }
}

fn unknown_environment(tree: &Node, name: &str) -> Diagnostic {
    let known: Vec<String> = tree
        .get("environments")
        .and_then(|pair| pair.value.as_map())
        .map(|pairs| pairs.iter().map(|pair| pair.key.value.clone()).collect())
        .unwrap_or_default();
    let suggestion = nearest(name, known.iter().map(String::as_str))
        .map(|near| format!("; did you mean `{near}`?"))
        .unwrap_or_default();
    let span = tree.get("environments").map(|pair| pair.key.span).unwrap_or_default();
    let help = if known.is_empty() {
        "The manifest declares none; `local` always exists.".to_owned()
    } else {
        format!("Known: local, {}.", known.join(", "))
    };
    Diagnostic::new(
        codes::UNKNOWN_ENVIRONMENT,
        Severity::Error,
        span,
        format!("there is no environment `{name}`{suggestion}"),
    )
    .at_path("environments")
    .help(help)
}

/// The overlay without its settings (runtime, context, ttl), which are not part of the application.
fn without_settings(overlay: Node) -> Node {
    let Kind::Map(pairs) = overlay.kind else { return Node { span: overlay.span, kind: Kind::Map(Vec::new()) } };
    let application_pairs =
        pairs.into_iter().filter(|pair| !["runtime", "context", "ttl"].contains(&pair.key.value.as_str())).collect();
    Node { span: overlay.span, kind: Kind::Map(application_pairs) }
}

/// Turns `a.b=c` into a tree with its own source, and validates it like a file.
fn set_layer(set: &SetOverride, sources: &mut Sources, diagnostics: &mut Vec<Diagnostic>) -> Node {
    let text = format!("--set {}", set.text);
    let file = sources.add("--set", text.as_str());
    let value_at = text.len() - set.value.len();
    let value = parse_set_value(set, file, value_at);
    let mut at = value_at - 1;
    // Builds the maps from the innermost to the outermost, so that each key has its position in the text of the option.
    let mut node = value;
    for (index, name) in set.path.iter().enumerate().rev() {
        let start = at - name.len();
        let key = Spanned::new(name.clone(), Span::new(file, start, at));
        node = Node { span: Span::new(file, start, text.len()), kind: Kind::Map(vec![Pair { key, value: node }]) };
        at = start.saturating_sub(usize::from(index > 0));
    }
    Validator::new(diagnostics).validate_section(&node, &ROOT);
    node
}

/// The value is YAML (`[a, b]`, `true`, `null`); a value that does not parse is text.
fn parse_set_value(set: &SetOverride, file: FileId, at: usize) -> Node {
    let parsed = syntax::parse(&set.value, file);
    let by = i32::try_from(at).unwrap_or_default();
    match parsed.root {
        Some(root) if parsed.diagnostics.is_empty() => root.shifted(by),
        _ => Node {
            span: Span::new(file, at, at + set.value.len()),
            kind: Kind::Scalar(syntax::Scalar::quoted(&set.value)),
        },
    }
}

/// Sorts by position, removes duplicates and limits the number.
#[must_use]
pub fn sort_and_limit_diagnostics(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by(|a, b| {
        (a.span.file, a.span.start, a.code, &a.message).cmp(&(b.span.file, b.span.start, b.code, &b.message))
    });
    diagnostics.dedup();
    if diagnostics.len() > DIAGNOSTICS_MAX {
        let omitted = diagnostics.len() - DIAGNOSTICS_MAX;
        // An omitted error must still fail the command.
        let has_errors = diagnostics[DIAGNOSTICS_MAX..].iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        diagnostics.truncate(DIAGNOSTICS_MAX);
        let span = diagnostics.last().map(|last| last.span).unwrap_or_default();
        let severity = if has_errors { Severity::Error } else { Severity::Info };
        diagnostics.push(
            Diagnostic::new(codes::MORE_FINDINGS, severity, span, format!("and {omitted} more"))
                .help("Fix these first; then the others are shown."),
        );
    }
    diagnostics
}

/// The runtime's name in the manifest.
#[must_use]
pub fn runtime_name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Docker => "docker",
        Runtime::Kubernetes => "kubernetes",
        Runtime::Process => "process",
    }
}
