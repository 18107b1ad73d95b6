//! ThreatConnect v3: indicators and owners, signed or with a token; writes are in [`write`], cases in [`crate::cases`].
//!
//! Not imitated: associations of indicators, `OPTIONS`, the deleted list's retention, time-outs of slow queries.

mod write;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::server::{Answer, Call};
use crate::tql::{self, Field};
use crate::world::World;

pub use write::Writing;
pub(crate) use write::{body, list, merge};

/// Seconds that a signature's time may be off.
const TOLERANCE: i64 = 300;
const FIELDS: [&str; 23] = [
    "associatedArtifacts",
    "associatedCases",
    "associatedGroups",
    "associatedIndicators",
    "associationName",
    "attributes",
    "customAssociations",
    "dnsResolution",
    "enrichment",
    "externalDates",
    "falsePositives",
    "fileActions",
    "fileOccurrences",
    "genericCustomIndicatorValues",
    "geoLocation",
    "investigationLinks",
    "observations",
    "securityLabels",
    "sightings",
    "tags",
    "threatAssess",
    "trackedUsers",
    "whoIs",
];

/// Parameters, from the query or from a GET's body.
#[derive(Debug, Default)]
struct Parameters {
    tql: String,
    fields: Vec<String>,
    sorting: String,
    start: usize,
    limit: usize,
    owner: Option<String>,
    count: bool,
}

pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> Answer {
    if let Err(refusal) = authorised(world, call, now) {
        return refusal;
    }
    let path = call.path.strip_prefix("/api").unwrap_or(&call.path);
    if let Some(answer) = crate::cases::answer(world, call, path, now) {
        return answer;
    }
    match (call.method.as_str(), path.strip_prefix("/v3/indicators")) {
        ("POST", Some("")) => return write::answer(world, call, None, now),
        ("PUT", Some(id)) if id.len() > 1 => {
            let id = decoded(id.trim_start_matches('/'));
            return write::answer(world, call, Some(&id), now);
        }
        _ => {}
    }
    let parameters = match parameters(call) {
        Ok(parameters) => parameters,
        Err(message) => return error(400, "0x1001", &message),
    };
    match (call.method.as_str(), path) {
        ("GET", "/v3/indicators") => indicators(world, call, &parameters, now),
        ("GET", "/v3/indicators/deleted") => Answer::json(200, &json!({"data": [], "count": 0, "status": "Success"})),
        ("GET", "/v3/security/owners") => owners(world, &parameters),
        ("GET", "/v2/whoami") => {
            Answer::json(200, &json!({"status": "Success", "data": {"user": {"userName": "relay", "role": "Api User"}}}))
        }
        ("GET", path) => match path.strip_prefix("/v3/indicators/").and_then(|id| id.parse::<u64>().ok()) {
            Some(id) => single(world, id, &parameters),
            None => error(404, "0x1004", "The requested resource was not found"),
        },
        _ => error(405, "0x1005", "Method not allowed"),
    }
}

/// One segment of a path; a plus stands for itself.
fn decoded(segment: &str) -> String {
    let escaped = segment.replace('+', "%2B").replace('=', "%3D").replace('&', "%26");
    crate::server::form(&escaped).into_iter().next().map(|(text, _)| text).unwrap_or_default()
}

pub(crate) fn error(status: u16, code: &str, message: &str) -> Answer {
    Answer::json(status, &json!({"errCode": code, "message": message, "status": "Error"}))
}

fn authorised(world: &World, call: &Call, now: Timestamp) -> Result<(), Answer> {
    let refuse = |message: &str| Err(error(401, "0x1002", message));
    let Some(header) = call.header("authorization") else { return refuse("Access Denied") };
    if let Some(token) = header.strip_prefix("TC-Token ") {
        return if world.users.iter().any(|user| user.token == token) { Ok(()) } else { refuse("Unauthorized") };
    }
    let Some((access_id, signature)) = header.strip_prefix("TC ").and_then(|rest| rest.split_once(':')) else {
        return refuse("Access Denied");
    };
    let Some(user) = world.users.iter().find(|user| user.access_id == access_id) else { return refuse("Access Denied") };
    let Some(seconds) = call.header("timestamp").and_then(|text| text.parse::<i64>().ok()) else {
        return refuse("Access Denied");
    };
    if (now.as_second() - seconds).abs() > TOLERANCE {
        return refuse("Timestamp out of acceptable time range");
    }
    if sign(&user.secret, &call.method, &call.target, seconds) == signature {
        Ok(())
    } else {
        refuse("Signature data did not match expected result")
    }
}

