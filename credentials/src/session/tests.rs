//! Sessions on a fake machine, and the access of sessions to each kind of identity.

use std::collections::BTreeMap;

use host::processes::Process;

use super::rule::{SessionAccess, decide_access};
use super::*;
use crate::approval::identity_digest;
use crate::identity::{Identity, read};

#[derive(Default)]
struct FakeProcesses(BTreeMap<i32, Process>);

impl FakeProcesses {
    /// A shell (10), `pdev session run` (20), its guard (21), the coding agent (30), a tool of it (31), and another
    /// shell (40).
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

    fn control_group(&self, _pid: i32) -> Option<String> {
        None
    }

    fn is_system_program(&self, _pid: i32) -> bool {
        true
    }
}

fn session_spec() -> SessionSpec {
    SessionSpec { name: "claude".into(), duration_milliseconds: 60_000, identities: Vec::new() }
}

fn begin_session(
    identity_digests: BTreeMap<String, String>,
    spec: SessionSpec,
) -> (tempfile::TempDir, Sessions, Session, FakeProcesses) {
    let (folder, table) = (tempfile::tempdir().unwrap(), FakeProcesses::new());
    let sessions = Sessions::open(folder.path().join("sessions.json"), &table);
    let session = sessions.begin(spec, (21, Some(20)), identity_digests, &table, 0).unwrap();
    (folder, sessions, session, table)
}

#[test]
fn processes_below_guard_belong_to_session() {
    let (folder, sessions, session, mut table) = begin_session(BTreeMap::new(), session_spec());
    let belongs = |sessions: &Sessions, pid: i32, table: &FakeProcesses| {
        sessions.find_by_process(pid, table).map(|found| found.id)
    };
    let own_session = Some(session.id.clone());
    for (pid, expected) in
        [(31, &own_session), (30, &own_session), (21, &own_session), (20, &own_session), (10, &None), (40, &None)]
    {
        assert_eq!(belongs(&sessions, pid, &table), *expected, "{pid}");
    }
    // The guard was killed, and the process above it adopted its children.
    table.0.remove(&21);
    table.add(30, 20, 30);
    assert_eq!(belongs(&sessions, 31, &table), own_session);
    // A restarted agent knows the session at once.
    let reopened = Sessions::open(folder.path().join("sessions.json"), &table);
    assert_eq!(belongs(&reopened, 31, &table), own_session);
    // A process that cannot be followed does not count as the user's: it ended after its request, or its parent has
    // ended.
    table.add(60, 59, 60);
    for pid in [59, 60] {
        assert_eq!(belongs(&reopened, pid, &table), own_session, "{pid}");
    }
    // The process id was reused by another process.
    table.add(20, 10, 99);
    assert_eq!(belongs(&reopened, 31, &table), None);
    reopened.remove_dead(&table);
    assert!(reopened.all().is_empty());
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
        let spec = SessionSpec { name: name.into(), duration_milliseconds: milliseconds, identities: Vec::new() };
        assert_eq!(sessions.begin(spec, (40, None), BTreeMap::new(), &table, 0).unwrap_err(), problem);
    }
    assert_eq!(sessions.find_by_id_or_name("claude").unwrap().id, session.id);
    assert_eq!(sessions.find_by_id_or_name(&session.id).unwrap().id, session.id);
    assert!(sessions.end(&session.id) && !sessions.end(&session.id));
    assert!(
        sessions.find_by_process(31, &table).unwrap().is_over(0),
        "a member of an ended session counted as the user"
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

/// The access of the session: `full`, `restricted`, or the code of the rule.
fn access_of(session: &Session, name: &str, is_allowed: bool, now: i64) -> &'static str {
    let (identities, findings) = read(IDENTITIES_TOML);
    assert!(findings.is_empty(), "{findings:?}");
    let mut chain: Vec<Identity> = vec![identities.get(name).unwrap().clone()];
    chain.extend(chain[0].text("from").and_then(|from| identities.get(from)).cloned());
    match decide_access(session, &chain, is_allowed, now) {
        Ok(SessionAccess::Full) => "full",
        Ok(SessionAccess::Restricted(restriction)) => {
            assert_eq!((restriction.session, restriction.until), (session.id.clone(), session.until));
            "restricted"
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
        ("role", "restricted"),
        ("over-hub", "session_production"),
        ("all", "full"),
        ("coded", "session_not_narrow"),
        ("prod-all", "session_production"),
        ("not", "session_refused"),
        ("google", "restricted"),
    ] {
        assert_eq!(access_of(&session, name, false, 0), expected, "{name}");
        assert_eq!(access_of(&session, name, true, 0), "full", "{name}: allowed by the user");
        assert_eq!(access_of(&session, name, true, 60_000), "session_over", "{name}: not beyond the session");
    }
    let listed = Session { identities: vec!["google".into()], ..session.clone() };
    assert_eq!(access_of(&listed, "google", false, 0), "restricted");
    assert_eq!(access_of(&listed, "role", false, 0), "session_not_listed");
    // Changed by a program of the session itself.
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
