//! The certificates that Microsoft Graph encrypts for, with their private keys: read from text, found by label.
//!
//! Must not know where the text is kept. A label names one certificate for ever: it goes to Microsoft Graph with the public
//! part and comes back with each notification, so that old and new certificates are told apart while they change over.

use std::fmt;

use aws_lc_rs::digest;
use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, OAEP_SHA1_MGF1SHA1, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use x509_parser::parse_x509_certificate;
use x509_parser::pem::Pem;

use super::pkcs12;
use crate::platform::hex;

/// Characters of the longest label that Microsoft Graph takes.
const LABEL: usize = 128;
/// Bytes of a certificate's digest that are in its label, two characters each.
const DIGEST: usize = 8;
/// How long before its end a certificate is told of.
const TOLD_BEFORE_DAYS: i64 = 30;

/// Why a certificate cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", missing(name, &fault.to_string()))]
pub struct CertificateError {
    /// As ENCRYPTION_CERTIFICATES names it.
    pub name: String,
    pub fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("it is neither PEM nor PKCS#12 (base64, as the vault keeps it, or a file as it is); make it one of them")]
    Format,
    #[error("its PKCS#12 cannot be read; it must have no password and no damage")]
    Pkcs12,
    #[error("its private key has a password; store it without one")]
    Password,
    #[error("it has no private key; put the key into the same file; in the vault, its policy must make the key exportable")]
    NoKey,
    #[error("its private key is not RSA of 2048 to 4096 bits, and Microsoft Graph takes no other; make a new certificate")]
    Key,
    #[error("it has no certificate beside the private key; put both into it")]
    NoCertificate,
    #[error("no certificate in it belongs to the private key; put both of one pair into it")]
    Mismatch,
}

/// The line about a certificate that is named and cannot be had.
#[must_use]
pub fn missing(name: &str, why: &str) -> String {
    format!("the certificate `{name}` of ENCRYPTION_CERTIFICATES cannot be used: {why}")
}

/// A certificate with its private key.
pub struct Certificate {
    label: String,
    /// Base64 of the public part in DER, as Microsoft Graph takes it.
    public: String,
    ends: Timestamp,
    key: OaepPrivateDecryptingKey,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("label", &self.label).field("ends", &self.ends).finish_non_exhaustive()
    }
}

impl Certificate {
    /// `name`: of the vault's certificate, or of the file with its folder. `text`: PEM, PKCS#12, or PKCS#12 in base64 (as the secret
    /// of a vault's certificate holds it), with private key and without password.
    ///
    /// # Errors
    /// [`CertificateError`], which tells what to change and nothing of the key.
    pub fn read(name: &str, text: &[u8]) -> Result<Self, CertificateError> {
        parse(name, text).map_err(|fault| CertificateError { name: name.to_owned(), fault })
    }

    /// What names it to Microsoft Graph: at most 128 characters, and other ones when it is renewed under its name.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Base64 of the public certificate in DER.
    #[must_use]
    pub fn public(&self) -> &str {
        &self.public
    }

    #[must_use]
    pub fn ends(&self) -> Timestamp {
        self.ends
    }

    /// The key of one item: RSA OAEP with SHA-1, and no other padding.
    pub(super) fn unwrap(&self, wrapped: &[u8]) -> Option<Vec<u8>> {
        let mut plain = vec![0; self.key.min_output_size()];
        self.key.decrypt(&OAEP_SHA1_MGF1SHA1, wrapped, &mut plain, None).ok().map(|plain| plain.to_vec())
    }
}

/// All certificates that notifications may be encrypted for, newest first.
#[derive(Debug, Default)]
pub struct Certificates(Vec<Certificate>);

impl Certificates {
    #[must_use]
    pub fn new(newest_first: Vec<Certificate>) -> Self {
        Self(newest_first)
    }

