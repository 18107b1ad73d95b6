//! The write side of `/v3/indicators`: POST, which makes or updates by owner, type and value, and PUT.
//!
//! Where section 16 of the reference says that nothing is confirmed, the harsher reading holds, or a field of
//! [`Writing`] chooses. Not imitated: types with several values (Registry Key, custom ones), merging and removing hashes, new
//! objects nested in associations, labels and tags as objects of their own.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::error;
use crate::indicator::Indicator;
use crate::server::{Answer, Call};
use crate::world::World;

/// How writes behave.
#[derive(Debug, Clone)]
pub struct Writing {
    /// A POST of what is there already answers 201 "Created", not 200 "Updated".
    pub update_is_created: bool,
    /// Values that an exclusion list refuses.
    pub excluded: Vec<String>,
    /// 400 or 403.
    pub excluded_status: u16,
    /// Security labels that exist.
    pub labels: Vec<String>,
    /// Attribute types that exist; none: all do.
    pub attribute_types: Option<Vec<String>>,
    /// What the user lacks a permission for answers this: 401 or 403.
    pub forbidden_status: u16,
    pub created: u64,
    pub updated: u64,
}

impl Default for Writing {
    fn default() -> Self {
        let labels = ["TLP:RED", "TLP:AMBER", "TLP:AMBER+STRICT", "TLP:GREEN", "TLP:CLEAR", "TLP:WHITE"];
        Self {
            update_is_created: false,
            excluded: Vec::new(),
            excluded_status: 400,
            labels: labels.map(str::to_owned).to_vec(),
            attribute_types: None,
            forbidden_status: 403,
            created: 0,
            updated: 0,
        }
    }
}

/// Types with the one member that holds their value.
const VALUES: [(&str, &str); 10] = [
    ("Address", "ip"),
    ("EmailAddress", "address"),
    ("Host", "hostName"),
    ("URL", "text"),
    ("ASN", "AS Number"),
    ("CIDR", "Block"),
    ("Email Subject", "Subject"),
    ("Hashtag", "Hashtag"),
    ("Mutex", "Mutex"),
    ("User Agent", "User Agent String"),
];
const HASHES: [(&str, usize); 3] = [("md5", 32), ("sha1", 40), ("sha256", 64)];
/// Members that any type takes.
const COMMON: [&str; 24] = [
    "type",
    "ownerId",
    "ownerName",
    "rating",
    "confidence",
    "active",
    "activeLocked",
    "privateFlag",
    "firstSeen",
    "lastSeen",
    "externalDateAdded",
    "externalDateExpires",
    "externalLastModified",
    "falsePositiveFlag",
    "observations",
    "tags",
    "attributes",
    "securityLabels",
    "associatedGroups",
    "associatedIndicators",
    "associatedCases",
    "associatedArtifacts",
    "dnsActive",
    "whoisActive",
];
const TAG: usize = 128;

/// Status, code, message.
type Refusal = (u16, &'static str, String);

fn bad<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err((400, "0x1001", message.into()))
}

/// Answers a POST or PUT of indicators.
pub(crate) fn answer(world: &mut World, call: &Call, id: Option<&str>, now: Timestamp) -> Answer {
    let written = body(call).and_then(|body| match id {
        None => post(world, call, &body, now),
        Some(id) => put(world, call, id, &body, now),
    });
    match written {
        Ok((status, message, id)) => {
            let fields: Vec<String> =
                call.query.iter().filter(|(key, _)| key == "fields").map(|(_, value)| value.clone()).collect();
            let row = world.indicators.get_mut(&id).map(|stored| stored.json(&fields));
            let row = row.as_deref().unwrap_or("null");
            let text = format!("{{\"data\":{row},\"message\":\"{message}\",\"status\":\"Success\"}}");
            Answer { items: 1, ..Answer::text(status, "application/json", text) }
        }
        Err((status, code, message)) => error(status, code, &message),
    }
}

