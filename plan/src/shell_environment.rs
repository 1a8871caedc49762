//! The environment of the shell in which `pdev up` was typed. Local processes are started with it, so that they find
//! the same programs as the user: those of a virtual environment, of nvm, mise or direnv.
//!
//! It is not part of a unit's hash: another terminal must not restart anything.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// Variables by name. `Debug` prints no values, because they may be secrets.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ShellEnvironment(pub BTreeMap<String, String>);

impl fmt::Debug for ShellEnvironment {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// Variables that describe one terminal or one login session, and not the user's tools.
///
/// `TERM` is among them because the output goes to a log, and the address of the session bus because the keyring of the
/// user is behind it.
const NOT_RECORDED: &[&str] = &[
    "_",
    "SHLVL",
    "PWD",
    "OLDPWD",
    "TERM",
    "TERMCAP",
    "COLORTERM",
    "TERM_PROGRAM",
    "TERM_PROGRAM_VERSION",
    "TERM_SESSION_ID",
    "COLUMNS",
    "LINES",
    "WINDOWID",
    "TMUX",
    "TMUX_PANE",
    "STY",
    "WINDOW",
    "DBUS_SESSION_BUS_ADDRESS",
    "DBUS_STARTER_ADDRESS",
    "DBUS_STARTER_BUS_TYPE",
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAINPID",
];

/// Variables whose values differ between terminals although the user's tools are the same.
const NOT_COMPARED: &[&str] = &[
    "SSH_CLIENT",
    "SSH_CONNECTION",
    "SSH_TTY",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_TTY",
    "DISPLAY",
    "WAYLAND_DISPLAY",
    "XAUTHORITY",
    "LS_COLORS",
    "PS1",
    "PROMPT",
    "RPROMPT",
    "PROMPT_COMMAND",
    "HISTFILE",
    "LESSOPEN",
    "LESSCLOSE",
    "VTE_VERSION",
];

/// Prefixes of such variables. direnv keeps its undo data in `DIRENV_*`; editors and terminals add their own.
const NOT_COMPARED_PREFIXES: &[&str] =
    &["DIRENV_", "XDG_", "VSCODE_", "KITTY_", "ALACRITTY_", "WEZTERM_", "GHOSTTY_", "ITERM_", "KONSOLE_", "BASH_FUNC_"];

/// Variables from which the SDKs of clouds and the tools of code hosts read credentials.
const CREDENTIALS: &[&str] = &[
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_OAUTH_ACCESS_TOKEN",
    "CLOUDSDK_AUTH_ACCESS_TOKEN",
    "CLOUDSDK_ACTIVE_CONFIG_NAME",
    "CLOUDSDK_CONFIG",
    "GCE_METADATA_HOST",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_FEDERATED_TOKEN_FILE",
    "AZURE_USERNAME",
    "AZURE_PASSWORD",
    "ARM_CLIENT_ID",
    "ARM_CLIENT_SECRET",
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "GITLAB_TOKEN",
];

impl ShellEnvironment {
    /// The variables that are recorded: all but pdev's own, which may be secrets, and those of one terminal.
    pub fn from_variables(variables: impl IntoIterator<Item = (String, String)>) -> Self {
        let is_recorded = |name: &str| !name.is_empty() && !name.starts_with("PDEV_") && !NOT_RECORDED.contains(&name);
        Self(variables.into_iter().filter(|(name, _)| is_recorded(name)).collect())
    }

    /// The variables for a unit. A unit with an identity gets its credentials from pdev only.
    #[must_use]
    pub fn variables_for(&self, has_identity: bool) -> BTreeMap<String, String> {
        let is_passed = |name: &String| !has_identity || !CREDENTIALS.contains(&name.as_str());
        self.0.iter().filter(|(name, _)| is_passed(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
    }

    /// The names of variables that differ and matter to programs.
    #[must_use]
    pub fn differing_names<'a>(&'a self, other: &'a Self) -> Vec<&'a str> {
        let is_compared = |name: &str| {
            !NOT_COMPARED.contains(&name) && !NOT_COMPARED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        };
        let names = self.0.keys().chain(other.0.keys().filter(|name| !self.0.contains_key(*name)));
        let mut names: Vec<&str> =
            names.filter(|name| self.0.get(*name) != other.0.get(*name)).map(String::as_str).collect();
        names.retain(|name| is_compared(name));
        names.sort_unstable();
        // The most frequent cause comes first.
        names.sort_by_key(|name| *name != "PATH");
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> ShellEnvironment {
        ShellEnvironment::from_variables(variables.iter().map(|(name, value)| ((*name).into(), (*value).into())))
    }

    #[test]
    fn variables_of_pdev_and_of_the_terminal_are_not_recorded() {
        let recorded = environment(&[
            ("PATH", "/bin"),
            ("VIRTUAL_ENV", "/venv"),
            ("PDEV_SECRET_KEY", "x"),
            ("PDEV_TOKEN", "x"),
            ("DBUS_SESSION_BUS_ADDRESS", "unix:path=/run/user/1/bus"),
            ("TERM", "xterm"),
            ("PWD", "/"),
        ]);
        assert_eq!(recorded.0.keys().collect::<Vec<_>>(), ["PATH", "VIRTUAL_ENV"]);
        assert_eq!(format!("{recorded:?}"), r#"{"PATH", "VIRTUAL_ENV"}"#, "no values");
    }

    #[test]
    fn units_with_identity_get_no_credentials_of_the_shell() {
        let recorded = environment(&[("AWS_PROFILE", "x"), ("AWS_REGION", "eu"), ("GITHUB_TOKEN", "x")]);
        assert_eq!(recorded.variables_for(false).len(), 3);
        assert_eq!(recorded.variables_for(true).keys().collect::<Vec<_>>(), ["AWS_REGION"]);
    }

    #[test]
    fn only_differences_that_matter_are_named() {
        let first = environment(&[("PATH", "/a"), ("A", "1"), ("SSH_TTY", "/dev/pts/1"), ("GONE", "x"), ("SAME", "x")]);
        let second = environment(&[("PATH", "/b"), ("A", "2"), ("SSH_TTY", "/dev/pts/2"), ("NEW", "x"), ("SAME", "x")]);
        assert_eq!(first.differing_names(&second), ["PATH", "A", "GONE", "NEW"]);
        assert!(first.differing_names(&first).is_empty());
    }
}
