//! The rules of the house that no compiler holds: the arrows between rooms, purity, names, sizes, pages, licences.
//! Not a style checker: what rustfmt and clippy can say, they say.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

/// Which rooms a room may use, as in ARCHITECTURE.md: arrows only ever point down this table.
const ROOMS: &[(&str, &[&str])] = &[
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

const PURE: &[&str] = &["manifest", "catalog", "plan", "protocol"];

/// What gives a pure room a clock, a disk, a network, a process or a runtime, at whatever depth.
const IMPURE: &[&str] = &[
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
const EMPTY_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "manager", "stuff"];

const CODE_LINES_MAX: usize = 600;

#[test]
fn the_arrows_point_down() {
    let allowed: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in members(metadata()) {
        let name = text(&package["name"]);
        let Some(may_use) = allowed.get(name) else {
            wrong.push(format!("`{name}` is not a room of the house"));
            continue;
        };
        if Path::new(text(&package["manifest_path"])) != root().join(name).join("Cargo.toml") {
            wrong.push(format!("room `{name}` does not lie in the folder of its name"));
        }
        for used in list(&package["dependencies"]) {
            let target = text(&used["name"]);
            let inside = allowed.contains_key(target) && used["path"].is_string();
            // Tests may look further up; what is shipped may not.
            if inside && text(&used["kind"]) != "dev" && !may_use.contains(&target) {
                wrong.push(format!("`{name}` uses `{target}`; it may use {may_use:?}"));
            }
        }
    }
    nothing(&wrong);
}

#[test]
fn pure_rooms_get_values_and_give_values() {
    let metadata = metadata();
    let names: BTreeMap<&str, &str> =
        list(&metadata["packages"]).iter().map(|package| (text(&package["id"]), text(&package["name"]))).collect();
    let uses: BTreeMap<&str, Vec<&str>> = list(&metadata["resolve"]["nodes"])
        .iter()
        .map(|node| {
            let normal = list(&node["deps"])
                .iter()
                .filter(|used| list(&used["dep_kinds"]).iter().any(|kind| kind["kind"].is_null()));
            (text(&node["id"]), normal.map(|used| text(&used["pkg"])).collect())
        })
        .collect();
    let mut wrong = Vec::new();
    for room in PURE {
        let id = names.iter().find(|(_, name)| *name == room).expect("a pure room is a package").0;
        let mut seen = BTreeSet::new();
        let mut open = vec![*id];
        while let Some(id) = open.pop() {
            if seen.insert(id) {
                open.extend(&uses[id]);
            }
        }
        let impure = seen.iter().map(|id| names[id]).filter(|name| IMPURE.contains(name));
        wrong.extend(impure.map(|name| format!("pure room `{room}` reaches `{name}`")));
        let head = read(&root().join(room).join("src/lib.rs"));
        if !head.contains("clippy::disallowed_methods") {
            wrong.push(format!("{room}/src/lib.rs does not switch `clippy::disallowed_methods` on"));
        }
    }
    nothing(&wrong);
}

#[test]
fn every_room_takes_the_lints_of_the_house() {
    let rooms = members(metadata());
    let without = rooms.iter().map(|package| text(&package["manifest_path"])).filter(|path| {
        let toml: toml::Table = read(Path::new(path)).parse().expect("cargo has read this file");
        toml.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool) != Some(true)
    });
    nothing(&without.map(|path| format!("{path}: no `[lints] workspace = true`")).collect::<Vec<_>>());
}

#[test]
fn names_say_what_is_inside() {
    let mut wrong = Vec::new();
    for file in files() {
        let parts = file.components().map(|part| part.as_os_str().to_string_lossy().to_lowercase());
        for part in parts {
            let stem = part.split('.').next().unwrap_or_default().to_owned();
            if EMPTY_NAMES.contains(&stem.as_str()) {
                wrong.push(format!("{}: `{part}` says nothing about what is inside", file.display()));
            }
        }
    }
    nothing(&wrong);
}

#[test]
fn each_source_file_opens_with_what_it_is_for() {
    let headless = sources().into_iter().filter(|(_, text)| {
        !text.lines().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!"))
    });
    nothing(&headless.map(|(path, _)| format!("{}: no `//!` head", path.display())).collect::<Vec<_>>());
}

#[test]
fn files_have_one_reason_to_be_opened() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let lines = code(&text).lines().count();
        if lines > CODE_LINES_MAX && !in_tests(&path) {
            wrong.push(format!("{}: {lines} lines of code; at most {CODE_LINES_MAX}", path.display()));
        }
    }
    nothing(&wrong);
}

#[test]
fn nothing_is_left_for_later() {
    // Spelt in two halves, or this file would find itself.
    let banned =
        [concat!("todo", "!("), concat!("unimplemented", "!("), concat!("#[all", "ow("), concat!("#![all", "ow(")];
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        for (number, line) in text.lines().enumerate() {
            for word in banned.iter().filter(|word| line.contains(**word)) {
                wrong.push(format!("{}:{}: `{word}`", path.display(), number + 1));
            }
        }
    }
    nothing(&wrong);
}

