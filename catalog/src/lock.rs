//! `pdev.lock`: which module, exactly. TOML, one entry a module, in the order of their names.

use std::collections::BTreeMap;

use manifest::{Diagnostic, Severity, Span};
use serde::{Deserialize, Serialize};

use crate::codes;
use crate::find::Found;
use crate::module::Source;

const SCHEMA: u32 = 1;

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
struct File {
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
        let file: File = toml::from_str(text).map_err(|error| format!("it is no lock file: {}", error.message()))?;
        if file.schema > SCHEMA {
            return Err(format!(
                "it was written by a newer pdev (format {}, this one knows {SCHEMA}); update pdev",
                file.schema
            ));
        }
        Ok(Self { modules: file.module.into_iter().map(|entry| (entry.uses.clone(), entry)).collect() })
    }

    #[must_use]
    pub fn render(&self) -> String {
        let file = File { schema: SCHEMA, module: self.modules.values().cloned().collect() };
        let body = toml::to_string(&file).unwrap_or_default();
        format!("# Written by pdev: which modules, exactly. Commit it.\n{body}")
    }

    /// The lock for these modules.
    #[must_use]
    pub fn of<'a>(found: impl IntoIterator<Item = &'a Found>) -> Self {
        let entry = |one: &Found| LockEntry {
            uses: one.written.clone(),
            version: one.module.version.to_string(),
            source: one.module.source.to_string(),
            tree: one.module.tree_hash.clone(),
        };
        Self { modules: found.into_iter().map(|one| (one.written.clone(), entry(one))).collect() }
    }

    /// What is said of a module that is not as it was locked.
    #[must_use]
    pub fn compare(&self, found: &Found, span: Span) -> Option<Diagnostic> {
        let locked = self.modules.get(&found.written)?;
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
            Diagnostic::new(codes::LOCK_MOVED, Severity::Warning, span, words)
                .help("`pdev up` writes pdev.lock anew; look at the change before you commit it."),
        )
    }
}

#[cfg(test)]
mod tests {
    use manifest::Spanned;

    use super::*;

    struct Nothing;
    impl manifest::Files for Nothing {
        fn read(&self, _: &str) -> Result<Vec<u8>, manifest::FileProblem> {
            Err(manifest::FileProblem::Missing)
        }
        fn list(&self, _: &str) -> Result<Vec<(String, bool)>, manifest::FileProblem> {
            Err(manifest::FileProblem::Missing)
        }
    }

    #[test]
    fn a_lock_survives_being_written() {
        let found = crate::find(&Spanned::new("postgres@16".into(), Span::default()), &Nothing).unwrap();
        let lock = Lock::of([&found]);
        assert_eq!(Lock::parse(&lock.render()), Ok(lock.clone()));
        assert_eq!(lock.compare(&found, Span::default()), None);
        let mut moved = lock;
        moved.modules.get_mut("postgres@16").unwrap().tree = "0".into();
        assert_eq!(moved.compare(&found, Span::default()).unwrap().code, codes::LOCK_MOVED);
    }

    #[test]
    fn locks_that_cannot_be_used_say_why() {
        for (text, words) in [("schema = 9", "newer pdev"), ("<<<<<<< HEAD\n", "conflict"), ("{", "no lock file")] {
            assert!(Lock::parse(text).unwrap_err().contains(words), "{text}");
        }
    }
}
