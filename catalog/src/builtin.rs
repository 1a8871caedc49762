//! The modules embedded in the binary, as files in the public format.

use std::sync::{Arc, OnceLock};

use manifest::{FileProblem, Files};

use crate::module::{Module, Source, load_module};

const FILES: &[(&str, &str)] = &[
    ("postgres/module.yaml", include_str!("../modules/postgres/module.yaml")),
    ("postgres/docs.md", include_str!("../modules/postgres/docs.md")),
    ("redis/module.yaml", include_str!("../modules/redis/module.yaml")),
    ("redis/docs.md", include_str!("../modules/redis/docs.md")),
];

const NAMES: &[&str] = &["postgres", "redis"];

struct EmbeddedFiles;

impl Files for EmbeddedFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        FILES
            .iter()
            .find(|(name, _)| *name == path)
            .map(|(_, text)| text.as_bytes().to_vec())
            .ok_or(FileProblem::Missing)
    }

    fn list(&self, path: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        let inside = FILES.iter().filter_map(|(name, _)| name.strip_prefix(path)?.strip_prefix('/'));
        Ok(inside.map(|name| (name.to_owned(), false)).collect())
    }
}

/// The built-in modules, in alphabetical order.
#[must_use]
pub fn built_in_modules() -> &'static [Arc<Module>] {
    static ALL: OnceLock<Vec<Arc<Module>>> = OnceLock::new();
    ALL.get_or_init(|| {
        NAMES.iter().filter_map(|name| load_module(name, &EmbeddedFiles, Source::BuiltIn).ok().map(Arc::new)).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_loads_without_diagnostics() {
        for name in NAMES {
            let loaded = load_module(name, &EmbeddedFiles, Source::BuiltIn);
            assert!(loaded.is_ok(), "{name}: {:?}", loaded.err());
        }
        assert_eq!(built_in_modules().len(), NAMES.len());
    }
}
