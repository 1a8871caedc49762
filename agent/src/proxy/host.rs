//! Parses the host of a request. Hosts outside of pdev's suffix are rejected here, which prevents DNS rebinding.

use std::borrow::Cow;

use http::header::HOST;
use http::request::Parts;

use super::routes::SUFFIX;

/// Why a request has no usable host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadHost {
    /// Missing, present more than once, or not a host name: 400.
    Invalid,
    /// A valid name outside of pdev's suffix: 421.
    Foreign,
}

/// The authority as sent: from the request target if it has one (HTTP/2 and absolute form), else from the `Host`
/// header.
pub(super) fn authority(parts: &Parts) -> Option<&str> {
    if let Some(authority) = parts.uri.authority() {
        return Some(authority.as_str());
    }
    let mut hosts = parts.headers.get_all(HOST).iter();
    let only = hosts.next()?;
    if hosts.next().is_some() {
        return None;
    }
    only.to_str().ok()
}

/// The host name in lower case, without port and without the trailing dot of a fully qualified name.
pub(super) fn host_name(authority: &str) -> Result<Cow<'_, str>, BadHost> {
    if authority.starts_with('[') {
        return check_address_literal(authority);
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, port)) => (name, Some(port)),
        None => (authority, None),
    };
    if port.is_some_and(|port| !is_valid_port(port)) {
        return Err(BadHost::Invalid);
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_valid_name(name) {
        return Err(BadHost::Invalid);
    }
    let name = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    };
    match name.strip_suffix(SUFFIX) {
        Some(rest) if rest.ends_with('.') => Ok(name),
        _ => Err(BadHost::Foreign),
    }
}

/// An address literal is either foreign or invalid, but never a host of pdev.
fn check_address_literal(authority: &str) -> Result<Cow<'_, str>, BadHost> {
    let inner = authority.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    match inner {
        Some((address, port))
            if address.parse::<std::net::Ipv6Addr>().is_ok()
                && (port.is_empty() || port.strip_prefix(':').is_some_and(is_valid_port)) =>
        {
            Err(BadHost::Foreign)
        }
        _ => Err(BadHost::Invalid),
    }
}

fn is_valid_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

fn is_valid_name(name: &str) -> bool {
    let is_valid_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 253 && name.split('.').all(is_valid_label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_names_are_normalised_or_rejected() {
        let host = |text: &'static str| Ok(Cow::Borrowed(text));
        let cases = [
            ("web.main.shop.localhost", host("web.main.shop.localhost")),
            ("Web.Main.SHOP.LocalHost:8642", host("web.main.shop.localhost")),
            ("shop.localhost.", host("shop.localhost")),
            ("shop.localhost.:80", host("shop.localhost")),
            ("localhost", Err(BadHost::Foreign)),
            ("localhost:8642", Err(BadHost::Foreign)),
            ("evil.example", Err(BadHost::Foreign)),
            ("shop.localhost.evil.example", Err(BadHost::Foreign)),
            ("shop-localhost", Err(BadHost::Foreign)),
            ("127.0.0.1:8642", Err(BadHost::Foreign)),
            ("[::1]:8642", Err(BadHost::Foreign)),
            ("[::1", Err(BadHost::Invalid)),
            ("[::1]x", Err(BadHost::Invalid)),
            ("", Err(BadHost::Invalid)),
            ("shop.localhost:", Err(BadHost::Invalid)),
            ("shop.localhost:99999", Err(BadHost::Invalid)),
            ("shop.localhost:+80", Err(BadHost::Invalid)),
            ("shop..localhost", Err(BadHost::Invalid)),
            ("shop.localhost..", Err(BadHost::Invalid)),
            ("user@shop.localhost", Err(BadHost::Invalid)),
            ("shop.localhost/x", Err(BadHost::Invalid)),
            ("sh op.localhost", Err(BadHost::Invalid)),
        ];
        for (authority, expected) in cases {
            assert_eq!(host_name(authority), expected, "{authority}");
        }
    }
}
