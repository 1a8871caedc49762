//! Requests of SDKs and of other clients; the responses are compared byte for byte.

use http::Request;

use super::*;
use crate::identity;

const NOW: i64 = 1_795_000_000_000;
const HOST: &str = "127.0.0.1:20000";

fn endpoint_access() -> EndpointAccess {
    EndpointAccess::new("a".into(), Secret::new(b"right".to_vec()), vec![HOST.into()])
}

fn identity(more: &str) -> Identity {
    let text = format!("[a]\nsource = \"exec\"\ncommand = [\"x\"]\n{more}");
    identity::read(&text).0.all.remove("a").unwrap()
}

/// Parses `METHOD /path`, followed by one header per line.
fn request_parts(request: &str) -> Parts {
    let mut lines = request.lines();
    let (method, path) = lines.next().unwrap().split_once(' ').unwrap();
    let mut builder = Request::builder().method(method).uri(path);
    if !request.contains("\nHost:") {
        builder = builder.header("Host", HOST);
    }
    for line in lines {
        let (name, value) = line.split_once(": ").unwrap();
        builder = builder.header(name, value);
    }
    builder.body(()).unwrap().into_parts().0
}

fn describe_response(response: &EndpointResponse) -> String {
    let body = String::from_utf8_lossy(response.body.expose()).trim_end().replace('\n', "|");
    format!("{} {body}", response.status.as_u16())
}

fn describe_google_request(request: &str) -> String {
    describe_request(request, "cloud = \"google\"\nproject = \"shop\"\nemail = \"dev@shop.iam.gserviceaccount.com\"\n")
}

fn describe_request(request: &str, more: &str) -> String {
    match parse_request(&endpoint_access(), &request_parts(request), NOW) {
        ParsedRequest::Response(response) => describe_response(&response),
        ParsedRequest::RoleName => "role".into(),
        ParsedRequest::Credential(protocol) => format!("{protocol:?}"),
        ParsedRequest::Metadata(query) => match answer_metadata_query(&query, &identity(more)) {
            MetadataAnswer::Response(response) => {
                assert!(response.headers.contains(&("metadata-flavor", "Google".into())), "{request}");
                describe_response(&response)
            }
            MetadataAnswer::NeedsCredential(protocol) => format!("{protocol:?}"),
        },
    }
}

fn check_cases(cases: &[(&str, &str)]) {
    for (request, expected) in cases {
        assert_eq!(describe_google_request(request), *expected, "{request}");
    }
}

#[test]
fn aws_container_requires_exact_token() {
    let unauthorized = "401 {\"code\":\"InvalidToken\",\"message\":\"the authorization token is absent or wrong: it is in the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE names\"}";
    check_cases(&[
        ("GET /aws/credentials\nAuthorization: right", "AwsContainer"),
        ("GET /aws/credentials\nAuthorization: wrong", unauthorized),
        ("GET /aws/credentials\nAuthorization: righ", unauthorized),
        ("GET /aws/credentials\nAuthorization: Bearer right", unauthorized),
        ("GET /aws/credentials", unauthorized),
        ("POST /aws/credentials\nAuthorization: right", "405 only GET is answered here"),
        ("GET /aws/other\nAuthorization: right", "404 there is no such route; see docs/credentials.md of pdev"),
    ]);
    // An empty token file gives access to no client.
    let empty_token = EndpointAccess::new("a".into(), Secret::new(Vec::new()), vec![HOST.into()]);
    assert!(matches!(
        parse_request(&empty_token, &request_parts("GET /aws/credentials"), NOW),
        ParsedRequest::Response(_)
    ));
}

