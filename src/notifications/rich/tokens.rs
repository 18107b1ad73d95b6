//! Validation tokens: proof that a delivery with encrypted resources comes from Microsoft Graph and is meant for us.
//!
//! Pure: the published keys and the time are arguments. Must not know where keys come from. Nothing of a token is in an error.

use jiff::Timestamp;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use url::Url;

use super::wire::{Claims, Jwk, Jwks};

/// The application "Microsoft Graph Change Tracking", which publishes notifications
/// (vendor page "Set up Microsoft Graph change notifications with resource data").
pub const PUBLISHER: &str = "0bf30f3b-4a52-48df-9a82-234910c4a086";
/// How far the issuer's clock and ours may be apart, in seconds.
const SKEW: i64 = 300;
/// Bytes of the longest token that is looked at; Microsoft's have about two thousand.
const LONGEST: usize = 16 << 10;

/// A token that passed every check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenToken {
    /// The tenant that the token speaks for: one of ours.
    pub tenant: String,
}

/// Why a token proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("a validation token is malformed")]
    Malformed,
    #[error("a validation token is not signed with RS256")]
    Algorithm,
    #[error("a validation token does not name its key")]
    NoKeyId,
    /// May be newer than the keys that we have: to be looked at again with keys that are fetched anew.
    #[error("a validation token is signed with a key that the login host has not published")]
    UnknownKey,
    #[error("the signature of a validation token is wrong")]
    Signature,
    #[error("a validation token was not yet valid when it came")]
    NotYetValid,
    #[error("a validation token had expired when it came")]
    Expired,
    #[error("a validation token is for another application")]
    Audience,
    #[error("a validation token has a version other than 1.0 and 2.0")]
    Version,
    #[error("a validation token is of another issuer")]
    Issuer,
    #[error("a validation token is not from Microsoft Graph Change Tracking")]
    Publisher,
    #[error("a validation token is for a tenant that is not configured here")]
    Tenant,
}

impl TokenError {
    pub const ALL: [Self; 12] = [
        Self::Malformed,
        Self::Algorithm,
        Self::NoKeyId,
        Self::UnknownKey,
        Self::Signature,
        Self::NotYetValid,
        Self::Expired,
        Self::Audience,
        Self::Version,
        Self::Issuer,
        Self::Publisher,
        Self::Tenant,
    ];

    /// For counters.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::NoKeyId => "token_no_key_id",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Expired => "token_expired",
            Self::Audience => "token_audience",
            Self::Version => "token_version",
            Self::Issuer => "token_issuer",
            Self::Publisher => "token_publisher",
            Self::Tenant => "token_tenant",
        }
    }
}

/// The keys that one login host has published, and the issuers that it speaks for.
#[derive(Debug)]
pub struct Keyset {
    keys: Vec<Key>,
    issuers: Issuers,
}

#[derive(Debug)]
struct Key {
    id: String,
    public: DecodingKey,
    issuer: Option<String>,
}

/// Bases of the issuers of version 1.0 and 2.0.
#[derive(Debug)]
struct Issuers {
    v1: String,
    v2: String,
}

impl Issuers {
    /// Tokens of version 1.0 name a host of their own: one for China, and one for all other clouds (public answer "What are the
    /// token issuers for the sovereign clouds" on Microsoft Q&A). The older login host of China issues in the newer one's name.
    fn of(login: &Url) -> Self {
        let china = matches!(login.host_str(), Some("login.partner.microsoftonline.cn" | "login.chinacloudapi.cn"));
        if china {
            let v2 = "https://login.partner.microsoftonline.cn".to_owned();
            return Self { v1: "https://sts.chinacloudapi.cn".to_owned(), v2 };
        }
        Self { v1: "https://sts.windows.net".to_owned(), v2: login.as_str().trim_end_matches('/').to_owned() }
    }
}

