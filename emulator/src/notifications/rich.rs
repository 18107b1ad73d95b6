//! Resource data, encrypted with a subscription's certificate.
//!
//! RSA-OAEP with SHA-1 for a fresh key, AES-256-CBC with PKCS7 and the key's first half as IV, HMAC-SHA256 over the ciphertext.
//! Of a certificate only the key is read. Not imitated: other key lengths, validity of certificates.

use aws_lc_rs::cipher::{AES_256, EncryptionContext, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OaepPublicEncryptingKey, PublicEncryptingKey};
use aws_lc_rs::{digest, hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::der::element;

/// What is wrong with encrypted content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentFlaw {
    /// A byte of the ciphertext is another one.
    Data,
    /// The signature is of something else.
    Signature,
    /// There is none.
    NoSignature,
    /// The key is encrypted for a certificate that nobody has.
    Key,
    /// The certificate's label is not known.
    Label,
    /// Rightly signed, but not JSON inside.
    NoJson,
}

/// `encryptedContent` for an object.
///
/// # Errors
/// The certificate is not base64 of a DER certificate with an RSA key of 2048 to 4096 bits.
pub fn encrypt(object: &Value, certificate: &str, label: &str, flaw: Option<ContentFlaw>) -> Result<Value, String> {
    let der = STANDARD.decode(certificate).map_err(|_| "it is not base64")?;
    let mut key = public_key(&der)?;
    if flaw == Some(ContentFlaw::Key) {
        key = stranger()?;
    }
    let refused = |_| "the key cannot encrypt".to_owned();
    let mut symmetric = [0; 32];
    rand::fill(&mut symmetric).map_err(refused)?;
    let mut iv = [0; 16];
    iv.copy_from_slice(&symmetric[..16]);
    let text = if flaw == Some(ContentFlaw::NoJson) { "no JSON".to_owned() } else { object.to_string() };
    let mut data = text.into_bytes();
    let cipher = UnboundCipherKey::new(&AES_256, &symmetric).and_then(PaddedBlockEncryptingKey::cbc_pkcs7).map_err(refused)?;
    cipher.less_safe_encrypt(&mut data, EncryptionContext::Iv128(FixedLength::from(iv))).map_err(refused)?;
    let mut signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &symmetric), &data).as_ref().to_vec();
    match flaw {
        Some(ContentFlaw::Data) => data[0] ^= 1,
        Some(ContentFlaw::Signature) => signature[0] ^= 1,
        _ => {}
    }
    let oaep = OaepPublicEncryptingKey::new(key).map_err(refused)?;
    let mut room = vec![0; oaep.ciphertext_size()];
    let data_key = oaep.encrypt(&OAEP_SHA1_MGF1SHA1, &symmetric, &mut room, None).map_err(refused)?;
    let mut content = json!({
        "data": STANDARD.encode(&data),
        "dataKey": STANDARD.encode(data_key),
        "encryptionCertificateId": if flaw == Some(ContentFlaw::Label) { "unknown" } else { label },
        "encryptionCertificateThumbprint": thumbprint(&der),
    });
    if flaw != Some(ContentFlaw::NoSignature) {
        content["dataSignature"] = STANDARD.encode(signature).into();
    }
    Ok(content)
}

/// Whether this can be a subscription's certificate.
pub(super) fn check(certificate: &str) -> Result<(), String> {
    let der = STANDARD.decode(certificate).map_err(|_| "it is not base64")?;
    let key = public_key(&der)?;
    if (2_048..=4_096).contains(&key.key_size_bits()) { Ok(()) } else { Err("its key must have 2048 to 4096 bits".to_owned()) }
}

fn thumbprint(der: &[u8]) -> String {
    use std::fmt::Write as _;
    digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, der).as_ref().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02X}");
        hex
    })
}

fn stranger() -> Result<PublicEncryptingKey, String> {
    use aws_lc_rs::rsa::{KeySize, PrivateDecryptingKey};
    PrivateDecryptingKey::generate(KeySize::Rsa2048).map(|key| key.public_key()).map_err(|_| "no key can be made".to_owned())
}

/// The key of a certificate: the seventh member of what is signed, if the version is given, as it is today.
fn public_key(der: &[u8]) -> Result<PublicEncryptingKey, String> {
    let wrong = || "it is not a DER certificate".to_owned();
    let (certificate, _) = element(der, 0x30).ok_or_else(wrong)?;
    let (mut rest, _) = element(certificate.content, 0x30).map(|(signed, rest)| (signed.content, rest)).ok_or_else(wrong)?;
    if let Some((_, after)) = element(rest, 0xa0) {
        rest = after;
    }
    // Serial number, algorithm, issuer, validity, subject.
    for tag in [0x02, 0x30, 0x30, 0x30, 0x30] {
        rest = element(rest, tag).ok_or_else(wrong)?.1;
    }
    let (key, _) = element(rest, 0x30).ok_or_else(wrong)?;
    PublicEncryptingKey::from_der(key.whole).map_err(|_| "its key is not an RSA key".to_owned())
}
