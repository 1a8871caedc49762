//! Files of a manifest in memory.

use std::collections::BTreeMap;

use manifest::{EffectiveManifest, FileProblem, Files, read};

pub(crate) struct MemoryFiles(pub(crate) BTreeMap<String, Vec<u8>>);

impl MemoryFiles {
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect())
    }
}

impl Files for MemoryFiles {
    fn read(&self, path: &str) -> Result<Vec<u8>, FileProblem> {
        self.0.get(path).cloned().ok_or(FileProblem::Missing)
    }

    fn list(&self, _: &str) -> Result<Vec<(String, bool)>, FileProblem> {
        Err(FileProblem::Missing)
    }
}

pub(crate) fn read_and_select(text: &str) -> EffectiveManifest {
    read("pdev.yaml", &MemoryFiles::new(&[("pdev.yaml", text)])).select(None, &[])
}
