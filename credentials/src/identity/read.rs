//! Parses `identities.toml`. All problems are reported at once, and an invalid identity does not hide the others.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use strings::nearest;
use toml_edit::{Document, Item, Table};

use super::kinds::{COMMON_FIELDS, Field, FieldType, SOURCE_KINDS, SourceKind, find_source_kind};
use super::{ApprovalPolicy, Identity, Value, is_valid_name};

/// A problem of the file, with its line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub line: usize,
    pub message: String,
    pub hint: Option<String>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identities {
    pub all: BTreeMap<String, Identity>,
    /// Invalid identities, whose names are known nevertheless.
    pub broken: Vec<String>,
    pub approval: ApprovalPolicy,
}

impl Identities {
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Identity> {
        self.all.get(name)
    }

    /// The identity that a user signs in to for this one: itself, or one that it is built on. `None` if none of them has a
    /// login.
    #[must_use]
    pub fn login_identity(&self, name: &str) -> Option<&Identity> {
        let mut identity = self.get(name)?;
        // The reader refuses cycles; the bound only keeps a mistake there from becoming an endless loop.
        for _ in 0..=self.all.len() {
            if identity.needs_login() || identity.secret_description().is_some() {
                return Some(identity);
            }
            identity = self.get(identity.text("from")?)?;
        }
        None
    }

    /// The known name closest to a misspelt one.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Option<&str> {
        nearest(name, self.all.keys().map(String::as_str))
    }
}

struct Reader<'a> {
    text: &'a str,
    findings: Vec<Finding>,
}

/// Parses the text of the file. Returns its identities and problems.
#[must_use]
pub fn read(text: &str) -> (Identities, Vec<Finding>) {
    let mut reader = Reader { text, findings: Vec::new() };
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => {
            reader.add_finding(error.span(), format!("no TOML: {}", error.message().replace('\n', ", ")), None);
            return (Identities::default(), reader.findings);
        }
    };
    let mut identities = Identities::default();
    for (name, item) in document.as_table() {
        let span = document.as_table().key(name).and_then(toml_edit::Key::span);
        // An identity may have this name.
        if name == "approval" && !item.is_table() {
            identities.approval = reader.read_approval_policy(item, span);
            continue;
        }
        match reader.read_identity(name, item, span) {
            Some(identity) => drop(identities.all.insert(name.to_owned(), identity)),
            None => identities.broken.push(name.to_owned()),
        }
    }
    reader.check_references(&mut identities, document.as_table());
    (identities, reader.findings)
}

