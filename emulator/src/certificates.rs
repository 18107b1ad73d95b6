//! A certificate authority and a certificate for this machine, made anew at each start.

use rcgen::{BasicConstraints, Certificate, CertificateParams, DnType, IsCa, Issuer, KeyPair};

/// What a server on loopback shows, and what its clients must trust.
#[derive(Debug)]
pub(crate) struct Certified {
    pub ca_pem: String,
    pub certificate: Certificate,
    pub key: KeyPair,
}

/// For `localhost` and `127.0.0.1`.
pub(crate) fn make() -> anyhow::Result<Certified> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Indicator Relay emulator");
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(vec!["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, "localhost");
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok(Certified { ca_pem, certificate, key })
}
