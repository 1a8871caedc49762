//! The rules of the house that no compiler holds: the arrows between rooms, purity, names, sizes, pages, licences.
//! Not a style checker: what rustfmt and clippy can say, they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// Which rooms a room may use, as in ARCHITECTURE.md: arrows only ever point down this table.
const ALLOWED_CRATE_DEPENDENCIES: &[(&str, &[&str])] = &[
    ("manifest", &[]),
    ("catalog", &["manifest"]),
    ("plan", &["manifest", "catalog"]),
    ("protocol", &[]),
    ("client", &["protocol"]),
    ("credentials", &[]),
    ("drivers", &["plan"]),
    ("agent", &["manifest", "catalog", "plan", "protocol", "credentials", "drivers"]),
    ("lsp", &["manifest", "catalog", "plan", "protocol", "client"]),
    ("cli", &["manifest", "catalog", "plan", "protocol", "client", "credentials", "drivers", "agent", "lsp"]),
];

const PURE_CRATES: &[&str] = &["manifest", "catalog", "plan", "protocol"];

/// What gives a pure room a clock, a disk, a network, a process or a runtime, at whatever depth.
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

/// Names that say where something was put, not what it is.
const VAGUE_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager", "stuff"];

const CODE_LINES_MAX: usize = 600;

#[test]
fn crates_depend_only_on_allowed_crates() {
    let allowed: BTreeMap<_, _> = ALLOWED_CRATE_DEPENDENCIES.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in workspace_members(cargo_metadata()) {
        let name = json_str(&package["name"]);
        let Some(may_use) = allowed.get(name) else {
            wrong.push(format!("`{name}` is not a room of the house"));
            continue;
        };
        if Path::new(json_str(&package["manifest_path"])) != workspace_root().join(name).join("Cargo.toml") {
            wrong.push(format!("room `{name}` does not lie in the folder of its name"));
        }
        for used in json_array(&package["dependencies"]) {
            let target = json_str(&used["name"]);
            let inside = allowed.contains_key(target) && used["path"].is_string();
            // Tests may look further up; what is shipped may not.
            if inside && json_str(&used["kind"]) != "dev" && !may_use.contains(&target) {
                wrong.push(format!("`{name}` uses `{target}`; it may use {may_use:?}"));
            }
        }
    }
    assert_no_violations(&wrong);
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
                .filter(|used| json_array(&used["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
            (json_str(&node["id"]), normal.map(|used| json_str(&used["pkg"])).collect())
        })
        .collect();
    let mut wrong = Vec::new();
    for room in PURE_CRATES {
        let id = names.iter().find(|(_, name)| *name == room).expect("a pure room is a package").0;
        let mut seen = BTreeSet::new();
        let mut open = vec![*id];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(&uses[id]);
            }
        }
        let impure = seen.iter().map(|id| names[id]).filter(|name| IMPURE_DEPENDENCIES.contains(name));
        wrong.extend(impure.map(|name| format!("pure room `{room}` reaches `{name}`")));
        let head = read_file(&workspace_root().join(room).join("src/lib.rs"));
        if !head.contains("clippy::disallowed_methods") {
            wrong.push(format!("{room}/src/lib.rs does not switch `clippy::disallowed_methods` on"));
        }
    }
    assert_no_violations(&wrong);
}

#[test]
fn every_crate_uses_workspace_lints() {
    let rooms = workspace_members(cargo_metadata());
    let without = rooms.iter().map(|package| json_str(&package["manifest_path"])).filter(|path| {
        let toml: toml::Table = read_file(Path::new(path)).parse().expect("cargo has read this file");
        toml.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) != Some(true)
    });
    assert_no_violations(&without.map(|path| format!("{path}: no `[lints] workspace = true`")).collect::<Vec<_>>());
}

#[test]
fn file_names_are_not_vague() {
    let mut wrong = Vec::new();
    for file in tracked_files() {
        let parts = file.components().map(|part| part.as_os_str().to_string_lossy().to_lowercase());
        for part in parts {
            let stem = part.split('.').next().unwrap_or_default().to_owned();
            if VAGUE_NAMES.contains(&stem.as_str()) {
                wrong.push(format!("{}: `{part}` says nothing about what is inside", file.display()));
            }
        }
    }
    assert_no_violations(&wrong);
}

#[test]
fn source_files_start_with_module_docs() {
    let headless = rust_sources().into_iter().filter(|(_, text)| {
        !text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!"))
    });
    assert_no_violations(&headless.map(|(path, _)| format!("{}: no `//!` head", path.display())).collect::<Vec<_>>());
}

#[test]
fn source_files_stay_below_line_limit() {
    let mut wrong = Vec::new();
    for (path, text) in rust_sources() {
        let lines = without_test_module(&text).lines().count();
        if lines > CODE_LINES_MAX && !is_test_file(&path) {
            wrong.push(format!("{}: {lines} lines of code; at most {CODE_LINES_MAX}", path.display()));
        }
    }
    assert_no_violations(&wrong);
}