impl Reader<'_> {
    fn add_finding(&mut self, span: Option<Range<usize>>, message: String, hint: Option<String>) {
        let offset = span.map_or(0, |span| span.start).min(self.text.len());
        let line = self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
        self.findings.push(Finding { line, message, hint });
    }

    /// A wrong value counts as the strict one.
    fn read_approval_policy(&mut self, item: &Item, span: Option<Range<usize>>) -> ApprovalPolicy {
        match item.as_str() {
            Some("normal") => return ApprovalPolicy::Normal,
            Some("strict") => {}
            _ => {
                let message = "`approval` is neither `\"strict\"` nor `\"normal\"`, and counts as strict".to_owned();
                self.add_finding(item.span().or(span), message, None);
            }
        }
        ApprovalPolicy::Strict
    }

    fn read_identity(&mut self, name: &str, item: &Item, span: Option<Range<usize>>) -> Option<Identity> {
        if !is_valid_name(name) {
            let hint = "Use up to 64 lower-case letters, digits, `.`, `-` and `_`.";
            self.add_finding(span, format!("`{name}` is no name for an identity"), Some(hint.to_owned()));
            return None;
        }
        let Some(table) = item.as_table() else {
            self.add_finding(
                span,
                format!("`{name}` is no table"),
                Some(format!("Write `[{name}]` and its fields below.")),
            );
            return None;
        };
        let kind = self.read_source(name, table, span.clone())?;
        let findings_before = self.findings.len();
        let mut fields = BTreeMap::new();
        for (key, value) in table.iter().filter(|(key, _)| *key != "source") {
            let key_span = table.key(key).and_then(toml_edit::Key::span);
            let Some(field) = kind.field(key) else {
                let known = kind.fields.iter().chain(COMMON_FIELDS).map(|field| field.name);
                let hint = match nearest(key, known.clone()) {
                    Some(near) => format!("Did you mean `{near}`?"),
                    None => format!("Allowed are {}.", quoted_list(known)),
                };
                self.add_finding(key_span, format!("`{key}` is no field of `source = \"{}\"`", kind.name), Some(hint));
                continue;
            };
            match read_value(field, value) {
                Ok(value) => drop(fields.insert(key.to_owned(), value)),
                Err(message) => self.add_finding(value.span().or(key_span), format!("`{name}.{key}`: {message}"), None),
            }
        }
        for field in kind.fields.iter().filter(|field| field.is_required && !table.contains_key(field.name)) {
            let hint = format!("Add `{} = ...`: {}", field.name, field.doc);
            self.add_finding(span.clone(), format!("`{name}` has no `{}`", field.name), Some(hint));
        }
        let needs_access_key_id = kind.name == "static" && fields.get("kind") == Some(&Value::Text("aws".to_owned()));
        if needs_access_key_id && !fields.contains_key("access_key_id") {
            let hint = "Add `access_key_id = \"AKIA...\"`; run `pdev login` to store the secret half in the vault.";
            self.add_finding(span, format!("`{name}` has no `access_key_id`"), Some(hint.to_owned()));
        }
        let is_valid = self.findings.len() == findings_before;
        is_valid.then(|| Identity { name: name.to_owned(), kind: kind.name, fields })
    }

    fn read_source(&mut self, name: &str, table: &Table, span: Option<Range<usize>>) -> Option<&'static SourceKind> {
        let known = || SOURCE_KINDS.iter().map(|kind| kind.name);
        let Some(item) = table.get("source") else {
            let hint = format!("Add `source = ...`, one of {}.", quoted_list(known()));
            self.add_finding(span, format!("`{name}` has no `source`"), Some(hint));
            return None;
        };
        let found = item.as_str().and_then(find_source_kind);
        if found.is_none() {
            let name = item.as_str().unwrap_or("that");
            let hint = match nearest(name, known()) {
                Some(near) => format!("Did you mean `{near}`?"),
                None => format!("Allowed are {}.", quoted_list(known())),
            };
            self.add_finding(item.span().or(span), format!("`{name}` is no source"), Some(hint));
        }
        found
    }

    /// Checks that `from` names an identity, and that no chain is a cycle.
    fn check_references(&mut self, identities: &mut Identities, table: &Table) {
        let mut invalid = Vec::new();
        for (name, identity) in &identities.all {
            let span = || table.get(name).and_then(|item| item.get("from")).and_then(Item::span);
            let Some(from) = identity.text("from") else { continue };
            if !identities.all.contains_key(from) && !identities.broken.iter().any(|broken| broken == from) {
                let hint = identities.nearest(from).map(|near| format!("Did you mean `{near}`?"));
                invalid.push((name.clone(), span(), format!("`{name}.from`: there is no identity `{from}`"), hint));
                continue;
            }
            let mut current = from;
            // Bounded, because a cycle that does not include `name` would never end the loop.
            for _ in 0..=identities.all.len() {
                if current == name {
                    let hint = "Let the chain start with an identity without `from`.".to_owned();
                    invalid.push((name.clone(), span(), format!("`{name}` comes from itself"), Some(hint)));
                    break;
                }
                match identities.all.get(current).and_then(|next| next.text("from")) {
                    Some(next) => current = next,
                    None => break,
                }
            }
        }
        for (name, span, message, hint) in invalid {
            identities.all.remove(&name);
            identities.broken.push(name);
            self.add_finding(span, message, hint);
        }
    }
}

fn read_value(field: &Field, item: &Item) -> Result<Value, String> {
    match field.field_type {
        FieldType::List => {
            let list = item.as_array().ok_or("not a list of texts")?;
            let texts: Option<Vec<String>> = list.iter().map(|value| value.as_str().map(str::to_owned)).collect();
            let texts = texts.ok_or("not a list of texts")?;
            if texts.is_empty() { Err("an empty list".to_owned()) } else { Ok(Value::List(texts)) }
        }
        FieldType::Flag => match item.as_bool() {
            Some(flag) => Ok(Value::Flag(flag)),
            None => Err("neither `true` nor `false`".to_owned()),
        },
        FieldType::Port => match item.as_integer() {
            Some(port @ 1..=65535) => Ok(Value::Number(port)),
            _ => Err("not a port from 1 to 65535".to_owned()),
        },
        _ => {
            let text = item.as_str().ok_or("not a text in quotes")?;
            check_text(field.field_type, text)?;
            Ok(Value::Text(text.to_owned()))
        }
    }
}