fn sign(secret: &str, method: &str, target: &str, seconds: i64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    STANDARD.encode(hmac::sign(&key, format!("{target}:{method}:{seconds}").as_bytes()).as_ref())
}

fn parameters(call: &Call) -> Result<Parameters, String> {
    let mut given: HashMap<String, Vec<String>> = HashMap::new();
    for (key, value) in &call.query {
        given.entry(key.clone()).or_default().push(value.clone());
    }
    if !call.body.is_empty() {
        let body: Value = serde_json::from_slice(&call.body).map_err(|_| "Invalid request body".to_owned())?;
        for (key, value) in body["data"].as_object().ok_or("Invalid request body")? {
            let texts = match value {
                Value::Array(values) => values.iter().map(as_text).collect(),
                other => vec![as_text(other)],
            };
            given.insert(key.clone(), texts);
        }
    }
    let one = |key: &str| given.get(key).and_then(|values| values.first()).cloned();
    let number =
        |key: &str, default: usize| one(key).map_or(Ok(default), |text| text.parse().map_err(|_| format!("Invalid {key}")));
    let fields = given.get("fields").cloned().unwrap_or_default();
    if let Some(unknown) = fields.iter().find(|field| !FIELDS.contains(&field.as_str())) {
        return Err(format!("Invalid fields parameter: {unknown}"));
    }
    Ok(Parameters {
        tql: one("tql").unwrap_or_default(),
        sorting: one("sorting").unwrap_or_default(),
        start: number("resultStart", 0)?,
        limit: number("resultLimit", 100)?.clamp(1, 10_000),
        owner: one("owner"),
        count: one("count").is_some_and(|text| text == "true"),
        fields,
    })
}

fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn indicators(world: &mut World, call: &Call, parameters: &Parameters, now: Timestamp) -> Answer {
    let query = match tql::parse(&parameters.tql) {
        Ok(query) => query,
        Err(message) => return error(400, "0x1001", &message),
    };
    if !matches!(parameters.sorting.as_str(), "" | "id asc" | "id desc") {
        return error(400, "0x1001", &format!("Invalid sorting: {}", parameters.sorting));
    }
    if let Some(owner) = &parameters.owner
        && !world.owners.iter().any(|known| known.name == *owner && known.readable)
    {
        return error(403, "0x1003", &format!("The owner {owner} does not exist or cannot be seen"));
    }
    let any_state = query.mentions(Field::Active);
    let readable: Vec<u64> = world.owners.iter().filter(|owner| owner.readable).map(|owner| owner.id).collect();
    let (lowest, highest) = (query.lowest_id(), query.highest_id());
    if lowest > highest {
        return page(parameters, &[], call, Some(0), false);
    }
    let fits = |stored: &crate::world::Stored| {
        (any_state || stored.indicator.active)
            && readable.contains(&stored.owner_id)
            && parameters.owner.as_ref().is_none_or(|owner| stored.indicator.owner == *owner)
            && query.matches(&stored.indicator, stored.owner_id, now)
    };
    let counted = parameters.count && parameters.start == 0;
    let sorted = !world.ignore_sorting && parameters.sorting == "id asc";
    let mut ids: Vec<u64> = Vec::new();
    let wanted = parameters.start + parameters.limit + 1;
    for (id, stored) in world.indicators.range(lowest..=highest) {
        if fits(stored) {
            ids.push(*id);
            if sorted && !counted && ids.len() >= wanted {
                break;
            }
        }
    }
    let count = ids.len();
    if !sorted {
        // Some order that is not ours, the same each time.
        ids.sort_by_key(|id| id.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17));
    }
    let more = ids.len() > parameters.start + parameters.limit;
    let rows: Vec<Arc<str>> = ids
        .into_iter()
        .skip(parameters.start)
        .take(parameters.limit)
        .filter_map(|id| world.indicators.get_mut(&id).map(|stored| stored.json(&parameters.fields)))
        .collect();
    page(parameters, &rows, call, counted.then_some(count), more)
}

