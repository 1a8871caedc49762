//! Approvals on a fake machine: the process table is a map.

use std::collections::{BTreeMap, BTreeSet};

use host::processes::Process;

use super::ancestry::ancestry_of;
use super::*;

/// A process table in memory.
#[derive(Default)]
struct FakeProcesses {
    processes: BTreeMap<i32, Process>,
    terminal_masters: BTreeMap<u64, i32>,
    language_servers: BTreeSet<i32>,
    control_groups: BTreeMap<i32, String>,
    /// Programs that the user wrote.
    own_programs: BTreeSet<i32>,
}

const fn pts(number: u64) -> u64 {
    136 << 8 | number
}

impl FakeProcesses {
    fn new() -> Self {
        let mut table = Self::default();
        // A terminal program of the desktop with two terminals; `claude` works in the first one. The arguments are:
        // pid, parent, start, terminal, session, name.
        table.add(500, 1, 10, 0, 500, "systemd").add(600, 500, 20, 0, 600, "gnome-terminal-");
        table.add(700, 600, 100, pts(1), 700, "zsh").add(800, 700, 200, pts(1), 700, "claude");
        table.add(801, 800, 300, pts(1), 700, "pdev");
        table.add(900, 600, 150, pts(2), 900, "zsh").add(901, 900, 400, pts(2), 900, "pdev");
        table.terminal_masters.extend([(pts(1), 600), (pts(2), 600)]);
        table
    }

    fn add(&mut self, pid: i32, parent: i32, start: u64, terminal: u64, session: i32, name: &str) -> &mut Self {
        self.processes
            .insert(pid, Process { pid, parent, start, terminal, session, name: name.to_owned(), has_ended: false });
        self
    }
}

impl ProcessTable for FakeProcesses {
    fn process(&self, pid: i32) -> Option<Process> {
        self.processes.get(&pid).cloned()
    }

    fn terminal_master(&self, terminal: u64) -> Option<i32> {
        self.terminal_masters.get(&terminal).copied()
    }

    fn is_language_server(&self, pid: i32) -> bool {
        self.language_servers.contains(&pid)
    }

    /// That of the nearest process that has one.
    fn control_group(&self, pid: i32) -> Option<String> {
        let process = self.processes.get(&pid)?;
        self.control_groups.get(&pid).cloned().or_else(|| self.control_group(process.parent))
    }

    fn is_system_program(&self, pid: i32) -> bool {
        !self.own_programs.contains(&pid)
    }
}

fn use_by_service(service: &str) -> IdentityUse {
    IdentityUse {
        repository: "/home/me/shop/.git".into(),
        folder_id: "1:2".into(),
        service: service.into(),
        identity: "shop-dev".into(),
        identity_digest: "aa".into(),
        session: None,
    }
}

fn new_approvals() -> (tempfile::TempDir, Approvals) {
    let folder = tempfile::tempdir().unwrap();
    let approvals = Approvals::open(folder.path().join("approvals.json"));
    (folder, approvals)
}

/// Requests an approval as the `pdev` of `claude`, then approves it as `by`.
fn approve_as(table: &FakeProcesses, by: i32) -> Result<Approval, ApprovalProblem> {
    let (_folder, approvals) = new_approvals();
    let request = approvals.request_approval(&use_by_service("api"), ancestry_of(801, table), 350, 0);
    approvals.approve(&request.code, by, table, NORMAL, 1).map(|(approval, _)| approval)
}

const NORMAL: (ApprovalPolicy, bool) = (ApprovalPolicy::Normal, false);
const STRICT: (ApprovalPolicy, bool) = (ApprovalPolicy::Strict, false);

#[test]
fn requester_and_its_descendants_cannot_approve() {
    let mut table = FakeProcesses::new();
    table.add(810, 800, 360, pts(1), 700, "pdev");
    // A terminal driven by `script`, which the requester started; and one whose driver was detached.
    table.add(820, 800, 360, 0, 820, "script").add(821, 820, 361, pts(3), 821, "pdev");
    table.add(830, 1, 360, 0, 830, "script").add(831, 830, 361, pts(4), 831, "pdev");
    // A child without a terminal; a detached child; a detached shell whose terminal `claude` still drives.
    table.add(840, 800, 360, 0, 840, "pdev").add(850, 1, 360, 0, 850, "pdev");
    table.add(860, 1, 360, pts(5), 860, "sh").add(861, 860, 361, pts(5), 860, "pdev");
    table.terminal_masters.extend([(pts(3), 820), (pts(4), 830), (pts(5), 800)]);
    let cases = [
        (810, Denial::SameTerminal),
        (700, Denial::SameTerminal),
        (821, Denial::Descendant),
        (831, Denial::TooNew),
        (840, Denial::Descendant),
        (850, Denial::NoTerminal),
        (861, Denial::DrivenTerminal),
        (999, Denial::UnknownProcess),
    ];
    for (by, denial) in cases {
        assert_eq!(approve_as(&table, by).unwrap_err(), ApprovalProblem::Denied(denial), "{by}");
    }
}

