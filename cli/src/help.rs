//! The help pages of the program: a front page that fits one screen, and the complete list (`pdev help --all`).
//!
//! clap itself renders the pages of the individual commands.

use std::fmt::Write;

struct CommandGroup {
    title: &'static str,
    /// Listed with a description on both pages.
    everyday: &'static [&'static str],
    /// The front page lists only the names of these commands, without descriptions.
    rare: &'static [&'static str],
}

const COMMAND_GROUPS: [CommandGroup; 4] = [
    CommandGroup {
        title: "Previews",
        everyday: &["up", "down", "stop", "restart", "run", "exec", "ls", "status", "logs", "open"],
        rare: &["wait"],
    },
    CommandGroup { title: "Manifest", everyday: &["plan", "check", "explain"], rare: &["schema", "module", "lsp"] },
    CommandGroup {
        title: "Credentials",
        everyday: &["identity", "login", "secret", "session"],
        rare: &["logout", "credential", "audit", "vault"],
    },
    CommandGroup {
        title: "pdev itself",
        everyday: &[],
        rare: &["agent", "doctor", "completions", "man", "version", "help"],
    },
];

// Both templates are clap's. `{before-help}` is where these pages insert the list of commands: clap's own
// `{subcommands}` has neither groups nor a way to leave out descriptions.

/// Lists the options itself: clap's `{options}` prints their complete descriptions, which leave too little space for the
/// commands.
const FRONT_PAGE_TEMPLATE: &str = "\
{about-with-newline}
{usage-heading} {usage}
{before-help}Global options:
  -C <FOLDER>      Run as if started in this folder
  --json           Print JSON to standard output
  --color <WHEN>   Color the output: auto, always or never
  -q, --quiet      Hide progress
  -v, --verbose    Show every step and all build output
  -h, --help       Print help (-V or --version prints the version)

Run `pdev up` in a folder with a pdev.yaml. More help: `pdev help COMMAND|--all`";

const COMPLETE_TEMPLATE: &str =
    "{about-with-newline}\n{usage-heading} {usage}\n{before-help}Global options:\n{options}{after-help}";

const COMPLETE_FOOTER: &str = "\
A unit is a service, a job or a resource of the manifest.

Details of a command: `pdev help COMMAND` or `pdev COMMAND --help`.";

/// Leaves a margin on a terminal with 80 columns.
const NAMES_COLUMNS_MAX: usize = 76;

pub(crate) fn with_front_page(command: clap::Command) -> clap::Command {
    let page = front_page_commands(&command);
    command.help_template(FRONT_PAGE_TEMPLATE).before_help(page)
}

pub(crate) fn with_complete_page(command: clap::Command) -> clap::Command {
    let mut page = String::new();
    for group in &COMMAND_GROUPS {
        write_group(&mut page, group.title, group.everyday.iter().chain(group.rare), &command);
    }
    command.help_template(COMPLETE_TEMPLATE).before_help(page).after_help(COMPLETE_FOOTER)
}

fn front_page_commands(command: &clap::Command) -> String {
    let mut page = String::new();
    for group in COMMAND_GROUPS.iter().filter(|group| !group.everyday.is_empty()) {
        write_group(&mut page, group.title, group.everyday.iter(), command);
    }
    let mut rare: Vec<&str> = COMMAND_GROUPS.iter().flat_map(|group| group.rare).copied().collect();
    rare.sort_unstable();
    page.push_str("\nOther commands:");
    // This loop breaks the lines, because clap would not indent the second line.
    let mut line = String::new();
    for (index, name) in rare.iter().enumerate() {
        if line.len() + name.len() > NAMES_COLUMNS_MAX {
            let _ = write!(page, "\n {line}");
            line.clear();
        }
        let separator = if index + 1 == rare.len() { "" } else { "," };
        let _ = write!(line, " {name}{separator}");
    }
    let _ = write!(page, "\n {line}");
    page.push('\n');
    page
}

