//! Paths in a manifest are relative to the file that contains them. This module makes those of included files relative
//! to the root's folder, so that no other code needs to know the file.

use crate::model::{Manifest, Service};
use crate::spec::{ROOT, Shape, find_key};
use crate::syntax::{Kind, Node};
use crate::text::{Sources, Spanned};
use crate::validate::matches_shape;

static ROOT_SHAPE: Shape = Shape::Section(&ROOT);

/// The folder of a file, relative to the root's folder; empty for files beside the root.
pub(crate) fn parent_folder(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Turns `a/./b/../c` into `a/c`; a leading `..` (above the manifest's folder) remains.
pub(crate) fn normalise_path(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Changes all paths below the root of an included file.
pub(crate) fn relocate(tree: &mut Node, folder: &str) {
    if !folder.is_empty() {
        relocate_node(tree, &ROOT_SHAPE, folder);
    }
}

fn relocate_node(node: &mut Node, shape: &'static Shape, folder: &str) {
    match (shape, &mut node.kind) {
        (Shape::Section(section), Kind::Map(pairs)) => {
            for pair in pairs {
                let name = pair.key.value.trim_start_matches('+');
                if let Some(key) = find_key(section, name) {
                    relocate_node(&mut pair.value, &key.shape, folder);
                }
            }
        }
        (Shape::Map(inner), Kind::Map(pairs)) => {
            pairs.iter_mut().for_each(|pair| relocate_node(&mut pair.value, inner, folder));
        }
        (Shape::List(inner), Kind::List(items)) => {
            items.iter_mut().for_each(|item| relocate_node(item, inner, folder));
        }
        // A list that has only one item may be written without brackets.
        (Shape::List(inner), Kind::Scalar(_)) => relocate_node(node, inner, folder),
        (Shape::Any(shapes), _) => {
            if let Some(matching) = shapes.iter().find(|shape| matches_shape(node, shape)) {
                relocate_node(node, matching, folder);
            }
        }
        (Shape::Path, Kind::Scalar(scalar)) if !scalar.is_null() && is_relative(&scalar.text) => {
            scalar.text = join(folder, &scalar.text);
        }
        (Shape::Module, Kind::Scalar(scalar)) if scalar.text.starts_with("./") || scalar.text.starts_with("../") => {
            let joined = join(folder, &scalar.text);
            scalar.text = if joined.starts_with("../") { joined } else { format!("./{joined}") };
        }
        _ => {}
    }
}

/// A path of this machine is reported elsewhere, and a URL is no path.
fn is_relative(path: &str) -> bool {
    !path.is_empty() && !path.starts_with(['/', '~']) && !path.contains("://")
}

fn join(folder: &str, path: &str) -> String {
    let joined = normalise_path(&format!("{folder}/{path}"));
    if joined.is_empty() { ".".to_owned() } else { joined }
}

/// A `build` without `context` means the folder of the file that contains it.
pub(crate) fn set_default_contexts(manifest: &mut Manifest, sources: &Sources) {
    let set = |service: &mut Service| {
        if let Some(build) = service.build.as_mut().filter(|build| build.context.value.is_empty()) {
            let folder = sources.get(build.context.span.file).map_or("", |source| parent_folder(&source.path));
            let context = if folder.is_empty() { "." } else { folder };
            build.context = Spanned::new(context.to_owned(), build.context.span);
        }
    };
    manifest.services.values_mut().for_each(|entry| set(&mut entry.value));
    manifest.jobs.values_mut().for_each(|entry| set(&mut entry.value.body));
}
