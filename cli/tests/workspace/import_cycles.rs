//! Import cycles between the modules of a crate.
//!
//! Modules are compared with their siblings: `a::x` that imports `b::y` counts as `a` importing `b`. A parent and its
//! children may import each other, because a parent declares its children.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A module's path inside its crate; the crate's root is empty.
type Module = Vec<String>;

/// Imports between children of one module: (importing child, imported child) -> one example.
type SiblingImports = BTreeMap<(String, String), String>;

/// The cycles of all crates, each as `crate::parent: a, b (a::x -> b::y, b::z -> a::w)`.
pub(crate) fn find_cycles(sources: &[(String, String)]) -> Vec<String> {
    let mut crates: BTreeMap<&str, BTreeMap<Module, &str>> = BTreeMap::new();
    for (path, text) in sources {
        if let Some((name, module)) = locate_module(path) {
            crates.entry(name).or_default().insert(module, text.as_str());
        }
    }
    crates.iter().flat_map(|(name, modules)| cycles_of_crate(name, modules)).collect()
}

/// `agent/src/proxy/pool.rs` is the module `proxy::pool` of the crate `agent`.
fn locate_module(path: &str) -> Option<(&str, Module)> {
    let (name, file) = path.split_once("/src/")?;
    let mut parts: Module =
        Path::new(file).with_extension("").iter().map(|part| part.to_string_lossy().into()).collect();
    parts.pop_if(|last| ["lib", "main", "mod"].contains(&last.as_str()));
    let is_test = parts.last().is_some_and(|last| last == "tests");
    (!name.contains('/') && !is_test).then_some((name, parts))
}

fn cycles_of_crate(name: &str, modules: &BTreeMap<Module, &str>) -> Vec<String> {
    let mut imports_by_parent: BTreeMap<Module, SiblingImports> = BTreeMap::new();
    for (module, text) in modules {
        for path in imported_paths(text) {
            let target = resolve(module, &path, modules);
            let shared = module.iter().zip(&target).take_while(|(left, right)| left == right).count();
            let (Some(from), Some(to)) = (module.get(shared), target.get(shared)) else { continue };
            let example = format!("{} -> {}", module.join("::"), target.join("::"));
            let imports = imports_by_parent.entry(module[..shared].to_vec()).or_default();
            imports.entry((from.clone(), to.clone())).or_insert(example);
        }
    }
    let mut cycles = Vec::new();
    for (parent, imports) in imports_by_parent {
        let place: Vec<&str> = std::iter::once(name).chain(parent.iter().map(String::as_str)).collect();
        for members in connected_groups(&imports) {
            let is_inside = |(from, to): &&(String, String)| members.contains(from) && members.contains(to);
            let examples: Vec<&str> = imports.keys().filter(is_inside).map(|pair| imports[pair].as_str()).collect();
            let members: Vec<&str> = members.iter().map(String::as_str).collect();
            cycles.push(format!("{}: {} ({})", place.join("::"), members.join(", "), examples.join(", ")));
        }
    }
    cycles
}

/// Groups of children in which each one reaches all others.
fn connected_groups(imports: &SiblingImports) -> BTreeSet<BTreeSet<String>> {
    let reachable = |start: &String| {
        let (mut pending, mut visited) = (vec![start], BTreeSet::new());
        while let Some(child) = pending.pop() {
            let next = imports.keys().filter(|(from, _)| from == child).map(|(_, to)| to);
            pending.extend(next.filter(|to| visited.insert((*to).clone())));
        }
        visited
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = imports.keys().map(|(from, _)| (from, reachable(from))).collect();
    let group = |child: &&String| {
        let is_mutual = |other: &&String| reach.get(*other).is_some_and(|back| back.contains(*child));
        reach[*child].iter().filter(is_mutual).cloned().collect::<BTreeSet<String>>()
    };
    reach.keys().filter(|child| reach[**child].contains(**child)).map(group).collect()
}

/// Paths that start with `crate` or `super`, in imports and in expressions, without the test module and comments.
fn imported_paths(text: &str) -> Vec<Module> {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for (index, _) in code.match_indices("crate::").chain(code.match_indices("super::")) {
        let is_start =
            !code[..index].ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == ':');
        if is_start {
            paths.extend(expand_tree(&code[index..]));
        }
    }
    paths
}

