//! Sessions on a machine that is a table, and what each kind of identity gives them.

use std::collections::BTreeMap;

use super::rule::{SessionAccess, decide_access};
use super::*;
use crate::approval::ancestry::Process;
use crate::approval::identity_digest;
use crate::identity::{Identity, read};

#[derive(Default)]
struct FakeProcesses(BTreeMap<i32, Process>);

impl FakeProcesses {
    /// A shell (10), `pdev session run` (20) and its guard (21), the agent (30) and a tool of it (31); another shell (40).
    fn new() -> Self {
        let mut table = Self::default();
        for (pid, parent) in [(10, 1), (20, 10), (21, 20), (30, 21), (31, 30), (40, 1)] {
            table.add(pid, parent, u64::try_from(pid).unwrap());
        }
        table
    }

    fn add(&mut self, pid: i32, parent: i32, start: u64) {
        let name = "x".to_owned();
        self.0.insert(pid, Process { pid, parent, start, terminal: 0, session: pid, name, has_ended: false });
    }
}

impl ProcessTable for FakeProcesses {
    fn process(&self, pid: i32) -> Option<Process> {
        self.0.get(&pid).cloned()
    }

    fn terminal_master(&self, _: u64) -> Option<i32> {
        None
    }

    fn is_language_server(&self, _: i32) -> bool {
        false
    }
}

fn session_spec() -> SessionSpec {
    SessionSpec { name: "claude".into(), duration_milliseconds: 60_000, identities: Vec::new() }
}

fn begin_session(
    known: BTreeMap<String, String>,
    wish: SessionSpec,
) -> (tempfile::TempDir, Sessions, Session, FakeProcesses) {
    let (folder, table) = (tempfile::tempdir().unwrap(), FakeProcesses::new());
    let sessions = Sessions::open(folder.path().join("sessions.json"), &table);
    let session = sessions.begin(wish, (21, Some(20)), known, &table, 0).unwrap();
    (folder, sessions, session, table)
}

#[test]
fn processes_below_guard_belong_to_session() {
    let (folder, sessions, session, mut table) = begin_session(BTreeMap::new(), session_spec());
    let belongs = |sessions: &Sessions, pid: i32, table: &FakeProcesses| {
        sessions.find_by_process(pid, table).map(|found| found.id)
    };
    let own = Some(session.id.clone());
    for (pid, expected) in [(31, &own), (30, &own), (21, &own), (20, &own), (10, &None), (40, &None)] {
        assert_eq!(belongs(&sessions, pid, &table), *expected, "{pid}");
    }
    // The guard was killed, and its children were adopted by the process above it.
    table.0.remove(&21);
    table.add(30, 20, 30);
    assert_eq!(belongs(&sessions, 31, &table), own);
    // An agent that starts anew knows it at once.
    let again = Sessions::open(folder.path().join("sessions.json"), &table);
    assert_eq!(belongs(&again, 31, &table), own);
    // Whoever cannot be followed is none of the person's: gone since it asked, or with a parent that is gone.
    table.add(60, 59, 60);
    for pid in [59, 60] {
        assert_eq!(belongs(&again, pid, &table), own, "{pid}");
    }
    // Its number was given to another process.
    table.add(20, 10, 99);
    assert_eq!(belongs(&again, 31, &table), None);
    again.remove_dead(&table);
    assert!(again.all().is_empty());
    assert!(Sessions::open(folder.path().join("sessions.json"), &table).all().is_empty());
}

