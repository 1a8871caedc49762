//! All diagnostic codes of this crate. A code never changes its meaning; its page is in `docs/codes/`.

use crate::diagnostic::{Code, Severity};

pub struct Entry {
    pub code: Code,
    pub slug: &'static str,
    pub title: &'static str,
    pub severity: Severity,
    pub page: &'static str,
}

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
    SYNTAX = "PD0101", "syntax", Error, "text that is not YAML";
    DUPLICATE_KEY = "PD0102", "duplicate-key", Error, "a duplicate key";
    NOT_UTF8 = "PD0103", "not-utf8", Error, "bytes that are not UTF-8";
    MULTIPLE_DOCUMENTS = "PD0104", "several-documents", Error, "more than one document";
    TOO_BIG = "PD0105", "too-big", Error, "nesting or aliases beyond the limits";
    MERGE_CONFLICT = "PD0106", "merge-conflict", Error, "an unresolved merge conflict";
    UNREADABLE = "PD0107", "unreadable-file", Error, "a file that cannot be read";
    INCLUDE_CYCLE = "PD0108", "include-cycle", Error, "files that include one another";
    UNKNOWN_KEY = "PD0110", "unknown-key", Error, "an unknown key";
    WRONG_TYPE = "PD0111", "wrong-type", Error, "a value of the wrong kind";
    BAD_VALUE = "PD0112", "bad-value", Error, "a value that is not allowed";
    MISSING_KEY = "PD0113", "missing-key", Error, "a missing key";
    BAD_NAME = "PD0114", "bad-name", Error, "a name that cannot be a label";
    OLD_BOOLEAN = "PD0115", "old-boolean", Warning, "a word that is a boolean in YAML 1.1";
    BAD_TEMPLATE = "PD0116", "bad-placeholder", Error, "a placeholder that cannot be read";
    TEMPLATE_BRACES = "PD0117", "foreign-template", Error, "another tool's template braces";
    UNKNOWN_ENVIRONMENT = "PD0118", "unknown-environment", Error, "an environment that is not declared";
    NOTHING_TO_RUN = "PD0120", "nothing-to-run", Error, "a service without image, build or command";
    UNKNOWN_NEED = "PD0121", "unknown-need", Error, "an unknown unit in `needs`";
    NEEDS_CYCLE = "PD0122", "needs-cycle", Error, "units that wait for one another";
    UNKNOWN_PORT = "PD0123", "unknown-port", Error, "a probe of an unknown port";
    SAME_ROUTE = "PD0124", "same-route", Error, "two services with one route";
    SAME_HOST_PORT = "PD0125", "same-host-port", Error, "two units with one fixed port";
    SAME_NAME = "PD0126", "same-name", Error, "two units with one name";
    UNKNOWN_JOB_SERVICE = "PD0127", "unknown-job-service", Error, "a job of an unknown service";
    ESCAPING_PATH = "PD0128", "escaping-path", Error, "a path outside the project";
    BLOCKED_PORT = "PD0129", "blocked-port", Warning, "a port that browsers refuse";
    UNDECLARED = "PD0130", "undeclared", Error, "a secret or identity that is not declared";
    SECRET_LITERAL = "PD0131", "secret-literal", Warning, "a secret written into the manifest";
    MORE_FINDINGS = "PD0199", "more", Info, "more findings than are shown";
}

/// The page of a code or slug: the Markdown text of its file in `docs/codes/`.
#[must_use]
pub fn page(code: &str) -> Option<&'static str> {
    ALL.iter().find(|entry| entry.code.0.eq_ignore_ascii_case(code) || entry.slug == code).map(|entry| entry.page)
}