pub(crate) fn body(call: &Call) -> Result<Map<String, Value>, Refusal> {
    if !call.header("content-type").is_some_and(|kind| kind.starts_with("application/json")) {
        return Err((400, "0x2005", "The content type must be application/json".to_owned()));
    }
    serde_json::from_slice(&call.body).map_err(|_| (400, "0x2005", "Invalid request body".to_owned()))
}

type Written = Result<(u16, &'static str, u64), Refusal>;

fn post(world: &mut World, call: &Call, body: &Map<String, Value>, now: Timestamp) -> Written {
    let Some(type_name) = body.get("type").and_then(Value::as_str) else { return required("type") };
    let named = call.query.iter().find(|(key, _)| key == "owner").map(|(_, value)| value.as_str());
    let owner = owner(world, named.or(body.get("ownerName").and_then(Value::as_str)))?;
    let fresh = identity(type_name, &owner, body, now)?;
    if world.writing.excluded.iter().any(|value| fresh.summary().contains(value.as_str())) {
        let text = format!("The indicator {} is contained in an exclusion list", fresh.summary());
        return Err((world.writing.excluded_status, "0x1001", text));
    }
    let same = |known: &Indicator| {
        let hashes = [(&known.md5, &fresh.md5), (&known.sha1, &fresh.sha1), (&known.sha256, &fresh.sha256)];
        let shares = hashes.into_iter().any(|(a, b)| a.is_some() && a == b);
        known.owner == owner
            && known.type_name == type_name
            && if type_name == "File" { shares } else { known.value == fresh.value }
    };
    let found = world.indicators().find(|known| same(known)).cloned();
    let mut changed = found.clone().unwrap_or(fresh);
    apply(world, &mut changed, body, now)?;
    if found.is_some() {
        let id = changed.id;
        world.touch(id, now, |indicator| *indicator = changed);
        world.writing.updated += 1;
        return Ok(if world.writing.update_is_created { (201, "Created", id) } else { (200, "Updated", id) });
    }
    world.writing.created += 1;
    Ok((201, "Created", world.add(changed)))
}

fn put(world: &mut World, call: &Call, id: &str, body: &Map<String, Value>, now: Timestamp) -> Written {
    let named = call.query.iter().find(|(key, _)| key == "owner").map(|(_, value)| value.as_str());
    let known = if let Ok(id) = id.parse::<u64>() {
        world.indicator(id).cloned()
    } else {
        let owner = owner(world, named)?;
        world.indicators().find(|known| known.owner == owner && known.summary() == id).cloned()
    };
    let Some(mut changed) = known else {
        return Err((404, "0x1004", "The requested resource was not found".to_owned()));
    };
    owner(world, Some(&changed.owner))?;
    if let Some((_, member)) = VALUES.iter().find(|(_, member)| body.contains_key(*member)) {
        return bad(format!("The field {member} cannot be updated"));
    }
    for (member, length) in HASHES {
        let Some(hash) = body.get(member) else { continue };
        let hash = hash.as_str().filter(|hash| hash.len() == length).map(str::to_owned);
        let Some(hash) = hash.filter(|_| changed.type_name == "File") else { return bad(format!("Invalid {member}")) };
        let held =
            |known: &Indicator| [&known.md5, &known.sha1, &known.sha256].into_iter().any(|known| known.as_ref() == Some(&hash));
        if world.indicators().any(|known| known.id != changed.id && known.owner == changed.owner && held(known)) {
            return bad(format!("Another File holds this {member}"));
        }
        *slot(&mut changed, member) = Some(hash);
    }
    apply(world, &mut changed, body, now)?;
    let id = changed.id;
    world.touch(id, now, |indicator| *indicator = changed);
    world.writing.updated += 1;
    Ok((200, "Updated", id))
}

fn required<T>(name: &str) -> Result<T, Refusal> {
    Err((400, "0x2003", format!("Missing required field: {name}")))
}

/// The owner to write to: the API user's own organization where none is named.
fn owner(world: &World, named: Option<&str>) -> Result<String, Refusal> {
    let known = match named {
        None => world.owners.first(),
        Some(name) => world.owners.iter().find(|owner| owner.name == name && owner.readable),
    };
    let Some(known) = known else {
        return Err((403, "0x1003", format!("The owner {} does not exist or cannot be seen", named.unwrap_or_default())));
    };
    if known.writable {
        return Ok(known.name.clone());
    }
    Err((world.writing.forbidden_status, "0x1003", format!("You do not have permission to write to {}", known.name)))
}

fn slot<'i>(indicator: &'i mut Indicator, hash: &str) -> &'i mut Option<String> {
    match hash {
        "md5" => &mut indicator.md5,
        "sha1" => &mut indicator.sha1,
        _ => &mut indicator.sha256,
    }
}

