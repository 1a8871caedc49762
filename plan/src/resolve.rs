//! From what was written to what is wanted: placeholders resolved for the consumer that reads them, defaults filled,
//! objects rendered, each field with its origin.
//!
//! Knows nothing of what runs now. Everything from outside (ports, git, the user's environment, today) is a value of
//! [`Context`]. Never fails: what cannot be resolved is a diagnostic, and the rest is still there.

mod again;
mod changes;
mod containers;
mod draft;
mod given;
mod health;
mod modules;
mod names;
mod needs;
mod notes;
mod processes;
mod references;
mod runtimes;
mod units;

use std::collections::{BTreeMap, BTreeSet};

use manifest::model::Date;
use manifest::{Diagnostic, Severity};

use crate::application::{Application, PreviewName, RuntimeKind, UnitName, UnitPort};
use crate::guardrails;
use crate::load::Loaded;
use crate::origin::Origins;
use again::Found;
pub(crate) use again::{Kept, Moved, compare};
use references::{Depth, World};

/// Everything that resolving needs from outside.
#[derive(Clone, PartialEq, Debug)]
pub struct Context {
    pub preview: PreviewName,
    /// Where a unit runs when neither it nor its environment says: docker where an engine answers.
    pub default_runtime: RuntimeKind,
    /// Host ports that are claimed already, by (unit, port name); see [`required_ports`].
    pub ports: BTreeMap<(UnitName, String), u16>,
    pub proxy_port: u16,
    /// What `${env.X}` may read.
    pub environment: BTreeMap<String, String>,
    pub git: Git,
    /// Absolute folder; a process reads its secret at `<folder>/<unit>/<secret>`.
    pub secrets_folder: String,
    /// Mixed into the passwords that resources get, so that nobody can compute them from a branch's name.
    pub password_seed: String,
    pub today: Date,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Git {
    pub branch: Option<String>,
    pub commit: Option<String>,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Resolved {
    pub application: Application,
    pub origins: Origins,
    /// For people, nothing wrong: `web runs as a process: it has no image`.
    pub notes: Vec<String>,
    pub diagnostics: Vec<Diagnostic>,
}

impl Resolved {
    /// False when `up` must refuse.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.diagnostics.iter().all(|diagnostic| diagnostic.severity != Severity::Error)
    }
}

/// A port that the agent has to claim before resolving.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PortWish {
    pub unit: UnitName,
    pub port: String,
    /// The user insists on this one.
    pub fixed: Option<u16>,
}

/// Which host ports the application needs, in the order of unit and port names.
#[must_use]
pub fn required_ports(loaded: &Loaded, default_runtime: RuntimeKind) -> Vec<PortWish> {
    let drafts = draft::drafts(loaded, default_runtime, &mut Vec::new(), &mut Vec::new());
    let mut wishes: Vec<PortWish> = drafts.iter().flat_map(draft::Draft::port_wishes).collect();
    wishes.sort_by(|a, b| (&a.unit, &a.port).cmp(&(&b.unit, &b.port)));
    wishes
}

/// The places (`services.api`) of the units that would run elsewhere if another runtime were the default. About all
/// others, resolving for one of them finds what resolving for the other does.
#[must_use]
pub fn depending_on_runtime(loaded: &Loaded) -> BTreeSet<String> {
    let chosen = |runtime| draft::drafts(loaded, runtime, &mut Vec::new(), &mut Vec::new());
    let (docker, process) = (chosen(RuntimeKind::Docker), chosen(RuntimeKind::Process));
    let differing = docker.into_iter().zip(&process).filter(|(one, other)| one.runtime != other.runtime);
    differing.map(|(one, _)| one.path).collect()
}

/// The application as it should be.
#[must_use]
pub fn resolve(loaded: &Loaded, context: &Context) -> Resolved {
    resolve_where(loaded, context, &|_| true)
}

/// Only the units whose place (`services.api`) is wanted; of the others no more is known than what these refer to.
#[must_use]
pub fn resolve_where(loaded: &Loaded, context: &Context, wanted: &dyn Fn(&str) -> bool) -> Resolved {
    let mut diagnostics = Vec::new();
    let mut notes = Vec::new();
    let drafts = draft::drafts(loaded, context.default_runtime, &mut diagnostics, &mut notes);
    names::check(&loaded.manifest, &mut diagnostics);
    let mut origins = Origins::default();
    let world = World::new(loaded, context, &drafts, Depth::Everything);
    let mut application = Application {
        preview: context.preview.clone(),
        units: BTreeMap::new(),
        volumes: BTreeMap::new(),
        default_service: units::default_service(&loaded.manifest),
    };
    let mut links = needs::Links::default();
    for draft in drafts.iter().filter(|draft| wanted(&draft.path)) {
        let built = units::build(&world, draft, &mut origins, &mut diagnostics);
        links.add(draft, &built.references);
        for volume in built.volumes {
            application.volumes.insert(volume, crate::application::VolumeSpec { owner: draft.name.clone() });
        }
        application.units.insert(draft.name.clone(), built.unit);
    }
    needs::link(&drafts, &links, &mut application, &mut diagnostics);
    needs::know_process_peers(&mut application);
    changes::unmatched(loaded, &drafts, &mut diagnostics);
    diagnostics.extend(guardrails::check(loaded, &application, &origins, context.today));
    Resolved { application, origins, notes, diagnostics: in_order(diagnostics) }
}

