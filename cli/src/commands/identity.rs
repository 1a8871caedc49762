//! `pdev identity`: manages the identities in the user's configuration.
//!
//! It handles no secrets: the configuration contains none, and `import` does not read the secrets of other tools.

use std::io::{BufRead, Write};
use std::path::Path;

use clap::Subcommand;
use credentials::CredentialPaths;
use credentials::identity::{
    self, EditProblem, Field, Finding, Identities, Identity, ImportedIdentity, SOURCE_KINDS, SourceKind,
};
use host::clock::now_milliseconds;
use manifest::syntax::{Kind as NodeKind, Node};
use protocol::identity::{IdentityState, IdentityStatus};
use serde_json::{Value, json};

use super::approvals;
use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;
use crate::render::table::{self, Cell};
use crate::vault_access::credential_paths;

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev identity                                   list all identities
  pdev identity add shop-dev --source aws-sso     add an identity; prompts for missing fields
  pdev identity add shop-dev --source aws-sso start_url=https://shop.awsapps.com/start \\
      region=eu-central-1 account=123456789012 role=Developer
  pdev identity import                            import from aws, gcloud and kubectl

The identities are in identities.toml, in the folder pdev of your configuration (on Linux ~/.config/pdev). \
docs/identities.md lists every source and its fields.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<IdentityCommand>,
}

#[derive(Subcommand, Debug)]
enum IdentityCommand {
    /// List all identities with their status, and the mistakes in identities.toml
    #[command(
        visible_alias = "ls",
        after_help = "STATE is `ready` (the agent has a valid credential), `idle` (not requested yet), `login ends` \
        (soon), `needs login` or `failing`. It is empty if the agent is not running.\n\n\
        Exit codes: 0 no mistakes, 2 identities.toml has mistakes."
    )]
    List,
    /// Add an identity to identities.toml
    Add {
        /// Name of the identity, used in manifests and by tools
        #[arg(value_name = "NAME")]
        name: String,
        /// Source of the credentials
        #[arg(long, value_name = "SOURCE", value_parser = source_names())]
        source: String,
        /// Fields of the source; write lists as `a,b`
        #[arg(value_name = "FIELD=VALUE", value_parser = parse_field)]
        fields: Vec<(String, String)>,
    },
    /// Remove an identity from identities.toml
    Rm {
        /// Identity to remove
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// Approve that a service acts as an identity; run it in another terminal than `pdev up`
    Approve {
        /// Code that `pdev up` printed
        #[arg(value_name = "CODE")]
        code: String,
    },
    /// List the approvals, and when they end
    Approvals,
    /// Revoke approvals of an identity
    Revoke {
        /// Identity whose approvals are revoked
        #[arg(value_name = "NAME")]
        name: String,
        /// Revoke only approvals of this service
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        /// Revoke only approvals of the repository at this path, as `approvals` prints it
        #[arg(long, value_name = "PATH")]
        repository: Option<String>,
    },
    /// Import identities from other tools: aws profiles, gcloud configurations, kubectl users
    Import {
        /// Import only from this tool
        #[arg(value_name = "TOOL", value_parser = ["aws", "gcloud", "kubectl"])]
        tool: Option<String>,
        /// Show what would be added, without adding it
        #[arg(long)]
        dry_run: bool,
    },
}

fn source_names() -> Vec<&'static str> {
    SOURCE_KINDS.iter().map(|kind| kind.name).collect()
}

fn parse_field(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form `FIELD=VALUE`"))?;
    Ok((key.to_owned(), value.to_owned()))
}

pub(crate) fn run(arguments: Arguments, context: &Context) -> Outcome {
    match arguments.command {
        None | Some(IdentityCommand::List) => list(context),
        Some(IdentityCommand::Add { name, source, fields }) => add(&name, &source, fields, context),
        Some(IdentityCommand::Rm { name }) => remove(&name, context),
        Some(IdentityCommand::Approve { code }) => approvals::approve(&code, context),
        Some(IdentityCommand::Approvals) => approvals::list(context),
        Some(IdentityCommand::Revoke { name, service, repository }) => {
            approvals::revoke(&name, service, repository, context)
        }
        Some(IdentityCommand::Import { tool, dry_run }) => import(tool.as_deref(), dry_run, context),
    }
}

/// The identities and the problems of their file. Without a file there are no identities.
pub(crate) fn load_identities(paths: &CredentialPaths) -> Result<(Identities, Vec<Finding>), Failure> {
    let path = paths.identities();
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(identity::read(&text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Default::default()),
        Err(error) => Err(Failure::failed(format!("cannot read `{}`: {}", path.display(), humanize::io_error(&error)))),
    }
}

