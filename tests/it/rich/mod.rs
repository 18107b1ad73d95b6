//! Rich notifications: forged ones refused, good ones opened, over vectors made by openssl and an encryptor of our own.

mod certificates;
mod content;
mod forgeries;
mod keys;
mod tokens;

use std::path::PathBuf;

use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, OAEP_SHA1_MGF1SHA1, OaepAlgorithm, OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaEncoding};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use indicator_relay::notifications::item::{ChangeType, EncryptedContent, Event, Item, Origin};
use indicator_relay::notifications::rich::certificates::{Certificate, Certificates};
use indicator_relay::notifications::rich::tokens::{Keyset, PUBLISHER};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use url::Url;

pub(super) const TENANT: &str = emulator::TENANT;
pub(super) const APP: &str = emulator::CLIENT_ID;
/// The old certificate and the new one, by the names that a vault would have for them.
pub(super) const OLD: &str = "rich-2025";
pub(super) const NEW: &str = "rich-2026";
pub(super) const LOGIN: &str = "https://login.microsoftonline.com/";

pub(super) fn fixture(name: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/rich").join(name);
    std::fs::read_to_string(path).expect("a fixture")
}

/// When all tokens are good.
pub(super) fn now() -> Timestamp {
    crate::rig::START.parse().expect("a time")
}

pub(super) fn login() -> Url {
    LOGIN.parse().expect("an address")
}

pub(super) fn keyset() -> Keyset {
    Keyset::parse(fixture("keys.json").as_bytes(), &login()).expect("keys")
}

pub(super) fn audiences() -> Vec<String> {
    vec!["00000000-0000-0000-0000-000000000009".to_owned(), APP.to_owned()]
}

pub(super) fn tenants() -> Vec<String> {
    vec![emulator::GRAPH_TENANT.to_owned(), TENANT.to_owned()]
}

pub(super) fn certificate(name: &str, file: &str) -> Certificate {
    Certificate::read(name, fixture(file).as_bytes()).unwrap_or_else(|error| panic!("{error}"))
}

/// The new one, then the old one.
pub(super) fn certificates() -> Certificates {
    Certificates::new(vec![certificate(NEW, "4096-aes.p12.txt"), certificate(OLD, "2048-pkcs8.txt")])
}

pub(super) fn label(name: &str) -> String {
    let all = certificates();
    let file = if name == NEW { "4096-aes.p12.txt" } else { "2048-pkcs8.txt" };
    let label = certificate(name, file).label().to_owned();
    assert!(all.find(&label).is_some());
    label
}

/// A content that openssl encrypted.
pub(super) fn content(bits: u32, label: &str) -> EncryptedContent {
    let content: Value = serde_json::from_str(&fixture(&format!("item-{bits}.json"))).expect("JSON");
    let text = |name: &str| content[name].as_str().expect("text").to_owned();
    EncryptedContent {
        data: text("data"),
        data_key: text("dataKey"),
        data_signature: Some(text("dataSignature")),
        certificate_id: Some(label.to_owned()),
        certificate_thumbprint: None,
    }
}

/// A content encrypted here, with what a test wants to be different.
pub(super) struct Sealer {
    pub(super) key: Vec<u8>,
    pub(super) iv: Option<[u8; 16]>,
    pub(super) padding: &'static OaepAlgorithm,
}

