//! The JSON Schema (2020-12) of the manifest, generated from the table of the language.

use serde_json::{Map, Value, json};

use crate::spec::{Key, ROOT, Section, Shape};

/// The schema, for `pdev schema` and for editors without the language server.
#[must_use]
pub fn json_schema() -> Value {
    let mut defs = Map::new();
    let mut root = section_schema(&ROOT, &mut defs);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["$id"] = json!("urn:pdev:schema:manifest:1");
    root["title"] = json!("pdev manifest");
    root["required"] = json!(["pdev"]);
    root["$defs"] = Value::Object(defs);
    root
}

fn section_schema(section: &'static Section, defs: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in section.keys {
        properties.insert(key.name.to_owned(), property_schema(key, defs));
        if is_appendable(&key.shape) {
            properties.insert(
                format!("+{}", key.name),
                json!({ "description": format!("Appends to `{}` of a lower layer.", key.name), "type": "array" }),
            );
        }
    }
    json!({
        "type": ["object", "null"],
        "description": section.doc,
        "properties": properties,
        "patternProperties": { "^x-": true },
        "additionalProperties": false,
    })
}

fn is_appendable(shape: &Shape) -> bool {
    match shape {
        Shape::List(_) => true,
        Shape::Any(shapes) => shapes.iter().any(is_appendable),
        _ => false,
    }
}

fn property_schema(key: &'static Key, defs: &mut Map<String, Value>) -> Value {
    let mut schema = nullable(shape_schema(&key.shape, defs));
    let description =
        if key.default.is_empty() { key.doc.to_owned() } else { format!("{} Default: {}.", key.doc, key.default) };
    schema["description"] = Value::String(description);
    schema
}

/// Allows `null`: it removes the value of a lower layer, and a value that is not typed yet is `null` too.
fn nullable(schema: Value) -> Value {
    json!({ "anyOf": [schema, { "type": "null" }] })
}

fn shape_schema(shape: &'static Shape, defs: &mut Map<String, Value>) -> Value {
    match shape {
        Shape::Text | Shape::Template | Shape::Path | Shape::Module => {
            json!({ "type": ["string", "number", "boolean"] })
        }
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Integer { min, max } if *min == i64::MIN || *max == i64::MAX => json!({ "type": "integer" }),
        Shape::Integer { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Shape::Duration => json!({ "type": "string", "pattern": "^([0-9.]+(ms|s|m|h|d))+$" }),
        Shape::Bytes => json!({ "type": ["string", "integer"], "pattern": "^[0-9.]+ *([kKmMgGtT]i?[bB]?|[bB])?$" }),
        Shape::Cpu => json!({ "type": ["string", "number"], "pattern": "^[0-9.]+m?$" }),
        Shape::Date => json!({ "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$" }),
        Shape::Choice(choices) => json!({ "enum": choices }),
        Shape::List(inner) => json!({ "type": "array", "items": shape_schema(inner, defs) }),
        Shape::Map(inner) => {
            let value = nullable(shape_schema(inner, defs));
            json!({ "type": "object", "additionalProperties": value })
        }
        Shape::Section(inner) => {
            let name = inner.name.replace(' ', "_");
            if !defs.contains_key(&name) {
                // Reserve the name before the recursion, because a section may contain itself.
                defs.insert(name.clone(), Value::Null);
                let value = section_schema(inner, defs);
                defs.insert(name.clone(), value);
            }
            json!({ "$ref": format!("#/$defs/{name}") })
        }
        Shape::Any(shapes) => {
            let any: Vec<Value> = shapes.iter().map(|shape| shape_schema(shape, defs)).collect();
            json!({ "anyOf": any })
        }
        Shape::Free => json!(true),
    }
}
