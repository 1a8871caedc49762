//! The commands that the server carries out, and their names on the wire.

/// A command that the server carries out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    Up,
    Stop,
    Restart,
    Logs,
    Open,
    Status,
    Check,
    Waive,
    Render,
    Diff,
    Login,
    Approve,
    Keep,
    Apply,
    Agent,
    Report,
    Advice,
}

impl Command {
    /// In the order of the server's capabilities.
    pub const ALL: [Self; 17] = [
        Self::Up,
        Self::Stop,
        Self::Restart,
        Self::Logs,
        Self::Open,
        Self::Status,
        Self::Check,
        Self::Waive,
        Self::Render,
        Self::Diff,
        Self::Login,
        Self::Approve,
        Self::Keep,
        Self::Apply,
        Self::Agent,
        Self::Report,
        Self::Advice,
    ];

    /// The name on the wire.
    #[must_use]
    pub const fn id(self) -> &'static str {
        match self {
            Self::Up => "pdev.up",
            Self::Stop => "pdev.stop",
            Self::Restart => "pdev.restart",
            Self::Logs => "pdev.logs",
            Self::Open => "pdev.open",
            Self::Status => "pdev.status",
            Self::Check => "pdev.check",
            Self::Waive => "pdev.waive",
            Self::Render => "pdev.render",
            Self::Diff => "pdev.diff",
            Self::Login => "pdev.login",
            Self::Approve => "pdev.approve",
            Self::Keep => "pdev.keep",
            Self::Apply => "pdev.apply",
            Self::Agent => "pdev.agent",
            Self::Report => "pdev.report",
            Self::Advice => "pdev.advice",
        }
    }

    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|command| command.id() == id)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::Command;

    #[test]
    fn every_id_parses_to_its_command_and_others_to_none() {
        for command in Command::ALL {
            assert_eq!(Command::parse(command.id()), Some(command));
        }
        for id in ["pdev.nothing", "pdev.shell", "up", ""] {
            assert_eq!(Command::parse(id), None, "{id}");
        }
    }

    #[test]
    fn docs_list_the_same_commands() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/lsp.md");
        let page = std::fs::read_to_string(page).unwrap();
        let section = page.split("\n## Commands\n").nth(1).unwrap().split("\n## ").next().unwrap();
        let mut documented: Vec<&str> =
            section.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let mut announced = Command::ALL.map(Command::id).to_vec();
        documented.sort_unstable();
        announced.sort_unstable();
        assert_eq!(documented, announced, "docs/lsp.md");
    }
}
