//! The pages of `docs/codes/` are the specification: each bad example gives its code and words, each good one does not.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod files;

use files::{context, read, told};
use std::collections::BTreeMap;

use manifest::Diagnostic;
use plan::application::RuntimeKind;
use plan::guardrails::RULES;
use plan::resolve;

/// Code -> page, of all pages that say `owner: plan`.
fn pages() -> BTreeMap<String, String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/codes");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pages = names.filter_map(|path| {
        let page = std::fs::read_to_string(&path).ok().filter(|page| page.contains("\nowner: plan\n"))?;
        Some((path.file_stem()?.to_str()?.to_owned(), page))
    });
    pages.collect()
}

/// The first block of a language below a heading.
fn block<'a>(page: &'a str, heading: &str, language: &str) -> Option<&'a str> {
    let section = page.split_once(&format!("\n## {heading}\n"))?.1;
    let section = section.split("\n## ").next()?;
    let inside = section.split_once(&format!("```{language}\n"))?.1;
    inside.split_once("\n```").map(|(text, _)| text)
}

fn found(text: &str) -> Vec<Diagnostic> {
    let loaded = read(text);
    let mut found = resolve(&loaded, &context(&loaded, RuntimeKind::Docker)).diagnostics;
    found.extend(loaded.diagnostics);
    found
}

#[test]
fn examples_are_true() {
    for (code, page) in &pages() {
        assert!(page.contains(&format!("\n# {code}: ")), "{code} has a title");
        // Needs a resource's outputs; `values.rs` has its test.
        if code == "PD0251" {
            continue;
        }
        if let Some(bad) = block(page, "Bad", "yaml") {
            let words = block(page, "Bad", "text").unwrap_or_default();
            let all = found(bad);
            let told_it = all.iter().any(|found| found.code.0 == *code && found.message == words);
            assert!(told_it, "{code} should tell `{words}`: {:#?}", told(&all));
        }
        if let Some(good) = block(page, "Good", "yaml") {
            let all = found(good);
            assert!(
                all.iter().all(|found| found.code.0 != *code),
                "{code} is told of its good example: {:#?}",
                told(&all)
            );
        }
    }
}

#[test]
fn every_rule_has_a_page() {
    let pages = pages();
    for rule in RULES {
        assert!(pages.contains_key(rule.code.0), "{}", rule.code.0);
    }
}
