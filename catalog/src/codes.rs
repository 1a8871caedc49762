//! The diagnostics of modules and the lock; their pages are in `docs/codes/`.

use manifest::codes::Entry;
use manifest::{Code, Severity};

macro_rules! codes {
    ($($name:ident = $code:literal, $slug:literal, $severity:ident, $title:literal;)*) => {
        $(pub const $name: Code = Code($code);)*
        /// In the order of their numbers.
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
    UNKNOWN_MODULE = "PD0201", "unknown-module", Error, "a module that is not there";
    BAD_MODULE = "PD0202", "bad-module", Error, "a module file that cannot be used";
    UNKNOWN_INPUT = "PD0203", "unknown-input", Error, "an input the module does not have";
    BAD_INPUT = "PD0204", "bad-input", Error, "an input's value the module does not take";
    NO_VERSION = "PD0205", "no-such-version", Error, "a version the module does not have";
    REMOTE_MODULE = "PD0206", "remote-module", Error, "a module from elsewhere";
    BAD_LOCK = "PD0207", "bad-lock", Error, "a lock file that cannot be used";
    CHANGED_SINCE_LOCKED = "PD0208", "changed-since-locked", Warning, "a module that changed since it was locked";
    DEPRECATED = "PD0209", "deprecated-module", Warning, "a module that will go";
}
