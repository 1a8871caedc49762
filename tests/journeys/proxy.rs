//! The proxy with requests of a browser and of an attacker.

use crate::http::{get, request};
use crate::sandbox::Sandbox;

#[test]
fn proxy_serves_only_exact_preview_hosts() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    let (_, port) = sandbox.url(&project, Some("web"));
    assert_eq!(get("WEB.Main.Hello.LOCALHOST", port, "/").status, 200, "host names are case-insensitive");
    let unknown = get("web.other.hello.localhost", port, "/");
    assert_eq!(unknown.status, 404);
    assert!(unknown.body.contains("main.hello.localhost"), "it lists the existing previews: {}", unknown.body);
    let foreign = get("evil.example.org", port, "/");
    assert_eq!((foreign.status, foreign.body.as_str()), (421, ""));
    let json = request(
        "x",
        port,
        "GET / HTTP/1.1\r\nHost: no.hello.localhost\r\nAccept: application/json\r\nConnection: close\r\n\r\n",
    );
    assert_eq!(json.status, 404);
    assert!(serde_json::from_str::<serde_json::Value>(&json.body).is_ok(), "{}", json.body);
}

#[test]
fn renamed_branch_keeps_preview_and_old_host_names_new_one() {
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("hello");
    sandbox.pdev(&["up"]).ok();
    sandbox.git(&project, &["branch", "-m", "main", "feature/new-name"]);
    sandbox.pdev(&["up"]).ok();
    let (host, port) = sandbox.url(&project, Some("web"));
    assert_eq!(host, "web.feature-new-name.hello.localhost");
    assert_eq!(get(&host, port, "/").status, 200);
    let old = get("main.hello.localhost", port, "/");
    assert_eq!(old.status, 404);
    assert!(old.body.contains("feature-new-name.hello.localhost"), "{}", old.body);
}