#[test]
fn aws_instance_requires_valid_session_token() {
    check_cases(&[
        ("PUT /latest/api/token", "400 400 - Bad Request"),
        ("PUT /latest/api/token\nX-aws-ec2-metadata-token-ttl-seconds: 0", "400 400 - Bad Request"),
        ("PUT /latest/api/token\nX-aws-ec2-metadata-token-ttl-seconds: 21601", "400 400 - Bad Request"),
        ("GET /latest/api/token\nX-aws-ec2-metadata-token-ttl-seconds: 60", "405 405 - Method Not Allowed"),
        ("GET /latest/meta-data/iam/security-credentials/", "401 401 - Unauthorized"),
    ]);
    let ParsedRequest::Response(response) = parse_request(
        &endpoint_access(),
        &request_parts("PUT /latest/api/token\nX-aws-ec2-metadata-token-ttl-seconds: 60"),
        NOW,
    ) else {
        panic!("no token")
    };
    assert_eq!(response.headers, [("x-aws-ec2-metadata-token-ttl-seconds", "60".to_owned())]);
    let token = String::from_utf8(response.body.expose().to_vec()).unwrap();
    let at = |path: &str, token: &str, now| {
        let request = request_parts(&format!("GET /latest/meta-data/iam/{path}\nX-aws-ec2-metadata-token: {token}"));
        match parse_request(&endpoint_access(), &request, now) {
            ParsedRequest::Response(response) => response.status.as_u16().to_string(),
            ParsedRequest::RoleName => "role".into(),
            ParsedRequest::Credential(protocol) => format!("{protocol:?}"),
            ParsedRequest::Metadata(_) => "metadata".into(),
        }
    };
    let longer = token.replacen('1', "2", 1);
    for (path, token, now, expected) in [
        ("security-credentials/", token.as_str(), NOW, "role"),
        ("security-credentials", &token, NOW, "role"),
        ("security-credentials/a", &token, NOW + 59_000, "AwsInstance"),
        ("security-credentials/a", &token, NOW + 60_000, "401"),
        ("security-credentials/b", &token, NOW, "404"),
        ("info", &token, NOW, "404"),
        ("security-credentials/a", &longer, NOW, "401"),
        ("security-credentials/a", "x", NOW, "401"),
    ] {
        assert_eq!(at(path, token, now), expected, "{path} {token}");
    }
}

#[test]
fn google_metadata_routes_are_answered() {
    let flavor = "\nMetadata-Flavor: Google";
    let request = |path: &str| describe_google_request(&format!("GET /computeMetadata/v1/{path}{flavor}"));
    let account = r#"{"aliases":["default"],"email":"dev@shop.iam.gserviceaccount.com","scopes":["https://www.googleapis.com/auth/cloud-platform"]}"#;
    for (path, expected) in [
        ("project/project-id", "200 shop"),
        ("project/numeric-project-id", "200 0"),
        ("universe/universe-domain", "200 googleapis.com"),
        ("instance/service-accounts/", "200 default/|dev@shop.iam.gserviceaccount.com/"),
        ("instance/service-accounts/default/?recursive=true", &format!("200 {account}")),
        ("instance/service-accounts/default/email", "200 dev@shop.iam.gserviceaccount.com"),
        ("instance/service-accounts/default/token?scopes=a,b", "Google"),
        ("instance/service-accounts/dev%40shop.iam.gserviceaccount.com/token", "Google"),
        (
            "instance/service-accounts/other@x/token",
            "404 there is no service account `other@x`; there is `dev@shop.iam.gserviceaccount.com`",
        ),
        (
            "instance/service-accounts/default/identity?audience=https%3A%2F%2Frun.example&format=full",
            "GoogleIdToken { audience: \"https://run.example\" }",
        ),
        ("instance/service-accounts/default/identity?format=full", "400 non-empty audience parameter required"),
        ("instance/attributes/ssh-keys", "404 this metadata is not served here"),
    ] {
        assert_eq!(request(path), expected, "{path}");
    }
    check_cases(&[
        ("GET /", "200 computeMetadata/"),
        (
            "GET /computeMetadata/v1/instance/service-accounts/default/token",
            "403 Missing Metadata-Flavor:Google header.",
        ),
    ]);
    assert_eq!(
        describe_request(&format!("GET /computeMetadata/v1/project/project-id{flavor}"), ""),
        "404 the identity names no `project` in identities.toml"
    );
}

#[test]
fn azure_requires_identity_or_metadata_header() {
    let header = derive_secret(&Secret::new(b"right".to_vec()), azure::HEADER_LABEL);
    let azure_credential = "Azure { resource: \"https://vault.azure.net\" }".to_owned();
    let query = "api-version=2019-08-01&resource=https%3A%2F%2Fvault.azure.net";
    for (request, expected) in [
        (format!("GET /msi/token?{query}\nX-IDENTITY-HEADER: {header}"), azure_credential.clone()),
        (
            format!("GET /msi/token?{query}\nX-IDENTITY-HEADER: right"),
            "401 {\"error\":\"unauthorized_client\",\"error_description\":\"the header `X-IDENTITY-HEADER` is missing or does not equal IDENTITY_HEADER\",\"message\":\"the header `X-IDENTITY-HEADER` is missing or does not equal IDENTITY_HEADER\"}".into(),
        ),
        (format!("GET /metadata/identity/oauth2/token?{query}\nMetadata: true"), azure_credential),
        (
            format!("GET /metadata/identity/oauth2/token?{query}"),
            "400 {\"error\":\"invalid_request\",\"error_description\":\"Required metadata header not specified\",\"message\":\"Required metadata header not specified\"}".into(),
        ),
        (
            "GET /metadata/identity/oauth2/token\nMetadata: true".into(),
            "400 {\"error\":\"invalid_request\",\"error_description\":\"`resource` is missing\",\"message\":\"`resource` is missing\"}".into(),
        ),
    ] {
        assert_eq!(describe_google_request(&request), expected, "{request}");
    }
}

