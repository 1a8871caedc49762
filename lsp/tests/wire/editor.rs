//! An editor for tests. It speaks the protocol with a server in this process, with the framing of a real client.
//!
//! Each wait has a deadline. Requests of the server are answered with `null` by default, and recorded. Each message of
//! the server is checked against the protocol (`protocol.rs`).

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;

use crate::protocol::Conversation;

const DEADLINE: Duration = Duration::from_secs(20);

pub struct Editor {
    pub folder: tempfile::TempDir,
    output: WriteHalf<DuplexStream>,
    input: BufReader<ReadHalf<DuplexStream>>,
    server: JoinHandle<bool>,
    next_id: i64,
    conversation: Conversation,
    /// Notifications and requests of the server that the test has not read yet.
    pub unread_messages: VecDeque<Value>,
    pub capabilities: Value,
    /// The responses to requests of the server, by method. The default is `null`.
    pub replies: HashMap<String, Value>,
    /// If a request of the server offers an action with this title, it is the response.
    pub auto_choose_title: Option<String>,
    temporary_folders: Vec<tempfile::TempDir>,
}

/// The capabilities of VS Code, without pulled diagnostics.
pub fn push_capabilities() -> Value {
    json!({
        "general": { "positionEncodings": ["utf-16"] },
        "textDocument": {
            "completion": { "completionItem": { "snippetSupport": true } },
            "documentSymbol": { "hierarchicalDocumentSymbolSupport": true }
        },
        "workspace": { "inlayHint": { "refreshSupport": true }, "codeLens": { "refreshSupport": true } }
    })
}

pub fn pull_capabilities() -> Value {
    let mut capabilities = push_capabilities();
    capabilities["textDocument"]["diagnostic"] = json!({ "dynamicRegistration": false });
    capabilities["workspace"]["diagnostics"] = json!({ "refreshSupport": true });
    capabilities
}

impl Editor {
    pub async fn start(capabilities: Value) -> Self {
        Self::start_with_options(capabilities, Value::Null).await
    }

    pub async fn start_with_options(capabilities: Value, options: Value) -> Self {
        // The test must not connect to an agent of the developer.
        let no_agent = tempfile::tempdir().unwrap();
        let socket = client::SocketLocation::in_folder(no_agent.path().join("never-made"));
        Self::start_with_agent_at(capabilities, options, socket).await
    }

