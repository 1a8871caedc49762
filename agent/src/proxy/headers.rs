//! The header changes that a proxy must make, and no others: `Host`, cookies and origins are forwarded unchanged.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, ORIGIN, REFERER, STRICT_TRANSPORT_SECURITY, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

/// Counts how often a request passed through this proxy. A loop cannot be detected in any other way.
pub(super) const HOPS_HEADER: HeaderName = HeaderName::from_static("pdev-hops");
pub(super) const HOPS_MAX: u32 = 5;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// RFC 9110 section 7.6.1, plus unstandardised ones that programs send.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    UPGRADE,
    http::header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::PROXY_AUTHORIZATION,
    http::header::PROXY_AUTHENTICATE,
];

/// How often this request has passed through the proxy before.
pub(super) fn hop_count(headers: &HeaderMap) -> u32 {
    headers.get(HOPS_HEADER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The protocol that a client requests to switch to. `h2c` is ignored, as RFC 9113 requires of servers.
pub(super) fn requested_upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !has_token(headers, &CONNECTION, "upgrade") {
        return None;
    }
    let protocol = headers.get(UPGRADE)?;
    let offers_h2c = protocol.to_str().ok()?.split(',').any(|offer| offer.trim().eq_ignore_ascii_case("h2c"));
    (!offers_h2c).then(|| protocol.clone())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token_name: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case(token_name))
}

/// Prepares a request's headers for the next hop. An HTTP/2 request has no `Host`, so its authority is used.
pub(super) fn prepare_request(headers: &mut HeaderMap, authority: &str, peer: IpAddr) {
    let hops = hop_count(headers);
    // Of `TE`, only `trailers` may be forwarded: gRPC servers require it.
    let accepts_trailers = has_token(headers, &TE, "trailers");
    strip_hop_by_hop(headers);
    headers.remove(TE);
    if accepts_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    headers.remove(HTTP2_SETTINGS);
    if let Ok(host) = HeaderValue::from_str(authority) {
        headers.entry(FORWARDED_HOST).or_insert_with(|| host.clone());
        if headers.get(HOST) != Some(&host) {
            headers.insert(HOST, host);
        }
    }
    headers.entry(FORWARDED_PROTO).or_insert(HeaderValue::from_static("http"));
    append_forwarded_for(headers, peer);
    headers.insert(HOPS_HEADER, HeaderValue::from(hops + 1));
    join_cookies(headers);
}

/// Prepares a response's headers for the client.
pub(super) fn prepare_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // HSTS applies to the host, not to the port: one response would break all http URLs of this host for months.
    headers.remove(STRICT_TRANSPORT_SECURITY);
}

fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|token| token.trim().parse().ok())
            // A client must not be able to remove the headers that frame and address the message.
            .filter(|name| name != HOST && name != CONTENT_LENGTH)
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn append_forwarded_for(headers: &mut HeaderMap, peer: IpAddr) {
    let chain = match headers.get(FORWARDED_FOR).and_then(|value| value.to_str().ok()) {
        Some(before) => HeaderValue::from_str(&format!("{before}, {peer}")).ok(),
        // Almost all requests come from this address, so avoid formatting it.
        None if peer == IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) => Some(HeaderValue::from_static("127.0.0.1")),
        None => HeaderValue::from_str(&peer.to_string()).ok(),
    };
    if let Some(chain) = chain {
        headers.insert(FORWARDED_FOR, chain);
    }
}

/// HTTP/2 may split cookies into several fields; HTTP/1.1 servers expect one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Makes same-origin requests for Next.js development assets look as if they came from `localhost`.
///
/// Next.js up to 16.2 serves these assets only to `*.localhost`, where `*` is a single label; hosts of pdev have two or
/// three. Other requests are not changed, because server actions compare `Origin` with `Host`.
pub(super) fn rewrite_next_origin(headers: &mut HeaderMap, path: &str, authority: &str, port: u16) {
    if !(path.starts_with("/_next/") || path.starts_with("/__nextjs")) {
        return;
    }
    let is_same_origin = |value: &HeaderValue| has_origin(value, authority);
    let same_origin = headers.get(ORIGIN).map(is_same_origin);
    // A cross-origin request must keep its origin, so that the service can reject it.
    if same_origin == Some(false) {
        return;
    }
    let has_same_referer = headers.get(REFERER).is_some_and(is_same_origin);
    let Ok(local_origin) = HeaderValue::from_str(&format!("http://localhost:{port}")) else { return };
    if same_origin == Some(true) {
        headers.insert(ORIGIN, local_origin);
    }
    if has_same_referer && let Some(referer) = headers.get(REFERER).and_then(|value| local_referer(value, port)) {
        headers.insert(REFERER, referer);
    }
}

fn has_origin(value: &HeaderValue, authority: &str) -> bool {
    let Some(rest) = value.to_str().ok().and_then(|text| text.strip_prefix("http://")) else { return false };
    rest.split('/').next().is_some_and(|origin| origin.eq_ignore_ascii_case(authority))
}

fn local_referer(value: &HeaderValue, port: u16) -> Option<HeaderValue> {
    let rest = value.to_str().ok()?.strip_prefix("http://")?;
    let path = rest.find('/').map_or("/", |start| &rest[start..]);
    HeaderValue::from_str(&format!("http://localhost:{port}{path}")).ok()
}