fn list(context: &Context) -> Outcome {
    let paths = credential_paths()?;
    let (identities, findings) = load_identities(&paths)?;
    let terminal = &context.terminal;
    let statuses = fetch_statuses()?;
    if context.json {
        let all: Vec<Value> =
            identities.all.values().map(|identity| identity_json(identity, find_status(&statuses, identity))).collect();
        terminal.print_json(&all);
    } else if identities.all.is_empty() && findings.is_empty() {
        terminal.eprint_line(
            "no identities; `pdev identity import` imports those of other tools, `pdev identity add` adds one",
        );
    } else {
        let now = now_milliseconds();
        let rows: Vec<Vec<Cell>> = identities
            .all
            .values()
            .map(|identity| identity_row(identity, find_status(&statuses, identity), now))
            .collect();
        let headings = ["IDENTITY", "SOURCE", "STATE", "EXPIRES", "LAST USED", "DESCRIPTION"];
        table::lines(&headings, &rows, 0, terminal.stdout_paint).iter().for_each(|line| terminal.print_line(line));
        for problem in statuses.iter().filter_map(|status| status.problem.as_ref()) {
            terminal.eprint_line(&format!("{problem}; {}", problem.hint.clone().unwrap_or_default()));
        }
    }
    for finding in &findings {
        let hint = finding.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
        terminal.eprint_line(&format!("{}:{}: {}{hint}", paths.identities().display(), finding.line, finding.message));
    }
    if findings.is_empty() { crate::success() } else { Ok(exit::INVALID_INPUT) }
}

/// The statuses of all identities from the agent. Empty if the agent does not run: listing does not start it.
fn fetch_statuses() -> Result<Vec<IdentityStatus>, Failure> {
    let statuses = Context::block_on_value(async {
        client::Client::connect(&client::SocketLocation::from_environment()).await?.identities().await
    })?;
    Ok(statuses.unwrap_or_default())
}

fn find_status<'a>(statuses: &'a [IdentityStatus], identity: &Identity) -> Option<&'a IdentityStatus> {
    statuses.iter().find(|status| status.name == identity.name)
}

fn identity_row(identity: &Identity, status: Option<&IdentityStatus>, now: i64) -> Vec<Cell> {
    let state = match status.map(|status| status.state) {
        Some(IdentityState::Ready) if status.is_some_and(needs_login_soon) => Cell::painted("login ends", "33"),
        Some(IdentityState::Ready) => Cell::painted("ready", "32"),
        Some(IdentityState::NeedsLogin) => Cell::painted("needs login", "33"),
        Some(IdentityState::Failing) => Cell::painted("failing", "31"),
        Some(IdentityState::Idle) => Cell::new("idle"),
        None => Cell::default(),
    };
    let expires = status.and_then(|status| status.expires_at).map(|end| format!("in {}", humanize::age(now, end)));
    let last_use = status.and_then(|status| status.last_used_at.map(|at| (at, status.last_used_by.clone())));
    let last_use = last_use.map(|(at, by)| {
        let by = by.map(|by| format!(" by {}", by.rsplit('/').next().unwrap_or_default())).unwrap_or_default();
        format!("{} ago{by}", humanize::age(at, now))
    });
    vec![
        Cell::painted(&identity.name, "1"),
        Cell::new(identity.kind),
        state,
        Cell::new(expires.unwrap_or_default()),
        Cell::new(last_use.unwrap_or_default()),
        Cell::new(describe(identity)),
    ]
}

/// Whether the user has to sign in soon, although the identity is ready now.
fn needs_login_soon(status: &IdentityStatus) -> bool {
    status.state == IdentityState::Ready && status.sign_in.is_some()
}

fn identity_json(identity: &Identity, status: Option<&IdentityStatus>) -> Value {
    json!({
        "name": identity.name,
        "source": identity.kind,
        "description": identity.text("description"),
        "needs_login": identity.needs_login(),
        "state": status.map(|status| status.state),
        "expires_at": status.and_then(|status| status.expires_at),
        "login_ends_at": status.and_then(|status| status.login_ends_at),
        "sign_in": status.and_then(|status| status.sign_in.clone()),
        "last_used_at": status.and_then(|status| status.last_used_at),
        "last_used_by": status.and_then(|status| status.last_used_by.clone()),
        "problem": status.and_then(|status| status.problem.clone()),
    })
}

