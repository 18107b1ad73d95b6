//! The Indicators API of Microsoft Defender for Endpoint.
//!
//! Not imitated: device groups of the caller, enforcement on devices and its delay, tenant settings, certificates' details,
//! length limits, addresses set aside for documentation (they pass as public), Graph's indicators in the list (they only count
//! against the cap).

mod rules;
mod state;

use std::collections::HashSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::entra::bearer;
use crate::odata;
use crate::rate::{Limit, seconds};
use crate::server::{Answer, Call};
use crate::world::World;

pub(crate) use rules::internal;
use rules::{Refusal, Submitted, check, normal};
use state::key;
pub use state::{Defender, DefenderIndicator, DefenderOperation};

/// The audience of old, which both host names check.
const AUDIENCE: &str = "https://api.securitycenter.microsoft.com";
/// The audience that the new host name suggests; tokens for it are good, and of no use.
const TRAP: &str = "https://api.security.microsoft.com";
const BATCH: usize = 500;
const PAGE: usize = 10_000;
const CONTEXT: &str = "https://api.securitycenter.microsoft.com/api/$metadata#";
/// Members of an indicator that only the service writes.
const READ_ONLY: [&str; 10] = [
    "id",
    "source",
    "sourceType",
    "createdBy",
    "createdBySource",
    "createdByDisplayName",
    "lastUpdatedBy",
    "creationTimeDateTimeUtc",
    "lastUpdateTime",
    "@odata.context",
];
const FILTERED: [&str; 13] = [
    "application",
    "createdByDisplayName",
    "expirationTime",
    "generateAlert",
    "title",
    "rbacGroupNames",
    "rbacGroupIds",
    "indicatorValue",
    "indicatorType",
    "creationTimeDateTimeUtc",
    "createdBy",
    "action",
    "severity",
];

#[derive(Deserialize)]
struct Import<'a> {
    #[serde(rename = "Indicators", borrow, default)]
    indicators: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct BatchDelete {
    #[serde(rename = "IndicatorIds", default)]
    ids: Option<Vec<String>>,
}

#[derive(Serialize)]
struct Page<'a> {
    #[serde(rename = "@odata.context")]
    context: String,
    #[serde(rename = "@odata.nextLink", skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    value: Vec<&'a DefenderIndicator>,
}

/// Who asks.
struct Caller {
    tenant: String,
    client_id: String,
    /// It sees and writes everybody's indicators, not only its own.
    all: bool,
}

pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> Answer {
    let path = call.path.strip_prefix("/api/v1.0/indicators").or_else(|| call.path.strip_prefix("/api/indicators"));
    let Some(rest) = path.filter(|rest| rest.is_empty() || rest.starts_with('/')) else {
        return error(world, 404, "ResourceNotFound", "Resource not found");
    };
    let operation = match (call.method.as_str(), rest.trim_start_matches('/')) {
        ("POST", "") => DefenderOperation::Submit,
        ("POST", "import") => DefenderOperation::Import,
        ("POST", "BatchDelete") => DefenderOperation::BatchDelete,
        ("GET", "") => DefenderOperation::List,
        ("DELETE", id) if !id.is_empty() => DefenderOperation::Delete,
        ("GET" | "POST" | "DELETE", _) => return error(world, 404, "ResourceNotFound", "Resource not found"),
        _ => return error(world, 405, "BadRequest", "The method is not allowed"),
    };
    let caller = match caller(world, call, now) {
        Ok(caller) => caller,
        Err(refused) => return refused,
    };
    *world.defender.requests.entry(operation).or_default() += 1;
    if let Some(wait) = over_rate(world, &caller, operation, now) {
        world.defender.throttled += 1;
        let refused = error(world, 429, "TooManyRequests", &format!("Rate limit is exceeded. Try again in {wait} seconds."));
        return refused.with("retry-after", &wait.to_string());
    }
    world.expire(&caller.tenant, now);
    if call.method == "POST" && !call.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        return error(world, 400, "InvalidRequestBody", "The content type must be application/json");
    }
    match operation {
        DefenderOperation::Submit => submit_one(world, &caller, call, now),
        DefenderOperation::Import => import(world, &caller, call, now),
        DefenderOperation::List => list(world, &caller, call),
        DefenderOperation::Delete => delete(world, &caller, rest.trim_start_matches('/')),
        DefenderOperation::BatchDelete => batch_delete(world, &caller, call),
    }
}