#[test]
fn editor_approves_unless_it_asked_or_is_newer_than_request() {
    let mut table = FakeProcesses::new();
    // An editor of the desktop, and one in the other terminal. Both start their server without a terminal.
    table.add(1000, 500, 30, 0, 1000, "code").add(1001, 1000, 40, 0, 1000, "pdev").add(1002, 1000, 380, 0, 1000, "sh");
    table.add(910, 900, 160, pts(2), 900, "nvim").add(911, 910, 161, 0, 911, "pdev");
    for by in [1001, 911] {
        assert_eq!(
            approve_as(&table, by).unwrap_err(),
            ApprovalProblem::Denied(Denial::NoTerminal),
            "{by} is not a language server yet"
        );
        table.language_servers.insert(by);
        assert!(approve_as(&table, by).is_ok(), "{by}: {:?}", approve_as(&table, by));
    }
    // A server that the requester itself started; two detached servers, with and without their own editor.
    table.add(870, 800, 360, 0, 870, "pdev").add(871, 1, 360, 0, 871, "pdev");
    table.add(872, 1, 360, 0, 872, "nvim").add(873, 872, 361, 0, 873, "pdev");
    table.language_servers.extend([870, 871, 873]);
    for (by, denial) in [(870, Denial::Descendant), (871, Denial::TooNew), (873, Denial::TooNew)] {
        assert_eq!(approve_as(&table, by).unwrap_err(), ApprovalProblem::Denied(denial), "{by}");
    }
    // `up` from a lens: the editor is the requester, regardless of who clicked.
    let (_folder, approvals) = new_approvals();
    let request = approvals.request_approval(&use_by_service("api"), ancestry_of(1001, &table), 350, 0);
    assert_eq!(approvals.review_request(&request.code, 1001, &table, 1).unwrap().1, Err(Denial::SameEditor));
    assert!(approvals.review_request(&request.code, 901, &table, 1).unwrap().1.is_ok());
    assert_eq!(approvals.pending_requests(1).len(), 1);
}

/// The requester's terminal was closed, and its number was reused for another one.
#[test]
fn reused_terminal_number_can_approve() {
    let mut table = FakeProcesses::new();
    let (_folder, approvals) = new_approvals();
    let request = approvals.request_approval(&use_by_service("api"), ancestry_of(801, &table), 350, 0);
    table.processes.retain(|pid, _| !matches!(pid, 700 | 800 | 801));
    table.add(970, 600, 360, pts(1), 970, "zsh").add(971, 970, 361, pts(1), 970, "pdev");
    approvals.approve(&request.code, 971, &table, NORMAL, 1).unwrap();
}

#[test]
fn other_terminals_can_approve() {
    let mut table = FakeProcesses::new();
    // Another terminal of the same program; a console; an ssh session, where the holder of the terminal is hidden.
    table.add(950, 1, 5, (4 << 8) | 1, 950, "bash").add(951, 950, 370, (4 << 8) | 1, 950, "pdev");
    table.add(300, 1, 5, 0, 300, "sshd").add(960, 300, 360, 0, 960, "sshd-session");
    table.add(961, 960, 361, pts(6), 961, "bash").add(962, 961, 362, pts(6), 961, "pdev");
    for by in [901, 951, 962] {
        assert!(approve_as(&table, by).is_ok(), "{by}: {:?}", approve_as(&table, by));
    }
}

