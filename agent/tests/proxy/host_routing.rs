//! Routing by host and path, and the responses for unknown hosts and paths.

use agent::proxy::{PreviewRoutes, RouteLookup, RouteTable};
use http::{Request, StatusCode};

use crate::harness::{
    Backend, LIST_TOKEN, WEB_HOST, preview_routes, ready_target, start_proxy, start_web_proxy, text_body,
};

#[tokio::test]
async fn host_lookup_ignores_case_port_and_trailing_dot() {
    let (one, two) = (Backend::start_text("one").await, Backend::start_text("two").await);
    let main = preview_routes(
        "shop",
        "main",
        vec![ready_target("web", vec![one.address]), ready_target("api", vec![two.address])],
    );
    let proxy = start_proxy(vec![main]).await;
    let cases = [
        (WEB_HOST, "one"),
        ("api.main.shop.localhost", "two"),
        ("main.shop.localhost", "one"),
        ("shop.localhost", "one"),
        ("API.Main.Shop.LOCALHOST:8642", "two"),
        ("api.main.shop.localhost.", "two"),
        ("api.main.shop.localhost.:1", "two"),
    ];
    for (host, expected) in cases {
        assert_eq!(proxy.get(host, "/", &[]).await.body, expected, "{host}");
    }
}

#[tokio::test]
async fn unknown_hosts_get_404_and_foreign_hosts_421() {
    let one = Backend::start_text("one").await;
    let proxy = start_web_proxy(one.address).await;
    let cases = [
        ("nosuch.main.shop.localhost", 404),
        ("other.shop.localhost", 404),
        ("tenant.web.main.shop.localhost", 404),
        ("nosuch.localhost", 404),
        ("localhost", 421),
        ("127.0.0.1", 421),
        ("[::1]:8642", 421),
        ("rebound.example", 421),
        ("web.main.shop.localhost.example", 421),
        ("a..localhost", 400),
        ("web.main.shop.localhost:x", 400),
    ];
    for (host, expected) in cases {
        let response = proxy.get(host, "/", &[]).await;
        assert_eq!(response.status.as_u16(), expected, "{host}");
        assert!(expected != 421 || response.body.is_empty(), "{host} must get an empty body");
    }
}

#[tokio::test]
async fn exactly_one_host_is_required() {
    let one = Backend::start_text("one").await;
    let proxy = start_web_proxy(one.address).await;
    let cases = [
        ("GET / HTTP/1.1\r\nconnection: close\r\n\r\n".to_owned(), "HTTP/1.1 400"),
        (
            format!("GET / HTTP/1.1\r\nhost: {WEB_HOST}\r\nhost: {WEB_HOST}\r\nconnection: close\r\n\r\n"),
            "HTTP/1.1 400",
        ),
        (format!("GET http://{WEB_HOST}/ HTTP/1.1\r\nhost: x.example\r\nconnection: close\r\n\r\n"), "HTTP/1.1 200"),
        (format!("GET http://x.example/ HTTP/1.1\r\nhost: {WEB_HOST}\r\nconnection: close\r\n\r\n"), "HTTP/1.1 421"),
        ("GET / HTTP/1.0\r\n\r\n".to_owned(), "HTTP/1.0 400"),
        (format!("GET / HTTP/1.0\r\nhost: {WEB_HOST}\r\n\r\n"), "HTTP/1.0 200"),
        (format!("CONNECT {WEB_HOST}:443 HTTP/1.1\r\nhost: {WEB_HOST}\r\nconnection: close\r\n\r\n"), "HTTP/1.1 405"),
    ];
    for (request, expected) in cases {
        let response = proxy.send_raw(&request).await;
        assert!(response.starts_with(expected), "{request:?} returned {response:?}");
    }
}

#[tokio::test]
async fn not_found_page_suggests_nearest_branch_of_same_app() {
    let one = Backend::start_text("one").await;
    let shop = |branch| preview_routes("shop", branch, vec![ready_target("web", vec![one.address])]);
    let proxy = start_proxy(vec![shop("main"), shop("feature-cart"), preview_routes("secret", "main", vec![])]).await;
    let html = proxy.get("web.feature-car.shop.localhost", "/", &[("accept", "text/html")]).await;
    assert_eq!(html.status, StatusCode::NOT_FOUND);
    for expected in ["<code>feature-cart</code>", "<code>pdev up</code>", "http://main.shop.localhost:"] {
        assert!(html.body.contains(expected), "{expected} in {}", html.body);
    }
    assert!(!html.body.contains("secret"));
    assert!(html.headers["content-security-policy"].to_str().unwrap().starts_with("default-src 'none'"));
    let json = proxy.get("web.feature-car.shop.localhost", "/", &[("accept", "application/json")]).await;
    assert_eq!(json.headers["content-type"], "application/problem+json");
    let problem: serde_json::Value = serde_json::from_str(&json.body).unwrap();
    assert_eq!((problem["status"].as_u64(), problem["code"].as_str()), (Some(404), Some("unknown-host")));
    assert!(problem["hint"].as_str().unwrap().contains("`feature-cart`"));
}

