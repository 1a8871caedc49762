//! `pdev.lock`: which module, exactly. TOML, one entry a module, in the order of their names.

use std::collections::BTreeMap;

use manifest::{Diagnostic, Severity, Span};
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::module::Source;
use crate::resolve::ResolvedModule;

const SCHEMA_VERSION: u32 = 1;

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Lock {
    pub modules: BTreeMap<String, LockEntry>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LockEntry {
    /// As written behind `uses:`.
    pub uses: String,
    pub version: String,
    /// `built-in` or a folder.
    pub source: String,
    /// SHA-256 of the module's files.
    pub tree: String,
}

#[derive(Serialize, Deserialize)]
struct LockFile {
    schema: u32,
    #[serde(default)]
    module: Vec<LockEntry>,
}

impl Lock {
    /// # Errors
    /// In words: a conflict, a newer format, no TOML.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.lines().any(|line| line.starts_with("<<<<<<< ")) {
            return Err(
                "it holds an unresolved merge conflict; delete it and run `pdev up`, which writes it anew".into()
            );
        }
        let file: LockFile =
            toml::from_str(text).map_err(|error| format!("it is no lock file: {}", error.message()))?;
        if file.schema > SCHEMA_VERSION {
            return Err(format!(
                "it was written by a newer pdev (format {}, this one knows {SCHEMA_VERSION}); update pdev",
                file.schema
            ));
        }
        Ok(Self { modules: file.module.into_iter().map(|entry| (entry.uses.clone(), entry)).collect() })
    }

    #[must_use]
    pub fn render(&self) -> String {
        let file = LockFile { schema: SCHEMA_VERSION, module: self.modules.values().cloned().collect() };
        let body = toml::to_string(&file).unwrap_or_default();
        format!("# Written by pdev: which modules, exactly. Commit it.\n{body}")
    }

    /// The lock for these modules.
    #[must_use]
    pub fn from_modules<'a>(found: impl IntoIterator<Item = &'a ResolvedModule>) -> Self {
        let entry = |one: &ResolvedModule| LockEntry {
            uses: one.uses.clone(),
            version: one.module.version.to_string(),
            source: one.module.source.to_string(),
            tree: one.module.tree_hash.clone(),
        };
        Self { modules: found.into_iter().map(|one| (one.uses.clone(), entry(one))).collect() }
    }

    /// What is said of a module that is not as it was locked.
    #[must_use]
    pub fn detect_change(&self, found: &ResolvedModule, span: Span) -> Option<Diagnostic> {
        let locked = self.modules.get(&found.uses)?;
        if locked.tree == found.module.tree_hash {
            return None;
        }
        let words = match &found.module.source {
            Source::Folder(path) => format!("the module in `{path}` changed since it was locked"),
            Source::BuiltIn => format!(
                "this pdev brings `{}` {}, locked is {}",
                found.module.name, found.module.version, locked.version
            ),
        };
        Some(
            Diagnostic::new(codes::CHANGED_SINCE_LOCKED, Severity::Warning, span, words)
                .help("`pdev up` writes pdev.lock anew; look at the change before you commit it."),
        )
    }
}

#[cfg(test)]
mod tests {
    use manifest::Spanned;

    use super::*;

    struct NoFiles;
    impl manifest::Files for NoFiles {
        fn read(&self, _: &str) -> Result<Vec<u8>, manifest::FileProblem> {
            Err(manifest::FileProblem::Missing)
        }
        fn list(&self, _: &str) -> Result<Vec<(String, bool)>, manifest::FileProblem> {
            Err(manifest::FileProblem::Missing)
        }
    }

    #[test]
    fn lock_round_trips_and_detects_changed_modules() {
        let found = crate::resolve_module(&Spanned::new("postgres@16".into(), Span::default()), &NoFiles).unwrap();
        let lock = Lock::from_modules([&found]);
        assert_eq!(Lock::parse(&lock.render()), Ok(lock.clone()));
        assert_eq!(lock.detect_change(&found, Span::default()), None);
        let mut moved = lock;
        moved.modules.get_mut("postgres@16").unwrap().tree = "0".into();
        assert_eq!(moved.detect_change(&found, Span::default()).unwrap().code, codes::CHANGED_SINCE_LOCKED);
    }

    #[test]
    fn unusable_locks_are_rejected_with_a_reason() {
        for (text, words) in [("schema = 9", "newer pdev"), ("<<<<<<< HEAD\n", "conflict"), ("{", "no lock file")] {
            assert!(Lock::parse(text).unwrap_err().contains(words), "{text}");
        }
    }
}
