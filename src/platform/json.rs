//! Foreign JSON, mended before it is read.
//!
//! Who cuts a text after so many units of UTF-16 may leave half of a character, written as `\ud83d` with nothing that belongs to it.
//! JSON allows that (RFC 8259, section 8.2), but no text of ours can hold it, and the parser refuses all of it.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

/// What is read in place of half a character.
const REPLACEMENT: &str = "\\ufffd";

/// Reads JSON in which a character may be cut in halves.
///
/// # Errors
/// It is no JSON, or not what is asked for.
pub fn read<T: DeserializeOwned>(json: &[u8]) -> serde_json::Result<T> {
    match std::str::from_utf8(json) {
        Ok(text) => serde_json::from_str(&mended(text)),
        Err(_) => serde_json::from_slice(json),
    }
}

/// The same JSON with U+FFFD for each half of a character; nothing is copied where there is none.
#[must_use]
pub fn mended(json: &str) -> Cow<'_, str> {
    let mut mended: Option<String> = None;
    let (mut at, mut copied) = (0, 0);
    while let Some(here) = json[at..].find('\\').map(|found| at + found) {
        let rest = &json[here..];
        at = here
            + match unit(rest) {
                Some(0xd800..=0xdbff) if matches!(unit(&rest[6..]), Some(0xdc00..=0xdfff)) => 12,
                Some(0xd800..=0xdfff) => {
                    let text = mended.get_or_insert_with(|| String::with_capacity(json.len()));
                    text.push_str(&json[copied..here]);
                    text.push_str(REPLACEMENT);
                    copied = here + 6;
                    6
                }
                // One character is escaped, perhaps a backslash.
                _ => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            };
    }
    match mended {
        Some(text) => Cow::Owned(text + &json[copied..]),
        None => Cow::Borrowed(json),
    }
}

/// The unit of UTF-16 that is escaped at the beginning of a text.
fn unit(text: &str) -> Option<u16> {
    let digits = text.strip_prefix("\\u")?.get(..4)?;
    digits.bytes().all(|byte| byte.is_ascii_hexdigit()).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn half_a_character_is_read_as_a_sign_for_it() {
        let read = |text: &str| read::<Value>(text.as_bytes()).expect("JSON");
        assert_eq!(read(r#"{"preview":"so nice \ud83d","\uDE00":1}"#), json!({"preview": "so nice \u{fffd}", "\u{fffd}": 1}));
        assert_eq!(read(r#"["\ud83d\ud83d\ude00\ude00"]"#), json!(["\u{fffd}😀\u{fffd}"]));
        assert_eq!(read(r#"["\\ud83d", "\\\ud83d", "\ud83d\\ude00"]"#), json!(["\\ud83d", "\\\u{fffd}", "\u{fffd}\\ude00"]));
        for whole in [r#"{"a":"\ud83d\ude00 \\ud83d \u00e4 \" ä"}"#, "no JSON \\", "\\u12", "\\ud83", "\\ä", ""] {
            assert!(matches!(mended(whole), Cow::Borrowed(_)), "{whole}: nothing is copied");
        }
        assert!(super::read::<Value>(b"[\"\xff\"]").is_err());
    }

    /// A part of a text as JSON, and its units of UTF-16.
    fn any_part() -> impl Strategy<Value = (String, Vec<u16>)> {
        let half = (0xd800_u16..0xe000, any::<bool>())
            .prop_map(|(unit, upper)| (if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") }, vec![unit]));
        let pair = any::<char>().prop_map(|c| {
            let units: Vec<u16> = c.encode_utf16(&mut [0; 2]).to_vec();
            (units.iter().fold(String::new(), |json, unit| json + &format!("\\u{unit:04x}")), units)
        });
        let plain = ".{0,6}".prop_map(|text: String| {
            let json = Value::from(text.as_str()).to_string();
            (json[1..json.len() - 1].to_owned(), text.encode_utf16().collect())
        });
        prop_oneof![half, pair, plain, Just(("\\\\".to_owned(), vec![0x5c])), Just(("\\\"".to_owned(), vec![0x22]))]
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_only_halves_are_lost(parts in prop::collection::vec(any_part(), 0..12)) {
            let json: String = parts.iter().map(|(json, _)| json.as_str()).collect();
            let units: Vec<u16> = parts.iter().flat_map(|(_, units)| units.clone()).collect();
            let expected = String::from_utf16_lossy(&units);
            let found: Value = read(format!("{{\"{json}\":[\"{json}\"]}}").as_bytes()).expect("JSON");
            let mut object = serde_json::Map::new();
            object.insert(expected.clone(), json!([expected]));
            prop_assert_eq!(found, Value::Object(object));
        }

        #[test]
        fn no_text_panics(text in "[\\\\ud8cDä\"]{0,24}") {
            prop_assert!(mended(&text).len() == text.len());
        }
    }
}