/// Who asks, if the token is for this service and the app has a role here.
fn caller(world: &mut World, call: &Call, now: Timestamp) -> Result<Caller, Answer> {
    let Some(app) = bearer(world, call, &[AUDIENCE], now) else {
        let trapped = bearer(world, call, &[TRAP], now).is_some();
        return Err(if trapped {
            error(world, 403, "Forbidden", "The token is for an audience that this API does not take")
        } else {
            error(world, 401, "Unauthorized", "The token is missing, expired or not for this service")
        });
    };
    let has = |role: &str| app.roles.iter().any(|known| known == role);
    let (all, own) = (has("Ti.ReadWrite.All"), has("Ti.ReadWrite"));
    let caller = Caller { tenant: app.tenant.clone(), client_id: app.client_id.clone(), all };
    if all || own {
        return Ok(caller);
    }
    Err(error(
        world,
        403,
        "Forbidden",
        "The application does not have any of the required application permissions (Ti.ReadWrite.All)",
    ))
}

/// Seconds to wait, if the app has used up what the operation allows.
fn over_rate(world: &mut World, caller: &Caller, operation: DefenderOperation, now: Timestamp) -> Option<i64> {
    const HOUR: Limit = Limit { requests: 1_500, seconds: 3_600 };
    const MINUTE: Limit = Limit { requests: 100, seconds: 60 };
    const BULK: Limit = Limit { requests: 30, seconds: 60 };
    if !world.defender.enforce_rate {
        return None;
    }
    let limits: &[Limit] = match operation {
        DefenderOperation::Import => &[BULK],
        DefenderOperation::BatchDelete => &[BULK, HOUR],
        _ => &[MINUTE, HOUR],
    };
    let recent = world.defender.recent.entry((format!("{} {}", caller.tenant, caller.client_id), operation)).or_default();
    let wait = recent.wait(limits, now);
    if wait.is_none() {
        recent.count(now);
    }
    wait.map(seconds)
}

fn submit_one(world: &mut World, caller: &Caller, call: &Call, now: Timestamp) -> Answer {
    let text = String::from_utf8_lossy(&call.body);
    let Ok(item) = serde_json::from_str::<Submitted>(&text) else {
        return error(world, 400, "InvalidRequestBody", "The request body is not an indicator");
    };
    match submit(world, caller, &text, item, now) {
        Ok(number) => {
            let row = world.defender.tenants.get(&caller.tenant).and_then(|held| held.rows.get(&number));
            let mut entity = serde_json::to_value(row).unwrap_or_default();
            entity["@odata.context"] = format!("{CONTEXT}Indicators/$entity").into();
            Answer { items: 1, ..Answer::json(200, &entity) }
        }
        Err(refusal) => {
            let status = if refusal.code == "Forbidden" { 403 } else { 400 };
            error(world, status, refusal.code, &refusal.message)
        }
    }
}

fn import(world: &mut World, caller: &Caller, call: &Call, now: Timestamp) -> Answer {
    let read = serde_json::from_slice::<Import<'_>>(&call.body).ok().and_then(|import| import.indicators);
    let Some(raw) = read.filter(|raw| !raw.is_empty()) else {
        return error(world, 400, "InvalidRequestBody", "The request body is not valid JSON with Indicators");
    };
    if raw.len() > BATCH {
        return error(world, 400, "MaximumBatchSizeExceeded", "More than 500 indicators in one request");
    }
    let items: Result<Vec<Submitted>, _> = raw.iter().map(|raw| serde_json::from_str(raw.get())).collect();
    let Ok(items) = items else {
        return error(world, 400, "InvalidRequestBody", "A member of an indicator is not of its type");
    };
    let mut seen = HashSet::new();
    let mut lines = Vec::with_capacity(items.len() + 1);
    for (raw, item) in raw.iter().zip(items) {
        let value = item.indicator_value.clone().unwrap_or_default();
        if !seen.insert(normal(&value)) {
            world.defender.ambiguous.push(value.clone());
        }
        let outcome = submit(world, caller, raw.get(), item, now);
        if world.defender.omit.iter().any(|text| value.contains(text)) {
            continue;
        }
        let echo = if world.defender.normalise_echo { normal(&value) } else { value };
        lines.push(match outcome {
            Ok(number) => json!({"id": number.to_string(), "indicator": echo, "isFailed": false, "failureReason": null}),
            Err(refusal) => json!({"id": null, "indicator": echo, "isFailed": true, "failureReason": refusal.message}),
        });
    }
    if let Some(value) = &world.defender.stranger {
        lines.push(json!({"id": "1", "indicator": value, "isFailed": false, "failureReason": null}));
    }
    // No page promises the order of the input.
    lines.reverse();
    let context = format!("{CONTEXT}Collection(microsoft.windowsDefenderATP.api.ImportIndicatorResult)");
    Answer { items: raw.len(), ..Answer::json(200, &json!({"@odata.context": context, "value": lines})) }
}

