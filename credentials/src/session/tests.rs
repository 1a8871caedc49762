//! Sessions on a machine that is a table, and what each kind of identity gives them.

use std::collections::BTreeMap;

use super::rule::{Reach, judge};
use super::*;
use crate::approval::family::Process;
use crate::approval::meaning;
use crate::identity::{Identity, read};

#[derive(Default)]
struct Table(BTreeMap<i32, Process>);

impl Table {
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
        self.0.insert(pid, Process { pid, parent, start, terminal: 0, session: pid, name, ended: false });
    }
}

impl Processes for Table {
    fn process(&self, pid: i32) -> Option<Process> {
        self.0.get(&pid).cloned()
    }

    fn holder(&self, _: u64) -> Option<i32> {
        None
    }

    fn is_language_server(&self, _: i32) -> bool {
        false
    }
}

fn wish() -> Wish {
    Wish { name: "claude".into(), milliseconds: 60_000, identities: Vec::new() }
}

fn begun(known: BTreeMap<String, String>, wish: Wish) -> (tempfile::TempDir, Sessions, Session, Table) {
    let (folder, table) = (tempfile::tempdir().unwrap(), Table::new());
    let sessions = Sessions::open(folder.path().join("sessions.json"), &table);
    let session = sessions.begin(wish, (21, Some(20)), known, &table, 0).unwrap();
    (folder, sessions, session, table)
}

#[test]
fn who_belongs() {
    let (folder, sessions, session, mut table) = begun(BTreeMap::new(), wish());
    let belongs = |sessions: &Sessions, pid: i32, table: &Table| sessions.of(pid, table).map(|found| found.id);
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
    again.sweep(&table);
    assert!(again.all().is_empty());
    assert!(Sessions::open(folder.path().join("sessions.json"), &table).all().is_empty());
}

#[test]
fn a_session_is_begun_once_and_ends_once() {
    let (_folder, sessions, session, table) = begun(BTreeMap::new(), wish());
    let nested = sessions.begin(wish(), (31, None), BTreeMap::new(), &table, 0);
    assert_eq!(nested.unwrap_err(), SessionProblem::Nested("claude".into()));
    for (name, milliseconds, problem) in [
        ("", 60_000, SessionProblem::Name(String::new())),
        ("a b", 60_000, SessionProblem::Name("a b".into())),
        ("a\n", 60_000, SessionProblem::Name("a\n".into())),
        ("a", 0, SessionProblem::Length),
        ("a", i64::MAX, SessionProblem::Length),
    ] {
        let wish = Wish { name: name.into(), milliseconds, identities: Vec::new() };
        assert_eq!(sessions.begin(wish, (40, None), BTreeMap::new(), &table, 0).unwrap_err(), problem);
    }
    assert_eq!(sessions.named("claude").unwrap().id, session.id);
    assert_eq!(sessions.named(&session.id).unwrap().id, session.id);
    assert!(sessions.end(&session.id) && !sessions.end(&session.id));
    assert!(sessions.of(31, &table).unwrap().is_over(0), "who belongs to an ended session is not taken for a person");
}

const FILE: &str = r#"
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
fn given(session: &Session, name: &str, raised: bool, now: i64) -> &'static str {
    let (identities, findings) = read(FILE);
    assert!(findings.is_empty(), "{findings:?}");
    let mut own: Vec<Identity> = vec![identities.get(name).unwrap().clone()];
    own.extend(own[0].text("from").and_then(|from| identities.get(from)).cloned());
    match judge(session, &own, raised, now) {
        Ok(Reach::Full) => "full",
        Ok(Reach::Bound(bound)) => {
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
fn what_a_session_gets() {
    let known: BTreeMap<String, String> =
        read(FILE).0.all.values().map(|identity| (identity.name.clone(), meaning(identity))).collect();
    let (_folder, _, session, _) = begun(known.clone(), wish());
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
        assert_eq!(given(&session, name, false, 0), expected, "{name}");
        assert_eq!(given(&session, name, true, 0), "full", "{name}: a person's word counts");
        assert_eq!(given(&session, name, true, 60_000), "session_over", "{name}: and not beyond the session");
    }
    let listed = Session { identities: vec!["google".into()], ..session.clone() };
    assert_eq!(given(&listed, "google", false, 0), "bound");
    assert_eq!(given(&listed, "role", false, 0), "session_not_listed");
    // Written by a program of the session itself.
    for changed in ["role", "base"] {
        let mut known = known.clone();
        known.insert(changed.into(), "other".into());
        assert_eq!(given(&Session { known, ..session.clone() }, "role", false, 0), "session_changed", "{changed}");
    }
    let ended = Session { over: true, ..session };
    assert_eq!(given(&ended, "google", false, 0), "session_over");
}
