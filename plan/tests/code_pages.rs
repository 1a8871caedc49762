//! The pages of `docs/codes/` are the specification: each bad example must report its code and message, and each good
//! example must not.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod files;
mod pages;

use files::{format_diagnostics, load_manifest, resolve_inputs};
use manifest::Diagnostic;
use pages::{code_pages, find_code_block};
use plan::application::RuntimeKind;
use plan::guardrails::RULES;
use plan::resolve;

fn diagnose_text(text: &str) -> Vec<Diagnostic> {
    let loaded = load_manifest(text);
    let mut diagnostics = resolve(&loaded, &resolve_inputs(&loaded, RuntimeKind::DOCKER)).diagnostics;
    diagnostics.extend(loaded.diagnostics);
    diagnostics
}

#[test]
fn page_examples_match_diagnostics() {
    for (code, page) in &code_pages() {
        assert!(page.contains(&format!("\n# {code}: ")), "{code} has a title");
        // `resolve_model.rs` tests PD0251, which needs the outputs of a resource. Loading reports PD0131 as guardrail
        // PD016. `check.rs` tests PD0264, because only `check` reads allow comments.
        if ["PD0251", "PD0131", "PD0264"].contains(&code.as_str()) {
            continue;
        }
        if let Some(bad) = find_code_block(page, "Bad", "yaml") {
            let message = find_code_block(page, "Bad", "text").unwrap_or_default();
            let all = diagnose_text(bad);
            let is_reported = all.iter().any(|diagnostic| diagnostic.code.0 == *code && diagnostic.message == message);
            assert!(is_reported, "{code} should report `{message}`: {:#?}", format_diagnostics(&all));
        }
        if let Some(good) = find_code_block(page, "Good", "yaml") {
            let all = diagnose_text(good);
            assert!(
                all.iter().all(|diagnostic| diagnostic.code.0 != *code),
                "{code} is reported for its good example: {:#?}",
                format_diagnostics(&all)
            );
        }
    }
}

#[test]
fn every_rule_has_a_page() {
    let pages = code_pages();
    for rule in RULES {
        assert!(pages.contains_key(rule.code.0), "{}", rule.code.0);
    }
}

#[test]
fn every_code_page_explains_the_fix() {
    for entry in manifest::codes::ALL.iter().chain(catalog::codes::ALL) {
        assert!(entry.page.contains(&format!("\n# {}: {}\n", entry.code.0, entry.title)), "{}", entry.code.0);
        assert!(entry.page.contains("\n## How to fix\n"), "{} has no fix", entry.code.0);
    }
}

#[test]
fn safe_fixes_remove_their_diagnostic() {
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
        }
        assert!(safe_edits(&text).is_none(), "{code} is still reported after its fix:\n{text}");
    }
}
