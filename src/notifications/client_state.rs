//! The one proof that a notification is of a subscription of ours: a text that we gave, with a code over it.
//!
//! It is checked without storage: version, group of the subscription, a random part, and a MAC under a key that only we have.
//! Knows nothing of where keys are kept.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::platform::secret::Secret;

const VERSION: &str = "v1";
/// Hex characters that name a subscription.
const GROUP_HEX: usize = 12;
/// Bytes of the random part, and of the MAC: the first half of HMAC-SHA-256.
const BYTES: usize = 16;

/// What client states are made and checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub current: Secret,
    /// The one before: subscriptions made with it live on until they are replaced.
    pub previous: Option<Secret>,
}

/// What a client state proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// `group` is of a subscription that we made; whether with the current key.
    Good {
        group: String,
        current: bool,
    },
    Wrong,
}

/// The client state of a subscription: at most 128 characters, which is what Microsoft Graph takes.
///
/// `group` is a letter (`u` for urgent, `n` for the others) and 12 characters of lower-case hex.
#[must_use]
pub fn make(keys: &Keys, group: &str, random: [u8; BYTES]) -> String {
    let told = format!("{VERSION}.{group}.{}", URL_SAFE_NO_PAD.encode(random));
    let code = URL_SAFE_NO_PAD.encode(code(&keys.current, &told));
    format!("{told}.{code}")
}

/// In a time that does not depend on what the text holds, once it has our form.
#[must_use]
pub fn check(keys: &Keys, text: Option<&str>) -> Verdict {
    let Some(claim) = text.and_then(Claim::read) else { return Verdict::Wrong };
    let proven = |key: &Secret| constant_time::verify_slices_are_equal(&code(key, claim.told), &claim.code).is_ok();
    let current = proven(&keys.current);
    let previous = keys.previous.as_ref().is_some_and(proven);
    if current || previous { Verdict::Good { group: claim.group.to_owned(), current } } else { Verdict::Wrong }
}

/// The group that a text of our form names; nothing is proven by it.
#[must_use]
pub fn claimed(text: &str) -> Option<&str> {
    Claim::read(text).map(|claim| claim.group)
}

/// Whether items of the group go before others.
#[must_use]
pub fn is_urgent(group: &str) -> bool {
    group.starts_with('u')
}

/// A text of our form.
struct Claim<'a> {
    group: &'a str,
    /// What the code is over.
    told: &'a str,
    code: [u8; BYTES],
}

impl<'a> Claim<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (told, code) = text.rsplit_once('.')?;
        let (group, random) = told.strip_prefix(VERSION)?.strip_prefix('.')?.split_once('.')?;
        let hex = group.strip_prefix(['u', 'n'])?;
        let good = hex.len() == GROUP_HEX && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        bytes(random)?;
        Some(Self { group, told, code: bytes(code)? }).filter(|_| good)
    }
}

fn bytes(text: &str) -> Option<[u8; BYTES]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

/// Blanks around a key are none of it: files and consoles add line feeds.
fn code(key: &Secret, told: &str) -> [u8; BYTES] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose().trim().as_bytes());
    let tag = hmac::sign(&key, told.as_bytes());
    let mut code = [0; BYTES];
    code.copy_from_slice(&tag.as_ref()[..BYTES]);
    code
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUP: &str = "n0123456789ab";

    fn keys(current: &str, previous: Option<&str>) -> Keys {
        Keys { current: Secret::new(current), previous: previous.map(Secret::new) }
    }

    #[test]
    fn what_was_made_is_good_and_names_its_group() {
        let text = make(&keys("a key", None), GROUP, [7; 16]);
        // It is stored at Microsoft: another form would end every subscription.
        assert_eq!(text, "v1.n0123456789ab.BwcHBwcHBwcHBwcHBwcHBw.HBXLJcaVdPxDkt4RC4DLlg");
        assert!(text.len() <= 128);
        let good = |current| Verdict::Good { group: GROUP.to_owned(), current };
        assert_eq!(check(&keys("a key", None), Some(&text)), good(true));
        assert_eq!(check(&keys(" a key\n", None), Some(&text)), good(true));
        assert_eq!(check(&keys("another", Some("a key")), Some(&text)), good(false));
        assert_eq!(check(&keys("a key", Some("a key")), Some(&text)), good(true));
        assert_eq!(check(&keys("another", Some("a third")), Some(&text)), Verdict::Wrong);
        assert_eq!(claimed(&text), Some(GROUP));
        assert!(is_urgent("u0123456789ab") && !is_urgent(GROUP));
    }

    #[test]
    fn anything_else_is_wrong() {
        let keys = keys("a key", None);
        let good = make(&keys, GROUP, [7; 16]);
        let (told, code) = good.rsplit_once('.').expect("parts");
        for text in [
            String::new(),
            "secretClientValue".to_owned(),
            "NA".to_owned(),
            told.to_owned(),
            format!("{told}."),
            format!("{told}.{}", &code[..code.len() - 1]),
            format!("{good}="),
            format!("{good} "),
            format!(" {good}"),
            format!("{good}.{code}"),
            good.replacen("v1", "v2", 1),
            good.replacen('n', "u", 1),
            good.replacen("0123", "0124", 1),
            good.replacen("ab.", "AB.", 1),
            good.replacen("BwcH", "BwcI", 1),
        ] {
            assert_eq!(check(&keys, Some(&text)), Verdict::Wrong, "{text}");
        }
        assert_eq!(check(&keys, None), Verdict::Wrong);
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "(v1\\.)?[un]?[0-9a-f]{12}\\..*") {
            prop_assert_eq!(check(&keys("a key", Some("b")), Some(&text)), Verdict::Wrong);
        }

        #[test]
        fn one_changed_character_is_noticed(random in any::<[u8; 16]>(), at in any::<prop::sample::Index>(), other in "[ -~]") {
            let keys = keys("a key", None);
            let text = make(&keys, "u00ff00ff00ff", random);
            let at = at.index(text.len());
            let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
            prop_assert_eq!(check(&keys, Some(&changed)) == Verdict::Wrong, changed != text);
        }
    }
}
