//! Rules of the workspace that the compiler does not check: dependencies between crates, purity, names, sizes, pages,
//! licences. It checks nothing that rustfmt or clippy can check.

#[path = "workspace/detached_tasks.rs"]
mod detached_tasks;
#[path = "workspace/import_cycles.rs"]
mod import_cycles;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// The crates that each crate may depend on, as in ARCHITECTURE.md. A crate depends only on crates above it.
const ALLOWED_CRATE_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("strings", &[]),
    ("host", &[]),
    ("tasks", &[]),
    ("manifest", &["strings"]),
    ("catalog", &["strings", "manifest"]),
    ("plan", &["strings", "manifest", "catalog"]),
    ("protocol", &[]),
    ("client", &["host", "protocol"]),
    ("credentials", &["strings", "host", "tasks"]),
    ("drivers", &["strings", "host", "tasks", "plan"]),
    ("agent", &["strings", "host", "tasks", "manifest", "catalog", "plan", "protocol", "credentials", "drivers"]),
    ("lsp", &["strings", "host", "tasks", "manifest", "catalog", "plan", "protocol", "client"]),
    (
        "cli",
        &[
            "strings",
            "host",
            "tasks",
            "manifest",
            "catalog",
            "plan",
            "protocol",
            "client",
            "credentials",
            "drivers",
            "agent",
            "lsp",
        ],
    ),
];

const PURE_CRATES: &[&str] = &["strings", "manifest", "catalog", "plan", "protocol"];

/// Dependencies that give a pure crate access to a clock, disk, network, processes or a runtime, directly or
/// transitively.
const IMPURE_DEPENDENCIES: &[&str] = &[
    "async-std",
    "axum",
    "bollard",
    "chrono",
    "dirs-sys",
    "getrandom",
    "hyper",
    "mio",
    "notify",
    "openssl-sys",
    "rand",
    "reqwest",
    "rusqlite",
    "rustix",
    "smol",
    "socket2",
    "tempfile",
    "tokio",
    "ureq",
    "uuid",
    "walkdir",
];

/// Names that say nothing about the contents.
const VAGUE_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager", "stuff"];

const CODE_LINES_MAX: usize = 600;

#[test]
fn crates_depend_only_on_allowed_crates() {
    let allowed: BTreeMap<_, _> = ALLOWED_CRATE_DEPENDENCIES.iter().copied().collect();
    let mut violations = Vec::new();
    for package in workspace_members(cargo_metadata()) {
        let name = json_str(&package["name"]);
        let Some(may_use) = allowed.get(name) else {
            violations.push(format!("the crate `{name}` is not in this table"));
            continue;
        };
        if Path::new(json_str(&package["manifest_path"])) != workspace_root().join(name).join("Cargo.toml") {
            violations.push(format!("the crate `{name}` is not in the folder of its name"));
        }
        for dependency in json_array(&package["dependencies"]) {
            let target = json_str(&dependency["name"]);
            let is_member = allowed.contains_key(target) && dependency["path"].is_string();
            // Tests may depend on all crates, because they are not part of the program.
            if is_member && json_str(&dependency["kind"]) != "dev" && !may_use.contains(&target) {
                violations.push(format!("`{name}` depends on `{target}`; it may depend on {may_use:?}"));
            }
        }
    }
    assert_no_violations(&violations);
}

