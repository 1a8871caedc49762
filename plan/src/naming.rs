//! Names of previews: labels for people and hosts, the id that identifies a preview, and URLs.
//!
//! The agent's registry decides which preview owns a label. This module only computes a label, reports whether it lost
//! information, and computes the label to use on a collision.

use std::collections::BTreeMap;

use crate::application::{PreviewId, PreviewName, UnitName};
use crate::hash::base32_digest;

pub const APP_LABEL_MAX: usize = 20;
pub const BRANCH_LABEL_MAX: usize = 40;
pub const SERVICE_LABEL_MAX: usize = 30;

/// Folder names that say nothing about the checkout inside.
const GENERIC_FOLDERS: &[&str] = &[
    "app",
    "build",
    "checkout",
    "code",
    "git",
    "head",
    "project",
    "repo",
    "repository",
    "source",
    "src",
    "temp",
    "tmp",
    "work",
    "workspace",
    "worktree",
    "wt",
];

/// A name in a form that is valid in a host name. `lossy` is true if another name could have the same label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Label {
    pub text: String,
    pub lossy: bool,
}

impl Label {
    /// Converts `name` to lower case, replaces each run of other bytes by one `-`, and trims. The result is never empty
    /// and has at most `cap` characters.
    #[must_use]
    pub fn new(name: &str, cap: usize) -> Self {
        let text = truncate_label(&slug(name), name, cap);
        Self { lossy: text != name, text }
    }
}

#[must_use]
pub fn app_label(app: &str) -> Label {
    Label::new(app, APP_LABEL_MAX)
}

#[must_use]
pub fn service_label(service: &str) -> Label {
    Label::new(service, SERVICE_LABEL_MAX)
}

/// The label of a branch name, without the first prefix in `strip` that matches. Environments other than `local` are
/// appended, because one worktree may run in several environments at once.
#[must_use]
pub fn branch_label(branch: &str, environment: &str, strip: &[&str]) -> Label {
    let stripped = strip
        .iter()
        .filter(|prefix| !prefix.is_empty())
        .find_map(|prefix| branch.strip_prefix(prefix))
        .filter(|rest| !rest.is_empty())
        .unwrap_or(branch);
    let mut label = if environment == "local" {
        Label::new(stripped, BRANCH_LABEL_MAX)
    } else {
        Label::new(&format!("{}-{environment}", slug(stripped)), BRANCH_LABEL_MAX)
    };
    // Stripping a prefix loses information too, so compare with the full branch name.
    label.lossy = label.text != branch;
    label
}

/// The name used instead of a branch for a worktree without one: its folder, or the short commit if the folder's name
/// is generic.
#[must_use]
pub fn detached_name(worktree_folder: &str, commit: &str) -> String {
    let generic = GENERIC_FOLDERS.contains(&slug(worktree_folder).as_str()) || worktree_folder.is_empty();
    if generic && !commit.is_empty() { commit.chars().take(8).collect() } else { worktree_folder.to_owned() }
}

/// The label of a new preview whose lossy label already belongs to another preview. The other preview keeps its label.
#[must_use]
pub fn label_on_collision(label: &str, branch: &str) -> String {
    // Leave space for `-` and four characters of the digest.
    let prefix: String = label.chars().take(BRANCH_LABEL_MAX - 5).collect();
    format!("{}-{}", prefix.trim_matches('-'), base32_digest(branch.as_bytes(), 4))
}

fn slug(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes().map(|byte| byte.to_ascii_lowercase()) {
        if byte.is_ascii_lowercase() || byte.is_ascii_digit() {
            text.push(char::from(byte));
        } else if !text.ends_with('-') && !text.is_empty() {
            text.push('-');
        }
    }
    let text = text.trim_end_matches('-');
    if text.is_empty() { "wt".to_owned() } else { text.to_owned() }
}

