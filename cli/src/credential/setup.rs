//! What `pdev credential setup` changes in the files of other tools. Pure: text in, text out; only what pdev wrote is
//! taken out again.

use serde_json::{Map, Value};

/// `Err`: why the file cannot take it, in words.
pub(crate) type Edited = Result<String, String>;

/// Title, field and value of each line of a file of aws.
pub(crate) fn sections(text: &str) -> Vec<(&str, &str, &str)> {
    let mut title = "";
    let mut fields = Vec::new();
    for line in text.lines() {
        if let Some(found) = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            title = found.0.trim();
        } else if let Some((field, value)) = line.split_once('=') {
            // Indented lines belong to a nested value.
            if !field.starts_with([' ', '\t', '#', ';']) {
                fields.push((title, field.trim(), value.trim()));
            }
        }
    }
    fields
}

/// A profile of `~/.aws/config`.
pub(crate) fn aws(text: &str, program: &str, identity: &str) -> Edited {
    let title = format!("profile {identity}");
    let without = without_block(text, identity);
    if has_section(&without, &title) {
        return Err(format!("there is a profile `{identity}` already"));
    }
    let body = format!("[{title}]\ncredential_process = {} credential aws {identity}\n", quoted(program));
    Ok(with_block(&without, identity, &body))
}

/// A command that is gcloud as an identity.
pub(crate) fn gcloud(program: &str, identity: &str) -> String {
    format!("#!/bin/sh\n{}exec {} run --as {identity} -- gcloud \"$@\"\n", gclouds_mark(identity), quoted(program))
}

pub(crate) fn is_gclouds(text: &str, identity: &str) -> bool {
    text.contains(&gclouds_mark(identity))
}

fn gclouds_mark(identity: &str) -> String {
    format!("# Made by `pdev credential setup gcloud {identity}`; with `--undo` it is removed.\n")
}

/// Helpers for servers in `~/.gitconfig`.
pub(crate) fn git(text: &str, program: &str, identity: &str, hosts: &[String]) -> Edited {
    let without = without_block(text, identity);
    let mut body = String::new();
    for host in hosts.iter().filter(|host| !host.starts_with("*.")) {
        let scheme = if host.starts_with("localhost") || host.starts_with("127.0.0.1") { "http" } else { "https" };
        let section = format!("credential \"{scheme}://{host}\"");
        if has_section(&without, &section) {
            return Err(format!("there are settings for `{host}` already"));
        }
        // The empty helper keeps those of wider sections from being asked, or from storing what pdev gave.
        body.push_str(&format!(
            "[{section}]\n\thelper =\n\thelper = {}\n",
            escaped(&format!("{} credential git", quoted(program)))
        ));
    }
    Ok(with_block(&without, identity, &body))
}

/// Helpers for registries in docker's `config.json`.
pub(crate) fn docker(text: &str, hosts: &[String]) -> Edited {
    let mut config = json(text)?;
    let helpers = config.entry("credHelpers").or_insert_with(|| Value::Object(Map::new()));
    let helpers = helpers.as_object_mut().ok_or("its `credHelpers` is no object")?;
    for host in hosts.iter().filter(|host| !host.starts_with("*.")) {
        match helpers.get(host).and_then(Value::as_str) {
            None | Some("pdev") => drop(helpers.insert(host.clone(), "pdev".into())),
            Some(other) => return Err(format!("`{host}` has the helper `{other}` already")),
        }
    }
    Ok(pretty(&config))
}

pub(crate) fn docker_undone(text: &str, hosts: &[String]) -> Edited {
    let mut config = json(text)?;
    if let Some(helpers) = config.get_mut("credHelpers").and_then(Value::as_object_mut) {
        helpers.retain(|host, helper| helper != "pdev" || !hosts.contains(host));
        if helpers.is_empty() {
            config.shift_remove("credHelpers");
        }
    }
    Ok(pretty(&config))
}

fn json(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|_| "it is no JSON object".to_owned())
}

/// As docker writes it: indented by tabs.
fn pretty(config: &Map<String, Value>) -> String {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // A map of values that were read from JSON can be written as JSON.
    let _always_fine = config.serialize(&mut writer);
    String::from_utf8(bytes).unwrap_or_default()
}

