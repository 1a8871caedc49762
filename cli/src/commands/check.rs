//! `pdev check`: prints all problems of a manifest, without the agent; `--fix` applies the safe fixes.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use host::files::replace_file;
use manifest::Severity;
use manifest::fix::{apply, safe_edits};
use protocol::problem::DiagnosticView;

use crate::context::Context;
use crate::exit::{self, Failure, Outcome};
use crate::humanize;
use crate::manifest_check::{self, CheckedManifest, ManifestOptions};
use crate::manifest_location;
use crate::render::{diagnostic, sarif};

#[derive(clap::Args, Debug)]
#[command(after_help = "Examples:
  pdev check                     check the nearest pdev.yaml
  pdev check */pdev.yaml --json  check several manifests and print JSON
  pdev check --fix               apply the safe fixes
  pdev check --sarif > pdev.sarif

Exit codes: 0 no errors, 2 errors, 4 no manifest.")]
pub(crate) struct Arguments {
    /// Manifests, or their folders [default: the nearest pdev.yaml in or above this folder]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Apply all safe fixes, then check again
    #[arg(long)]
    fix: bool,
    /// Print SARIF 2.1.0, for code scanning
    #[arg(long, conflicts_with = "json")]
    sarif: bool,
    /// Environment of the manifest [default: local]
    #[arg(short = 'e', long = "env", value_name = "NAME", env = "PDEV_ENV", hide_env = true)]
    environment: Option<String>,
    /// Override a field, with the highest precedence: `services.web.replicas=2` (may be repeated)
    #[arg(long = "set", value_name = "PATH=VALUE")]
    sets: Vec<String>,
    /// Report only what concerns this runtime
    #[arg(long, value_name = "RUNTIME", value_parser = crate::manifest_check::runtime_names(), env = "PDEV_RUNTIME", hide_env = true)]
    runtime: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let named_files = || arguments.files.iter().map(|file| Some(file.as_path()));
    let files: Vec<_> = if arguments.files.is_empty() { vec![None] } else { named_files().collect() };
    let options = ManifestOptions {
        environment: arguments.environment.as_deref(),
        sets: &arguments.sets,
        runtime: arguments.runtime.as_deref(),
    };
    let mut views = Vec::new();
    let mut errors = 0;
    for file in files {
        let location = manifest_location::find(&context.folder, file)?;
        let mut checked = manifest_check::read_and_check(&location, options)?;
        if arguments.fix {
            checked = apply_fixes(checked, options, context)?;
        }
        errors += checked.count(Severity::Error);
        if context.json || arguments.sarif {
            views.extend(relative_views(&checked, context));
        } else {
            print_diagnostics(&checked, arguments.fix, context);
        }
        // The process ends soon. Freeing the many small allocations of a long manifest would only delay the exit.
        std::mem::forget(checked);
    }
    if arguments.sarif {
        context.terminal.print_json(&sarif::log(&views));
    } else if context.json {
        context.terminal.print_json(&views);
    }
    Ok(if errors == 0 { exit::OK } else { exit::INVALID_INPUT })
}

/// Makes paths relative to the working folder. Otherwise every manifest would be called `pdev.yaml`.
fn relative_views(checked: &CheckedManifest, context: &Context) -> Vec<DiagnosticView> {
    let mut views = agent::convert::diagnostics::diagnostic_views(&checked.diagnostics, &checked.loaded.sources);
    let Ok(prefix) = checked.location.folder.strip_prefix(&context.folder) else { return views };
    let add_prefix = |file: &mut String| *file = prefix.join(&*file).to_string_lossy().into_owned();
    for view in &mut views {
        add_prefix(&mut view.file);
        view.related.iter_mut().for_each(|related| add_prefix(&mut related.file));
        view.fixes.iter_mut().flat_map(|fix| &mut fix.edits).for_each(|edit| add_prefix(&mut edit.file));
    }
    views
}

