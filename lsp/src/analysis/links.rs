//! Links from values to included files, Dockerfiles, local modules and web pages.

use manifest::Span;
use manifest::syntax::{Kind, Node};

use super::references::unquoted_span;

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkTarget {
    /// Candidates relative to the folder of the linking file. The first that exists is the target.
    Files(Vec<String>),
    Url(String),
    /// The line of a Dockerfile that starts this stage.
    Stage {
        file: String,
        stage: String,
    },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    pub span: Span,
    pub target: LinkTarget,
}

#[must_use]
pub fn links(root: &Node, text: &str) -> Vec<Link> {
    let mut found = Vec::new();
    collect_links(root, text, &mut found);
    found.retain(|link| !link.span.range().is_empty());
    found
}

fn collect_links(root: &Node, text: &str, found: &mut Vec<Link>) {
    let mut add = |node: &Node, target: &dyn Fn(&str) -> Option<LinkTarget>| {
        if let Some(target) =
            node.as_scalar().filter(|scalar| !scalar.is_null()).and_then(|scalar| target(&scalar.text))
        {
            found.push(Link { span: unquoted_span(text, node.span), target });
        }
    };
    for pair in root.as_map().unwrap_or_default() {
        let value = &pair.value;
        match pair.key.value.as_str() {
            "include" => list_items(value).iter().for_each(|item| add(item, &file_target)),
            "app" => {
                if let Some(docs) = value.get("docs") {
                    add(&docs.value, &page_or_file_target);
                }
            }
            "guardrails" => {
                let waivers = value.get("waivers").map(|pair| list_items(&pair.value)).unwrap_or_default();
                waivers.iter().filter_map(|waiver| waiver.get("link")).for_each(|link| add(&link.value, &page_target));
            }
            "services" | "jobs" => {
                for build in map_values(value).filter_map(|unit| unit.get("build")) {
                    add_build_links(&build.value, &mut add);
                }
            }
            "resources" => {
                for resource in map_values(value) {
                    let uses = resource.get("uses").map_or(resource, |pair| &pair.value);
                    add(uses, &module_target);
                }
            }
            _ => {}
        }
    }
    for environment in root.get("environments").into_iter().flat_map(|pair| map_values(&pair.value)) {
        collect_links(environment, text, found);
    }
}

type AddLink<'a> = dyn FnMut(&Node, &dyn Fn(&str) -> Option<LinkTarget>) + 'a;

fn add_build_links(build: &Node, add: &mut AddLink<'_>) {
    let context = build.get("context").map_or(build, |pair| &pair.value);
    let folder = context.as_scalar().map_or(".", |scalar| scalar.text.as_str()).to_owned();
    let in_context = |name: &str| LinkTarget::Files(vec![format!("{folder}/{name}")]);
    match build.get("dockerfile") {
        Some(dockerfile) => add(&dockerfile.value, &|name| Some(in_context(name))),
        None => add(context, &|_| Some(in_context("Dockerfile"))),
    }
    let name = build.get("dockerfile").and_then(|pair| pair.value.as_scalar());
    let file = format!("{folder}/{}", name.map_or("Dockerfile", |scalar| scalar.text.as_str()));
    if let Some(target) = build.get("target") {
        add(&target.value, &|stage| Some(LinkTarget::Stage { file: file.clone(), stage: stage.to_owned() }));
    }
}

fn map_values(node: &Node) -> impl Iterator<Item = &Node> {
    node.as_map().unwrap_or_default().iter().map(|pair| &pair.value)
}

fn list_items(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::List(items) => items,
        _ => &[],
    }
}

/// The links of a `module.yaml`: its docs.
#[must_use]
pub fn module_links(root: &Node, text: &str) -> Vec<Link> {
    let docs = root.get("docs").filter(|pair| pair.value.as_scalar().is_some_and(|scalar| !scalar.is_null()));
    let link = |pair: &manifest::syntax::Pair| {
        let target = file_target(&pair.value.as_scalar()?.text)?;
        Some(Link { span: unquoted_span(text, pair.value.span), target })
    };
    docs.and_then(link).into_iter().collect()
}

/// The zero-based line of a Dockerfile that starts a stage.
#[must_use]
pub fn stage_line(dockerfile: &str, stage: &str) -> Option<usize> {
    dockerfile.lines().position(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let named = words.windows(2).any(|two| two[0].eq_ignore_ascii_case("as") && two[1].eq_ignore_ascii_case(stage));
        named && words[0].eq_ignore_ascii_case("from")
    })
}

fn page_target(text: &str) -> Option<LinkTarget> {
    text.starts_with("http").then(|| LinkTarget::Url(text.to_owned()))
}

fn file_target(text: &str) -> Option<LinkTarget> {
    (!text.contains("://")).then(|| LinkTarget::Files(vec![text.to_owned()]))
}

fn page_or_file_target(text: &str) -> Option<LinkTarget> {
    let candidates = || {
        LinkTarget::Files(
            ["README.md", "index.md"]
                .map(|name| format!("{text}/{name}"))
                .into_iter()
                .chain([text.to_owned()])
                .collect(),
        )
    };
    page_target(text).or_else(|| (!text.contains("://")).then(candidates))
}

fn module_target(text: &str) -> Option<LinkTarget> {
    let folder = text.split('@').next().unwrap_or_default();
    text.starts_with(['.']).then(|| LinkTarget::Files(vec![format!("{folder}/module.yaml")]))
}
