//! The changes of `pdev credential setup` in the files of other tools. Pure: text in, text out. The functions that
//! remove something only remove text that pdev wrote.

use serde_json::{Map, Value};

/// The new text, or the reason why the file cannot be changed.
pub(crate) type EditResult = Result<String, String>;

/// Section, field and value of each field in an aws configuration file.
pub(crate) fn ini_fields(text: &str) -> Vec<(&str, &str, &str)> {
    let mut section = "";
    let mut fields = Vec::new();
    for line in text.lines() {
        if let Some((header, _)) = line.trim().strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            section = header.trim();
        } else if let Some((field, value)) = line.split_once('=') {
            // Indented lines belong to a nested value.
            if !field.starts_with([' ', '\t', '#', ';']) {
                fields.push((section, field.trim(), value.trim()));
            }
        }
    }
    fields
}

/// Adds a profile to `~/.aws/config`.
pub(crate) fn add_aws_profile(text: &str, program: &str, identity: &str) -> EditResult {
    let section = format!("profile {identity}");
    // Replace the block of an earlier setup, so that a moved program gets its new path.
    let foreign_text = remove_block(text, identity);
    if has_section(&foreign_text, &section) {
        return Err(format!("the file already has a profile `{identity}`"));
    }
    let body = format!("[{section}]\ncredential_process = {} credential aws {identity}\n", shell_quoted(program));
    Ok(append_block(&foreign_text, identity, &body))
}

/// A shell script that runs gcloud as an identity.
pub(crate) fn gcloud_script(program: &str, identity: &str) -> String {
    format!(
        "#!/bin/sh\n{}exec {} run --as {identity} -- gcloud \"$@\"\n",
        gcloud_marker(identity),
        shell_quoted(program)
    )
}

pub(crate) fn is_gcloud_script(text: &str, identity: &str) -> bool {
    text.contains(&gcloud_marker(identity))
}

/// The comment by which later versions of pdev recognise the script, so its text must not change.
fn gcloud_marker(identity: &str) -> String {
    format!("# Made by `pdev credential setup gcloud {identity}`; with `--undo` it is removed.\n")
}

/// Adds a credential helper for each host to `~/.gitconfig`.
pub(crate) fn add_git_helpers(text: &str, program: &str, identity: &str, hosts: &[String]) -> EditResult {
    let foreign_text = remove_block(text, identity);
    let mut body = String::new();
    for host in hosts.iter().filter(|host| !host.starts_with("*.")) {
        // As in the credential helper itself: plain HTTP is allowed only on this machine.
        let scheme = if host.starts_with("localhost") || host.starts_with("127.0.0.1") { "http" } else { "https" };
        let section = format!("credential \"{scheme}://{host}\"");
        if has_section(&foreign_text, &section) {
            return Err(format!("the file already has settings for `{host}`"));
        }
        // The empty helper resets the list, so git neither asks helpers of other sections nor lets them store the
        // credential.
        body.push_str(&format!(
            "[{section}]\n\thelper =\n\thelper = {}\n",
            git_config_escaped(&format!("{} credential git", shell_quoted(program)))
        ));
    }
    Ok(append_block(&foreign_text, identity, &body))
}

/// Adds a credential helper for each registry to docker's `config.json`.
pub(crate) fn add_docker_helpers(text: &str, hosts: &[String]) -> EditResult {
    let mut config = parse_json_object(text)?;
    let helpers = config.entry("credHelpers").or_insert_with(|| Value::Object(Map::new()));
    let helpers = helpers.as_object_mut().ok_or("`credHelpers` is not an object")?;
    for host in hosts.iter().filter(|host| !host.starts_with("*.")) {
        match helpers.get(host).and_then(Value::as_str) {
            None | Some("pdev") => {
                helpers.insert(host.clone(), "pdev".into());
            }
            Some(other) => return Err(format!("`{host}` already has the helper `{other}`")),
        }
    }
    Ok(to_docker_json(&config))
}

pub(crate) fn remove_docker_helpers(text: &str, hosts: &[String]) -> EditResult {
    let mut config = parse_json_object(text)?;
    if let Some(helpers) = config.get_mut("credHelpers").and_then(Value::as_object_mut) {
        helpers.retain(|host, helper| helper != "pdev" || !hosts.contains(host));
        if helpers.is_empty() {
            config.shift_remove("credHelpers");
        }
    }
    Ok(to_docker_json(&config))
}

fn parse_json_object(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|_| "the file is not a JSON object".to_owned())
}

/// Formats JSON like docker: indented by tabs.
fn to_docker_json(config: &Map<String, Value>) -> String {
    use serde::Serialize;
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    let mut writer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Serialization cannot fail: the keys and values were read from JSON.
    let _ignored = config.serialize(&mut writer);
    String::from_utf8(bytes).unwrap_or_default()
}

fn has_section(text: &str, title: &str) -> bool {
    text.lines().any(|line| line.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) == Some(title))
}

