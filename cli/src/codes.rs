//! The page of each diagnostic code, embedded from docs/codes by the build script.

/// Sorted by code, for the binary search.
const PAGES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/codes.in"));

pub(crate) fn page(code: &str) -> Option<&'static str> {
    PAGES.binary_search_by_key(&code, |(known, _)| known).ok().map(|index| PAGES[index].1)
}

pub(crate) fn all() -> impl Iterator<Item = &'static str> {
    PAGES.iter().map(|(code, _)| *code)
}
