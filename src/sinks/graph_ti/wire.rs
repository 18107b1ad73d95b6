//! Bodies of the tiIndicator calls: how a batch is written, and what an answer says of its items. Pure.

use std::collections::{BTreeMap, HashMap};

use percent_encoding::utf8_percent_encode;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Url;

use super::mapping::{holders, is_editable, target, written};
use crate::indicator::Observable;
use crate::platform::http::{ENCODED, one_line, path_below};
use crate::sinks::{TargetProduct, body_of};

pub(super) const COLLECTION: &str = "/beta/security/tiIndicators";

/// `{"value":[…]}`.
pub(super) fn collection<'a>(items: impl Iterator<Item = &'a [u8]> + Clone) -> Vec<u8> {
    body_of(b"{\"value\":[", items)
}

/// `{"value":["id",…]}`.
pub(super) fn ids(ids: &[&str]) -> Vec<u8> {
    let quoted: Vec<String> = ids.iter().map(|id| Value::from(*id).to_string()).collect();
    collection(quoted.iter().map(String::as_bytes))
}

/// What an update may say: what it can change, what it must hold, and the id where the address does not name the object.
pub(super) fn update(id: Option<&str>, payload: &[u8], product: TargetProduct) -> Vec<u8> {
    let properties: BTreeMap<&str, &RawValue> = serde_json::from_slice(payload).expect("a payload that we wrote is an object");
    let kept = properties.into_iter().filter(|(name, _)| *name == "targetProduct" || is_editable(product, name));
    let quoted = id.map(|id| Value::from(id).to_string());
    let named = quoted.iter().map(|id| format!("\"id\":{id}"));
    let members: Vec<String> = named.chain(kept.map(|(name, value)| format!("\"{name}\":{}", value.get()))).collect();
    format!("{{{}}}", members.join(",")).into_bytes()
}

/// The address of one object.
pub(super) fn object_path(id: &str) -> String {
    format!("{COLLECTION}/{}", utf8_percent_encode(id, ENCODED))
}

/// The address that lists the objects with these external ids; a list without `$top` is not always answered.
pub(super) fn lookup_path(external_ids: &[&str]) -> String {
    let terms: Vec<String> = external_ids.iter().map(|id| format!("externalId eq '{}'", id.replace('\'', "''"))).collect();
    format!("{COLLECTION}?$top=100&$filter={}", utf8_percent_encode(&terms.join(" or "), ENCODED))
}

/// Path and query of a further page; the service writes whole addresses.
pub(super) fn next_path(base: &Url, link: &str) -> Option<String> {
    path_below(base, &Url::parse(link).ok()?)
}

/// What an answer says of one item.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line {
    Accepted(String),
    Refused {
        reason: String,
        correlation: Option<String>,
        /// There is no object with that id.
        not_there: bool,
    },
    /// Nothing that can be used, and why.
    Open(&'static str),
}

/// An item that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub external_id: &'a str,
    /// Where the object is known already.
    pub id: Option<&'a str>,
}

/// The entries of an answer; none where there is no collection or an empty one, as an API that is gone may answer.
pub(super) fn entries(body: &[u8]) -> Option<Vec<Value>> {
    let mut answer = serde_json::from_slice::<Value>(body).ok()?;
    match answer.get_mut("value").map(Value::take) {
        Some(Value::Array(entries)) if !entries.is_empty() => Some(entries),
        _ => None,
    }
}

/// One line for each item asked for: the order of entries is not documented, so they are told apart by id and external id.
pub(super) fn lines(entries: &[Value], asked: &[Asked<'_>]) -> Vec<Line> {
    let by_id: HashMap<&str, usize> = asked.iter().enumerate().filter_map(|(i, item)| Some((item.id?, i))).collect();
    let by_external_id: HashMap<&str, usize> = asked.iter().enumerate().map(|(i, item)| (item.external_id, i)).collect();
    let mut entries_of: Vec<Vec<&Value>> = vec![Vec::new(); asked.len()];
    let mut nameless = Vec::new();
    for entry in entries {
        let id = entry["id"].as_str().and_then(|id| by_id.get(id));
        let external_id = entry["externalId"].as_str();
        match id.or_else(|| by_external_id.get(external_id?)) {
            Some(i) => entries_of[*i].push(entry),
            None if external_id.is_none() => nameless.push(entry),
            None => {}
        }
    }
    // What is left over on either side belongs together if it is one.
    if let [entry] = nameless[..] {
        let mut without = entries_of.iter_mut().filter(|entries| entries.is_empty());
        if let (Some(only), None) = (without.next(), without.next()) {
            only.push(entry);
        }
    }
    let line = |(entries, asked): (Vec<&Value>, &Asked<'_>)| match entries[..] {
        [] => Line::Open("Microsoft Graph's answer does not name it"),
        [entry] => line(entry, asked),
        _ => Line::Open("Microsoft Graph's answer names it twice"),
    };
    entries_of.into_iter().zip(asked).map(line).collect()
}

fn line(entry: &Value, asked: &Asked<'_>) -> Line {
    if let Some(error) = ItemError::of(&entry["Error"]) {
        return Line::Refused { reason: error.reason(), not_there: error.says_not_found(), correlation: error.target };
    }
    match (&entry["id"], asked.id) {
        // An update need not repeat it.
        (Value::Null, Some(id)) => Line::Accepted(id.to_owned()),
        (Value::String(id), _) if is_id(id) => Line::Accepted(id.clone()),
        // A failed entry holds a sentence there.
        _ => Line::Open("Microsoft Graph's answer holds no id for it"),
    }
}

fn is_id(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_whitespace)
}

