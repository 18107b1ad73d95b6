//! tiIndicators of Microsoft Graph, beta.
//!
//! Not imitated: `$batch`, `$select` and other options that only change an answer's shape, ingestion into a workspace, entities
//! for Defender in Defender's own list (they only count against its cap), the end of entities for Sentinel at their time (they
//! stay, and are not live).

mod rules;
mod state;

use std::collections::{BTreeSet, HashSet};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::entra::bearer;
use crate::odata;
use crate::rate::{Limit, seconds};
use crate::server::{Answer, Call};
use crate::world::World;

use rules::{DEFENDER, Entity, changes, creatable, misshapen};
use state::expires;
pub use state::{Gone, Graph, GraphObject, GraphOperation, RetryAfter};

const AUDIENCE: &str = "https://graph.microsoft.com";
const BATCH: usize = 100;
const RATE: Limit = Limit { requests: 1_000, seconds: 60 };
const TOP: usize = 1_000;
const SKIP: usize = 500;
const CONTEXT: &str = "https://graph.microsoft.com/beta/$metadata#";
const TYPE: &str = "#microsoft.graph.tiIndicator";

#[derive(Deserialize)]
struct Many<'a> {
    #[serde(borrow, default)]
    value: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
struct Ids {
    value: Vec<String>,
}

/// One request of an app that may ask.
struct Ask<'c> {
    call: &'c Call,
    now: Timestamp,
    tenant: String,
    app: String,
    /// It reads what others created, too.
    reads_all: bool,
}

pub(crate) fn answer(world: &mut World, call: &Call, now: Timestamp) -> Answer {
    let path = call.path.strip_prefix("/beta/security/tiIndicators").filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let Some(rest) = path.map(|rest| rest.trim_start_matches('/')) else {
        return error(world, call, now, 404, "ResourceNotFound", "Resource not found for the segment");
    };
    match world.graph.gone {
        Some(Gone::Empty) => return collection(200, "Collection(tiIndicator)", Vec::new(), None),
        Some(Gone::Status(status)) => {
            let code = if status == 403 { "Forbidden" } else { "ResourceNotFound" };
            return error(world, call, now, status, code, "The API is retired");
        }
        None => {}
    }
    let operation = match (call.method.as_str(), rest) {
        ("POST", "") => GraphOperation::Create,
        ("GET", "") => GraphOperation::List,
        ("POST", "submitTiIndicators") => GraphOperation::Submit,
        ("POST", "updateTiIndicators") => GraphOperation::UpdateMany,
        ("POST", "deleteTiIndicators") => GraphOperation::DeleteMany,
        ("POST", "deleteTiIndicatorsByExternalId") => GraphOperation::DeleteByExternalId,
        ("GET", _) => GraphOperation::Get,
        ("PATCH", id) if !id.is_empty() => GraphOperation::Update,
        ("DELETE", id) if !id.is_empty() => GraphOperation::Delete,
        ("POST", _) => return error(world, call, now, 404, "ResourceNotFound", "Resource not found for the segment"),
        _ => return error(world, call, now, 405, "BadRequest", "The method is not allowed"),
    };
    let ask = match ask(world, call, now) {
        Ok(ask) => ask,
        Err(refused) => return refused,
    };
    *world.graph.requests.entry(operation).or_default() += 1;
    if let Some(refused) = too_fast(world, &ask) {
        return refused;
    }
    world.expire(&ask.tenant, now);
    let typed = call.header("content-type").is_some_and(|kind| kind.starts_with("application/json"));
    if !typed && matches!(call.method.as_str(), "POST" | "PATCH") {
        return ask.error(world, 400, "BadRequest", "The content type must be application/json");
    }
    match operation {
        GraphOperation::Create => create(world, &ask),
        GraphOperation::Submit => many(world, &ask, true),
        GraphOperation::UpdateMany => many(world, &ask, false),
        GraphOperation::DeleteMany | GraphOperation::DeleteByExternalId => delete_many(world, &ask, operation),
        GraphOperation::Update => update(world, &ask, rest),
        GraphOperation::Delete => delete(world, &ask, rest),
        GraphOperation::Get => get(world, &ask, rest),
        GraphOperation::List => list(world, &ask),
    }
}

