//! The front page: commands in five groups, with a way in.

use std::fmt::Write;

const COMMAND_GROUPS: [(&str, &[&str]); 5] = [
    ("Run", &["up", "down", "restart", "stop", "run", "exec", "wait"]),
    ("Look", &["ls", "status", "logs", "open", "plan"]),
    ("Write", &["check", "explain", "schema", "module", "lsp"]),
    ("Sign in", &["identity", "login", "logout", "credential", "session", "audit", "secret", "vault"]),
    ("Platform", &["agent", "doctor", "completions", "man", "version"]),
];

const TEMPLATE: &str = "{about-with-newline}\n{usage-heading} {usage}\n{before-help}Everywhere:\n{options}{after-help}";

const AFTER_HELP: &str =
    "Start with `pdev up` in a folder with a pdev.yaml. `pdev COMMAND --help` tells more about each.";

pub(crate) fn with_command_groups(command: clap::Command) -> clap::Command {
    let groups = render_groups(&command);
    command.help_template(TEMPLATE).before_help(groups).after_help(AFTER_HELP)
}

fn render_groups(command: &clap::Command) -> String {
    let mut text = String::new();
    for (title, names) in COMMAND_GROUPS {
        let _ = write!(text, "\n{title}:\n");
        for name in names {
            let about = command.find_subcommand(name).and_then(clap::Command::get_about);
            let _ = writeln!(text, "  {name:<12} {}", about.map(ToString::to_string).unwrap_or_default());
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::COMMAND_GROUPS;

    #[test]
    fn every_command_is_in_one_group() {
        let command = crate::arguments::command();
        command.clone().debug_assert();
        let mut grouped: Vec<&str> = COMMAND_GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut all: Vec<&str> =
            command.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped, all);
    }
}
