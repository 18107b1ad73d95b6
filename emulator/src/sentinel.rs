//! The upload API of Microsoft Sentinel for STIX objects.
//!
//! Not imitated: relationships between objects, ingestion delay, tables and rules, what the service does with revoked ids.

use std::collections::HashMap;

use jiff::{Timestamp, ToSpan};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::entra::bearer;
use crate::server::{Answer, Call};
use crate::stix::{Checked, check};
use crate::world::{Object, World};

const AUDIENCES: [&str; 2] = ["https://management.azure.com", "https://management.core.windows.net"];
const BATCH: usize = 100;
const RATE: usize = 100;

#[derive(Deserialize)]
struct Upload<'a> {
    #[serde(default)]
    sourcesystem: Option<String>,
    #[serde(borrow, default)]
    stixobjects: Option<Vec<&'a RawValue>>,
}

pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> Answer {
    let rest =
        call.path.strip_prefix("/workspaces/").and_then(|rest| rest.strip_suffix("/threat-intelligence-stix-objects:upload"));
    let Some(workspace) = rest.map(str::to_ascii_lowercase) else { return say(404, "Resource not found") };
    if call.method != "POST" {
        return say(405, "Method not allowed");
    }
    if !call.query.iter().any(|(key, value)| key == "api-version" && value == "2024-02-01-preview") {
        return say(400, "Unsupported api-version");
    }
    let Some(app) = bearer(world, call, &AUDIENCES, now).cloned() else {
        return say(401, "Unauthorized. Access token is missing or invalid.");
    };
    if !world.apps.iter().any(|app| app.workspaces.contains(&workspace)) {
        return say(404, "Workspace not found");
    }
    if !app.workspaces.contains(&workspace) {
        return say(
            403,
            "The client does not have authorization to perform action 'Microsoft.SecurityInsights/threatintelligence/write'",
        );
    }
    if let Some(wait) = over_rate(world, &app.client_id, now) {
        return say(429, &format!("Rate limit is exceeded. Try again in {wait} seconds."));
    }
    let Ok(upload) = serde_json::from_slice::<Upload<'_>>(&call.body) else {
        return say(400, "The request body is not valid JSON");
    };
    let Some(source) = upload.sourcesystem.filter(|source| !source.is_empty() && source != "Microsoft Sentinel") else {
        return say(400, "sourcesystem is required and must not be a reserved value");
    };
    let Some(objects) = upload.stixobjects else { return say(400, "stixobjects is required") };
    if objects.len() > BATCH {
        return say(400, "stixobjects holds more than 100 objects");
    }
    store(world, &workspace, &source, &objects)
}

/// Seconds to wait, if the app has sent its hundred in the last minute.
fn over_rate(world: &mut World, client_id: &str, now: Timestamp) -> Option<i64> {
    if !world.sentinel.enforce_rate {
        return None;
    }
    let window = now.checked_sub(60.seconds()).unwrap_or(now);
    let recent = world.sentinel.recent.entry(client_id.to_owned()).or_default();
    while recent.front().is_some_and(|at| *at <= window) {
        recent.pop_front();
    }
    if recent.len() < RATE {
        recent.push_back(now);
        return None;
    }
    let oldest = recent.front().copied().unwrap_or(now);
    Some((oldest.as_second() + 60 - now.as_second()).max(1))
}

fn store(world: &mut World, workspace: &str, source: &str, objects: &[&RawValue]) -> Answer {
    let mut errors = Vec::new();
    let mut good: HashMap<String, (Checked, &RawValue)> = HashMap::new();
    for (i, raw) in objects.iter().enumerate() {
        world.sentinel.uploaded += 1;
        let refused = world.sentinel.refuse.iter().any(|text| raw.get().contains(text));
        match check(raw.get()) {
            Ok(_) if refused => errors
                .push(json!({"recordIndex": i, "errorMessages": ["Error for Property=pattern: the value is not accepted."]})),
            Ok(checked) => drop(good.insert(checked.id.clone(), (checked, raw))),
            Err(messages) => errors.push(json!({"recordIndex": i, "errorMessages": messages})),
        }
    }
    for (id, (checked, raw)) in good {
        let key = (workspace.to_owned(), source.to_owned(), id.clone());
        let before = world.sentinel.objects.get(&key);
        // The same bytes again are a repeated request; anything else must be newer than what is there.
        if before.is_some_and(|before| before.modified >= checked.modified) {
            if before.is_some_and(|before| *before.json != *raw.get()) {
                world.sentinel.stale.push(id);
            }
            continue;
        }
        let uploads = before.map_or(0, |before| before.uploads) + 1;
        let object = Object {
            json: raw.get().into(),
            pattern: checked.pattern,
            modified: checked.modified,
            valid_from: checked.valid_from,
            valid_until: checked.valid_until,
            revoked: checked.revoked,
            uploads,
        };
        world.sentinel.objects.insert(key, object);
    }
    let answer = if errors.is_empty() {
        Answer::text(200, "application/json", String::new())
    } else {
        let all = errors.len() == objects.len() && world.sentinel.all_invalid_is_400;
        Answer::json(if all { 400 } else { 200 }, &json!({ "errors": errors }))
    };
    Answer { items: objects.len(), ..answer }
}

fn say(status: u16, message: &str) -> Answer {
    Answer::json(status, &json!({"statusCode": status, "message": message}))
}