/// Who asks, if the token is for Graph and the app has a role for this.
fn ask<'c>(world: &mut World, call: &'c Call, now: Timestamp) -> Result<Ask<'c>, Answer> {
    let Some(app) = bearer(world, call, &[AUDIENCE], now) else {
        return Err(error(
            world,
            call,
            now,
            401,
            "InvalidAuthenticationToken",
            "Access token is missing, expired or for another audience",
        ));
    };
    let has = |role: &str| app.roles.iter().any(|known| known == role);
    let reads_all = has("ThreatIndicators.Read.All");
    let may = has("ThreatIndicators.ReadWrite.OwnedBy") || reads_all && call.method == "GET";
    let ask = Ask { call, now, tenant: app.tenant.clone(), app: app.client_id.clone(), reads_all };
    if may {
        Ok(ask)
    } else {
        Err(ask.error(world, 403, "Forbidden", "The application lacks ThreatIndicators.ReadWrite.OwnedBy"))
    }
}

/// Requests that are refused count, too.
fn too_fast(world: &mut World, ask: &Ask<'_>) -> Option<Answer> {
    if !world.graph.enforce_rate {
        return None;
    }
    let recent = world.graph.recent.entry((ask.tenant.clone(), ask.app.clone())).or_default();
    let wait = recent.wait(&[RATE], ask.now);
    recent.count(ask.now);
    let wait = wait?;
    world.graph.throttled += 1;
    let mut answer = ask.error(world, 429, "TooManyRequests", "Too many requests");
    if let Ok(mut body) = serde_json::from_slice::<Value>(&answer.body) {
        body["error"]["innerError"]["status"] = "429".into();
        answer.body = body.to_string().into();
    }
    Some(match world.graph.retry_after {
        RetryAfter::Seconds => answer.with("retry-after", &seconds(wait).to_string()),
        RetryAfter::Fractional => answer.with("retry-after", &format!("{}.{:03}", wait / 1_000, wait % 1_000)),
        RetryAfter::Absent => answer,
        RetryAfter::Absurd => answer.with("retry-after", "99999999999"),
    })
}

impl Ask<'_> {
    fn error(&self, world: &mut World, status: u16, code: &str, message: &str) -> Answer {
        error(world, self.call, self.now, status, code, message)
    }

    fn owns(&self, object: &GraphObject) -> bool {
        object.created_by == self.app
    }

    /// The number of an own object.
    fn own(&self, world: &World, id: &str) -> Option<u64> {
        let stock = world.graph.tenants.get(&self.tenant)?;
        stock.find(id).filter(|number| stock.objects.get(number).is_some_and(|object| self.owns(object)))
    }
}

/// A body that is one entity, or several.
fn entities(call: &Call, one: bool) -> Result<Vec<(Box<str>, Entity)>, String> {
    let raw: Vec<&RawValue> = if one {
        vec![serde_json::from_slice(&call.body).map_err(|e| e.to_string())?]
    } else {
        let many: Many<'_> = serde_json::from_slice(&call.body).map_err(|e| e.to_string())?;
        many.value.filter(|list| !list.is_empty()).ok_or("value is missing or empty")?
    };
    if raw.len() > BATCH {
        return Err(format!("More than {BATCH} entities in one request"));
    }
    let mut found = Vec::with_capacity(raw.len());
    for raw in raw {
        let entity: Entity = serde_json::from_str(raw.get()).map_err(|e| e.to_string())?;
        if let Some(name) = misshapen(&entity) {
            return Err(format!("The property {name} is not of its type"));
        }
        found.push((raw.get().into(), entity));
    }
    Ok(found)
}