/// Parses a field from the command line: `a,b` for lists.
pub(super) fn parse_argument(field: &Field, text: &str) -> Result<Value, String> {
    match field.field_type {
        FieldType::List => Ok(Value::List(text.split(',').map(|part| part.trim().to_owned()).collect())),
        FieldType::Port => match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Value::Number(port.into())),
            _ => Err(format!("`{text}` is no port from 1 to 65535")),
        },
        FieldType::Flag => text.parse().map(Value::Flag).map_err(|_| format!("`{text}` is neither `true` nor `false`")),
        field_type => check_text(field_type, text).map(|()| Value::Text(text.to_owned())),
    }
}

fn check_text(field_type: FieldType, text: &str) -> Result<(), String> {
    match field_type {
        _ if text.trim().is_empty() => Err("is empty".to_owned()),
        _ if text.chars().any(char::is_control) => Err("has control characters".to_owned()),
        FieldType::Url if !is_safe_url(text) => {
            Err(format!("`{text}` is no `https://` URL (`http://` only for 127.0.0.1 and localhost)"))
        }
        FieldType::Duration if parse_duration(text).is_none() => {
            Err(format!("`{text}` is no duration such as `30s`, `15m` or `1h`"))
        }
        FieldType::Choice(allowed) if !allowed.contains(&text) => {
            let near = nearest(text, allowed.iter().copied()).map(|near| format!("; did you mean `{near}`?"));
            Err(format!("`{text}` is none of {}{}", quoted_list(allowed.iter().copied()), near.unwrap_or_default()))
        }
        FieldType::Variable if !is_variable(text) => {
            Err(format!("`{text}` is no name of a variable such as `GITHUB_TOKEN`"))
        }
        FieldType::Identity if !is_valid_name(text) => Err(format!("`{text}` is no name of an identity")),
        _ => Ok(()),
    }
}

/// Whether a credential may go into this variable. Variables that change how programs are found or loaded are excluded.
fn is_variable(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_';
    let affects_loading = text == "PATH" || text.starts_with("LD_") || text.starts_with("DYLD_");
    text.bytes().all(is_allowed) && !text.starts_with(|letter: char| letter.is_ascii_digit()) && !affects_loading
}

/// Whether secrets may be sent to this URL: HTTPS, or plain HTTP on the loopback only.
pub(crate) fn is_safe_url(text: &str) -> bool {
    let Ok(url) = text.parse::<http::Uri>() else { return false };
    match (url.scheme_str(), url.host()) {
        (Some("https"), Some(host)) => !host.is_empty(),
        (Some("http"), Some(host)) => matches!(host, "127.0.0.1" | "[::1]" | "localhost"),
        _ => false,
    }
}

/// `30s`, `15m`, `1h`.
pub(crate) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit())?;
    let count: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        _ => return None,
    };
    Some(Duration::from_secs(count.checked_mul(unit)?)).filter(|duration| !duration.is_zero())
}

