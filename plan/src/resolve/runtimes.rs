//! Chooses the runtime of each unit: its own setting, else its environment's, else the caller's default. A unit that
//! supports only one runtime uses that one, and a note or diagnostic reports it.

use manifest::model::{Manifest, Resource, Runtime, Service};
use manifest::{Diagnostic, Severity, Span, Spanned};

use super::draft::runtime_kind;
use crate::application::RuntimeKind;
use crate::codes;
use crate::module::Module;

pub(super) struct RuntimeChooser<'a> {
    pub(super) manifest: &'a Manifest,
    pub(super) default_runtime: RuntimeKind,
    pub(super) diagnostics: &'a mut Vec<Diagnostic>,
    pub(super) notes: &'a mut Vec<String>,
}

impl RuntimeChooser<'_> {
    pub(super) fn choose_for_service(&mut self, name: &str, path: &str, key: Span, service: &Service) -> RuntimeKind {
        let can_process = service.command.is_some() || has_process_command(service);
        let can_docker = service.image.is_some() || service.build.is_some();
        let requested = self.requested_runtime(path, service.runtime.as_ref());
        match (requested, can_docker, can_process) {
            (RuntimeKind::Docker, true, _) | (RuntimeKind::Process, _, true) => requested,
            // Neither is possible. The manifest reader already reported it with a better message.
            (_, false, false) => requested,
            (RuntimeKind::Docker, false, true) => {
                self.report_unsupported_runtime(
                    path,
                    service.runtime.as_ref(),
                    "it has neither `build` nor `image`",
                    "Give it `build` or `image`, or let it run with `runtime: process`.",
                );
                // A note is useful only if the user requested another runtime.
                if service.runtime.is_some() || self.manifest.environment.runtime.is_some() {
                    self.notes.push(format!("{name} runs as a process: it has neither `build` nor `image`"));
                }
                RuntimeKind::Process
            }
            (RuntimeKind::Process, true, false) => {
                let why = "it has no `command` that could run outside a container";
                let fix = "Give it `process: { command: [...] }`, or let it run in a container with `runtime: docker`.";
                if service.runtime.is_none() && self.manifest.environment.runtime.is_none() {
                    let message = format!("`{name}` can only run in a container, and no container engine answers");
                    let help = "Start Docker, or give it `process: { command: [...] }`.";
                    self.diagnostics.push(
                        Diagnostic::new(codes::RUNTIME_CANNOT_RUN, Severity::Error, key, message)
                            .at_path(path)
                            .help(help),
                    );
                }
                self.report_unsupported_runtime(path, service.runtime.as_ref(), why, fix);
                self.notes.push(format!("{name} runs in a container: {why}"));
                RuntimeKind::Docker
            }
        }
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
        let other = if requested == RuntimeKind::Docker { RuntimeKind::Process } else { RuntimeKind::Docker };
        let module_name = &module.name;
        if !module.renderer.can_render(other) {
            let message = format!("module `{module_name}` of `{name}` runs neither in Docker nor as a process");
            self.diagnostics
                .push(Diagnostic::new(codes::RUNTIME_CANNOT_RUN, Severity::Error, key, message).at_path(path));
            return requested;
        }
        let why = format!("module `{module_name}` has no rendering for {}", runtime_name(requested));
        self.report_unsupported_runtime(
            path,
            resource.runtime.as_ref(),
            &why,
            "Remove `runtime`, or use another module.",
        );
        self.notes.push(format!("{name} runs {}: {why}", runtime_phrase(other)));
        other
    }

    /// The runtime that the unit or its environment requests. Kubernetes has no driver yet, so it is reported and the
    /// unit is checked as a container.
    fn requested_runtime(&mut self, path: &str, unit_setting: Option<&Spanned<Runtime>>) -> RuntimeKind {
        let Some(chosen) = unit_setting.or(self.manifest.environment.runtime.as_ref()) else {
            return self.default_runtime;
        };
        runtime_kind(chosen.value).unwrap_or_else(|| {
            let message = "runtime `kubernetes` cannot be brought up by this version";
            let path = if unit_setting.is_some() { format!("{path}.runtime") } else { "runtime".to_owned() };
            self.diagnostics.push(
                Diagnostic::new(codes::NO_DRIVER, Severity::Error, chosen.span, message)
                    .at_path(path)
                    .help("Choose an environment whose `runtime` is `docker` or `process`."),
            );
            RuntimeKind::Docker
        })
    }

    fn report_unsupported_runtime(
        &mut self,
        path: &str,
        unit_setting: Option<&Spanned<Runtime>>,
        why: &str,
        fix: &str,
    ) {
        let Some(unit_setting) = unit_setting.filter(|unit_setting| unit_setting.value != Runtime::Kubernetes) else {
            return;
        };
        let name = if unit_setting.value == Runtime::Docker { "docker" } else { "process" };
        let message = format!("cannot run on runtime `{name}`: {why}");
        self.diagnostics.push(
            Diagnostic::new(codes::RUNTIME_CANNOT_RUN, Severity::Error, unit_setting.span, message)
                .at_path(format!("{path}.runtime"))
                .help(fix),
        );
    }
}

fn has_process_command(service: &Service) -> bool {
    service.process.as_ref().is_some_and(|process| process.command.is_some())
}

fn runtime_name(runtime: RuntimeKind) -> &'static str {
    match runtime {
        RuntimeKind::Docker => "Docker",
        RuntimeKind::Process => "the process runtime",
    }
}

fn runtime_phrase(runtime: RuntimeKind) -> &'static str {
    match runtime {
        RuntimeKind::Docker => "in a container",
        RuntimeKind::Process => "as a process",
    }
}
