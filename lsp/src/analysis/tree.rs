//! Finds the node at an offset: the path of keys and items to it, and whether the offset is on a key or in a value.

use manifest::syntax::{Kind, Node, Pair};

/// One step from a node to a child.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Step<'a> {
    Key(&'a Pair),
    Item(usize, &'a Node),
}

/// The path from the root to an offset.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct NodePath<'a> {
    pub steps: Vec<Step<'a>>,
    /// The offset is on the key of the last step, not in its value.
    pub is_on_key: bool,
}

impl<'a> NodePath<'a> {
    /// The innermost node.
    #[must_use]
    pub fn node(&self) -> Option<&'a Node> {
        self.steps.last().map(|step| match step {
            Step::Key(pair) => &pair.value,
            Step::Item(_, node) => node,
        })
    }

    /// The innermost pair. If the node is a list item, it is the pair of the list.
    #[must_use]
    pub fn pair(&self) -> Option<&'a Pair> {
        self.steps.iter().rev().find_map(|step| match step {
            Step::Key(pair) => Some(*pair),
            Step::Item(..) => None,
        })
    }

    /// The names of keys and the indices of items, from the root.
    #[must_use]
    pub fn segments(&self) -> Vec<String> {
        let name = |step: &Step<'_>| match step {
            Step::Key(pair) => pair.key.value.clone(),
            Step::Item(index, _) => index.to_string(),
        };
        self.steps.iter().map(name).collect()
    }
}

/// The path to the node at this offset. The position directly after a word belongs to it.
#[must_use]
pub fn path_at(root: &Node, offset: usize) -> NodePath<'_> {
    let mut node_path = NodePath::default();
    let mut node = root;
    while let Some((step, on_key)) = child_at(node, offset) {
        node_path.steps.push(step);
        node_path.is_on_key = on_key;
        match step {
            Step::Key(pair) if !on_key => node = &pair.value,
            Step::Item(_, item) => node = item,
            Step::Key(_) => break,
        }
    }
    node_path
}

fn child_at(node: &Node, offset: usize) -> Option<(Step<'_>, bool)> {
    match &node.kind {
        Kind::Map(pairs) => {
            let on_key = pairs.iter().find(|pair| touches(pair.key.span, offset) && !pair.key.value.is_empty());
            if let Some(pair) = on_key {
                return Some((Step::Key(pair), true));
            }
            // Merged pairs (`<<`) are at other places, so the pairs are not sorted by position.
            let pair = pairs.iter().find(|pair| touches(pair.value.span, offset));
            pair.map(|pair| (Step::Key(pair), false))
        }
        Kind::List(items) => {
            let (index, item) = items.iter().enumerate().find(|(_, item)| touches(item.span, offset))?;
            Some((Step::Item(index, item), false))
        }
        Kind::Scalar(_) => None,
    }
}

#[must_use]
pub fn touches(span: manifest::Span, offset: usize) -> bool {
    span.range().start <= offset && offset <= span.range().end
}

/// The node at a path of keys and indices.
#[must_use]
pub fn find<'a>(root: &'a Node, path: &[&str]) -> Option<&'a Node> {
    path.iter().try_fold(root, |node, part| match &node.kind {
        Kind::Map(_) => node.get(part).map(|pair| &pair.value),
        Kind::List(items) => items.get(part.parse::<usize>().ok()?),
        Kind::Scalar(_) => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use manifest::FileId;

    #[test]
    fn path_at_finds_keys_items_and_values() {
        let text = "a:\n  b: [x, { c: yes }]\n  d: e\n";
        let root = manifest::syntax::parse(text, FileId(0)).root.expect("it parses");
        for (word, path, on_key) in [
            ("a:", "a", true),
            ("x,", "a.b.0", false),
            ("c:", "a.b.1.c", true),
            ("yes", "a.b.1.c", false),
            ("e\n", "a.d", false),
        ] {
            let at = text.find(word).expect("the text contains it");
            let node_path = path_at(&root, at);
            assert_eq!((node_path.segments().join("."), node_path.is_on_key), (path.to_owned(), on_key), "{word}");
        }
    }
}
