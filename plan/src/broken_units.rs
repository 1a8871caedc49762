//! The services, jobs and resources with an error in the manifest. Their other findings are unreliable, because parts
//! of them were not read. The findings of all other units stay as they are, so that they do not appear and disappear
//! while the user types.

use std::collections::BTreeSet;

use manifest::{Diagnostic, FileId, Severity, Span};

use crate::codes;
use crate::load::LoadedManifest;

const UNIT_SECTIONS: [&str; 3] = ["services", "jobs", "resources"];

#[derive(Clone, Debug, Default)]
pub(crate) struct BrokenUnits {
    /// Paths such as `services.api`.
    paths: BTreeSet<String>,
    /// The source text of each of them.
    regions: Vec<Span>,
}

/// A unit by its path, and the span from its name to the next unit or section.
struct UnitRegion {
    path: String,
    key: Span,
    region: Span,
}

impl BrokenUnits {
    pub(crate) fn find(loaded: &LoadedManifest) -> Self {
        let errors: Vec<&Diagnostic> =
            loaded.diagnostics.iter().filter(|found| found.severity == Severity::Error).collect();
        if errors.is_empty() {
            return Self::default();
        }
        let regions = unit_regions(loaded);
        let mut paths: BTreeSet<String> = errors.iter().filter_map(|error| unit_of(&error.path)).collect();
        // A syntax error has no path, so its position decides.
        let without_path = errors.iter().filter(|error| error.path.is_empty());
        let positions = without_path.filter_map(|error| Some(unit_at(loaded, &regions, error.span)?.path.clone()));
        paths.extend(positions);
        let broken = regions.iter().filter(|unit| paths.contains(&unit.path));
        let regions = broken.map(|unit| unit.region).collect();
        Self { paths, regions }
    }

    /// Whether this position is in the text of such a unit.
    pub(crate) fn contains(&self, file: FileId, offset: usize) -> bool {
        self.regions.iter().any(|region| region.file == file && region.range().contains(&offset))
    }

    /// Whether a finding of the planner is reliable.
    pub(crate) fn is_reliable(&self, loaded: &LoadedManifest, found: &Diagnostic) -> bool {
        // A port that was not read is reported where it is defined.
        let is_reference = matches!(found.code, codes::UNRESOLVED | codes::UNKNOWN_OUTPUT);
        if is_reference {
            return !found.message.contains(" port");
        }
        if found.code == codes::WAIVER_UNUSED {
            let waiver = loaded.manifest.waivers.iter().find(|waiver| waiver.span == found.span);
            return waiver.is_none_or(|waiver| !self.is_in_scope(&waiver.scope.value));
        }
        let is_own = unit_of(&found.path).is_some_and(|unit| self.paths.contains(&unit));
        let names_broken_unit = || {
            let mut names = self.paths.iter().filter_map(|path| path.split_once('.'));
            names.any(|(_, name)| found.message.contains(&format!("`{name}`")))
        };
        !is_own && !names_broken_unit()
    }

    fn is_in_scope(&self, scope: &str) -> bool {
        let prefix = scope.trim_end_matches('*').trim_end_matches('.');
        self.paths.iter().any(|path| path.starts_with(prefix))
    }
}

/// `services.api` of `services.api.ports.web` and of `environments.ci.services.api.size`.
fn unit_of(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('.').collect();
    let start = if parts.first() == Some(&"environments") { 2 } else { 0 };
    match parts.get(start..)? {
        [section, name, ..] if UNIT_SECTIONS.contains(section) => Some(format!("{section}.{name}")),
        _ => None,
    }
}

fn unit_regions(loaded: &LoadedManifest) -> Vec<UnitRegion> {
    let manifest = &loaded.manifest;
    let services = manifest.services.iter().map(|(name, entry)| ("services", name, entry.key));
    let jobs = manifest.jobs.iter().map(|(name, entry)| ("jobs", name, entry.key));
    let resources = manifest.resources.iter().map(|(name, entry)| ("resources", name, entry.key));
    let mut units: Vec<UnitRegion> = services
        .chain(jobs)
        .chain(resources)
        .map(|(section, name, key)| UnitRegion { path: format!("{section}.{name}"), key, region: key })
        .collect();
    units.sort_by_key(|unit| (unit.key.file, unit.key.start));
    let next_keys: Vec<Option<Span>> = units.iter().skip(1).map(|unit| Some(unit.key)).chain([None]).collect();
    for (unit, next) in units.iter_mut().zip(next_keys) {
        let Some(source) = loaded.sources.get(unit.key.file) else { continue };
        let end_of_section = section_end(&source.text, unit.key.range().end);
        let next_start =
            next.filter(|next| next.file == unit.key.file).map_or(source.text.len(), |next| next.range().start);
        unit.region = Span::new(unit.key.file, unit.key.range().start, end_of_section.min(next_start));
    }
    units
}

/// The start of the next line that begins in the first column with something other than a comment.
fn section_end(text: &str, from: usize) -> usize {
    let starts = text.get(from..).unwrap_or_default().match_indices('\n').map(|(at, _)| from + at + 1);
    let mut sections = starts.filter(|start| {
        let first = text[*start..].chars().next();
        first.is_some_and(|first| !first.is_whitespace() && !['#', '}', ']'].contains(&first))
    });
    sections.next().unwrap_or(text.len())
}

/// The unit whose text contains this span: it is on the line of the unit's name, or is indented more than that.
fn unit_at<'a>(loaded: &LoadedManifest, regions: &'a [UnitRegion], span: Span) -> Option<&'a UnitRegion> {
    let text = &loaded.sources.get(span.file)?.text;
    let line_start = |offset: usize| text.get(..offset).and_then(|head| head.rfind('\n')).map_or(0, |at| at + 1);
    regions.iter().find(|unit| {
        let (own, at) = (unit.region.range(), span.range().start);
        let key = unit.key.range().start;
        let is_deeper = || at - line_start(at) > key - line_start(key);
        unit.region.file == span.file && own.contains(&at) && (line_start(at) == line_start(key) || is_deeper())
    })
}
