//! Validation tokens, and the keys that prove them: the OpenID configuration and key set of the emulated login host.
//!
//! Not imitated: certificates of keys (`x5c`), issuers of other clouds, claims that nobody reads.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256};
use aws_lc_rs::{digest, hmac, rand, rsa};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

use super::der::element;
use crate::server::{Answer, Call};
use crate::world::World;

/// The app that publishes change notifications.
pub const CHANGE_TRACKING: &str = "0bf30f3b-4a52-48df-9a82-234910c4a086";
/// Its token is good for so long.
const LASTS: i64 = 24;
/// A key that is in no key set.
const STRANGER: usize = usize::MAX;

/// Keys are made once in a process, as that takes long; they prove nothing to anybody outside it.
static KEYS: Mutex<BTreeMap<usize, Arc<Key>>> = Mutex::new(BTreeMap::new());

#[derive(Debug)]
struct Key {
    pair: rsa::KeyPair,
    id: String,
}

/// Which form tokens have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TokenForm {
    V1,
    #[default]
    V2,
}

/// What is wrong with a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenFlaw {
    /// Signed by a key of nobody, under the name of the published one.
    WrongKey,
    /// Signed by a key that is not published.
    UnknownKey,
    Audience,
    Issuer,
    /// Another tenant's, all consistent.
    Tenant,
    /// Issuer and `tid` name different tenants.
    MixedTenant,
    Publisher,
    /// It ended an hour ago.
    Expired,
    /// It begins in an hour.
    NotYet,
    /// Claims were changed after signing.
    Tampered,
    /// `alg` is `none`, and there is no signature.
    NoAlgorithm,
    /// HS256 with the public key as secret.
    Symmetric,
    /// It is no token at all.
    NoToken,
}

/// How tokens are made.
#[derive(Debug, Clone)]
pub struct Tokens {
    pub form: TokenForm,
    /// Of every token, until it is taken away.
    pub flaw: Option<TokenFlaw>,
    /// Deliveries with resource data come with `validationTokens: null`: the app's registration blocks the issue.
    pub withheld: bool,
    /// Keys in the key set, newest first; the first one signs.
    published: Vec<usize>,
    /// Where the documents' links point.
    pub(crate) login: String,
}

impl Default for Tokens {
    fn default() -> Self {
        let login = "https://localhost".to_owned();
        Self { form: TokenForm::default(), flaw: None, withheld: false, published: vec![0], login }
    }
}

impl Tokens {
    /// A new key signs from now on. The ones before stay in the key set, or leave it.
    pub fn rotate(&mut self, keep: bool) {
        let newest = self.published.first().map_or(0, |newest| newest + 1);
        if !keep {
            self.published.clear();
        }
        self.published.insert(0, newest);
    }

    /// The ids of the published keys, newest first.
    #[must_use]
    pub fn key_ids(&self) -> Vec<String> {
        self.published.iter().map(|number| key(*number).id.clone()).collect()
    }

    /// The key set, as it is published.
    #[must_use]
    pub fn key_set(&self) -> Value {
        let keys: Vec<Value> = self.published.iter().map(|number| key(*number).shown()).collect();
        json!({ "keys": keys })
    }

