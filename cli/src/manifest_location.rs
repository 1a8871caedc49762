//! Finds the manifest of a command: the named one, or the nearest `pdev.yaml` in or above the working folder.

use std::path::{Path, PathBuf};

use strings::nearest;

use crate::exit::{Failure, NOT_FOUND};

pub(crate) const MANIFEST_FILE: &str = "pdev.yaml";
const COMPOSE_FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// A manifest's folder (absolute) and file name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ManifestLocation {
    pub(crate) folder: PathBuf,
    pub(crate) file: String,
}

/// The manifest at `path` (a file or folder from the command line), or the nearest one in or above `start`.
pub(crate) fn find(start: &Path, path: Option<&Path>) -> Result<ManifestLocation, Failure> {
    let Some(argument) = path else { return find_above(start).ok_or_else(|| no_manifest_failure(start)) };
    let path = start.join(argument);
    if path.is_dir() {
        let folder = absolute(&path)?;
        return find_above(&folder).ok_or_else(|| no_manifest_failure(&folder));
    }
    if !path.exists() {
        let failure = Failure::new(NOT_FOUND, "no_manifest", format!("no file or folder `{}`", argument.display()));
        return Err(failure.hint(missing_path_hint(&path, argument)));
    }
    let file = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    Ok(ManifestLocation { folder: absolute(path.parent().unwrap_or(start))?, file })
}

/// Like [`find`], for `pdev up`, where a missing path may be meant as the name of a service.
pub(crate) fn find_for_up(start: &Path, path: Option<&Path>) -> Result<ManifestLocation, Failure> {
    let name = path.and_then(Path::to_str).filter(|name| is_unit_name(name) && !start.join(name).exists());
    find(start, path).map_err(|failure| match name {
        Some(name) => failure.hint(format!("To start only one service, run `pdev up --service {name}`.")),
        None => failure,
    })
}

fn is_unit_name(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Names a similar file or folder beside the missing one, if there is one.
fn missing_path_hint(path: &Path, argument: &Path) -> String {
    let siblings = path.parent().and_then(|folder| std::fs::read_dir(folder).ok()).into_iter().flatten().flatten();
    let siblings: Vec<String> = siblings.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    let name = path.file_name().and_then(std::ffi::OsStr::to_str).unwrap_or_default();
    match nearest(name, siblings.iter().map(String::as_str)) {
        Some(near) => format!("Did you mean `{}`?", argument.with_file_name(near).display()),
        None => "Pass the folder of a `pdev.yaml`, or the file itself.".to_owned(),
    }
}

pub(crate) fn find_above(start: &Path) -> Option<ManifestLocation> {
    let folder = start.ancestors().find(|folder| folder.join(MANIFEST_FILE).is_file())?;
    Some(ManifestLocation { folder: folder.to_owned(), file: MANIFEST_FILE.to_owned() })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    path.canonicalize().map_err(|error| {
        Failure::invalid_input(format!(
            "cannot use the folder `{}`: {}",
            path.display(),
            crate::humanize::io_error(&error)
        ))
    })
}

/// "No manifest", with a hint that depends on similar files: another spelling, a folder of that name, a Compose file.
pub(crate) fn no_manifest_failure(start: &Path) -> Failure {
    if let Some((path, reason)) = start.ancestors().find_map(|folder| describe_unusable(folder.join(MANIFEST_FILE))) {
        return Failure::new(NOT_FOUND, "no_manifest", format!("`{}` {reason}", path.display()))
            .hint("Replace it with a manifest file.");
    }
    let failure = Failure::new(
        NOT_FOUND,
        "no_manifest",
        format!("no `{MANIFEST_FILE}` in `{}` or any folder above it", start.display()),
    );
    let present = |names: &[&str]| {
        start.ancestors().find_map(|folder| names.iter().map(|name| folder.join(name)).find(|path| path.is_file()))
    };
    if let Some(path) = present(&["pdev.yml", "pdev.yaml.yml", ".pdev.yaml"]) {
        return failure.hint(format!("Rename `{}` to `{MANIFEST_FILE}`.", path.display()));
    }
    if let Some(path) = present(&COMPOSE_FILES) {
        return failure.hint(format!(
            "Write a `{MANIFEST_FILE}` (`pdev explain services` shows its form); `{}` is a Compose file, which this version does not read yet.",
            path.display()
        ));
    }
    failure.hint(
        "Write one; three lines are enough: `pdev: 1`, `app: NAME`, `services: { web: { build: ., port: 8080 } }`.",
    )
}

/// Why a path with the name of a manifest is not a readable file; `None` if nothing exists there.
fn describe_unusable(path: PathBuf) -> Option<(PathBuf, String)> {
    let reason = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.is_dir() => "is a folder, not a file".to_owned(),
        Ok(_) => "is not a regular file".to_owned(),
        Err(error) if path.is_symlink() => {
            format!("is a broken symbolic link: {}", crate::humanize::io_error(&error))
        }
        Err(_) => return None,
    };
    Some((path, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifest_is_found_from_subfolder_or_by_path() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let deep = root.join("a/b");
        std::fs::create_dir_all(&deep).unwrap();
        let hint = find(&deep, None).unwrap_err().problem.hint.unwrap();
        assert!(hint.contains("three lines are enough"), "{hint}");
        std::fs::create_dir(root.join("pdev.yaml")).unwrap();
        assert!(find(&deep, None).unwrap_err().problem.title.ends_with("is a folder, not a file"));
        std::fs::remove_dir(root.join("pdev.yaml")).unwrap();
        std::os::unix::fs::symlink("pdev.yaml", root.join("pdev.yaml")).unwrap();
        assert!(find(&deep, None).unwrap_err().problem.title.contains("a broken symbolic link"));
        std::fs::remove_file(root.join("pdev.yaml")).unwrap();
        std::fs::write(root.join("compose.yaml"), "").unwrap();
        assert!(find(&deep, None).unwrap_err().problem.hint.unwrap().contains("Compose"));
        std::fs::write(root.join("pdev.yml"), "").unwrap();
        assert!(find(&deep, None).unwrap_err().problem.hint.unwrap().contains("Rename"));
        std::fs::write(root.join("pdev.yaml"), "").unwrap();
        std::fs::write(root.join("other.yaml"), "").unwrap();
        let location = |file: &str| ManifestLocation { folder: root.clone(), file: file.to_owned() };
        assert_eq!(find(&deep, None).unwrap(), location("pdev.yaml"));
        assert_eq!(find(&root, Some(Path::new("a"))).unwrap(), location("pdev.yaml"));
        assert_eq!(find(&deep, Some(Path::new("../../other.yaml"))).unwrap(), location("other.yaml"));
        let hint = |found: Result<ManifestLocation, Failure>| found.unwrap_err().problem.hint.unwrap();
        let (web, nope) = (Some(Path::new("web")), Some(Path::new("nope.yaml")));
        assert!(hint(find_for_up(&root, web)).contains("--service web"));
        for missing in [
            find(&root, web),
            find(&root, nope),
            find_for_up(&root, nope),
            find_for_up(&root, Some(Path::new("b/web"))),
        ] {
            assert_eq!(hint(missing), "Pass the folder of a `pdev.yaml`, or the file itself.");
        }
        assert_eq!(hint(find(&root, Some(Path::new("a/../othr.yaml")))), "Did you mean `a/../other.yaml`?");
    }
}
