//! Reading and checking a manifest on this side, so that a wrong one needs no agent.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::exit::Failure;
use crate::folder::ManifestPlace;
use crate::words;

pub(crate) struct Read {
    unreadable: Option<String>,
}

pub(crate) fn read(place: &ManifestPlace, _environment: Option<&str>, _sets: &[String]) -> Read {
    let path = place.folder.join(&place.file);
    let unreadable = std::fs::read(&path).err();
    Read { unreadable: unreadable.map(|error| format!("cannot read `{}`: {}", path.display(), words::plain(&error))) }
}

impl Read {
    pub(crate) fn refuse_errors(&self, _context: &Context) -> Result<(), Failure> {
        self.unreadable.clone().map_or(Ok(()), |words| Err(Failure::wrong(words)))
    }

    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        BTreeMap::new()
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}