/// What was found, before levels and waivers are decided.
pub(crate) struct Findings {
    pub(crate) diagnostics: Vec<Diagnostic>,
    violations: Vec<guardrails::Finding>,
    /// For the next version.
    pub(crate) kept: Kept,
}

impl Findings {
    /// With what the guardrails say.
    pub(crate) fn judged(self, loaded: &Loaded, context: &Context) -> (Vec<Diagnostic>, Kept) {
        let Self { mut diagnostics, violations, kept } = self;
        diagnostics.extend(guardrails::told(loaded, &context.preview.environment, context.today, violations));
        (in_order(diagnostics), kept)
    }
}

/// The diagnostics of [`resolve_where`] alone, in a quarter of its time: asked at every keystroke in an editor. Each
/// unit is forgotten once it was looked at.
#[must_use]
pub fn findings(loaded: &Loaded, context: &Context, wanted: &dyn Fn(&str) -> bool) -> Vec<Diagnostic> {
    findings_after(loaded, context, wanted, None).judged(loaded, context).0
}

/// The same, before anything is judged; units that have only moved since `before` are not looked at again.
pub(crate) fn findings_after(
    loaded: &Loaded,
    context: &Context,
    wanted: &dyn Fn(&str) -> bool,
    before: Option<(&Moved, &Kept)>,
) -> Findings {
    let mut diagnostics = Vec::new();
    let drafts = draft::drafts(loaded, context.default_runtime, &mut diagnostics, &mut Vec::new());
    names::check(&loaded.manifest, &mut diagnostics);
    let world = World::new(loaded, context, &drafts, Depth::Findings);
    let known = |unit| before.and_then(|(moved, kept)| kept.of(unit, moved));
    let looks: Vec<Look> = drafts.iter().zip(0..).map(|(draft, unit)| look(draft, wanted, || known(unit))).collect();
    let anew: Vec<&draft::Draft<'_>> =
        drafts.iter().zip(&looks).filter(|(_, look)| matches!(look, Look::Anew)).map(|(draft, _)| draft).collect();
    let mut fresh = of_units(&world, &anew).into_iter();
    let (mut kept, mut violations) = (Kept::default(), Vec::new());
    for (draft, look) in drafts.iter().zip(looks) {
        let found = match look {
            Look::Away => None,
            Look::Known(found) => Some(found),
            Look::Anew => fresh.next(),
        };
        let Some(found) = found else {
            kept.skip();
            continue;
        };
        kept.keep(loaded, draft, &found);
        diagnostics.extend(found.diagnostics);
        violations.extend(found.violations);
    }
    needs::check(&world, &drafts, &mut diagnostics);
    changes::unmatched(loaded, &drafts, &mut diagnostics);
    Findings { diagnostics, violations, kept }
}

enum Look {
    /// Nobody asks about this unit.
    Away,
    Known(Found),
    Anew,
}

fn look(draft: &draft::Draft<'_>, wanted: &dyn Fn(&str) -> bool, known: impl FnOnce() -> Option<Found>) -> Look {
    if wanted(&draft.path) { known().map_or(Look::Anew, Look::Known) } else { Look::Away }
}

/// Units do not look at one another's results, so a long list is shared out to threads; its order stays.
fn of_units(world: &World<'_>, drafts: &[&draft::Draft<'_>]) -> Vec<Found> {
    /// Of this many a thread is worth its start (some 30 us; a unit takes 10).
    const EACH_MIN: usize = 64;
    const THREADS_MAX: usize = 4;
    let each = drafts.len().div_ceil(THREADS_MAX).max(EACH_MIN);
    let mut parts = drafts.chunks(each);
    let own = parts.next().unwrap_or_default();
    std::thread::scope(|scope| {
        let others: Vec<_> = parts.map(|part| scope.spawn(|| of_part(world, part))).collect();
        let mut found = of_part(world, own);
        for other in others {
            found.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        found
    })
}

fn of_part(world: &World<'_>, drafts: &[&draft::Draft<'_>]) -> Vec<Found> {
    let look_at = |draft: &&draft::Draft<'_>| {
        let mut found = Found::default();
        let mut origins = Origins::default();
        let built = units::build(world, draft, &mut origins, &mut found.diagnostics);
        guardrails::inspect(world.loaded, &built.unit, &origins, &mut found.violations);
        found
    };
    drafts.iter().map(look_at).collect()
}

pub(crate) fn in_order(mut diagnostics: Vec<Diagnostic>) -> Vec<Diagnostic> {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.span.file, diagnostic.span.start, diagnostic.code));
    // A job repeats the lines of its service: each is told once.
    diagnostics
        .dedup_by(|later, first| (later.span, later.code, &later.message) == (first.span, first.code, &first.message));
    diagnostics
}

/// The ports of a unit as it will have them; the agent's claims first, the wished ones where it has not claimed.
fn unit_ports(draft: &draft::Draft<'_>, context: &Context) -> BTreeMap<String, UnitPort> {
    let key = |port: &str| (draft.name.clone(), port.to_owned());
    let ports = draft.ports().into_iter().map(|(name, wish)| {
        let host = context.ports.get(&key(&name)).copied().or(wish.fixed).unwrap_or(wish.inside);
        let inside = if draft.runtime == RuntimeKind::Process { host } else { wish.inside };
        (name, UnitPort { inside, host, protocol: wish.protocol })
    });
    ports.collect()
}