/// Creates one, whatever is there already; the entity as it is stored.
fn add(world: &mut World, ask: &Ask<'_>, raw: &str, entity: Entity) -> Result<Entity, String> {
    let mut entity = creatable(entity)?;
    if world.graph.refuse.iter().any(|text| raw.contains(text)) {
        return Err("The indicator is not accepted".to_owned());
    }
    let target = entity.get("targetProduct").and_then(Value::as_str).unwrap_or_default().to_owned();
    let id = if target == DEFENDER {
        world.room_at_defender(&ask.tenant).map_err(|refusal| refusal.message)?.to_string()
    } else {
        world.graph.hex_id()
    };
    entity.insert("id".to_owned(), id.clone().into());
    entity.insert("azureTenantId".to_owned(), ask.tenant.clone().into());
    entity.insert("ingestedDateTime".to_owned(), ask.now.to_string().into());
    entity.entry("isActive").or_insert(true.into());
    entity.entry("passiveOnly").or_insert(false.into());
    entity.entry("severity").or_insert(3.into());
    let object = GraphObject { id, created_by: ask.app.clone(), target, expires: expires(&entity), entity: entity.clone() };
    world.graph.add(&ask.tenant, object, ask.now);
    world.note_peak(&ask.tenant);
    Ok(entity)
}

fn create(world: &mut World, ask: &Ask<'_>) -> Answer {
    let read = entities(ask.call, true).map(|list| list.into_iter().next());
    let (raw, entity) = match read {
        Ok(Some(one)) => one,
        Ok(None) => return ask.error(world, 400, "BadRequest", "The body is empty"),
        Err(message) => return ask.error(world, 400, "BadRequest", &message),
    };
    match add(world, ask, &raw, entity) {
        Ok(mut entity) => {
            entity.insert("@odata.context".to_owned(), format!("{CONTEXT}security/tiIndicators/$entity").into());
            Answer { items: 1, ..Answer::json(201, &Value::Object(entity)) }
        }
        Err(message) => ask.error(world, 400, "InvalidInput", &message),
    }
}

/// Submits or updates several: an element for each, in an order that is not the input's.
fn many(world: &mut World, ask: &Ask<'_>, new: bool) -> Answer {
    let read = match entities(ask.call, false) {
        Ok(read) => read,
        Err(message) => return ask.error(world, 400, "BadRequest", &message),
    };
    let count = read.len();
    if new && world.graph.chokes_above.is_some_and(|most| count > most) {
        let status = world.graph.chokes_with;
        return ask.error(world, status, "UnknownError", "");
    }
    let mut failed = false;
    let mut elements = Vec::with_capacity(count);
    let mut seen = HashSet::new();
    for (raw, sent) in read {
        let external = sent.get("externalId").and_then(Value::as_str);
        if new && !external.is_some_and(|external| seen.insert(external.to_owned())) {
            world.graph.ambiguous.push(raw.to_string());
        }
        let outcome = if new { add(world, ask, &raw, sent.clone()) } else { change_one(world, ask, &raw, &sent) };
        failed |= outcome.is_err();
        if world.graph.omit.iter().any(|text| raw.contains(text)) {
            continue;
        }
        let mut element = match outcome {
            Ok(entity) => entity,
            Err(message) => failure(world, sent, &message, if new { "creation" } else { "update" }),
        };
        element.insert("@odata.type".to_owned(), TYPE.into());
        elements.push(Value::Object(element));
    }
    elements.reverse();
    let status = if failed && !world.graph.failures_are_200 { 206 } else { 200 };
    Answer { items: count, ..collection(status, "Collection(tiIndicator)", elements, None) }
}

/// What was sent, with a sentence for an id and an error as text.
fn failure(world: &mut World, sent: Entity, message: &str, what: &str) -> Entity {
    let mut element = sent;
    let document = json!({"error": {"code": "InvalidInput", "message": message, "target": world.correlation()}});
    element.insert("id".to_owned(), format!("Indicator {what} failed. See the Error element for details.").into());
    element.insert("Error".to_owned(), document.to_string().into());
    element
}

fn change_one(world: &mut World, ask: &Ask<'_>, raw: &str, sent: &Entity) -> Result<Entity, String> {
    let id = sent.get("id").and_then(Value::as_str).ok_or("id is required")?;
    let number = ask.own(world, id).ok_or_else(|| format!("{id} was not found"))?;
    if world.graph.refuse.iter().any(|text| raw.contains(text)) {
        return Err("The update is not accepted".to_owned());
    }
    let stock = world.graph.tenants.entry(ask.tenant.clone()).or_default();
    let target = stock.objects.get(&number).map_or("", |object| object.target.as_str());
    if target == DEFENDER {
        return Err(format!("Updating several indicators is not supported for {DEFENDER}"));
    }
    let changes = changes(sent, target)?;
    stock.change(number, changes);
    world.graph.updated += 1;
    let entity = stock_entity(world, ask, number);
    entity.ok_or_else(|| format!("{id} was not found"))
}