fn truncate_label(slug: &str, full: &str, cap: usize) -> String {
    if slug.len() <= cap {
        return slug.to_owned();
    }
    // Leave space for `-` and six characters of the digest.
    let prefix = slug.get(..cap - 7).unwrap_or(slug).trim_end_matches('-');
    format!("{prefix}-{}", base32_digest(full.as_bytes(), 6))
}

/// The location that distinguishes two copies of an application, as the bytes that the operating system returns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckoutLocation<'a> {
    Worktree {
        common_dir: &'a [u8],
        git_dir: &'a [u8],
    },
    /// Without git: the folder's real path.
    Folder {
        path: &'a [u8],
    },
}

#[must_use]
pub fn preview_id(location: CheckoutLocation<'_>, environment: &str) -> PreviewId {
    let mut bytes = Vec::new();
    let mut add = |part: &[u8]| {
        // Without the length, (`ab`, `c`) and (`a`, `bc`) would have the same bytes.
        bytes.extend_from_slice(part.len().to_string().as_bytes());
        bytes.push(b':');
        bytes.extend_from_slice(part);
    };
    match location {
        CheckoutLocation::Worktree { common_dir, git_dir } => {
            add(b"worktree");
            add(common_dir);
            add(git_dir);
        }
        CheckoutLocation::Folder { path } => {
            add(b"folder");
            add(path);
        }
    }
    add(environment.as_bytes());
    PreviewId(base32_digest(&bytes, 16))
}

/// `<service>.<branch>.<app>.localhost`.
#[must_use]
pub fn service_host(preview: &PreviewName, service: &str) -> String {
    format!("{}.{}", service_label(service).text, preview_host(preview))
}

/// `<branch>.<app>.localhost`: the default service, and the cookie domain that the services of one copy share.
#[must_use]
pub fn preview_host(preview: &PreviewName) -> String {
    format!("{}.{}", preview.branch, app_host(preview))
}

/// `<app>.localhost`: the default service of the primary checkout.
#[must_use]
pub fn app_host(preview: &PreviewName) -> String {
    format!("{}.localhost", preview.app)
}

/// Every host of a preview with its service. `primary` is true for the main checkout of the repository.
#[must_use]
pub fn hosts<'a>(
    preview: &PreviewName,
    services: impl IntoIterator<Item = &'a str>,
    default_service: Option<&str>,
    primary: bool,
) -> BTreeMap<String, UnitName> {
    let mut hosts: BTreeMap<String, UnitName> =
        services.into_iter().map(|service| (service_host(preview, service), service.to_owned())).collect();
    if let Some(service) = default_service {
        hosts.insert(preview_host(preview), service.to_owned());
        if primary {
            hosts.insert(app_host(preview), service.to_owned());
        }
    }
    hosts
}