/// Type and value, checked.
fn identity(type_name: &str, owner: &str, body: &Map<String, Value>, now: Timestamp) -> Result<Indicator, Refusal> {
    if type_name == "File" {
        let mut file = Indicator::new(owner, type_name, "", now);
        (file.md5, file.sha1, file.sha256) = (None, None, None);
        for (member, length) in HASHES {
            let Some(hash) = body.get(member) else { continue };
            match hash.as_str().filter(|hash| hash.len() == length && hash.bytes().all(|byte| byte.is_ascii_hexdigit())) {
                Some(hash) => *slot(&mut file, member) = Some(hash.to_owned()),
                None => return bad(format!("Invalid {member}")),
            }
        }
        file.value = file.summary();
        return if file.value.is_empty() { required("md5, sha1 or sha256") } else { Ok(file) };
    }
    let Some((_, member)) = VALUES.iter().find(|(name, _)| *name == type_name) else {
        return bad(format!("Invalid indicator type: {type_name}"));
    };
    let Some(value) = body.get(*member).and_then(Value::as_str).filter(|value| !value.is_empty()) else {
        return required(member);
    };
    let good = match type_name {
        "Address" => value.parse::<IpAddr>().is_ok(),
        "EmailAddress" => value.contains('@'),
        "Host" => value.is_ascii() && !value.contains(['/', ' ', ':']),
        "URL" => {
            let host = value.split_once("://").map(|(_, rest)| rest.split(['/', '?']).next().unwrap_or_default());
            host.is_some_and(|host| !host.is_empty() && host.is_ascii() && *host == host.to_lowercase())
        }
        "ASN" => value.strip_prefix("ASN").is_some_and(|number| number.parse::<u32>().is_ok()),
        "CIDR" => {
            let parsed =
                value.split_once('/').and_then(|(ip, bits)| Some((ip.parse::<IpAddr>().ok()?, bits.parse::<u8>().ok()?)));
            parsed.is_some_and(|(ip, bits)| bits <= if ip.is_ipv4() { 32 } else { 128 })
        }
        _ => true,
    };
    if good { Ok(Indicator::new(owner, type_name, value, now)) } else { bad(format!("Invalid value for {type_name}: {value}")) }
}

