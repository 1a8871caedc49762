//! The catalog's modules behind the planner's [`Renderer`]: the one place where the two formats meet.

use std::collections::BTreeMap;
use std::sync::Arc;

use manifest::template::{Scope, Template};
use manifest::{Diagnostic, Files, Manifest, Severity, Span};
use serde_json::{Map as JsonMap, Value as Json};

use crate::application::RuntimeKind;
use crate::module::{Address, Module, RenderInputs, Renderer, Rendering};

/// The file that pins modules.
pub const LOCK_FILE: &str = "pdev.lock";

pub(crate) struct LoadedModules {
    pub modules: BTreeMap<String, Module>,
    /// The text the lock should have, when it differs from what is there.
    pub lock_update: Option<String>,
}

/// Finds the module of each resource and checks its inputs. What cannot be found is told at its `uses`.
pub(crate) fn load_modules(
    manifest: &Manifest,
    root: &str,
    files: &dyn Files,
    found: &mut Vec<Diagnostic>,
) -> LoadedModules {
    let folder = root.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
    let written =
        files.read(&format!("{folder}{LOCK_FILE}")).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let lock = parse_lock(written.as_deref(), found);
    let mut modules = BTreeMap::new();
    let mut used = Vec::new();
    for (name, entry) in manifest.resources.iter().filter(|(_, entry)| !entry.value.uses.value.is_empty()) {
        let path = format!("resources.{name}");
        let module = match catalog::resolve_module(&entry.value.uses, files) {
            Ok(module) => module,
            Err(problems) => {
                found.extend(problems.into_iter().map(|problem| problem.at_path(format!("{path}.uses"))));
                continue;
            }
        };
        found.extend(module.warnings.iter().cloned());
        found.extend(lock.detect_change(&module, entry.value.uses.span));
        let (inputs, problems) =
            module.module.inputs_from(&entry.value.with, &path, &|template| resolve_vars_only(manifest, template));
        found.extend(problems);
        check_rendering(&module, &inputs, entry.value.uses.span, found);
        modules.insert(name.clone(), to_plan_module(&module, inputs));
        used.push(module);
    }
    let wanted = catalog::Lock::from_modules(&used);
    let changed = wanted != lock || (written.is_some() && used.is_empty());
    LoadedModules { modules, lock_update: (changed && !used.is_empty()).then(|| wanted.render()) }
}

fn parse_lock(written: Option<&str>, found: &mut Vec<Diagnostic>) -> catalog::Lock {
    let Some(text) = written else { return catalog::Lock::default() };
    catalog::Lock::parse(text).unwrap_or_else(|words| {
        let problem = Diagnostic::new(
            catalog::codes::BAD_LOCK,
            Severity::Error,
            Span::default(),
            format!("cannot use `{LOCK_FILE}`: {words}"),
        );
        found.push(problem.help("The lock pins modules; it can be made anew by deleting it and running `pdev up`."));
        catalog::Lock::default()
    })
}

/// `${vars.NAME}` where that variable is plain text: the only placeholder known before there is a preview.
fn resolve_vars_only(manifest: &Manifest, template: &Template) -> Option<String> {
    use manifest::template::Part;
    let text = |part: &Part| match part {
        Part::Text(text) => Some(text.clone()),
        Part::Reference(reference) if reference.scope == Scope::Vars => {
            manifest.vars.get(&reference.path[0])?.value.as_literal()
        }
        Part::Reference(_) => None,
    };
    template.parts.iter().map(text).collect()
}

/// A template that fails is found now, not in the middle of an `up`.
fn check_rendering(
    found: &catalog::ResolvedModule,
    inputs: &JsonMap<String, Json>,
    span: Span,
    diagnostics: &mut Vec<Diagnostic>,
) {
    for target in [catalog::RenderTarget::Docker, catalog::RenderTarget::Process] {
        let ports = found.module.ports.iter().map(|(name, port)| (name.clone(), port.to_string())).collect();
        let facts = RenderInputs {
            runtime: RuntimeKind::Docker,
            resource: String::new(),
            app: String::new(),
            ports,
            password: "x".to_owned(),
        };
        if !found.module.can_render(target) {
            continue;
        }
        let context = catalog_render_context(&facts, &found.constraint, inputs);
        let rendered = found.module.render(target, &context).map(drop);
        let told = found.module.outputs_at(&context, "127.0.0.1", &facts.ports).map(drop);
        if let Err(problem) = rendered.and(told) {
            let words = format!(
                "the module `{}` cannot be rendered: {}: {}",
                found.module.name, problem.field, problem.message
            );
            diagnostics.push(
                Diagnostic::new(catalog::codes::BAD_MODULE, Severity::Error, span, words)
                    .help("Correct the module's template, or its inputs."),
            );
        }
    }
}

fn to_plan_module(found: &catalog::ResolvedModule, inputs: JsonMap<String, Json>) -> Module {
    Module {
        name: found.module.name.clone(),
        version: found.module.version.to_string(),
        source: found.module.source.to_string(),
        renderer: Arc::new(CatalogRenderer {
            module: Arc::clone(&found.module),
            constraint: found.constraint.clone(),
            inputs,
        }),
    }
}

#[derive(Debug)]
struct CatalogRenderer {
    module: Arc<catalog::Module>,
    constraint: String,
    inputs: JsonMap<String, Json>,
}

fn catalog_target(runtime: RuntimeKind) -> catalog::RenderTarget {
    match runtime {
        RuntimeKind::Docker => catalog::RenderTarget::Docker,
        RuntimeKind::Process => catalog::RenderTarget::Process,
    }
}

fn catalog_render_context(
    facts: &RenderInputs,
    constraint: &str,
    inputs: &JsonMap<String, Json>,
) -> catalog::RenderContext {
    catalog::RenderContext {
        resource: facts.resource.clone(),
        app: facts.app.clone(),
        ports: facts.ports.clone(),
        password: facts.password.clone(),
        constraint: constraint.to_owned(),
        inputs: inputs.clone(),
    }
}

impl Renderer for CatalogRenderer {
    fn can_render(&self, runtime: RuntimeKind) -> bool {
        self.module.can_render(catalog_target(runtime))
    }

    fn ports(&self, _runtime: RuntimeKind) -> BTreeMap<String, u16> {
        self.module.ports.clone()
    }

    fn render(&self, facts: &RenderInputs) -> Rendering {
        // What fails was told by `check_rendering`; an empty rendering is then never used.
        let body = self
            .module
            .render(catalog_target(facts.runtime), &catalog_render_context(facts, &self.constraint, &self.inputs))
            .unwrap_or_default();
        Rendering {
            command: body.command,
            env: body.env.into_iter().map(|(name, text)| (name, (text.value, text.sensitive))).collect(),
            user: body.user,
            ready: None,
            start_limit: None,
            stop_signal: self.module.stop_signal.clone(),
            stop_grace: self.module.stop_grace,
            image: body.image,
            entrypoint: body.entrypoint,
            volumes: body.volumes,
            host_config: body.host_config,
            init: body.init,
            after_ready: body.after_ready,
            files: body.files,
            search_paths: body.search_paths,
            install_hint: body.install_hint,
        }
    }

    fn outputs(&self, facts: &RenderInputs, address: &Address) -> BTreeMap<String, (String, bool)> {
        // What fails was told by `check_rendering`.
        let context = catalog_render_context(facts, &self.constraint, &self.inputs);
        self.module.outputs_at(&context, &address.host, &address.ports).unwrap_or_default()
    }
}
