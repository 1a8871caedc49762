//! The rules of the protocol for what a server sends, held for every message of every wire test: the types of its
//! authors (`protocol.json`, made by `tests/editors/protocol/make`), and what types cannot say: one answer to each
//! question, only what the client said it can, versions that never go back, ranges that are not inside out.

use std::collections::{BTreeMap, HashMap};
use std::sync::OnceLock;

use jsonschema::Validator;
use serde_json::{Value, json};

const SCHEMA: &str = include_str!("protocol.json");

/// What a client must have said before a server may ask it this.
const REQUIRED_CAPABILITIES: &[(&str, &str)] = &[
    ("client/registerCapability", "/workspace/didChangeWatchedFiles/dynamicRegistration"),
    ("window/showDocument", "/window/showDocument/support"),
    ("window/workDoneProgress/create", "/window/workDoneProgress"),
    ("workspace/applyEdit", "/workspace/applyEdit"),
    ("workspace/codeLens/refresh", "/workspace/codeLens/refreshSupport"),
    ("workspace/configuration", "/workspace/configuration"),
    ("workspace/diagnostic/refresh", "/workspace/diagnostics/refreshSupport"),
    ("workspace/inlayHint/refresh", "/workspace/inlayHint/refreshSupport"),
    ("workspace/semanticTokens/refresh", "/workspace/semanticTokens/refreshSupport"),
];

/// One client's side of a conversation.
#[derive(Debug, Default)]
pub struct Conversation {
    capabilities: Value,
    /// Questions that wait for their answer, by id.
    pending_requests: HashMap<i64, String>,
    is_initialized: bool,
    versions: HashMap<String, i64>,
    progress_tokens: Vec<Value>,
}

impl Conversation {
    pub fn new(capabilities: &Value) -> Self {
        Self { capabilities: capabilities.clone(), ..Self::default() }
    }

    pub fn record_request(&mut self, id: i64, method: &str) {
        self.pending_requests.insert(id, method.to_owned());
    }

    pub fn record_open(&mut self, uri: &str) {
        self.versions.remove(uri);
    }

    /// Fails the test when the message is not one that a server may send now.
    pub fn check_message(&mut self, message: &Value) {
        if let Err(wrong) = self.validate_message(message) {
            panic!("not valid in the protocol: {wrong}\n{message:#}");
        }
    }

    fn validate_message(&mut self, message: &Value) -> Result<(), String> {
        if message["jsonrpc"] != "2.0" {
            return Err("`jsonrpc` is not \"2.0\"".to_owned());
        }
        validate_ranges(message)?;
        match message["method"].as_str() {
            Some(method) => self.validate_server_message(method, message),
            None => self.validate_response(message),
        }
    }

    fn validate_response(&mut self, message: &Value) -> Result<(), String> {
        let id = message["id"].as_i64().ok_or("an answer without an id")?;
        let method = self.pending_requests.remove(&id).ok_or("an answer to nothing that waits for one")?;
        self.is_initialized |= method == "initialize";
        match (message.get("result"), message.get("error")) {
            (Some(result), None) => validate_schema("Results", &method, Some(result)),
            (None, Some(error)) if error["code"].is_i64() && error["message"].is_string() => Ok(()),
            (None, Some(_)) => Err("an error needs a code and a message".to_owned()),
            _ => Err("an answer has a result or an error".to_owned()),
        }
    }

    fn validate_server_message(&mut self, method: &str, message: &Value) -> Result<(), String> {
        let params = message.get("params");
        if !self.is_initialized && !method.starts_with("window/") {
            return Err("sent before `initialize` was answered".to_owned());
        }
        // The framework writes `null` where the protocol has no parameters, as others do; every client takes it.
        let params = params.filter(|params| !params.is_null());
        validate_schema("Sent", method, params)?;
        if let Some((_, pointer)) = REQUIRED_CAPABILITIES.iter().find(|(name, _)| *name == method) {
            if self.capabilities.pointer(pointer) != Some(&json!(true)) {
                return Err(format!("the client did not say that it can: `{pointer}`"));
            }
            if message.get("id").is_none() {
                return Err("a question needs an id".to_owned());
            }
        } else if message.get("id").is_some() != (method == "window/showMessageRequest") {
            // Every client may be asked that.
            return Err("questions have an id, and nothing else has one".to_owned());
        }
        let params = params.unwrap_or(&Value::Null);
        match method {
            "client/registerCapability" => {
                let all = params["registrations"].as_array().ok_or("no registrations")?;
                all.iter().try_for_each(|one| {
                    validate_schema(
                        "Registered",
                        one["method"].as_str().unwrap_or_default(),
                        one.get("registerOptions"),
                    )
                })
            }
            "textDocument/publishDiagnostics" => self.validate_published_version(params),
            "window/workDoneProgress/create" => {
                self.progress_tokens.push(params["token"].clone());
                Ok(())
            }
            "$/progress" if !self.progress_tokens.contains(&params["token"]) => {
                Err("progress that was not created".to_owned())
            }
            _ => Ok(()),
        }
    }