#[test]
fn pure_crates_reach_no_impure_dependency() {
    let metadata = cargo_metadata();
    let names: BTreeMap<&str, &str> = json_array(&metadata["packages"])
        .iter()
        .map(|package| (json_str(&package["id"]), json_str(&package["name"])))
        .collect();
    let uses: BTreeMap<&str, Vec<&str>> = json_array(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let normal = json_array(&node["deps"])
                .iter()
                .filter(|dependency| json_array(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
            (json_str(&node["id"]), normal.map(|dependency| json_str(&dependency["pkg"])).collect())
        })
        .collect();
    let mut violations = Vec::new();
    for pure_crate in PURE_CRATES {
        let id = names.iter().find(|(_, name)| *name == pure_crate).expect("every pure crate is a package").0;
        let mut visited = BTreeSet::new();
        let mut pending = vec![*id];
        while let Some(id) = pending.pop() {
            if visited.insert(id) {
                pending.extend(&uses[id]);
            }
        }
        let impure = visited.iter().map(|id| names[id]).filter(|name| IMPURE_DEPENDENCIES.contains(name));
        violations.extend(impure.map(|name| format!("the pure crate `{pure_crate}` depends on `{name}`")));
        let head = read_file(&workspace_root().join(pure_crate).join("src/lib.rs"));
        if !head.contains("clippy::disallowed_methods") {
            violations.push(format!("{pure_crate}/src/lib.rs does not enable `clippy::disallowed_methods`"));
        }
    }
    assert_no_violations(&violations);
}

/// Import cycles that are still there. Remove an entry with its cycle; add none.
const KNOWN_IMPORT_CYCLES: &[&str] = &[
    "agent: endpoint, peer, preview, routing, session_previews, sessions, shared",
    "agent::proxy: body, pool",
    "lsp: agent_watcher, commands, handlers, live, log_tail, server_state, virtual_documents",
    "plan: application, container_spec, hash, render, runtime",
    "plan::resolve: containers, health, injected_env, modules, object_patches, processes, references, \
     service_origins, units",
];

#[test]
fn modules_import_each_other_without_cycles() {
    let sources: Vec<(String, String)> =
        rust_sources().into_iter().map(|(path, text)| (path.display().to_string(), text)).collect();
    let cycles = import_cycles::find_cycles(&sources);
    let members = |cycle: &str| cycle.split(" (").next().unwrap_or_default().to_owned();
    let is_known = |cycle: &&String| KNOWN_IMPORT_CYCLES.contains(&members(cycle).as_str());
    let mut violations: Vec<String> = cycles.iter().filter(|cycle| !is_known(cycle)).cloned().collect();
    let is_gone = |known: &&&str| !cycles.iter().any(|cycle| members(cycle) == **known);
    let gone = KNOWN_IMPORT_CYCLES.iter().filter(is_gone);
    violations.extend(gone.map(|known| format!("KNOWN_IMPORT_CYCLES contains `{known}`, which is no cycle any more")));
    assert_no_violations(&violations);
}

#[test]
fn every_task_has_an_owner() {
    let mut violations = Vec::new();
    let is_source = |path: &Path| path.components().any(|part| part.as_os_str() == "src") && !is_test_file(path);
    for (path, text) in rust_sources().into_iter().filter(|(path, _)| is_source(path)) {
        let lines = detached_tasks::find_detached_tasks(without_test_module(&text));
        let hint = "keep the task, or spawn it with `tasks::OwnedTask` or `tasks::TaskGroup`";
        violations.extend(lines.iter().map(|line| format!("{}:{line}: {hint}", path.display())));
    }
    assert_no_violations(&violations);
}

#[test]
fn every_crate_uses_workspace_lints() {
    let packages = workspace_members(cargo_metadata());
    let without_lints = packages.iter().map(|package| json_str(&package["manifest_path"])).filter(|path| {
        let toml: toml::Table = read_file(Path::new(path)).parse().expect("cargo has read this file");
        toml.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) != Some(true)
    });
    assert_no_violations(
        &without_lints.map(|path| format!("{path}: no `[lints] workspace = true`")).collect::<Vec<_>>(),
    );
}

#[test]
fn file_names_are_not_vague() {
    let mut violations = Vec::new();
    for file in tracked_files() {
        let parts = file.components().map(|part| part.as_os_str().to_string_lossy().to_lowercase());
        for part in parts {
            let stem = part.split('.').next().unwrap_or_default().to_owned();
            if VAGUE_NAMES.contains(&stem.as_str()) {
                violations.push(format!("{}: `{part}` says nothing about the contents", file.display()));
            }
        }
    }
    assert_no_violations(&violations);
}

