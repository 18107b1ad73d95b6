//! Workflow cases of ThreatConnect with their artifacts and notes: `/v3/cases`, `/v3/artifacts`, `/v3/notes`.
//!
//! A second POST with one external id is a 409, as the reference holds likely. Not imitated: tasks, workflow templates, events,
//! attributes of cases, file artifacts, user access, TQL beyond equality joined by `and`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::indicator::time;
use crate::server::{Answer, Call};
use crate::threatconnect::{body, error, list, merge};
use crate::world::World;

/// All cases, of the API user's own organization.
#[derive(Debug, Default)]
pub struct Cases {
    pub cases: BTreeMap<u64, Case>,
    pub artifacts: BTreeMap<u64, Artifact>,
    pub notes: BTreeMap<u64, Note>,
    last: u64,
    /// The user may not write cases: 401 or 403.
    pub forbidden: Option<u16>,
    /// POSTs that were refused because their external id was there already.
    pub conflicts: u64,
}

/// One case.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub id: u64,
    pub xid: String,
    /// `name`, `status`, `severity`, `resolution`, `description`, times, …
    pub members: Map<String, Value>,
    pub tags: Vec<String>,
    /// Ids of indicators.
    pub indicators: Vec<u64>,
    pub added: Timestamp,
    pub updated: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    pub id: u64,
    pub case: u64,
    pub summary: String,
    pub type_name: String,
    pub source: Option<String>,
    pub derived_link: bool,
    pub added: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    pub id: u64,
    pub case: u64,
    pub text: String,
    pub added: Timestamp,
    pub modified: Timestamp,
}

const STATUSES: [&str; 2] = ["Open", "Closed"];
const SEVERITIES: [&str; 4] = ["Low", "Medium", "High", "Critical"];
const RESOLUTIONS: [&str; 8] = [
    "Containment Achieved",
    "Deferred / Delayed",
    "Escalated",
    "False Positive",
    "In Progress / Investigating",
    "Not Specified",
    "Rejected",
    "Restoration Achieved",
];
const TIMES: [&str; 4] = ["caseOpenTime", "caseCloseTime", "caseDetectionTime", "caseOccurrenceTime"];
/// Name and what it is among indicators, if anything.
const ARTIFACT_TYPES: [(&str, Option<&str>); 17] = [
    ("IP Address", Some("indicator-Address")),
    ("Email Address", Some("indicator-EmailAddress")),
    ("File Hash", Some("indicator-File")),
    ("Host", Some("indicator-Host")),
    ("URL", Some("indicator-URL")),
    ("ASN", Some("indicator-ASN")),
    ("CIDR", Some("indicator-CIDR")),
    ("Mutex", Some("indicator-Mutex")),
    ("Registry Key", Some("indicator-Registry Key")),
    ("User Agent", Some("indicator-User Agent")),
    ("Email Subject", Some("indicator-Email Subject")),
    ("Hashtag", Some("indicator-Hashtag")),
    ("SIEM ID", None),
    ("Ticket ID", None),
    ("Sentinel Incident ID", None),
    ("Process Name", None),
    ("Log File", None),
];

