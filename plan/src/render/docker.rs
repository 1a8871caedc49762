//! The body of the Engine API's `POST /containers/create`, hardened, with what the user wrote over it.
//!
//! A bind's source that starts with `./` or `../` is relative to the manifest's folder; the driver makes it absolute,
//! because neither this crate nor the hash may know where the checkout lies. Image, environment, labels, published
//! ports, the network and the mounts of named volumes and secrets are the driver's too.

use std::sync::LazyLock;

use manifest::Diagnostic;
use serde_json::{Map, Value as Json, json};

use super::patch::{self, ObjectPatch};
use super::{RenderedValue, Setting, engine_fields};
use crate::origin::Origin;

/// What ordinary entrypoints need to step down from root; everything else is dropped.
pub(crate) const DEFAULT_CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];
pub(crate) const DEFAULT_MEMORY_BYTES: u64 = 2 << 30;
pub(crate) const DEFAULT_PIDS_LIMIT: u64 = 2048;

/// The defaults of every container, each with its reason. Made once: thousands of services share them.
static DEFAULT_SETTINGS: LazyLock<[Setting; 5]> = LazyLock::new(|| {
    let default = |word: &str, field: &str, value: Json, reason: &'static str| {
        let (word, field) = (word.to_owned(), field.to_owned());
        Setting { manifest_key: word, field, value: RenderedValue::literal(value), origin: Origin::Default { reason } }
    };
    [
        default("security.drop", "HostConfig.CapDrop", json!(["ALL"]), "a program gets only the capabilities it needs"),
        default(
            "security.capabilities",
            "HostConfig.CapAdd",
            json!(DEFAULT_CAPABILITIES),
            "what ordinary entrypoints need to step down from root and to listen on a low port",
        ),
        default(
            "security.no_new_privileges",
            "HostConfig.SecurityOpt",
            json!(["no-new-privileges"]),
            "setuid programs inside the image cannot raise privileges",
        ),
        default(
            "size.memory",
            "HostConfig.Memory",
            json!(DEFAULT_MEMORY_BYTES),
            "a leak stops one unit, not the laptop",
        ),
        default(
            "size.pids",
            "HostConfig.PidsLimit",
            json!(DEFAULT_PIDS_LIMIT),
            "a fork bomb stops one unit, not the laptop",
        ),
    ]
});

/// A body with nothing but the defaults.
static HARDENED_BODY: LazyLock<Json> = LazyLock::new(|| {
    let mut body = Json::Object(Map::new());
    for setting in DEFAULT_SETTINGS.iter() {
        set_at(&mut body, &setting.field, setting.value.actual.clone());
    }
    body
});

/// A container being drawn: the defaults, then settings in order, later ones over earlier ones.
pub(crate) struct ContainerBuilder {
    dropped_defaults: Vec<&'static str>,
    settings: Vec<Setting>,
}

pub(crate) struct RenderedContainer {
    pub(crate) create_body: Json,
    /// The defaults that hold, or held until a setting came.
    pub(crate) defaults: Vec<&'static Setting>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// Raw fields or patches took part.
    pub(crate) off_road: bool,
}

impl ContainerBuilder {
    pub(crate) fn hardened() -> Self {
        Self { dropped_defaults: Vec::new(), settings: Vec::new() }
    }

    pub(crate) fn set(&mut self, word: &str, field: &str, value: RenderedValue, origin: Origin) {
        let (word, field) = (word.to_owned(), field.to_owned());
        self.settings.push(Setting { manifest_key: word, field, value, origin });
    }

    /// Adds to a list that defaults may have begun.
    pub(crate) fn append(&mut self, word: &str, field: &str, value: RenderedValue, origin: Origin) {
        self.set(word, &format!("{field}+"), value, origin);
    }

    /// Adds one entry to a map whose keys may hold dots.
    pub(crate) fn append_entry(&mut self, word: &str, field: &str, key: &str, value: &str, origin: Origin) {
        let entry = RenderedValue::literal(json!({ key: value }));
        self.append(word, field, entry, origin);
    }

    /// Forgets what defaults said about a field, as `privileged` does with capabilities.
    pub(crate) fn drop_default(&mut self, field: &'static str) {
        self.settings.retain(|setting| setting.field != field);
        self.dropped_defaults.push(field);
    }

    /// Typed settings, then `raw.docker`, then patches in the order of the manifest.
    pub(crate) fn finish(mut self, changes: &[ObjectPatch]) -> RenderedContainer {
        let mut body = HARDENED_BODY.clone();
        for field in &self.dropped_defaults {
            remove_at(&mut body, field);
        }
        let defaults = DEFAULT_SETTINGS
            .iter()
            .filter(|setting| !self.dropped_defaults.contains(&setting.field.as_str()))
            .collect();
        for setting in &mut self.settings {
            match setting.field.strip_suffix('+').map(str::to_owned) {
                Some(field) => {
                    append_at(&mut body, &field, &setting.value.actual);
                    setting.field = field;
                }
                None => set_at(&mut body, &setting.field, setting.value.actual.clone()),
            }
        }
        let mut diagnostics = Vec::new();
        for change in changes {
            engine_fields::check(change, &mut diagnostics);
            patch::apply(&mut body, change, &mut diagnostics);
            for touched in patch::patched_fields(change) {
                let text = get_at(&body, &touched.field).cloned().unwrap_or(Json::Null);
                self.settings.push(Setting {
                    manifest_key: format!("docker.{}", touched.field),
                    field: touched.field,
                    value: RenderedValue { actual: text, stable: touched.stable },
                    origin: touched.origin,
                });
            }
        }
        RenderedContainer {
            create_body: body,
            defaults,
            settings: self.settings,
            diagnostics,
            off_road: !changes.is_empty(),
        }
    }
}

fn set_at(body: &mut Json, field: &str, value: Json) {
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

fn remove_at(body: &mut Json, field: &str) {
    let (above, key) = field.rsplit_once('.').unwrap_or(("", field));
    let parts = above.split('.').filter(|part| !part.is_empty());
    let object = parts.into_iter().try_fold(body, |at, part| at.get_mut(part));
    if let Some(Json::Object(object)) = object {
        object.shift_remove(key);
    }
}

fn append_at(body: &mut Json, field: &str, more: &Json) {
    if let Json::Object(more) = more {
        let mut map = get_at(body, field).and_then(Json::as_object).cloned().unwrap_or_default();
        map.extend(more.clone());
        set_at(body, field, Json::Object(map));
        return;
    }
    let mut list = match get_at(body, field) {
        Some(Json::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let more = more.as_array().cloned().unwrap_or_else(|| vec![more.clone()]);
    for item in more {
        if !list.contains(&item) {
            list.push(item);
        }
    }
    set_at(body, field, Json::Array(list));
}

/// The value at a dotted path.
pub(crate) fn get_at<'a>(body: &'a Json, field: &str) -> Option<&'a Json> {
    field.split('.').try_fold(body, |at, part| match at {
        Json::Array(list) => list.get(part.parse::<usize>().ok()?),
        at => at.get(part),
    })
}
