//! What a bearer token says of the app that it is for: a look for messages, which decides nothing.
//!
//! A token is for the service that it names, and who only carries it cannot count on its form (vendor page "Access tokens in the
//! Microsoft identity platform"): one that cannot be read is no mistake.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde_json::Value;

/// The app roles in the token among these headers: permissions that were consented to (vendor page "Access token claims
/// reference"; without any, the claim is left out). None: there is no token, or it is no JWT.
#[must_use]
pub fn roles(headers: &[(HeaderName, HeaderValue)]) -> Option<BTreeSet<String>> {
    let (_, value) = headers.iter().find(|(name, _)| name == AUTHORIZATION)?;
    let mut parts = value.to_str().ok()?.strip_prefix("Bearer ")?.split('.');
    let (_, claims, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else { return None };
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?).ok()?;
    match claims.as_object()?.get("roles") {
        None => Some(BTreeSet::new()),
        Some(Value::Array(roles)) => Some(roles.iter().filter_map(Value::as_str).map(str::to_owned).collect()),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(token: &str) -> Option<Vec<String>> {
        let value = HeaderValue::from_str(&format!("Bearer {token}")).expect("a header value");
        roles(&[(AUTHORIZATION, value)]).map(|roles| roles.into_iter().collect())
    }

    #[test]
    fn roles_are_read_from_a_jwt_and_from_nothing_else() {
        let jwt = |claims: &str| format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(
            of(&jwt(r#"{"roles":["User.Read.All","Mail.Read"]}"#)),
            Some(vec!["Mail.Read".into(), "User.Read.All".into()])
        );
        assert_eq!(of(&jwt(r#"{"aud":"x"}"#)), Some(Vec::new()));
        for none in [&jwt(r#"{"roles":"all"}"#), &jwt("[]"), "opaque", "a.b", "a.b.c.d.e", "a.%%.c"] {
            assert_eq!(of(none), None, "{none}");
        }
        assert_eq!(roles(&[]), None);
    }
}
