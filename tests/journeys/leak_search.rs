//! Searches for values in all places where a credential must not be: files, process tables, objects of the engine, the
//! agent's API and the output of commands.
//!
//! Everything is first recorded in files, so that one `grep` searches all places in the same way. The caller excludes
//! the places that may contain a value.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::Value;

use crate::sandbox::{CommandOutput, run_with_timeout};

/// The values to search for. `grep` reads them from a file, so that no command line contains them.
pub struct Needles {
    file: PathBuf,
    values: Vec<(String, String)>,
}

impl Needles {
    pub fn new(file: PathBuf) -> Self {
        Self { file, values: Vec::new() }
    }

    /// Adds a value and its base64 forms. Only the part that does not depend on the position in the text is used.
    pub fn add(&mut self, name: &str, value: &str) {
        assert!(value.len() >= 12 && !value.contains('\n'), "`{name}` is too short, or has several lines: {value}");
        self.values.push((name.to_owned(), value.to_owned()));
        // A value can start at any of three positions in a group of three bytes.
        for shift in 0..3 {
            let padded = ["\0".repeat(shift).as_bytes(), value.as_bytes()].concat();
            for text in [STANDARD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                // The first characters depend on the preceding bytes, the last ones on the following bytes.
                let inner = text.trim_end_matches('=');
                let inner = &inner[(shift * 8).div_ceil(6)..inner.len() - 2];
                self.values.push((format!("{name} in base64"), inner.to_owned()));
            }
        }
        let lines: Vec<&str> = self.values.iter().map(|(_, text)| text.as_str()).collect();
        fs::write(&self.file, lines.join("\n")).unwrap();
    }

    /// Returns `file: name` for each match in these folders.
    pub fn find_in(&self, folders: &[&Path]) -> BTreeSet<String> {
        let mut grep = Command::new("grep");
        grep.args(["-raosF", "-f"]).arg(&self.file).args(folders);
        let output = grep.output().unwrap();
        assert!(output.status.code().is_some_and(|code| code <= 2), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let to_match = |line: &str| {
            let (file, value) = line.rsplit_once(':')?;
            let (name, _) = self.values.iter().find(|(_, needle)| needle == value)?;
            Some(format!("{file}: {name}"))
        };
        text.lines().map(|line| to_match(line).unwrap_or_else(|| panic!("unexpected output of grep: {line}"))).collect()
    }
}

/// A folder with recorded output.
pub struct Evidence {
    pub folder: PathBuf,
}

impl Evidence {
    pub fn new(folder: PathBuf) -> Self {
        fs::create_dir_all(&folder).unwrap();
        Self { folder }
    }

    pub fn record(&self, kind: &str, name: &str, bytes: &[u8]) {
        let folder = self.folder.join(kind);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name.replace(['/', ' '], "_")), bytes).unwrap();
    }

    pub fn record_output(&self, name: &str, output: &CommandOutput) {
        self.record("commands", name, output.transcript().as_bytes());
    }

    /// Records the command lines and environments of all readable processes. Returns the number of records.
    pub fn record_processes(&self) -> usize {
        let mut count = 0;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            for file in ["cmdline", "environ"] {
                if let Ok(bytes) = fs::read(entry.path().join(file)) {
                    self.record("processes", &format!("{pid}-{file}"), &bytes);
                    count += 1;
                }
            }
        }
        count
    }

    /// Records the containers, networks and volumes with this label. Returns the number of objects.
    pub fn record_engine(&self, label: &str) -> usize {
        let docker = |arguments: &[&str]| {
            let mut command = Command::new("docker");
            command.args(arguments);
            run_with_timeout(command, Duration::from_secs(30)).ok()
        };
        let mut count = 0;
        let filter = format!("label={label}");
        for (kind, list) in [
            ("container", &["ps", "-aq"][..]),
            ("network", &["network", "ls", "-q"]),
            ("volume", &["volume", "ls", "-q"]),
        ] {
            let ids = docker(&[list, &["--filter", &filter]].concat()).out;
            for id in ids.lines() {
                let details = docker(&[kind, "inspect", id]);
                self.record("engine", &format!("{kind}-{id}"), details.out.as_bytes());
                count += 1;
                if kind == "container" {
                    let logs = docker(&["logs", id]);
                    self.record("engine", &format!("logs-{id}"), logs.transcript().as_bytes());
                    self.record("engine", &format!("changes-{id}"), docker(&["diff", id]).out.as_bytes());
                }
            }
        }
        count
    }

    /// Records the response to each GET of the agent's OpenAPI document, except the endless stream of events.
    pub fn record_api(&self, socket: &Path) -> usize {
        let document: Value = serde_json::from_str(&response_body(&get(socket, "/v1/openapi.json"))).unwrap();
        let names = |path: &str, key: &str| -> Vec<String> {
            let list: Value = serde_json::from_str(&response_body(&get(socket, path))).unwrap();
            let list = list.as_array().unwrap().iter();
            list.map(|entry| entry[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {entry}")).to_owned())
                .collect()
        };
        let previews = names("/v1/previews", "id");
        assert!(!previews.is_empty(), "no preview runs, so half of the responses would be empty");
        let mut count = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            if methods.get("get").is_none() || path == "/v1/events" {
                continue;
            }
            let filled: Vec<String> = match path {
                path if path.contains("{preview}") => previews.iter().map(|id| path.replace("{preview}", id)).collect(),
                path if path.contains("{code}") => vec![path.replace("{code}", "AAAA-AAAA")],
                path => vec![path.clone()],
            };
            for path in filled {
                assert!(!path.contains('{'), "the test has no value for a parameter of {path}");
                self.record("api", &path, &get(socket, &path));
                count += 1;
            }
        }
        count
    }
}

/// Returns the complete response of the agent's socket.
pub fn get(socket: &Path, path: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pdev\r\nConnection: close\r\n\r\n").unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    assert!(response.starts_with(b"HTTP/1.1 "), "{path}: {}", String::from_utf8_lossy(&response));
    response
}

fn response_body(response: &[u8]) -> String {
    let text = String::from_utf8_lossy(response).into_owned();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Records the agent's event stream until the agent ends.
pub fn record_events(socket: &Path) -> Arc<Mutex<Vec<u8>>> {
    let events = Arc::new(Mutex::new(Vec::new()));
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET /v1/events HTTP/1.1\r\nHost: pdev\r\n\r\n").unwrap();
    let recorded = Arc::clone(&events);
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            recorded.lock().unwrap().extend_from_slice(&piece[..length]);
        }
    });
    events
}
