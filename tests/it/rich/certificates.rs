//! Certificates in each form in which a vault or a folder keeps them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use indicator_relay::notifications::rich::certificates::{Certificate, Certificates, Fault};
use proptest::prelude::*;

use super::{NEW, OLD, certificate, certificates, fixture, label, now};

/// What openssl says of the certificate of 2048 or 4096 bits: digest, end, DER in base64.
fn told(bits: u32) -> [String; 3] {
    let text = fixture("certificates.txt");
    let mut lines = text.lines().skip(if bits == 2_048 { 0 } else { 3 }).map(str::to_owned);
    std::array::from_fn(|_| lines.next().expect("six lines"))
}

#[test]
fn each_form_gives_the_same_certificate() {
    let file = STANDARD.decode(fixture("4096-aes.p12.txt")).expect("base64");
    let legacy = fixture("4096-legacy.p12.txt");
    let lines: Vec<&[u8]> = legacy.as_bytes().chunks(76).collect();
    let wrapped = lines.join(b"\r\n".as_slice());
    let forms = [
        (2_048, fixture("2048-pkcs8.txt").into_bytes()),
        (2_048, fixture("2048-pkcs1.txt").into_bytes()),
        (2_048, format!("subject=CN = x\n{}", fixture("2048-pkcs1.txt")).into_bytes()),
        (4_096, fixture("4096-aes.p12.txt").into_bytes()),
        (4_096, fixture("4096-vault.p12.txt").into_bytes()),
        (4_096, legacy.clone().into_bytes()),
        (4_096, wrapped),
        (4_096, file),
    ];
    for (form, (bits, text)) in forms.iter().enumerate() {
        let read = Certificate::read("rich", text).unwrap_or_else(|error| panic!("form {form}: {error}"));
        let [digest, end, der] = told(*bits);
        assert_eq!(read.label(), format!("rich.{digest}"), "form {form}");
        assert_eq!(read.ends(), end.parse().expect("a time"), "form {form}");
        assert_eq!(read.public(), der, "form {form}");
    }
}

#[test]
fn a_label_fits_and_changes_with_the_certificate() {
    let long = "n".repeat(127);
    let read = Certificate::read(&long, fixture("2048-pkcs8.txt").as_bytes()).expect("a certificate");
    assert_eq!(read.label().len(), 128);
    let odd = Certificate::read("Ordner/Größe 1.alt.pem", fixture("2048-pkcs8.txt").as_bytes()).expect("a certificate");
    assert!(odd.label().is_ascii() && odd.label().starts_with("Gr--e-1."), "{}", odd.label());
    let renewed = certificate(OLD, "4096-aes.p12.txt");
    assert_ne!(renewed.label(), label(OLD), "renewed under its name");
}

#[test]
fn the_newest_is_handed_out_and_an_end_is_told_a_month_before() {
    let all = certificates();
    let (newest, public) = all.newest().expect("two");
    assert_eq!((newest, public), (label(NEW).as_str(), told(4_096)[2].as_str()));
    assert!(Certificates::default().newest().is_none());
    assert_eq!(all.ending(now()), None);
    let end = certificate(NEW, "4096-aes.p12.txt").ends();
    let days = |days: i64| end - jiff::SignedDuration::from_hours(24 * days);
    assert_eq!(all.ending(days(20)), Some((newest, 20)));
    assert_eq!(all.ending(days(-3)), Some((newest, -3)));
}

#[test]
fn what_cannot_be_used_is_told_in_one_line_each() {
    let pem = fixture("2048-pkcs8.txt");
    let split = pem.find("-----BEGIN CERTIFICATE").expect("a certificate");
    let (key, own) = pem.split_at(split);
    let curve = fixture("refused-curve.txt");
    let other = &curve[curve.find("-----BEGIN CERTIFICATE").expect("a certificate")..];
    let file = STANDARD.decode(fixture("4096-aes.p12.txt")).expect("base64");
    let rows: [(&str, Vec<u8>, Fault); 13] = [
        ("empty", Vec::new(), Fault::Pkcs12),
        ("words", b"my certificate".to_vec(), Fault::Format),
        ("base64 of something else", b"AAAA".to_vec(), Fault::Pkcs12),
        ("a broken PEM", b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n".to_vec(), Fault::Format),
        ("a password", fixture("4096-password.p12.txt").into_bytes(), Fault::Pkcs12),
        ("a key with a password", fixture("refused-password.txt").into_bytes(), Fault::Password),
        ("half a file", file[..file.len() / 2].to_vec(), Fault::Pkcs12),
        ("1024 bits", fixture("refused-1024.txt").into_bytes(), Fault::Key),
        ("a curve", curve.clone().into_bytes(), Fault::Key),
        ("a certificate alone", own.as_bytes().to_vec(), Fault::NoKey),
        ("a key alone", key.as_bytes().to_vec(), Fault::NoCertificate),
        ("another's certificate", format!("{key}{other}").into_bytes(), Fault::Mismatch),
        (
            "no certificate",
            format!("{key}-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").into_bytes(),
            Fault::Mismatch,
        ),
    ];
    for (story, text, fault) in rows {
        let error = Certificate::read("rich", &text).expect_err(story);
        assert_eq!(error.fault, fault, "{story}");
        let line = error.to_string();
        assert!(
            line.contains("`rich` of ENCRYPTION_CERTIFICATES")
                && line.contains("; ")
                && !line.contains('\n')
                && !line.contains("PRIVATE"),
            "{line}"
        );
    }
}

#[test]
fn one_that_cannot_be_had_does_not_spoil_the_others() {
    let texts = [
        ("gone", Err("failed to read the secret `gone`".to_owned())),
        (OLD, Ok(fixture("2048-pkcs8.txt").into_bytes())),
        ("words", Ok(b"words".to_vec())),
    ];
    let (all, problems) = Certificates::collect(texts);
    assert_eq!(all.newest().map(|(newest, _)| newest.to_owned()), Some(label(OLD)));
    assert_eq!(problems.len(), 2, "{problems:?}");
    let shown = format!("{all:?}");
    assert!(shown.contains(OLD) && shown.len() < 300, "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300), at in 0_usize..5_000, value in any::<u8>()) {
        prop_assert!(Certificate::read("any", &bytes).is_err());
        for file in ["2048-pkcs8.txt", "4096-aes.p12.txt", "4096-vault.p12.txt"] {
            let mut text = fixture(file).into_bytes();
            let at = at % text.len();
            text[at] = value;
            let _ = Certificate::read("any", &text);
            text.truncate(at);
            let _ = Certificate::read("any", &text);
        }
    }
}