/// Creates or updates one; its number.
fn submit(world: &mut World, caller: &Caller, raw: &str, item: Submitted, now: Timestamp) -> Result<u64, Refusal> {
    let checked = check(&item, !world.defender.refuse_md5, now)?;
    if world.defender.refuse.iter().any(|text| raw.contains(text)) {
        return Err(Refusal { code: "InvalidInput", message: "The indicator is not accepted.".to_owned() });
    }
    let groups = item.rbac_group_names.unwrap_or_default();
    let (kind, action) = (item.indicator_type.unwrap_or_default(), item.action.unwrap_or_default());
    let key = key(&kind, &checked.normal, &action, &groups);
    let held = world.defender.tenants.entry(caller.tenant.clone()).or_default();
    let before = held.find(&key).and_then(|number| held.rows.get(&number).map(|row| (number, row)));
    let foreign = before.is_some_and(|(_, row)| row.created_by != caller.client_id);
    if foreign && !caller.all {
        return Err(Refusal { code: "Forbidden", message: "The indicator belongs to another application.".to_owned() });
    }
    let mut extra = item.extra;
    extra.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
    let mut row = DefenderIndicator {
        id: String::new(),
        value: item.indicator_value.unwrap_or_default(),
        kind,
        action,
        title: item.title.unwrap_or_default(),
        description: item.description.unwrap_or_default(),
        severity: item.severity,
        generate_alert: item.generate_alert.unwrap_or(false),
        recommended_actions: item.recommended_actions,
        expiration_time: checked.expires,
        rbac_group_names: groups,
        rbac_group_ids: item.rbac_group_ids.unwrap_or_default(),
        educate_url: item.educate_url,
        external_id: item.external_id,
        application: item.application,
        created_by: caller.client_id.clone(),
        created_by_display_name: caller.client_id.clone(),
        created_by_source: "PublicApi",
        last_updated_by: None,
        created: now,
        updated: now,
        extra,
    };
    if let Some((number, before)) = before {
        row.id.clone_from(&before.id);
        // Only a creation sets these.
        (row.created, row.created_by_source) = (before.created, before.created_by_source);
        (row.created_by, row.application) = (before.created_by.clone(), before.application.clone());
        row.created_by_display_name.clone_from(&before.created_by_display_name);
        row.last_updated_by = Some(caller.client_id.clone());
        if foreign {
            world.defender.overwritten.push(row.value.clone());
        }
        held.put(number, row);
        world.defender.updated += 1;
        return Ok(number);
    }
    let number = world.room_at_defender(&caller.tenant)?;
    row.id = number.to_string();
    world.defender.tenants.entry(caller.tenant.clone()).or_default().put(number, row);
    world.defender.created += 1;
    world.note_peak(&caller.tenant);
    Ok(number)
}

impl World {
    /// A number for a new indicator, if the tenant may hold one more.
    pub(crate) fn room_at_defender(&mut self, tenant: &str) -> Result<u64, Refusal> {
        if self.held_for_defender(tenant) < self.defender.cap {
            return Ok(self.defender.fresh_id());
        }
        self.defender.over_cap += 1;
        let message = format!("The maximum of {} active indicators per tenant is reached.", self.defender.cap);
        Err(Refusal { code: "BadRequest", message })
    }
}

