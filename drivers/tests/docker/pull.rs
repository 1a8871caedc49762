//! `pull: always` with a local registry that serves two small images.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use drivers::capabilities::ImageInspection;
use plan::application::{Body, ImageSource, PullPolicy, Unit};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::test_preview::{TestPreview, container_unit, engine, prepare_action, should_skip};

type RegistryContent = Arc<Mutex<BTreeMap<String, (String, Vec<u8>)>>>;

const MANIFEST_TYPE: &str = "application/vnd.docker.distribution.manifest.v2+json";

fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    format!("sha256:{}", strings::to_hex(Sha256::digest(bytes)))
}

/// Publishes an image with one file that contains `text` as `thing:latest`.
fn publish_image(content: &RegistryContent, text: &str) {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "text", text.as_bytes()).expect("a layer");
    let layer = tar.into_inner().expect("a layer");
    let rootfs = json!({ "type": "layers", "diff_ids": [digest(&layer)] });
    let config = json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs }).to_string();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": {
            "mediaType": "application/vnd.docker.container.image.v1+json",
            "size": config.len(), "digest": digest(config.as_bytes()),
        },
        "layers": [{
            "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            "size": layer.len(), "digest": digest(&layer),
        }],
    })
    .to_string();
    let mut content = content.lock().expect("lock");
    let blob = "application/octet-stream".to_owned();
    content.insert(format!("/v2/thing/blobs/{}", digest(&layer)), (blob.clone(), layer));
    content.insert(format!("/v2/thing/blobs/{}", digest(config.as_bytes())), (blob, config.into_bytes()));
    for name in ["latest".to_owned(), digest(manifest.as_bytes())] {
        content
            .insert(format!("/v2/thing/manifests/{name}"), (MANIFEST_TYPE.to_owned(), manifest.clone().into_bytes()));
    }
}

async fn handle_request(mut stream: TcpStream, content: RegistryContent) -> std::io::Result<()> {
    let mut request = vec![stream.read_u8().await?];
    if !request[0].is_ascii_alphabetic() {
        // The engine tries TLS first; closing the connection at once makes it fall back to HTTP without a long wait.
        return Ok(());
    }
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let mut words = text.split_ascii_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let entry = match path {
        "/v2/" => Some(("application/json".to_owned(), b"{}".to_vec())),
        path => content.lock().expect("lock").get(path).cloned(),
    };
    let (status, (content_type, body)) = entry.map_or(("404 Not Found", Default::default()), |entry| ("200 OK", entry));
    let header = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\nDocker-Content-Digest: {}\r\nConnection: close\r\n\r\n",
        body.len(),
        digest(&body)
    );
    stream.write_all(header.as_bytes()).await?;
    if method != "HEAD" {
        stream.write_all(&body).await?;
    }
    stream.shutdown().await
}

async fn serve_registry(listener: TcpListener, content: RegistryContent) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(handle_request(stream, Arc::clone(&content)));
    }
}

fn always_pulled_unit(reference: &str) -> Unit {
    let mut unit = container_unit("web", json!({ "Entrypoint": ["/text"] }));
    if let Body::Container(container) = &mut unit.body {
        container.image = ImageSource::Reference(reference.to_owned());
        container.pull = PullPolicy::Always;
    }
    unit
}

#[tokio::test]
async fn pull_always_detects_newer_registry_image() {
    if should_skip().await {
        return;
    }
    // Engines accept a registry on the loopback interface without TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let reference = format!("{}/thing:latest", listener.local_addr().expect("address"));
    let content = RegistryContent::default();
    publish_image(&content, "first");
    let registry = tokio::spawn(serve_registry(listener, Arc::clone(&content)));
    let preview = TestPreview::open("pulled", vec![always_pulled_unit(&reference)]).await;
    let images = || async { preview.driver.inspect_images(&preview.scope()).await.expect("images") };
    assert_eq!(images().await.stale["web"], "not present");
    let first = preview.perform_ok(prepare_action("web")).await.image.expect("an image");
    assert_eq!(images().await.current["web"], first, "unchanged, so current");
    publish_image(&content, "second");
    assert!(images().await.stale["web"].contains("the registry has a different"), "{:?}", images().await);
    let second = preview.perform_ok(prepare_action("web")).await.image.expect("an image");
    assert_ne!(second, first);
    assert_eq!(images().await.current["web"], second);
    registry.abort();
    assert!(registry.await.is_err());
    assert_eq!(images().await.current["web"], second, "the local image is used without the registry");
    let notes = preview.perform_ok(prepare_action("web")).await.notes;
    assert!(notes.iter().any(|note| note.contains("using the local image")), "{notes:?}");
    for image in [first, second] {
        let options = bollard::query_parameters::RemoveImageOptionsBuilder::default().force(true).build();
        drop(engine().remove_image(&image, Some(options), None).await);
    }
    preview.close().await;
}
