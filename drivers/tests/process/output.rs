//! Output of programs: logs, endless output, bytes that are not UTF-8, and commands that run alongside a unit.

use bytes::Bytes;
use drivers::driver::{Driver, ExecInput, ExecOutput, ExecRequest, ExecSession, LogLine, LogRequest};
use futures_util::{StreamExt, TryStreamExt};

use crate::test_preview::{TIMEOUT, TestPreview, eventually, is_alive};

async fn read_logs(preview: &TestPreview, unit: &str, request: LogRequest) -> Vec<LogLine> {
    let stream = preview.driver.logs(&preview.name.id, &preview.locations(), unit, request).await.expect("log opens");
    tokio::time::timeout(TIMEOUT, stream.try_collect()).await.expect("log ends").expect("log reads")
}

fn texts(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test]
async fn log_lines_keep_order_and_stream() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit(
        "job",
        "i=0; while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; printf unfinished",
    );
    assert_eq!(preview.run_to_exit("job").await.code, Some(0));
    let lines = read_logs(&preview, "job", LogRequest::default()).await;
    let stdout_lines: Vec<_> = lines.iter().filter(|line| !line.is_stderr).map(|line| line.text.clone()).collect();
    let expected: Vec<_> = (0..1000).map(|number| format!("line {number}")).chain(["unfinished".to_owned()]).collect();
    assert_eq!(stdout_lines, expected);
    let stderr_lines: Vec<_> = lines.iter().filter(|line| line.is_stderr).collect();
    assert_eq!(texts(&[stderr_lines[0].clone()]), ["oops"]);
    let tail = read_logs(&preview, "job", LogRequest { tail: Some(3), ..LogRequest::default() }).await;
    assert_eq!(tail.len(), 3);
    let since = LogRequest { since: Some(lines[1001].timestamp + 1), ..LogRequest::default() };
    assert!(read_logs(&preview, "job", since).await.is_empty());
    preview.remove_all().await;
}

#[tokio::test]
async fn invalid_utf8_is_replaced_and_long_lines_are_split() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("job", "printf 'a\\377b\\0c\\n'; head -c 40000 /dev/zero | tr '\\0' x; echo");
    assert_eq!(preview.run_to_exit("job").await.code, Some(0));
    let lines = read_logs(&preview, "job", LogRequest::default()).await;
    assert_eq!(lines[0].text, "a\u{fffd}b\0c");
    assert_eq!(lines[1..].iter().map(|line| line.text.len()).collect::<Vec<_>>(), [16384, 16384, 40000 - 2 * 16384]);
    preview.remove_all().await;
}

#[tokio::test]
async fn followed_log_streams_lines_and_ends_with_unit() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "echo one; while [ ! -s go ]; do sleep 0.01; done; echo two");
    preview.create_and_start("web").await;
    let request = LogRequest { follow: true, ..LogRequest::default() };
    let mut stream =
        preview.driver.logs(&preview.name.id, &preview.locations(), "web", request).await.expect("log opens");
    let first = tokio::time::timeout(TIMEOUT, stream.next()).await.expect("in time").expect("a line").expect("reads");
    assert_eq!(first.text, "one");
    std::fs::write(preview.locations().project.join("go"), "now").expect("written");
    let remaining: Vec<LogLine> =
        tokio::time::timeout(TIMEOUT, stream.try_collect()).await.expect("ends").expect("reads");
    assert_eq!(texts(&remaining), ["two"]);
    preview.remove_all().await;
}

#[tokio::test]
async fn endless_output_is_bounded_by_rotation() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "yes 'a line of some length that fills the log rather quickly'");
    preview.create_and_start("web").await;
    let state = preview.locations().state;
    let rotated = state.join("logs/web.log.1");
    eventually("rotation", || rotated.exists().then_some(())).await;
    let resident = resident_kilobytes(preview.keeper_pid().expect("a keeper"));
    preview.stop("web").await;
    for file in ["logs/web.log", "logs/web.log.1"] {
        assert!(std::fs::metadata(state.join(file)).expect("log").len() <= 10 * 1024 * 1024 + 64 * 1024);
    }
    assert!(resident < 16 * 1024, "the keeper grew to {resident} kB");
    preview.remove_all().await;
}

fn resident_kilobytes(pid: i32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

async fn start_exec(preview: &TestPreview, line: &str, terminal: Option<(u16, u16)>) -> ExecSession {
    let argv = ["/bin/sh", "-c", line].map(str::to_owned).to_vec();
    let request = ExecRequest { argv, terminal_size: terminal, ..ExecRequest::default() };
    preview.driver.exec(&preview.scope(), &preview.units["web"], request).await.expect("runs")
}

async fn collect_exec_output(session: ExecSession) -> (String, String, i32) {
    let (mut stdout, mut stderr, mut code) = (String::new(), String::new(), None);
    let output: Vec<ExecOutput> = tokio::time::timeout(TIMEOUT, session.output.collect()).await.expect("command ends");
    for item in output {
        match item {
            ExecOutput::Stdout(bytes) => stdout.push_str(&String::from_utf8_lossy(&bytes)),
            ExecOutput::Stderr(bytes) => stderr.push_str(&String::from_utf8_lossy(&bytes)),
            ExecOutput::Exit(exit) => code = Some(exit),
        }
    }
    (stdout, stderr, code.expect("an exit code"))
}

#[tokio::test]
async fn exec_has_streams_environment_and_exit_code() {
    let mut preview = TestPreview::new();
    let unit = preview.add_shell_unit("web", "exec sleep 300");
    let value = plan::application::EnvValue { value: "hello".to_owned(), sensitive: false };
    unit.env.insert("GREETING".to_owned(), value);
    preview.create_and_start("web").await;
    let session = start_exec(&preview, "cat; echo $GREETING; echo no >&2; exit 5", None).await;
    session.input.send(ExecInput::Bytes(Bytes::from_static(b"fed\n"))).await.expect("accepted");
    session.input.send(ExecInput::Close).await.expect("accepted");
    assert_eq!(collect_exec_output(session).await, ("fed\nhello\n".to_owned(), "no\n".to_owned(), 5));
    assert_eq!(collect_exec_output(start_exec(&preview, "kill -9 $$", None).await).await.2, 137);
    preview.remove_all().await;
}

#[tokio::test]
async fn exec_terminal_has_size_and_can_be_resized() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "exec sleep 300");
    let session = start_exec(&preview, "stty size; read line; stty size; test -t 0 && exit 3", Some((24, 80))).await;
    session.input.send(ExecInput::Resize { rows: 30, columns: 100 }).await.expect("accepted");
    session.input.send(ExecInput::Bytes(Bytes::from_static(b"go\n"))).await.expect("accepted");
    let (stdout, _, code) = collect_exec_output(session).await;
    assert!(stdout.contains("30 100") && code == 3, "{stdout} {code}");
}

#[tokio::test]
async fn dropping_exec_session_ends_command() {
    let mut preview = TestPreview::new();
    preview.add_shell_unit("web", "exec sleep 300");
    let session =
        start_exec(&preview, "setsid sh -c 'echo $$ > escaped; exec sleep 300' & echo $$ > pid; wait", None).await;
    let pids = [preview.wait_for_pid("pid").await, preview.wait_for_pid("escaped").await];
    drop(session);
    for pid in pids {
        eventually("command gone", || (!is_alive(pid)).then_some(())).await;
    }
    let keeper = preview.keeper_pid().expect("a keeper");
    eventually("keeper without units gone", || (!is_alive(keeper)).then_some(())).await;
}
