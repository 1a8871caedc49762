//! The pages of `docs/codes/` are the specification: each bad example must report its code and message, and each good
//! example must not.
//!
//! The first code block of an example is its manifest. Its info string may select an environment (`yaml env=preview`) or
//! allow bytes that Markdown cannot contain (`yaml escaped`, with `\\xE9`). Further blocks are other files (`toml
//! file=pdev.lock`), and the block `text` of a bad example is the message.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod files;
mod pages;

use std::collections::{BTreeMap, BTreeSet};

use files::{TODAY, format_diagnostics, load_manifest, resolve_inputs};
use manifest::{Diagnostic, FileProblem, Files};
use pages::{code_pages, find_code_block};
use plan::application::RuntimeKind;
use plan::check::{CheckOptions, check};
use plan::guardrails::RULES;
use plan::load::{LoadOptions, load};
use plan::resolve;

/// Raise it with each new page. A test that finds fewer pages checks nothing.
const PAGES_MIN: usize = 70;

#[derive(Default)]
struct Example {
    environment: Option<String>,
    files: ExampleFiles,
    message: String,
}

#[derive(Default)]
struct ExampleFiles(BTreeMap<String, Vec<u8>>);

impl Files for ExampleFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        self.0.get(path).cloned().ok_or(FileProblem::Missing)
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let below = self.0.keys().filter_map(|file| file.strip_prefix(&format!("{path}/")));
        let names: BTreeSet<_> = below
            .map(|rest| rest.split_once('/').map_or((rest.to_owned(), false), |(folder, _)| (folder.to_owned(), true)))
            .collect();
        if names.is_empty() { Err(FileProblem::Missing) } else { Ok(names.into_iter().collect()) }
    }
}

/// The example under a heading of a page; `None` without a manifest.
fn find_example(page: &str, heading: &str) -> Option<Example> {
    let section = page.split_once(&format!("\n## {heading}\n"))?.1.split("\n## ").next()?;
    let mut example = Example::default();
    for block in section.split("```").skip(1).step_by(2) {
        let (info, text) = block.split_once('\n')?;
        let mut words = info.split(' ');
        let language = words.next()?;
        let mut path = "pdev.yaml";
        let mut contents = text.as_bytes().to_vec();
        for word in words {
            match word.split_once('=') {
                Some(("env", name)) => example.environment = Some(name.to_owned()),
                Some(("file", name)) => path = name,
                None if word == "escaped" => contents = unescape(text),
                _ => panic!("unknown word `{word}` after ``` in {info}"),
            }
        }
        if language == "text" {
            text.trim_end_matches('\n').clone_into(&mut example.message);
        } else {
            let earlier = example.files.0.insert(path.to_owned(), contents);
            assert!(earlier.is_none(), "{heading} has two blocks for {path}");
        }
    }
    example.files.0.contains_key("pdev.yaml").then_some(example)
}

/// Replaces `\\xE9` by that byte.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split("\\x");
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    bytes
}

/// Everything that any command reports. `load` replaces PD0131 by a guardrail, and only `check` reads allow comments.
fn diagnose_example(example: &Example) -> Vec<Diagnostic> {
    let load_options = LoadOptions { environment: example.environment.clone(), sets: Vec::new() };
    let loaded = load("pdev.yaml", &example.files, &load_options);
    let mut inputs = resolve_inputs(&loaded, RuntimeKind::DOCKER);
    if let Some(environment) = &example.environment {
        inputs.preview.environment.clone_from(environment);
    }
    let mut diagnostics = resolve(&loaded, &inputs).diagnostics;
    let read = manifest::read("pdev.yaml", &example.files);
    diagnostics.extend(read.select(example.environment.as_deref(), &[]).diagnostics);
    let runtime = Some(RuntimeKind::DOCKER);
    let options = CheckOptions { load_options, runtime, variables: inputs.environment, today: TODAY };
    diagnostics.extend(check("pdev.yaml", &example.files, &options).diagnostics);
    diagnostics.extend(loaded.diagnostics);
    diagnostics
}

#[test]
fn page_examples_match_diagnostics() {
    let mut checked = 0;
    for (code, page) in &code_pages() {
        assert!(page.contains(&format!("\n# {code}: ")), "{code} has a title");
        let bad = find_example(page, "Bad").unwrap_or_else(|| panic!("{code} has no bad example"));
        assert!(!bad.message.is_empty(), "{code} has no message");
        let all = diagnose_example(&bad);
        let is_reported = all.iter().any(|diagnostic| diagnostic.code.0 == *code && diagnostic.message == bad.message);
        assert!(is_reported, "{code} should report `{}`: {:#?}", bad.message, format_diagnostics(&all));
        let good = find_example(page, "Good").unwrap_or_else(|| panic!("{code} has no good example"));
        let all = diagnose_example(&good);
        assert!(
            all.iter().all(|diagnostic| diagnostic.code.0 != *code),
            "{code} is reported for its good example: {:#?}",
            format_diagnostics(&all)
        );
        checked += 1;
    }
    assert!(checked >= PAGES_MIN, "only {checked} pages were checked");
}

#[test]
fn every_rule_has_a_page() {
    let pages = code_pages();
    assert!(RULES.len() >= 16, "only {} rules were checked", RULES.len());
    for rule in RULES {
        assert!(pages.contains_key(rule.code.0), "{}", rule.code.0);
    }
}

#[test]
fn every_page_names_a_fix_or_a_waiver() {
    let pages = code_pages();
    let is_helpful = |page: &str| {
        ["How to fix", "Waiver"].iter().any(|heading| {
            let section = page.split_once(&format!("\n## {heading}\n")).map(|(_, rest)| rest);
            section.is_some_and(|text| !text.split("\n## ").next().unwrap_or_default().trim().is_empty())
        })
    };
    let unhelpful: Vec<&String> = pages.iter().filter(|(_, page)| !is_helpful(page)).map(|(code, _)| code).collect();
    assert!(unhelpful.is_empty() && pages.len() >= PAGES_MIN, "{unhelpful:?} of {} pages", pages.len());
}

#[test]
fn every_code_page_has_the_title_of_its_code() {
    let mut checked = 0;
    for entry in manifest::codes::ALL.iter().chain(catalog::codes::ALL) {
        assert!(entry.page.contains(&format!("\n# {}: {}\n", entry.code.0, entry.title)), "{}", entry.code.0);
        checked += 1;
    }
    assert!(checked >= 38, "only {checked} codes were checked");
}

#[test]
fn safe_fixes_remove_their_diagnostic() {
    let mut fixed = 0;
    for (code, page) in &code_pages() {
        let Some(bad) = find_code_block(page, "Bad", "yaml") else { continue };
        let mut text = bad.to_owned();
        let safe_edits = |text: &str| {
            let loaded = load_manifest(text);
            let mut all = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::DOCKER)).diagnostics;
            all.extend(loaded.diagnostics);
            let has_safe_fix =
                all.iter().any(|diagnostic| diagnostic.code.0 == *code && diagnostic.fixes.iter().any(|fix| fix.safe));
            has_safe_fix.then(|| manifest::fix::safe_edits(&all, manifest::FileId(0)))
        };
        // A fix may uncover another diagnostic, so try a few times.
        for _ in 0..5 {
            let Some(edits) = safe_edits(&text) else { break };
            text = manifest::fix::apply(&text, &edits);
            fixed += 1;
        }
        assert!(safe_edits(&text).is_none(), "{code} is still reported after its fix:\n{text}");
    }
    assert!(fixed >= 9, "only {fixed} fixes were checked");
}
