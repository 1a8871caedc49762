//! `uses:` to a module: built-in by name, or a folder beside the manifest.

use std::sync::Arc;

use manifest::diagnostic::Edit;
use manifest::nearest::nearest;
use manifest::{Diagnostic, Files, Severity, Spanned};

use crate::builtin;
use crate::codes;
use crate::module::{Module, Source, load_module};

/// A module and the version of what it runs that was asked for.
#[derive(Clone, Debug)]
pub struct ResolvedModule {
    pub module: Arc<Module>,
    /// Behind the `@`; the module's own major version when there is none.
    pub constraint: String,
    /// As written, for the lock.
    pub uses: String,
    /// Worth saying, stopping nothing.
    pub warnings: Vec<Diagnostic>,
}

/// # Errors
/// An unknown module or version, a broken one, one from elsewhere.
pub fn resolve_module(uses: &Spanned<String>, files: &dyn Files) -> Result<ResolvedModule, Vec<Diagnostic>> {
    let written = uses.value.trim();
    if written.contains("://") || written.starts_with("git+") {
        let words = format!("`{written}` comes from elsewhere; this version uses built-in modules and local folders");
        let found = Diagnostic::new(codes::REMOTE_MODULE, Severity::Error, uses.span, words);
        return Err(vec![found.help("Copy the module's folder into the repository and write `uses: ./modules/NAME`.")]);
    }
    let (name, constraint) = match written.split_once('@') {
        Some((name, constraint)) => (name, Some(constraint)),
        None => (written, None),
    };
    let module = if name.starts_with("./") || name.starts_with("../") {
        load_folder(uses, name, files)?
    } else {
        find_built_in(uses, name)?
    };
    let constraint = resolve_version(uses, &module, constraint)?;
    let notes = module.deprecated.iter().map(|why| {
        Diagnostic::new(
            codes::DEPRECATED,
            Severity::Warning,
            uses.span,
            format!("the module `{}` will go: {why}", module.name),
        )
        .help("Move before it does.")
    });
    Ok(ResolvedModule { warnings: notes.collect(), module, constraint, uses: written.to_owned() })
}

fn load_folder(uses: &Spanned<String>, name: &str, files: &dyn Files) -> Result<Arc<Module>, Vec<Diagnostic>> {
    let path = name.trim_end_matches('/');
    let relative = path.strip_prefix("./").unwrap_or(path);
    load_module(relative, files, Source::Folder(path.to_owned())).map(Arc::new).map_err(|found| {
        // A module's own file is no source of this reading: its findings are told where it is used.
        let place = |one: Diagnostic| Diagnostic {
            span: uses.span,
            code: codes::BAD_MODULE,
            fixes: Vec::new(),
            related: Vec::new(),
            ..one
        };
        found.into_iter().map(place).collect()
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
    let words = format!("there is no module `{name}`{hint}");
    let found = Diagnostic::new(codes::UNKNOWN_MODULE, Severity::Error, uses.span, words);
    let found =
        found.help(format!("Built in: {}. A folder of your own is written `./modules/NAME`.", known.join(", ")));
    Err(vec![match near {
        Some(near) => {
            let text = uses.value.replacen(name, near, 1);
            found.fix(format!("change it to `{text}`"), true, vec![Edit { span: uses.span, text }])
        }
        None => found,
    }])
}

fn resolve_version(uses: &Spanned<String>, module: &Module, asked: Option<&str>) -> Result<String, Vec<Diagnostic>> {
    let own = module.version.major.to_string();
    let Some(asked) = asked else { return Ok(own) };
    let major = asked.trim_start_matches(['^', '~', '=', 'v']).split('.').next().unwrap_or_default().to_owned();
    if module.versions.is_empty() && major == own || module.versions.contains(&major) {
        return Ok(major);
    }
    let known = if module.versions.is_empty() { own } else { module.versions.join(", ") };
    let words = format!("the module `{}` has no version `{asked}`; it has {known}", module.name);
    Err(vec![
        Diagnostic::new(codes::NO_VERSION, Severity::Error, uses.span, words)
            .help("Another image can be given with the input `image`."),
    ])
}