/// The comments by which later versions of pdev find the block, so their texts must not change.
fn block_markers(identity: &str) -> (String, String) {
    (format!("# pdev credential setup: begin {identity}\n"), format!("# pdev credential setup: end {identity}\n"))
}

fn append_block(text: &str, identity: &str, body: &str) -> String {
    let (begin, end) = block_markers(identity);
    let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    format!("{text}{newline}{begin}{body}{end}")
}

/// Removes the block that pdev wrote for this identity. If its end marker is missing, the text stays unchanged, because
/// the lines after the begin marker may be the user's own.
pub(crate) fn remove_block(text: &str, identity: &str) -> String {
    let (begin, end) = block_markers(identity);
    let Some((before, rest)) = text.split_once(&begin) else { return text.to_owned() };
    match rest.split_once(&end) {
        Some((_, after)) => format!("{before}{after}"),
        None => text.to_owned(),
    }
}

/// Quotes a path for readers that split words like a shell.
fn shell_quoted(program: &str) -> String {
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+".contains(character);
    if program.chars().all(is_plain) { program.to_owned() } else { format!("'{}'", program.replace('\'', r"'\''")) }
}

/// Escapes a value of a git configuration. In an unquoted value, `#` and `;` would start a comment.
fn git_config_escaped(value: &str) -> String {
    if value.contains(['"', '\\', '#', ';', '\'']) {
        format!("\"{}\"", value.replace('\\', r"\\").replace('"', "\\\""))
    } else {
        value.to_owned()
    }
}

/// The removed lines, then the added lines. Common lines at the start and at the end are left out.
pub(crate) fn diff_lines(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let start = old.iter().zip(&new).take_while(|(left, right)| left == right).count();
    let remaining = |lines: &[&str]| lines.len() - start;
    let end = old.iter().rev().zip(new.iter().rev()).take_while(|(left, right)| left == right).count();
    let end = end.min(remaining(&old)).min(remaining(&new));
    let removed = old[start..old.len() - end].iter().map(|line| format!("-{line}"));
    let added = new[start..new.len() - end].iter().map(|line| format!("+{line}"));
    removed.chain(added).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aws_profile_is_added_once_and_removed_cleanly() {
        let before = "[default]\nregion = x"; // no newline at the end
        let after = add_aws_profile(before, "/opt/my tools/pdev", "dev").unwrap();
        assert!(
            after.contains("[profile dev]\ncredential_process = '/opt/my tools/pdev' credential aws dev\n"),
            "{after}"
        );
        assert_eq!(
            add_aws_profile(&after, "/opt/my tools/pdev", "dev").unwrap(),
            after,
            "adding it twice changes nothing"
        );
        assert_eq!(remove_block(&after, "dev"), format!("{before}\n"));
        assert_eq!(
            add_aws_profile("[profile dev]\n", "pdev", "dev"),
            Err("the file already has a profile `dev`".into())
        );
        assert_eq!(diff_lines(before, &after)[0], "+# pdev credential setup: begin dev");
    }

    #[test]
    fn git_and_docker_helpers_are_added_per_host() {
        let hosts = ["git.example.org".to_owned(), "*.x".to_owned(), "localhost:3000".to_owned()];
        let text = add_git_helpers("[user]\n\tname = A\n", "/bin/pdev", "a", &hosts).unwrap();
        assert!(
            text.contains(
                "[credential \"https://git.example.org\"]\n\thelper =\n\thelper = /bin/pdev credential git\n"
            ),
            "{text}"
        );
        assert!(text.contains("[credential \"http://localhost:3000\"]"));
        assert!(add_git_helpers("[credential \"https://git.example.org\"]\n", "p", "a", &hosts).is_err());
        let config = add_docker_helpers("{\"auths\":{\"q\":{}},\"credHelpers\":{\"z\":\"other\"}}", &hosts).unwrap();
        assert!(
            config.contains("\t\"credHelpers\": {\n\t\t\"z\": \"other\",\n\t\t\"git.example.org\": \"pdev\""),
            "{config}"
        );
        let undone = remove_docker_helpers(&config, &hosts).unwrap();
        assert!(undone.contains("\"z\"") && !undone.contains("pdev"), "{undone}");
        assert!(
            add_docker_helpers("[]", &hosts).is_err()
                && add_docker_helpers("{\"credHelpers\":{\"localhost:3000\":\"gcloud\"}}", &hosts).is_err()
        );
        assert_eq!(remove_docker_helpers(&add_docker_helpers("", &hosts).unwrap(), &hosts).unwrap(), "{}");
    }

    #[test]
    fn diff_shows_only_changed_lines() {
        assert_eq!(diff_lines("a\nb\nc\n", "a\nx\nc\n"), ["-b", "+x"]);
        assert_eq!(diff_lines("a\na\n", "a\na\na\n"), ["+a"]);
        assert!(diff_lines("a\n", "a\n").is_empty());
    }
}