impl Keyset {
    /// `document`: a JSON web key set (RFC 7517). `login`: the base address of the login host that published it.
    ///
    /// # Errors
    /// One line, when it holds no RSA key for signatures.
    pub fn parse(document: &[u8], login: &Url) -> Result<Self, String> {
        let document: Jwks = serde_json::from_slice(document).map_err(|_| "it is no JSON web key set".to_owned())?;
        let keys: Vec<Key> = document.keys.into_iter().filter_map(Key::parse).collect();
        if keys.is_empty() {
            return Err("it holds no RSA key for signatures".to_owned());
        }
        Ok(Self { keys, issuers: Issuers::of(login) })
    }

    /// The claims of a token and the key that signed it.
    fn verify(&self, token: &str) -> Result<(Claims, &Key), TokenError> {
        if token.len() > LONGEST {
            return Err(TokenError::Malformed);
        }
        // Keys and addresses of keys that a token brings along are never looked at; extensions that must be understood are not.
        let header = decode_header(token).map_err(|_| TokenError::Malformed)?;
        if header.alg != Algorithm::RS256 {
            return Err(TokenError::Algorithm);
        }
        if header.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let id = header.kid.ok_or(TokenError::NoKeyId)?;
        // Time and audience are checked by hand: the library asks the system's clock.
        let mut validation = Validation::new(Algorithm::RS256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let mut error = TokenError::UnknownKey;
        for key in self.keys.iter().filter(|key| key.id == id) {
            match decode::<Claims>(token, &key.public, &validation) {
                Ok(decoded) => return Ok((decoded.claims, key)),
                Err(other) if matches!(other.kind(), ErrorKind::InvalidSignature) => error = TokenError::Signature,
                Err(_) => error = TokenError::Malformed,
            }
        }
        Err(error)
    }
}

impl Key {
    fn parse(value: serde_json::Value) -> Option<Self> {
        let key: Jwk = serde_json::from_value(value).ok()?;
        let signs = key.kty == "RSA"
            && key.usage.is_none_or(|usage| usage == "sig")
            && key.alg.is_none_or(|algorithm| algorithm == "RS256");
        let public = DecodingKey::from_rsa_components(&key.n, &key.e).ok().filter(|_| signs)?;
        Some(Self { id: key.kid, public, issuer: key.issuer })
    }

    /// A key that is published for one tenant signs for no other.
    fn signs_for(&self, tenant: &str) -> bool {
        self.issuer
            .as_deref()
            .is_none_or(|issuer| issuer.split('/').any(|part| part == "{tenantid}" || part.eq_ignore_ascii_case(tenant)))
    }
}

/// Whether a token proves that a delivery comes from Microsoft Graph, for one of our applications and tenants. `now` is when the
/// delivery came: a retry hours later is judged by that.
///
/// # Errors
/// The first check that failed. Claims are looked at only when the signature is right.
pub fn check(
    token: &str,
    keys: &Keyset,
    audiences: &[String],
    tenants: &[String],
    now: Timestamp,
) -> Result<ProvenToken, TokenError> {
    let (claims, key) = keys.verify(token)?;
    let now = now.as_second();
    if now >= claims.exp.saturating_add(SKEW) {
        return Err(TokenError::Expired);
    }
    if now < claims.nbf.saturating_sub(SKEW) {
        return Err(TokenError::NotYetValid);
    }
    let audience = claims.aud.ok_or(TokenError::Audience)?;
    if !audiences.iter().any(|app| audience.names(app)) {
        return Err(TokenError::Audience);
    }
    let tenant = claims.tid.ok_or(TokenError::Tenant)?;
    if !tenants.iter().any(|ours| ours.eq_ignore_ascii_case(&tenant)) {
        return Err(TokenError::Tenant);
    }
    let (issuer, publisher) = match claims.ver.as_deref() {
        Some("1.0") => (format!("{}/{tenant}/", keys.issuers.v1), claims.appid),
        Some("2.0") => (format!("{}/{tenant}/v2.0", keys.issuers.v2), claims.azp),
        _ => return Err(TokenError::Version),
    };
    if claims.iss.is_none_or(|claimed| claimed != issuer) || !key.signs_for(&tenant) {
        return Err(TokenError::Issuer);
    }
    if publisher.is_none_or(|claimed| claimed != PUBLISHER) {
        return Err(TokenError::Publisher);
    }
    Ok(ProvenToken { tenant })
}