/// The `Error` of an entry: a JSON document inside a string.
struct ItemError {
    code: Option<String>,
    message: Option<String>,
    /// A GUID that support can look up.
    target: Option<String>,
}

impl ItemError {
    fn of(value: &Value) -> Option<Self> {
        let document = match value {
            Value::Null => return None,
            Value::String(text) if text.trim().is_empty() => return None,
            Value::String(text) => serde_json::from_str(text).unwrap_or_else(|_| value.clone()),
            other => other.clone(),
        };
        let error = document.get("error").unwrap_or(&document);
        let part = |name: &str| match error.get(name)? {
            Value::String(text) if !text.trim().is_empty() => Some(one_line(text)),
            Value::Number(number) => Some(number.to_string()),
            _ => None,
        };
        let message = part("message").or_else(|| error.as_str().map(one_line));
        Some(Self { code: part("code"), message, target: part("target") })
    }

    /// By the code alone: messages are for people.
    fn says_not_found(&self) -> bool {
        self.code.as_deref().is_some_and(|code| code == "404" || code.to_ascii_lowercase().ends_with("notfound"))
    }

    fn reason(&self) -> String {
        match (&self.code, &self.message) {
            (Some(code), Some(message)) => format!("{message} ({code})"),
            (Some(only), None) | (None, Some(only)) => only.clone(),
            (None, None) => "refused without a message".to_owned(),
        }
    }
}

/// True if the answer to a bulk deletion of `count` objects says of each that it is gone.
pub(super) fn all_deleted(body: &[u8], count: usize) -> bool {
    entries(body).is_some_and(|results| results.len() == count && results.iter().all(is_success))
}

/// A `resultInfo`: the schema says numbers and `subcode`, samples have texts and `subCode`; success is 0 or an HTTP status.
fn is_success(result: &Value) -> bool {
    let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.trim().parse().ok());
    let good = |code: i64| code == 0 || (200..300).contains(&code);
    let below = ["subcode", "subCode"].iter().filter_map(|name| number(&result[*name]));
    number(&result["code"]).is_some_and(good) && below.into_iter().all(good)
}

/// An object that a lookup found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entity {
    pub id: String,
    pub external_id: String,
    properties: Map<String, Value>,
}

/// An answer to a call about one object that is a list: it did not come from there.
pub(super) fn is_list(body: &[u8]) -> bool {
    serde_json::from_slice::<Value>(body).is_ok_and(|answer| answer["value"].is_array())
}

/// A page of a list, and the link to the next one; none if it is no list.
pub(super) fn page(body: &[u8]) -> Option<(Vec<Entity>, Option<String>)> {
    let mut answer = serde_json::from_slice::<Value>(body).ok()?;
    let Some(Value::Array(entries)) = answer.get_mut("value").map(Value::take) else { return None };
    let next = answer["@odata.nextLink"].as_str().map(str::to_owned);
    Some((entries.into_iter().filter_map(Entity::read).collect(), next))
}

impl Entity {
    fn read(entry: Value) -> Option<Self> {
        let Value::Object(properties) = entry else { return None };
        let text = |name: &str| properties.get(name).and_then(Value::as_str).map(str::to_owned);
        Some(Self { id: text("id").filter(|id| is_id(id))?, external_id: text("externalId")?, properties })
    }

    /// It stands for this observable at this product: an external id may have been another observable's.
    pub(super) fn stands_for(&self, observable: &Observable, product: TargetProduct) -> bool {
        let text = |name: &str| self.properties.get(name).and_then(Value::as_str);
        let same = |text: &str| Observable::parse(observable.kind(), text).is_ok_and(|found| found == *observable);
        text("targetProduct").is_some_and(|name| name.eq_ignore_ascii_case(target(product)))
            && holders(observable.kind()).iter().any(|name| text(name).is_some_and(same))
    }

    /// An update can make it what the payload says: all that no update changes is the same, and nothing has to be cleared.
    ///
    /// What the service may have added by itself counts as another: then it is replaced.
    pub(super) fn can_become(&self, payload: &[u8], product: TargetProduct) -> bool {
        let Ok(wanted) = serde_json::from_slice::<Map<String, Value>>(payload) else { return false };
        written().all(|name| {
            let there = self.properties.get(name).filter(|value| !is_nothing(value));
            match (there, wanted.get(name)) {
                (None, None) => true,
                (Some(there), None) => name == "severity" && there.as_u64() == Some(DEFAULT_SEVERITY),
                (Some(there), Some(wanted)) => is_editable(product, name) || is_same(name, there, wanted),
                _ => false,
            }
        })
    }
}

/// What the service takes where nobody gave one (vendor page "tiIndicator resource type").
const DEFAULT_SEVERITY: u64 = 3;

/// What the service shows for a property that nobody set.
fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        _ => false,
    }
}

/// Times are written in several ways, and enumerations in another case.
fn is_same(name: &str, there: &Value, wanted: &Value) -> bool {
    const ENUMERATIONS: [&str; 5] = ["action", "fileHashType", "targetProduct", "threatType", "tlpLevel"];
    let (Some(there), Some(wanted)) = (there.as_str(), wanted.as_str()) else { return there == wanted };
    let time = |text: &str| text.parse::<jiff::Timestamp>().ok();
    there == wanted
        || (ENUMERATIONS.contains(&name) && there.eq_ignore_ascii_case(wanted))
        || time(there).is_some_and(|at| Some(at) == time(wanted))
}