#[tokio::test]
async fn only_the_status_host_lists_all_previews_and_only_with_the_token() {
    let proxy = start_proxy(vec![preview_routes("shop", "main", vec![]), preview_routes("blog", "main", vec![])]).await;
    let (cookie, wrong) = (format!("a=b; pdev-list={LIST_TOKEN}"), format!("pdev-list={}", &LIST_TOKEN[1..]));
    for (path, headers) in
        [("/", vec![]), ("/?token=", vec![]), ("/?token=x", vec![]), ("/", vec![("cookie", wrong.as_str())])]
    {
        let response = proxy.get("pdev.localhost", path, &headers).await;
        assert_eq!(response.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(!response.body.contains("shop") && response.body.contains("pdev open --list"), "{}", response.body);
    }
    let response = proxy.get("pdev.localhost", &format!("/?token={LIST_TOKEN}"), &[]).await;
    assert_eq!(response.status, StatusCode::SEE_OTHER);
    assert_eq!(response.headers["location"], "/");
    let stored = response.headers["set-cookie"].to_str().unwrap();
    assert!(stored.contains(LIST_TOKEN) && stored.contains("HttpOnly; SameSite=Strict"), "{stored}");
    let response = proxy.get("pdev.localhost", "/", &[("accept", "text/html"), ("cookie", &cookie)]).await;
    assert_eq!(response.status, StatusCode::OK);
    assert!(response.body.contains("main.shop.localhost") && response.body.contains("main.blog.localhost"));
}

#[tokio::test]
async fn a_route_is_visible_when_publish_returns_and_gone_when_removed() {
    let one = Backend::start_text("one").await;
    let proxy = start_proxy(vec![]).await;
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.status, StatusCode::NOT_FOUND);
    let mut table = RouteTable::new();
    table.set_preview(preview_routes("shop", "main", vec![ready_target("web", vec![one.address])]));
    proxy.routes.publish(table);
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.body, "one");
    proxy.routes.update(|table| drop(table.remove_preview("shop/main")));
    assert_eq!(proxy.get(WEB_HOST, "/", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn renamed_host_returns_404_with_new_url() {
    let proxy = start_proxy(vec![preview_routes("shop", "new", vec![])]).await;
    proxy.routes.update(|table| table.rename_host("old.shop.localhost", "new.shop.localhost"));
    let response = proxy.get("old.shop.localhost", "/", &[]).await;
    assert_eq!(response.status, StatusCode::NOT_FOUND);
    assert!(response.body.contains(&format!("http://new.shop.localhost:{}/", proxy.port)), "{}", response.body);
}

#[test]
fn longest_prefix_at_segment_boundary_wins() {
    let mut routes: PreviewRoutes = preview_routes("shop", "main", vec![]);
    for (service, prefix) in [("web", "/"), ("api", "/api"), ("v2", "/api/v2/")] {
        let route =
            agent::proxy::ServiceRoute { target: ready_target(service, vec![]), prefixes: vec![prefix.to_owned()] };
        routes.services.push(route);
    }
    let mut table = RouteTable::new();
    table.set_preview(routes);
    let cases = [
        ("main.shop.localhost", "/", "web"),
        ("main.shop.localhost", "/api", "api"),
        ("main.shop.localhost", "/api/", "api"),
        ("main.shop.localhost", "/apis", "web"),
        ("main.shop.localhost", "/api/v2", "v2"),
        ("main.shop.localhost", "/api/v2/x", "v2"),
        ("main.shop.localhost", "/api/v23", "api"),
        ("shop.localhost", "/api/x", "api"),
        ("web.main.shop.localhost", "/api", "web"),
    ];
    for (host, path, expected) in cases {
        let RouteLookup::Target(found) = table.find(host, path) else { panic!("{host}{path} leads nowhere") };
        assert_eq!(found.service, expected, "{host}{path}");
    }
}

#[tokio::test]
async fn path_without_service_returns_404_with_links() {
    let mut routes = preview_routes("shop", "main", vec![ready_target("api", vec![])]);
    routes.default_service = None;
    let response = start_proxy(vec![routes]).await.get("main.shop.localhost", "/x", &[]).await;
    assert_eq!(response.status, StatusCode::NOT_FOUND);
    assert!(response.body.contains("api.main.shop.localhost"), "{}", response.body);
}

#[tokio::test]
async fn wildcards_are_per_service_and_exact_hosts_win() {
    let (one, two) = (Backend::start_text("one").await, Backend::start_text("two").await);
    let mut wildcard = ready_target("web", vec![one.address]);
    wildcard.is_wildcard = true;
    let mut main = preview_routes("shop", "main", vec![wildcard, ready_target("api", vec![two.address])]);
    main.default_service = None;
    let proxy = start_proxy(vec![main]).await;
    assert_eq!(proxy.get("acme.web.main.shop.localhost", "/", &[]).await.body, "one");
    assert_eq!(proxy.get("a.b.web.main.shop.localhost", "/", &[]).await.body, "one");
    assert_eq!(proxy.get("acme.api.main.shop.localhost", "/", &[]).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn http2_routes_by_authority() {
    let echo = Backend::start_echo().await;
    let proxy = start_web_proxy(echo.address).await;
    let mut client = proxy.http2().await;
    let request = Request::get(format!("http://{WEB_HOST}/x?y=1")).body(text_body("")).unwrap();
    let response = crate::harness::read_response(client.send_request(request).await.unwrap()).await;
    assert!(response.body.starts_with("GET /x?y=1 HTTP/1.1"), "{}", response.body);
    assert!(response.body.contains(&format!("host: {WEB_HOST}")));
    let foreign = Request::get("http://x.example/").body(text_body("")).unwrap();
    assert_eq!(client.send_request(foreign).await.unwrap().status(), StatusCode::MISDIRECTED_REQUEST);
}
