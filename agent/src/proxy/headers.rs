//! What changes in the headers on the way through, and nothing else: `Host`, cookies and origins pass as sent.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, COOKIE, HOST, ORIGIN, REFERER, STRICT_TRANSPORT_SECURITY, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Version};

/// Counts how often a request came through us; it is the only trace of a loop.
pub(super) const HOPS_HEADER: HeaderName = HeaderName::from_static("pdev-hops");
pub(super) const HOPS_MAX: u32 = 5;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// RFC 9110 section 7.6.1, with the ones that were never written down but are sent.
const HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    UPGRADE,
    http::header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    http::header::PROXY_AUTHORIZATION,
    http::header::PROXY_AUTHENTICATE,
];

/// How often this request has come through a proxy of ours before.
pub(super) fn hop_count(headers: &HeaderMap) -> u32 {
    headers.get(HOPS_HEADER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The protocol a client asks to switch to. `h2c` is ignored, as RFC 9113 tells servers to.
pub(super) fn requested_upgrade(headers: &HeaderMap, version: Version) -> Option<HeaderValue> {
    if version != Version::HTTP_11 || !has_token(headers, &CONNECTION, "upgrade") {
        return None;
    }
    let protocol = headers.get(UPGRADE)?;
    let offers_h2c = protocol.to_str().ok()?.split(',').any(|offer| offer.trim().eq_ignore_ascii_case("h2c"));
    (!offers_h2c).then(|| protocol.clone())
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

/// Makes the headers of a request fit for the next hop. The authority becomes `Host` where HTTP/2 left none.
pub(super) fn prepare_request(headers: &mut HeaderMap, authority: &str, peer: IpAddr) {
    let hops = hop_count(headers);
    let trailers = has_token(headers, &TE, "trailers");
    strip_hop_by_hop(headers);
    headers.remove(TE);
    if trailers {
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

/// Makes the headers of an answer fit for the client.
pub(super) fn prepare_response(headers: &mut HeaderMap) {
    strip_hop_by_hop(headers);
    // HSTS counts per host, not per port: one answer would break every http URL of this name for months.
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
            // Nobody may talk us out of the headers that frame and address a message.
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
        // Nearly every request comes from here, and formatting an address costs more than the lookup.
        None if peer == IpAddr::V4(std::net::Ipv4Addr::LOCALHOST) => Some(HeaderValue::from_static("127.0.0.1")),
        None => HeaderValue::from_str(&peer.to_string()).ok(),
    };
    if let Some(chain) = chain {
        headers.insert(FORWARDED_FOR, chain);
    }
}

/// HTTP/2 may split cookies over several fields; HTTP/1.1 servers expect one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(COOKIE, joined);
    }
}

/// Next.js up to 16.2 allows its development assets to `*.localhost` only, where `*` is one label; ours has two or
/// three. Same-origin requests to those paths are shown as coming from `localhost`. Nothing else is touched: server
/// actions compare `Origin` with `Host`.
pub(super) fn rewrite_next_origin(headers: &mut HeaderMap, path: &str, authority: &str, port: u16) {
    if !(path.starts_with("/_next/") || path.starts_with("/__nextjs")) {
        return;
    }
    let same = |value: &HeaderValue| has_origin(value, authority);
    let origin_same = headers.get(ORIGIN).map(same);
    if origin_same == Some(false) {
        return;
    }
    let referer_same = headers.get(REFERER).is_some_and(same);
    let Ok(local) = HeaderValue::from_str(&format!("http://localhost:{port}")) else { return };
    if origin_same == Some(true) {
        headers.insert(ORIGIN, local);
    }
    if referer_same && let Some(referer) = headers.get(REFERER).and_then(|value| local_referer(value, port)) {
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
