//! Scalars by the YAML 1.2 core schema. They keep their text, because `1.10` may be a version.

#[derive(Clone, Debug, PartialEq)]
pub struct Scalar {
    /// The text with escapes resolved; for a plain scalar, the source text.
    pub text: String,
    pub quoted: bool,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    Text,
}

impl Scalar {
    #[must_use]
    pub fn null() -> Self {
        Self { text: String::new(), quoted: false, value: Value::Null }
    }

    #[must_use]
    pub fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), quoted: false, value: resolve(text) }
    }

    #[must_use]
    pub fn quoted(text: &str) -> Self {
        Self { text: text.to_owned(), quoted: true, value: Value::Text }
    }

    #[must_use]
    pub fn is_null(&self) -> bool {
        self.value == Value::Null
    }

    /// A word that is a boolean in YAML 1.1 but text in YAML 1.2, so the user may have meant a boolean.
    #[must_use]
    pub fn is_yaml_1_1_boolean(&self) -> bool {
        let yaml_1_1_booleans = ["yes", "no", "on", "off", "y", "n"];
        !self.quoted && yaml_1_1_booleans.contains(&self.text.to_ascii_lowercase().as_str())
    }
}

/// Resolves a plain scalar by YAML 1.2.2, section 10.3.2.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".inf" | ".Inf" | ".INF" | "+.inf" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    let parse_radix =
        |prefix: &str, radix| text.strip_prefix(prefix).and_then(|digits| i64::from_str_radix(digits, radix).ok());
    if let Some(number) = parse_radix("0x", 16).or_else(|| parse_radix("0o", 8)) {
        return Value::Integer(number);
    }
    if !text.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first)) {
        return Value::Text;
    }
    if let Ok(number) = text.parse() {
        return Value::Integer(number);
    }
    // Rust also parses `infinity` and `nan`, which are text in YAML.
    let has_number_syntax = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte))
        && text.bytes().any(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if has_number_syntax => Value::Float(number),
        _ => Value::Text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_resolve_by_the_core_schema() {
        let cases = [
            ("", Value::Null),
            ("~", Value::Null),
            ("true", Value::Bool(true)),
            ("yes", Value::Text),
            ("12", Value::Integer(12)),
            ("-3", Value::Integer(-3)),
            ("0x1f", Value::Integer(31)),
            ("1.5", Value::Float(1.5)),
            ("1e3", Value::Float(1000.0)),
            ("1.2.3", Value::Text),
            ("250m", Value::Text),
            ("2026-01-01", Value::Text),
            ("-", Value::Text),
            ("infinity", Value::Text),
        ];
        for (text, value) in cases {
            assert_eq!(resolve(text), value, "{text}");
        }
    }
}
