//! The local engine behind TLS: a listener of the test requires client certificates and forwards everything to the
//! engine.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use drivers::docker::{DockerDriver, DockerEnv, choose_endpoint};
use drivers::problem::ProblemKind;
use plan::application::RuntimeKind;
use plan::step::Action;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, UnixStream};
use tokio_rustls::TlsAcceptor;

use crate::test_preview::{RUN_UNTIL_STOPPED, TestPreview, create_action, shell_unit, should_skip};

/// The socket of the engine that these tests use, if it has one.
fn engine_socket() -> Option<PathBuf> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    host.strip_prefix("unix://").map(PathBuf::from).filter(|path| path.exists())
}

/// Creates an authority valid for one day, the engine's certificate for 127.0.0.1, and the client's certificate.
fn create_certificates(folder: &Path) -> bool {
    let script = "
        openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=ca -keyout ca-key.pem -out ca.pem
        printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth\\n' > server.ext
        printf 'extendedKeyUsage=clientAuth\\n' > client.ext
        for who in server client; do
            openssl req -newkey rsa:2048 -nodes -subj /CN=$who -keyout $who-key.pem -out $who.csr
            openssl x509 -req -days 1 -in $who.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial \
                -extfile $who.ext -out $who.pem
        done
        cp client.pem cert.pem; cp client-key.pem key.pem";
    let mut command = Command::new("sh");
    command.args(["-ec", script]).current_dir(folder).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

fn server_config(folder: &Path) -> ServerConfig {
    let certificate = |name: &str| CertificateDer::from_pem_file(folder.join(name)).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate("ca.pem")).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client_verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let key = PrivateKeyDer::from_pem_file(folder.join("server-key.pem")).expect("a key");
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(client_verifier.build().expect("a verifier"))
        .with_single_cert(vec![certificate("server.pem")], key)
        .expect("an identity")
}

async fn forward_connections(listener: TcpListener, acceptor: TlsAcceptor, engine: PathBuf) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, engine) = (acceptor.clone(), engine.clone());
        tokio::spawn(async move {
            let mut client_stream = acceptor.accept(stream).await?;
            let mut engine_stream = UnixStream::connect(engine).await?;
            tokio::io::copy_bidirectional(&mut client_stream, &mut engine_stream).await
        });
    }
}

#[tokio::test]
async fn tls_engine_is_reachable_and_treated_as_remote() {
    if should_skip().await {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let Some(engine) = engine_socket().filter(|_| create_certificates(folder.path())) else {
        writeln!(std::io::stderr(), "skipped: no engine's socket or no openssl").expect("standard error is open");
        return;
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let host = format!("tcp://{}", listener.local_addr().expect("address"));
    let forwarder =
        tokio::spawn(forward_connections(listener, TlsAcceptor::from(Arc::new(server_config(folder.path()))), engine));
    let docker_env = DockerEnv {
        docker_host: Some(host),
        tls_verify: true,
        cert_path: Some(folder.path().to_owned()),
        ..DockerEnv::default()
    };
    let endpoint =
        DockerDriver::new(choose_endpoint(&docker_env).expect("valid"), "test").ping().await.expect("answers");
    assert!(endpoint.is_isolated && endpoint.tls.is_some(), "{endpoint:?}");
    let unverified = DockerEnv { tls_verify: false, ..docker_env.clone() };
    let problem = DockerDriver::new(choose_endpoint(&unverified).expect("valid"), "test")
        .ping()
        .await
        .expect_err("certificates are required");
    assert_eq!(problem.kind, ProblemKind::Unavailable, "{problem:?}");
    let mut preview = TestPreview::with_docker_env(docker_env, "far", vec![shell_unit("web", RUN_UNTIL_STOPPED)]);
    preview.perform_ok(Action::CreateNetwork { runtime: RuntimeKind::DOCKER }).await;
    preview.secrets_folder = Some(preview.folder.path().to_owned());
    let problem = preview.perform(create_action("web")).await.expect_err("secrets stay on this machine");
    assert!(problem.kind == ProblemKind::Refused && problem.message.contains("secrets"), "{problem:?}");
    preview.secrets_folder = None;
    preview.create("web").await;
    preview.close().await;
    forwarder.abort();
}