#[test]
fn source_files_start_with_module_docs() {
    let without_docs = rust_sources().into_iter().filter(|(_, text)| {
        !text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!"))
    });
    assert_no_violations(
        &without_docs.map(|(path, _)| format!("{}: no `//!` comment", path.display())).collect::<Vec<_>>(),
    );
}

#[test]
fn source_files_stay_below_line_limit() {
    let mut violations = Vec::new();
    for (path, text) in rust_sources() {
        let lines = without_test_module(&text).lines().count();
        if lines > CODE_LINES_MAX && !is_test_file(&path) {
            violations.push(format!("{}: {lines} lines of code; at most {CODE_LINES_MAX}", path.display()));
        }
    }
    assert_no_violations(&violations);
}

#[test]
fn no_todo_macros_or_allow_attributes() {
    // Split in two parts, or this file would violate the rule.
    let banned =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[all", "ow("), concat!("#![all", "ow(")];
    let mut violations = Vec::new();
    for (path, text) in rust_sources() {
        for (number, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                violations.push(format!("{}:{}: `{word}`", path.display(), number + 1));
            }
        }
    }
    assert_no_violations(&violations);
}

#[test]
fn clock_and_hexadecimal_digits_have_one_implementation() {
    // Each has one place, so that a test or a reviewer finds all uses.
    let owners = [
        (concat!("SystemTime", "::now("), "host/src/clock.rs"),
        (concat!("::now", "_utc("), "host/src/clock.rs"),
        (concat!(":02", "x}"), "strings/src/hex.rs"),
    ];
    let mut violations = Vec::new();
    for (path, text) in rust_sources().into_iter().filter(|(path, _)| !is_test_file(path)) {
        let code = without_test_module(&text);
        for (call, owner) in owners.iter().filter(|(call, owner)| code.contains(call) && path != Path::new(owner)) {
            violations.push(format!("{}: `{call}`; use {owner}", path.display()));
        }
    }
    assert_no_violations(&violations);
}

#[test]
fn codes_and_pages_match() {
    let mut codes = BTreeMap::new();
    for (path, text) in rust_sources().into_iter().filter(|(path, _)| !is_test_file(path)) {
        for part in without_test_module(&text).split("\"PD").skip(1) {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            if digits.len() < 3 || !part[digits.len()..].starts_with('"') {
                continue;
            }
            codes.entry(format!("PD{digits}")).or_insert(path.clone());
        }
    }
    let pages: BTreeSet<String> = tracked_files()
        .iter()
        .filter(|file| file.parent() == Some(Path::new("docs/codes")))
        .map(|file| file.file_stem().unwrap_or_default().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("PD"))
        .collect();
    let mut violations: Vec<String> = codes
        .iter()
        .filter(|(code, _)| !pages.contains(*code))
        .map(|(code, path)| format!("{code} of {} has no page docs/codes/{code}.md", path.display()))
        .collect();
    violations.extend(
        pages
            .iter()
            .filter(|page| !codes.contains_key(*page))
            .map(|page| format!("docs/codes/{page}.md explains no code")),
    );
    assert_no_violations(&violations);
}

#[test]
fn every_dependency_is_documented() {
    let manifest: toml::Table =
        read_file(&workspace_root().join("Cargo.toml")).parse().expect("cargo has read this file");
    let dependencies: BTreeSet<String> = manifest["workspace"]["dependencies"]
        .as_table()
        .expect("a table of dependencies")
        .iter()
        .filter(|(_, value)| value.get("path").is_none())
        .map(|(name, _)| name.clone())
        .collect();
    let page = read_file(&workspace_root().join("docs/dependencies.md"));
    let documented: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .filter(|(_, sentences)| sentences.split('|').filter(|part| part.trim().ends_with('.')).count() == 2)
        .map(|(name, _)| name.to_owned())
        .collect();
    let mut violations: Vec<String> = dependencies
        .difference(&documented)
        .map(|name| format!("`{name}` has no row with two sentences in docs/dependencies.md"))
        .collect();
    violations.extend(
        documented
            .difference(&dependencies)
            .map(|name| format!("docs/dependencies.md explains `{name}`, which is not a dependency")),
    );
    let unshared = workspace_members(cargo_metadata())
        .iter()
        .flat_map(|package| json_array(&package["dependencies"]).to_vec())
        .filter(|dependency| !dependency["path"].is_string())
        .map(|dependency| {
            json_str(if dependency["rename"].is_string() { &dependency["rename"] } else { &dependency["name"] })
                .to_owned()
        })
        .filter(|name| !dependencies.contains(name))
        .collect::<BTreeSet<_>>();
    violations.extend(unshared.iter().map(|name| format!("`{name}` is not in `[workspace.dependencies]`")));
    assert_no_violations(&violations);
}

#[test]
fn dependencies_follow_licence_and_ban_lists() {
    let deny: toml::Table = read_file(&workspace_root().join("deny.toml")).parse().expect("deny.toml is TOML");
    let allowed: BTreeSet<&str> = deny["licenses"]["allow"]
        .as_array()
        .expect("a list of licences")
        .iter()
        .filter_map(toml::Value::as_str)
        .collect();
    let banned: BTreeSet<&str> = deny["bans"]["deny"]
        .as_array()
        .expect("a list of bans")
        .iter()
        .filter_map(|ban| ban["name"].as_str())
        .collect();
    let mut violations = Vec::new();
    for package in json_array(&cargo_metadata()["packages"]) {
        let name = json_str(&package["name"]);
        if banned.contains(name) {
            violations.push(format!("`{name}` is banned by deny.toml"));
        }
        let licence = json_str(&package["license"]);
        if !is_licence_allowed(licence, &allowed) {
            violations.push(format!("`{name}` is under `{licence}`, which deny.toml does not allow"));
        }
    }
    assert_no_violations(&violations);
}

#[test]
fn licence_expressions_follow_spdx() {
    let allowed = BTreeSet::from(["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"]);
    for (expression, permitted) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("MIT/GPL-3.0", true),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR MIT) AND ISC", true),
        ("GPL-3.0 OR MIT AND BSD-3-Clause", false),
        ("Apache-2.0 WITH LLVM-exception OR GPL-3.0", true),
        ("", false),
    ] {
        assert_eq!(is_licence_allowed(expression, &allowed), permitted, "{expression}");
    }
}

