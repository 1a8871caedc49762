//! HTTP requests of sources: bounded in time and size, over TLS with the root certificates of the system, without
//! redirects, through the proxy of the environment.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use host::clock::now_milliseconds;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Matcher;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use zeroize::Zeroizing;

use crate::form_encoding::encode_form;
use crate::identity::is_safe_url;
use crate::problem::SourceProblem;
use crate::redaction::RequestSecrets;

/// From the first packet to the last byte.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(8);
const BODY_BYTES_MAX: usize = 1 << 20;
pub(crate) const FORM_MEDIA_TYPE: &str = "application/x-www-form-urlencoded";
const USER_AGENT: &str = concat!("pdev/", env!("CARGO_PKG_VERSION"));

pub(crate) struct HttpClient {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    proxy: Option<ProxyClient>,
    timeout: Duration,
}

/// The client for `HTTPS_PROXY`. Plain requests to the loopback never use it.
struct ProxyClient {
    rules: Matcher,
    client: Client<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>,
    /// The name for messages: the URL without the credentials of the proxy.
    name: String,
}

pub(crate) struct HttpResponse {
    pub status: u16,
    /// The server's clock minus this machine's in milliseconds, from its `Date`. 0 if unknown or within a few seconds.
    pub skew: i64,
    /// Whether the response has a valid `Date`.
    pub has_date: bool,
    pub body: Zeroizing<Vec<u8>>,
    pub host: String,
}

impl HttpResponse {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Parses the body as JSON. The error never contains the body, which may be a secret.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, SourceProblem> {
        serde_json::from_slice(&self.body).map_err(|_| {
            SourceProblem::Transient(format!(
                "`{}` answered {} with something that is not what was asked for",
                self.host, self.status
            ))
        })
    }

    /// The error for a status without a usable body.
    pub fn unexpected_status_problem(&self) -> SourceProblem {
        let message = format!("`{}` answered {}", self.host, self.status);
        if self.status == 429 || self.status >= 500 {
            SourceProblem::Transient(message)
        } else {
            SourceProblem::Refused(message)
        }
    }
}

impl HttpClient {
    /// # Errors
    /// When the system has no root certificates.
    pub fn new() -> Result<Self, SourceProblem> {
        Self::with_proxy_rules(Matcher::from_env())
    }

    /// A client with another timeout, for requests where giving up costs more than waiting.
    pub fn with_timeout(timeout: Duration) -> Result<Self, SourceProblem> {
        Ok(Self { timeout, ..Self::new()? })
    }

    fn with_proxy_rules(rules: Matcher) -> Result<Self, SourceProblem> {
        let tls = tls_config()?;
        let builder = || HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http().enable_http1();
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        // The TLS connector passes `https` URLs to this connector.
        tcp.enforce_http(false);
        // One proxy serves all HTTPS requests. The rules decide for each request whether it applies, so this host only
        // has to match no exception.
        let proxy = rules.intercept(&Uri::from_static("https://host-of-no-rule.invalid")).map(|proxy| {
            let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp.clone());
            if let Some(authorization) = proxy.basic_auth() {
                tunnel = tunnel.with_auth(authorization.clone());
            }
            let client = Client::builder(TokioExecutor::new()).build(builder().wrap_connector(tunnel));
            ProxyClient { rules, client, name: redact_url(&proxy.uri().to_string()) }
        });
        let client = Client::builder(TokioExecutor::new()).build(builder().wrap_connector(tcp));
        Ok(Self { client, proxy, timeout: REQUEST_TIMEOUT })
    }

    /// The proxy for this URL, `None` for a direct request, or an error for an unsupported proxy.
    fn proxy_for(&self, uri: &Uri) -> Result<Option<&ProxyClient>, SourceProblem> {
        let applies = |proxy: &&ProxyClient| uri.scheme_str() == Some("https") && proxy.rules.intercept(uri).is_some();
        match self.proxy.as_ref().filter(applies) {
            // The tunnel connects to the proxy by plain TCP, so TLS and SOCKS proxies cannot work.
            Some(proxy) if !proxy.name.starts_with("http://") => Err(SourceProblem::Refused(format!(
                "the proxy `{}` is no `http://` one, and no other kind is supported",
                proxy.name
            ))),
            proxy => Ok(proxy),
        }
    }

    pub async fn get(&self, url: &str, headers: &[(&str, &str)]) -> Result<HttpResponse, SourceProblem> {
        self.send(Method::GET, url, headers, Vec::new()).await
    }

    pub async fn post_form(&self, url: &str, fields: &[(&str, &str)]) -> Result<HttpResponse, SourceProblem> {
        self.post(url, FORM_MEDIA_TYPE, encode_form(fields).into_bytes()).await
    }

    pub async fn post(&self, url: &str, media: &str, body: Vec<u8>) -> Result<HttpResponse, SourceProblem> {
        self.send(Method::POST, url, &[("content-type", media), ("accept", "application/json")], body).await
    }

    pub async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Vec<u8>,
    ) -> Result<HttpResponse, SourceProblem> {
        // The configuration is already checked. This check also covers URLs that a server returns.
        if !is_safe_url(url) {
            return Err(SourceProblem::Refused(format!("`{}` is no https URL", redact_url(url))));
        }
        let uri: Uri = url.parse().map_err(|_| SourceProblem::Refused(format!("`{}` is no URL", redact_url(url))))?;
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let proxy = self.proxy_for(&uri)?;
        let request_secrets = RequestSecrets::from_request(headers, &body);
        let mut request = Request::builder().method(method).uri(uri).header(header::USER_AGENT, USER_AGENT);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request
            .body(Full::new(Bytes::from(body)))
            .map_err(|_| SourceProblem::Refused(format!("a header for `{host}` contains invalid characters")))?;
        let exchange = async {
            let result = match proxy {
                Some(proxy) => proxy.client.request(request).await,
                None => self.client.request(request).await,
            };
            let proxy_name = proxy.map(|proxy| proxy.name.as_str());
            let response =
                result.map_err(|error| SourceProblem::Transient(describe_connect_error(&host, proxy_name, &error)))?;
            let (status, clock_offset) = (response.status().as_u16(), skew(response.headers()));
            let body = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
            let body = body
                .map_err(|_| SourceProblem::Transient(format!("`{host}` broke its answer off, or sent over 1 MiB")))?;
            let mut body = Zeroizing::new(body.to_bytes().to_vec());
            if !(200..300).contains(&status) {
                // Only errors are shown to users, so only they need redaction.
                request_secrets.redact(&mut body);
            }
            let (skew, has_date) = (clock_offset.unwrap_or_default(), clock_offset.is_some());
            Ok(HttpResponse { status, skew, has_date, body, host: host.clone() })
        };
        let timed_out =
            |_| SourceProblem::Transient(format!("`{host}` did not answer within {} s", self.timeout.as_secs()));
        tokio::time::timeout(self.timeout, exchange).await.map_err(timed_out)?
    }
}

