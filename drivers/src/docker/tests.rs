//! Tests for the choice of the endpoint and the classification of engine errors.

use super::problems::{classify, find_taken_port, innermost_message};
use super::{DockerEnv, choose_endpoint};
use crate::problem::ProblemKind;

#[test]
fn docker_host_and_context_override_default_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let docker_env = |host: Option<&str>, context: Option<&str>| DockerEnv {
        docker_host: host.map(str::to_owned),
        docker_context: context.map(str::to_owned),
        config_folder: Some(folder.path().to_owned()),
        ..DockerEnv::default()
    };
    assert_eq!(choose_endpoint(&docker_env(None, None)).unwrap().host, super::context::DEFAULT_HOST);
    // The folder's name is the SHA-256 of `colima`.
    let metadata = folder.path().join("contexts/meta/f24fd3749c1368328e2b149bec149cb6795619f244c5b584e844961215dadd16");
    std::fs::create_dir_all(&metadata).unwrap();
    std::fs::write(metadata.join("meta.json"), r#"{"Endpoints":{"docker":{"Host":"unix:///colima.sock"}}}"#).unwrap();
    std::fs::write(folder.path().join("config.json"), r#"{"currentContext":"colima"}"#).unwrap();
    assert_eq!(choose_endpoint(&docker_env(None, None)).unwrap().host, "unix:///colima.sock");
    assert_eq!(choose_endpoint(&docker_env(None, Some("default"))).unwrap().host, super::context::DEFAULT_HOST);
    assert!(choose_endpoint(&docker_env(None, Some("absent"))).unwrap_err().message.contains("`absent`"));
    assert_eq!(choose_endpoint(&docker_env(Some("tcp://a:1"), Some("colima"))).unwrap().host, "tcp://a:1");
    assert!(choose_endpoint(&docker_env(Some("ssh://a"), None)).unwrap_err().hint.unwrap().contains("ssh -NL"));
}

#[test]
fn tls_requires_all_certificate_files() {
    let folder = tempfile::tempdir().unwrap();
    let mut docker_env = DockerEnv {
        docker_host: Some("tcp://far:2376".to_owned()),
        tls_verify: true,
        cert_path: Some(folder.path().join("certs")),
        config_folder: Some(folder.path().to_owned()),
        ..DockerEnv::default()
    };
    let problem = choose_endpoint(&docker_env).unwrap_err();
    assert!(problem.message.contains("certs/ca.pem"), "{problem}");
    let write_certificates = |subfolder: &str| {
        let subfolder = folder.path().join(subfolder);
        std::fs::create_dir_all(&subfolder).unwrap();
        for name in ["ca.pem", "cert.pem", "key.pem"] {
            std::fs::write(subfolder.join(name), "").unwrap();
        }
        subfolder
    };
    let certs = write_certificates("certs");
    assert_eq!(choose_endpoint(&docker_env).unwrap().tls.unwrap().key, certs.join("key.pem"));
    docker_env.tls_verify = false;
    assert_eq!(choose_endpoint(&docker_env).unwrap().tls, None, "like the docker command: TLS only if requested");
    docker_env.docker_host = Some("https://far:2376".to_owned());
    assert!(choose_endpoint(&docker_env).unwrap_err().hint.unwrap().contains("DOCKER_TLS_VERIFY"));
    // Contexts have their own certificates. The folder's name is the SHA-256 of `colima`.
    let id = "f24fd3749c1368328e2b149bec149cb6795619f244c5b584e844961215dadd16";
    let metadata = write_certificates(&format!("contexts/meta/{id}")).join("meta.json");
    let tls_folder = write_certificates(&format!("contexts/tls/{id}/docker"));
    docker_env.docker_host = None;
    docker_env.docker_context = Some("colima".to_owned());
    std::fs::write(&metadata, r#"{"Endpoints":{"docker":{"Host":"tcp://far:2376"}}}"#).unwrap();
    assert_eq!(choose_endpoint(&docker_env).unwrap().tls.unwrap().ca, tls_folder.join("ca.pem"));
    std::fs::write(&metadata, r#"{"Endpoints":{"docker":{"Host":"tcp://far:2376","SkipTLSVerify":true}}}"#).unwrap();
    assert!(choose_endpoint(&docker_env).unwrap_err().message.contains("does not verify"));
}

#[test]
fn engine_errors_are_classified() {
    let cases = [
        (500, "driver failed: Bind for 127.0.0.1:1 failed: port is already allocated", ProblemKind::PortTaken),
        (400, "exec: \"/nope\": stat /nope: no such file or directory: unknown", ProblemKind::ProgramNotFound),
        (400, "exec: \"/x\": permission denied: unknown", ProblemKind::PermissionDenied),
        (400, "standard_init_linux.go:228: exec user process caused: exec format error", ProblemKind::ExecFormat),
        (404, "No such image: a:b", ProblemKind::ImageNotFound),
        (404, "pull access denied for a, repository does not exist", ProblemKind::PullDenied),
        (404, "manifest for a:b not found: manifest unknown", ProblemKind::ImageNotFound),
        (404, "No such container: a", ProblemKind::NotFound),
        (500, "write /a: no space left on device", ProblemKind::DiskFull),
    ];
    for (status, text, kind) in cases {
        assert_eq!(classify(status, text), kind, "{text}");
    }
}

#[test]
fn error_wrappers_are_stripped_and_taken_port_found() {
    let oci = "OCI runtime create failed: runc create failed: unable to start container process: ";
    for (message, expected) in [
        ("exec: \"x\": executable file not found in $PATH: unknown", "\"x\": executable file not found in $PATH"),
        (
            "error mounting \"/a\" to rootfs at \"/b\": mkdir /b: read-only file system: unknown",
            "error mounting \"/a\" to rootfs at \"/b\": mkdir /b: read-only file system",
        ),
        ("error during container init: chdir to cwd: not a directory: unknown", "chdir to cwd: not a directory"),
    ] {
        assert_eq!(innermost_message(&format!("{oci}{message}")), expected);
    }
    assert_eq!(innermost_message("network x not found"), "network x not found");
    assert_eq!(find_taken_port("Bind for 127.0.0.1:8080 failed: port is already allocated"), Some(8080));
    assert_eq!(find_taken_port("listen tcp4 0.0.0.0:x"), None);
}

#[test]
fn exit_codes_above_128_decode_to_signals() {
    let cases = [(0, None), (3, None), (127, None), (128, None), (137, Some(9)), (143, Some(15)), (255, None)];
    for (code, signal) in cases {
        let (exit_code, decoded_signal) = super::observe::decode_exit_code(Some(code));
        assert_eq!((decoded_signal, exit_code.is_none()), (signal, signal.is_some()), "{code}");
    }
}

#[test]
fn isolated_engines_are_recognised() {
    use bollard::models::{SystemVersion, SystemVersionComponents, SystemVersionPlatform};
    let version = |platform: &str, component: &str| SystemVersion {
        platform: Some(SystemVersionPlatform { name: platform.to_owned() }),
        components: Some(vec![SystemVersionComponents {
            name: component.to_owned(),
            ..SystemVersionComponents::default()
        }]),
        ..SystemVersion::default()
    };
    let is_isolated_here = !cfg!(target_os = "linux");
    assert_eq!(
        super::connect::is_isolated_engine(&version("Docker Engine - Community", "containerd")),
        is_isolated_here
    );
    assert!(super::connect::is_isolated_engine(&version("Docker Desktop 4.30.0 (149282)", "Engine")));
    assert!(super::connect::is_isolated_engine(&version("", "rootlesskit")));
    assert!(super::observe::is_local_address("127.0.0.1".parse().unwrap()));
    assert!(!super::observe::is_local_address("203.0.113.1".parse().unwrap()));
}