/// The paths of a use tree at the start of the text: `a::{b, c::d}` has `a::b` and `a::c::d`.
fn expand_tree(text: &str) -> Vec<Module> {
    let text = text.trim_start();
    let name: String = text.chars().take_while(|character| character.is_alphanumeric() || *character == '_').collect();
    let remaining = &text[name.len()..];
    let below = match remaining.strip_prefix("::") {
        _ if name.is_empty() => return Vec::new(),
        Some(tree) if tree.starts_with('{') => split_branches(tree).into_iter().flat_map(expand_tree).collect(),
        Some(tree) => expand_tree(tree),
        None => Vec::new(),
    };
    if below.is_empty() {
        return vec![vec![name]];
    }
    below.into_iter().map(|path| std::iter::once(name.clone()).chain(path).collect()).collect()
}

/// The branches of `{a, b::{c, d}}`, which the text starts with.
fn split_branches(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut branches) = (0, 1, Vec::new());
    for (index, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if (character == ',' && depth == 1) || depth == 0 {
            branches.push(&text[start..index]);
            start = index + 1;
        }
        if depth == 0 {
            break;
        }
    }
    branches
}

/// The module that a path of `module` leads to; an item belongs to the module that contains it.
fn resolve(module: &Module, path: &[String], modules: &BTreeMap<Module, &str>) -> Module {
    let mut target = if path[0] == "crate" { Vec::new() } else { module.clone() };
    for part in path.iter().skip_while(|part| *part == "crate") {
        if part == "super" {
            target.pop();
            continue;
        }
        target.push(part.clone());
        if !modules.contains_key(&target) {
            target.pop();
            break;
        }
    }
    target
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cycles(sources: &[(&str, &str)]) -> Vec<String> {
        let owned: Vec<(String, String)> =
            sources.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        find_cycles(&owned)
    }

    #[test]
    fn planted_cycle_is_found_through_submodules_and_use_trees() {
        let found = cycles(&[
            ("x/src/lib.rs", "mod a;\nmod b;\nmod c;"),
            ("x/src/a/mod.rs", "mod deep;"),
            ("x/src/a/deep.rs", "use crate::{\n    b::{self, Item},\n};"),
            ("x/src/b.rs", "fn f() { crate::c::g(); }"),
            ("x/src/c.rs", "use super::a::deep::Thing;"),
        ]);
        assert_eq!(found, ["x: a, b, c (a::deep -> b, b -> c, c -> a::deep)"]);
    }

    #[test]
    fn parents_comments_tests_and_other_crates_make_no_cycle() {
        let found = cycles(&[
            ("x/src/lib.rs", "use crate::a::Item;"),
            ("x/src/a.rs", "mod inner;\nuse super::Root;\nuse crate::a::inner::Part;\n// use crate::b::Item;"),
            ("x/src/a/inner.rs", "use super::Item;\nuse other::b::Item;"),
            ("x/src/b.rs", "use crate::a::Item;"),
            ("x/src/a/tests.rs", "use crate::b::Item;"),
            ("x/src/c.rs", "fn f() {}\n#[cfg(test)]\nmod tests { use crate::d::Item; }"),
            ("x/src/d.rs", "use crate::c::Item;"),
            ("y/src/a.rs", "use crate::b::Item;"),
            ("y/src/b.rs", ""),
        ]);
        assert_eq!(found, [""; 0]);
    }

    #[test]
    fn cycle_below_the_crate_root_names_its_parent() {
        let found = cycles(&[
            ("x/src/p/mod.rs", "mod a;\nmod b;"),
            ("x/src/p/a.rs", "use super::b::Item;"),
            ("x/src/p/b.rs", "use super::a::Item;"),
        ]);
        assert_eq!(found, ["x::p: a, b (p::a -> p::b, p::b -> p::a)"]);
    }
}