fn stock_entity(world: &World, ask: &Ask<'_>, number: u64) -> Option<Entity> {
    world.graph.tenants.get(&ask.tenant)?.objects.get(&number).map(|object| object.entity.clone())
}

fn update(world: &mut World, ask: &Ask<'_>, id: &str) -> Answer {
    let sent = match entities(ask.call, true) {
        Ok(list) => list.into_iter().next().unwrap_or_default(),
        Err(message) => return ask.error(world, 400, "BadRequest", &message),
    };
    let Some(number) = ask.own(world, id) else {
        return ask.error(world, 404, "ResourceNotFound", "The indicator was not found");
    };
    if world.graph.refuse.iter().any(|text| sent.0.contains(text)) {
        return ask.error(world, 400, "InvalidInput", "The update is not accepted");
    }
    let stock = world.graph.tenants.entry(ask.tenant.clone()).or_default();
    let target = stock.objects.get(&number).map_or("", |object| object.target.as_str());
    match changes(&sent.1, target) {
        Err(message) => ask.error(world, 400, "InvalidInput", &message),
        Ok(changes) => {
            stock.change(number, changes);
            world.graph.updated += 1;
            // What is for Defender and ends at once is gone already.
            let entity = stock_entity(world, ask, number).filter(|_| ask.call.header("prefer") == Some("return=representation"));
            let answer = entity.map_or(Answer::text(204, "", String::new()), |entity| Answer::json(200, &Value::Object(entity)));
            Answer { items: 1, ..answer }
        }
    }
}

fn delete(world: &mut World, ask: &Ask<'_>, id: &str) -> Answer {
    let Some(number) = ask.own(world, id) else {
        return ask.error(world, 404, "ResourceNotFound", "The indicator was not found");
    };
    remove(world, ask, number);
    Answer { items: 1, ..Answer::text(204, "", String::new()) }
}

fn remove(world: &mut World, ask: &Ask<'_>, number: u64) {
    let stock = world.graph.tenants.entry(ask.tenant.clone()).or_default();
    if stock.remove(number).is_some() {
        world.graph.deleted += 1;
    }
}

fn delete_many(world: &mut World, ask: &Ask<'_>, operation: GraphOperation) -> Answer {
    let ids = match serde_json::from_slice::<Ids>(&ask.call.body) {
        Ok(ids) if ids.value.is_empty() => return ask.error(world, 400, "BadRequest", "value is empty"),
        Ok(ids) if ids.value.len() > BATCH => return ask.error(world, 400, "BadRequest", "More than 100 ids in one request"),
        Ok(ids) => ids.value,
        Err(e) => return ask.error(world, 400, "BadRequest", &e.to_string()),
    };
    let mut failed = false;
    let mut elements = Vec::with_capacity(ids.len());
    for id in &ids {
        let outcome = if operation == GraphOperation::DeleteMany {
            delete_by_id(world, ask, id)
        } else {
            delete_by_external(world, ask, id)
        };
        failed |= outcome.is_err();
        if !world.graph.omit.iter().any(|text| id.contains(text)) {
            elements.push(result_info(world, id, &outcome));
        }
    }
    elements.reverse();
    let status = if failed && !world.graph.failures_are_200 { 206 } else { 200 };
    Answer { items: ids.len(), ..collection(status, "Collection(microsoft.graph.resultInfo)", elements, None) }
}