fn page(parameters: &Parameters, rows: &[Arc<str>], call: &Call, count: Option<usize>, more: bool) -> Answer {
    let size: usize = rows.iter().map(|row| row.len() + 1).sum();
    let mut body = String::with_capacity(size + 300);
    body.push('{');
    if more {
        let next = call.target.replace(
            &format!("resultStart={}", parameters.start),
            &format!("resultStart={}", parameters.start + parameters.limit),
        );
        let _ = write!(body, "\"next\":{},", Value::from(format!("https://example.threatconnect.com{next}")));
    }
    body.push_str("\"data\":[");
    for (i, row) in rows.iter().enumerate() {
        if i > 0 {
            body.push(',');
        }
        body.push_str(row);
    }
    body.push(']');
    if let Some(count) = count {
        let _ = write!(body, ",\"count\":{count}");
    }
    body.push_str(",\"status\":\"Success\"}");
    Answer { items: rows.len(), ..Answer::text(200, "application/json", body) }
}

fn single(world: &mut World, id: u64, parameters: &Parameters) -> Answer {
    let Some(stored) = world.indicators.get_mut(&id) else { return error(404, "0x1004", "The requested resource was not found") };
    let row = stored.json(&parameters.fields);
    Answer::text(200, "application/json", format!("{{\"data\":{row},\"status\":\"Success\"}}"))
}

fn owners(world: &World, parameters: &Parameters) -> Answer {
    let rows: Vec<Value> = world
        .owners
        .iter()
        .skip(parameters.start)
        .take(parameters.limit)
        .map(|owner| {
            let permission = match (owner.readable, owner.writable) {
                (false, _) => "NONE",
                (true, false) => "READ",
                (true, true) => "FULL",
            };
            let (kind, role) = match (owner.id, owner.writable) {
                (1, true) => ("Organization", "Standard User"),
                (1, false) => ("Organization", "Read Only User"),
                (_, true) => ("Source", "Contributor"),
                (_, false) => ("Source", "User"),
            };
            // Cases live in organizations only.
            let of_cases = if owner.id == 1 && world.cases.forbidden.is_none() { permission } else { "NONE" };
            json!({
                "id": owner.id, "name": owner.name, "type": kind, "ownerRole": role, "permIndicator": permission,
                "permAttribute": permission, "permTag": permission, "permSecurityLabel": permission, "permArtifact": of_cases,
                "permCaseTag": of_cases, "permComment": of_cases, "permTask": of_cases, "permTimeline": of_cases,
            })
        })
        .collect();
    Answer::json(200, &json!({"data": rows, "status": "Success"}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_equal_the_documented_ones() {
        let secret = "mAdEuP/kEy+NotReal9x8y7z6w5v4u3t2s1r0q==";
        assert_eq!(sign(secret, "GET", "/api/v3/security/owners", 1_700_000_000), "Lt2YBl/mImNaiRKfncRQn4JioZ/SZ0W3DqDFmjdxeds=");
        assert_eq!(
            sign(secret, "PUT", "/api/v3/indicators/75?fields=falsePositives", 1_700_000_000),
            "jzlD8ToP7YJfi+p4FDz8ycQutH4p0O2BiIaFlX15kNI="
        );
        for (method, target, signature) in [
            ("POST", "/api/v3/cases", "p5bBwDzDDiBp/jeNI4Db9T3qOlTcJuG+vA7TIxxcICM="),
            ("PUT", "/api/v3/cases/412?fields=tags", "PjRUmtHjlbe0SK1Scq4y6PUstLKYDYxEt7KodCAIrn4="),
            (
                "POST",
                "/api/v3/indicators?owner=Acme%20Source&fields=tags&fields=attributes",
                "Gv7rWIsAFuO8od0Bsp3n6s/lqXLpElrLx9JczwuL1Mc=",
            ),
        ] {
            assert_eq!(sign(secret, method, target, 1_700_000_000), signature);
        }
    }
}
