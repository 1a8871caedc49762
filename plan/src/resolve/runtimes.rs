//! Chooses the runtime of each unit: its own setting, else its environment's, else the caller's default. A unit that
//! cannot run there uses the first alternative that can run it, and a note or diagnostic reports that.

use manifest::model::{Manifest, Resource, Runtime, Service};
use manifest::{Diagnostic, Severity, Span, Spanned};

use crate::application::RuntimeKind;
use crate::codes;
use crate::module::Module;
use crate::render::UnitForm;
use crate::runtime::{Availability, join_words, list_names};

pub(super) struct RuntimeChooser<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) default_runtime: RuntimeKind,
    pub(super) diagnostics: &'a mut Vec<Diagnostic>,
    pub(super) notes: &'a mut Vec<String>,
}

impl RuntimeChooser<'_> {
    pub(super) fn choose_for_service(&mut self, name: &str, path: &str, key: Span, service: &Service) -> RuntimeKind {
        let requested = self.requested_runtime(path, service.runtime.as_ref());
        if can_run(requested, service) {
            return requested;
        }
        // No runtime can run it. The manifest reader already reported it with a better message.
        let Some(other) = alternatives(requested).find(|other| can_run(*other, service)) else { return requested };
        let (why, needed) = missing_settings(requested);
        let wording = &other.capabilities().wording;
        let is_chosen_by_user = service.runtime.is_some() || self.manifest.environment.runtime.is_some();
        let engine = match other.capabilities().availability {
            Availability::Engine { name, how_to_start } => Some((name, how_to_start)),
            Availability::Always => None,
        };
        // The default would be the other runtime if its engine answered.
        if let Some((engine_name, how_to_start)) = engine.filter(|_| !is_chosen_by_user) {
            let message = format!("`{name}` can only run {}, and no {engine_name} answers", wording.as_unit);
            self.diagnostics.push(
                Diagnostic::new(codes::RUNTIME_CANNOT_RUN, Severity::Error, key, message)
                    .at_path(path)
                    .help(format!("{how_to_start}, or give it {needed}.")),
            );
        }
        let fix = format!("Give it {needed}, or let it run {}.", wording.selection);
        self.report_unsupported_runtime(path, service.runtime.as_ref(), why, &fix);
        // A note is useful only if the user requested another runtime, or explains an error.
        if is_chosen_by_user || engine.is_some() {
            self.notes.push(format!("{name} runs {}: {why}", wording.as_unit));
        }
        other
    }

    pub(super) fn choose_for_resource(
        &mut self,
        name: &str,
        path: &str,
        key: Span,
        resource: &Resource,
        module: &Module,
    ) -> RuntimeKind {
        let requested = self.requested_runtime(path, resource.runtime.as_ref());
        if module.renderer.can_render(requested) {
            return requested;
        }
        let module_name = &module.name;
        let Some(other) = alternatives(requested).find(|other| module.renderer.can_render(*other)) else {
            let all: Vec<&str> =
                RuntimeKind::ALL.iter().map(|runtime| runtime.capabilities().wording.in_runtime).collect();
            let message = format!("module `{module_name}` of `{name}` runs neither {}", join_words(&all, "nor"));
            self.diagnostics
                .push(Diagnostic::new(codes::RUNTIME_CANNOT_RUN, Severity::Error, key, message).at_path(path));
            return requested;
        };
        let why = format!("module `{module_name}` has no rendering for {}", requested.capabilities().wording.runtime);
        self.report_unsupported_runtime(
            path,
            resource.runtime.as_ref(),
            &why,
            "Remove `runtime`, or use another module.",
        );
        self.notes.push(format!("{name} runs {}: {why}", other.capabilities().wording.as_unit));
        other
    }

    /// The runtime that the unit or its environment requests. A runtime without a driver is reported, and the unit is
    /// checked for the preferred one.
    fn requested_runtime(&mut self, path: &str, unit_setting: Option<&Spanned<Runtime>>) -> RuntimeKind {
        let Some(chosen) = unit_setting.or(self.manifest.environment.runtime.as_ref()) else {
            return self.default_runtime;
        };
        RuntimeKind::from_manifest(chosen.value).unwrap_or_else(|| {
            let name = manifest::runtime_name(chosen.value);
            let message = format!("runtime `{name}` cannot be brought up by this version");
            let path = if unit_setting.is_some() { format!("{path}.runtime") } else { "runtime".to_owned() };
            self.diagnostics.push(
                Diagnostic::new(codes::NO_DRIVER, Severity::Error, chosen.span, message)
                    .at_path(path)
                    .help(format!("Choose an environment whose `runtime` is {}.", list_names("or"))),
            );
            RuntimeKind::preferred()
        })
    }

    fn report_unsupported_runtime(
        &mut self,
        path: &str,
        unit_setting: Option<&Spanned<Runtime>>,
        why: &str,
        fix: &str,
    ) {
        let Some(unit_setting) = unit_setting else { return };
        // A runtime without a driver is already reported.
        let Some(runtime) = RuntimeKind::from_manifest(unit_setting.value) else { return };
        let message = format!("cannot run on runtime `{runtime}`: {why}");
        self.diagnostics.push(
            Diagnostic::new(codes::RUNTIME_CANNOT_RUN, Severity::Error, unit_setting.span, message)
                .at_path(format!("{path}.runtime"))
                .help(fix),
        );
    }
}

/// The runtimes to try instead of this one, the preferred one first.
fn alternatives(requested: RuntimeKind) -> impl Iterator<Item = RuntimeKind> {
    RuntimeKind::default_candidates().into_iter().filter(move |runtime| *runtime != requested)
}

fn can_run(runtime: RuntimeKind, service: &Service) -> bool {
    match runtime.form() {
        UnitForm::Container(_) => service.image.is_some() || service.build.is_some(),
        UnitForm::Process => service.command.is_some() || has_process_command(service),
    }
}

/// Why a service cannot run there, and the settings that it needs.
fn missing_settings(runtime: RuntimeKind) -> (&'static str, &'static str) {
    match runtime.form() {
        UnitForm::Container(_) => ("it has neither `build` nor `image`", "`build` or `image`"),
        UnitForm::Process => {
            ("it has no `command` that could run outside a container", "`process: { command: [...] }`")
        }
    }
}

fn has_process_command(service: &Service) -> bool {
    service.process.as_ref().is_some_and(|process| process.command.is_some())
}
