//! The body of the Engine API's `POST /containers/create`, hardened, with what the user wrote over it.
//!
//! A bind's source that starts with `./` or `../` is relative to the manifest's folder; the driver makes it absolute,
//! because neither this crate nor the hash may know where the checkout lies. Image, environment, labels, published
//! ports, the network and the mounts of named volumes and secrets are the driver's too.

use std::sync::LazyLock;

use manifest::Diagnostic;
use serde_json::{Map, Value as Json, json};

use super::merge::{self, Change};
use super::{Dual, Setting, fields};
use crate::origin::Origin;

/// What ordinary entrypoints need to step down from root; everything else is dropped.
pub(crate) const CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];
pub(crate) const MEMORY: u64 = 2 << 30;
pub(crate) const PIDS: u64 = 2048;

/// The defaults of every container, each with its reason. Made once: thousands of services share them.
static DEFAULTS: LazyLock<[Setting; 5]> = LazyLock::new(|| {
    let default = |word: &str, field: &str, value: Json, reason: &'static str| {
        let (word, field) = (word.to_owned(), field.to_owned());
        Setting { word, field, value: Dual::same(value), origin: Origin::Default { reason } }
    };
    [
        default("security.drop", "HostConfig.CapDrop", json!(["ALL"]), "a program gets only the capabilities it needs"),
        default(
            "security.capabilities",
            "HostConfig.CapAdd",
            json!(CAPABILITIES),
            "what ordinary entrypoints need to step down from root and to listen on a low port",
        ),
        default(
            "security.no_new_privileges",
            "HostConfig.SecurityOpt",
            json!(["no-new-privileges"]),
            "setuid programs inside the image cannot raise privileges",
        ),
        default("size.memory", "HostConfig.Memory", json!(MEMORY), "a leak stops one unit, not the laptop"),
        default("size.pids", "HostConfig.PidsLimit", json!(PIDS), "a fork bomb stops one unit, not the laptop"),
    ]
});

/// A body with nothing but the defaults.
static HARDENED: LazyLock<Json> = LazyLock::new(|| {
    let mut body = Json::Object(Map::new());
    for setting in DEFAULTS.iter() {
        put(&mut body, &setting.field, setting.value.text.clone());
    }
    body
});

/// A container being drawn: the defaults, then settings in order, later ones over earlier ones.
pub(crate) struct Drawing {
    forgotten: Vec<&'static str>,
    settings: Vec<Setting>,
}

pub(crate) struct Drawn {
    pub(crate) create: Json,
    /// The defaults that hold, or held until a setting came.
    pub(crate) defaults: Vec<&'static Setting>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Raw fields or patches took part.
    pub(crate) off_road: bool,
}

impl Drawing {
    pub(crate) fn hardened() -> Self {
        Self { forgotten: Vec::new(), settings: Vec::new() }
    }

    pub(crate) fn set(&mut self, word: &str, field: &str, value: Dual, origin: Origin) {
        let (word, field) = (word.to_owned(), field.to_owned());
        self.settings.push(Setting { word, field, value, origin });
    }

    /// Adds to a list that defaults may have begun.
    pub(crate) fn append(&mut self, word: &str, field: &str, value: Dual, origin: Origin) {
        self.set(word, &format!("{field}+"), value, origin);
    }

    /// Adds one entry to a map whose keys may hold dots.
    pub(crate) fn append_entry(&mut self, word: &str, field: &str, key: &str, value: &str, origin: Origin) {
        let entry = Dual::same(json!({ key: value }));
        self.append(word, field, entry, origin);
    }

    /// Forgets what defaults said about a field, as `privileged` does with capabilities.
    pub(crate) fn forget(&mut self, field: &'static str) {
        self.settings.retain(|setting| setting.field != field);
        self.forgotten.push(field);
    }

    /// Typed settings, then `raw.docker`, then patches in the order of the manifest.
    pub(crate) fn finish(mut self, changes: &[Change]) -> Drawn {
        let mut body = HARDENED.clone();
        for field in &self.forgotten {
            remove(&mut body, field);
        }
        let defaults = DEFAULTS.iter().filter(|setting| !self.forgotten.contains(&setting.field.as_str())).collect();
        for setting in &mut self.settings {
            match setting.field.strip_suffix('+').map(str::to_owned) {
                Some(field) => {
                    append_at(&mut body, &field, &setting.value.text);
                    setting.field = field;
                }
                None => put(&mut body, &setting.field, setting.value.text.clone()),
            }
        }
        let mut diagnostics = Vec::new();
        for change in changes {
            fields::check(change, &mut diagnostics);
            merge::apply(&mut body, change, &mut diagnostics);
            for touched in merge::touched(change) {
                let text = lookup(&body, &touched.field).cloned().unwrap_or(Json::Null);
                self.settings.push(Setting {
                    word: format!("docker.{}", touched.field),
                    field: touched.field,
                    value: Dual { text, stable: touched.stable },
                    origin: touched.origin,
                });
            }
        }
        Drawn { create: body, defaults, settings: self.settings, diagnostics, off_road: !changes.is_empty() }
    }
}

fn put(body: &mut Json, field: &str, value: Json) {
    let mut at = body;
    for part in field.split('.') {
        if !at.is_object() {
            *at = Json::Object(Map::new());
        }
        let Json::Object(object) = at else { return };
        at = object.entry(part).or_insert(Json::Null);
    }
    *at = value;
}

fn remove(body: &mut Json, field: &str) {
    let (above, key) = field.rsplit_once('.').unwrap_or(("", field));
    let parts = above.split('.').filter(|part| !part.is_empty());
    let object = parts.into_iter().try_fold(body, |at, part| at.get_mut(part));
    if let Some(Json::Object(object)) = object {
        object.shift_remove(key);
    }
}

fn append_at(body: &mut Json, field: &str, more: &Json) {
    if let Json::Object(more) = more {
        let mut map = lookup(body, field).and_then(Json::as_object).cloned().unwrap_or_default();
        map.extend(more.clone());
        put(body, field, Json::Object(map));
        return;
    }
    let mut list = match lookup(body, field) {
        Some(Json::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let more = more.as_array().cloned().unwrap_or_else(|| vec![more.clone()]);
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
    put(body, field, Json::Array(list));
}

/// The value at a dotted path.
pub(crate) fn lookup<'a>(body: &'a Json, field: &str) -> Option<&'a Json> {
    field.split('.').try_fold(body, |at, part| match at {
        Json::Array(list) => list.get(part.parse::<usize>().ok()?),
        at => at.get(part),
    })
}
