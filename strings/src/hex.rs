//! Formats bytes as hexadecimal digits.

/// Two lowercase digits for each byte.
#[must_use]
pub fn to_hex(bytes: impl AsRef<[u8]>) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 0xf)]].map(char::from);
    bytes.as_ref().iter().flat_map(digits).collect()
}

#[cfg(test)]
mod tests {
    use super::to_hex;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(to_hex([0x00, 0x0f, 0xa0, 0xff]), "000fa0ff");
        assert_eq!(to_hex(""), "");
    }
}
