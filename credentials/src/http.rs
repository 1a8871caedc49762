//! The few HTTP calls of sources: bounded in time and size, over TLS with the system's roots, no redirects followed, through
//! the proxy that the environment names.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
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

use crate::identity::is_safe_url;
use crate::redaction::RequestSecrets;
use crate::source::SourceProblem;

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

/// The way through `HTTPS_PROXY`; what goes to the loopback in the clear never takes it.
struct ProxyClient {
    rules: Matcher,
    client: Client<HttpsConnector<Tunnel<HttpConnector>>, Full<Bytes>>,
    /// As told in messages: without what one signs in to it with.
    name: String,
}

pub(crate) struct HttpResponse {
    pub status: u16,
    /// The server's clock minus ours in milliseconds, where its `Date` says so and it is more than the header's second.
    pub skew: i64,
    /// Whether it says so at all.
    pub has_date: bool,
    pub body: Zeroizing<Vec<u8>>,
    pub host: String,
}

impl HttpResponse {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON; the words never repeat it.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, SourceProblem> {
        serde_json::from_slice(&self.body).map_err(|_| {
            SourceProblem::Transient(format!(
                "`{}` answered {} with something that is not what was asked for",
                self.host, self.status
            ))
        })
    }

    /// An answer that says nothing of use.
    pub fn unexpected_status_problem(&self) -> SourceProblem {
        let words = format!("`{}` answered {}", self.host, self.status);
        if self.status == 429 || self.status >= 500 {
            SourceProblem::Transient(words)
        } else {
            SourceProblem::Refused(words)
        }
    }
}

impl HttpClient {
    /// # Errors
    /// When the system has no roots to trust.
    pub fn new() -> Result<Self, SourceProblem> {
        Self::with_proxy_rules(Matcher::from_env())
    }

    /// Waits longer for an answer, where giving up costs more than waiting.
    pub fn with_timeout(limit: Duration) -> Result<Self, SourceProblem> {
        Ok(Self { timeout: limit, ..Self::new()? })
    }

    fn with_proxy_rules(rules: Matcher) -> Result<Self, SourceProblem> {
        let secure = tls_config()?;
        let builder = || HttpsConnectorBuilder::new().with_tls_config(secure.clone()).https_or_http().enable_http1();
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_LIMIT));
        tcp.enforce_http(false);
        // One proxy serves all of HTTPS; which hosts it is for is asked of the rules each time.
        let proxy = rules.intercept(&Uri::from_static("https://host-of-no-rule.invalid")).map(|found| {
            let mut tunnel = Tunnel::new(found.uri().clone(), tcp.clone());
            if let Some(signed_in) = found.basic_auth() {
                tunnel = tunnel.with_auth(signed_in.clone());
            }
            let client = Client::builder(TokioExecutor::new()).build(builder().wrap_connector(tunnel));
            ProxyClient { rules, client, name: redact_url(&found.uri().to_string()) }
        });
        let client = Client::builder(TokioExecutor::new()).build(builder().wrap_connector(tcp));
        Ok(Self { client, proxy, timeout: REQUEST_TIMEOUT })
    }

    /// The proxy for this address, or the reason why there is none that can be used.
    fn proxy_for(&self, uri: &Uri) -> Result<Option<&ProxyClient>, SourceProblem> {
        let meant = |proxy: &&ProxyClient| uri.scheme_str() == Some("https") && proxy.rules.intercept(uri).is_some();
        match self.proxy.as_ref().filter(meant) {
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
        // Configuration was checked; this also holds for URLs that a server hands out.
        if !is_safe_url(url) {
            return Err(SourceProblem::Refused(format!("`{}` is no https URL", redact_url(url))));
        }
        let uri: Uri = url.parse().map_err(|_| SourceProblem::Refused(format!("`{}` is no URL", redact_url(url))))?;
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let proxy = self.proxy_for(&uri)?;
        let sent = RequestSecrets::from_request(headers, &body);
        let mut request = Request::builder().method(method).uri(uri).header(header::USER_AGENT, USER_AGENT);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|_| {
            SourceProblem::Refused(format!("a header for `{host}` has letters that no header may have"))
        })?;
        let exchange = async {
            let asked = match proxy {
                Some(proxy) => proxy.client.request(request).await,
                None => self.client.request(request).await,
            };
            let through = proxy.map(|proxy| proxy.name.as_str());
            let answer =
                asked.map_err(|error| SourceProblem::Transient(describe_connect_error(&host, through, &error)))?;
            let (status, clock) = (answer.status().as_u16(), skew(answer.headers()));
            let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await;
            let body = body
                .map_err(|_| SourceProblem::Transient(format!("`{host}` broke its answer off, or sent over 1 MiB")))?;
            let mut body = Zeroizing::new(body.to_bytes().to_vec());
            if !(200..300).contains(&status) {
                sent.redact(&mut body);
            }
            let (skew, is_dated) = (clock.unwrap_or_default(), clock.is_some());
            Ok(HttpResponse { status, skew, has_date: is_dated, body, host: host.clone() })
        };
        let late = |_| SourceProblem::Transient(format!("`{host}` did not answer within {} s", self.timeout.as_secs()));
        tokio::time::timeout(self.timeout, exchange).await.map_err(late)?
    }
}

/// TLS with the system's roots.
fn tls_config() -> Result<ClientConfig, SourceProblem> {
    let unusable = |error: &dyn std::error::Error| {
        SourceProblem::Refused(format!("no certificates of this system can be used: {error}"))
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| unusable(&error))?;
    Ok(builder.with_native_roots().map_err(|error| unusable(&error))?.with_no_client_auth())
}

/// The innermost reason, which is the one that says something.
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

/// Seconds within which two clocks are the same: the header has no fractions, and the answer travelled.
const SKEW_MIN: i64 = 5_000;

fn skew(headers: &http::HeaderMap) -> Option<i64> {
    let date = headers.get(header::DATE).and_then(|value| value.to_str().ok());
    // RFC 9110's date is RFC 2822's with `GMT` for the zone.
    let date = date.and_then(|text| OffsetDateTime::parse(&text.replace("GMT", "+0000"), &Rfc2822).ok());
    let difference = i64::try_from((date? - OffsetDateTime::now_utc()).whole_milliseconds()).unwrap_or(0);
    Some(if difference.abs() < SKEW_MIN { 0 } else { difference })
}

/// `application/x-www-form-urlencoded`.
pub(crate) fn encode_form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
    pairs.join("&")
}

/// RFC 3986: everything but the unreserved letters by its bytes; what SigV4 wants too.
pub(crate) fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

/// The pairs of a query, decoded.
pub(crate) fn parse_query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode_form_value(name), decode_form_value(value))).collect()
}

fn decode_form_value(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let escape = (first == b'%').then(|| after.get(..2)).flatten();
        let value = escape.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &after[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn redact_url(url: &str) -> String {
    url.split('?').next().unwrap_or_default().chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded_and_queries_decoded() {
        assert_eq!(encode_form(&[("a", "b c/ü&="), ("d", "~-._")]), "a=b%20c%2F%C3%BC%26%3D&d=~-._");
        assert_eq!(
            parse_query("a=b%20c+d&e=%C3%BC&f=%zz&g"),
            [("a".into(), "b c d".into()), ("e".into(), "ü".into()), ("f".into(), "%zz".into())]
        );
    }

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