fn print_diagnostics(checked: &CheckedManifest, fixing: bool, context: &Context) {
    let terminal = &context.terminal;
    // Nearly every service has some advice, so only `-v` prints it.
    let is_printed = |found: &&manifest::Diagnostic| context.verbose > 0 || found.severity != Severity::Info;
    for diagnostic in checked.diagnostics.iter().filter(is_printed) {
        terminal.print_line(&diagnostic::render(diagnostic, &checked.loaded.sources, terminal.stdout_paint));
        terminal.print_line("");
    }
    let name = &checked.location.file;
    let (errors, warnings) = (checked.count(Severity::Error), checked.count(Severity::Warning));
    let fixes = checked.diagnostics.iter().filter(|found| found.fixes.iter().any(|fix| fix.safe)).count();
    if errors + warnings == 0 {
        let manifest = &checked.loaded.manifest;
        let parts = [
            humanize::count(manifest.services.len(), "service"),
            humanize::count(manifest.resources.len(), "resource"),
            humanize::count(manifest.jobs.len(), "job"),
        ];
        return terminal.print_line(&format!(
            "{} {name}: {}{}",
            terminal.stdout_paint.green("ok"),
            parts.join(", "),
            advice_summary(checked, context)
        ));
    }
    let mut line = format!("{name}: {}, {}", humanize::count(errors, "error"), humanize::count(warnings, "warning"));
    if fixes > 0 && !fixing {
        line.push_str(&format!("; `pdev check --fix` repairs {fixes}"));
    }
    line.push_str(&advice_summary(checked, context));
    terminal.print_line(&line);
    if let Some(first) = checked.diagnostics.iter().find(|found| found.severity != Severity::Info) {
        terminal
            .print_line(&terminal.stdout_paint.dim(&format!("`pdev explain {}` explains the first one", first.code.0)));
    }
}

fn advice_summary(checked: &CheckedManifest, context: &Context) -> String {
    match checked.count(Severity::Info) {
        0 => String::new(),
        _ if context.verbose > 0 => String::new(),
        1 => "; one piece of advice (`pdev check -v`)".to_owned(),
        count => format!("; {count} pieces of advice (`pdev check -v`)"),
    }
}

/// A fix may uncover the next problem. The limit stops fixes that undo each other.
const FIX_ROUNDS_MAX: usize = 5;

fn apply_fixes(
    mut checked: CheckedManifest,
    options: ManifestOptions<'_>,
    context: &Context,
) -> Result<CheckedManifest, Failure> {
    let mut rounds = 0;
    while rounds < FIX_ROUNDS_MAX && write_fixes(&checked)? {
        rounds += 1;
        checked = manifest_check::read_and_check(&checked.location, options)?;
    }
    if rounds > 0 && !context.json {
        context.terminal.eprint_line(&format!("{}: applied the safe fixes", checked.location.file));
    }
    Ok(checked)
}

/// Writes the safe fixes of all files; true if it changed a file.
fn write_fixes(checked: &CheckedManifest) -> Result<bool, Failure> {
    let mut changed = false;
    for (file, source) in checked.loaded.sources.iter() {
        let edits = safe_edits(&checked.diagnostics, file);
        let text = apply(&source.text, &edits);
        if edits.is_empty() || text == *source.text {
            continue;
        }
        // The text of a file that is not UTF-8 contains replacement characters. Writing it would lose the original
        // bytes.
        let is_lossy =
            |found: &manifest::Diagnostic| found.code == manifest::codes::NOT_UTF8 && found.span.file == file;
        if checked.diagnostics.iter().any(is_lossy) {
            continue;
        }
        let path = checked.location.folder.join(&source.path);
        let write_failure =
            |error| Failure::failed(format!("cannot write `{}`: {}", path.display(), humanize::io_error(&error)));
        let mode = std::fs::metadata(&path).map_err(write_failure)?.permissions().mode() & 0o777;
        replace_file(&path, text.as_bytes(), mode).map_err(write_failure)?;
        changed = true;
    }
    Ok(changed)
}