type Refusal = (u16, &'static str, String);

fn bad<T>(message: impl Into<String>) -> Result<T, Refusal> {
    Err((400, "0x1001", message.into()))
}

fn required<T>(name: &str) -> Result<T, Refusal> {
    Err((400, "0x2003", format!("Missing required field: {name}")))
}

/// Answers a call on cases, artifacts, notes or artifact types; none: the path is another one's.
pub(crate) fn answer(world: &mut World, call: &Call, path: &str, now: Timestamp) -> Option<Answer> {
    let rest = path.strip_prefix("/v3/")?;
    let (kind, id) = rest.split_once('/').unwrap_or((rest, ""));
    if !matches!(kind, "cases" | "artifacts" | "notes" | "artifactTypes") {
        return None;
    }
    if let (Some(status), false) = (world.cases.forbidden, call.method == "GET") {
        return Some(error(status, "0x1003", "You do not have permission"));
    }
    let answered = match (call.method.as_str(), kind, id) {
        ("GET", "artifactTypes", "") => Ok(types()),
        ("GET", kind, "") => rows(world, call, kind),
        ("GET", kind, id) => one(world, kind, id),
        ("POST", "cases", "") => body(call).and_then(|body| post_case(world, &body, now)),
        ("PUT", "cases", id) => body(call).and_then(|body| put_case(world, id, &body, now)),
        ("DELETE", "cases", id) => delete_case(world, id),
        ("POST", "artifacts", "") => body(call).and_then(|body| {
            let case = parent(world, &body)?;
            add_artifact(world, case, &body, now).and_then(|id| written(world, 201, "artifacts", id))
        }),
        ("PUT", "artifacts", id) => body(call).and_then(|body| put_artifact(world, id, &body)),
        ("POST", "notes", "") => body(call).and_then(|body| {
            let case = parent(world, &body)?;
            add_note(world, case, &body, now).and_then(|id| written(world, 201, "notes", id))
        }),
        ("PUT", "notes", id) => body(call).and_then(|body| put_note(world, id, &body, now)),
        _ => Err((405, "0x1005", "Method not allowed".to_owned())),
    };
    Some(answered.unwrap_or_else(|(status, code, message)| error(status, code, &message)))
}

fn missing<T>() -> Result<T, Refusal> {
    Err((404, "0x1004", "The requested resource was not found".to_owned()))
}

fn written(world: &World, status: u16, kind: &str, id: u64) -> Result<Answer, Refusal> {
    let Some(data) = shown(world, kind, id) else { return missing() };
    let message = if status == 201 { "Created" } else { "Updated" };
    Ok(Answer { items: 1, ..Answer::json(status, &json!({"data": data, "message": message, "status": "Success"})) })
}

fn one(world: &World, kind: &str, id: &str) -> Result<Answer, Refusal> {
    match id.parse().ok().and_then(|id| shown(world, kind, id)) {
        Some(data) => Ok(Answer::json(200, &json!({"data": data, "status": "Success"}))),
        None => missing(),
    }
}

fn types() -> Answer {
    let row = |(name, intel): &(&str, Option<&str>)| json!({"name": name, "dataType": "String", "intelType": intel});
    Answer::json(200, &json!({"data": ARTIFACT_TYPES.iter().map(row).collect::<Vec<_>>(), "status": "Success"}))
}

fn rows(world: &World, call: &Call, kind: &str) -> Result<Answer, Refusal> {
    let tql = call.query.iter().find(|(key, _)| key == "tql").map_or("", |(_, value)| value.as_str());
    let number = |name: &str, default: usize| {
        let given = call.query.iter().find(|(key, _)| key == name);
        given.map_or(Some(default), |(_, value)| value.parse().ok()).ok_or((400, "0x1001", format!("Invalid {name}")))
    };
    let (start, limit) = (number("resultStart", 0)?, number("resultLimit", 100)?);
    let wanted = conditions(tql)?;
    let ids: Vec<u64> = match kind {
        "cases" => world.cases.cases.keys().copied().collect(),
        "artifacts" => world.cases.artifacts.keys().copied().collect(),
        _ => world.cases.notes.keys().copied().collect(),
    };
    let fits = |row: &Value| {
        wanted.iter().all(|(field, value)| match &row[field.as_str()] {
            Value::String(text) => text == value,
            Value::Number(number) => value.parse() == Ok(number.as_u64().unwrap_or_default()),
            _ => false,
        })
    };
    let found: Vec<Value> =
        ids.into_iter().filter_map(|id| shown(world, kind, id)).filter(fits).skip(start).take(limit).collect();
    Ok(Answer { items: found.len(), ..Answer::json(200, &json!({"data": found, "status": "Success"})) })
}

/// `field = "value"`, joined by `and`.
fn conditions(tql: &str) -> Result<Vec<(String, String)>, Refusal> {
    const FIELDS: [&str; 9] = ["id", "xid", "name", "status", "severity", "caseId", "summary", "type", "typeName"];
    let syntax = || (400, "0x2001", format!("Invalid TQL: {tql}"));
    let mut found = Vec::new();
    let mut rest = tql.trim();
    while !rest.is_empty() {
        let (field, after) = rest.split_once('=').ok_or_else(syntax)?;
        let field = field.trim();
        let known = FIELDS.iter().find(|known| known.eq_ignore_ascii_case(field)).ok_or_else(syntax)?;
        let (value, after) = literal(after.trim_start()).ok_or_else(syntax)?;
        found.push((if *known == "typeName" { "type" } else { known }.to_owned(), value));
        rest = after.trim_start();
        if rest.is_empty() {
            break;
        }
        rest = rest.strip_prefix("and ").or(rest.strip_prefix("AND ")).ok_or_else(syntax)?;
    }
    Ok(found)
}

/// A quoted text or a whole number at the beginning, and what is behind it.
fn literal(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        text[..end].parse::<u64>().ok()?;
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut letters = quoted.char_indices();
    loop {
        match letters.next()? {
            (_, '\\') => value.push(letters.next()?.1),
            (at, '"') => return Some((value, &quoted[at + 1..])),
            (_, letter) => value.push(letter),
        }
    }
}

/// The case that an artifact or note belongs to.
fn parent(world: &World, body: &Map<String, Value>) -> Result<u64, Refusal> {
    let by_id = body.get("caseId").and_then(Value::as_u64);
    let external = body.get("caseXid").and_then(Value::as_str);
    if by_id.is_none() && external.is_none() {
        return required("caseId or caseXid");
    }
    let found = world.cases.cases.values().find(|case| Some(case.id) == by_id || Some(case.xid.as_str()) == external);
    found.map_or_else(missing, |case| Ok(case.id))
}

fn post_case(world: &mut World, body: &Map<String, Value>, now: Timestamp) -> Result<Answer, Refusal> {
    for name in ["name", "status", "severity"] {
        if body.get(name).is_none_or(Value::is_null) {
            return required(name);
        }
    }
    let xid = match body.get("xid") {
        None => format!("emulated-{}", world.cases.last + 1),
        Some(xid) => match xid.as_str().filter(|xid| (10..=100).contains(&xid.chars().count())) {
            Some(xid) => xid.to_owned(),
            None => return bad("xid must have 10 to 100 characters"),
        },
    };
    if world.cases.cases.values().any(|case| case.xid == xid) {
        world.cases.conflicts += 1;
        return Err((409, "0x1006", "An item already exists with the same unique information.".to_owned()));
    }
    world.cases.last += 1;
    let id = world.cases.last;
    let mut members = Map::new();
    members.insert("resolution".to_owned(), "Not Specified".into());
    members.insert("caseOpenTime".to_owned(), time(now).into());
    let mut case = Case { id, xid, members, tags: Vec::new(), indicators: Vec::new(), added: now, updated: now };
    apply(world, &mut case, body, true, now)?;
    world.cases.cases.insert(id, case);
    // All or nothing is not confirmed: what is nested is added one by one, after the case.
    nest(world, id, body, now)?;
    written(world, 201, "cases", id)
}

fn put_case(world: &mut World, id: &str, body: &Map<String, Value>, now: Timestamp) -> Result<Answer, Refusal> {
    let Some(mut case) = id.parse().ok().and_then(|id: u64| world.cases.cases.get(&id).cloned()) else { return missing() };
    if body.contains_key("xid") {
        return bad("xid cannot be updated");
    }
    apply(world, &mut case, body, false, now)?;
    let id = case.id;
    world.cases.cases.insert(id, case);
    nest(world, id, body, now)?;
    written(world, 200, "cases", id)
}

fn delete_case(world: &mut World, id: &str) -> Result<Answer, Refusal> {
    match id.parse::<u64>().ok().and_then(|id| world.cases.cases.remove(&id)) {
        Some(_) => Ok(Answer::json(200, &json!({"message": "Deleted", "status": "Success"}))),
        None => missing(),
    }
}

fn apply(world: &World, case: &mut Case, body: &Map<String, Value>, is_new: bool, now: Timestamp) -> Result<(), Refusal> {
    for (name, value) in body {
        let text = value.as_str();
        let one_of = |known: &[&str]| text.is_some_and(|text| known.contains(&text));
        let short = |least: usize, most: usize| text.is_some_and(|text| (least..=most).contains(&text.chars().count()));
        let good = match name.as_str() {
            "xid" if is_new => continue,
            "artifacts" | "notes" | "tags" | "associatedIndicators" => continue,
            "name" => short(1, 255),
            "status" => one_of(&STATUSES),
            "severity" => one_of(&SEVERITIES),
            "resolution" => one_of(&RESOLUTIONS),
            "description" => short(0, 1_500),
            "assignee" => value["type"].is_string(),
            name if TIMES.contains(&name) => text.is_some_and(|text| text.parse::<Timestamp>().is_ok()),
            _ => return bad(format!("Unknown or read-only field: {name}")),
        };
        if !good {
            return bad(format!("Invalid {name}"));
        }
        case.members.insert(name.clone(), value.clone());
    }
    if body.get("status") == Some(&"Closed".into()) && !case.members.contains_key("caseCloseTime") {
        case.members.insert("caseCloseTime".to_owned(), time(now).into());
    }
    if let Some((mode, rows)) = list(body, "tags")? {
        let names: Option<Vec<String>> = rows.iter().map(|row| row["name"].as_str().map(str::to_owned)).collect();
        let Some(names) = names.filter(|names| names.iter().all(|name| name.chars().count() <= 128)) else {
            return bad("A tag needs a name of at most 128 characters");
        };
        merge(&mut case.tags, names, mode);
    }
    if let Some((mode, rows)) = list(body, "associatedIndicators")? {
        let ids: Option<Vec<u64>> = rows.iter().map(|row| row["id"].as_u64()).collect();
        let Some(ids) = ids.filter(|ids| ids.iter().all(|id| world.indicator(*id).is_some())) else {
            return Err((400, "0x2002", "An associated indicator does not exist".to_owned()));
        };
        match mode {
            "replace" => case.indicators = ids,
            "delete" => case.indicators.retain(|id| !ids.contains(id)),
            _ => case.indicators.extend(ids),
        }
        case.indicators.sort_unstable();
        case.indicators.dedup();
    }
    case.updated = now;
    Ok(())
}

/// Artifacts and notes in a case are added anew each time.
fn nest(world: &mut World, case: u64, body: &Map<String, Value>, now: Timestamp) -> Result<(), Refusal> {
    for name in ["artifacts", "notes"] {
        let Some((_, rows)) = list(body, name)? else { continue };
        for row in rows {
            let Some(row) = row.as_object() else { return bad(format!("Invalid {name}")) };
            if name == "notes" {
                add_note(world, case, row, now)?
            } else {
                add_artifact(world, case, row, now)?
            };
        }
    }
    Ok(())
}

fn add_artifact(world: &mut World, case: u64, body: &Map<String, Value>, now: Timestamp) -> Result<u64, Refusal> {
    let text = |name: &str| body.get(name).and_then(Value::as_str);
    let Some(summary) = text("summary") else { return required("summary") };
    let Some(type_name) = text("type") else { return required("type") };
    if !(1..=500).contains(&summary.chars().count()) || text("source").is_some_and(|source| source.chars().count() > 100) {
        return bad("summary must have 1 to 500 characters, source at most 100");
    }
    if !ARTIFACT_TYPES.iter().any(|(known, _)| *known == type_name) {
        return bad(format!("Invalid artifact type: {type_name}"));
    }
    world.cases.last += 1;
    let artifact = Artifact {
        id: world.cases.last,
        case,
        summary: summary.to_owned(),
        type_name: type_name.to_owned(),
        source: text("source").map(str::to_owned),
        derived_link: body.get("derivedLink").and_then(Value::as_bool).unwrap_or(true),
        added: now,
    };
    let id = artifact.id;
    world.cases.artifacts.insert(id, artifact);
    Ok(id)
}

fn put_artifact(world: &mut World, id: &str, body: &Map<String, Value>) -> Result<Answer, Refusal> {
    let artifact = id.parse().ok().and_then(|id: u64| world.cases.artifacts.get_mut(&id));
    let Some(artifact) = artifact else { return missing() };
    for (name, value) in body {
        match (name.as_str(), value) {
            ("summary", Value::String(summary)) => artifact.summary.clone_from(summary),
            ("source", Value::String(source)) => artifact.source = Some(source.clone()),
            ("derivedLink", Value::Bool(link)) => artifact.derived_link = *link,
            _ => return bad(format!("Invalid {name}")),
        }
    }
    let id = artifact.id;
    written(world, 200, "artifacts", id)
}

fn add_note(world: &mut World, case: u64, body: &Map<String, Value>, now: Timestamp) -> Result<u64, Refusal> {
    let Some(text) = body.get("text").and_then(Value::as_str) else { return required("text") };
    if !(1..=65_500).contains(&text.chars().count()) {
        return bad("text must have 1 to 65500 characters");
    }
    world.cases.last += 1;
    let id = world.cases.last;
    world.cases.notes.insert(id, Note { id, case, text: text.to_owned(), added: now, modified: now });
    Ok(id)
}

fn put_note(world: &mut World, id: &str, body: &Map<String, Value>, now: Timestamp) -> Result<Answer, Refusal> {
    let note = id.parse().ok().and_then(|id: u64| world.cases.notes.get_mut(&id));
    let Some(note) = note else { return missing() };
    match (body.get("text").and_then(Value::as_str), body.len()) {
        (Some(text), 1) => (note.text, note.modified) = (text.to_owned(), now),
        _ => return bad("Only text can be updated"),
    }
    let id = note.id;
    written(world, 200, "notes", id)
}

fn shown(world: &World, kind: &str, id: u64) -> Option<Value> {
    let xid = |case: u64| world.cases.cases.get(&case).map(|case| case.xid.clone());
    match kind {
        "cases" => {
            let case = world.cases.cases.get(&id)?;
            let mut row = Value::Object(case.members.clone());
            row["id"] = case.id.into();
            row["xid"] = case.xid.clone().into();
            row["dateAdded"] = time(case.added).into();
            row["lastUpdated"] = time(case.updated).into();
            row["owner"] = world.owners.first().map_or("Acme Org", |owner| &owner.name).into();
            row["ownerId"] = 1.into();
            Some(row)
        }
        "artifacts" => {
            let artifact = world.cases.artifacts.get(&id)?;
            let intel = ARTIFACT_TYPES.iter().find(|(name, _)| *name == artifact.type_name).and_then(|(_, intel)| *intel);
            Some(json!({"id": id, "caseId": artifact.case, "caseXid": xid(artifact.case), "summary": artifact.summary,
                "type": artifact.type_name, "intelType": intel, "source": artifact.source, "dateAdded": time(artifact.added),
                "derivedLink": artifact.derived_link}))
        }
        "notes" => {
            let note = world.cases.notes.get(&id)?;
            let summary: String = note.text.chars().take(100).collect();
            Some(json!({"id": id, "caseId": note.case, "caseXid": xid(note.case), "text": note.text, "summary": summary,
                "author": "11112222333344445555", "dateAdded": time(note.added), "lastModified": time(note.modified),
                "edited": note.modified != note.added}))
        }
        _ => None,
    }
}