    pub async fn start_with_agent_at(capabilities: Value, options: Value, socket: client::SocketLocation) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (near, far) = tokio::io::duplex(1 << 20);
        let (far_read, far_write) = tokio::io::split(far);
        let server = tokio::spawn(lsp::serve_with_agent_at(far_read, far_write, socket));
        let (input, output) = tokio::io::split(near);
        let mut editor = Self {
            folder,
            output,
            input: BufReader::new(input),
            server,
            next_id: 0,
            conversation: Conversation::new(&capabilities),
            unread_messages: VecDeque::new(),
            capabilities: Value::Null,
            replies: HashMap::new(),
            auto_choose_title: None,
            temporary_folders: Vec::new(),
        };
        let root = editor.uri("");
        let answer = editor
            .request(
                "initialize",
                json!({
                    "processId": null, "rootUri": root, "capabilities": capabilities,
                    "workspaceFolders": [{ "uri": root, "name": "test" }], "initializationOptions": options,
                }),
            )
            .await;
        editor.capabilities = answer["capabilities"].clone();
        editor.notify("initialized", json!({})).await;
        editor
    }

    /// Keeps a folder until the editor is dropped.
    pub fn keep_alive(&mut self, folder: tempfile::TempDir) {
        self.temporary_folders.push(folder);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        let root = self.folder.path().to_owned();
        if name.is_empty() { root } else { root.join(name) }
    }

    pub fn uri(&self, name: &str) -> String {
        file_uri(&self.path(name))
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub async fn open(&mut self, name: &str, text: &str) {
        let uri = self.uri(name);
        self.conversation.record_open(&uri);
        self.notify(
            "textDocument/didOpen",
            json!({ "textDocument": { "uri": uri, "languageId": "yaml", "version": 1, "text": text } }),
        )
        .await;
    }

    pub async fn replace(&mut self, name: &str, version: i32, text: &str) {
        self.change(name, version, json!([{ "text": text }])).await;
    }

    pub async fn change(&mut self, name: &str, version: i32, changes: Value) {
        let uri = self.uri(name);
        self.notify(
            "textDocument/didChange",
            json!({ "textDocument": { "uri": uri, "version": version }, "contentChanges": changes }),
        )
        .await;
    }

    pub async fn notify(&mut self, method: &str, params: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": params })).await;
    }

    /// Returns the result. An error response fails the test.
    pub async fn request(&mut self, method: &str, params: Value) -> Value {
        let answer = self.request_raw(method, params).await;
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    pub async fn request_raw(&mut self, method: &str, params: Value) -> Value {
        let id = self.send_request(method, params).await;
        self.wait_for_response(id).await
    }

    pub async fn send_request(&mut self, method: &str, params: Value) -> i64 {
        self.next_id += 1;
        let id = self.next_id;
        self.conversation.record_request(id, method);
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })).await;
        id
    }

    pub async fn wait_for_response(&mut self, id: i64) -> Value {
        loop {
            let message = self.receive().await;
            if message.get("method").is_none() && message["id"] == id {
                return message;
            }
            self.handle_message(message).await;
        }
    }

    /// The next unread message with this method.
    pub async fn next_message(&mut self, method: &str) -> Value {
        loop {
            if let Some(at) = self.unread_messages.iter().position(|message| message["method"] == method) {
                return self.unread_messages.remove(at).unwrap()["params"].clone();
            }
            let message = self.receive().await;
            self.handle_message(message).await;
        }
    }

    /// The diagnostics that the server publishes for this version of a file.
    pub async fn published_diagnostics(&mut self, name: &str, version: i32) -> Vec<Value> {
        let uri = self.uri(name);
        loop {
            let params = self.next_message("textDocument/publishDiagnostics").await;
            if params["uri"] == uri.as_str() && params["version"] == version {
                return params["diagnostics"].as_array().unwrap().clone();
            }
        }
    }

    pub async fn pull_diagnostics(&mut self, name: &str) -> Value {
        let uri = self.uri(name);
        self.request("textDocument/diagnostic", json!({ "textDocument": { "uri": uri } })).await
    }

    /// Toggles between a count of the advice and each piece of it.
    pub async fn show_advice(&mut self, name: &str) {
        let argument = json!({ "uri": self.uri(name) });
        self.request("workspace/executeCommand", json!({ "command": "pdev.advice", "arguments": [argument] })).await;
    }

    /// Shuts the server down and returns the result of `serve`.
    pub async fn stop(mut self) -> bool {
        self.request("shutdown", Value::Null).await;
        self.send(&json!({ "jsonrpc": "2.0", "method": "exit" })).await;
        tokio::time::timeout(DEADLINE, self.server).await.unwrap().unwrap()
    }

    /// Closes the connection without `shutdown` and returns the result of `serve`.
    pub async fn disconnect(self) -> bool {
        let Self { output, input, server, .. } = self;
        drop((output, input));
        tokio::time::timeout(DEADLINE, server).await.unwrap().unwrap()
    }

    async fn handle_message(&mut self, message: Value) {
        if let (Some(method), Some(id)) = (message["method"].as_str(), message.get("id")) {
            let offered = message["params"]["actions"].as_array().map(Vec::as_slice).unwrap_or_default();
            let title = self.auto_choose_title.as_deref();
            let chosen = offered.iter().find(|action| title.is_some() && action["title"].as_str() == title);
            let result = chosen.or_else(|| self.replies.get(method));
            let answer = json!({ "jsonrpc": "2.0", "id": id, "result": result });
            self.send(&answer).await;
        }
        self.unread_messages.push_back(message);
    }

    async fn send(&mut self, message: &Value) {
        let body = message.to_string();
        self.send_bytes(&format!("Content-Length: {}\r\n\r\n{body}", body.len())).await;
    }

    /// Sends bytes that need not be a valid message.
    pub async fn send_bytes(&mut self, framed: &str) {
        tokio::time::timeout(DEADLINE, self.output.write_all(framed.as_bytes())).await.unwrap().unwrap();
    }

    /// The next message, which is not checked against the protocol.
    pub async fn receive_unchecked(&mut self) -> Value {
        let message = self.read_message().await;
        if message.get("method").is_some() { Box::pin(self.receive_unchecked()).await } else { message }
    }

    async fn receive(&mut self) -> Value {
        let message = self.read_message().await;
        self.conversation.check_message(&message);
        message
    }

    async fn read_message(&mut self) -> Value {
        let read = async {
            let mut length = 0;
            loop {
                let mut line = String::new();
                assert_ne!(self.input.read_line(&mut line).await.unwrap(), 0, "the server closed the connection");
                if let Some(text) = line.strip_prefix("Content-Length: ") {
                    length = text.trim().parse().unwrap();
                }
                if line == "\r\n" {
                    break;
                }
            }
            let mut body = vec![0; length];
            self.input.read_exact(&mut body).await.unwrap();
            serde_json::from_slice(&body).unwrap()
        };
        tokio::time::timeout(DEADLINE, read).await.expect("a message before the deadline")
    }
}

