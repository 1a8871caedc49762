//! The description of a manifest field from its JSON Schema.

use serde_json::Value;

/// A bound for cyclic references; no schema of pdev has as many alternatives for one field.
const ALTERNATIVES_MAX: usize = 32;

/// Description, choices, default, examples and fields, as lines. `None` if the schema has no such field.
pub(crate) fn describe(schema: &Value, path: &str) -> Option<Vec<String>> {
    let schemas = schemas_at(schema, path);
    if schemas.is_empty() {
        return None;
    }
    let mut lines: Vec<String> = Vec::new();
    let mut add = |line: String| {
        if !lines.contains(&line) {
            lines.push(line);
        }
    };
    for field in &schemas {
        for line in field.get("description").and_then(Value::as_str).into_iter().flat_map(str::lines) {
            add(line.to_owned());
        }
    }
    for field in &schemas {
        let choices = field
            .get("enum")
            .and_then(Value::as_array)
            .map(|choices| choices.iter().map(display_value).collect::<Vec<_>>());
        if let Some(choices) = choices {
            add(format!("one of: {}", choices.join(", ")));
        }
        if let Some(value) = field.get("const") {
            add(format!("always: {}", display_value(value)));
        }
        if let Some(value) = field.get("default").filter(|value| !value.is_null()) {
            add(format!("default: {}", display_value(value)));
        }
        for example in field.get("examples").and_then(Value::as_array).into_iter().flatten() {
            add(format!("example: {}", display_value(example)));
        }
    }
    let fields = child_fields(schema, path);
    if !fields.is_empty() {
        add(format!("fields: {}", fields.join(", ")));
    }
    Some(lines)
}

/// The names of the fields below `path`.
pub(crate) fn child_fields(schema: &Value, path: &str) -> Vec<String> {
    let mut names: Vec<String> = schemas_at(schema, path)
        .iter()
        .filter_map(|field| field.get("properties").and_then(Value::as_object))
        .flat_map(|fields| fields.keys().filter(|name| !name.starts_with('+')).cloned())
        .collect();
    names.sort();
    names.dedup();
    names
}

/// The schema of `path` with all its alternatives.
fn schemas_at<'a>(schema: &'a Value, path: &str) -> Vec<&'a Value> {
    let mut current = alternatives(schema, schema);
    for part in path.split('.').filter(|part| !part.is_empty()) {
        let next: Vec<&Value> = current.iter().filter_map(|parent| child_schema(parent, part)).collect();
        current = next.into_iter().flat_map(|child| alternatives(schema, child)).collect();
    }
    current
}

/// A named property, the values of a map (except `x-*`), or the items of a list if `part` is an index.
fn child_schema<'a>(parent: &'a Value, part: &str) -> Option<&'a Value> {
    if let Some(found) = parent.get("properties").and_then(|fields| fields.get(part)) {
        return Some(found);
    }
    let patterns = parent.get("patternProperties").and_then(Value::as_object);
    let map_value = patterns
        .and_then(|patterns| patterns.iter().find(|(pattern, _)| !pattern.starts_with("^x-")).map(|(_, found)| found));
    let additional = || parent.get("additionalProperties").filter(|found| found.is_object());
    let item = || parent.get("items").filter(|_| part.bytes().all(|byte| byte.is_ascii_digit()));
    map_value.or_else(additional).or_else(item)
}

/// The schema itself, the schemas that it references, and its alternative forms (short and long).
fn alternatives<'a>(root: &'a Value, schema: &'a Value) -> Vec<&'a Value> {
    let mut found = Vec::new();
    let mut pending = vec![schema];
    while let Some(schema) = pending.pop() {
        if found.len() > ALTERNATIVES_MAX {
            break;
        }
        found.push(schema);
        let target = schema.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix('#'));
        pending.extend(target.and_then(|pointer| root.pointer(pointer)));
        for key in ["anyOf", "oneOf", "allOf"] {
            pending.extend(schema.get(key).and_then(Value::as_array).into_iter().flatten().rev());
        }
    }
    found
}

fn display_value(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_resolve_through_refs_maps_and_alternatives() {
        let schema = json!({
            "properties": { "services": { "additionalProperties": { "$ref": "#/$defs/service" }, "description": "What runs." } },
            "$defs": { "service": { "properties": {
                "port": { "description": "Where it listens.", "type": "integer", "default": 80 },
                "health": { "anyOf": [{ "type": "string" }, { "properties": { "kind": { "enum": ["tcp", "http"] } } }] },
            } } },
        });
        assert_eq!(describe(&schema, "services").unwrap(), ["What runs."]);
        assert_eq!(describe(&schema, "services.api.port").unwrap(), ["Where it listens.", "default: 80"]);
        assert_eq!(describe(&schema, "services.api.health.kind").unwrap(), ["one of: tcp, http"]);
        assert_eq!(child_fields(&schema, "services.api"), ["health", "port"]);
        assert_eq!(describe(&schema, "services.api.nope"), None);
    }
}
