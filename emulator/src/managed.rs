//! The endpoint of an app's managed identities, as App Service and Functions give it to a process (`IDENTITY_ENDPOINT`).
//!
//! Source: "How to use managed identities for App Service and Azure Functions", section "REST endpoint reference". Tokens look
//! like JWTs, because Azurite reads them, but are known by heart here. Not imitated: object and resource ids, caching.

use jiff::{Timestamp, ToSpan};
use serde_json::json;

use crate::azurite;
use crate::entra;
use crate::server::{Answer, Call};
use crate::world::{Token, World};

/// What a process must show: it proves that it runs inside the app. Made up.
pub const IDENTITY_HEADER: &str = "emulated-identity-header";
/// The client id of the app's user-assigned identity.
pub const MANAGED_CLIENT_ID: &str = "77777777-dddd-4eee-8fff-999999999999";

const VERSION: &str = "2019-08-01";
const LASTS: i64 = 86_400;

pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> Answer {
    let query = |name: &str| call.query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    if call.path != "/msi/token" {
        return refuse(404, "there is nothing at this path");
    }
    if call.header("x-identity-header") != Some(IDENTITY_HEADER) {
        return refuse(401, "the header X-IDENTITY-HEADER is missing or wrong");
    }
    if query("api-version") != VERSION {
        return refuse(400, "the api-version is not supported");
    }
    let resource = query("resource");
    if !resource.starts_with("https://") {
        return refuse(400, "no resource is given");
    }
    let app = world.apps.iter().find(|app| app.managed && app.client_id == query("client_id"));
    let Some(app) = app else {
        return refuse(
            400,
            "No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId.",
        );
    };
    let expires = now.checked_add(LASTS.seconds()).unwrap_or(now);
    let token = Token {
        tenant: app.tenant.clone(),
        client_id: app.client_id.clone(),
        audience: resource.trim_end_matches('/').to_owned(),
        expires,
    };
    let roles = app.roles.clone();
    // Azurite takes those of its own issuer only.
    let text = if token.audience.contains("storage.azure") {
        world.token_counter += 1;
        format!("{}{}", azurite::token(now), world.token_counter)
    } else {
        entra::token_text(world, &token, &roles, now)
    };
    let body = json!({
        "access_token": text,
        "client_id": token.client_id,
        "expires_on": expires.as_second().to_string(),
        "resource": resource,
        "token_type": "Bearer",
    });
    world.tokens.insert(text, token);
    Answer::json(200, &body)
}

fn refuse(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({"statusCode": status, "message": message}))
}
