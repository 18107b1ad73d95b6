//! Foreign JSON of rich notifications: the key set of a login host, and the claims of a validation token.
//!
//! Source: RFC 7517 (keys), RFC 7519 (claims), and the vendor pages "Access token claims reference" and "Set up Microsoft Graph
//! change notifications with resource data".

use serde::Deserialize;
use serde_json::Value;

/// Keys as they are published; one that we cannot use does not spoil the others.
#[derive(Deserialize)]
pub(super) struct Jwks {
    pub(super) keys: Vec<Value>,
}

#[derive(Deserialize)]
pub(super) struct Jwk {
    pub(super) kty: String,
    pub(super) kid: String,
    /// Absent, or `sig` for a key that signs.
    #[serde(rename = "use")]
    pub(super) usage: Option<String>,
    pub(super) alg: Option<String>,
    pub(super) n: String,
    pub(super) e: String,
    /// Microsoft's own member: for whom the key signs, with `{tenantid}` where that is every tenant.
    pub(super) issuer: Option<String>,
}

/// What we look at in a token. A claim that comes twice is an error, and so is a missing time.
#[derive(Deserialize)]
pub(super) struct Claims {
    pub(super) exp: i64,
    pub(super) nbf: i64,
    pub(super) aud: Option<Audience>,
    pub(super) iss: Option<String>,
    pub(super) ver: Option<String>,
    pub(super) tid: Option<String>,
    /// The publisher in version 2.0.
    pub(super) azp: Option<String>,
    /// The publisher in version 1.0.
    pub(super) appid: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    pub(super) fn names(&self, app: &str) -> bool {
        match self {
            Self::One(one) => one.eq_ignore_ascii_case(app),
            Self::Several(several) => several.iter().any(|one| one.eq_ignore_ascii_case(app)),
        }
    }
}
