//! Opens the resource of a rich notification (vendor page "Set up Microsoft Graph change notifications with resource data").
//!
//! Must not know who sent it: that is proven before. Nothing is decrypted whose signature is not right.

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::certificates::{Certificate, Certificates};
use crate::notifications::item::EncryptedContent;
use crate::platform::json;

/// Bytes of the key that is made anew for each item.
const KEY: usize = 32;
const BLOCK: usize = 16;

/// Why a resource stays closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The notification is worth keeping: it opens once the certificate is there.
    #[error("the resource is encrypted for a certificate that is not at hand; name it in ENCRYPTION_CERTIFICATES")]
    UnknownCertificate,
    /// One error for all, so that nobody learns how far a forgery came.
    #[error("the encrypted resource cannot be opened: it was changed on its way, or was not made by Microsoft Graph")]
    NotOpened,
}

impl OpenError {
    pub const ALL: [Self; 2] = [Self::UnknownCertificate, Self::NotOpened];

    /// For counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnknownCertificate => "unknown_certificate",
            Self::NotOpened => "not_opened",
        }
    }
}

/// The resource: a JSON object.
///
/// # Errors
/// [`OpenError`]; a missing signature is a wrong one.
pub fn open(content: &EncryptedContent, certificates: &Certificates) -> Result<Value, OpenError> {
    let label = content.certificate_id.as_deref().ok_or(OpenError::UnknownCertificate)?;
    let certificate = certificates.find(label).ok_or(OpenError::UnknownCertificate)?;
    opened(content, certificate).ok_or(OpenError::NotOpened)
}

fn opened(content: &EncryptedContent, certificate: &Certificate) -> Option<Value> {
    let wrapped = STANDARD.decode(&content.data_key).ok()?;
    let key: [u8; KEY] = certificate.unwrap(&wrapped)?.try_into().ok()?;
    let mut data = STANDARD.decode(&content.data).ok()?;
    let signature = STANDARD.decode(content.data_signature.as_deref()?).ok()?;
    // Compares in constant time.
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, &key), &data, &signature).ok()?;
    let cipher = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, &key).ok()?).ok()?;
    let start: &[u8; BLOCK] = key.first_chunk()?;
    let plain = cipher.decrypt(&mut data, DecryptionContext::Iv128(FixedLength::from(start))).ok()?;
    json::read::<Value>(plain).ok().filter(Value::is_object)
}
