//! Encodes and decodes forms and queries (`application/x-www-form-urlencoded`).

/// `application/x-www-form-urlencoded`.
pub(crate) fn encode_form(fields: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = fields.iter().map(|(name, value)| format!("{name}={}", percent_encode(value))).collect();
    pairs.join("&")
}

/// Percent-encodes all bytes except the unreserved characters of RFC 3986. SigV4 requires the same form.
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

/// Parses the pairs of a query and decodes them.
pub(crate) fn parse_query(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (decode_form_value(name), decode_form_value(value))).collect()
}

fn decode_form_value(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut remaining = text.as_bytes();
    while let Some((&first, tail)) = remaining.split_first() {
        let escape = (first == b'%').then(|| tail.get(..2)).flatten();
        let value = escape.and_then(|two| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                remaining = &tail[2..];
            }
            None => {
                bytes.push(if first == b'+' { b' ' } else { first });
                remaining = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
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
}