fn has_section(text: &str, title: &str) -> bool {
    text.lines().any(|line| line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) == Some(title))
}

fn marks(identity: &str) -> (String, String) {
    (format!("# pdev credential setup: begin {identity}\n"), format!("# pdev credential setup: end {identity}\n"))
}

fn with_block(text: &str, identity: &str, body: &str) -> String {
    let (begin, end) = marks(identity);
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{gap}{begin}{body}{end}")
}

/// The text without what pdev wrote for this identity.
pub(crate) fn without_block(text: &str, identity: &str) -> String {
    let (begin, end) = marks(identity);
    let Some((before, rest)) = text.split_once(&begin) else { return text.to_owned() };
    match rest.split_once(&end) {
        Some((_, after)) => format!("{before}{after}"),
        None => text.to_owned(),
    }
}

/// For readers that split like a shell.
fn quoted(program: &str) -> String {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "/._-+".contains(letter);
    if program.chars().all(plain) { program.to_owned() } else { format!("'{}'", program.replace('\'', r"'\''")) }
}

/// For a value of a git configuration.
fn escaped(value: &str) -> String {
    if value.contains(['"', '\\', '#', ';', '\'']) {
        format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
    } else {
        value.to_owned()
    }
}

/// Lines taken out and put in, in order; what both have at the ends is left out.
pub(crate) fn difference(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let start = old.iter().zip(&new).take_while(|(one, two)| one == two).count();
    let rest = |lines: &[&str]| lines.len() - start;
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(one, two)| one == two).count();
    let end = end.min(rest(&old)).min(rest(&new));
    let removed = old[start..old.len() - end].iter().map(|line| format!("-{line}"));
    let added = new[start..new.len() - end].iter().map(|line| format!("+{line}"));
    removed.chain(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_comes_and_goes_and_the_rest_stays() {
        let before = "[default]\nregion = x"; // no newline at the end
        let after = aws(before, "/opt/my tools/pdev", "dev").unwrap();
        assert!(
            after.contains("[profile dev]\ncredential_process = '/opt/my tools/pdev' credential aws dev\n"),
            "{after}"
        );
        assert_eq!(aws(&after, "/opt/my tools/pdev", "dev").unwrap(), after, "twice is once");
        assert_eq!(without_block(&after, "dev"), format!("{before}\n"));
        assert_eq!(aws("[profile dev]\n", "pdev", "dev"), Err("there is a profile `dev` already".into()));
        assert_eq!(difference(before, &after)[0], "+# pdev credential setup: begin dev");
    }

    #[test]
    fn hosts_of_git_and_docker() {
        let hosts = ["git.example.org".to_owned(), "*.x".to_owned(), "localhost:3000".to_owned()];
        let text = git("[user]\n\tname = A\n", "/bin/pdev", "a", &hosts).unwrap();
        assert!(
            text.contains(
                "[credential \"https://git.example.org\"]\n\thelper =\n\thelper = /bin/pdev credential git\n"
            ),
            "{text}"
        );
        assert!(text.contains("[credential \"http://localhost:3000\"]"));
        assert!(git("[credential \"https://git.example.org\"]\n", "p", "a", &hosts).is_err());
        let config = docker("{\"auths\":{\"q\":{}},\"credHelpers\":{\"z\":\"other\"}}", &hosts).unwrap();
        assert!(
            config.contains("\t\"credHelpers\": {\n\t\t\"z\": \"other\",\n\t\t\"git.example.org\": \"pdev\""),
            "{config}"
        );
        let undone = docker_undone(&config, &hosts).unwrap();
        assert!(undone.contains("\"z\"") && !undone.contains("pdev"), "{undone}");
        assert!(
            docker("[]", &hosts).is_err()
                && docker("{\"credHelpers\":{\"localhost:3000\":\"gcloud\"}}", &hosts).is_err()
        );
        assert_eq!(docker_undone(&docker("", &hosts).unwrap(), &hosts).unwrap(), "{}");
    }

    #[test]
    fn only_what_differs_is_shown() {
        assert_eq!(difference("a\nb\nc\n", "a\nx\nc\n"), ["-b", "+x"]);
        assert_eq!(difference("a\na\n", "a\na\na\n"), ["+a"]);
        assert!(difference("a\n", "a\n").is_empty());
    }
}