impl Sealer {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key: key.to_vec(), iv: None, padding: &OAEP_SHA1_MGF1SHA1 }
    }

    pub(super) fn seal(&self, plain: &[u8], certificate: &Certificate) -> EncryptedContent {
        let bytes: [u8; 32] = self.key.clone().try_into().unwrap_or([7; 32]);
        let iv = self.iv.unwrap_or_else(|| *bytes.first_chunk().expect("32 bytes"));
        let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, &bytes).expect("a key")).expect("CBC");
        let mut data = plain.to_vec();
        cipher.less_safe_encrypt(&mut data, EncryptionContext::Iv128(FixedLength::from(iv))).expect("encrypted");
        self.wrap(&data, certificate)
    }

    /// Signed and addressed, whatever `data` is.
    pub(super) fn wrap(&self, data: &[u8], certificate: &Certificate) -> EncryptedContent {
        let der = STANDARD.decode(certificate.public()).expect("base64");
        let public = PublicEncryptingKey::from_der(&public_key(&der)).expect("a key");
        let public = OaepPublicEncryptingKey::new(public).expect("a key");
        let mut wrapped = vec![0; public.ciphertext_size()];
        let wrapped = public.encrypt(self.padding, &self.key, &mut wrapped, None).expect("encrypted");
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.key), data);
        EncryptedContent {
            data: STANDARD.encode(data),
            data_key: STANDARD.encode(wrapped),
            data_signature: Some(STANDARD.encode(signature.as_ref())),
            certificate_id: Some(certificate.label().to_owned()),
            certificate_thumbprint: None,
        }
    }
}

/// The public key within a certificate.
fn public_key(certificate: &[u8]) -> Vec<u8> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).expect("a certificate");
    parsed.public_key().raw.to_vec()
}

/// The first private key of a fixture: `signing-key.txt` holds the login host's.
pub(super) fn signer(file: &str) -> KeyPair {
    let text = fixture(file);
    let (key, _) = text.split_once("-----END").expect("PEM");
    let base64: String = key.lines().filter(|line| !line.starts_with('-')).collect();
    KeyPair::from_pkcs8(&STANDARD.decode(base64).expect("base64")).expect("a key")
}

/// The public half, in DER.
pub(super) fn published() -> Vec<u8> {
    use aws_lc_rs::signature::KeyPair as _;
    let der: aws_lc_rs::encoding::PublicKeyX509Der<'_> = signer("signing-key.txt").public_key().as_der().expect("DER");
    der.as_ref().to_vec()
}

pub(super) fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

pub(super) fn header() -> Value {
    json!({"typ": "JWT", "alg": "RS256", "kid": "published"})
}

/// Claims of a good token of a version.
pub(super) fn claims(version: &str) -> Value {
    let (issuer, publisher) = match version {
        "1.0" => (format!("https://sts.windows.net/{TENANT}/"), "appid"),
        _ => (format!("{LOGIN}{TENANT}/v2.0"), "azp"),
    };
    let from = now().as_second() - 300;
    let mut claims =
        json!({"aud": APP, "iat": from, "nbf": from, "exp": from + 3_900, "tid": TENANT, "iss": issuer, "ver": version});
    claims[publisher] = PUBLISHER.into();
    claims
}

/// Signed as the header may or may not say.
pub(super) fn sign(header: &Value, claims: &Value, key: &KeyPair, how: &'static dyn RsaEncoding) -> String {
    sign_text(&format!("{}.{}", part(header), part(claims)), key, how)
}

pub(super) fn sign_text(text: &str, key: &KeyPair, how: &'static dyn RsaEncoding) -> String {
    let mut signature = vec![0; key.public_modulus_len()];
    key.sign(how, &SystemRandom::new(), text.as_bytes(), &mut signature).expect("signed");
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// A token that is wrong only in what the change does to its claims.
pub(super) fn token(version: &str, change: impl FnOnce(&mut Map<String, Value>)) -> String {
    let mut claims = claims(version);
    change(claims.as_object_mut().expect("an object"));
    sign(&header(), &claims, &signer("signing-key.txt"), &RSA_PKCS1_SHA256)
}

/// A notification that is proven and opens.
pub(super) fn item() -> Item {
    Item {
        subscription: "7d0c0000-0000-0000-0000-000000000001".to_owned(),
        tenant: Some(TENANT.to_owned()),
        resource: Some("users/u/messages/AAMk".to_owned()),
        encrypted: Some(content(4_096, &label(NEW))),
        tokens: vec![fixture("token-2.txt")],
        ..Item::new(Origin::Graph, now(), Event::Change(ChangeType::Created))
    }
}