#[test]
fn code_approves_one_use_once_and_is_stored() {
    let (folder, approvals) = new_approvals();
    let table = FakeProcesses::new();
    let request = approvals.request_approval(&use_by_service("api"), ancestry_of(801, &table), 350, 0);
    assert!(!approvals.is_approved(&use_by_service("api"), ApprovalPolicy::Normal, 1));
    approvals.approve(&request.code.replace('-', "").to_uppercase(), 901, &table, NORMAL, 1).unwrap();
    assert_eq!(
        approvals.approve(&request.code, 901, &table, NORMAL, 2).unwrap_err(),
        ApprovalProblem::UnknownCode(request.code.clone())
    );
    assert!(
        approvals.is_approved(&use_by_service("api"), ApprovalPolicy::Normal, 2)
            && !approvals.is_approved(&use_by_service("web"), ApprovalPolicy::Normal, 2)
    );
    for other in [
        IdentityUse { folder_id: "1:3".into(), ..use_by_service("api") },
        IdentityUse { identity_digest: "bb".into(), ..use_by_service("api") },
        IdentityUse { identity: "shop-prod".into(), ..use_by_service("api") },
    ] {
        assert!(!approvals.is_approved(&other, ApprovalPolicy::Normal, 2), "{other:?}");
    }
    assert!(
        !approvals.is_approved(&use_by_service("api"), ApprovalPolicy::Normal, 2 + APPROVAL_MILLISECONDS),
        "it expires"
    );
    let reopened = Approvals::open(folder.path().join("approvals.json"));
    assert!(reopened.is_approved(&use_by_service("api"), ApprovalPolicy::Normal, 2));
    assert_eq!(reopened.revoke(&|identity_use| identity_use.identity == "shop-dev").unwrap(), 1);
    assert!(!reopened.is_approved(&use_by_service("api"), ApprovalPolicy::Normal, 2));
    assert!(!Approvals::open(folder.path().join("approvals.json")).is_approved(
        &use_by_service("api"),
        ApprovalPolicy::Normal,
        2
    ));
}

#[test]
fn repeated_request_keeps_every_requester_barred() {
    let (_folder, approvals) = new_approvals();
    let table = FakeProcesses::new();
    let first = approvals.request_approval(&use_by_service("api"), ancestry_of(801, &table), 350, 0);
    let second = approvals.request_approval(&use_by_service("api"), ancestry_of(901, &table), 400, 1);
    assert_eq!(first.code, second.code);
    for by in [801, 901] {
        assert_eq!(
            approvals.approve(&first.code, by, &table, NORMAL, 2).unwrap_err(),
            ApprovalProblem::Denied(Denial::SameTerminal),
            "{by}"
        );
    }
}

#[test]
fn codes_expire_and_guesses_are_limited() {
    let (_folder, approvals) = new_approvals();
    let table = FakeProcesses::new();
    let request = approvals.request_approval(&use_by_service("api"), None, 0, 0);
    assert_eq!(
        approvals.approve(&request.code, 901, &table, NORMAL, REQUEST_MILLISECONDS).unwrap_err(),
        ApprovalProblem::UnknownCode(request.code.clone())
    );
    let request = approvals.request_approval(&use_by_service("api"), None, 0, REQUEST_MILLISECONDS);
    let now = REQUEST_MILLISECONDS + 1;
    for _ in 0..GUESSES_MAX {
        let _unknown_code = approvals.find_request("0000-0000", now);
    }
    assert_eq!(approvals.find_request(&request.code, now).unwrap_err(), ApprovalProblem::TooManyGuesses);
    assert!(approvals.find_request(&request.code, now + GUESSES_MILLISECONDS + 1).is_ok());
}

#[test]
fn requests_and_requesters_are_bounded() {
    let (_folder, approvals) = new_approvals();
    let mut table = FakeProcesses::new();
    for number in 0..=i32::try_from(ANCESTRIES_MAX).unwrap() {
        table.add(2000 + number, 1, 30, 0, 2000 + number, "pdev");
        let ancestry = ancestry_of(2000 + number, &table);
        approvals.request_approval(&use_by_service("api"), ancestry, 350, 0);
    }
    let request = approvals.request_approval(&use_by_service("api"), None, 350, 0);
    assert_eq!(
        approvals.approve(&request.code, 901, &table, NORMAL, 1).unwrap_err(),
        ApprovalProblem::Denied(Denial::TooManyRequesters)
    );
    for number in 0..2 * REQUESTS_MAX {
        approvals.request_approval(&use_by_service(&format!("s{number}")), None, 350, 1);
    }
    assert!(approvals.lock().requests.len() <= REQUESTS_MAX);
}

