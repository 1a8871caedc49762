//! `pdev.lock`: the exact modules of an application. A TOML file with one entry per module, sorted by `uses`.

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
    /// The value of `uses:` in the manifest.
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
    /// A message, if the text has a merge conflict, a newer format or is not TOML.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.lines().any(|line| line.starts_with("<<<<<<< ")) {
            return Err(
                "it holds an unresolved merge conflict; delete it and run `pdev up`, which writes it again".into()
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

    /// The lock of these modules.
    #[must_use]
    pub fn from_modules<'a>(modules: impl IntoIterator<Item = &'a ResolvedModule>) -> Self {
        let entry = |resolved: &ResolvedModule| LockEntry {
            uses: resolved.uses.clone(),
            version: resolved.module.version.to_string(),
            source: resolved.module.source.to_string(),
            tree: resolved.module.tree_hash.clone(),
        };
        Self { modules: modules.into_iter().map(|resolved| (resolved.uses.clone(), entry(resolved))).collect() }
    }

    /// The warning about a module whose files differ from the locked ones.
    #[must_use]
    pub fn detect_change(&self, resolved: &ResolvedModule, span: Span) -> Option<Diagnostic> {
        let locked = self.modules.get(&resolved.uses)?;
        if locked.tree == resolved.module.tree_hash {
            return None;
        }
        let message = match &resolved.module.source {
            Source::Folder(path) => format!("the module in `{path}` changed since it was locked"),
            Source::BuiltIn => format!(
                "this pdev brings `{}` {}, locked is {}",
                resolved.module.name, resolved.module.version, locked.version
            ),
        };
        Some(
            Diagnostic::new(codes::CHANGED_SINCE_LOCKED, Severity::Warning, span, message)
                .help("`pdev up` writes pdev.lock again; review the change before you commit it."),
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
        let resolved = crate::resolve_module(&Spanned::new("postgres@16".into(), Span::default()), &NoFiles).unwrap();
        let lock = Lock::from_modules([&resolved]);
        assert_eq!(Lock::parse(&lock.render()), Ok(lock.clone()));
        assert_eq!(lock.detect_change(&resolved, Span::default()), None);
        let mut changed = lock;
        changed.modules.get_mut("postgres@16").unwrap().tree = "0".into();
        assert_eq!(changed.detect_change(&resolved, Span::default()).unwrap().code, codes::CHANGED_SINCE_LOCKED);
    }

    #[test]
    fn unusable_locks_are_rejected_with_a_reason() {
        for (text, expected) in [("schema = 9", "newer pdev"), ("<<<<<<< HEAD\n", "conflict"), ("{", "no lock file")] {
            assert!(Lock::parse(text).unwrap_err().contains(expected), "{text}");
        }
    }
}