#[test]
fn each_code_has_its_page_and_each_page_its_code() {
    let mut codes = BTreeMap::new();
    for (path, text) in sources().into_iter().filter(|(path, _)| !in_tests(path)) {
        for part in code(&text).split("\"PD").skip(1) {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            if digits.len() < 3 || !part[digits.len()..].starts_with('"') {
                continue;
            }
            codes.entry(format!("PD{digits}")).or_insert(path.clone());
        }
    }
    let pages: BTreeSet<String> = files()
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
    nothing(&wrong);
}

#[test]
fn each_dependency_has_its_sentence() {
    let manifest: toml::Table = read(&root().join("Cargo.toml")).parse().expect("cargo has read this file");
    let named: BTreeSet<String> = manifest["workspace"]["dependencies"]
        .as_table()
        .expect("a table of dependencies")
        .iter()
        .filter(|(_, value)| value.get("path").is_none())
        .map(|(name, _)| name.clone())
        .collect();
    let page = read(&root().join("docs/dependencies.md"));
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
    let unshared = members(metadata())
        .iter()
        .flat_map(|package| list(&package["dependencies"]).to_vec())
        .filter(|used| !used["path"].is_string())
        .map(|used| text(if used["rename"].is_string() { &used["rename"] } else { &used["name"] }).to_owned())
        .filter(|name| !named.contains(name))
        .collect::<BTreeSet<_>>();
    wrong.extend(unshared.iter().map(|name| format!("`{name}` is not among the workspace's dependencies")));
    nothing(&wrong);
}

#[test]
fn only_allowed_licences_enter_and_banned_crates_do_not() {
    let deny: toml::Table = read(&root().join("deny.toml")).parse().expect("deny.toml is TOML");
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
    for package in list(&metadata()["packages"]) {
        let name = text(&package["name"]);
        if banned.contains(name) {
            wrong.push(format!("`{name}` is banned by deny.toml"));
        }
        let licence = text(&package["license"]);
        if !permits(licence, &allowed) {
            wrong.push(format!("`{name}` is under `{licence}`, which deny.toml does not allow"));
        }
    }
    nothing(&wrong);
}

#[test]
fn licence_expressions_are_read_as_spdx_says() {
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
        assert_eq!(permits(expression, &allowed), permitted, "{expression}");
    }
}

#[test]
fn no_machine_and_no_registry_is_named() {
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
    for file in files().into_iter().filter(|file| file.file_name().is_some_and(|name| name != "Cargo.lock")) {
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        wrong.extend(
            hosts.iter().filter(|host| text.contains(**host)).map(|host| format!("{}: {host}", file.display())),
        );
    }
    nothing(&wrong);
}

#[test]
fn each_example_has_a_manifest_and_a_page() {
    let mut wrong = Vec::new();
    for entry in fs::read_dir(root().join("examples")).expect("examples/ exists").flatten() {
        for file in ["pdev.yaml", "README.md"] {
            if !entry.path().join(file).is_file() {
                wrong.push(format!("{} has no {file}", entry.path().display()));
            }
        }
    }
    nothing(&wrong);
}

/// An SPDX expression: `OR` binds weaker than `AND`; the old `/` means `OR`.
fn permits(expression: &str, allowed: &BTreeSet<&str>) -> bool {
    let expression = expression.trim();
    for (word, all) in [(" OR ", false), ("/", false), (" AND ", true)] {
        let parts = split_outside_brackets(expression, word);
        if parts.len() > 1 {
            let mut verdicts = parts.iter().map(|part| permits(part, allowed));
            return if all { verdicts.all(|verdict| verdict) } else { verdicts.any(|verdict| verdict) };
        }
    }
    match expression.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')) {
        Some(inner) => permits(inner, allowed),
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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("cli/ lies in the workspace").to_owned()
}

/// Of all platforms where their crates can be had, else of this one.
fn metadata() -> &'static Value {
    static METADATA: OnceLock<Value> = OnceLock::new();
    METADATA.get_or_init(|| {
        let ask = |more: &[&str]| {
            let arguments = ["metadata", "--format-version", "1", "--locked"];
            Command::new(env!("CARGO")).args(arguments).args(more).current_dir(root()).output().expect("cargo runs")
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

fn members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<&str> = list(&metadata["workspace_members"]).iter().map(text).collect();
    list(&metadata["packages"]).iter().filter(|package| ids.contains(text(&package["id"]))).collect()
}

/// What git would show to a reader: tracked files and new ones that are not ignored.
fn files() -> Vec<PathBuf> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git runs");
    assert!(output.status.success(), "the house is checked inside its git checkout");
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    listing
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .filter(|file| root().join(file).is_file())
        .collect()
}

fn sources() -> Vec<(PathBuf, String)> {
    let rust = files().into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    rust.map(|file| (file.clone(), read(&root().join(file)))).collect()
}

fn in_tests(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

/// A source without its test module, which by custom comes last.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]").next().unwrap_or_default()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn nothing(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}