fn list(world: &mut World, caller: &Caller, call: &Call) -> Answer {
    let options = odata::number(call, "$top", PAGE).and_then(|top| {
        let skip = odata::number(call, "$skip", usize::MAX)?.unwrap_or(0);
        let filter = odata::text(call, "$filter").map(odata::parse).transpose()?;
        Ok((top.unwrap_or(PAGE), skip, filter))
    });
    let (top, skip, filter) = match options {
        Ok(options) => options,
        Err(message) => return error(world, 400, "ODataError", &message),
    };
    let unknown = filter.iter().flat_map(odata::Filter::fields).find(|field| !FILTERED.contains(field));
    if let Some(field) = unknown {
        return error(world, 400, "ODataError", &format!("The property {field} cannot be used in the $filter query option."));
    }
    let top = top.min(world.defender.page);
    let rows = world.defender.tenants.get(&caller.tenant).into_iter().flat_map(|held| held.rows.values());
    let mut rows = rows
        .filter(|row| caller.all || row.created_by == caller.client_id)
        .filter(|row| filter.as_ref().is_none_or(|filter| filter.matches(&|field| member(row, field))))
        .skip(skip);
    let page: Vec<&DefenderIndicator> = rows.by_ref().take(top).collect();
    let link = || odata::link(&world.defender.base, call, &[("$skip", (skip + top).to_string())]);
    let next = rows.next().map(|_| link());
    let items = page.len();
    let page = Page { context: format!("{CONTEXT}Indicators"), next, value: page };
    Answer { items, ..Answer::text(200, "application/json", serde_json::to_string(&page).unwrap_or_default()) }
}

/// A member that a filter may name.
fn member(row: &DefenderIndicator, name: &str) -> Value {
    match name {
        "application" => json!(row.application),
        "createdBy" => json!(row.created_by),
        "createdByDisplayName" => json!(row.created_by_display_name),
        "expirationTime" => json!(row.expiration_time),
        "generateAlert" => json!(row.generate_alert),
        "title" => json!(row.title),
        "rbacGroupNames" => json!(row.rbac_group_names),
        "rbacGroupIds" => json!(row.rbac_group_ids),
        "indicatorValue" => json!(row.value),
        "indicatorType" => json!(row.kind),
        "creationTimeDateTimeUtc" => json!(row.created),
        "action" => json!(row.action),
        "severity" => json!(row.severity),
        _ => Value::Null,
    }
}

/// Whether the caller may delete an indicator; one that it does not see is not there.
fn sees(world: &World, caller: &Caller, number: u64) -> bool {
    let row = world.defender.tenants.get(&caller.tenant).and_then(|held| held.rows.get(&number));
    row.is_some_and(|row| caller.all || row.created_by == caller.client_id)
}

fn remove(world: &mut World, caller: &Caller, number: u64) {
    let held = world.defender.tenants.entry(caller.tenant.clone()).or_default();
    if held.remove(number).is_some() {
        world.defender.deleted += 1;
    }
}

fn delete(world: &mut World, caller: &Caller, id: &str) -> Answer {
    match number(id) {
        Some(number) if sees(world, caller, number) => {
            remove(world, caller, number);
            Answer { items: 1, ..Answer::text(204, "", String::new()) }
        }
        _ => error(world, 404, "NotFound", &format!("Indicator with id {id} was not found")),
    }
}

fn batch_delete(world: &mut World, caller: &Caller, call: &Call) -> Answer {
    let Some(ids) = serde_json::from_slice::<BatchDelete>(&call.body).ok().and_then(|body| body.ids) else {
        return error(world, 400, "InvalidRequestBody", "The request body is not valid JSON with IndicatorIds");
    };
    if ids.is_empty() {
        return error(world, 400, "InvalidInput", "IndicatorIds is empty");
    }
    if ids.len() > BATCH {
        return error(world, 400, "MaximumBatchSizeExceeded", "More than 500 ids in one request");
    }
    let numbers: Option<Vec<u64>> = ids.iter().map(|id| number(id)).collect();
    let Some(numbers) = numbers else { return error(world, 400, "InvalidInput", "An id is not a number") };
    let missing = numbers.iter().find(|number| !sees(world, caller, **number)).copied();
    if missing.is_none() || world.defender.batch_deletes_rest {
        for number in numbers {
            if sees(world, caller, number) {
                remove(world, caller, number);
            }
        }
    }
    match missing {
        None => Answer { items: ids.len(), ..Answer::text(204, "", String::new()) },
        Some(id) => error(world, 404, "NotFound", &format!("Indicator with id {id} was not found")),
    }
}

