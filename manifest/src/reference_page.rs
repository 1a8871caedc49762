//! The reference page of the language, generated from its table; `docs/manifest.md` is this text.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::spec::{ROOT, Section, Shape};

/// The page as Markdown: each section with its keys, types and defaults.
#[must_use]
pub fn markdown() -> String {
    let mut text = String::from(
        "# The manifest: `pdev.yaml`\n\nGenerated from the code (`manifest/src/spec.rs`); `pdev schema` prints the same as JSON Schema.\n\n\
         A manifest is one YAML 1.2 document in UTF-8. Unknown keys are errors; custom keys begin with `x-`. Layers, from lowest to\n\
         highest: includes, the file that includes them, the environment, `--set path=value`. Maps merge, scalars and lists replace,\n\
         `+key` appends to a list. Paths are relative to the file that contains them. An empty value (`null`, `~`) acts as if its key were not written; in a higher layer it removes\n\
         the key. An empty item of a list is an error. A name without settings, as in `secrets: { token: }`, is declared.\n\n\
         Placeholders: `${resources.NAME.OUTPUT}`, `${services.NAME.FIELD}`, `${secrets.NAME.path}`, `${vars.NAME}`, `${env.NAME}`\n\
         (short: `${NAME}`), `${app.name}`, `${preview.branch}`, `${git.commit}`; `${x:-default}`; `$$` is a dollar sign. A\n\
         default may contain placeholders, as in `${A:-${B:-localhost}}`. A placeholder that cannot be resolved is an error at\n\
         its position, also in a default that is not used.\n",
    );
    let mut visited = BTreeSet::new();
    let mut pending = vec![&ROOT];
    while let Some(section) = pending.pop() {
        if !visited.insert(section.name) {
            continue;
        }
        let mut inner: Vec<&'static Section> = Vec::new();
        let _ = write!(
            text,
            "\n## {}\n\n{}\n\n| key | value | meaning | default |\n|---|---|---|---|\n",
            section.name, section.doc
        );
        for key in section.keys {
            collect_sections(&key.shape, &mut inner);
            let _ = writeln!(
                text,
                "| `{}` | {} | {} | {} |",
                key.name,
                describe_shape(&key.shape),
                escape(key.doc),
                escape(key.default)
            );
        }
        // Reversed, because the last pending section comes next.
        pending.extend(inner.into_iter().rev());
    }
    text
}

fn escape(text: &str) -> String {
    text.replace('|', "\\|")
}

fn collect_sections(shape: &'static Shape, sections: &mut Vec<&'static Section>) {
    match shape {
        Shape::Section(section) => sections.push(section),
        Shape::List(inner) | Shape::Map(inner) => collect_sections(inner, sections),
        Shape::Any(shapes) => shapes.iter().for_each(|shape| collect_sections(shape, sections)),
        _ => {}
    }
}

fn describe_shape(shape: &Shape) -> String {
    match shape {
        Shape::Text => "text".into(),
        Shape::Path => "path".into(),
        Shape::Module => "module".into(),
        Shape::Template => "text with placeholders".into(),
        Shape::Bool => "`true`, `false`".into(),
        Shape::Integer { min, max } if *min == i64::MIN || *max == i64::MAX => "whole number".into(),
        Shape::Integer { min, max } => format!("{min} to {max}"),
        Shape::Duration => "duration (`10s`)".into(),
        Shape::Bytes => "size (`256Mi`)".into(),
        Shape::Cpu => "cores (`250m`)".into(),
        Shape::Date => "day (`2027-03-31`)".into(),
        Shape::Choice(choices) => choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", "),
        Shape::List(inner) => format!("list of {}", describe_shape(inner)),
        Shape::Map(inner) => format!("map of {}", describe_shape(inner)),
        Shape::Section(section) => format!("[{}](#{})", section.name, section.name.replace(' ', "-")),
        Shape::Any(shapes) => shapes.iter().map(describe_shape).collect::<Vec<_>>().join(" or "),
        Shape::Free => "anything".into(),
    }
}