#[test]
fn no_file_names_a_package_registry() {
    // The registry is configured on each machine. A mirror that is named here does not exist on others.
    let hosts = [
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("deb.debian", ".org"),
        concat!("registry.npmjs", ".org"),
        concat!("pypi", ".org"),
        concat!("archive.ubuntu", ".com"),
    ];
    let mut violations = Vec::new();
    for file in tracked_files().into_iter().filter(|file| file.file_name().is_some_and(|name| name != "Cargo.lock")) {
        let Ok(text) = fs::read_to_string(workspace_root().join(&file)) else { continue };
        violations.extend(
            hosts.iter().filter(|host| text.contains(**host)).map(|host| format!("{}: {host}", file.display())),
        );
    }
    assert_no_violations(&violations);
}

#[test]
fn every_example_has_manifest_and_readme() {
    let mut violations = Vec::new();
    for entry in fs::read_dir(workspace_root().join("examples")).expect("examples/ exists").flatten() {
        for file in ["pdev.yaml", "README.md"] {
            if !entry.path().join(file).is_file() {
                violations.push(format!("{} has no {file}", entry.path().display()));
            }
        }
    }
    assert_no_violations(&violations);
}

/// Evaluates an SPDX expression: `OR` binds weaker than `AND`; the old `/` means `OR`.
fn is_licence_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    for (operator, needs_all) in [(" OR ", false), ("/", false), (" AND ", true)] {
        let parts = split_outside_parentheses(expression, operator);
        if parts.len() > 1 {
            let mut results = parts.iter().map(|part| is_licence_allowed(part, allowed));
            return if needs_all { results.all(|result| result) } else { results.any(|result| result) };
        }
    }
    match expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => is_licence_allowed(inner, allowed),
        None => allowed.contains(expression),
    }
}

