//! Encrypted resources: what openssl and an encryptor of our own made is opened, and nothing that was touched.

use indicator_relay::notifications::rich::decrypt::{OpenError, open};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{NEW, OLD, Sealer, certificate, certificates, content, fixture, label};

#[test]
fn what_openssl_encrypted_is_opened_with_the_old_and_the_new_certificate() {
    let resource: Value = serde_json::from_str(&fixture("resource.json")).expect("JSON");
    let all = certificates();
    assert_eq!(open(&content(2_048, &label(OLD)), &all), Ok(resource.clone()));
    assert_eq!(open(&content(4_096, &label(NEW)), &all), Ok(resource));
}

#[test]
fn a_certificate_that_is_not_at_hand_is_an_error_of_its_own() {
    let all = certificates();
    let mut unknown = content(2_048, "rich-2024.0123456789abcdef");
    assert_eq!(open(&unknown, &all), Err(OpenError::UnknownCertificate));
    unknown.certificate_id = None;
    assert_eq!(open(&unknown, &all), Err(OpenError::UnknownCertificate));
    assert_eq!(open(&content(2_048, &label(NEW)), &all), Err(OpenError::NotOpened), "another one's");
}

#[test]
fn errors_are_one_line_with_names_of_their_own() {
    let [one, other] = OpenError::ALL;
    assert_ne!(one.name(), other.name());
    assert!(OpenError::ALL.iter().all(|error| !error.to_string().contains('\n')));
}

/// Previews are cut after so many units of UTF-16.
#[test]
fn half_a_character_costs_itself() {
    let plain = br#"{"bodyPreview":"so nice \ud83d","subject":"\ud83d\ude00"}"#;
    let sealed = Sealer::new([7; 32]).seal(plain, &certificate(OLD, "2048-pkcs8.txt"));
    let opened = json!({"bodyPreview": "so nice \u{fffd}", "subject": "😀"});
    assert_eq!(open(&sealed, &certificates()), Ok(opened));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_object_comes_through(
        key in any::<[u8; 32]>(),
        members in proptest::collection::btree_map(".{0,20}", ".{0,100}", 0..6),
    ) {
        let resource = json!(members);
        let sealed = Sealer::new(key).seal(resource.to_string().as_bytes(), &certificate(OLD, "2048-pkcs8.txt"));
        prop_assert_eq!(open(&sealed, &certificates()), Ok(resource));
    }

    #[test]
    fn no_content_panics(data in ".{0,80}", key in ".{0,80}", signature in proptest::option::of(".{0,80}"), bytes in any::<[u8; 48]>()) {
        let mut made = content(2_048, &label(OLD));
        (made.data, made.data_key, made.data_signature) = (data, key, signature);
        prop_assert_eq!(open(&made, &certificates()), Err(OpenError::NotOpened));
        let signed = Sealer::new([1; 32]).wrap(&bytes, &certificate(OLD, "2048-pkcs8.txt"));
        prop_assert_eq!(open(&signed, &certificates()), Err(OpenError::NotOpened));
    }
}