#[must_use]
pub fn url(host: &str, proxy_port: u16) -> String {
    if proxy_port == 80 { format!("http://{host}") } else { format!("http://{host}:{proxy_port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_normalised_and_truncated() {
        let forty = "a".repeat(40);
        let forty_one = "a".repeat(41);
        let long_dash = format!("{}-{}", "b".repeat(32), "c".repeat(20));
        let cases: &[(&str, &str, bool)] = &[
            ("main", "main", false),
            ("feature/login", "feature-login", true),
            ("Feature//Login_2", "feature-login-2", true),
            ("-x-", "x", true),
            ("a--b", "a-b", true),
            ("xn--80ak6aa92e", "xn-80ak6aa92e", true),
            ("", "wt", true),
            ("日本", "wt", true),
            ("größe", "gr-e", true),
            (&forty, &forty, false),
        ];
        for (branch, label, lossy) in cases {
            assert_eq!(branch_label(branch, "local", &[]), Label { text: (*label).into(), lossy: *lossy }, "{branch}");
        }
        for long in [&forty_one, &long_dash] {
            let label = branch_label(long, "local", &[]);
            assert!(label.text.len() <= BRANCH_LABEL_MAX && label.lossy, "{label:?}");
            assert!(!label.text.contains("--"), "{label:?}");
        }
        let cut = branch_label(&forty_one, "local", &[]).text;
        assert_eq!(cut, format!("{}-{}", "a".repeat(33), base32_digest(forty_one.as_bytes(), 6)));
        assert_eq!(app_label(&"a".repeat(21)).text.len(), APP_LABEL_MAX);
        assert_eq!(service_label(&"a".repeat(31)).text.len(), SERVICE_LABEL_MAX);
    }

    #[test]
    fn branch_label_strips_prefix_and_appends_environment() {
        let cases: &[(&str, &str, &[&str], &str)] = &[
            ("worktree-fix", "local", &["worktree-", "feature/"], "fix"),
            ("feature/login", "local", &["worktree-", "feature/"], "login"),
            ("feature/", "local", &["feature/"], "feature"),
            ("feature/login", "preview", &[], "feature-login-preview"),
            ("main", "local", &[""], "main"),
        ];
        for (branch, environment, strip, label) in cases {
            assert_eq!(branch_label(branch, environment, strip).text, *label, "{branch} {environment}");
        }
        assert!(branch_label("feature/login", "local", &["feature/"]).lossy, "another branch may be called `login`");
    }

    #[test]
    fn detached_worktree_is_named_after_folder_or_commit() {
        let cases = [("fix-login", "fix-login"), ("worktree", "0123abcd"), ("SRC", "0123abcd"), ("", "0123abcd")];
        for (folder, name) in cases {
            assert_eq!(detached_name(folder, "0123abcdef"), name, "{folder}");
        }
        assert_eq!(detached_name("src", ""), "src");
    }

    #[test]
    fn collision_label_stays_within_maximum() {
        assert_eq!(label_on_collision("a-b", "a/b"), format!("a-b-{}", base32_digest(b"a/b", 4)));
        let long = label_on_collision(&"a".repeat(40), "a");
        assert_eq!(long.len(), BRANCH_LABEL_MAX);
        assert_ne!(label_on_collision("a-b", "a/b"), label_on_collision("a-b", "a_b"));
    }

    #[test]
    fn preview_ids_differ_by_checkout_and_environment() {
        let worktree = |common_dir: &'static [u8], git_dir: &'static [u8], environment| {
            preview_id(CheckoutLocation::Worktree { common_dir, git_dir }, environment)
        };
        let ids = [
            worktree(b"/r/.git", b"/r/.git", "local"),
            worktree(b"/r/.git", b"/r/.git/worktrees/a", "local"),
            worktree(b"/r/.git", b"/r/.git", "preview"),
            worktree(b"/r/.git/", b"r/.git", "local"),
            preview_id(CheckoutLocation::Folder { path: b"/r/.git" }, "local"),
            preview_id(CheckoutLocation::Folder { path: b"/r/\xff" }, "local"),
        ];
        let different: std::collections::BTreeSet<_> = ids.iter().collect();
        assert_eq!(different.len(), ids.len());
        assert!(ids.iter().all(|id| id.0.len() == 16));
        assert_eq!(ids[0], worktree(b"/r/.git", b"/r/.git", "local"));
    }

    #[test]
    fn hosts_cover_services_preview_and_primary_app() {
        let preview = PreviewName {
            id: PreviewId("x".into()),
            app: "shop".into(),
            branch: "login".into(),
            environment: "local".into(),
        };
        let hosts_of =
            |primary| hosts(&preview, ["api", "web_ui"], Some("api"), primary).into_iter().collect::<Vec<_>>();
        let expect = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(host, service)| ((*host).to_owned(), (*service).to_owned())).collect()
        };
        assert_eq!(
            hosts_of(false),
            expect(&[
                ("api.login.shop.localhost", "api"),
                ("login.shop.localhost", "api"),
                ("web-ui.login.shop.localhost", "web_ui")
            ])
        );
        assert!(hosts_of(true).contains(&("shop.localhost".to_owned(), "api".to_owned())));
        assert_eq!(url("a.localhost", 8642), "http://a.localhost:8642");
        assert_eq!(url("a.localhost", 80), "http://a.localhost");
    }
}