    /// Those of texts that could be read, in their order, and what is wrong with the others in one line each.
    pub fn collect<'a>(texts: impl IntoIterator<Item = (&'a str, Result<Vec<u8>, String>)>) -> (Self, Vec<String>) {
        let mut problems = Vec::new();
        let mut all = Vec::new();
        for (name, text) in texts {
            match text.and_then(|text| Certificate::read(name, &text).map_err(|error| error.to_string())) {
                Ok(certificate) => all.push(certificate),
                Err(problem) => problems.push(problem),
            }
        }
        (Self(all), problems)
    }

    /// The one that subscriptions get: label and base64 of the public certificate in DER.
    #[must_use]
    pub fn newest(&self) -> Option<(&str, &str)> {
        self.0.first().map(|newest| (newest.label(), newest.public()))
    }

    #[must_use]
    pub fn find(&self, label: &str) -> Option<&Certificate> {
        self.0.iter().find(|certificate| certificate.label == label)
    }

    /// The newest, if it ends within a month, with the whole days that are left; negative: it has ended. The others are there for
    /// what is still under way.
    #[must_use]
    pub fn ending(&self, now: Timestamp) -> Option<(&str, i64)> {
        let newest = self.0.first()?;
        let days = newest.ends.duration_since(now).as_hours().div_euclid(24);
        (days < TOLD_BEFORE_DAYS).then_some((newest.label(), days))
    }
}

/// What a text holds: private keys in PKCS#8 or PKCS#1, certificates, both in DER.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) keys: Vec<Vec<u8>>,
    pub(super) certificates: Vec<Vec<u8>>,
}

impl Parts {
    fn of(text: &[u8]) -> Result<Self, Fault> {
        /// The tag of a DER sequence, which begins every PKCS#12 file and no base64 of one.
        const SEQUENCE: u8 = 0x30;
        if text.windows(11).any(|window| window == b"-----BEGIN ") {
            return Self::of_pem(text);
        }
        if text.first() == Some(&SEQUENCE) {
            return pkcs12::read(text).ok_or(Fault::Pkcs12);
        }
        let packed: Vec<u8> = text.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
        pkcs12::read(&STANDARD.decode(packed).map_err(|_| Fault::Format)?).ok_or(Fault::Pkcs12)
    }

    fn of_pem(text: &[u8]) -> Result<Self, Fault> {
        let mut parts = Self::default();
        for section in Pem::iter_from_buffer(text) {
            let section = section.map_err(|_| Fault::Format)?;
            match section.label.as_str() {
                "PRIVATE KEY" | "RSA PRIVATE KEY" => parts.keys.push(section.contents),
                "ENCRYPTED PRIVATE KEY" => return Err(Fault::Password),
                "EC PRIVATE KEY" => return Err(Fault::Key),
                "CERTIFICATE" => parts.certificates.push(section.contents),
                _ => {}
            }
        }
        Ok(parts)
    }
}

fn parse(name: &str, text: &[u8]) -> Result<Certificate, Fault> {
    let parts = Parts::of(text)?;
    let key = private_key(parts.keys.first().ok_or(Fault::NoKey)?).ok_or(Fault::Key)?;
    if !(2_048..=4_096).contains(&key.key_size_bits()) {
        return Err(Fault::Key);
    }
    if parts.certificates.is_empty() {
        return Err(Fault::NoCertificate);
    }
    // Those of its issuers may stand beside it.
    let public: PublicKeyX509Der<'_> = key.public_key().as_der().map_err(|_| Fault::Key)?;
    let own = |der: &&Vec<u8>| parse_x509_certificate(der).is_ok_and(|(_, parsed)| parsed.public_key().raw == public.as_ref());
    let der = parts.certificates.iter().find(own).ok_or(Fault::Mismatch)?;
    let (_, parsed) = parse_x509_certificate(der).map_err(|_| Fault::Mismatch)?;
    let ends = Timestamp::from_second(parsed.validity().not_after.timestamp()).unwrap_or(Timestamp::MAX);
    let key = OaepPrivateDecryptingKey::new(key).map_err(|_| Fault::Key)?;
    Ok(Certificate { label: label(name, der), public: STANDARD.encode(der), ends, key })
}

fn private_key(der: &[u8]) -> Option<PrivateDecryptingKey> {
    if let Ok(key) = PrivateDecryptingKey::from_pkcs8(der) {
        return Some(key);
    }
    // PKCS#1: only the signing side of the library reads it, and writes it as PKCS#8.
    let wrapped: Pkcs8V1Der<'_> = KeyPair::from_der(der).ok()?.as_der().ok()?;
    PrivateDecryptingKey::from_pkcs8(wrapped.as_ref()).ok()
}

/// The name and the digest of the certificate.
fn label(name: &str, der: &[u8]) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' };
    // A file is known by its name without folder and ending.
    let name = name.rsplit('/').next().unwrap_or_default().split('.').next().unwrap_or_default();
    let mut label: String = name.chars().map(plain).take(LABEL - 1 - 2 * DIGEST).collect();
    label.push('.');
    label.push_str(&hex::digits(&digest::digest(&digest::SHA256, der).as_ref()[..DIGEST]));
    label
}
