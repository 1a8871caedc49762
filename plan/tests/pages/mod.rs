//! The pages of `docs/codes/` and their code blocks.

use std::collections::BTreeMap;

/// Code -> page, for the codes of every crate, because `load` reports all of them.
pub(crate) fn code_pages() -> BTreeMap<String, String> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/codes");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let pages = names.filter_map(|path| {
        let page = std::fs::read_to_string(&path).ok().filter(|page| page.contains("\nowner: "))?;
        Some((path.file_stem()?.to_str()?.to_owned(), page))
    });
    pages.collect()
}

/// The first code block of a language under a heading.
pub(crate) fn find_code_block<'a>(page: &'a str, heading: &str, language: &str) -> Option<&'a str> {
    let section = page.split_once(&format!("\n## {heading}\n"))?.1;
    let section = section.split("\n## ").next()?;
    let inside = section.split_once(&format!("```{language}\n"))?.1;
    inside.split_once("\n```").map(|(text, _)| text)
}