#[test]
fn browsers_and_proxies_are_refused() {
    let proxied = "403 {\"code\":\"Forbidden\",\"message\":\"requests of browsers and through proxies are refused\"}";
    let host = "403 {\"code\":\"Forbidden\",\"message\":\"this `Host` is not served here\"}";
    let good = "GET /aws/credentials\nAuthorization: right";
    for (header, expected) in [
        ("Host: evil.example:20000", host),
        ("Host: 127.0.0.1:20001", host),
        ("Host: 127.0.0.1", host),
        ("Origin: null", proxied),
        ("Sec-Fetch-Site: none", proxied),
        ("sec-fetch-mode: cors", proxied),
        ("X-Forwarded-For: 1.2.3.4", proxied),
        ("Referer: http://x/", proxied),
        ("User-Agent: Boto3", "AwsContainer"),
    ] {
        assert_eq!(describe_google_request(&format!("{good}\n{header}")), expected, "{header}");
    }
}

#[test]
fn an_identity_answers_for_its_own_cloud_only() {
    let resource = String::new();
    for (more, protocol, expected) in [
        ("cloud = \"google\"\n", EndpointProtocol::Google, "gce"),
        ("", EndpointProtocol::AwsContainer, "ecs"),
        ("", EndpointProtocol::AwsInstance, "imds"),
        ("cloud = \"azure\"\n", EndpointProtocol::Azure { resource }, "msi"),
        (
            "cloud = \"google\"\n",
            EndpointProtocol::AwsContainer,
            "`a` is an identity of Google, and it was asked as one of AWS",
        ),
        ("", EndpointProtocol::Google, "`a` is an identity of AWS, and it was asked as one of Google"),
    ] {
        let format = protocol.credential_format(&identity(more), NOW);
        let description = format.map_or_else(|problem| problem.message, |format| format.name().to_owned());
        assert_eq!(description, expected, "{more}");
    }
}

#[test]
fn each_cloud_gets_its_sdk_variables() {
    let token = Secret::new(b"right".to_vec());
    let describe_variables = |cloud, more, shares_home| {
        let location = EndpointLocation {
            address: HOST.parse().unwrap(),
            token: &token,
            token_folder: "/run/secrets",
            shares_home,
        };
        let all = variables(cloud, &identity(more), &location);
        let lines: Vec<String> = all.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect();
        assert!(lines.iter().all(|line| !line.contains("right")));
        lines.join(" ")
    };
    let aws = "AWS_CONTAINER_CREDENTIALS_FULL_URI=http://127.0.0.1:20000/aws/credentials AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=/run/secrets/endpoint.token";
    assert_eq!(describe_variables(Cloud::Aws, "", false), aws);
    assert_eq!(
        describe_variables(Cloud::Aws, "", true),
        format!("{aws} AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_CONFIG_FILE=/dev/null")
    );
    let google = "GCE_METADATA_HOST=127.0.0.1:20000 GCE_METADATA_IP=127.0.0.1:20000 GCE_METADATA_ROOT=127.0.0.1:20000 GOOGLE_CLOUD_PROJECT=p";
    assert_eq!(describe_variables(Cloud::Google, "project = \"p\"\n", false), google);
    assert_eq!(
        describe_variables(Cloud::Google, "project = \"p\"\n", true),
        format!("{google} CLOUDSDK_CONFIG=/run/secrets/gcloud")
    );
    let azure = describe_variables(Cloud::Azure, "", true);
    assert!(azure.starts_with("IDENTITY_ENDPOINT=http://127.0.0.1:20000/msi/token IDENTITY_HEADER="), "{azure}");
}
