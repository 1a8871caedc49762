//! Imports identities from the configuration of other tools: takes the text of their files, returns fields for
//! [`super::add`].
//!
//! Secrets in those files are not read. Entries that cannot be imported are listed with the reason.

use std::collections::BTreeMap;

use serde_json::Value as Json;

/// A source and its fields, as [`super::add`] takes them.
pub type SourceFields = (&'static str, Vec<(String, String)>);

/// The result for one entry of another tool's file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ImportedIdentity {
    /// The original entry: `profile shop-dev`.
    pub origin: String,
    /// A valid name close to the original one.
    pub name: String,
    /// The source and its fields, or the reason why the entry was left out.
    pub outcome: Result<SourceFields, String>,
}

type IniSections = BTreeMap<String, BTreeMap<String, String>>;

/// Imports `~/.aws/config` (AWS CLI user guide, "Configuration and credential file settings").
#[must_use]
pub fn import_aws_config(text: &str) -> Vec<ImportedIdentity> {
    let sections = parse_ini(text);
    let mut imported = Vec::new();
    for (title, keys) in &sections {
        let profile = if title == "default" { Some("default") } else { title.strip_prefix("profile ") };
        let Some(profile) = profile.map(str::trim) else { continue };
        let outcome = import_aws_profile(profile, keys, &sections);
        imported.push(ImportedIdentity { origin: format!("profile {profile}"), name: to_valid_name(profile), outcome });
    }
    imported
}

