//! Random identifiers in the host's forms.

use std::fmt::Write as _;

/// So many random bytes, in hexadecimal.
fn hex(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    // The generator of the operating system does not fail; if it did, identifiers would be equal, and tests would see it.
    _ = aws_lc_rs::rand::fill(&mut random);
    random.iter().fold(String::new(), |mut text, byte| {
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// A GUID of version 4.
pub(crate) fn guid() -> String {
    let hex = hex(16);
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..])
}

/// A W3C trace context: of the same trace as `parent`, if that is one.
pub(crate) fn traceparent(parent: Option<&str>) -> String {
    let known = parent
        .filter(|text| text.len() == 55 && text.is_ascii() && text.starts_with("00-"))
        .map(|text| (&text[3..35], &text[53..]));
    match known {
        Some((trace, flags)) => format!("00-{trace}-{}-{flags}", hex(8)),
        None => format!("00-{}-{}-00", hex(16), hex(8)),
    }
}
