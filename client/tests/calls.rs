//! The client against a tiny fake agent.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use client::{Client, ClientError, Place, Subscription};
use fake::{Answer, info, json, serve};
use protocol::EventKind;
use protocol::exec::{ExecRequest, Frame};
use protocol::request::{LocateRequest, LogQuery, UpRequest};

fn place() -> (tempfile::TempDir, Place) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let place = Place::at(folder.path());
    (folder, place)
}

fn agent(place: &Place, answer: impl Fn(&fake::Asked) -> Vec<u8> + Send + Sync + 'static) {
    let answer: Answer = Arc::new(move |asked| if asked.is("GET /v1/agent ") { info(1) } else { answer(asked) });
    serve(&place.socket(), answer);
}

fn event(id: u64) -> String {
    format!(
        r#"{{"id":{id},"at":0,"preview":{{"id":"p","title":"shop/main","app":"shop","branch":"main","environment":"local"}},"event":"noted","text":"n{id}"}}"#
    )
}

fn chunks(parts: &[String], end: bool) -> Vec<u8> {
    let mut text = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned();
    for part in parts {
        text += &format!("{:x}\r\n{part}\r\n", part.len());
    }
    if end {
        text += "0\r\n\r\n";
    }
    text.into()
}

#[tokio::test]
async fn problems_arrive_as_the_agent_sent_them() {
    let (_folder, place) = place();
    agent(&place, |asked| {
        if asked.is("POST /v1/locate") {
            return json("404 Not Found", r#"{"code":"no_preview","title":"no preview here","hint":"Go."}"#);
        }
        json("500 Internal Server Error", "not json")
    });
    let mut client = Client::connect(&place).await.unwrap();
    let error = client.locate(&LocateRequest::default()).await.unwrap_err();
    assert_eq!(error.status(), Some(404));
    assert_eq!(error.hint().as_deref(), Some("Go."));
    assert_eq!(error.to_string(), "no preview here");
    let error = client.previews().await.unwrap_err();
    assert_eq!((error.status(), error.to_string().as_str()), (Some(500), "not json"));
}

#[tokio::test]
async fn other_protocols_are_told_apart() {
    for (protocol, newer) in [(0, false), (2, true)] {
        let (_folder, place) = place();
        serve(&place.socket(), Arc::new(move |_| info(protocol)));
        let error = Client::connect(&place).await.unwrap_err();
        assert_eq!(matches!(error, ClientError::Newer { .. }), newer, "{error}");
        assert_eq!(matches!(error, ClientError::Older { .. }), !newer, "{error}");
    }
}

#[tokio::test]
async fn nobody_there_a_stale_socket_and_a_planted_folder() {
    let (folder, place) = place();
    assert!(matches!(Client::connect(&place).await, Err(ClientError::NotRunning { .. })));
    drop(std::os::unix::net::UnixListener::bind(place.socket()).unwrap());
    assert!(matches!(Client::connect(&place).await, Err(ClientError::NotRunning { .. })));
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Client::connect(&place).await.unwrap_err();
    assert!(matches!(error, ClientError::Folder { .. }), "{error}");
    assert!(error.to_string().contains("`0755`"), "{error}");
}

#[tokio::test]
async fn a_stream_that_breaks_is_told_from_one_that_ends() {
    for end in [true, false] {
        let (_folder, place) = place();
        let first = format!("data: {}\n\ndata: {}", event(1), &event(2)[..9]);
        let second = format!("{}\n\n", &event(2)[9..]);
        agent(&place, move |_| chunks(&[first.clone(), second.clone()], end));
        let mut stream = Client::connect(&place).await.unwrap().up(&UpRequest::default()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().id, 1);
        assert_eq!(stream.next().await.unwrap().unwrap().id, 2);
        assert_eq!(stream.last_id(), Some(2));
        let last = stream.next().await;
        assert_eq!(last.is_ok(), end, "{last:?}");
    }
}

#[tokio::test]
async fn a_subscription_resumes_after_the_last_event() {
    let (_folder, place) = place();
    let asked_after = Arc::new(Mutex::new(Vec::new()));
    let seen = asked_after.clone();
    agent(&place, move |asked| {
        let after = asked.head.lines().find_map(|line| line.strip_prefix("last-event-id: ").map(str::to_owned));
        let next = after.as_deref().map_or(1, |id| id.parse::<u64>().unwrap() + 1);
        seen.lock().unwrap().push(after);
        chunks(&[format!("data: {}\n\n", event(next))], false)
    });
    let mut subscription = Subscription::open(&place, None).await.unwrap();
    for id in 1..=3 {
        let event = subscription.next().await.unwrap().unwrap();
        assert_eq!(event.kind, EventKind::Noted { text: format!("n{id}") });
    }
    assert_eq!(*asked_after.lock().unwrap(), [None, Some("1".to_owned()), Some("2".to_owned())]);
}

#[tokio::test]
async fn log_lines_survive_any_cut() {
    let line = r#"{"at":1,"unit":"api","stream":"stdout","text":"hé"}"#;
    let text = format!("{line}\n{line}\n{line}");
    for cut in (1..text.len()).filter(|&cut| text.is_char_boundary(cut)).step_by(7) {
        let (_folder, place) = place();
        let parts = [text[..cut].to_owned(), text[cut..].to_owned()];
        agent(&place, move |asked| {
            assert!(asked.is("GET /v1/previews/p/logs?units=a%2Cb&since=5&tail=2 "), "{}", asked.head);
            chunks(&parts, true)
        });
        let query = LogQuery { units: Some("a,b".into()), follow: false, since: Some(5), tail: Some(2) };
        let mut lines = Client::connect(&place).await.unwrap().logs("p", &query).await.unwrap();
        let mut count = 0;
        while let Some(entry) = lines.next().await.unwrap() {
            assert_eq!(entry.text, "hé");
            count += 1;
        }
        assert_eq!(count, 3, "cut at {cut}");
    }
}

#[tokio::test]
async fn exec_frames_go_both_ways_after_the_upgrade() {
    let (_folder, place) = place();
    agent(&place, |asked| {
        assert!(asked.head.contains("upgrade: pdev-exec/1"), "{}", asked.head);
        assert!(String::from_utf8_lossy(&asked.body).contains(r#""argv":["ls"]"#));
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: pdev-exec/1\r\n\r\n".to_vec()
    });
    let request = ExecRequest { unit: "api".into(), argv: vec!["ls".into()], ..ExecRequest::default() };
    let (mut exec, mut writer) = Client::connect(&place).await.unwrap().exec("p", &request).await.unwrap();
    let long = vec![7; 100_000];
    writer.stdin(&long).await.unwrap();
    writer.send(&Frame::Exit(3)).await.unwrap();
    let mut echoed = Vec::new();
    loop {
        match exec.next().await.unwrap() {
            Frame::Stdin(bytes) => echoed.extend(bytes),
            Frame::Exit(code) => break assert_eq!(code, 3),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(echoed, long);
}

#[tokio::test]
async fn secrets_are_sent_raw() {
    let (_folder, place) = place();
    agent(&place, |asked| {
        assert!(asked.is("PUT /v1/previews/p/secrets/stripe "), "{}", asked.head);
        assert_eq!(asked.body, b"\xff\x00{");
        b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
    });
    Client::connect(&place).await.unwrap().put_secret("p", "stripe", b"\xff\x00{".to_vec()).await.unwrap();
}
