//! Adapts modules of the catalog to the planner's [`Renderer`]. No other file knows both formats.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifest::template::{Scope, Template};
use manifest::{Diagnostic, Files, Manifest, Severity, Span};
use serde_json::{Map as JsonMap, Value as Json};

use crate::application::{ProgramVersion, RuntimeKind};
use crate::module::{
    Address, ContainerRendering, Module, ProcessRendering, Program, RenderInputs, Renderer, Rendering,
};
use crate::render::UnitForm;

/// The file that pins module versions.
pub const LOCK_FILE: &str = "pdev.lock";

pub(crate) struct LoadedModules {
    pub modules: BTreeMap<String, Module>,
    /// The new text of the lock, if it differs from the text on disk.
    pub lock_update: Option<String>,
}

/// Resolves the module of each resource and checks its inputs. A module that is not found is reported at its `uses`.
pub(crate) fn load_modules(
    manifest: &Manifest,
    root: &str,
    files: &dyn Files,
    diagnostics: &mut Vec<Diagnostic>,
) -> LoadedModules {
    let folder = root.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let lock_text =
        files.read(&format!("{folder}{LOCK_FILE}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let lock = parse_lock(lock_text.as_deref(), diagnostics);
    let mut modules = BTreeMap::new();
    let mut used_modules = Vec::new();
    for (name, entry) in manifest.resources.iter().filter(|(_, entry)| !entry.value.uses.value.is_empty()) {
        let path = format!("resources.{name}");
        let module = match catalog::resolve_module(&entry.value.uses, files) {
            Ok(module) => module,
            Err(problems) => {
                diagnostics.extend(problems.into_iter().map(|problem| problem.at_path(format!("{path}.uses"))));
                continue;
            }
        };
        diagnostics.extend(module.warnings.iter().cloned());
        diagnostics.extend(lock.detect_change(&module, entry.value.uses.span));
        let (inputs, problems) =
            module.module.inputs_from(&entry.value.with, &path, &|template| resolve_vars_only(manifest, template));
        diagnostics.extend(problems);
        check_rendering(&module, &inputs, entry.value.uses.span, diagnostics);
        modules.insert(name.clone(), to_plan_module(&module, inputs));
        used_modules.push(module);
    }
    let new_lock = catalog::Lock::from_modules(&used_modules);
    let changed = new_lock != lock || (lock_text.is_some() && used_modules.is_empty());
    LoadedModules { modules, lock_update: (changed && !used_modules.is_empty()).then(|| new_lock.render()) }
}

fn parse_lock(lock_text: Option<&str>, diagnostics: &mut Vec<Diagnostic>) -> catalog::Lock {
    let Some(text) = lock_text else { return catalog::Lock::default() };
    catalog::Lock::parse(text).unwrap_or_else(|reason| {
        let problem = Diagnostic::new(
            catalog::codes::BAD_LOCK,
            Severity::Error,
            Span::default(),
            format!("cannot use `{LOCK_FILE}`: {reason}"),
        );
        diagnostics.push(problem.help("Delete the lock and run `pdev up`, which writes a new one."));
        catalog::Lock::default()
    })
}

/// Resolves `${vars.NAME}` if the variable is plain text. No other placeholder is known before a preview exists.
fn resolve_vars_only(manifest: &Manifest, template: &Template) -> Option<String> {
    use manifest::template::Part;
    let part_text = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        Part::Reference(reference) if reference.scope == Scope::Vars => {
            // A default that cannot be resolved is an error even if the variable exists.
            let default = match &reference.default {
                Some(default) => Some(resolve_vars_only(manifest, default)?),
                None => None,
            };
            manifest.vars.get(&reference.path[0]).map_or(default, |variable| variable.value.as_literal())
        }
        Part::Reference(_) => None,
    };
    template.parts.iter().map(part_text).collect()
}

/// Renders the module once with placeholder values, so that a failing template is reported now and not during `up`.
fn check_rendering(
    resolved: &catalog::ResolvedModule,
    inputs: &JsonMap<String, Json>,
    span: Span,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for target in catalog::RenderTarget::ALL {
        let ports = resolved.module.ports.iter().map(|(name, port)| (name.clone(), port.to_string())).collect();
        let placeholder_inputs = RenderInputs {
            runtime: RuntimeKind::preferred(),
            resource: String::new(),
            app: String::new(),
            ports,
            password: "x".to_owned(),
        };
        if !resolved.module.can_render(target) {
            continue;
        }
        let version = (resolved.constraint.as_str(), resolved.is_pinned);
        let context = catalog_render_context(&placeholder_inputs, version, inputs);
        let rendered = resolved.module.render(target, &context).map(drop);
        let outputs = resolved.module.outputs_at(&context, "127.0.0.1", &placeholder_inputs.ports).map(drop);
        if let Err(problem) = rendered.and(outputs) {
            let message = format!(
                "the module `{}` cannot be rendered: {}: {}",
                resolved.module.name, problem.field, problem.message
            );
            diagnostics.push(
                Diagnostic::new(catalog::codes::BAD_MODULE, Severity::Error, span, message)
                    .help("Correct the module's template, or its inputs."),
            );
        }
    }
}

fn to_plan_module(resolved: &catalog::ResolvedModule, inputs: JsonMap<String, Json>) -> Module {
    Module {
        name: resolved.module.name.clone(),
        version: resolved.module.version.to_string(),
        source: resolved.module.source.to_string(),
        renderer: Arc::new(CatalogRenderer {
            module: Arc::clone(&resolved.module),
            constraint: resolved.constraint.clone(),
            is_pinned: resolved.is_pinned,
            inputs,
        }),
    }
}

#[derive(Debug)]
struct CatalogRenderer {
    module: Arc<catalog::Module>,
    constraint: String,
    is_pinned: bool,
    inputs: JsonMap<String, Json>,
}

fn catalog_render_context(
    inputs: &RenderInputs,
    (constraint, is_pinned): (&str, bool),
    module_inputs: &JsonMap<String, Json>,
) -> catalog::RenderContext {
    catalog::RenderContext {
        resource: inputs.resource.clone(),
        app: inputs.app.clone(),
        ports: inputs.ports.clone(),
        password: inputs.password.clone(),
        constraint: constraint.to_owned(),
        is_pinned,
        inputs: module_inputs.clone(),
    }
}

impl Renderer for CatalogRenderer {
    fn can_render(&self, runtime: RuntimeKind) -> bool {
        self.module.can_render(runtime.definition().module_rendering)
    }

    fn ports(&self, _runtime: RuntimeKind) -> BTreeMap<String, u16> {
        self.module.ports.clone()
    }

    fn render(&self, inputs: &RenderInputs) -> Rendering {
        // `check_rendering` already reported a failing template as an error, so the empty rendering is never used.
        let context = catalog_render_context(inputs, (&self.constraint, self.is_pinned), &self.inputs);
        let rendered = self.module.render(inputs.runtime.definition().module_rendering, &context).unwrap_or_default();
        let program = Program {
            command: rendered.command,
            env: rendered.env.into_iter().map(|(name, text)| (name, (text.value, text.sensitive))).collect(),
            user: rendered.user,
            ready: None,
            start_limit: None,
            stop_signal: self.module.stop_signal.clone(),
            stop_grace: self.module.stop_grace,
        };
        match inputs.runtime.form() {
            UnitForm::Container(_) => Rendering::Container(ContainerRendering {
                program,
                image: rendered.image.unwrap_or_default(),
                entrypoint: rendered.entrypoint,
                volumes: rendered.volumes,
                docker_host_config: rendered.host_config,
            }),
            UnitForm::Process => Rendering::Process(ProcessRendering {
                program,
                init: rendered.init,
                after_ready: rendered.after_ready,
                files: rendered.files,
                search_paths: rendered.search_paths,
                install_hint: rendered.install_hint,
                version: rendered.version.map(|version| ProgramVersion {
                    software: version.software,
                    command: version.command,
                    accept: version.accept,
                    minimum: version.minimum,
                    package: version.package,
                }),
            }),
        }
    }

    fn outputs(&self, inputs: &RenderInputs, address: &Address) -> BTreeMap<String, (String, bool)> {
        // `check_rendering` already reported failing outputs as an error.
        let context = catalog_render_context(inputs, (&self.constraint, self.is_pinned), &self.inputs);
        self.module.outputs_at(&context, &address.host, &address.ports).unwrap_or_default()
    }
}