/// Two terminal programs, each in its own control group. `claude` runs in the first one (600).
fn two_terminal_programs() -> FakeProcesses {
    let mut table = FakeProcesses::new();
    table.add(650, 500, 25, 0, 650, "foot").add(900, 650, 150, pts(2), 900, "zsh");
    table.terminal_masters.insert(pts(2), 650);
    table.control_groups.extend([(600, "app-one".to_owned()), (650, "app-two".to_owned())]);
    table
}

fn weakness_of(table: &FakeProcesses, requester: i32, by: i32) -> Option<Weakness> {
    let (_folder, approvals) = new_approvals();
    let request = approvals.request_approval(&use_by_service("api"), ancestry_of(requester, table), 350, 0);
    let (approval, weakness) = approvals.approve(&request.code, by, table, NORMAL, 1).unwrap();
    assert_eq!(approval.confirmed_by.is_some(), weakness.is_none());
    // The strict policy neither counts an earlier weak approval nor gives one.
    assert_eq!(approvals.is_approved(&use_by_service("api"), ApprovalPolicy::Strict, 2), weakness.is_none());
    let request = approvals.request_approval(&use_by_service("web"), ancestry_of(requester, table), 350, 2);
    let strict = approvals.approve(&request.code, by, table, STRICT, 3).map(|(_, weakness)| weakness);
    assert_eq!(strict, weakness.map_or(Ok(None), |weakness| Err(ApprovalProblem::TooWeak(weakness))));
    if weakness.is_some() {
        let with_password = (ApprovalPolicy::Strict, true);
        let (approval, weakness) = approvals.approve(&request.code, by, table, with_password, 4).unwrap();
        assert_eq!((approval.confirmed_by, weakness), (Some(Confirmation::Password), None));
    }
    weakness
}

#[test]
fn another_terminal_program_confirms() {
    assert_eq!(weakness_of(&two_terminal_programs(), 801, 901), None);
    let mut console = two_terminal_programs();
    console.add(950, 1, 5, (4 << 8) | 1, 950, "bash").add(951, 950, 370, (4 << 8) | 1, 950, "pdev");
    assert_eq!(weakness_of(&console, 801, 951), None);
}

#[test]
fn terminals_that_programs_can_reach_are_weak() {
    // Another tab of the same program.
    let mut tab = two_terminal_programs();
    tab.terminal_masters.insert(pts(2), 600);
    assert_eq!(weakness_of(&tab, 801, 901), Some(Weakness::SameTerminalProgram));
    // `tmux new-window` on a server that ran before, and a program that only has the name of a terminal program.
    for (name, is_own) in
        [("tmux: server", false), ("screen", false), ("code", false), ("python3", false), ("foot", true)]
    {
        let mut table = two_terminal_programs();
        table.add(650, 1, 25, 0, 650, name);
        if is_own {
            table.own_programs.insert(650);
        }
        assert_eq!(weakness_of(&table, 801, 901), Some(Weakness::OtherTerminalProgram), "{name}");
    }
    // `claude` detaches the request with `setsid -f`, and then opens a terminal program itself, or opened it before.
    for (start, expected) in [(340, Weakness::SameControlGroup), (360, Weakness::NewTerminalProgram)] {
        let mut table = two_terminal_programs();
        table.add(802, 1, 310, 0, 802, "pdev").add(660, 800, start, 0, 660, "xterm");
        table.add(910, 660, start + 1, pts(6), 910, "sh").add(911, 910, start + 2, pts(6), 910, "pdev");
        table.terminal_masters.insert(pts(6), 660);
        table.control_groups.insert(802, "app-one".to_owned());
        assert_eq!(weakness_of(&table, 802, 911), Some(expected), "{start}");
    }
    // The language server of an editor that ran before.
    let mut editor = two_terminal_programs();
    editor.add(1000, 500, 30, 0, 1000, "code").add(1001, 1000, 40, 0, 1000, "pdev");
    editor.language_servers.insert(1001);
    assert_eq!(weakness_of(&editor, 801, 1001), Some(Weakness::Editor));
    // Without control groups, a detached request cannot be attributed.
    let mut plain = two_terminal_programs();
    plain.control_groups.clear();
    plain.add(802, 1, 310, 0, 802, "pdev");
    assert_eq!(weakness_of(&plain, 802, 901), Some(Weakness::SameControlGroup));
}
