//! Bytes as hexadecimal digits: keys, names and fingerprints are written so.

use std::fmt::Write as _;

/// Two digits for each byte, in lower case.
#[must_use]
pub fn digits(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // A text takes all that is written to it.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_is_two_digits_in_lower_case() {
        assert_eq!(digits(&[]), "");
        assert_eq!(digits(&[0x00, 0x0a, 0x7f, 0xa0, 0xff]), "000a7fa0ff");
    }
}
