//! The example `shop`: two languages, a database, a queue, a job; on both runtimes, and in several copies.

use std::path::Path;
use std::time::Duration;

use crate::http::{get, request};
use crate::sandbox::{Sandbox, find_unit, wait_until};

fn place_order(host: &str, port: u16) -> u16 {
    let body = r#"{"product": 1, "product_id": 1}"#;
    let text = format!(
        "POST /api/orders HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    request(host, port, &text).status
}

fn assert_shop_works(sandbox: &Sandbox, folder: &Path, branch: &str) {
    let (host, port) = sandbox.url(folder, None);
    let page = get(&host, port, "/");
    assert_eq!(page.status, 200, "{}", page.head);
    assert!(page.body.contains(branch), "the page does not show its branch `{branch}`: {}", page.body);
    assert_eq!(get(&host, port, "/api/products").status, 200);
    assert!(place_order(&host, port) < 300);
}

fn count_orders(sandbox: &Sandbox, folder: &Path) -> usize {
    let (host, port) = sandbox.url(folder, None);
    let list: serde_json::Value = serde_json::from_str(&get(&host, port, "/api/orders").body).unwrap();
    let items =
        list.as_array().or_else(|| list["orders"].as_array()).unwrap_or_else(|| panic!("no orders in {list:#}"));
    items.len()
}

fn has_programs(journey: &str) -> bool {
    let works = |program: &str, arguments: &[&str]| {
        std::process::Command::new(program).args(arguments).output().is_ok_and(|output| output.status.success())
    };
    let postgres = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut entries| entries.next().is_some());
    let all = postgres
        && works("redis-server", &["--version"])
        && works("node", &["--version"])
        && works("/usr/bin/python3", &["-c", "import psycopg2, redis"]);
    if !all {
        println!("skipped: {journey}: postgresql, redis-server, node, python3-psycopg2 or python3-redis is missing");
    }
    all
}

#[test]
fn the_shop_runs_as_plain_processes() {
    if !has_programs("the shop as processes") {
        return;
    }
    let sandbox = Sandbox::without_docker();
    let project = sandbox.create_example("shop");
    sandbox.pdev(&["up", "--env", "bare"]).ok();
    let status = sandbox.pdev(&["status", "--env", "bare", "--json"]).ok().json();
    assert_eq!(find_unit(&status, "migrate")["state"], "done", "{status:#}");
    let url = status["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let (host, port) = url.split_once(':').unwrap();
    let port: u16 = port.trim_end_matches('/').parse().unwrap();
    assert_eq!(get(host, port, "/").status, 200);
    assert!(place_order(host, port) < 300);
    sandbox.pdev(&["up", "--env", "bare"]).ok().prints("nothing changed");
    drop(project);
}

#[test]
fn two_shops_in_containers_have_separate_data() {
    let Some(sandbox) = Sandbox::with_docker("the shop in containers") else { return };
    let project = sandbox.create_example("shop");
    let copy = sandbox.add_worktree("feature/cart", "w");
    sandbox.pdev(&["up"]).ok();
    sandbox.pdev_in(&copy, &["up"]).ok();
    assert_shop_works(&sandbox, &project, "main");
    assert_shop_works(&sandbox, &copy, "feature-cart");
    assert!(place_order(&sandbox.url(&project, None).0, sandbox.url(&project, None).1) < 300);
    wait_until("each copy has its own orders", Duration::from_secs(10), || {
        count_orders(&sandbox, &project) == 2 && count_orders(&sandbox, &copy) == 1
    });
    sandbox.pdev(&["up"]).ok().prints("nothing changed");
    sandbox.pdev(&["down"]).ok();
    assert_shop_works(&sandbox, &copy, "feature-cart");
    sandbox.pdev(&["up"]).ok();
    assert_eq!(count_orders(&sandbox, &project), 2, "`down` lost the data");
    sandbox.pdev(&["down", "--volumes"]).ok();
    sandbox.pdev_in(&copy, &["down", "--volumes"]).ok();
    assert_eq!(sandbox.docker_objects(), Vec::<String>::new());
}

#[test]
fn containers_and_processes_reach_one_another() {
    let Some(sandbox) = Sandbox::with_docker("a mixed preview") else { return };
    if !has_programs("a mixed preview") {
        return;
    }
    sandbox.create_example("shop");
    sandbox.pdev(&["up", "--env", "mixed"]).ok();
    let status = sandbox.pdev(&["status", "--env", "mixed", "--json"]).ok().json();
    assert_eq!(find_unit(&status, "web")["runtime"], "process");
    assert_eq!(find_unit(&status, "api")["runtime"], "docker");
    let url = status["url"].as_str().unwrap().strip_prefix("http://").unwrap().to_owned();
    let (host, port) = url.split_once(':').unwrap();
    assert_eq!(get(host, port.trim_end_matches('/').parse().unwrap(), "/").status, 200);
}

#[test]
fn copies_from_several_worktrees_run_at_once() {
    let Some(sandbox) = Sandbox::with_docker("copies of the shop at once") else { return };
    let copies: usize = std::env::var("PDEV_SHOPS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    sandbox.create_example("shop");
    let folders: Vec<_> = (0..copies).map(|n| sandbox.add_worktree(&format!("copy-{n}"), &format!("s{n}"))).collect();
    std::thread::scope(|scope| {
        let ups: Vec<_> = folders.iter().map(|folder| scope.spawn(|| sandbox.pdev_in(folder, &["up"]))).collect();
        for up in ups {
            up.join().unwrap().ok();
        }
    });
    for (n, folder) in folders.iter().enumerate() {
        assert_shop_works(&sandbox, folder, &format!("copy-{n}"));
        assert_eq!(count_orders(&sandbox, folder), 1, "copy {n} sees another copy's data");
    }
    sandbox.pdev(&["down", "--all", "--volumes"]).ok();
    assert_eq!(sandbox.docker_objects(), Vec::<String>::new());
}