pub fn file_uri(path: &Path) -> String {
    format!("file://{}", path.display())
}

pub fn diagnostic_codes(found: &[Value]) -> Vec<&str> {
    found.iter().filter_map(|diagnostic| diagnostic["code"].as_str()).collect()
}

/// The codes of errors and warnings only.
pub fn error_and_warning_codes(found: &[Value]) -> Vec<&str> {
    let is_problem = |diagnostic: &&Value| diagnostic["severity"].as_u64() < Some(3);
    found.iter().filter(is_problem).filter_map(|diagnostic| diagnostic["code"].as_str()).collect()
}

/// Splits a fixture with `$0` at the cursor into the text and the position in UTF-16 units.
pub fn split_cursor(fixture: &str) -> (String, Value) {
    let at = fixture.find("$0").expect("the fixture has a cursor");
    let before = &fixture[..at];
    let line = before.matches('\n').count();
    let column = before.rsplit('\n').next().unwrap().encode_utf16().count();
    (fixture.replacen("$0", "", 1), json!({ "line": line, "character": column }))
}

/// Applies edits of the protocol (UTF-16) to a text, from the end to the start.
pub fn apply_edits(text: &str, edits: &[Value]) -> String {
    let offset = |position: &Value| {
        let line = position["line"].as_u64().unwrap();
        let mut start = 0;
        for _ in 0..line {
            start += text[start..].find('\n').map_or(text.len() - start, |at| at + 1);
        }
        let mut units = position["character"].as_u64().unwrap();
        let mut at = start;
        for letter in text[start..].chars() {
            if units == 0 {
                break;
            }
            units -= letter.len_utf16() as u64;
            at += letter.len_utf8();
        }
        at
    };
    let mut sorted: Vec<(usize, usize, &str)> = edits
        .iter()
        .map(|edit| {
            let range = &edit["range"];
            (offset(&range["start"]), offset(&range["end"]), edit["newText"].as_str().unwrap())
        })
        .collect();
    sorted.sort_by_key(|(start, end, _)| (*start, *end));
    assert!(sorted.windows(2).all(|two| two[0].1 <= two[1].0), "edits overlap: {edits:?}");
    let mut changed = text.to_owned();
    for (start, end, new) in sorted.into_iter().rev() {
        changed.replace_range(start..end, new);
    }
    changed
}