fn write_group<'a>(
    page: &mut String,
    title: &str,
    names: impl Iterator<Item = &'a &'static str>,
    command: &clap::Command,
) {
    let _ = write!(page, "\n{title}:\n");
    for name in names {
        let about = command.find_subcommand(name).and_then(clap::Command::get_about);
        let _ = writeln!(page, "  {name:<12} {}", about.map(ToString::to_string).unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: usize = 100;
    const SMALL_TERMINAL_COLUMNS: usize = 80;
    const FRONT_PAGE_LINES_MAX: usize = 40;

    fn render(command: clap::Command, columns: usize) -> String {
        command.term_width(columns).render_help().to_string()
    }

    /// Every visible command with its path (`identity add`), starting with the root.
    fn all_commands() -> Vec<(String, clap::Command)> {
        let mut root = crate::arguments::command();
        // Commands are deferred: the first call creates the subcommands, the second call their options.
        root.build();
        root.build();
        let mut commands = Vec::new();
        let mut pending = vec![(String::new(), root)];
        while let Some((path, command)) = pending.pop() {
            for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
                let subcommand_path = format!("{path} {}", subcommand.get_name()).trim().to_owned();
                pending.push((subcommand_path, subcommand.clone()));
            }
            commands.push((path, command));
        }
        commands
    }

    #[test]
    fn every_command_is_in_one_group() {
        let command = crate::arguments::command();
        command.clone().debug_assert();
        let mut grouped: Vec<&str> =
            COMMAND_GROUPS.iter().flat_map(|group| group.everyday.iter().chain(group.rare)).copied().collect();
        let mut all: Vec<&str> =
            command.get_subcommands().filter(|command| !command.is_hide_set()).map(clap::Command::get_name).collect();
        grouped.sort_unstable();
        all.sort_unstable();
        assert_eq!(grouped, all);
    }

    #[test]
    fn front_page_fits_one_screen_and_names_every_command_and_global_option() {
        for columns in [COLUMNS, SMALL_TERMINAL_COLUMNS] {
            let page = render(crate::arguments::command(), columns);
            assert!(page.lines().count() <= FRONT_PAGE_LINES_MAX, "{} lines:\n{page}", page.lines().count());
            assert!(page.lines().all(|line| line.chars().count() <= columns), "{page}");
        }
        let page = render(crate::arguments::command(), COLUMNS);
        let is_word_end = |character: char| !character.is_ascii_alphanumeric() && character != '-';
        let words: Vec<&str> = page.split(is_word_end).collect();
        let command = crate::arguments::command();
        for subcommand in command.get_subcommands() {
            assert!(words.contains(&subcommand.get_name()), "`{}` is not on\n{page}", subcommand.get_name());
        }
        for option in command.get_arguments() {
            let name = option
                .get_long()
                .map_or_else(|| format!("-{}", option.get_short().unwrap()), |long| format!("--{long}"));
            assert!(words.contains(&name.as_str()), "`{name}` is not on\n{page}");
        }
    }

    #[test]
    fn complete_page_describes_every_command_and_global_option() {
        let command = crate::arguments::command();
        let page = render(with_complete_page(command.clone()), COLUMNS);
        let page: Vec<&str> = page.split_whitespace().collect();
        let page = page.join(" ");
        let describe =
            |subcommand: &clap::Command| format!("{} {}", subcommand.get_name(), subcommand.get_about().unwrap());
        let abouts = command.get_subcommands().map(describe);
        let options = command.get_arguments().map(|option| option.get_help().unwrap().to_string());
        for text in abouts.chain(options) {
            assert!(page.contains(&text), "`{text}` is not on\n{page}");
        }
    }

    #[test]
    fn every_command_and_argument_has_a_description() {
        let missing: Vec<String> = all_commands()
            .iter()
            .flat_map(|(path, command)| {
                let arguments = command.get_arguments().filter(|argument| argument.get_help().is_none());
                let about = command.get_about().is_none().then(|| path.clone());
                about.into_iter().chain(arguments.map(move |argument| format!("{path} {}", argument.get_id())))
            })
            .collect();
        assert_eq!(missing, Vec::<String>::new());
    }

    /// A footer consists of indented examples and of paragraphs. clap wraps paragraphs to the width of the terminal, so a
    /// line break inside a paragraph would leave short lines at other widths. It does not wrap examples.
    #[test]
    fn examples_in_footers_fit_and_paragraphs_have_no_line_breaks() {
        for (path, command) in all_commands() {
            let footer = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for line in footer.lines().filter(|line| !line.is_empty()) {
                if line.starts_with(' ') {
                    assert!(line.chars().count() <= COLUMNS, "`pdev {path}`: too long: {line}");
                } else {
                    assert!(line.ends_with(['.', ':']), "`pdev {path}`: line break inside a paragraph: {line}");
                }
            }
        }
    }
}
