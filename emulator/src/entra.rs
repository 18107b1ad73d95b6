//! The token endpoint of Microsoft Entra: client credentials only.
//!
//! Tokens are JWTs with the claims of an app-only token of version 1.0, as Microsoft Graph's are; `roles` are the app roles that were
//! consented to, and the claim is not there without any (vendor page "Access token claims reference").
//!
//! Not imitated: signatures that hold, certificates, federated credentials, managed identities, other grants.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::{Timestamp, ToSpan};
use serde_json::json;

use crate::server::{Answer, Call};
use crate::world::{Token, World};

const LASTS: i64 = 3_599;

pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> Answer {
    let Some(tenant) = call.path.strip_prefix('/').and_then(|path| path.strip_suffix("/oauth2/v2.0/token")) else {
        return Answer::text(404, "text/html", "<html><title>Not Found</title></html>".to_owned());
    };
    if call.method != "POST" {
        return refuse(now, 400, "invalid_request", 900_561, "The endpoint only accepts POST requests.");
    }
    let form: Vec<(String, String)> = crate::server::form(&String::from_utf8_lossy(&call.body));
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    if field("grant_type") != "client_credentials" {
        return refuse(now, 400, "unsupported_grant_type", 70_003, "The app requested an unsupported grant type.");
    }
    if !world.apps.iter().any(|app| app.tenant == tenant) {
        return refuse(
            now,
            400,
            "invalid_request",
            90_002,
            "Tenant not found. Check to make sure you have the correct tenant ID.",
        );
    }
    let Some(app) = world.apps.iter().find(|app| !app.managed && app.tenant == tenant && app.client_id == field("client_id"))
    else {
        return refuse(now, 400, "unauthorized_client", 700_016, "Application was not found in the directory.");
    };
    if app.secret != field("client_secret") {
        return refuse(now, 401, "invalid_client", 7_000_215, "Invalid client secret provided.");
    }
    let scopes: Vec<&str> = field("scope").split_whitespace().collect();
    let audience = match scopes.as_slice() {
        [scope] => scope.strip_suffix("/.default"),
        _ => None,
    };
    let Some(audience) = audience.filter(|audience| audience.starts_with("https://")) else {
        return refuse(
            now,
            400,
            "invalid_scope",
            1_002_012,
            "The provided value for scope is not valid: one resource and /.default.",
        );
    };
    let token = Token {
        tenant: app.tenant.clone(),
        client_id: app.client_id.clone(),
        audience: audience.trim_end_matches('/').to_owned(),
        expires: now.checked_add(LASTS.seconds()).unwrap_or(now),
    };
    let roles = app.roles.clone();
    let text = token_text(world, &token, &roles, now);
    world.tokens.insert(text.clone(), token);
    Answer::json(200, &json!({"token_type": "Bearer", "expires_in": LASTS, "ext_expires_in": LASTS, "access_token": text}))
}

/// The token as it is sent: for who asks it is a text, whatever it looks like.
pub(crate) fn token_text(world: &mut World, token: &Token, roles: &[String], now: Timestamp) -> String {
    world.token_counter += 1;
    let unique = format!("emulated-{}-{}", world.token_counter, now.as_second());
    if world.opaque_tokens {
        return unique;
    }
    let mut claims = json!({
        "aud": token.audience,
        "iss": format!("https://sts.windows.net/{}/", token.tenant),
        "iat": now.as_second(),
        "nbf": now.as_second(),
        "exp": token.expires.as_second(),
        "appid": token.client_id,
        "appidacr": "1",
        "idtyp": "app",
        "oid": token.client_id,
        "sub": token.client_id,
        "tid": token.tenant,
        "uti": unique,
        "ver": "1.0",
    });
    if !roles.is_empty() {
        claims["roles"] = json!(roles);
    }
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{}", part(json!({"typ": "JWT", "alg": "RS256"})), part(claims), URL_SAFE_NO_PAD.encode(unique))
}

fn refuse(now: Timestamp, status: u16, error: &str, code: i32, text: &str) -> Answer {
    Answer::json(
        status,
        &json!({
            "error": error,
            "error_description": format!("AADSTS{code}: {text}"),
            "error_codes": [code],
            "timestamp": now.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
            "trace_id": "0f5a1c2e-0000-4000-8000-000000000001",
            "correlation_id": "0f5a1c2e-0000-4000-8000-000000000002",
        }),
    )
}

/// The app that a bearer token names, if the token is good for one of these audiences.
pub(crate) fn bearer<'w>(world: &'w World, call: &Call, audiences: &[&str], now: Timestamp) -> Option<&'w crate::world::App> {
    let token = world.tokens.get(call.header("authorization")?.strip_prefix("Bearer ")?)?;
    let good = token.expires > now && audiences.contains(&token.audience.as_str());
    good.then(|| world.apps.iter().find(|app| app.tenant == token.tenant && app.client_id == token.client_id)).flatten()
}

/// For the services' tests: a world in which two apps of one tenant hold tokens, and requests with them.
#[cfg(test)]
pub(crate) mod testing {
    use super::*;
    use crate::world::App;

    pub(crate) const TENANT: &str = "tenant";

    /// `app` has this token and these roles; `other` has the same roles.
    pub(crate) fn world(audience: &str, roles: &[&str]) -> World {
        let mut world = World::default();
        for name in ["app", "other"] {
            world.apps.push(App {
                tenant: TENANT.to_owned(),
                client_id: name.to_owned(),
                secret: String::new(),
                workspaces: Vec::new(),
                may_read_vault: false,
                managed: false,
                roles: roles.iter().map(|role| (*role).to_owned()).collect(),
            });
            let token = Token {
                tenant: TENANT.to_owned(),
                client_id: name.to_owned(),
                audience: audience.to_owned(),
                expires: Timestamp::MAX,
            };
            world.tokens.insert(name.to_owned(), token);
        }
        world
    }

    pub(crate) fn call(app: &str, method: &str, target: &str, body: &serde_json::Value) -> Call {
        let mut headers = hyper::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {app}").parse().expect("a header"));
        headers.insert("content-type", "application/json".parse().expect("a header"));
        Call::new(method, target, headers, body.to_string().into())
    }

    pub(crate) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_790_000_000 + second).expect("a time")
    }
}
