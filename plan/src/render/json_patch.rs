//! Applies RFC 6902 operations, one at a time. Errors are messages for a diagnostic.

use serde_json::Value as Json;

/// Applies one operation. On failure the document is unchanged.
pub(super) fn apply(document: &mut Json, operation: &Json) -> Result<(), String> {
    let string_field = |name: &str| {
        let missing = || format!("a patch operation needs `{name}`");
        operation.get(name).and_then(Json::as_str).ok_or_else(missing)
    };
    let value = || operation.get("value").cloned().ok_or_else(|| "this patch operation needs `value`".to_owned());
    let path = string_field("path")?;
    match string_field("op")? {
        "add" => add(document, path, value()?),
        "replace" => {
            let value = value()?;
            let target = document.pointer_mut(path).ok_or_else(|| missing_path_message(path))?;
            *target = value;
            Ok(())
        }
        "remove" => remove(document, path).map(|_| ()),
        "test" => {
            let found = document.pointer(path).ok_or_else(|| missing_path_message(path))?;
            if *found == value()? { Ok(()) } else { Err(format!("test failed: `{path}` is `{found}`")) }
        }
        "copy" => {
            let from = string_field("from")?;
            let value = document.pointer(from).cloned().ok_or_else(|| missing_path_message(from))?;
            add(document, path, value)
        }
        "move" => {
            let from = string_field("from")?;
            let value = document.pointer(from).cloned().ok_or_else(|| missing_path_message(from))?;
            // Removal may succeed although the insertion fails, so keep the original for that case.
            let original = document.clone();
            remove(document, from)?;
            add(document, path, value).inspect_err(|_| *document = original)
        }
        other => Err(format!("unknown patch operation `{other}` (there is add, copy, move, remove, replace, test)")),
    }
}

fn missing_path_message(path: &str) -> String {
    format!("there is nothing at `{path}`")
}

fn split_pointer(path: &str) -> Result<(&str, String), String> {
    let (parent, last) =
        path.rsplit_once('/').ok_or_else(|| format!("`{path}` is no JSON pointer: it begins with `/`"))?;
    Ok((parent, last.replace("~1", "/").replace("~0", "~")))
}

fn add(document: &mut Json, path: &str, value: Json) -> Result<(), String> {
    let (parent, last) = split_pointer(path)?;
    match document.pointer_mut(parent).ok_or_else(|| missing_path_message(parent))? {
        Json::Object(object) => {
            object.insert(last, value);
            Ok(())
        }
        Json::Array(list) => {
            let index = if last == "-" { Some(list.len()) } else { last.parse().ok() };
            let index = index.filter(|&index: &usize| index <= list.len()).ok_or_else(|| missing_path_message(path))?;
            list.insert(index, value);
            Ok(())
        }
        _ => Err(format!("`{parent}` is neither a map nor a list")),
    }
}

fn remove(document: &mut Json, path: &str) -> Result<Json, String> {
    let (parent, last) = split_pointer(path)?;
    let removed = match document.pointer_mut(parent).ok_or_else(|| missing_path_message(parent))? {
        Json::Object(object) => object.shift_remove(&last),
        Json::Array(list) => {
            last.parse().ok().filter(|&index: &usize| index < list.len()).map(|index| list.remove(index))
        }
        _ => None,
    };
    removed.ok_or_else(|| missing_path_message(path))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::apply;

    #[test]
    fn operations_change_document_or_explain_failure() {
        let cases: &[(Json, Result<Json, &str>)] = &[
            (json!({"op": "add", "path": "/b/-", "value": 3}), Ok(json!({"a": 1, "b": [1, 2, 3]}))),
            (json!({"op": "add", "path": "/b/0", "value": 0}), Ok(json!({"a": 1, "b": [0, 1, 2]}))),
            (json!({"op": "add", "path": "/c", "value": {}}), Ok(json!({"a": 1, "b": [1, 2], "c": {}}))),
            (json!({"op": "remove", "path": "/a"}), Ok(json!({"b": [1, 2]}))),
            (json!({"op": "replace", "path": "/a", "value": 2}), Ok(json!({"a": 2, "b": [1, 2]}))),
            (json!({"op": "move", "from": "/a", "path": "/c"}), Ok(json!({"b": [1, 2], "c": 1}))),
            (json!({"op": "copy", "from": "/a", "path": "/b/0"}), Ok(json!({"a": 1, "b": [1, 1, 2]}))),
            (json!({"op": "test", "path": "/a", "value": 1}), Ok(json!({"a": 1, "b": [1, 2]}))),
            (json!({"op": "test", "path": "/a", "value": 9}), Err("test failed")),
            (json!({"op": "replace", "path": "/x", "value": 2}), Err("nothing at `/x`")),
            (json!({"op": "remove", "path": "/b/7"}), Err("nothing at `/b/7`")),
            (json!({"op": "ad", "path": "/b"}), Err("unknown patch operation `ad`")),
            (json!({"path": "/b"}), Err("needs `op`")),
            (json!({"op": "add", "path": "b", "value": 1}), Err("begins with `/`")),
        ];
        for (operation, expected) in cases {
            let mut document = json!({"a": 1, "b": [1, 2]});
            match (apply(&mut document, operation), expected) {
                (Ok(()), Ok(after)) => assert_eq!(document, *after, "{operation}"),
                (Err(message), Err(part)) => assert!(message.contains(part), "{operation}: {message}"),
                (result, _) => panic!("{operation}: {result:?}"),
            }
        }
    }
}
