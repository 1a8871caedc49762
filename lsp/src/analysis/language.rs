//! Queries of the manifest's specification by a path of keys: the shapes that are allowed there, and their
//! documentation.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use manifest::spec::{Key, ROOT, Section, Shape, find_key};

/// The shapes that are allowed at a path, including shorthands.
#[derive(Clone, Debug, Default)]
pub struct AllowedShapes {
    pub shapes: Vec<&'static Shape>,
    /// The key of the specification at the end of the path.
    pub key: Option<(&'static Section, &'static Key)>,
}

static ROOT_SHAPE: Shape = Shape::Section(&ROOT);

/// In `path`, a name is a key and `None` is a list item.
#[must_use]
pub fn allowed_at(path: &[Option<&str>]) -> AllowedShapes {
    let mut current = AllowedShapes { shapes: vec![&ROOT_SHAPE], key: None };
    for part in path {
        let mut next = AllowedShapes::default();
        for shape in flatten_shapes(&current.shapes) {
            match (shape, part) {
                (Shape::Section(section), Some(name)) => {
                    if let Some(key) = find_key(section, name.trim_start_matches('+')) {
                        next.shapes.push(&key.shape);
                        next.key = Some((section, key));
                    }
                }
                (Shape::Map(inner), Some(_)) | (Shape::List(inner), None) => {
                    next.shapes.push(inner);
                    next.key = current.key;
                }
                (Shape::Free, _) => {
                    next.shapes.push(shape);
                    next.key = current.key;
                }
                _ => {}
            }
        }
        current = next;
    }
    current.shapes = flatten_shapes(&current.shapes);
    current
}

fn flatten_shapes(shapes: &[&'static Shape]) -> Vec<&'static Shape> {
    let mut flat_shapes = Vec::new();
    for shape in shapes {
        match shape {
            Shape::Any(inner) => flat_shapes.extend(flatten_shapes(&inner.iter().collect::<Vec<_>>())),
            shape => flat_shapes.push(*shape),
        }
    }
    flat_shapes
}

impl AllowedShapes {
    #[must_use]
    pub fn section(&self) -> Option<&'static Section> {
        self.shapes.iter().find_map(|shape| match shape {
            Shape::Section(section) => Some(*section),
            _ => None,
        })
    }
}

/// Finds a key by the names of its section and itself, as in [`super::completion::DocTarget`].
#[must_use]
pub fn find_key_by_name(section: &str, key: &str) -> Option<&'static Key> {
    static SECTIONS: OnceLock<BTreeMap<&'static str, &'static Section>> = OnceLock::new();
    let all = SECTIONS.get_or_init(|| {
        let mut all = BTreeMap::new();
        // Sections refer to each other, so each is visited once.
        let mut pending = vec![&ROOT];
        while let Some(section) = pending.pop() {
            if all.insert(section.name, section).is_none() {
                section.keys.iter().for_each(|key| collect_sections(&key.shape, &mut pending));
            }
        }
        all
    });
    find_key(all.get(section)?, key)
}

fn collect_sections(shape: &'static Shape, found: &mut Vec<&'static Section>) {
    match shape {
        Shape::Section(section) => found.push(section),
        Shape::List(inner) | Shape::Map(inner) => collect_sections(inner, found),
        Shape::Any(shapes) => shapes.iter().for_each(|shape| collect_sections(shape, found)),
        _ => {}
    }
}

/// Describes the allowed values in a few words.
#[must_use]
pub fn describe_shape(shape: &Shape) -> String {
    match shape {
        Shape::Text | Shape::Path | Shape::Module => "text".into(),
        Shape::Template => "text with placeholders".into(),
        Shape::Bool => "true or false".into(),
        Shape::Integer { min, max } if *min == i64::MIN || *max == i64::MAX => "whole number".into(),
        Shape::Integer { min, max } if min == max => min.to_string(),
        Shape::Integer { min, max } => format!("{min} to {max}"),
        Shape::Duration => "duration, such as `10s`".into(),
        Shape::Bytes => "size, such as `256Mi`".into(),
        Shape::Cpu => "CPU cores, such as `250m`".into(),
        Shape::Date => "date, such as `2027-03-31`".into(),
        Shape::Choice(words) => words.join(" | "),
        Shape::List(inner) => format!("list of {}", describe_shape(inner)),
        Shape::Map(inner) => match **inner {
            Shape::Section(section) => format!("map of {}", section.name),
            _ => format!("map of {}", describe_shape(inner)),
        },
        // The name of the section is omitted: the key and its shorthand already describe it.
        Shape::Section(_) => "map".to_owned(),
        Shape::Any(shapes) => shapes.iter().map(describe_shape).collect::<Vec<_>>().join(" or "),
        Shape::Free => "anything".into(),
    }
}

/// Documentation of a key, as Markdown.
#[must_use]
pub fn key_docs(key: &Key) -> String {
    let mut text = format!("{}\n\n*{}*", key.doc, describe_shape(&key.shape));
    if !key.default.is_empty() {
        text.push_str("\n\nDefault: ");
        text.push_str(key.default);
        text.push('.');
    }
    text
}

/// Removes `environments.NAME` from the start of a path.
#[must_use]
pub fn without_environment<'a, 'b>(path: &'a [Option<&'b str>]) -> &'a [Option<&'b str>] {
    match path {
        [Some("environments"), Some(_), rest @ ..] => rest,
        path => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_at_follows_names_lists_and_shorthands() {
        let key =
            |path: &[Option<&str>]| allowed_at(path).key.map(|(section, key)| format!("{}.{}", section.name, key.name));
        let s = Some("services");
        assert_eq!(key(&[s, Some("web"), Some("health"), Some("ready"), Some("http")]).as_deref(), Some("probe.http"));
        assert_eq!(key(&[s, Some("web"), Some("watch"), None, Some("action")]).as_deref(), Some("watch.action"));
        assert_eq!(
            key(&[Some("environments"), Some("x"), s, Some("a"), Some("port")]).as_deref(),
            Some("service.port")
        );
        let input = allowed_at(&[Some("resources"), Some("db"), Some("with"), Some("x")]);
        assert!(input.shapes.iter().any(|shape| matches!(shape, Shape::Free)));
        assert!(allowed_at(&[Some("nothing")]).shapes.is_empty());
        let port = find_key_by_name("service", "port").map(|key| describe_shape(&key.shape));
        assert_eq!(port.as_deref(), Some("map or 1 to 65535"));
        assert_eq!(find_key_by_name("service", "port").map(|key| key.name), Some("port"));
    }
}
