//! Builds the body of the Engine API's `POST /containers/create`: hardened defaults, overridden by the user's settings.
//!
//! A bind source that starts with `./` or `../` is relative to the manifest's folder. The driver makes it absolute,
//! because neither this crate nor the hash may depend on the location of the checkout. The driver also adds the image,
//! environment, labels, published ports, network, and the mounts of named volumes and secrets.

use std::sync::LazyLock;

use manifest::Diagnostic;
use serde_json::{Map, Value as Json, json};

use super::patch::{self, ObjectPatch};
use super::{RenderedValue, Setting, engine_fields};
use crate::origin::Origin;

/// The capabilities that common entrypoints need to switch from root to another user. All others are dropped.
pub(crate) const DEFAULT_CAPABILITIES: [&str; 7] =
    ["CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "NET_BIND_SERVICE", "SETGID", "SETUID"];
pub(crate) const DEFAULT_MEMORY_BYTES: u64 = 2 << 30;
pub(crate) const DEFAULT_PIDS_LIMIT: u64 = 2048;

/// The defaults of every container, each with its reason. Created once, because thousands of services share them.
static DEFAULT_SETTINGS: LazyLock<[Setting; 5]> = LazyLock::new(|| {
    let default = |manifest_key: &str, field: &str, value: Json, reason: &'static str| {
        let (manifest_key, field) = (manifest_key.to_owned(), field.to_owned());
        Setting { manifest_key, field, value: RenderedValue::literal(value), origin: Origin::Default { reason } }
    };
    [
        default("security.drop", "HostConfig.CapDrop", json!(["ALL"]), "a program gets only the capabilities it needs"),
        default(
            "security.capabilities",
            "HostConfig.CapAdd",
            json!(DEFAULT_CAPABILITIES),
            "common entrypoints need them to switch from root to another user and to listen on a low port",
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

/// A body that contains only the defaults.
static HARDENED_BODY: LazyLock<Json> = LazyLock::new(|| {
    let mut body = Json::Object(Map::new());
    for setting in DEFAULT_SETTINGS.iter() {
        set_at(&mut body, &setting.field, setting.value.actual.clone());
    }
    body
});

/// Collects the settings of a container. They apply on top of the defaults, later ones over earlier ones.
pub(crate) struct ContainerBuilder {
    dropped_defaults: Vec<&'static str>,
    settings: Vec<Setting>,
}

pub(crate) struct RenderedContainer {
    pub(crate) create_body: Json,
    /// The defaults that were not dropped. A setting may have overridden them.
    pub(crate) defaults: Vec<&'static Setting>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) diagnostics: Vec<Diagnostic>,
    /// True if `raw` or patches were applied.
    pub(crate) off_road: bool,
}

impl ContainerBuilder {
    pub(crate) fn hardened() -> Self {
        Self { dropped_defaults: Vec::new(), settings: Vec::new() }
    }

    pub(crate) fn set(&mut self, manifest_key: &str, field: &str, value: RenderedValue, origin: Origin) {
        let (manifest_key, field) = (manifest_key.to_owned(), field.to_owned());
        self.settings.push(Setting { manifest_key, field, value, origin });
    }

    /// Appends to a list or map that may have default entries.
    pub(crate) fn append(&mut self, manifest_key: &str, field: &str, value: RenderedValue, origin: Origin) {
        // `finish` recognises an append by the suffix `+`.
        self.set(manifest_key, &format!("{field}+"), value, origin);
    }

    /// Adds one entry to a map whose keys may contain dots.
    pub(crate) fn append_entry(&mut self, manifest_key: &str, field: &str, key: &str, value: &str, origin: Origin) {
        let entry = RenderedValue::literal(json!({ key: value }));
        self.append(manifest_key, field, entry, origin);
    }

    /// Removes the default of a field and all settings of it so far, as `privileged` does with capabilities.
    pub(crate) fn drop_default(&mut self, field: &'static str) {
        self.settings.retain(|setting| setting.field != field);
        self.dropped_defaults.push(field);
    }

    /// Applies typed settings first, then `changes`: `raw.docker` and the patches in the order of the manifest.
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
            for patched in patch::patched_fields(change) {
                let actual = get_at(&body, &patched.field).cloned().unwrap_or(Json::Null);
                self.settings.push(Setting {
                    manifest_key: format!("docker.{}", patched.field),
                    field: patched.field,
                    value: RenderedValue { actual, stable: patched.stable },
                    origin: patched.origin,
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

fn append_at(body: &mut Json, field: &str, addition: &Json) {
    if let Json::Object(addition) = addition {
        let mut map = get_at(body, field).and_then(Json::as_object).cloned().unwrap_or_default();
        map.extend(addition.clone());
        set_at(body, field, Json::Object(map));
        return;
    }
    let mut list = match get_at(body, field) {
        Some(Json::Array(list)) => list.clone(),
        _ => Vec::new(),
    };
    let addition = addition.as_array().cloned().unwrap_or_else(|| vec![addition.clone()]);
    for item in addition {
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