#[test]
fn nested_and_invalid_sessions_are_refused() {
    let (_folder, sessions, session, table) = begin_session(BTreeMap::new(), session_spec());
    let nested = sessions.begin(session_spec(), (31, None), BTreeMap::new(), &table, 0);
    assert_eq!(nested.unwrap_err(), SessionProblem::Nested("claude".into()));
    for (name, milliseconds, problem) in [
        ("", 60_000, SessionProblem::InvalidName(String::new())),
        ("a b", 60_000, SessionProblem::InvalidName("a b".into())),
        ("a\n", 60_000, SessionProblem::InvalidName("a\n".into())),
        ("a", 0, SessionProblem::InvalidDuration),
        ("a", i64::MAX, SessionProblem::InvalidDuration),
    ] {
        let wish = SessionSpec { name: name.into(), duration_milliseconds: milliseconds, identities: Vec::new() };
        assert_eq!(sessions.begin(wish, (40, None), BTreeMap::new(), &table, 0).unwrap_err(), problem);
    }
    assert_eq!(sessions.find_by_id_or_name("claude").unwrap().id, session.id);
    assert_eq!(sessions.find_by_id_or_name(&session.id).unwrap().id, session.id);
    assert!(sessions.end(&session.id) && !sessions.end(&session.id));
    assert!(
        sessions.find_by_process(31, &table).unwrap().is_over(0),
        "who belongs to an ended session is not taken for a person"
    );
}

const IDENTITIES_TOML: &str = r#"
[base]
source = "static"
kind = "token"
[hub]
source = "static"
kind = "token"
production = true
[role]
source = "aws-role"
from = "base"
role_arn = "arn:aws:iam::1:role/x"
[over-hub]
source = "aws-role"
from = "hub"
role_arn = "arn:aws:iam::1:role/x"
[coded]
source = "aws-role"
from = "base"
role_arn = "arn:aws:iam::1:role/x"
mfa_serial = "arn:aws:iam::1:mfa/me"
[all]
source = "exec"
command = ["x"]
sessions = "full"
[prod-all]
source = "exec"
command = ["x"]
sessions = "full"
production = true
[not]
source = "google"
sessions = "none"
[google]
source = "google"
production = false
"#;

/// What the session is given of an identity: `full`, `bound`, or the code of the rule.
fn access_of(session: &Session, name: &str, raised: bool, now: i64) -> &'static str {
    let (identities, findings) = read(IDENTITIES_TOML);
    assert!(findings.is_empty(), "{findings:?}");
    let mut own: Vec<Identity> = vec![identities.get(name).unwrap().clone()];
    own.extend(own[0].text("from").and_then(|from| identities.get(from)).cloned());
    match decide_access(session, &own, raised, now) {
        Ok(SessionAccess::Full) => "full",
        Ok(SessionAccess::Restricted(bound)) => {
            assert_eq!((bound.session, bound.until), (session.id.clone(), session.until));
            "bound"
        }
        Err(problem) => {
            assert!(problem.hint.is_some(), "{problem:?}");
            problem.code
        }
    }
}

#[test]
fn access_depends_on_identity_and_session() {
    let known: BTreeMap<String, String> = read(IDENTITIES_TOML)
        .0
        .all
        .values()
        .map(|identity| (identity.name.clone(), identity_digest(identity)))
        .collect();
    let (_folder, _, session, _) = begin_session(known.clone(), session_spec());
    for (name, expected) in [
        ("base", "session_not_narrow"),
        ("hub", "session_production"),
        ("role", "bound"),
        ("over-hub", "session_production"),
        ("all", "full"),
        ("coded", "session_not_narrow"),
        ("prod-all", "session_production"),
        ("not", "session_refused"),
        ("google", "bound"),
    ] {
        assert_eq!(access_of(&session, name, false, 0), expected, "{name}");
        assert_eq!(access_of(&session, name, true, 0), "full", "{name}: a person's word counts");
        assert_eq!(access_of(&session, name, true, 60_000), "session_over", "{name}: and not beyond the session");
    }
    let listed = Session { identities: vec!["google".into()], ..session.clone() };
    assert_eq!(access_of(&listed, "google", false, 0), "bound");
    assert_eq!(access_of(&listed, "role", false, 0), "session_not_listed");
    // Written by a program of the session itself.
    for changed in ["role", "base"] {
        let mut known = known.clone();
        known.insert(changed.into(), "other".into());
        assert_eq!(
            access_of(&Session { identity_digests: known, ..session.clone() }, "role", false, 0),
            "session_changed",
            "{changed}"
        );
    }
    let ended = Session { has_ended: true, ..session };
    assert_eq!(access_of(&ended, "google", false, 0), "session_over");
}
