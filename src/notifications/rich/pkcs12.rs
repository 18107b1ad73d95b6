//! PKCS#12 without a password (RFC 7292), as Azure Key Vault hands out a certificate with its key.
//!
//! Written here because "no password" has two meanings: appendix B.1 of the RFC makes it two zero bytes, which the ready-made
//! reader does, and B.2 no bytes at all, which Windows and so the vault do. The checksum is not looked at: who needs no password
//! can make one, and damage shows when key and certificate do not belong together.

use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt as _, KeyInit, KeyIvInit as _};
use der::asn1::{ContextSpecific, OctetString};
use der::{Decode as _, Encode as _};
use pkcs5::pbes2;
use pkcs12::cms::cert::x509::spki::AlgorithmIdentifierOwned;
use pkcs12::cms::content_info::ContentInfo;
use pkcs12::cms::encrypted_data::EncryptedData;
use pkcs12::kdf::{Pkcs12KeyType, derive_key};
use pkcs12::pbe_params::{EncryptedPrivateKeyInfo, Pkcs12PbeParams};
use pkcs12::safe_bag::{PrivateKeyInfo, SafeContents};
use pkcs12::{
    AuthenticatedSafe, CertBag, PKCS_12_CERT_BAG_OID, PKCS_12_KEY_BAG_OID,
    PKCS_12_PBE_WITH_SHAAND3_KEY_TRIPLE_DES_CBC as TRIPLE_DES, PKCS_12_PBEWITH_SHAAND40_BIT_RC2_CBC as RC2,
    PKCS_12_PKCS8_KEY_BAG_OID, PKCS_12_X509_CERT_OID, Pfx,
};

use super::certificates::Parts;

/// "No password" by appendix B.2 and B.1.
const NONE: [&[u8]; 2] = [&[], &[0, 0]];
const PBES2: &str = "1.2.840.113549.1.5.13";
const ENCRYPTED: &str = "1.2.840.113549.1.7.6";
/// Rounds of the largest effort that a file may ask for.
const ROUNDS: u32 = 1_000_000;

/// Keys in PKCS#8 and certificates, both in DER; none if the file is damaged, has a password, or is no PKCS#12.
pub(super) fn read(file: &[u8]) -> Option<Parts> {
    NONE.into_iter().find_map(|password| read_with(file, password))
}

fn read_with(file: &[u8], password: &[u8]) -> Option<Parts> {
    let content = Pfx::from_der(file).ok()?.auth_safe.content;
    let safe = OctetString::from_der(&content.to_der().ok()?).ok()?;
    let mut parts = Parts::default();
    for content in AuthenticatedSafe::from_der(safe.as_bytes()).ok()? {
        for bag in SafeContents::from_der(&plain(&content, password)?).ok()? {
            match bag.bag_id {
                PKCS_12_CERT_BAG_OID => {
                    let bag = ContextSpecific::<CertBag>::from_der(&bag.bag_value).ok()?.value;
                    if bag.cert_id == PKCS_12_X509_CERT_OID {
                        parts.certificates.push(bag.cert_value.into_bytes().into());
                    }
                }
                PKCS_12_KEY_BAG_OID => {
                    let key = ContextSpecific::<PrivateKeyInfo>::from_der(&bag.bag_value).ok()?.value;
                    parts.keys.push(key.to_der().ok()?);
                }
                PKCS_12_PKCS8_KEY_BAG_OID => {
                    let bag = ContextSpecific::<EncryptedPrivateKeyInfo>::from_der(&bag.bag_value).ok()?.value;
                    let key = decrypt(&bag.encryption_algorithm, bag.encrypted_data.as_bytes(), password)?;
                    // What the other "no password" would give is no key.
                    PrivateKeyInfo::from_der(&key).ok()?;
                    parts.keys.push(key);
                }
                _ => {}
            }
        }
    }
    Some(parts)
}

/// The bags of one part of the file.
fn plain(content: &ContentInfo, password: &[u8]) -> Option<Vec<u8>> {
    let der = content.content.to_der().ok()?;
    if content.content_type.to_string() != ENCRYPTED {
        return Some(OctetString::from_der(&der).ok()?.into_bytes().into());
    }
    let encrypted = EncryptedData::from_der(&der).ok()?.enc_content_info;
    decrypt(&encrypted.content_enc_alg, encrypted.encrypted_content?.as_bytes(), password)
}

fn decrypt(algorithm: &AlgorithmIdentifierOwned, data: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let parameters = algorithm.parameters.as_ref()?.to_der().ok()?;
    match algorithm.oid {
        TRIPLE_DES => old::<des::TdesEde3>(&parameters, 24, data, password),
        RC2 => old::<rc2::Rc2>(&parameters, 5, data, password),
        other if other.to_string() == PBES2 => {
            let parameters = pbes2::Parameters::from_der(&parameters).ok()?;
            let bounded = matches!(&parameters.kdf, pbes2::Kdf::Pbkdf2(kdf) if kdf.iteration_count <= ROUNDS);
            // Here both meanings are the same.
            if bounded { parameters.decrypt([], data).ok() } else { None }
        }
        _ => None,
    }
}

/// The encryption of appendix C, which the vault still uses.
fn old<C: KeyInit + BlockCipherDecrypt>(parameters: &[u8], bytes: usize, data: &[u8], password: &[u8]) -> Option<Vec<u8>> {
    let Pkcs12PbeParams { salt, iterations } = Pkcs12PbeParams::from_der(parameters).ok()?;
    let bounded = u32::try_from(iterations).is_ok_and(|rounds| (1..=ROUNDS).contains(&rounds));
    if !bounded || salt.as_bytes().is_empty() {
        return None;
    }
    let derive = |kind, bytes| derive_key::<sha1::Sha1>(password, salt.as_bytes(), kind, iterations, bytes);
    let (key, start) = (derive(Pkcs12KeyType::EncryptionKey, bytes), derive(Pkcs12KeyType::Iv, 8));
    cbc::Decryptor::<C>::new_from_slices(&key, &start).ok()?.decrypt_padded_vec::<Pkcs7>(data).ok()
}
