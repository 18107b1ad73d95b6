//! A plain door for people and scripts: what is in the world, and faults and changes on demand.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::faults::{Effect, Fault, When};
use crate::indicator::Indicator;
use crate::server::{Answer, Call, Shared};
use crate::world::{Service, World};

pub(crate) fn answer(shared: &Shared, call: &Call) -> Answer {
    let now = shared.time.now();
    let mut world = shared.world();
    let body: Value = serde_json::from_slice(&call.body).unwrap_or_default();
    match (call.method.as_str(), call.path.as_str()) {
        ("GET", "/") => {
            let live: usize = world.sentinel.objects.values().filter(|object| object.is_live(now)).count();
            Answer::json(
                200,
                &json!({
                    "indicators": world.indicators.len(),
                    "active": world.indicators().filter(|indicator| indicator.active).count(),
                    "owners": world.owners.iter().map(|owner| owner.name.clone()).collect::<Vec<_>>(),
                    "sentinel": {"objects": world.sentinel.objects.len(), "live": live, "uploaded": world.sentinel.uploaded, "stale": world.sentinel.stale.len()},
                    "defender": world.defender_counts(),
                    "graph": world.graph_counts(now),
                    "requests": world.log.len(),
                }),
            )
        }
        ("GET", "/sentinel") => {
            let mut lines = String::new();
            for ((workspace, source, id), object) in &world.sentinel.objects {
                let line = json!({"workspace": workspace, "source_system": source, "id": id, "live": object.is_live(now), "object": object.value()});
                lines.push_str(&line.to_string());
                lines.push('\n');
            }
            Answer::text(200, "application/x-ndjson", lines)
        }
        ("GET", "/defender") => ndjson(&world.defender_lines()),
        ("GET", "/graph") => ndjson(&world.graph_lines(now)),
        ("POST", "/faults") => match fault(&body) {
            Some(fault) => {
                world.faults.push(fault);
                Answer::json(200, &json!({"added": true}))
            }
            None => Answer::json(
                400,
                &json!({"error": "a fault is {\"service\": \"sentinel\", \"status\": 500, \"first\": 3}; instead of a status `\"cut\": true`"}),
            ),
        },
        ("DELETE", "/faults") => {
            world.faults.clear();
            Answer::json(200, &json!({"cleared": true}))
        }
        ("POST", "/indicators") => {
            let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
            let id = world.add(Indicator::new(&text("owner"), &text("type"), &text("value"), now));
            Answer::json(200, &json!({"id": id}))
        }
        ("DELETE", path) if path.starts_with("/indicators/") => {
            let id = path.trim_start_matches("/indicators/").parse().unwrap_or(0);
            Answer::json(200, &json!({"deleted": world.delete(id)}))
        }
        _ => notifications(&mut world, call, &body, now).unwrap_or_else(|| Answer::json(
            404,
            &json!({"error": "GET /, GET /sentinel, GET /defender, GET /graph, GET /subscriptions, GET /deliveries, POST /objects with {tenant, path, object}, POST /playbooks/{uuid}, POST /faults, DELETE /faults, POST /indicators, DELETE /indicators/{id}"}),
        )),
    }
}

/// The part for change notifications and playbooks; none: it is something else that is asked for.
fn notifications(world: &mut World, call: &Call, body: &Value, now: Timestamp) -> Option<Answer> {
    Some(match (call.method.as_str(), call.path.as_str()) {
        ("GET", "/subscriptions") => {
            let shown = world.notifications.subscriptions(now).into_iter().map(|one| {
                json!({"id": one.id, "tenant": one.tenant, "app": one.app, "resource": one.resource, "changeType": one.change_type,
                    "notificationUrl": one.notification_url, "expires": one.expires.to_string(), "rich": one.rich})
            });
            ndjson(&shown.collect::<Vec<_>>())
        }
        ("GET", "/deliveries") => {
            let shown = world.notifications.log.iter().map(|one| {
                json!({"at": one.at.to_string(), "url": one.url, "attempt": one.attempt, "items": one.items, "status": one.status,
                    "took_ms": one.took.as_millis(), "outcome": format!("{:?}", one.outcome)})
            });
            ndjson(&shown.collect::<Vec<_>>())
        }
        ("POST", "/objects") => {
            let text = |key: &str| body[key].as_str().unwrap_or_default();
            let told = match &body["object"] {
                Value::Null => world.remove(text("tenant"), text("path"), now),
                object => world.put(text("tenant"), text("path"), object.clone(), now),
            };
            Answer::json(200, &json!({"told": told}))
        }
        ("POST", path) if path.starts_with("/playbooks/") => {
            world.playbooks.entry(path.trim_start_matches("/playbooks/").to_owned()).or_default();
            Answer::json(200, &json!({"added": true}))
        }
        _ => return None,
    })
}

fn ndjson(lines: &[Value]) -> Answer {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    Answer::text(200, "application/x-ndjson", lines.join("\n") + if lines.is_empty() { "" } else { "\n" })
}

fn fault(body: &Value) -> Option<Fault> {
    let service = match body["service"].as_str()? {
        "threatconnect" => Service::ThreatConnect,
        "login" => Service::Login,
        "keyvault" => Service::KeyVault,
        "sentinel" => Service::Sentinel,
        "defender" => Service::Defender,
        "graph" => Service::Graph,
        "identity" => Service::Identity,
        _ => return None,
    };
    let effect = match body["status"].as_u64() {
        Some(status) => Effect::Status {
            status: u16::try_from(status).ok()?,
            body: body["body"].as_str().unwrap_or_default().to_owned(),
            retry_after: body["retry_after"].as_str().map(str::to_owned),
        },
        None if body["cut"] == true => Effect::Cut,
        None => return None,
    };
    let when = match (body["first"].as_u64(), body["nth"].as_u64()) {
        (Some(first), _) => When::First(u32::try_from(first).ok()?),
        (None, Some(nth)) => When::Nth(u32::try_from(nth).ok()?),
        (None, None) => When::Always,
    };
    Some(Fault {
        service,
        path: body["path"].as_str().unwrap_or_default().to_owned(),
        body: body["contains"].as_str().unwrap_or_default().to_owned(),
        when,
        effect,
    })
}