/// The `description` of the identity, else its most informative fields.
fn describe(identity: &Identity) -> String {
    if let Some(description) = identity.text("description") {
        return description.to_owned();
    }
    match identity.kind {
        "exec" => identity.list("command").map(|command| command.join(" ")).unwrap_or_default(),
        "aws-sso" => {
            format!("{} in {}", identity.text("role").unwrap_or_default(), identity.text("account").unwrap_or_default())
        }
        "oidc" => identity.text("issuer").unwrap_or_default().to_owned(),
        "static" => identity.text("kind").unwrap_or_default().to_owned(),
        _ => {
            let fields = ["role_arn", "mfa_serial", "service_account", "audience", "client_id", "path"];
            let main_field = fields.iter().find_map(|field| identity.text(field)).unwrap_or_default();
            match identity.text("from").or(identity.text("address")) {
                Some(from) => format!("{main_field} from {from}"),
                None => main_field.to_owned(),
            }
        }
    }
}

fn add(name: &str, source: &str, mut fields: Vec<(String, String)>, context: &Context) -> Outcome {
    let paths = credential_paths()?;
    let kind = identity::find_source_kind(source)
        .ok_or_else(|| Failure::invalid_input(format!("`{source}` is not a source")))?;
    if context.terminal.is_interactive && !context.json {
        prompt_for_fields(kind, &mut fields, context)?;
    }
    identity::add(&paths.identities(), name, kind, &fields).map_err(|problem| edit_failure(&problem))?;
    if context.json {
        context.terminal.print_json(&json!({ "added": name, "file": paths.identities() }));
        return crate::success();
    }
    context.terminal.print_line(&format!("added `{name}` to {}", paths.identities().display()));
    crate::success()
}

/// Prompts for the required fields that are missing on the command line.
fn prompt_for_fields(kind: &SourceKind, fields: &mut Vec<(String, String)>, context: &Context) -> Result<(), Failure> {
    let is_set = |fields: &[(String, String)], field: &Field| fields.iter().any(|(key, _)| key == field.name);
    let missing: Vec<&Field> = kind.fields.iter().filter(|field| field.is_required && !is_set(fields, field)).collect();
    for field in missing {
        context.terminal.eprint_bytes(format!("{} ({}): ", field.name, field.doc).as_bytes());
        let mut line = String::new();
        let length = std::io::stdin().lock().read_line(&mut line)?;
        // End of input; an empty answer has at least a newline.
        if length == 0 {
            context.terminal.eprint_line("");
            return Err(
                Failure::invalid_input(format!("no value for `{}`", field.name)).hint("Pass it as FIELD=VALUE.")
            );
        }
        fields.push((field.name.to_owned(), line.trim().to_owned()));
    }
    let _flushed = std::io::stderr().flush();
    Ok(())
}

fn remove(name: &str, context: &Context) -> Outcome {
    let paths = credential_paths()?;
    identity::remove(&paths.identities(), name).map_err(|problem| edit_failure(&problem))?;
    if context.json {
        context.terminal.print_json(&json!({ "removed": name }));
        return crate::success();
    }
    context.terminal.print_line(&format!("removed `{name}` from {}", paths.identities().display()));
    crate::success()
}