/// TLS with the root certificates of the system.
fn tls_config() -> Result<ClientConfig, SourceProblem> {
    let unusable = |error: &dyn std::error::Error| {
        SourceProblem::Refused(format!("no certificates of this system can be used: {error}"))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(&error))?;
    Ok(builder.with_native_roots().map_err(|error| unusable(&error))?.with_no_client_auth())
}

/// The innermost error is the most specific one (`Connection refused`).
fn describe_connect_error(host: &str, proxy: Option<&str>, error: &hyper_util::client::legacy::Error) -> String {
    let mut reason: &dyn std::error::Error = error;
    while let Some(inner) = reason.source() {
        reason = inner;
    }
    match proxy {
        Some(proxy) => format!("`{host}` cannot be reached through the proxy `{proxy}`: {reason}"),
        None => format!("`{host}` cannot be reached: {reason}"),
    }
}

/// Smaller differences count as equal clocks: `Date` has no fractions of a second, and the response took time.
const SKEW_MIN: i64 = 5_000;

fn skew(headers: &http::HeaderMap) -> Option<i64> {
    let date = headers.get(header::DATE).and_then(|value| value.to_str().ok());
    // A date of RFC 9110 is one of RFC 2822 with `GMT` as the zone.
    let date = date.and_then(|text| OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok());
    let difference = date?.unix_timestamp() * 1000 - now_milliseconds();
    Some(if difference.abs() < SKEW_MIN { 0 } else { difference })
}

fn redact_url(url: &str) -> String {
    // A query may contain secrets.
    url.split('?').next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxy_rules_select_requests() {
        let rules = Matcher::builder()
            .https("http://me:canary@proxy.example:3128")
            .http("http://other:1")
            .no("in.example,10.0.0.0/8");
        let http = HttpClient::with_proxy_rules(rules.build()).unwrap();
        for (url, through) in [
            ("https://sts.amazonaws.com/", true),
            ("https://in.example/", false),
            ("https://deep.in.example/", false),
            ("https://10.1.2.3/", false),
            ("http://127.0.0.1:80/", false),
        ] {
            let proxy = http.proxy_for(&url.parse().unwrap()).unwrap().map(|proxy| proxy.name.as_str());
            assert_eq!(proxy, through.then_some("http://proxy.example:3128/"), "{url}");
        }
        assert!(HttpClient::with_proxy_rules(Matcher::builder().build()).unwrap().proxy.is_none());
        let socks = HttpClient::with_proxy_rules(Matcher::builder().all("socks5://proxy:1").build()).unwrap();
        assert!(socks.proxy_for(&Uri::from_static("https://a.example")).is_err());
    }

    #[test]
    fn clock_skew_is_read_from_date_header() {
        let mut headers = http::HeaderMap::new();
        headers.insert(header::DATE, "Tue, 15 Nov 1994 08:12:31 GMT".parse().unwrap());
        assert!(skew(&headers).unwrap() < -1_000_000_000);
        headers.insert(header::DATE, "now".parse().unwrap());
        assert_eq!(skew(&headers), None);
    }
}