    fn validate_published_version(&mut self, params: &Value) -> Result<(), String> {
        let (Some(uri), Some(version)) = (params["uri"].as_str(), params["version"].as_i64()) else { return Ok(()) };
        let before = self.versions.insert(uri.to_owned(), version).unwrap_or(version);
        if before > version {
            return Err(format!("findings of version {version} after those of {before}"));
        }
        Ok(())
    }
}

/// Holds a value against one property of `Results`, `Sent` or `Registered`.
fn validate_schema(table: &str, method: &str, value: Option<&Value>) -> Result<(), String> {
    static SCHEMAS: OnceLock<BTreeMap<String, Validator>> = OnceLock::new();
    let rules = SCHEMAS.get_or_init(compile_schemas);
    let Some(rule) = rules.get(&format!("{table} {method}")) else {
        return Err(format!("`{method}` is not in {table} of tests/editors/protocol/messages.ts"));
    };
    // What is absent is told from what is null.
    let whole = value.map_or_else(|| json!({}), |value| json!({ method: value }));
    let wrong: Vec<String> =
        rule.iter_errors(&whole).map(|error| format!("{}: {}", error.instance_path(), error.masked())).collect();
    if wrong.is_empty() { Ok(()) } else { Err(format!("{table} of `{method}`: {}", wrong.join("; "))) }
}

fn compile_schemas() -> BTreeMap<String, Validator> {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let mut rules = BTreeMap::new();
    for table in ["Results", "Sent", "Registered"] {
        let own = &schema["definitions"][table];
        for (method, rule) in own["properties"].as_object().unwrap() {
            let needed = own["required"].as_array().is_some_and(|all| all.iter().any(|name| name == method));
            let whole = json!({
                "$schema": schema["$schema"],
                "type": "object",
                "properties": { method: rule },
                "required": if needed { vec![method] } else { Vec::new() },
                "additionalProperties": false,
                "definitions": schema["definitions"],
            });
            rules.insert(format!("{table} {method}"), jsonschema::validator_for(&whole).unwrap());
        }
    }
    rules
}

/// No range ends before it begins, wherever it stands in the message.
fn validate_ranges(value: &Value) -> Result<(), String> {
    match value {
        Value::Array(all) => all.iter().try_for_each(validate_ranges),
        Value::Object(all) => {
            let place = |name: &str| {
                let position = value.get(name)?;
                Some((position.get("line")?.as_u64()?, position.get("character")?.as_u64()?))
            };
            if let (Some(start), Some(end)) = (place("start"), place("end"))
                && start > end
            {
                return Err(format!("a range is inside out: {value}"));
            }
            all.values().try_for_each(validate_ranges)
        }
        _ => Ok(()),
    }
}

#[test]
fn invalid_messages_are_rejected() {
    let capabilities = json!({ "window": { "workDoneProgress": true } });
    let hover = json!({ "contents": { "kind": "markdown", "value": "x" } });
    let at = |line: u32, character: i64| json!({ "line": line, "character": character });
    let finding = |extra: Value| {
        let mut one = json!({ "range": { "start": at(0, 0), "end": at(0, 1) }, "message": "m" });
        one.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({ "jsonrpc": "2.0", "method": "textDocument/publishDiagnostics", "params": { "uri": "file:///a", "diagnostics": [one] } })
    };
    let answer = |result: Value| json!({ "jsonrpc": "2.0", "id": 7, "result": result });
    let cases = [
        (finding(json!({})), true),
        (finding(json!({ "severity": 4, "tags": [1], "data": { "any": null } })), true),
        (finding(json!({ "severity": 9 })), false),
        (finding(json!({ "serverity": 1 })), false),
        (finding(json!({ "message": null })), false),
        (finding(json!({ "range": { "start": at(0, 2), "end": at(0, 1) } })), false),
        (finding(json!({ "range": { "start": at(0, -1), "end": at(0, 1) } })), false),
        (finding(json!({ "codeDescription": { "href": "no uri" } })), false),
        (answer(hover.clone()), true),
        (answer(Value::Null), true),
        (answer(json!([hover])), false),
        (answer(json!({ "contents": { "kind": "html", "value": "x" } })), false),
        (json!({ "jsonrpc": "2.0", "id": 8, "result": null }), false),
        (json!({ "jsonrpc": "2.0", "id": 7, "result": null, "error": { "code": 1, "message": "m" } }), false),
        (json!({ "jsonrpc": "2.0", "id": 7, "error": { "message": "m" } }), false),
        (json!({ "id": 7, "result": null }), false),
        (json!({ "jsonrpc": "2.0", "id": 1, "method": "workspace/codeLens/refresh" }), false),
        (
            json!({ "jsonrpc": "2.0", "id": 1, "method": "window/workDoneProgress/create", "params": { "token": "t" } }),
            true,
        ),
        (
            json!({ "jsonrpc": "2.0", "method": "$/progress", "params": { "token": "u", "value": { "kind": "end" } } }),
            false,
        ),
        (json!({ "jsonrpc": "2.0", "method": "pdev/own", "params": {} }), false),
    ];
    for (message, good) in cases {
        let mut conversation = Conversation { is_initialized: true, ..Conversation::new(&capabilities) };
        conversation.record_request(7, "textDocument/hover");
        let judged = conversation.validate_message(&message);
        assert_eq!(judged.is_ok(), good, "{judged:?}: {message}");
    }
}