fn import_aws_profile(
    profile: &str,
    keys: &BTreeMap<String, String>,
    sections: &IniSections,
) -> Result<SourceFields, String> {
    let get = |key: &str| keys.get(key).cloned();
    if let Some(account) = get("sso_account_id") {
        let session = get("sso_session");
        let of_session = |key: &str| match &session {
            Some(session) => sections.get(&format!("sso-session {session}")).and_then(|keys| keys.get(key)).cloned(),
            None => get(key),
        };
        let start_url = of_session("sso_start_url").ok_or("its SSO session has no `sso_start_url`")?;
        let region = of_session("sso_region").ok_or("its SSO session has no `sso_region`")?;
        let role = get("sso_role_name").ok_or("it has no `sso_role_name`")?;
        let mut fields =
            to_owned_pairs(&[("start_url", &start_url), ("region", &region), ("account", &account), ("role", &role)]);
        fields.extend(session.map(|session| ("session".to_owned(), session)));
        return Ok(("aws-sso", fields));
    }
    if let Some(role) = get("role_arn") {
        let source = get("source_profile").ok_or("its role is not assumed from another profile")?;
        if source == profile {
            return Err("it is its own `source_profile`".to_owned());
        }
        let mut fields = to_owned_pairs(&[("from", &to_valid_name(&source)), ("role_arn", &role)]);
        for (theirs, ours) in [
            ("region", "region"),
            ("role_session_name", "session_name"),
            ("external_id", "external_id"),
            ("mfa_serial", "mfa_serial"),
        ] {
            fields.extend(get(theirs).map(|value| (ours.to_owned(), value)));
        }
        fields.extend(get("duration_seconds").map(|seconds| ("duration".to_owned(), format!("{seconds}s"))));
        return Ok(("aws-role", fields));
    }
    if let Some(command) = get("credential_process") {
        // botocore splits the command like a shell. Import only commands for which whitespace is enough.
        if command.contains(['"', '\'', '\\', ',']) {
            return Err("its `credential_process` is quoted; add it with `pdev identity add`".to_owned());
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        return Ok(("exec", to_owned_pairs(&[("command", &words.join(","))])));
    }
    if keys.contains_key("aws_access_key_id") {
        return Err("it holds a long-lived key; `pdev identity add NAME --source static kind=aws access_key_id=...` and `pdev login NAME` store it sealed".to_owned());
    }
    Err("it names no source of credentials".to_owned())
}

/// Imports one file of gcloud's `configurations/`. gcloud itself provides the token.
#[must_use]
pub fn import_gcloud_configuration(configuration: &str, text: &str) -> ImportedIdentity {
    let sections = parse_ini(text);
    let account = sections.get("core").and_then(|core| core.get("account"));
    let outcome = match account {
        Some(account) => {
            let command = format!("gcloud,config,config-helper,--format=json,--configuration={configuration}");
            let mut fields = to_owned_pairs(&[("command", &command), ("description", account), ("cloud", "google")]);
            let project = sections.get("core").and_then(|core| core.get("project"));
            fields.extend(project.map(|project| ("project".to_owned(), project.clone())));
            Ok(("exec", fields))
        }
        None => Err("it has no signed-in account".to_owned()),
    };
    ImportedIdentity {
        origin: format!("configuration {configuration}"),
        name: to_valid_name(&format!("gcloud-{configuration}")),
        outcome,
    }
}

/// Imports a kubeconfig, as JSON: the users whose credentials come from a program.
#[must_use]
pub fn import_kubeconfig(config: &Json) -> Vec<ImportedIdentity> {
    let users = config["users"].as_array().map(Vec::as_slice).unwrap_or_default();
    let imported = users.iter().filter_map(|user| {
        let title = user["name"].as_str()?;
        Some(ImportedIdentity {
            origin: format!("user {title}"),
            name: to_valid_name(title),
            outcome: import_kubernetes_user(&user["user"]),
        })
    });
    imported.collect()
}

fn import_kubernetes_user(user: &Json) -> Result<SourceFields, String> {
    let Some(command) = user["exec"]["command"].as_str() else {
        let secret_fields = ["token", "client-certificate-data", "client-certificate", "auth-provider", "password"];
        let secret_field = secret_fields.into_iter().find(|key| !user[*key].is_null());
        return Err(secret_field.map_or("it has no credentials".to_owned(), |secret_field| {
            format!("it has a `{secret_field}`, which stays where it is")
        }));
    };
    if user["exec"]["interactiveMode"].as_str() == Some("Always") {
        return Err("its program needs a terminal".to_owned());
    }
    let mut words: Vec<String> = Vec::new();
    let settings = user["exec"]["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !settings.is_empty() {
        words.push("env".to_owned());
        words.extend(
            settings
                .iter()
                .filter_map(|variable| Some(format!("{}={}", variable["name"].as_str()?, variable["value"].as_str()?))),
        );
    }
    words.push(command.to_owned());
    let arguments = user["exec"]["args"].as_array().map(Vec::as_slice).unwrap_or_default();
    words.extend(arguments.iter().filter_map(Json::as_str).map(str::to_owned));
    if words.iter().any(|word| word.contains(',')) {
        return Err("an argument of its program contains a comma; add the identity to the file by hand".to_owned());
    }
    Ok(("exec", to_owned_pairs(&[("command", &words.join(","))])))
}

fn to_owned_pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Converts a name to the characters that identities allow.
fn to_valid_name(name: &str) -> String {
    let to_valid_letter = |letter: char| {
        if letter.is_ascii_lowercase() || letter.is_ascii_digit() || matches!(letter, '.' | '-' | '_') {
            letter
        } else {
            '-'
        }
    };
    let name: String = name.to_lowercase().chars().map(to_valid_letter).take(64).collect();
    let name = name.trim_start_matches(['-', '.', '_']);
    if name.is_empty() { "imported".to_owned() } else { name.to_owned() }
}

/// Parses INI as botocore does: sections, `key = value`, comments on separate lines. Nested (indented) keys are
/// skipped.
fn parse_ini(text: &str) -> IniSections {
    let mut sections = IniSections::new();
    let mut current: Option<String> = None;
    for line in text.lines() {
        let plain = line.trim();
        if plain.is_empty() || plain.starts_with(['#', ';']) || line.starts_with([' ', '\t']) {
            continue;
        }
        if let Some(title) = plain.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            let title = title.split_whitespace().collect::<Vec<_>>().join(" ").replace(['"', '\''], "");
            sections.entry(title.clone()).or_default();
            current = Some(title);
        } else if let (Some(title), Some((key, value))) = (&current, plain.split_once('=')) {
            let value = value.split(" #").next().unwrap_or_default().trim();
            sections.entry(title.clone()).or_default().insert(key.trim().to_owned(), value.to_owned());
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe(imported: &[ImportedIdentity]) -> Vec<String> {
        let describe_one = |identity: &ImportedIdentity| match &identity.outcome {
            Ok((kind, fields)) => {
                let fields: Vec<_> = fields.iter().map(|(key, value)| format!("{key}={value}")).collect();
                format!("{} -> {} {kind} {}", identity.origin, identity.name, fields.join(" "))
            }
            Err(reason) => format!("{}: {reason}", identity.origin),
        };
        imported.iter().map(describe_one).collect()
    }

    #[test]
    fn aws_profiles_become_identities_or_reasons() {
        let text = "[default]\nregion = eu-central-1\n# c\n[profile Shop Dev]\nsso_session = corp\nsso_account_id = 123456789012\nsso_role_name = Dev\n\
                    s3 =\n  max_queue_size = 3\n[sso-session corp]\nsso_start_url = https://corp.awsapps.com/start\nsso_region = eu-west-1\n\
                    [profile old]\nsso_start_url=https://o.awsapps.com/start\nsso_region=us-east-1\nsso_account_id=1\nsso_role_name=R\n\
                    [profile admin]\nrole_arn = arn:aws:iam::1:role/a\nsource_profile = Shop Dev\nduration_seconds = 900\n\
                    [profile mfa]\nrole_arn = r\nsource_profile = old\nmfa_serial = arn\n[profile cp]\ncredential_process = /bin/x --y z\n\
                    [profile key]\naws_access_key_id = AKIA\n";
        assert_eq!(
            describe(&import_aws_config(text)),
            [
                "profile default: it names no source of credentials",
                "profile Shop Dev -> shop-dev aws-sso start_url=https://corp.awsapps.com/start region=eu-west-1 account=123456789012 role=Dev session=corp",
                "profile admin -> admin aws-role from=shop-dev role_arn=arn:aws:iam::1:role/a duration=900s",
                "profile cp -> cp exec command=/bin/x,--y,z",
                "profile key: it holds a long-lived key; `pdev identity add NAME --source static kind=aws access_key_id=...` and `pdev login NAME` store it sealed",
                "profile mfa -> mfa aws-role from=old role_arn=r mfa_serial=arn",
                "profile old -> old aws-sso start_url=https://o.awsapps.com/start region=us-east-1 account=1 role=R",
            ]
        );
    }

    #[test]
    fn gcloud_and_kubeconfig_entries_become_identities_or_reasons() {
        let gcloud = import_gcloud_configuration("work", "[core]\naccount = a@example.org\nproject = p\n");
        assert_eq!(
            describe(&[gcloud, import_gcloud_configuration("empty", "")]),
            [
                "configuration work -> gcloud-work exec command=gcloud,config,config-helper,--format=json,--configuration=work description=a@example.org cloud=google project=p",
                "configuration empty: it has no signed-in account",
            ]
        );
        let kube = serde_json::json!({ "users": [
            { "name": "eks", "user": { "exec": { "command": "aws", "args": ["eks", "get-token"], "env": [{ "name": "AWS_PROFILE", "value": "dev" }] } } },
            { "name": "cert", "user": { "client-certificate-data": "xx" } },
        ] });
        assert_eq!(
            describe(&import_kubeconfig(&kube)),
            [
                "user eks -> eks exec command=env,AWS_PROFILE=dev,aws,eks,get-token",
                "user cert: it has a `client-certificate-data`, which stays where it is",
            ]
        );
    }
}
