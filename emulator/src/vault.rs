//! Azure Key Vault: reads secrets.
//!
//! Not imitated: writing, versions, keys, certificates, soft delete.

use jiff::Timestamp;
use serde_json::json;

use crate::entra::bearer;
use crate::server::{Answer, Call};
use crate::world::World;

pub(crate) fn answer(world: &World, call: &Call, now: Timestamp) -> Answer {
    let Some(name) = call.path.strip_prefix("/secrets/").map(|rest| rest.trim_end_matches('/').split('/').next().unwrap_or(rest))
    else {
        return error(404, "NotFound", "The request path is not known");
    };
    let Some(app) = bearer(world, call, &["https://vault.azure.net"], now) else {
        let challenge =
            "Bearer authorization=\"https://login.microsoftonline.com/emulated\", resource=\"https://vault.azure.net\"";
        let refused = error(401, "Unauthorized", "AKV10000: Request is missing a Bearer or PoP token.");
        return refused.with("www-authenticate", challenge);
    };
    if !app.may_read_vault {
        return forbidden("ForbiddenByRbac", "Caller is not authorized to perform action on resource.");
    }
    match world.vault.get(name) {
        None => error(404, "SecretNotFound", &format!("A secret with (name/id) {name} was not found in this key vault.")),
        Some(None) => forbidden("SecretDisabled", "Operation get is not allowed on a disabled secret."),
        Some(Some(value)) => {
            let mut attributes = json!({"enabled": true, "created": 1_700_000_000, "updated": 1_700_000_000});
            if let Some(ends) = world.vault_ends.get(name) {
                attributes["exp"] = ends.as_second().into();
            }
            let id = format!("https://localhost/secrets/{name}/1");
            Answer::json(200, &json!({"value": value, "id": id, "attributes": attributes}))
        }
    }
}

/// Why it is forbidden stands in the inner error only.
fn forbidden(inner: &str, message: &str) -> Answer {
    Answer::json(403, &json!({"error": {"code": "Forbidden", "message": message, "innererror": {"code": inner}}}))
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, &json!({"error": {"code": code, "message": message}}))
}