type Deleted = Result<(), (u16, &'static str)>;

fn delete_by_id(world: &mut World, ask: &Ask<'_>, id: &str) -> Deleted {
    let number = ask.own(world, id).ok_or((404, "was not found"))?;
    let target = stock_entity(world, ask, number).and_then(|entity| entity.get("targetProduct").cloned());
    if target == Some(DEFENDER.into()) {
        return Err((400, "is for a product of which several cannot be deleted at once: not supported"));
    }
    remove(world, ask, number);
    Ok(())
}

/// All own objects with this external id; the ones for Defender are not found this way.
fn delete_by_external(world: &mut World, ask: &Ask<'_>, external: &str) -> Deleted {
    let Some(stock) = world.graph.tenants.get(&ask.tenant) else { return Err((404, "was not found")) };
    let mut numbers = stock.with_external(&ask.app, external);
    numbers.retain(|number| stock.objects.get(number).is_some_and(|object| object.target != DEFENDER));
    if numbers.is_empty() {
        return Err((404, "was not found"));
    }
    for number in numbers {
        remove(world, ask, number);
    }
    Ok(())
}

fn result_info(world: &World, id: &str, outcome: &Deleted) -> Value {
    let (code, text) = outcome.map_or_else(|failed| failed, |()| (0, "was deleted"));
    let graph = &world.graph;
    let code = match (graph.delete_code_is_text, code) {
        (true, 0) => json!("204"),
        (true, code) => json!(code.to_string()),
        (false, code) => json!(code),
    };
    let message = if graph.delete_without_message { Value::Null } else { format!("{id} {text}").into() };
    if graph.delete_sub_code {
        json!({"@odata.type": "#microsoft.graph.resultInfo", "code": code, "message": message, "subCode": "0"})
    } else {
        json!({"@odata.type": "#microsoft.graph.resultInfo", "code": code, "message": message, "subcode": 0})
    }
}

fn get(world: &mut World, ask: &Ask<'_>, id: &str) -> Answer {
    let stock = world.graph.tenants.get(&ask.tenant);
    let object = stock.and_then(|stock| stock.objects.get(&stock.find(id)?));
    match object.filter(|object| ask.reads_all || ask.owns(object)) {
        Some(object) => Answer { items: 1, ..Answer::json(200, &Value::Object(object.entity.clone())) },
        None => ask.error(world, 404, "ResourceNotFound", "The indicator was not found"),
    }
}

fn list(world: &mut World, ask: &Ask<'_>) -> Answer {
    let options = odata::number(ask.call, "$top", TOP).and_then(|top| {
        let skip = odata::number(ask.call, "$skip", SKIP)?.unwrap_or(0);
        let after = odata::number(ask.call, "$skiptoken", usize::MAX)?.unwrap_or(0) as u64;
        let filter = odata::text(ask.call, "$filter").map(odata::parse).transpose()?;
        Ok((top, skip, after, filter))
    });
    let (top, skip, after, filter) = match options {
        Ok(options) => options,
        Err(message) => return ask.error(world, 400, "BadRequest", &message),
    };
    if top.is_none() && world.graph.list_needs_top {
        return ask.error(world, 500, "UnknownError", "");
    }
    let Some(stock) = world.graph.tenants.get(&ask.tenant) else {
        return collection(200, "security/tiIndicators", Vec::new(), None);
    };
    let indexed = filter.as_ref().and_then(|filter| filter.one_of("externalId")).filter(|_| !ask.reads_all);
    let rows: Box<dyn Iterator<Item = (u64, &GraphObject)>> = match indexed {
        Some(externals) => {
            let numbers = externals.iter().flat_map(|external| stock.with_external(&ask.app, external));
            let numbers: BTreeSet<u64> = numbers.filter(|number| *number > after).collect();
            Box::new(numbers.into_iter().filter_map(|number| stock.objects.get(&number).map(|object| (number, object))))
        }
        None => Box::new(stock.objects.range(after + 1..).map(|(number, object)| (*number, object))),
    };
    let fits = |entity: &Entity| {
        filter.as_ref().is_none_or(|filter| filter.matches(&|name| entity.get(name).cloned().unwrap_or_default()))
    };
    let mut rows = rows.filter(|(_, object)| (ask.reads_all || ask.owns(object)) && fits(&object.entity)).skip(skip).peekable();
    let mut last = after;
    let mut page = Vec::new();
    while page.len() < top.unwrap_or(TOP).min(world.graph.page)
        && let Some((number, object)) = rows.next()
    {
        last = number;
        page.push(Value::Object(object.entity.clone()));
    }
    // Not `$skip`, of which there is a highest.
    let options = [("$skip", String::new()), ("$skiptoken", last.to_string())];
    let next = rows.peek().is_some().then(|| odata::link(&world.graph.base, ask.call, &options));
    Answer { items: page.len(), ..collection(200, "security/tiIndicators", page, next) }
}

fn collection(status: u16, context: &str, value: Vec<Value>, next: Option<String>) -> Answer {
    let mut body = Entity::new();
    body.insert("@odata.context".to_owned(), format!("{CONTEXT}{context}").into());
    body.insert("value".to_owned(), value.into());
    if let Some(next) = next {
        body.insert("@odata.nextLink".to_owned(), next.into());
    }
    Answer::json(status, &Value::Object(body))
}

pub(crate) fn error(world: &mut World, call: &Call, now: Timestamp, status: u16, code: &str, message: &str) -> Answer {
    let id = world.correlation();
    let client = call.header("client-request-id").unwrap_or(&id);
    let date = now.strftime("%Y-%m-%dT%H:%M:%S").to_string();
    let inner = json!({"date": date, "request-id": id, "client-request-id": client});
    let body = json!({"error": {"code": code, "message": message, "innerError": inner}});
    Answer::json(status, &body).with("request-id", &id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entra::testing::{TENANT, at, call, world as world_of};
    use rules::SENTINEL;

    const PATH: &str = "/beta/security/tiIndicators";
    const ROLES: [&str; 1] = ["ThreatIndicators.ReadWrite.OwnedBy"];

    fn world() -> World {
        world_of(AUDIENCE, &ROLES)
    }

    fn host(target: &str, name: &str) -> Value {
        json!({"targetProduct": target, "action": "alert", "description": "d", "threatType": "Malware", "tlpLevel": "amber",
            "expirationDateTime": at(600).to_string(), "domainName": name, "externalId": name})
    }

    fn ask(world: &mut World, method: &str, rest: &str, sent: &Value) -> (u16, Value) {
        let answer = answer(world, &call("app", method, &format!("{PATH}{rest}"), sent), at(0));
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or_default())
    }

    fn submit(world: &mut World, items: &[Value]) -> (u16, Vec<Value>) {
        let (status, body) = ask(world, "POST", "/submitTiIndicators", &json!({"value": items}));
        (status, body["value"].as_array().cloned().expect("a list"))
    }

    #[test]
    fn a_submit_answers_element_by_element_in_its_own_order() {
        let mut world = world();
        let (status, elements) = submit(&mut world, &[host(SENTINEL, "a.example"), host(DEFENDER, "b.example")]);
        assert_eq!(status, 200);
        let [second, first] = elements.as_slice() else { panic!("two elements") };
        assert_eq!((&first["externalId"], &first["@odata.type"]), (&"a.example".into(), &TYPE.into()));
        assert!(first["id"].as_str().is_some_and(|id| id.len() == 64));
        assert!(second["id"].as_str().is_some_and(|id| id.parse::<u64>().is_ok()));
        let (status, elements) = submit(&mut world, &[host(SENTINEL, "c.example"), host(SENTINEL, "http://d.example")]);
        assert_eq!((status, &elements[0]["externalId"]), (206, &"http://d.example".into()));
        let error: Value = serde_json::from_str(elements[0]["Error"].as_str().expect("text")).expect("JSON in text");
        assert_eq!(error["error"]["code"], "InvalidInput");
        assert!(elements[0]["id"].as_str().is_some_and(|id| id.contains(' ')) && elements[1]["Error"].is_null());
        // An external id is no key: the same again is another object.
        let (_, again) = submit(&mut world, &[host(SENTINEL, "a.example")]);
        assert_ne!(again[0]["id"], first["id"]);
        assert_eq!(world.graph.doubled, ["domainName=\"a.example\""]);
        assert_eq!(world.doubles_at_graph(TENANT, at(0)).into_values().collect::<Vec<_>>(), [2]);
        assert_eq!((world.at_graph(TENANT, SENTINEL, at(0)).len(), world.at_graph(TENANT, SENTINEL, at(600)).len()), (3, 0));
        assert!(world.graph.ambiguous.is_empty());
    }

    #[test]
    fn whole_requests_are_refused() {
        let mut world = world();
        let too_many: Vec<Value> = vec![host(SENTINEL, "a.example"); 101];
        for sent in [json!({"value": too_many}), json!({"value": []}), json!({}), json!({"value": [{"confidence": "1"}]})] {
            let (status, body) = ask(&mut world, "POST", "/submitTiIndicators", &sent);
            assert_eq!((status, body["error"]["innerError"]["request-id"].is_string()), (400, true));
        }
        world.graph.chokes_above = Some(1);
        let two = json!({"value": [host(SENTINEL, "a.example"), host(SENTINEL, "b.example")]});
        let (status, body) = ask(&mut world, "POST", "/submitTiIndicators", &two);
        assert_eq!((status, &body["error"]["code"]), (500, &"UnknownError".into()));
        assert_eq!(world.graph.created, 0);
        world.graph.gone = Some(Gone::Status(410));
        assert_eq!(ask(&mut world, "GET", "", &Value::Null).0, 410);
        world.graph.gone = Some(Gone::Empty);
        assert_eq!(ask(&mut world, "POST", "/submitTiIndicators", &two).1["value"], json!([]));
        assert_eq!(ask(&mut world_of("https://other", &ROLES), "GET", "", &Value::Null).0, 401);
        assert_eq!(ask(&mut world_of(AUDIENCE, &[]), "GET", "", &Value::Null).0, 403);
        assert_eq!(ask(&mut world_of(AUDIENCE, &["ThreatIndicators.Read.All"]), "GET", "", &Value::Null).0, 200);
        assert_eq!(ask(&mut world_of(AUDIENCE, &["ThreatIndicators.Read.All"]), "POST", "", &Value::Null).0, 403);
    }

    #[test]
    fn one_is_created_read_updated_and_deleted_by_its_app_only() {
        let mut world = world();
        let (status, made) = ask(&mut world, "POST", "", &host(DEFENDER, "a.example"));
        assert_eq!(status, 201);
        let rest = format!("/{}", made["id"].as_str().expect("text"));
        let update = json!({"expirationDateTime": at(900).to_string(), "targetProduct": DEFENDER, "severity": 5});
        assert_eq!(ask(&mut world, "PATCH", &rest, &update).0, 204);
        assert_eq!(ask(&mut world, "PATCH", &rest, &json!({"severity": 5})).0, 400);
        assert_eq!(ask(&mut world, "GET", &rest, &Value::Null).1["severity"], 5);
        for method in ["GET", "PATCH", "DELETE"] {
            let foreign = call("other", method, &format!("{PATH}{rest}"), &update);
            assert_eq!(answer(&mut world, &foreign, at(0)).status, 404);
        }
        assert_eq!(ask(&mut world, "DELETE", &rest, &Value::Null).0, 204);
        assert_eq!(ask(&mut world, "GET", &rest, &Value::Null).0, 404);
        assert_eq!(ask(&mut world, "POST", "", &host("Microsoft Sentinel", "a.example")).0, 400);
        assert_eq!((world.graph.created, world.graph.updated, world.graph.deleted), (1, 1, 1));
    }

    #[test]
    fn several_are_updated_and_deleted_at_sentinel_only() {
        let mut world = world();
        let (_, made) = submit(&mut world, &[host(DEFENDER, "b.example"), host(SENTINEL, "a.example")]);
        let ids: Vec<Value> = made.iter().map(|element| element["id"].clone()).collect();
        let update = |id: &Value, target: &str| json!({"id": id, "targetProduct": target, "expirationDateTime": at(900).to_string(), "tags": ["x"]});
        let both = json!({"value": [update(&ids[0], SENTINEL), update(&ids[1], DEFENDER)]});
        let (status, answer) = ask(&mut world, "POST", "/updateTiIndicators", &both);
        assert_eq!((status, &answer["value"][1]["tags"][0]), (206, &"x".into()));
        assert!(answer["value"][0]["Error"].as_str().is_some_and(|error| error.contains("not supported")));
        let (status, answer) =
            ask(&mut world, "POST", "/deleteTiIndicatorsByExternalId", &json!({"value": ["b.example", "a.example"]}));
        assert_eq!(status, 206);
        assert_eq!((&answer["value"][0]["code"], &answer["value"][1]["code"]), (&json!(0), &json!(404)));
        (world.graph.delete_code_is_text, world.graph.delete_sub_code) = (true, true);
        let (_, made) = submit(&mut world, &[host(SENTINEL, "a.example")]);
        let (status, answer) = ask(&mut world, "POST", "/deleteTiIndicators", &json!({"value": [made[0]["id"]]}));
        assert_eq!((status, &answer["value"][0]["code"], &answer["value"][0]["subCode"]), (200, &"204".into(), &"0".into()));
        let (status, answer) = ask(&mut world, "POST", "/deleteTiIndicators", &json!({"value": [ids[1]]}));
        assert!(status == 206 && answer["value"][0]["message"].as_str().is_some_and(|text| text.contains("not supported")));
        assert_eq!(world.stored_at_graph(TENANT).len(), 1);
    }

    #[test]
    fn entities_for_defender_count_against_its_cap() {
        let mut world = world();
        world.defender.cap = 3;
        world.add_others(TENANT, 2);
        let (status, elements) =
            submit(&mut world, &[host(DEFENDER, "a.example"), host(DEFENDER, "b.example"), host(SENTINEL, "c.example")]);
        let failed: Vec<&Value> =
            elements.iter().filter(|element| element["Error"].is_string()).map(|e| &e["externalId"]).collect();
        assert_eq!((status, failed), (206, vec![&json!("b.example")]));
        assert_eq!((world.defender.peak(TENANT), world.held_for_defender(TENANT)), (3, 3));
        // They end at their time.
        drop(answer(&mut world, &call("app", "GET", PATH, &Value::Null), at(600)));
        assert_eq!((world.held_for_defender(TENANT), world.stored_at_graph(TENANT).len()), (2, 1));
    }

    #[test]
    fn lists_are_paged_and_filtered() {
        let mut world = world();
        let items: Vec<Value> = (0..7).map(|i| host(SENTINEL, &format!("h{i}.example"))).collect();
        submit(&mut world, &items);
        let mut next = "?$top=3".to_owned();
        let mut sizes = Vec::new();
        loop {
            let (_, page) = ask(&mut world, "GET", &next, &Value::Null);
            sizes.push(page["value"].as_array().map_or(0, Vec::len));
            let Some(link) = page["@odata.nextLink"].as_str() else { break };
            next = link.strip_prefix(&format!("https://localhost{PATH}")).expect("the same place").to_owned();
        }
        assert_eq!(sizes, [3, 3, 1]);
        let count = |world: &mut World, filter: &str| {
            let (_, page) = ask(world, "GET", &format!("?$filter={filter}"), &Value::Null);
            page["value"].as_array().map(Vec::len)
        };
        assert_eq!(count(&mut world, "externalId+eq+'h1.example'+or+externalId+eq+'h2.example'"), Some(2));
        assert_eq!(count(&mut world, "domainName%20eq%20'h1.example'"), Some(1));
        for wrong in ["?$top=1001", "?$skip=501", "?$filter=a"] {
            assert_eq!(ask(&mut world, "GET", wrong, &Value::Null).0, 400, "{wrong}");
        }
        world.graph.list_needs_top = true;
        assert_eq!(ask(&mut world, "GET", "", &Value::Null).0, 500);
    }

    #[test]
    fn a_thousand_requests_a_minute_are_enough() {
        let mut world = world();
        world.graph.enforce_rate = true;
        for _ in 0..1_000 {
            assert_eq!(ask(&mut world, "GET", "/none", &Value::Null).0, 404);
        }
        let mut refused = |style| {
            world.graph.retry_after = style;
            let answer = answer(&mut world, &call("app", "GET", PATH, &Value::Null), at(30));
            assert_eq!(answer.status, 429);
            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!(
                (&body["error"]["code"], &body["error"]["innerError"]["status"]),
                (&"TooManyRequests".into(), &"429".into())
            );
            answer.headers.into_iter().find(|(name, _)| *name == "retry-after").map(|(_, value)| value)
        };
        assert_eq!(refused(RetryAfter::Seconds).as_deref(), Some("30"));
        assert_eq!(refused(RetryAfter::Fractional).as_deref(), Some("30.000"));
        assert_eq!(refused(RetryAfter::Absent), None);
    }
}
