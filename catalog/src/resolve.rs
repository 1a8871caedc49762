//! Resolves `uses:` to a module: a built-in one by name, or a local folder.

use std::sync::Arc;

use manifest::diagnostic::Edit;
use manifest::{Diagnostic, Files, Severity, Spanned};
use strings::nearest;

use crate::builtin;
use crate::codes;
use crate::module::{Module, Source, load_module};

/// A module, and the requested version of the software that it runs.
#[derive(Clone, Debug)]
pub struct ResolvedModule {
    pub module: Arc<Module>,
    /// The text after `@`; the module's own major version without one.
    pub constraint: String,
    /// Whether `uses` names a version.
    pub is_pinned: bool,
    /// The value of `uses:`, for the lock.
    pub uses: String,
    /// Diagnostics that do not prevent the use of the module.
    pub warnings: Vec<Diagnostic>,
}

/// # Errors
/// Diagnostics about an unknown module or version, an invalid module or a remote module.
pub fn resolve_module(uses: &Spanned<String>, files: &dyn Files) -> Result<ResolvedModule, Vec<Diagnostic>> {
    let uses_text = uses.value.trim();
    if uses_text.contains("://") || uses_text.starts_with("git+") {
        let message =
            format!("`{uses_text}` comes from elsewhere; this version uses built-in modules and local folders");
        let remote = Diagnostic::new(codes::REMOTE_MODULE, Severity::Error, uses.span, message);
        return Err(vec![
            remote.help("Copy the module's folder into the repository and write `uses: ./modules/NAME`."),
        ]);
    }
    let (name, constraint) = match uses_text.split_once('@') {
        Some((name, constraint)) => (name, Some(constraint)),
        None => (uses_text, None),
    };
    let module = if name.starts_with("./") || name.starts_with("../") {
        load_folder(uses, name, files)?
    } else {
        find_built_in(uses, name)?
    };
    let is_pinned = constraint.is_some();
    let constraint = resolve_version(uses, &module, constraint)?;
    let warnings = module.deprecated.iter().map(|reason| {
        Diagnostic::new(
            codes::DEPRECATED,
            Severity::Warning,
            uses.span,
            format!("the module `{}` will go: {reason}", module.name),
        )
        .help("Move before it does.")
    });
    Ok(ResolvedModule { warnings: warnings.collect(), module, constraint, is_pinned, uses: uses_text.to_owned() })
}

fn load_folder(uses: &Spanned<String>, name: &str, files: &dyn Files) -> Result<Arc<Module>, Vec<Diagnostic>> {
    let path = name.trim_end_matches('/');
    let relative = path.strip_prefix("./").unwrap_or(path);
    load_module(relative, files, Source::Folder(path.to_owned())).map(Arc::new).map_err(|diagnostics| {
        // The module's file is not among the manifest's sources, so its diagnostics get the position of `uses`.
        let at_uses = |diagnostic: Diagnostic| Diagnostic {
            span: uses.span,
            code: codes::BAD_MODULE,
            fixes: Vec::new(),
            related: Vec::new(),
            ..diagnostic
        };
        diagnostics.into_iter().map(at_uses).collect()
    })
}

fn find_built_in(uses: &Spanned<String>, name: &str) -> Result<Arc<Module>, Vec<Diagnostic>> {
    let all = builtin::built_in_modules();
    if let Some(module) = all.iter().find(|module| module.name == name) {
        return Ok(Arc::clone(module));
    }
    let known: Vec<&str> = all.iter().map(|module| module.name.as_str()).collect();
    let near = nearest(name, known.iter().copied()).or(match name {
        "postgresql" | "pg" | "pgsql" => Some("postgres"),
        "valkey" | "cache" => Some("redis"),
        _ => None,
    });
    let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    let message = format!("there is no module `{name}`{hint}");
    let unknown = Diagnostic::new(codes::UNKNOWN_MODULE, Severity::Error, uses.span, message);
    let unknown =
        unknown.help(format!("Built in: {}. A folder of your own is written `./modules/NAME`.", known.join(", ")));
    Err(vec![match near {
        Some(near) => {
            let text = uses.value.replacen(name, near, 1);
            unknown.fix(format!("change it to `{text}`"), true, vec![Edit { span: uses.span, text }])
        }
        None => unknown,
    }])
}

/// The major version of a constraint. Ranges (`^16`, `~16.1`) reduce to their major version, because a module declares
/// only major versions.
fn resolve_version(
    uses: &Spanned<String>,
    module: &Module,
    constraint: Option<&str>,
) -> Result<String, Vec<Diagnostic>> {
    let module_major = module.version.major.to_string();
    let Some(constraint) = constraint else { return Ok(module_major) };
    let major = constraint.trim_start_matches(['^', '~', '=', 'v']).split('.').next().unwrap_or_default().to_owned();
    if module.versions.is_empty() && major == module_major || module.versions.contains(&major) {
        return Ok(major);
    }
    let known = if module.versions.is_empty() { module_major } else { module.versions.join(", ") };
    let message = format!("the module `{}` has no version `{constraint}`; it has {known}", module.name);
    Err(vec![
        Diagnostic::new(codes::NO_VERSION, Severity::Error, uses.span, message)
            .help("Another image can be given with the input `image`."),
    ])
}
