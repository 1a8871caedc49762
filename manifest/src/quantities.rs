//! Parses durations, sizes and CPU cores in the notation of the manifest.

use std::time::Duration;

/// `500ms`, `10s`, `1m30s`, `72h`, `3d`.
///
/// # Errors
/// A message that names the allowed notation.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("`{text}` is no duration; write it as `500ms`, `10s`, `5m` or `72h`");
    let mut total = Duration::ZERO;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(invalid());
    }
    while !rest.is_empty() {
        let digits = rest.find(|next: char| !next.is_ascii_digit() && next != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        let after = &rest[digits..];
        let end = after.find(|next: char| next.is_ascii_digit()).unwrap_or(after.len());
        let seconds = match &after[..end] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86400.0,
            _ => return Err(invalid()),
        };
        total = Duration::try_from_secs_f64(number * seconds)
            .ok()
            .and_then(|part| total.checked_add(part))
            .ok_or_else(invalid)?;
        rest = &after[end..];
    }
    // A duration of more than a year is assumed to be a typing error.
    if total > Duration::from_secs(366 * 86400) { Err(format!("`{text}` is longer than a year")) } else { Ok(total) }
}

/// `256Mi`, `1Gi`, `512M`, `2gb`, `1048576`.
///
/// # Errors
/// A message that names the allowed notation.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let invalid = || format!("`{text}` is no size; write it as `256Mi`, `1Gi` or `512M`");
    let text_trimmed = text.trim();
    let digits = text_trimmed.find(|next: char| !next.is_ascii_digit() && next != '.').unwrap_or(text_trimmed.len());
    let number: f64 = text_trimmed[..digits].parse().map_err(|_| invalid())?;
    let factor: f64 = match text_trimmed[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        // `k`, `m` and `g` of Compose are powers of 1024, as are `Ki`, `Mi` and `Gi` of Kubernetes.
        "k" | "kb" | "ki" | "kib" => 1024.0,
        "m" | "mb" | "mi" | "mib" => 1024.0 * 1024.0,
        "g" | "gb" | "gi" | "gib" => 1024.0 * 1024.0 * 1024.0,
        "t" | "tb" | "ti" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(invalid()),
    };
    let bytes = number * factor;
    if !(0.0..=1e18).contains(&bytes) {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is between zero and 10^18")]
    Ok(bytes as u64)
}

/// Thousandths of a core: `250m`, `0.5`, `2`.
///
/// # Errors
/// A message that names the allowed notation.
pub fn parse_cpu_milli(text: &str) -> Result<u64, String> {
    let invalid = || format!("`{text}` is no number of cores; write it as `250m`, `0.5` or `2`");
    let (digits, factor) = match text.trim().strip_suffix('m') {
        Some(digits) => (digits, 1.0),
        None => (text.trim(), 1000.0),
    };
    let number: f64 = digits.parse().map_err(|_| invalid())?;
    let milli = number * factor;
    if !(1.0..=1_024_000.0).contains(&milli) {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the value is between 1 and 1,024,000")]
    Ok(milli.round() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_require_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("1m30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_duration("72h"), Ok(Duration::from_secs(259_200)));
        for wrong in ["", "10", "s", "1x", "-1s", "1e9d", "10 s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_and_cores_parse_with_suffixes() {
        assert_eq!(parse_bytes("256Mi"), Ok(256 << 20));
        assert_eq!(parse_bytes("2gb"), Ok(2 << 30));
        assert_eq!(parse_bytes("1048576"), Ok(1 << 20));
        assert!(parse_bytes("lots").is_err());
        assert_eq!(parse_cpu_milli("250m"), Ok(250));
        assert_eq!(parse_cpu_milli("0.5"), Ok(500));
        assert!(parse_cpu_milli("0").is_err());
    }
}
