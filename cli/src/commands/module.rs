//! `pdev module`: lists the built-in modules, and shows the inputs and outputs of a module.

use agent::disk::Disk;
use catalog::{Input, Module};
use clap::Subcommand;
use manifest::{Diagnostic, Span, Spanned};
use serde_json::{Value, json};

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::manifest_location;
use crate::render::doc_page;
use crate::render::table::{self, Cell};
use crate::terminal::Paint;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:\n  pdev module list\n  pdev module info postgres")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: ModuleCommand,
}

#[derive(Subcommand, Debug)]
enum ModuleCommand {
    /// List the built-in modules
    List,
    /// Show a module: inputs with defaults and reasons, outputs, owner
    Info {
        /// Name of the module, with or without a version (`postgres@16`), or its folder (`./modules/mail`)
        #[arg(value_name = "MODULE")]
        name: String,
    },
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    match &arguments.command {
        ModuleCommand::List => list(context),
        ModuleCommand::Info { name } => info(name, context),
    }
}

fn list(context: &Context) -> Outcome {
    let modules = catalog::built_in_modules();
    if context.json {
        context.terminal.print_json(&modules.iter().map(|module| short_json(module)).collect::<Vec<_>>());
        return crate::success();
    }
    let rows: Vec<Vec<Cell>> = modules
        .iter()
        .map(|module| {
            let summary = match &module.deprecated {
                Some(instead) => format!("{} (deprecated: {instead})", module.summary),
                None => module.summary.clone(),
            };
            vec![Cell::painted(&module.name, "1"), Cell::new(module.versions.join(", ")), Cell::new(summary)]
        })
        .collect();
    let lines = table::lines(&["MODULE", "VERSIONS", "SUMMARY"], &rows, 0, context.terminal.stdout_paint);
    lines.iter().for_each(|line| context.terminal.print_line(line));
    crate::success()
}

fn info(name: &str, context: &Context) -> Outcome {
    let folder = manifest_location::find_above(&context.folder)
        .map_or_else(|| context.folder.clone(), |location| location.folder);
    let uses = Spanned::new(name.to_owned(), Span::default());
    let module = catalog::resolve_module(&uses, &Disk::new(folder))
        .map_err(|diagnostics| unknown_module(name, diagnostics))?
        .module;
    if context.json {
        context.terminal.print_json(&full_json(&module));
    } else {
        module_lines(&module, context.terminal.stdout_paint).iter().for_each(|line| context.terminal.print_line(line));
    }
    crate::success()
}

fn unknown_module(name: &str, diagnostics: Vec<Diagnostic>) -> Failure {
    let Some(first) = diagnostics.into_iter().next() else {
        return Failure::not_found(format!("no module `{name}`"));
    };
    let failure = Failure::not_found(first.message);
    match (first.help, first.fixes.first()) {
        (Some(help), _) => failure.hint(help),
        (None, Some(fix)) => failure.hint(format!("Did you mean to {}?", fix.title)),
        (None, None) => failure.hint("Run `pdev module list` to list the built-in modules."),
    }
}

fn module_lines(module: &Module, paint: Paint) -> Vec<String> {
    let mut lines = vec![format!("{} {}  {}", paint.bold(&module.name), module.version, module.summary)];
    if let Some(instead) = &module.deprecated {
        lines.push(format!("{} {instead}", paint.yellow("deprecated:")));
    }
    let owner = &module.owner;
    lines.push(paint.dim(&format!("owner: {} ({}), support: {}", owner.team, owner.contact, owner.support)));
    let constraint = module.versions.iter().find(|known| **known == module.version.major.to_string());
    let example = constraint.map_or(module.name.clone(), |version| format!("{}@{version}", module.name));
    lines.push(format!("  resources: {{ NAME: {{ uses: {example}, with: {{ ... }} }} }}"));
    lines.extend([String::new(), paint.bold("Inputs")]);
    let rows: Vec<Vec<Cell>> = module.inputs.iter().map(|(name, input)| input_row(name, input)).collect();
    lines.extend(table::lines(&["", "", "", ""], &rows, 2, paint));
    lines.extend([String::new(), paint.bold("Outputs")]);
    let rows: Vec<Vec<Cell>> = module
        .outputs
        .iter()
        .map(|(name, output)| {
            let secret = if output.sensitive { "secret" } else { "" };
            let placeholder = format!("${{resources.NAME.{name}}}");
            vec![Cell::painted(placeholder, "1"), Cell::painted(secret, "33"), Cell::new(&output.description)]
        })
        .collect();
    lines.extend(table::lines(&["", "", ""], &rows, 2, paint));
    if !module.docs.trim().is_empty() {
        lines.push(String::new());
        lines.extend(doc_page::lines(&module.docs, paint));
    }
    lines
}

fn input_row(name: &str, input: &Input) -> Vec<Cell> {
    let mut description = input.description.clone();
    if !input.choices.is_empty() {
        description.push_str(&format!(" One of {}.", input.choices.join(", ")));
    }
    if !input.rationale.is_empty() {
        description.push_str(&format!(" Reason for the default: {}.", input.rationale));
    }
    vec![
        Cell::painted(name, "1"),
        Cell::new(&input.kind),
        Cell::painted(display_default(&input.default), "36"),
        Cell::new(description),
    ]
}

fn display_default(value: &Value) -> String {
    match value {
        Value::Null => "(required)".to_owned(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        // A template: the reason in the last column explains what the default is computed from.
        Value::String(text) if text.contains("{{") => "(computed)".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn short_json(module: &Module) -> Value {
    json!({
        "name": module.name,
        "version": module.version.to_string(),
        "versions": module.versions,
        "summary": module.summary,
        "deprecated": module.deprecated,
    })
}

fn full_json(module: &Module) -> Value {
    let mut value = short_json(module);
    let inputs = module.inputs.iter().map(|(name, input)| {
        let input = json!({
            "type": input.kind, "description": input.description, "default": input.default,
            "rationale": input.rationale, "level": input.level, "choices": input.choices,
            "minimum": input.minimum, "maximum": input.maximum,
        });
        (name.clone(), input)
    });
    value["inputs"] = Value::Object(inputs.collect());
    let outputs = module.outputs.iter().map(|(name, output)| {
        (name.clone(), json!({ "description": output.description, "sensitive": output.sensitive }))
    });
    value["outputs"] = Value::Object(outputs.collect());
    value["owner"] =
        json!({ "team": module.owner.team, "contact": module.owner.contact, "support": module.owner.support });
    value["docs"] = module.docs.clone().into();
    value
}