/// An id's number; ids are decimal.
fn number(id: &str) -> Option<u64> {
    id.bytes().all(|byte| byte.is_ascii_digit()).then(|| id.parse().ok()).flatten()
}

fn error(world: &mut World, status: u16, code: &str, message: &str) -> Answer {
    let target = world.correlation();
    Answer::json(status, &json!({"error": {"code": code, "message": message, "target": target}}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entra::testing::{TENANT, at, call, world as world_of};

    const ROLE: [&str; 1] = ["Ti.ReadWrite.All"];

    fn world() -> World {
        world_of(AUDIENCE, &ROLE)
    }

    fn host(name: &str) -> Value {
        json!({"indicatorValue": name, "indicatorType": "DomainName", "action": "Block", "title": "t", "description": "d"})
    }

    fn with(name: &str, more: &Value) -> Value {
        let mut all = host(name);
        all.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        all
    }

    fn body(answer: &Answer) -> Value {
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    fn ask(world: &mut World, method: &str, target: &str, sent: &Value) -> (u16, Value) {
        let answer = answer(world, &call("app", method, target, sent), at(0));
        (answer.status, body(&answer))
    }

    fn import(world: &mut World, items: &[Value]) -> Vec<Value> {
        let (status, body) = ask(world, "POST", "/api/indicators/import", &json!({"Indicators": items}));
        assert_eq!(status, 200, "{body}");
        body["value"].as_array().cloned().expect("a list")
    }

    fn failed(lines: &[Value]) -> Vec<&str> {
        lines.iter().filter(|line| line["isFailed"] == true).filter_map(|line| line["indicator"].as_str()).collect()
    }

    #[test]
    fn only_a_token_for_the_old_audience_and_a_role_open_the_door() {
        let status = |world: &mut World| ask(world, "GET", "/api/v1.0/indicators", &Value::Null);
        assert_eq!(status(&mut world()).0, 200);
        assert_eq!(status(&mut world_of(TRAP, &ROLE)).0, 403);
        assert_eq!(status(&mut world_of("https://graph.microsoft.com", &ROLE)).0, 401);
        let (code, refused) = status(&mut world_of(AUDIENCE, &[]));
        assert_eq!((code, &refused["error"]["code"]), (403, &"Forbidden".into()));
        assert!(refused["error"]["target"].is_string());
        assert_eq!(ask(&mut world(), "GET", "/api/indicatorsx", &Value::Null).0, 404);
    }

    #[test]
    fn what_another_app_created_is_written_over_with_the_great_role_only() {
        let mut world = world();
        import(&mut world, &[host("a.example")]);
        let again =
            |world: &mut World| answer(world, &call("other", "POST", "/api/indicators", &host("a.example")), at(1)).status;
        world.apps[1].roles = vec!["Ti.ReadWrite".to_owned()];
        assert_eq!((again(&mut world), world.defender.updated), (403, 0));
        world.apps[1].roles = vec!["Ti.ReadWrite.All".to_owned()];
        assert_eq!((again(&mut world), world.defender.updated), (200, 1));
        let row = world.at_defender(TENANT, at(1))[0];
        assert_eq!((row.created_by.as_str(), row.last_updated_by.as_deref()), ("app", Some("other")));
        assert_eq!(world.defender.overwritten, ["a.example"]);
        world.apps[1].roles.clear();
        assert_eq!(again(&mut world), 403);
    }

    #[test]
    fn an_import_answers_line_by_line_in_its_own_order() {
        let mut world = world();
        let lines = import(&mut world, &[host("a.example"), host("B.example"), host("*.c.example")]);
        let order: Vec<&Value> = lines.iter().map(|line| &line["indicator"]).collect();
        assert_eq!(order, ["*.c.example", "B.example", "a.example"]);
        assert_eq!(failed(&lines), ["*.c.example"]);
        // Type, value, action and groups are one indicator.
        import(&mut world, &[with("b.example", &json!({"title": "new", "application": "x"}))]);
        import(&mut world, &[with("b.example", &json!({"action": "Warn"})), host("z.example")]);
        import(&mut world, &[with("b.example", &json!({"rbacGroupNames": ["g2", "g1"]}))]);
        import(&mut world, &[with("b.example", &json!({"rbacGroupNames": ["g1", "g2"], "mitreTechniques": ["T1"]}))]);
        assert_eq!((world.defender.created, world.defender.updated), (5, 2));
        let rows = world.at_defender(TENANT, at(0));
        assert_eq!((rows[1].title.as_str(), &rows[1].application), ("new", &None));
        assert_eq!(rows[4].extra["mitreTechniques"][0], "T1");
        assert_eq!(world.defender.requests[&DefenderOperation::Import], 5);
    }

    #[test]
    fn switches_of_the_import() {
        let mut world = world();
        world.defender.refuse = vec!["bad".to_owned()];
        world.defender.omit = vec!["quiet".to_owned()];
        world.defender.stranger = Some("stranger.example".to_owned());
        world.defender.normalise_echo = true;
        let lines = import(&mut world, &[host("bad.example"), host("QUIET.quiet"), host("A.Example"), host("a.example")]);
        let order: Vec<&Value> = lines.iter().map(|line| &line["indicator"]).collect();
        assert_eq!(order, ["stranger.example", "a.example", "a.example", "bad.example"]);
        assert_eq!(failed(&lines), ["bad.example"]);
        assert_eq!(world.defender.ambiguous, ["a.example"]);
        assert_eq!(world.at_defender(TENANT, at(0)).len(), 2);
    }

    #[test]
    fn a_body_that_is_no_import_is_refused_whole() {
        let mut world = world();
        let mut code = |sent: &Value| {
            let (status, body) = ask(&mut world, "POST", "/api/indicators/import", sent);
            (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
        };
        let too_many = json!({"Indicators": vec![host("a.example"); 501]});
        assert_eq!(code(&too_many), (400, "MaximumBatchSizeExceeded".to_owned()));
        for sent in [json!({"indicators": []}), json!([]), json!({"Indicators": [{"generateAlert": "yes"}]})] {
            assert_eq!(code(&sent), (400, "InvalidRequestBody".to_owned()), "{sent}");
        }
        assert!(world.at_defender(TENANT, at(0)).is_empty());
    }

    #[test]
    fn the_tenant_is_full_for_creations_only_and_until_something_ends() {
        let mut world = world();
        world.defender.cap = 4;
        world.add_others(TENANT, 2);
        import(&mut world, &[with("a.example", &json!({"expirationTime": at(60).to_string()})), host("b.example")]);
        assert_eq!(failed(&import(&mut world, &[host("c.example"), host("b.example")])), ["c.example"]);
        assert_eq!((world.defender.peak(TENANT), world.defender.over_cap), (4, 1));
        let sent = json!({"Indicators": [host("c.example")]});
        let later = answer(&mut world, &call("app", "POST", "/api/indicators/import", &sent), at(60));
        assert_eq!(body(&later)["value"][0]["isFailed"], false);
        assert_eq!((world.defender.expired, world.at_defender(TENANT, at(60)).len()), (1, 4));
        let past = with("d.example", &json!({"expirationTime": at(-1).to_string()}));
        assert_eq!(failed(&import(&mut world, &[past])), ["d.example"]);
        assert_eq!(world.remove_others(TENANT, 9), 2);
    }

    #[test]
    fn lists_are_paged_and_filtered() {
        let mut world = world();
        let items: Vec<Value> = (0..7).map(|i| with(&format!("h{i}.example"), &json!({"externalId": "x"}))).collect();
        import(&mut world, &items);
        world.add_others(TENANT, 1);
        let (status, all) = ask(&mut world, "GET", "/api/indicators", &Value::Null);
        assert_eq!((status, all["value"].as_array().map(Vec::len)), (200, Some(8)));
        let row = &all["value"][0];
        assert_eq!(
            (&row["externalId"], &row["createdBy"], &row["createdBySource"]),
            (&"x".into(), &"app".into(), &"PublicApi".into())
        );
        assert!(row["id"].is_string() && all["@odata.nextLink"].is_null());
        let mut next = "/api/indicators?$top=3&$filter=createdBy%20eq%20'app'".to_owned();
        let mut sizes = Vec::new();
        loop {
            let (_, page) = ask(&mut world, "GET", &next, &Value::Null);
            sizes.push(page["value"].as_array().map_or(0, Vec::len));
            let Some(link) = page["@odata.nextLink"].as_str() else { break };
            next = link.strip_prefix("https://localhost").expect("the same host").to_owned();
        }
        assert_eq!(sizes, [3, 3, 1]);
        for wrong in ["$top=10001", "$top=x", "$filter=nothing%20eq%20'a'", "$filter=title"] {
            let (status, refused) = ask(&mut world, "GET", &format!("/api/indicators?{wrong}"), &Value::Null);
            assert_eq!((status, &refused["error"]["code"]), (400, &"ODataError".into()), "{wrong}");
        }
        // With the lesser role an app sees its own only.
        world.apps[0].roles = vec!["Ti.ReadWrite".to_owned()];
        let (_, own) = ask(&mut world, "GET", "/api/indicators", &Value::Null);
        assert_eq!(own["value"].as_array().map(Vec::len), Some(7));
    }

    #[test]
    fn deletes_are_all_or_nothing() {
        let mut world = world();
        let (status, one) = ask(&mut world, "POST", "/api/indicators", &host("a.example"));
        assert_eq!((status, &one["indicatorValue"]), (200, &"a.example".into()));
        let id = one["id"].as_str().expect("text").to_owned();
        let batch = "/api/indicators/BatchDelete";
        assert_eq!(ask(&mut world, "POST", batch, &json!({"IndicatorIds": [id, "1"]})).0, 404);
        assert_eq!(world.defender.deleted, 0);
        for wrong in [json!([]), json!(["x"]), json!([1]), json!(vec!["1"; 501])] {
            assert_eq!(ask(&mut world, "POST", batch, &json!({"IndicatorIds": wrong})).0, 400);
        }
        world.defender.batch_deletes_rest = true;
        assert_eq!(ask(&mut world, "POST", batch, &json!({"IndicatorIds": [id, "1"]})).0, 404);
        assert_eq!(world.defender.deleted, 1);
        let (_, one) = ask(&mut world, "POST", "/api/indicators", &host("a.example"));
        let path = format!("/api/v1.0/indicators/{}", one["id"].as_str().expect("text"));
        assert_eq!(ask(&mut world, "DELETE", &path, &Value::Null).0, 204);
        assert_eq!(ask(&mut world, "DELETE", &path, &Value::Null).0, 404);
        let (status, refused) = ask(&mut world, "POST", "/api/indicators", &host("-.example"));
        assert_eq!((status, &refused["error"]["code"]), (400, &"InvalidDomainName".into()));
    }

    #[test]
    fn each_operation_has_its_rate() {
        let mut world = world();
        world.defender.enforce_rate = true;
        let sent = json!({"Indicators": [host("a.example")]});
        for second in 0..30 {
            assert_eq!(answer(&mut world, &call("app", "POST", "/api/indicators/import", &sent), at(second)).status, 200);
        }
        let refused = answer(&mut world, &call("app", "POST", "/api/indicators/import", &sent), at(30));
        assert_eq!((refused.status, &body(&refused)["error"]["code"]), (429, &"TooManyRequests".into()));
        assert_eq!(refused.headers, [("retry-after", "30".to_owned())]);
        assert_eq!(answer(&mut world, &call("app", "GET", "/api/indicators", &Value::Null), at(30)).status, 200);
        assert_eq!(answer(&mut world, &call("app", "POST", "/api/indicators/import", &sent), at(60)).status, 200);
        assert_eq!(world.defender.throttled, 1);
    }
}
