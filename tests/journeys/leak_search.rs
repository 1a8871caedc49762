//! Looking for values in every place where a credential must not be: files, process tables, an engine's objects, the
//! agent's API and what the commands say.
//!
//! All of it is first written down as files, so that one `grep` looks at everything in the same way. Which places were
//! promised to hold a value is not known here: whoever asks leaves those out.

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

/// What is looked for; kept in a file for `grep`, so that no command line has it.
pub struct Needles {
    file: PathBuf,
    values: Vec<(String, String)>,
}

impl Needles {
    pub fn new(file: PathBuf) -> Self {
        Self { file, values: Vec::new() }
    }

    /// As it is, and as the parts of it that stay the same wherever it stands in a base64 text.
    pub fn add(&mut self, what: &str, value: &str) {
        assert!(value.len() >= 12 && !value.contains('\n'), "`{what}` is no value to look for: {value}");
        self.values.push((what.to_owned(), value.to_owned()));
        for shift in 0..3 {
            let padded = ["\0".repeat(shift).as_bytes(), value.as_bytes()].concat();
            for text in [STANDARD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                // The first letters depend on what stands before it, the last ones on what follows.
                let inner = text.trim_end_matches('=');
                let inner = &inner[(shift * 8).div_ceil(6)..inner.len() - 2];
                self.values.push((format!("{what} in base64"), inner.to_owned()));
            }
        }
        let lines: Vec<&str> = self.values.iter().map(|(_, text)| text.as_str()).collect();
        fs::write(&self.file, lines.join("\n")).unwrap();
    }

    /// `file: what`, for every file below these folders.
    pub fn find_in(&self, folders: &[&Path]) -> BTreeSet<String> {
        let mut grep = Command::new("grep");
        grep.args(["-raosF", "-f"]).arg(&self.file).args(folders);
        let output = grep.output().unwrap();
        assert!(output.status.code().is_some_and(|code| code <= 2), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let told = |line: &str| {
            let (file, value) = line.rsplit_once(':')?;
            let (what, _) = self.values.iter().find(|(_, known)| known == value)?;
            Some(format!("{file}: {what}"))
        };
        text.lines().map(|line| told(line).unwrap_or_else(|| panic!("grep says {line}"))).collect()
    }
}

/// A folder of what was written down.
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

    pub fn record_output(&self, name: &str, said: &CommandOutput) {
        self.record("commands", name, said.transcript().as_bytes());
    }

    /// Command lines and environments of everything that runs on this machine and may be looked at.
    pub fn record_processes(&self) -> usize {
        let mut seen = 0;
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_string_lossy().into_owned();
            if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            for file in ["cmdline", "environ"] {
                if let Ok(bytes) = fs::read(entry.path().join(file)) {
                    self.record("processes", &format!("{pid}-{file}"), &bytes);
                    seen += 1;
                }
            }
        }
        seen
    }

    /// What the engine tells of containers, networks and volumes with this label.
    pub fn record_engine(&self, label: &str) -> usize {
        let docker = |arguments: &[&str]| {
            let mut command = Command::new("docker");
            command.args(arguments);
            run_with_timeout(command, Duration::from_secs(30)).ok()
        };
        let mut seen = 0;
        let filter = format!("label={label}");
        for (kind, list) in [
            ("container", &["ps", "-aq"][..]),
            ("network", &["network", "ls", "-q"]),
            ("volume", &["volume", "ls", "-q"]),
        ] {
            let ids = docker(&[list, &["--filter", &filter]].concat()).out;
            for id in ids.lines() {
                let told = docker(&[kind, "inspect", id]);
                self.record("engine", &format!("{kind}-{id}"), told.out.as_bytes());
                seen += 1;
                if kind == "container" {
                    let logs = docker(&["logs", id]);
                    self.record("engine", &format!("logs-{id}"), logs.transcript().as_bytes());
                    self.record("engine", &format!("changes-{id}"), docker(&["diff", id]).out.as_bytes());
                }
            }
        }
        seen
    }

    /// Every GET of the agent's own OpenAPI document but the endless stream of events, each with what there is to name.
    pub fn record_api(&self, socket: &Path) -> usize {
        let document: Value = serde_json::from_str(&response_body(&get(socket, "/v1/openapi.json"))).unwrap();
        let names = |path: &str, key: &str| -> Vec<String> {
            let list: Value = serde_json::from_str(&response_body(&get(socket, path))).unwrap();
            let list = list.as_array().unwrap().iter();
            list.map(|one| one[key].as_str().unwrap_or_else(|| panic!("no `{key}` in {one}")).to_owned()).collect()
        };
        let previews = names("/v1/previews", "id");
        assert!(!previews.is_empty(), "nothing runs, so half of the routes would be empty");
        let mut seen = 0;
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
                assert!(!path.contains('{'), "this test knows no value for {path}");
                self.record("api", &path, &get(socket, &path));
                seen += 1;
            }
        }
        seen
    }
}

/// The whole answer to one request over the agent's socket.
pub fn get(socket: &Path, path: &str) -> Vec<u8> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: pdev\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 "), "{path}: {}", String::from_utf8_lossy(&answer));
    answer
}

fn response_body(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer).into_owned();
    text.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// Everything that the agent tells its spectators, from now on until it ends.
pub fn record_events(socket: &Path) -> Arc<Mutex<Vec<u8>>> {
    let heard = Arc::new(Mutex::new(Vec::new()));
    let mut stream = UnixStream::connect(socket).unwrap();
    write!(stream, "GET /v1/events HTTP/1.1\r\nHost: pdev\r\n\r\n").unwrap();
    let keep = Arc::clone(&heard);
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut piece) {
            keep.lock().unwrap().extend_from_slice(&piece[..length]);
        }
    });
    heard
}