#[test]
fn no_todo_macros_or_allow_attributes() {
    // Spelt in two halves, or this file would find itself.
    let banned =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[all", "ow("), concat!("#![all", "ow(")];
    let mut wrong = Vec::new();
    for (path, text) in rust_sources() {
        for (number, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: `{word}`", path.display(), number + 1));
            }
        }
    }
    assert_no_violations(&wrong);
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
    let mut wrong: Vec<String> = codes
        .iter()
        .filter(|(code, _)| !pages.contains(*code))
        .map(|(code, path)| format!("{code} of {} has no page docs/codes/{code}.md", path.display()))
        .collect();
    wrong.extend(
        pages
            .iter()
            .filter(|page| !codes.contains_key(*page))
            .map(|page| format!("docs/codes/{page}.md explains no code")),
    );
    assert_no_violations(&wrong);
}

#[test]
fn every_dependency_is_documented() {
    let manifest: toml::Table =
        read_file(&workspace_root().join("Cargo.toml")).parse().expect("cargo has read this file");
    let named: BTreeSet<String> = manifest["workspace"]["dependencies"]
        .as_table()
        .expect("a table of dependencies")
        .iter()
        .filter(|(_, value)| value.get("path").is_none())
        .map(|(name, _)| name.clone())
        .collect();
    let page = read_file(&workspace_root().join("docs/dependencies.md"));
    let explained: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
        .filter(|(_, sentences)| sentences.split('|').filter(|part| part.trim().ends_with('.')).count() == 2)
        .map(|(name, _)| name.to_owned())
        .collect();
    let mut wrong: Vec<String> =
        named.difference(&explained).map(|name| format!("`{name}` has no sentence in docs/dependencies.md")).collect();
    wrong.extend(
        explained.difference(&named).map(|name| format!("docs/dependencies.md explains `{name}`, which nobody uses")),
    );
    let unshared = workspace_members(cargo_metadata())
        .iter()
        .flat_map(|package| json_array(&package["dependencies"]).to_vec())
        .filter(|used| !used["path"].is_string())
        .map(|used| json_str(if used["rename"].is_string() { &used["rename"] } else { &used["name"] }).to_owned())
        .filter(|name| !named.contains(name))
        .collect::<BTreeSet<_>>();
    wrong.extend(unshared.iter().map(|name| format!("`{name}` is not among the workspace's dependencies")));
    assert_no_violations(&wrong);
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
    let mut wrong = Vec::new();
    for package in json_array(&cargo_metadata()["packages"]) {
        let name = json_str(&package["name"]);
        if banned.contains(name) {
            wrong.push(format!("`{name}` is banned by deny.toml"));
        }
        let licence = json_str(&package["license"]);
        if !is_licence_allowed(licence, &allowed) {
            wrong.push(format!("`{name}` is under `{licence}`, which deny.toml does not allow"));
        }
    }
    assert_no_violations(&wrong);
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
    // Where packages come from is the machine's configuration; a mirror written down here fails elsewhere.
    let hosts = [
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("deb.debian", ".org"),
        concat!("registry.npmjs", ".org"),
        concat!("pypi", ".org"),
        concat!("archive.ubuntu", ".com"),
    ];
    let mut wrong = Vec::new();
    for file in tracked_files().into_iter().filter(|file| file.file_name().is_some_and(|name| name != "Cargo.lock")) {
        let Ok(text) = fs::read_to_string(workspace_root().join(&file)) else { continue };
        wrong.extend(
            hosts.iter().filter(|host| text.contains(**host)).map(|host| format!("{}: {host}", file.display())),
        );
    }
    assert_no_violations(&wrong);
}

#[test]
fn every_example_has_manifest_and_readme() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(workspace_root().join("examples")).expect("examples/ exists").flatten() {
        for file in ["pdev.yaml", "README.md"] {
            if !entry.path().join(file).is_file() {
                wrong.push(format!("{} has no {file}", entry.path().display()));
            }
        }
    }
    assert_no_violations(&wrong);
}

/// An SPDX expression: `OR` binds weaker than `AND`; the old `/` means `OR`.
fn is_licence_allowed(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    for (word, all) in [(" OR ", false), ("/", false), (" AND ", true)] {
        let parts = split_outside_brackets(expression, word);
        if parts.len() > 1 {
            let mut verdicts = parts.iter().map(|part| is_licence_allowed(part, allowed));
            return if all { verdicts.all(|verdict| verdict) } else { verdicts.any(|verdict| verdict) };
        }
    }
    match expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => is_licence_allowed(inner, allowed),
        None => allowed.contains(expression),
    }
}

fn split_outside_brackets<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (index, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 && index >= start && text[index..].starts_with(word) {
            parts.push(&text[start..index]);
            start = index + word.len();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli/ lies in the workspace").to_owned()
}

/// Of all platforms where their crates can be had, else of this one.
fn cargo_metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let ask = |more: &[&str]| {
            let arguments = ["metadata", "--format-version", "1", "--locked"];
            Command::new(env!("CARGO"))
                .args(arguments)
                .args(more)
                .current_dir(workspace_root())
                .output()
                .expect("cargo runs")
        };
        let mut output = ask(&[]);
        if !output.status.success() {
            let version = Command::new("rustc").arg("-vV").output().expect("rustc runs").stdout;
            let version = String::from_utf8_lossy(&version).into_owned();
            let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("rustc names its host");
            output = ask(&["--offline", "--filter-platform", host]);
        }
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
    })
}

fn workspace_members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<&str> = json_array(&metadata["workspace_members"]).iter().map(json_str).collect();
    json_array(&metadata["packages"]).iter().filter(|package| ids.contains(json_str(&package["id"]))).collect()
}

/// What git would show to a reader: tracked files and new ones that are not ignored.
fn tracked_files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(workspace_root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "the house is checked inside its git checkout");
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    listing
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|file| workspace_root().join(file).is_file())
        .collect()
}

fn rust_sources() -> Vec<(PathBuf, String)> {
    let rust = tracked_files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    rust.map(|file| (file.clone(), read_file(&workspace_root().join(file)))).collect()
}

fn is_test_file(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// A source without its test module, which by custom comes last.
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

fn assert_no_violations(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