/// Everything but the value.
fn apply(world: &World, indicator: &mut Indicator, body: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
    let known = |name: &str| {
        COMMON.contains(&name)
            || VALUES.iter().any(|(_, member)| *member == name)
            || HASHES.iter().any(|(member, _)| *member == name)
            || matches!(name, "size" | "mode" | "fileActions" | "fileOccurrences")
    };
    if let Some(other) = body.keys().find(|name| !known(name)) {
        return bad(format!("Unknown or read-only field: {other}"));
    }
    if let Some(rating) = body.get("rating") {
        match rating.as_f64().filter(|rating| (0.0..=5.0).contains(rating)) {
            Some(rating) => indicator.rating = Some(rating),
            None => return bad("rating must be between 0 and 5"),
        }
    }
    if let Some(confidence) = body.get("confidence") {
        match confidence.as_u64().filter(|confidence| *confidence <= 100).and_then(|confidence| u8::try_from(confidence).ok()) {
            Some(confidence) => indicator.confidence = Some(confidence),
            None => return bad("confidence must be between 0 and 100"),
        }
    }
    if let Some(active) = body.get("active") {
        indicator.active = active.as_bool().map_or_else(|| bad("active must be a boolean"), Ok)?;
    }
    for name in ["firstSeen", "lastSeen", "externalDateAdded", "externalDateExpires", "externalLastModified"] {
        if let Some(given) = body.get(name) {
            let Some(at) = given.as_str().and_then(|text| text.parse::<Timestamp>().ok()) else {
                return bad(format!("Invalid {name}"));
            };
            if name == "lastSeen" {
                indicator.last_seen = Some(at);
            }
        }
    }
    if body.get("falsePositiveFlag") == Some(&Value::Bool(true)) {
        indicator.false_positives = Some(indicator.false_positives.unwrap_or(0) + 1);
    }
    nested(world, indicator, body)?;
    indicator.last_modified = now;
    Ok(())
}

fn nested(world: &World, indicator: &mut Indicator, body: &Map<String, Value>) -> Result<(), Refusal> {
    let names = |row: &Value| row["name"].as_str().or(row["techniqueId"].as_str()).map(str::to_owned);
    if let Some((mode, rows)) = list(body, "tags")? {
        let tags: Option<Vec<String>> = rows.iter().map(names).collect();
        let Some(tags) = tags.filter(|tags| tags.iter().all(|tag| tag.chars().count() <= TAG)) else {
            return bad("A tag needs a name of at most 128 characters");
        };
        merge(&mut indicator.tags, tags, mode);
    }
    if let Some((mode, rows)) = list(body, "securityLabels")? {
        let labels: Option<Vec<String>> = rows.iter().map(names).collect();
        let Some(labels) = labels else { return bad("A security label needs a name") };
        if let Some(unknown) = labels.iter().find(|label| !world.writing.labels.contains(label)) {
            return bad(format!("The security label {unknown} does not exist"));
        }
        merge(&mut indicator.labels, labels, mode);
    }
    if let Some((mode, rows)) = list(body, "attributes")? {
        let mut attributes = Vec::new();
        for row in rows {
            let (Some(name), Some(value)) = (row["type"].as_str(), row["value"].as_str()) else {
                return required("attribute type and value");
            };
            if world.writing.attribute_types.as_ref().is_some_and(|types| !types.iter().any(|known| known == name)) {
                return bad(format!("The attribute type {name} does not exist"));
            }
            attributes.push((name.to_owned(), value.to_owned()));
        }
        // Several of one type may stand side by side, equal ones too.
        match mode {
            "replace" => indicator.attributes = attributes,
            "delete" => return bad("An attribute is deleted by its id"),
            _ => indicator.attributes.extend(attributes),
        }
    }
    Ok(())
}

/// A nested list and its mode, which is `append` where none is given.
pub(crate) fn list<'b>(body: &'b Map<String, Value>, name: &str) -> Result<Option<(&'b str, &'b Vec<Value>)>, Refusal> {
    let Some(nested) = body.get(name) else { return Ok(None) };
    let mode = nested.get("mode").and_then(Value::as_str).unwrap_or("append");
    match nested.get("data").and_then(Value::as_array) {
        Some(rows) if matches!(mode, "append" | "replace" | "delete") && rows.len() <= 1_000 => Ok(Some((mode, rows))),
        _ => bad(format!("{name} must hold `data`, and `mode` append, replace or delete")),
    }
}

pub(crate) fn merge(known: &mut Vec<String>, given: Vec<String>, mode: &str) {
    match mode {
        "replace" => *known = given,
        "delete" => known.retain(|name| !given.contains(name)),
        _ => known.extend(given),
    }
    let mut seen = std::collections::HashSet::new();
    known.retain(|name| seen.insert(name.clone()));
}
