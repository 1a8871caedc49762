//! The parts of the proxy benchmark: a service, a proxy in front of it, and a client that measures echoes in a tunnel.
//! `tests/bench/proxy/run` combines them; this program itself only measures the echoes.
#![expect(clippy::print_stdout, reason = "a benchmark reports on its standard output")]

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use agent::proxy::{Limits, PreviewRoutes, Proxy, RouteTarget, Routes, ServiceRoute, ServiceState, Upstream, bind};
use bytes::Bytes;
use http::header::{CONNECTION, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const USAGE: &str = "usage: proxy_bench service PORT | proxy PORT SERVICE_PORT | echo PORT";
const HOST: &str = "web.main.bench.localhost";
const ECHO_COUNT: usize = 20_000;

type BenchResult = Result<(), Box<dyn Error>>;

fn main() -> BenchResult {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let port = |index: usize| args.get(index).and_then(|text| text.parse::<u16>().ok()).ok_or(USAGE);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match args.first().map(String::as_str) {
        Some("service") => runtime.block_on(run_service(port(1)?)),
        Some("proxy") => runtime.block_on(run_proxy(port(1)?, port(2)?)),
        Some("echo") => runtime.block_on(measure_echoes(port(1)?)),
        _ => Err(USAGE.into()),
    }
}

/// Answers every request with 1 KiB, and echoes the bytes that follow an upgrade.
async fn run_service(port: u16) -> BenchResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let body = Bytes::from(vec![b'x'; 1024]);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let body = body.clone();
        // The benchmark kills this process at the end, so the tasks are not awaited.
        drop(tokio::spawn(async move {
            let service = service_fn(|request| std::future::ready(Ok::<_, Infallible>(handle_request(request, &body))));
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades().await);
        }));
    }
}

fn handle_request(request: Request<Incoming>, body: &Bytes) -> Response<Full<Bytes>> {
    if !request.headers().contains_key(UPGRADE) {
        return Response::new(Full::new(body.clone()));
    }
    drop(tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(upgraded));
        drop(tokio::io::copy(&mut read, &mut write).await);
    }));
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response
}

async fn run_proxy(port: u16, service: u16) -> BenchResult {
    let target = RouteTarget {
        preview_id: "bench".to_owned(),
        service: "web".to_owned(),
        upstream: Upstream { addresses: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, service))], uses_h2c: false },
        state: ServiceState::Ready,
        is_wildcard: false,
    };
    let preview = PreviewRoutes {
        id: "bench".to_owned(),
        app: "bench".to_owned(),
        branch: "main".to_owned(),
        is_primary: true,
        default_service: Some("web".to_owned()),
        services: vec![ServiceRoute { target, prefixes: Vec::new() }],
    };
    let routes = Routes::new();
    routes.update(|table| table.set_preview(preview));
    let proxy = Proxy::start(bind(port).await?, routes, &Limits::default());
    println!("{}", proxy.port());
    std::future::pending().await
}

/// Sends small messages one at a time through one tunnel, and prints the latencies.
async fn measure_echoes(port: u16) -> BenchResult {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.set_nodelay(true)?;
    let hello = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    stream.write_all(hello.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    if !head.starts_with(b"HTTP/1.1 101") {
        return Err(io::Error::other(String::from_utf8_lossy(&head).into_owned()).into());
    }
    let mut latencies = Vec::with_capacity(ECHO_COUNT);
    let mut message = [7u8; 38];
    for _ in 0..ECHO_COUNT {
        let start = Instant::now();
        stream.write_all(&message).await?;
        stream.read_exact(&mut message).await?;
        latencies.push(start.elapsed());
    }
    latencies.sort_unstable();
    let micros = |percent: usize| latencies.get(ECHO_COUNT * percent / 100).map_or(0, Duration::as_micros);
    println!("p50 {} us, p99 {} us", micros(50), micros(99));
    Ok(())
}
