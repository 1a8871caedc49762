//! JSON that contains secrets: its strings are wiped when it is dropped.
//!
//! Buffers inside the JSON parser are not covered.

use std::io;
use std::ops::Deref;

use serde_json::Value;
use zeroize::Zeroize;

pub(crate) struct WipedJson(Value);

impl WipedJson {
    pub(crate) fn new(value: Value) -> Self {
        Self(value)
    }

    /// Serialises into a buffer of the exact size, because a growing buffer leaves copies of the secret in freed
    /// memory.
    pub(crate) fn to_line(&self) -> Vec<u8> {
        struct ByteCounter(usize);
        impl io::Write for ByteCounter {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut count = ByteCounter(1);
        let _counting_cannot_fail = serde_json::to_writer(&mut count, &self.0);
        let mut bytes = Vec::with_capacity(count.0);
        let _memory_cannot_fail = serde_json::to_writer(&mut bytes, &self.0);
        bytes.push(b'\n');
        bytes
    }
}

impl Deref for WipedJson {
    type Target = Value;

    fn deref(&self) -> &Value {
        &self.0
    }
}

impl Drop for WipedJson {
    fn drop(&mut self) {
        wipe_strings(&mut self.0);
    }
}

fn wipe_strings(value: &mut Value) {
    match value {
        Value::String(text) => text.zeroize(),
        Value::Array(items) => items.iter_mut().for_each(wipe_strings),
        Value::Object(members) => members.values_mut().for_each(wipe_strings),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_strings_are_wiped_and_line_fits_capacity() {
        let mut value = json!({ "a": ["canary", { "b": "canary", "c": 1 }], "d": "canary" });
        let line = WipedJson::new(value.clone()).to_line();
        assert_eq!(line, b"{\"a\":[\"canary\",{\"b\":\"canary\",\"c\":1}],\"d\":\"canary\"}\n");
        assert_eq!(line.len(), line.capacity());
        wipe_strings(&mut value);
        assert_eq!(value, json!({ "a": ["", { "b": "", "c": 1 }], "d": "" }));
    }
}
