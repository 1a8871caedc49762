//! Reading and checking a manifest on this side, so that a wrong one needs no agent.

use std::collections::BTreeMap;

use crate::context::Context;
use crate::exit::Failure;
use crate::folder::ManifestPlace;
use crate::words;

pub(crate) struct Read {
    unreadable: Option<String>,
    text: String,
}

pub(crate) fn read(place: &ManifestPlace, _environment: Option<&str>, _sets: &[String]) -> Read {
    let path = place.folder.join(&place.file);
    match std::fs::read_to_string(&path) {
        Ok(text) => Read { unreadable: None, text },
        Err(error) => Read {
            unreadable: Some(format!("cannot read `{}`: {}", path.display(), words::plain(&error))),
            text: String::new(),
        },
    }
}

impl Read {
    pub(crate) fn refuse_errors(&self, _context: &Context) -> Result<(), Failure> {
        self.unreadable.clone().map_or(Ok(()), |words| Err(Failure::wrong(words)))
    }

    /// The variables of this process that the manifest names as `${env.X}`; no others leave it.
    pub(crate) fn variables(&self) -> BTreeMap<String, String> {
        named(&self.text).filter_map(|name| Some((name.to_owned(), std::env::var(name).ok()?))).collect()
    }

    pub(crate) fn secrets(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The names after `${env.`; one inside a comment does no harm.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("${env.").map(|(at, start)| {
        let rest = &text[at + start.len()..];
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}
