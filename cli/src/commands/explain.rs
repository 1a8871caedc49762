//! `pdev explain`: prints the page of a diagnostic code, or the meaning, value and origin of a manifest field.

use manifest::Sources;
use plan::application::RuntimeKind;
use plan::check::resolve_known_values;
use plan::explain::{ExplainResult, Explanation, describe_origin, explain};
use serde_json::json;
use strings::nearest;

use crate::context::Context;
use crate::exit::{Failure, Outcome};
use crate::manifest_check::{self, CheckedManifest, ManifestOptions};
use crate::render::{doc_page, schema_field, table};
use crate::terminal::Paint;
use crate::{codes, manifest_location};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev explain PD0104               explain a code, with a bad and a good example
  pdev explain services.api.port    explain a field, its value here and the origin of the value
  pdev explain services.api.docker  list all settings of the container with their origins")]
pub(crate) struct Arguments {
    /// Diagnostic code such as PD0104, or manifest field such as services.api.port
    #[arg(value_name = "CODE|FIELD")]
    subject: String,
    /// Environment of the manifest [default: local]
    #[arg(short = 'e', long = "env", value_name = "NAME", env = "PDEV_ENV", hide_env = true)]
    environment: Option<String>,
    /// Runtime for services that do not set one
    #[arg(long, value_name = "RUNTIME", value_parser = crate::manifest_check::runtime_names(), env = "PDEV_RUNTIME", hide_env = true)]
    runtime: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let subject = arguments.subject.trim();
    if is_code(subject) {
        explain_code(&subject.to_uppercase(), context)
    } else {
        explain_field(subject, arguments, context)
    }
}

fn is_code(subject: &str) -> bool {
    let digits = subject.get(..2).filter(|start| start.eq_ignore_ascii_case("PD")).map(|_| &subject[2..]);
    digits.is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

fn explain_code(code: &str, context: &Context) -> Outcome {
    let Some(text) = codes::page(code) else {
        let failure = Failure::not_found(format!("no code `{code}`"));
        let near = nearest(code, codes::all());
        return Err(match near {
            Some(near) => failure.hint(format!("Did you mean `{near}`?")),
            None => failure.hint("Run `pdev check`; it prints codes in brackets."),
        });
    };
    if context.json {
        context.terminal.print_json(&json!({ "code": code, "page": doc_page::without_front_matter(text) }));
    } else {
        doc_page::lines(text, context.terminal.stdout_paint).iter().for_each(|line| context.terminal.print_line(line));
    }
    crate::success()
}

/// Prints the description of the schema and, if there is a manifest, the value of the field in it.
fn explain_field(path: &str, arguments: &Arguments, context: &Context) -> Outcome {
    let described = schema_field::describe(&manifest::schema::json_schema(), path);
    let checked = manifest_location::find_above(&context.folder)
        .map(|location| manifest_check::read_and_check(&location, manifest_options(arguments)))
        .transpose()?;
    let result = checked.as_ref().and_then(|checked| resolve_field(path, checked, arguments));
    let (explanations, near) = match result {
        Some(ExplainResult::Field(explanation)) => (vec![explanation], None),
        Some(ExplainResult::Subtree(all)) => (all, None),
        Some(ExplainResult::Unknown { nearest }) => (Vec::new(), nearest),
        None => (Vec::new(), None),
    };
    if described.is_none() && explanations.is_empty() {
        return Err(unknown_field(path, near));
    }
    let sources = checked.map(|checked| checked.loaded.sources).unwrap_or_default();
    if context.json {
        let here: Vec<_> = explanations
            .iter()
            .map(|field| json!({ "path": field.path, "value": field.value, "origins": origins(field, &sources), "docs": field.docs, "how": field.how_to_change }))
            .collect();
        let description = described.map(|lines| lines.join("\n"));
        context.terminal.print_json(&json!({ "field": path, "description": description, "here": here }));
        return crate::success();
    }
    let (terminal, paint) = (&context.terminal, context.terminal.stdout_paint);
    terminal.print_line(&paint.bold(path));
    for line in described.unwrap_or_default() {
        terminal.print_line(&format!("  {line}"));
    }
    if let Some(near) = near {
        terminal.print_line(&paint.dim(&format!("  its value here: `pdev explain {near}`")));
    }
    for line in value_lines(path, &explanations, &sources, paint) {
        terminal.print_line(&line);
    }
    crate::success()
}

fn manifest_options(arguments: &Arguments) -> ManifestOptions<'_> {
    ManifestOptions { environment: arguments.environment.as_deref(), sets: &[], runtime: arguments.runtime.as_deref() }
}

fn value_lines(path: &str, explanations: &[Explanation], sources: &Sources, paint: Paint) -> Vec<String> {
    let rows: Vec<_> = explanations
        .iter()
        .map(|field| {
            let subpath = field.path.strip_prefix(path).unwrap_or(&field.path).trim_start_matches('.');
            let name = if subpath.is_empty() { "here" } else { subpath };
            vec![
                table::Cell::painted(name, "1"),
                table::Cell::new(shorten(&field.value)),
                table::Cell::painted(origins(field, sources).join(" < "), "2"),
            ]
        })
        .collect();
    let mut lines = table::lines(&["", "", ""], &rows, 2, paint);
    if let [field] = explanations {
        lines.extend(field.docs.map(|docs| format!("  {docs}")));
        lines.push(format!("  {}", field.how_to_change));
    }
    lines
}

/// The field as resolved for the runtime of `--runtime`; `None` if the manifest is too wrong to resolve.
fn resolve_field(path: &str, checked: &CheckedManifest, arguments: &Arguments) -> Option<ExplainResult> {
    let chosen = arguments.runtime.as_deref().and_then(|name| RuntimeKind::parse(name).ok());
    let runtime = chosen.unwrap_or_else(RuntimeKind::preferred);
    let loaded = &checked.loaded;
    let options = manifest_options(arguments).to_check_options().ok()?;
    loaded.is_usable().then(|| explain(&resolve_known_values(loaded, &options, runtime, None), path))
}

fn origins(explanation: &Explanation, sources: &Sources) -> Vec<String> {
    explanation.origins.iter().rev().map(|origin| describe_origin(origin, sources)).collect()
}

fn shorten(value: &serde_json::Value) -> String {
    const CHARACTERS_MAX: usize = 60;
    let text = match value {
        serde_json::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    if text.chars().count() <= CHARACTERS_MAX {
        return text;
    }
    text.chars().take(CHARACTERS_MAX - 1).chain(['…']).collect()
}

fn unknown_field(path: &str, near: Option<String>) -> Failure {
    let failure = Failure::not_found(format!("no field `{path}`"));
    if let Some(near) = near {
        return failure.hint(format!("Did you mean `{near}`?"));
    }
    let (parent, last) = path.rsplit_once('.').unwrap_or(("", path));
    let known = schema_field::child_fields(&manifest::schema::json_schema(), parent);
    match nearest(last, known.iter().map(String::as_str)) {
        Some(near) if parent.is_empty() => failure.hint(format!("Did you mean `{near}`?")),
        Some(near) => failure.hint(format!("Did you mean `{parent}.{near}`?")),
        None if known.is_empty() => failure.hint("Write fields with dots: `services.api.port`."),
        None => failure.hint(format!(
            "Use one of the fields of `{}`: {}.",
            if parent.is_empty() { "pdev.yaml" } else { parent },
            known.join(", ")
        )),
    }
}
