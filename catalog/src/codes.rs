//! The diagnostic codes of modules and the lock; their pages are in `docs/codes/`.

use manifest::codes::Entry;
use manifest::{Code, Severity};

macro_rules! codes {
    ($($name:ident = $code:literal, $slug:literal, $severity:ident, $title:literal;)*) => {
        $(pub const $name: Code = Code($code);)*
        /// In numerical order.
        pub const ALL: &[Entry] = &[$(Entry {
            code: $name,
            slug: $slug,
            title: $title,
            severity: Severity::$severity,
            page: include_str!(concat!("../../docs/codes/", $code, ".md")),
        }),*];
    };
}

codes! {
    UNKNOWN_MODULE = "PD0201", "unknown-module", Error, "an unknown module";
    BAD_MODULE = "PD0202", "bad-module", Error, "a module file that cannot be used";
    UNKNOWN_INPUT = "PD0203", "unknown-input", Error, "an unknown input of a module";
    BAD_INPUT = "PD0204", "bad-input", Error, "an invalid value of a module's input";
    NO_VERSION = "PD0205", "no-such-version", Error, "an unknown version of a module";
    REMOTE_MODULE = "PD0206", "remote-module", Error, "a remote module";
    BAD_LOCK = "PD0207", "bad-lock", Error, "a lock file that cannot be used";
    CHANGED_SINCE_LOCKED = "PD0208", "changed-since-locked", Warning, "a module that changed since it was locked";
    DEPRECATED = "PD0209", "deprecated-module", Warning, "a deprecated module";
}