    /// A token for an app of a tenant, with this flaw.
    #[must_use]
    pub fn make(&self, tenant: &str, audience: &str, flaw: Option<TokenFlaw>, now: Timestamp) -> String {
        let signing = self.published.first().copied().unwrap_or(0);
        let number = if matches!(flaw, Some(TokenFlaw::WrongKey | TokenFlaw::UnknownKey)) { STRANGER } else { signing };
        let pair = key(number);
        let named = if flaw == Some(TokenFlaw::WrongKey) { key(signing).id.clone() } else { pair.id.clone() };
        let algorithm = match flaw {
            Some(TokenFlaw::NoToken) => return "no token".to_owned(),
            Some(TokenFlaw::NoAlgorithm) => "none",
            Some(TokenFlaw::Symmetric) => "HS256",
            _ => "RS256",
        };
        let header = json!({"typ": "JWT", "alg": algorithm, "kid": named});
        let claims = self.claims(tenant, audience, flaw, now);
        let mut signed = format!("{}.{}", part(&header), part(&claims));
        let signature = match algorithm {
            "none" => Vec::new(),
            "HS256" => {
                let secret = hmac::Key::new(hmac::HMAC_SHA256, pair.pair.public_key().as_ref());
                hmac::sign(&secret, signed.as_bytes()).as_ref().to_vec()
            }
            _ => pair.sign(signed.as_bytes()),
        };
        if flaw == Some(TokenFlaw::Tampered) {
            let mut claims = claims;
            claims["sub"] = "somebody else".into();
            signed = format!("{}.{}", part(&header), part(&claims));
        }
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn claims(&self, tenant: &str, audience: &str, flaw: Option<TokenFlaw>, now: Timestamp) -> Value {
        const OTHER: &str = "99999999-9999-4999-8999-999999999999";
        let is = |wanted: TokenFlaw| flaw == Some(wanted);
        let tid = if is(TokenFlaw::Tenant) || is(TokenFlaw::MixedTenant) { OTHER } else { tenant };
        let issuer_tenant = if is(TokenFlaw::Tenant) { OTHER } else { tenant };
        let publisher = if is(TokenFlaw::Publisher) { OTHER } else { CHANGE_TRACKING };
        let moved = i64::from(is(TokenFlaw::NotYet)) - i64::from(is(TokenFlaw::Expired)) * (LASTS + 1);
        let at = |hours: i64| now.checked_add((hours + moved).hours()).unwrap_or(now).as_second();
        let issuer = match self.form {
            TokenForm::V1 => format!("https://sts.windows.net/{issuer_tenant}/"),
            TokenForm::V2 => format!("https://login.microsoftonline.com/{issuer_tenant}/v2.0"),
        };
        let mut claims = json!({
            "aud": if is(TokenFlaw::Audience) { OTHER } else { audience },
            "iss": if is(TokenFlaw::Issuer) { format!("https://issuer.example/?{issuer}") } else { issuer },
            "iat": at(0),
            "nbf": at(0),
            "exp": at(LASTS),
            "oid": "c1f2a9d4-0000-4000-9000-0000000000d1",
            "sub": "c1f2a9d4-0000-4000-9000-0000000000d1",
            "tid": tid,
        });
        let (member, version) = match self.form {
            TokenForm::V1 => ("appid", "1.0"),
            TokenForm::V2 => ("azp", "2.0"),
        };
        claims[member] = publisher.into();
        claims["ver"] = version.into();
        claims
    }
}

impl Key {
    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let mut signature = vec![0; self.pair.public_modulus_len()];
        let done = self.pair.sign(&RSA_PKCS1_SHA256, &rand::SystemRandom::new(), message, &mut signature);
        done.map_or_else(|_| Vec::new(), |()| signature)
    }

    fn shown(&self) -> Value {
        let (modulus, exponent) = numbers(self.pair.public_key().as_ref()).unwrap_or_default();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({
            "kty": "RSA",
            "use": "sig",
            "kid": self.id,
            "x5t": self.id,
            "n": text(modulus),
            "e": text(exponent),
            "issuer": "https://login.microsoftonline.com/{tenantid}/v2.0",
        })
    }
}

#[expect(clippy::expect_used, reason = "the library makes keys, or nothing here works")]
fn key(number: usize) -> Arc<Key> {
    let mut keys = KEYS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = keys.entry(number).or_insert_with(|| {
        let pair = rsa::KeyPair::generate(KeySize::Rsa2048).expect("a key of a usual size");
        let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, pair.public_key().as_ref());
        Arc::new(Key { pair, id: URL_SAFE_NO_PAD.encode(hash) })
    });
    Arc::clone(made)
}

/// Modulus and exponent of a public key, without the zero that keeps them positive.
fn numbers(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, _) = element(key, 0x30)?;
    let (modulus, rest) = element(key.content, 0x02)?;
    let (exponent, _) = element(rest, 0x02)?;
    let modulus = modulus.content;
    Some((modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent.content))
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// The documents on the login host; none: it is something else that is asked for.
pub(crate) fn documents(world: &World, call: &Call) -> Option<Answer> {
    let tokens = &world.notifications.tokens;
    let mut parts = call.path.trim_matches('/').splitn(2, '/');
    let (tenant, rest) = (parts.next()?, parts.next()?);
    if call.method != "GET" {
        return None;
    }
    let configuration = |issuer: String, keys: &str| {
        let login = &tokens.login;
        json!({
            "issuer": issuer,
            "jwks_uri": format!("{login}/{tenant}{keys}"),
            "token_endpoint": format!("{login}/{tenant}/oauth2/v2.0/token"),
            "id_token_signing_alg_values_supported": ["RS256"],
            "subject_types_supported": ["pairwise"],
        })
    };
    let named = if matches!(tenant, "common" | "organizations") { "{tenantid}" } else { tenant };
    let body = match rest {
        ".well-known/openid-configuration" => configuration(format!("https://sts.windows.net/{named}/"), "/discovery/keys"),
        "v2.0/.well-known/openid-configuration" => {
            configuration(format!("https://login.microsoftonline.com/{named}/v2.0"), "/discovery/v2.0/keys")
        }
        "discovery/keys" | "discovery/v2.0/keys" => tokens.key_set(),
        _ => return None,
    };
    Some(Answer::json(200, &body).with("cache-control", "max-age=86400, private"))
}