fn split_outside_parentheses<'a>(text: &'a str, operator: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 && index >= start && text[index..].starts_with(operator) {
            parts.push(&text[start..index]);
            start = index + operator.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli/ is in the workspace").to_owned()
}

/// The metadata for all platforms if their crates can be downloaded, else for this platform.
fn cargo_metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let run_cargo = |more_arguments: &[&str]| {
            let arguments = ["metadata", "--format-version", "1", "--locked"];
            Command::new(env!("CARGO"))
                .args(arguments)
                .args(more_arguments)
                .current_dir(workspace_root())
                .output()
                .expect("cargo runs")
        };
        let mut output = run_cargo(&[]);
        if !output.status.success() {
            let version = Command::new("rustc").arg("-vV").output().expect("rustc runs").stdout;
            let version = String::from_utf8_lossy(&version).into_owned();
            let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
            output = run_cargo(&["--offline", "--filter-platform", host]);
        }
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
    })
}

fn workspace_members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<&str> = json_array(&metadata["workspace_members"]).iter().map(json_str).collect();
    json_array(&metadata["packages"]).iter().filter(|package| ids.contains(json_str(&package["id"]))).collect()
}

/// The files that git tracks, and new files that it does not ignore.
/// A test that finds fewer files checks nothing.
const FILES_MIN: usize = 700;
const SOURCES_MIN: usize = 450;

fn tracked_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace_root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "the test runs inside a git checkout");
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let files: Vec<PathBuf> = listing
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|file| workspace_root().join(file).is_file())
        .collect();
    assert!(files.len() >= FILES_MIN, "only {} files were found", files.len());
    files
}

fn rust_sources() -> Vec<(PathBuf, String)> {
    let rust = tracked_files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    let sources: Vec<_> = rust.map(|file| (file.clone(), read_file(&workspace_root().join(file)))).collect();
    assert!(sources.len() >= SOURCES_MIN, "only {} sources were found", sources.len());
    sources
}

/// Where a runtime may be named: its definition and renderer, and its driver.
const RUNTIME_FOLDERS: [&str; 2] = ["plan/src/render", "drivers/src"];

/// Names of certain runtimes in a source, without its test module. The list and the methods of all runtimes are allowed.
fn named_runtimes(text: &str) -> Vec<&str> {
    let uses = without_test_module(text).match_indices("RuntimeKind::");
    let names = uses.map(|(at, start)| {
        let rest = &text[at + start.len()..];
        &rest[..rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len())]
    });
    names.filter(|name| *name != "ALL" && name.starts_with(char::is_uppercase)).collect()
}

#[test]
fn only_renderers_and_drivers_name_a_runtime() {
    assert_eq!(named_runtimes("RuntimeKind::DOCKER RuntimeKind::ALL RuntimeKind::parse"), ["DOCKER"]);
    let mut checked = 0;
    let mut found = Vec::new();
    for (path, text) in rust_sources() {
        if is_test_file(&path) || path.components().any(|part| part.as_os_str() == "benches") {
            continue;
        }
        checked += 1;
        let is_allowed =
            RUNTIME_FOLDERS.iter().any(|folder| path.starts_with(folder)) || path.ends_with("plan/src/render.rs");
        if !is_allowed {
            found.extend(named_runtimes(&text).into_iter().map(|name| format!("{}: {name}", path.display())));
        }
    }
    assert!(checked > 100, "only {checked} sources were checked");
    assert_eq!(found, Vec::<String>::new(), "ask for a capability instead");
}

fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// A source without its test module, which by convention is at the end.
fn without_test_module(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or_default()
}

fn read_file(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn json_str(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn json_array(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn assert_no_violations(violations: &[String]) {
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}