pub(crate) fn quoted_list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn describe_findings(text: &str) -> Vec<String> {
        let (_, findings) = read(text);
        let describe = |finding: &Finding| {
            format!(
                "{}: {}{}",
                finding.line,
                finding.message,
                finding.hint.as_ref().map_or(String::new(), |hint| format!(" | {hint}"))
            )
        };
        findings.iter().map(describe).collect()
    }

    #[test]
    fn login_is_that_of_the_identity_below() {
        let role = |name: &str, from: &str, extra: &str| {
            let arn = "arn:aws:iam::123456789012:role/x";
            format!("[{name}]\nsource = \"aws-role\"\nfrom = \"{from}\"\nrole_arn = \"{arn}\"\n{extra}")
        };
        let sso = "[base]\nsource = \"aws-sso\"\nstart_url = \"https://shop.awsapps.com/start\"\nregion = \"eu-central-1\"\n\
                   account = \"123456789012\"\nrole = \"Developer\"\n[script]\nsource = \"exec\"\ncommand = [\"x\"]\ncloud = \"aws\"\n";
        let mfa = "mfa_serial = \"arn:aws:iam::123456789012:mfa/me\"\n";
        let roles = [
            role("admin", "base", ""),
            role("deep", "admin", ""),
            role("code", "base", mfa),
            role("local", "script", ""),
        ];
        let (identities, findings) = read(&format!("{sso}{}", roles.concat()));
        assert!(findings.is_empty(), "{findings:?}");
        for (name, expected) in [
            ("base", Some("base")),
            ("admin", Some("base")),
            ("deep", Some("base")),
            ("code", Some("code")),
            ("local", None),
            ("absent", None),
        ] {
            assert_eq!(identities.login_identity(name).map(|identity| identity.name.as_str()), expected, "{name}");
        }
    }

    #[test]
    fn valid_file_is_read() {
        let (identities, findings) = read(
            "# mine\n[shop-dev]\nsource = \"aws-sso\"\nstart_url = \"https://shop.awsapps.com/start\"\nregion = \"eu-central-1\"\n\
             account = \"123456789012\"\nrole = \"Developer\"\n\n[shop-admin]\nsource = \"aws-role\"\nfrom = \"shop-dev\"\n\
             role_arn = \"arn:aws:iam::123456789012:role/admin\"\nduration = \"15m\"\n",
        );
        assert_eq!(findings, []);
        let admin = identities.get("shop-admin").unwrap();
        assert_eq!((admin.kind, admin.text("from")), ("aws-role", Some("shop-dev")));
        assert_eq!(admin.duration("duration"), Some(Duration::from_secs(900)));
        assert!(identities.get("shop-dev").unwrap().needs_login());
        assert_eq!(identities.nearest("shop-dve"), Some("shop-dev"));
    }

    #[test]
    fn each_mistake_has_its_line_and_hint() {
        for (text, expected) in [
            ("[a\n", "1: no TOML: "),
            ("\n[a]\n", "2: `a` has no `source` | Add `source = ...`, one of `exec`, "),
            ("[a]\nsource = \"aws-ssso\"\n", "2: `aws-ssso` is no source | Did you mean `aws-sso`?"),
            (
                "[a]\nsource = \"exec\"\ncommand = [\"x\"]\ntimout = \"3s\"\n",
                "4: `timout` is no field of `source = \"exec\"` | Did you mean `timeout`?",
            ),
            ("[a]\nsource = \"exec\"\n", "1: `a` has no `command` | Add `command = ...`: "),
            ("[a]\nsource = \"exec\"\ncommand = \"ls -l\"\n", "3: `a.command`: not a list of texts"),
            ("[a]\nsource = \"exec\"\ncommand = []\n", "3: `a.command`: an empty list"),
            (
                "[a]\nsource = \"exec\"\ncommand = [\"x\"]\ntimeout = \"soon\"\n",
                "4: `a.timeout`: `soon` is no duration",
            ),
            ("[A]\nsource = \"exec\"\n", "1: `A` is no name for an identity | "),
            ("a = 1\n", "1: `a` is no table | Write `[a]`"),
            ("[a]\nsource = \"static\"\nkind = \"aws\"\n", "1: `a` has no `access_key_id` | "),
            (
                "[a]\nsource = \"static\"\nkind = \"tokn\"\n",
                "3: `a.kind`: `tokn` is none of `aws`, `token`, `password`; did you mean `token`?",
            ),
            (
                "[a]\nsource = \"oidc\"\nissuer = \"http://login.example.org\"\nclient_id = \"x\"\n",
                "3: `a.issuer`: `http://login.example.org` is no `https://` URL",
            ),
            (
                "[a]\nsource = \"oidc\"\nissuer = \"https://x\"\nclient_id = \"x\"\nport = 70000\n",
                "5: `a.port`: not a port",
            ),
            (
                "[a]\nsource = \"exec\"\ncommand = [\"x\"]\nvariable = \"LD_PRELOAD\"\n",
                "4: `a.variable`: `LD_PRELOAD` is no name of a variable",
            ),
            ("[a]\nsource = \"aws-role\"\nfrom = \"b\"\nrole_arn = \"r\"\n", "3: `a.from`: there is no identity `b`"),
            ("[a]\nsource = \"aws-role\"\nfrom = \"a\"\nrole_arn = \"r\"\n", "3: `a` comes from itself"),
        ] {
            let findings = describe_findings(text);
            assert!(
                findings.len() == 1 && findings[0].starts_with(expected),
                "{text}\n{findings:#?}\nexpected {expected}"
            );
        }
    }

    #[test]
    fn a_wrong_identity_does_not_hide_the_others() {
        let (identities, findings) = read("[a]\nsource = \"exec\"\n[b]\nsource = \"exec\"\ncommand = [\"b\"]\n");
        assert_eq!((identities.all.len(), findings.len(), identities.broken.as_slice()), (1, 1, &["a".to_owned()][..]));
    }

    #[test]
    fn cycle_of_two_is_reported_for_both() {
        let cycle = "[a]\nsource = \"aws-role\"\nfrom = \"b\"\nrole_arn = \"r\"\n[b]\nsource = \"aws-role\"\nfrom = \"a\"\nrole_arn = \"r\"\n";
        assert_eq!(describe_findings(cycle).len(), 2);
    }
}
