//! Tests of the client against a small fake agent.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};

use client::{Client, ClientError, SocketLocation, Subscription};
use fake::{Responder, agent_info_response, json_response, serve};
use protocol::EventKind;
use protocol::exec::{ExecRequest, Frame};
use protocol::request::{LocateRequest, LogQuery, UpRequest};

fn temporary_location() -> (tempfile::TempDir, SocketLocation) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    let location = SocketLocation::in_folder(folder.path());
    (folder, location)
}

fn serve_fake_agent(
    location: &SocketLocation,
    respond: impl Fn(&fake::FakeRequest) -> Vec<u8> + Send + Sync + 'static,
) {
    let responder: Responder = Arc::new(move |request| match request.starts_with("GET /v1/agent ") {
        true => agent_info_response(1),
        false => respond(request),
    });
    serve(&location.socket_path(), responder);
}

fn event_json(id: u64) -> String {
    format!(
        r#"{{"id":{id},"at":0,"preview":{{"id":"p","title":"shop/main","app":"shop","branch":"main","environment":"local"}},"event":"noted","text":"n{id}"}}"#
    )
}

fn chunked_response(parts: &[String], end: bool) -> Vec<u8> {
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
async fn agent_problems_are_returned_unchanged() {
    let (_folder, location) = temporary_location();
    serve_fake_agent(&location, |request| {
        if request.starts_with("POST /v1/locate") {
            return json_response("404 Not Found", r#"{"code":"no_preview","title":"no preview here","hint":"Go."}"#);
        }
        json_response("500 Internal Server Error", "not json")
    });
    let mut client = Client::connect(&location).await.unwrap();
    let error = client.locate(&LocateRequest::default()).await.unwrap_err();
    assert_eq!(error.status(), Some(404));
    assert_eq!(error.hint().as_deref(), Some("Go."));
    assert_eq!(error.to_string(), "no preview here");
    let error = client.previews().await.unwrap_err();
    assert_eq!((error.status(), error.to_string().as_str()), (Some(500), "not json"));
}

#[tokio::test]
async fn older_and_newer_protocols_are_distinguished() {
    for (protocol, newer) in [(0, false), (2, true)] {
        let (_folder, location) = temporary_location();
        serve(&location.socket_path(), Arc::new(move |_| agent_info_response(protocol)));
        let error = Client::connect(&location).await.unwrap_err();
        assert_eq!(matches!(error, ClientError::AgentNewer { .. }), newer, "{error}");
        assert_eq!(matches!(error, ClientError::AgentOlder { .. }), !newer, "{error}");
    }
}

#[tokio::test]
async fn stale_sockets_and_open_folders_are_rejected() {
    let (folder, location) = temporary_location();
    assert!(matches!(Client::connect(&location).await, Err(ClientError::NotRunning { .. })));
    drop(std::os::unix::net::UnixListener::bind(location.socket_path()).unwrap());
    assert!(matches!(Client::connect(&location).await, Err(ClientError::NotRunning { .. })));
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let error = Client::connect(&location).await.unwrap_err();
    assert!(matches!(error, ClientError::UnusableFolder { .. }), "{error}");
    assert!(error.to_string().contains("`0755`"), "{error}");
}

#[tokio::test]
async fn only_an_unfinished_stream_is_an_error() {
    for end in [true, false] {
        let (_folder, location) = temporary_location();
        let first = format!("data: {}\n\ndata: {}", event_json(1), &event_json(2)[..9]);
        let second = format!("{}\n\n", &event_json(2)[9..]);
        serve_fake_agent(&location, move |_| chunked_response(&[first.clone(), second.clone()], end));
        let mut stream = Client::connect(&location).await.unwrap().up(&UpRequest::default()).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().id, 1);
        assert_eq!(stream.next().await.unwrap().unwrap().id, 2);
        assert_eq!(stream.last_id(), Some(2));
        let last = stream.next().await;
        assert_eq!(last.is_ok(), end, "{last:?}");
    }
}

#[tokio::test]
async fn a_subscription_resumes_after_the_last_event() {
    let (_folder, location) = temporary_location();
    let resume_ids = Arc::new(Mutex::new(Vec::new()));
    let recorded_ids = resume_ids.clone();
    serve_fake_agent(&location, move |request| {
        let after = request.head.lines().find_map(|line| line.strip_prefix("last-event-id: ").map(str::to_owned));
        let next = after.as_deref().map_or(1, |id| id.parse::<u64>().unwrap() + 1);
        recorded_ids.lock().unwrap().push(after);
        chunked_response(&[format!("data: {}\n\n", event_json(next))], false)
    });
    let mut subscription = Subscription::open(&location, None).await.unwrap();
    for id in 1..=3 {
        let event = subscription.next().await.unwrap().unwrap();
        assert_eq!(event.kind, EventKind::Noted { text: format!("n{id}") });
    }
    assert_eq!(*resume_ids.lock().unwrap(), [None, Some("1".to_owned()), Some("2".to_owned())]);
}

#[tokio::test]
async fn log_lines_parse_across_any_split() {
    let line = r#"{"at":1,"unit":"api","stream":"stdout","text":"hé"}"#;
    let text = format!("{line}\n{line}\n{line}");
    for cut in (1..text.len()).filter(|&cut| text.is_char_boundary(cut)).step_by(7) {
        let (_folder, location) = temporary_location();
        let parts = [text[..cut].to_owned(), text[cut..].to_owned()];
        serve_fake_agent(&location, move |request| {
            assert!(request.starts_with("GET /v1/previews/p/logs?units=a%2Cb&since=5&tail=2 "), "{}", request.head);
            chunked_response(&parts, true)
        });
        let query = LogQuery { units: Some("a,b".into()), follow: false, since: Some(5), tail: Some(2) };
        let mut lines = Client::connect(&location).await.unwrap().logs("p", &query).await.unwrap();
        let mut count = 0;
        while let Some(entry) = lines.next().await.unwrap() {
            assert_eq!(entry.text, "hé");
            count += 1;
        }
        assert_eq!(count, 3, "cut at {cut}");
    }
}

#[tokio::test]
async fn exec_frames_flow_both_ways_after_the_upgrade() {
    let (_folder, location) = temporary_location();
    serve_fake_agent(&location, |request| {
        assert!(request.head.contains("upgrade: pdev-exec/1"), "{}", request.head);
        assert!(String::from_utf8_lossy(&request.body).contains(r#""argv":["ls"]"#));
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: pdev-exec/1\r\n\r\n".to_vec()
    });
    let request = ExecRequest { unit: "api".into(), argv: vec!["ls".into()], ..ExecRequest::default() };
    let (mut exec, mut writer) = Client::connect(&location).await.unwrap().exec("p", &request).await.unwrap();
    let long = vec![7; 100_000];
    writer.write_stdin(&long).await.unwrap();
    writer.write_frame(&Frame::Exit(3)).await.unwrap();
    let mut echoed = Vec::new();
    loop {
        match exec.read_frame().await.unwrap() {
            Frame::Stdin(bytes) => echoed.extend(bytes),
            Frame::Exit(code) => break assert_eq!(code, 3),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(echoed, long);
}

#[tokio::test]
async fn secrets_are_sent_raw() {
    let (_folder, location) = temporary_location();
    serve_fake_agent(&location, |request| {
        assert!(request.starts_with("PUT /v1/previews/p/secrets/stripe "), "{}", request.head);
        assert_eq!(request.body, b"\xff\x00{");
        b"HTTP/1.1 204 No Content\r\n\r\n".to_vec()
    });
    Client::connect(&location).await.unwrap().put_secret("p", "stripe", b"\xff\x00{".to_vec()).await.unwrap();
}
