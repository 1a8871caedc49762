//! Pages made from the code: docs/cli.md and docs/schemas. The test fails when one is behind;
//! `UPDATE_DOCS=1 cargo test -p cli` writes them.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use protocol::schema_of;

fn pages() -> Vec<(PathBuf, String)> {
    let mut pages =
        vec![(PathBuf::from("cli.md"), command_line_page()), (PathBuf::from("identities.md"), identities_page())];
    pages.extend(
        catalog::built_in_modules()
            .iter()
            .map(|module| (Path::new("modules").join(format!("{}.md", module.name)), module_page(module))),
    );
    pages.extend(schemas().into_iter().map(|(name, mut schema)| {
        schema["$id"] = format!("urn:pdev:schema:{name}:{}", protocol::PROTOCOL_VERSION).into();
        let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        (Path::new("schemas").join(format!("{name}.json")), text)
    }));
    pages
}

fn schemas() -> Vec<(&'static str, serde_json::Value)> {
    vec![
        ("agent", schema_of::<protocol::agent_info::AgentInfo>()),
        ("check", schema_of::<Vec<protocol::problem::DiagnosticView>>()),
        ("doctor", schema_of::<Vec<crate::commands::doctor::Finding>>()),
        ("event", schema_of::<protocol::Event>()),
        ("log-entry", schema_of::<protocol::request::LogEntry>()),
        ("plan", schema_of::<protocol::plan::PlanReply>()),
        ("previews", schema_of::<Vec<protocol::status::PreviewStatus>>()),
        ("problem", schema_of::<protocol::Problem>()),
        ("status", schema_of::<protocol::status::PreviewStatus>()),
    ]
}

fn command_line_page() -> String {
    let mut command = crate::arguments::command().term_width(100);
    // Each command's options are made when they are wanted, which is now.
    command.build();
    command.build();
    let mut text = String::from(
        "# The command line\n\n<!-- Made by `UPDATE_DOCS=1 cargo test -p cli`; change the code instead. -->\n\n\
         Exit codes stand in [exit-codes.md](exit-codes.md), what `--json` writes in [schemas](schemas).\n",
    );
    write_section(&mut text, &command, "pdev", 2);
    text
}

/// What `pdev module info` says, for reading on the web.
fn module_page(module: &catalog::Module) -> String {
    let docs = module.docs.trim();
    let (title, rest) = docs.split_once('\n').unwrap_or((docs, ""));
    let mut text = format!(
        "{title}\n\n<!-- Made by `UPDATE_DOCS=1 cargo test -p cli` from catalog/modules/{name}; change that instead. -->\n\n\
         {summary}. Version {version} of the module; `uses: {name}@{newest}`, known versions: {versions}. Owner: {team}\n\
         ({contact}), support: {support}.\n{rest}\n",
        name = module.name,
        summary = module.summary,
        version = module.version,
        newest = module.version.major,
        versions = module.versions.join(", "),
        team = module.owner.team,
        contact = module.owner.contact,
        support = module.owner.support,
    );
    text.push_str("\n## Inputs\n\n| input | type | default | meaning | why this default |\n|---|---|---|---|---|\n");
    for (name, input) in &module.inputs {
        let default = match &input.default {
            serde_json::Value::String(text) if text.contains("{{") => "computed".to_owned(),
            other => format!("`{other}`"),
        };
        let choices = input.choices.iter().map(|choice| format!("`{choice}`")).collect::<Vec<_>>().join(", ");
        let choices = if choices.is_empty() { choices } else { format!(" One of {choices}.") };
        let level = if input.level == "advanced" { " (advanced)" } else { "" };
        let (kind, meaning, why) = (&input.kind, &input.description, input.rationale.replace('<', "\\<"));
        writeln!(text, "| `{name}`{level} | {kind} | {default} | {meaning}{choices} | {why} |").unwrap();
    }
    text.push_str("\n## Outputs\n\n| placeholder | | meaning |\n|---|---|---|\n");
    for (name, output) in &module.outputs {
        let secret = if output.sensitive { "secret" } else { "" };
        writeln!(text, "| `${{resources.NAME.{name}}}` | {secret} | {} |", output.description).unwrap();
    }
    text
}

fn identities_page() -> String {
    use credentials::identity::{COMMON_FIELDS, Field, FieldType, SOURCE_KINDS};
    let mut text = String::from(
        "# Identities\n\n<!-- Made by `UPDATE_DOCS=1 cargo test -p cli`; change the code instead. -->\n\n\
         What a `source` may be in `identities.toml`, and its fields. How identities are used stands in\n\
         [credentials.md](credentials.md). Unknown fields are refused.\n",
    );
    let table = |text: &mut String, fields: &[Field]| {
        writeln!(text, "\n| field | required | form | meaning |\n|---|---|---|---|").unwrap();
        for field in fields {
            let form = match field.field_type {
                FieldType::Text => "text".to_owned(),
                FieldType::Flag => "`true`, `false`".to_owned(),
                FieldType::Url => "https URL".to_owned(),
                FieldType::Duration => "`30s`, `15m`, `1h`".to_owned(),
                FieldType::Variable => "variable's name".to_owned(),
                FieldType::Port => "port".to_owned(),
                FieldType::List => "list of texts".to_owned(),
                FieldType::Identity => "an identity's name".to_owned(),
                FieldType::Choice(choices) => {
                    choices.iter().map(|one| format!("`{one}`")).collect::<Vec<_>>().join(", ")
                }
            };
            let required = if field.is_required { "yes" } else { "" };
            writeln!(text, "| `{}` | {required} | {form} | {} |", field.name, field.doc).unwrap();
        }
    };
    for kind in SOURCE_KINDS {
        writeln!(text, "\n## `source = \"{}\"`\n\n{}", kind.name, kind.doc).unwrap();
        table(&mut text, kind.fields);
    }
    text.push_str("\n## Fields of every identity\n");
    table(&mut text, COMMON_FIELDS);
    text
}

fn write_section(text: &mut String, command: &clap::Command, name: &str, depth: usize) {
    let help = command.clone().term_width(100).render_help().to_string();
    let help = help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
    let help = if depth == 2 { help } else { without_globals(&help) };
    writeln!(text, "\n{} `{name}`\n\n```text\n{}\n```", "#".repeat(depth), help.trim_end()).unwrap();
    for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set() && inner.get_name() != "help") {
        write_section(text, inner, &format!("{name} {}", inner.get_name()), 3);
    }
}

/// The options of every command are told once, on the front page.
fn without_globals(help: &str) -> String {
    let Some((before, after)) = help.split_once("\nEverywhere:\n") else { return help.to_owned() };
    let rest = after.split_once("\n\n").map_or("", |(_, rest)| rest);
    format!("{before}\n{rest}")
}

#[test]
fn pages_are_up_to_date() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let update = std::env::var_os("UPDATE_DOCS").is_some();
    let mut behind = Vec::new();
    for (name, text) in pages() {
        let path = docs.join(&name);
        if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if update {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
        } else {
            behind.push(name);
        }
    }
    assert!(behind.is_empty(), "behind the code: {behind:?}; run `UPDATE_DOCS=1 cargo test -p cli`");
}
