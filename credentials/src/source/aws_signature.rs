//! AWS Signature Version 4 of one POST with a form (AWS IAM user guide, "Create a signed AWS API request"). Pure.

use ring::digest::{SHA256, digest};
use ring::hmac;
use strings::to_hex;
use time::OffsetDateTime;
use zeroize::Zeroizing;

pub(super) struct SigningKeys<'a> {
    pub access_key_id: &'a str,
    pub secret_access_key: &'a [u8],
    pub session_token: Option<&'a str>,
}

pub(super) const FORM_MEDIA_TYPE: &str = "application/x-www-form-urlencoded";

/// The headers to send: `content-type`, `x-amz-date`, `authorization`, and the session token. `host` is signed too; the
/// HTTP client adds it.
pub(super) fn signed_headers(
    keys: &SigningKeys<'_>,
    (region, service): (&str, &str),
    host: &str,
    body: &str,
    time: OffsetDateTime,
) -> Vec<(&'static str, String)> {
    let day = format!("{:04}{:02}{:02}", time.year(), u8::from(time.month()), time.day());
    let timestamp = format!("{day}T{:02}{:02}{:02}Z", time.hour(), time.minute(), time.second());
    // The signature requires the headers in alphabetical order.
    let mut headers = vec![("content-type", FORM_MEDIA_TYPE), ("host", host), ("x-amz-date", timestamp.as_str())];
    headers.extend(keys.session_token.map(|token| ("x-amz-security-token", token)));
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("POST\n/\n\n{lines}\n{names}\n{}", hash(body.as_bytes()));
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let string_to_sign = format!("AWS4-HMAC-SHA256\n{timestamp}\n{scope}\n{}", hash(canonical.as_bytes()));
    let initial_key = Zeroizing::new([b"AWS4".as_slice(), keys.secret_access_key].concat());
    let mut key = mac(&initial_key, day.as_bytes());
    for part in [region, service, "aws4_request"] {
        key = mac(key.as_ref(), part.as_bytes());
    }
    let signature = to_hex(mac(key.as_ref(), string_to_sign.as_bytes()));
    let credential = format!("{}/{scope}", keys.access_key_id);
    let authorization =
        format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}");
    let mut signed = vec![
        ("content-type", FORM_MEDIA_TYPE.to_owned()),
        ("x-amz-date", timestamp.clone()),
        ("authorization", authorization),
    ];
    signed.extend(keys.session_token.map(|token| ("x-amz-security-token", token.to_owned())));
    signed
}

fn mac(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

fn hash(bytes: &[u8]) -> String {
    to_hex(digest(&SHA256, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `post-x-www-form-urlencoded` of AWS's Signature Version 4 test suite.
    #[test]
    fn signature_matches_aws_test_vector() {
        let keys = SigningKeys {
            access_key_id: "AKIDEXAMPLE",
            secret_access_key: b"wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            session_token: None,
        };
        let time = OffsetDateTime::from_unix_timestamp(1_440_938_160).unwrap();
        let headers = signed_headers(&keys, ("us-east-1", "service"), "example.amazonaws.com", "Param1=value1", time);
        assert_eq!(headers[1], ("x-amz-date", "20150830T123600Z".to_owned()));
        assert_eq!(
            headers[2].1,
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=content-type;host;x-amz-date, Signature=ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"
        );
    }
}