fn edit_failure(problem: &EditProblem) -> Failure {
    let failure = match problem {
        EditProblem::NotFound { .. } => Failure::not_found(problem.to_string()),
        EditProblem::Write { .. } => Failure::failed(problem.to_string()),
        _ => Failure::invalid_input(problem.to_string()),
    };
    match problem.hint() {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn import(tool: Option<&str>, dry_run: bool, context: &Context) -> Outcome {
    let paths = credential_paths()?;
    let mut candidates = Vec::new();
    for (name, read_tool) in [
        ("aws", read_aws_profiles as fn(&Path) -> Vec<ImportedIdentity>),
        ("gcloud", read_gcloud_configurations),
        ("kubectl", read_kubeconfig_users),
    ] {
        if tool.is_none_or(|tool| tool == name) {
            let home = std::env::home_dir().unwrap_or_default();
            candidates.extend(read_tool(&home).into_iter().map(|imported| (name, imported)));
        }
    }
    let mut report = Vec::new();
    // A role can be added only after the identity that it is assumed from, but the file may list it first. So the rest
    // is tried again until a round adds nothing.
    let mut pending: Vec<(&str, ImportedIdentity)> = candidates;
    let mut has_progress = true;
    while has_progress {
        has_progress = false;
        for (tool, imported) in std::mem::take(&mut pending) {
            match import_identity(&paths, &imported, dry_run) {
                Err(EditProblem::InvalidField { message, .. }) if message.contains("there is no identity") => {
                    pending.push((tool, imported));
                }
                outcome => {
                    has_progress = true;
                    report.push((tool, imported, outcome));
                }
            }
        }
    }
    report.extend(pending.into_iter().map(|(tool, imported)| {
        let message = "the profile that its role is assumed from was left out".to_owned();
        (tool, imported, Err(EditProblem::InvalidField { message, hint: None }))
    }));
    print_import_report(&report, dry_run, context)
}

type ImportReport = Vec<(&'static str, ImportedIdentity, Result<(), EditProblem>)>;

fn import_identity(paths: &CredentialPaths, imported: &ImportedIdentity, dry_run: bool) -> Result<(), EditProblem> {
    let (source, fields) = match &imported.outcome {
        Ok(entry) => entry,
        Err(reason) => return Err(EditProblem::InvalidField { message: reason.clone(), hint: None }),
    };
    let Some(kind) = identity::find_source_kind(source).filter(|_| !dry_run) else { return Ok(()) };
    identity::add(&paths.identities(), &imported.name, kind, fields)
}

fn print_import_report(report: &ImportReport, dry_run: bool, context: &Context) -> Outcome {
    let terminal = &context.terminal;
    if context.json {
        let view = |(tool, imported, outcome): &(&str, ImportedIdentity, Result<(), EditProblem>)| {
            json!({ "tool": tool, "origin": imported.origin, "name": imported.name, "added": outcome.is_ok() && !dry_run,
                "problem": outcome.as_ref().err().map(ToString::to_string) })
        };
        terminal.print_json(&report.iter().map(view).collect::<Vec<_>>());
        return crate::success();
    }
    if report.is_empty() {
        terminal.eprint_line("nothing to import: no configuration of aws, gcloud or kubectl was found");
    }
    for (tool, imported, outcome) in report {
        match outcome {
            Ok(()) => {
                let verb = if dry_run { "would add" } else { "added" };
                terminal.print_line(&format!("{verb} `{}` from {tool}'s {}", imported.name, imported.origin));
            }
            Err(problem) => {
                terminal.print_line(
                    &terminal.stdout_paint.dim(&format!("left out {tool}'s {}: {problem}", imported.origin)),
                );
            }
        }
    }
    crate::success()
}

fn read_aws_profiles(home: &Path) -> Vec<ImportedIdentity> {
    let path = std::env::var_os("AWS_CONFIG_FILE").map_or_else(|| home.join(".aws/config"), Into::into);
    std::fs::read_to_string(path).map(|text| identity::import_aws_config(&text)).unwrap_or_default()
}

fn read_gcloud_configurations(home: &Path) -> Vec<ImportedIdentity> {
    let folder = std::env::var_os("CLOUDSDK_CONFIG").map_or_else(|| home.join(".config/gcloud"), Into::into);
    let Ok(entries) = std::fs::read_dir(folder.join("configurations")) else { return Vec::new() };
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let read = |path: &std::path::PathBuf| {
        let configuration = path.file_name()?.to_str()?.strip_prefix("config_")?;
        Some(identity::import_gcloud_configuration(configuration, &std::fs::read_to_string(path).ok()?))
    };
    files.iter().filter_map(read).collect()
}

fn read_kubeconfig_users(home: &Path) -> Vec<ImportedIdentity> {
    let named = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty());
    let paths = match &named {
        Some(list) => std::env::split_paths(list).collect(),
        None => vec![home.join(".kube/config")],
    };
    let read = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path).ok()?;
        Some(identity::import_kubeconfig(&node_to_json(&manifest::syntax::parse(&text, manifest::FileId(0)).root?)))
    };
    paths.into_iter().filter_map(read).flatten().collect()
}

/// A kubeconfig as JSON. Every scalar becomes a string, because the import reads only strings.
fn node_to_json(node: &Node) -> Value {
    match &node.kind {
        NodeKind::Scalar(scalar) if scalar.is_null() => Value::Null,
        NodeKind::Scalar(scalar) => Value::String(scalar.text.clone()),
        NodeKind::List(items) => items.iter().map(node_to_json).collect(),
        NodeKind::Map(pairs) => pairs.iter().map(|pair| (pair.key.value.clone(), node_to_json(&pair.value))).collect(),
    }
}
