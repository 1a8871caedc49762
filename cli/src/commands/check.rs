//! `pdev check`: every problem of a manifest, without any agent; `--fix` repairs what is mechanical.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use agent::disk::replace_file;
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
    #[arg(long, value_name = "RUNTIME", value_parser = ["docker", "process"], env = "PDEV_RUNTIME", hide_env = true)]
    runtime: Option<String>,
}

pub(crate) fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let named = || arguments.files.iter().map(|file| Some(file.as_path()));
    let files: Vec<_> = if arguments.files.is_empty() { vec![None] } else { named().collect() };
    let wish = ManifestOptions {
        environment: arguments.environment.as_deref(),
        sets: &arguments.sets,
        runtime: arguments.runtime.as_deref(),
    };
    let mut views = Vec::new();
    let mut errors = 0;
    for file in files {
        let place = manifest_location::find(&context.folder, file)?;
        let mut read = manifest_check::read_and_check(&place, wish)?;
        if arguments.fix {
            read = apply_fixes(read, wish, context)?;
        }
        errors += read.count(Severity::Error);
        if context.json || arguments.sarif {
            views.extend(relative_views(&read, context));
        } else {
            print_diagnostics(&read, arguments.fix, context);
        }
        // The process ends soon; taking a long manifest apart, piece by piece, would only make somebody wait.
        std::mem::forget(read);
    }
    if arguments.sarif {
        context.terminal.print_json(&sarif::log(&views));
    } else if context.json {
        context.terminal.print_json(&views);
    }
    Ok(if errors == 0 { exit::OK } else { exit::INVALID_INPUT })
}

/// Paths relative to where the user stands, so that several manifests do not all become `pdev.yaml`.
fn relative_views(read: &CheckedManifest, context: &Context) -> Vec<DiagnosticView> {
    let mut views = agent::convert::diagnostics(&read.diagnostics, &read.loaded.sources);
    let Ok(prefix) = read.location.folder.strip_prefix(&context.folder) else { return views };
    let relative = |file: &mut String| *file = prefix.join(&*file).to_string_lossy().into_owned();
    for view in &mut views {
        relative(&mut view.file);
        view.related.iter_mut().for_each(|related| relative(&mut related.file));
        view.fixes.iter_mut().flat_map(|fix| &mut fix.edits).for_each(|edit| relative(&mut edit.file));
    }
    views
}

fn print_diagnostics(read: &CheckedManifest, fixing: bool, context: &Context) {
    let terminal = &context.terminal;
    // Advice concerns nearly every service; it is there for who asks.
    let shown = |found: &&manifest::Diagnostic| context.verbose > 0 || found.severity != Severity::Info;
    for found in read.diagnostics.iter().filter(shown) {
        terminal.print_line(&diagnostic::render(found, &read.loaded.sources, terminal.stdout_paint));
        terminal.print_line("");
    }
    let name = &read.location.file;
    let (errors, warnings) = (read.count(Severity::Error), read.count(Severity::Warning));
    let fixes = read.diagnostics.iter().filter(|found| found.fixes.iter().any(|fix| fix.safe)).count();
    if errors + warnings == 0 {
        let manifest = &read.loaded.manifest;
        let parts = [
            humanize::count(manifest.services.len(), "service"),
            humanize::count(manifest.resources.len(), "resource"),
            humanize::count(manifest.jobs.len(), "job"),
        ];
        return terminal.print_line(&format!(
            "{} {name}: {}{}",
            terminal.stdout_paint.green("ok"),
            parts.join(", "),
            advice_summary(read, context)
        ));
    }
    let mut line = format!("{name}: {}, {}", humanize::count(errors, "error"), humanize::count(warnings, "warning"));
    if fixes > 0 && !fixing {
        line.push_str(&format!("; `pdev check --fix` repairs {fixes}"));
    }
    line.push_str(&advice_summary(read, context));
    terminal.print_line(&line);
    if let Some(first) = read.diagnostics.iter().find(|found| found.severity != Severity::Info) {
        terminal.print_line(
            &terminal.stdout_paint.dim(&format!("`pdev explain {}` tells more about the first", first.code.0)),
        );
    }
}

fn advice_summary(read: &CheckedManifest, context: &Context) -> String {
    match read.count(Severity::Info) {
        0 => String::new(),
        _ if context.verbose > 0 => String::new(),
        1 => "; one piece of advice (`pdev check -v`)".to_owned(),
        count => format!("; {count} pieces of advice (`pdev check -v`)"),
    }
}

/// Fixing one thing may uncover another; a fix that never ends is stopped.
const FIX_ROUNDS_MAX: usize = 5;

fn apply_fixes(
    mut read: CheckedManifest,
    wish: ManifestOptions<'_>,
    context: &Context,
) -> Result<CheckedManifest, Failure> {
    let mut rounds = 0;
    while rounds < FIX_ROUNDS_MAX && write_fixes(&read)? {
        rounds += 1;
        read = manifest_check::read_and_check(&read.location, wish)?;
    }
    if rounds > 0 && !context.json {
        context.terminal.eprint_line(&format!("{}: fixed what is safe to fix", read.location.file));
    }
    Ok(read)
}

/// True when a file was changed.
fn write_fixes(read: &CheckedManifest) -> Result<bool, Failure> {
    let mut changed = false;
    for (file, source) in read.loaded.sources.iter() {
        let edits = safe_edits(&read.diagnostics, file);
        let text = apply(&source.text, &edits);
        if edits.is_empty() || text == *source.text {
            continue;
        }
        // What was not UTF-8 was replaced when it was read: writing that back would lose it.
        let lossy = |found: &manifest::Diagnostic| found.code == manifest::codes::NOT_UTF8 && found.span.file == file;
        if read.diagnostics.iter().any(lossy) {
            continue;
        }
        let path = read.location.folder.join(&source.path);
        let failed =
            |error| Failure::failed(format!("cannot write `{}`: {}", path.display(), humanize::io_error(&error)));
        let mode = std::fs::metadata(&path).map_err(failed)?.permissions().mode() & 0o777;
        replace_file(&path, text.as_bytes(), mode).map_err(failed)?;
        changed = true;
    }
    Ok(changed)
}
