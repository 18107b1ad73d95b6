//! What is written: indicators, and cases with their artifacts and notes. Each call may be repeated and has the same effect.
//!
//! The vendor's JSON of these calls is here and nowhere else. A list in a body always says its `mode`: pages and program of the
//! vendor disagree about what is meant where none is given.

use std::collections::HashSet;
use std::time::Duration;

use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{Client, Error, filter};
use crate::platform::http::{Bounds, ENCODED, Reply, Request, excerpt};

/// Rows of a case that are looked through for what is there: as many as a case may have.
const ROWS: u32 = 1_000;
/// Characters of an artifact's summary.
const SUMMARY: usize = 500;
/// Characters of a note.
const NOTE: usize = 65_500;

const UNSEEN: &str = "failed to write a case to ThreatConnect: its external id is taken by a case that no search finds; if that stays so, check the permissions of the API user";

/// An indicator as it is to be. Members that are none or empty are left as they are.
#[derive(Debug, Clone, Copy, Default)]
pub struct IndicatorWrite<'a> {
    /// Blank: the API user's own organization.
    pub owner: &'a str,
    /// As ThreatConnect writes it.
    pub kind: &'a str,
    pub value: &'a str,
    pub rating: Option<u8>,
    pub confidence: Option<u8>,
    pub tags: &'a [String],
    /// Type and value.
    pub attributes: &'a [(String, String)],
    /// The name of an existing one.
    pub label: Option<&'a str>,
}

/// A case as it is to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct CaseWrite<'a> {
    /// 10 to 100 characters.
    pub xid: &'a str,
    pub name: &'a str,
    /// Of a new case.
    pub status: &'a str,
    pub severity: &'a str,
    pub description: Option<&'a str>,
    pub tags: &'a [String],
    /// Type and summary.
    pub artifacts: &'a [(String, String)],
    pub notes: &'a [String],
    /// Stands in each note, so that it is known again: notes have no id of ours.
    pub mark: &'a str,
    /// A case that is there knows better: only what can be added to it is added.
    pub outdated: bool,
}

/// What came of a call that may meet what is there already.
enum Made {
    There(u64),
    Taken,
}

impl Client {
    /// Creates the indicator, or updates the owner's.
    ///
    /// # Errors
    /// [`Error`]; for good where the value or the permission is at fault, also for a value on an exclusion list.
    pub async fn put_indicator(&self, indicator: &IndicatorWrite<'_>, timeout: Duration) -> Result<(), Error> {
        let body = indicator.body().map_err(Error::for_good)?;
        let query = match indicator.owner {
            "" => String::new(),
            owner => format!("?owner={}", utf8_percent_encode(owner, ENCODED)),
        };
        let path = format!("/v3/indicators{query}");
        let reply = self.write("write an indicator", Method::POST, path, &body, timeout).await?;
        if reply.status == 409 {
            return Err(Error { transient: true, ..refused("write an indicator", &reply) });
        }
        succeeded("write an indicator", &reply).map(drop)
    }

    /// Creates the case, or updates the one with its external id, unless that knows better; then adds artifacts and notes that it has not. `go_on` is asked
    /// before each call.
    ///
    /// # Errors
    /// [`Error`]; what was written until then stays, and a repetition goes on from there.
    pub async fn put_case(
        &self,
        case: &CaseWrite<'_>,
        timeout: Duration,
        go_on: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<(), Error> {
        let may_go_on = || {
            let later =
                || Error { transient: true, ..Error::for_good("writing a case takes longer than one turn; it goes on later") };
            if go_on() { Ok(()) } else { Err(later()) }
        };
        may_go_on()?;
        let id = match self.find_case(case.xid, timeout).await? {
            Some(id) => self.update_case(id, case, timeout).await?,
            None => match self.make_case(case, timeout).await? {
                Made::There(id) => id,
                Made::Taken => {
                    // A search that lags looks as one that may not see it: the next try searches again.
                    let unseen = || Error { transient: true, ..Error::for_good(UNSEEN) };
                    let id = self.find_case(case.xid, timeout).await?.ok_or_else(unseen)?;
                    self.update_case(id, case, timeout).await?
                }
            },
        };
        self.add_artifacts(id, case, timeout, &may_go_on).await?;
        self.add_notes(id, case, timeout, &may_go_on).await
    }

    async fn find_case(&self, xid: &str, timeout: Duration) -> Result<Option<u64>, Error> {
        let rows = self.rows_of("find a case", "cases", &format!("xid = {}", filter::quote(xid)), timeout).await?;
        let same = |row: &&Value| row.get("xid").and_then(Value::as_str).is_none_or(|known| known == xid);
        Ok(rows.iter().filter(same).find_map(id_of))
    }

    async fn make_case(&self, case: &CaseWrite<'_>, timeout: Duration) -> Result<Made, Error> {
        let mut body = case.body();
        body["xid"] = json!(case.xid);
        body["status"] = json!(case.status);
        let reply = self.write("write a case", Method::POST, "/v3/cases".to_owned(), &body, timeout).await?;
        let names_xid = excerpt(&reply.body).is_some_and(|said| said.to_ascii_lowercase().contains("xid"));
        if reply.status == 409 || reply.status == 400 && names_xid {
            return Ok(Made::Taken);
        }
        Ok(Made::There(succeeded("write a case", &reply)?.ok_or_else(|| no_id("write a case"))?))
    }

    async fn update_case(&self, id: u64, case: &CaseWrite<'_>, timeout: Duration) -> Result<u64, Error> {
        if case.outdated {
            return Ok(id);
        }
        let reply = self.write("write a case", Method::PUT, format!("/v3/cases/{id}"), &case.body(), timeout).await?;
        if reply.status == 404 {
            // Deleted since it was found: the next try makes it.
            return Err(Error { transient: true, ..refused("write a case", &reply) });
        }
        succeeded("write a case", &reply).map(|_| id)
    }

    async fn add_artifacts(
        &self,
        id: u64,
        case: &CaseWrite<'_>,
        timeout: Duration,
        may_go_on: &(dyn Fn() -> Result<(), Error> + Send + Sync),
    ) -> Result<(), Error> {
        if case.artifacts.is_empty() {
            return Ok(());
        }
        may_go_on()?;
        let rows = self.rows_of("read the artifacts of a case", "artifacts", &format!("caseId = {id}"), timeout).await?;
        let text = |row: &Value, name: &str| row.get(name).and_then(Value::as_str).unwrap_or_default().to_lowercase();
        let mut there: HashSet<(String, String)> = rows.iter().map(|row| (text(row, "type"), text(row, "summary"))).collect();
        for (kind, summary) in case.artifacts {
            let summary: String = summary.chars().take(SUMMARY).collect();
            if !there.insert((kind.to_lowercase(), summary.to_lowercase())) {
                continue;
            }
            may_go_on()?;
            let body = json!({"caseId": id, "type": kind, "summary": summary});
            let reply = self.write("add an artifact", Method::POST, "/v3/artifacts".to_owned(), &body, timeout).await?;
            if reply.status != 409 {
                succeeded("add an artifact", &reply)?;
            }
        }
        Ok(())
    }

    async fn add_notes(
        &self,
        id: u64,
        case: &CaseWrite<'_>,
        timeout: Duration,
        may_go_on: &(dyn Fn() -> Result<(), Error> + Send + Sync),
    ) -> Result<(), Error> {
        if case.notes.is_empty() {
            return Ok(());
        }
        may_go_on()?;
        let rows = self.rows_of("read the notes of a case", "notes", &format!("caseId = {id}"), timeout).await?;
        for (number, note) in case.notes.iter().enumerate() {
            let mark = format!("[{}.{number}]", case.mark.get(..16).unwrap_or(case.mark));
            let is_there = |row: &Value| row.get("text").and_then(Value::as_str).is_some_and(|text| text.contains(&mark));
            if rows.iter().any(is_there) {
                continue;
            }
            may_go_on()?;
            let text: String = note.chars().take(NOTE - mark.len() - 1).collect();
            let body = json!({"caseId": id, "text": format!("{text}\n{mark}")});
            let reply = self.write("add a note", Method::POST, "/v3/notes".to_owned(), &body, timeout).await?;
            succeeded("add a note", &reply)?;
        }
        Ok(())
    }

    async fn rows_of(&self, operation: &'static str, what: &str, tql: &str, timeout: Duration) -> Result<Vec<Value>, Error> {
        let path = format!("/v3/{what}?resultLimit={ROWS}&tql={}", utf8_percent_encode(tql, ENCODED));
        let request = Request { operation, method: Method::GET, path, body: None, idempotent: true };
        let reply = self.once(request, timeout).await?;
        match answer(operation, &reply)?.get_mut("data").map(Value::take) {
            Some(Value::Array(rows)) => Ok(rows),
            _ => Err(Error { transient: true, ..Error::for_good(format!("failed to {operation}: the answer holds no list")) }),
        }
    }

    async fn write(
        &self,
        operation: &'static str,
        method: Method,
        path: String,
        body: &Value,
        timeout: Duration,
    ) -> Result<Reply, Error> {
        let body = Some(body.to_string().into());
        self.once(Request { operation, method, path, body, idempotent: true }, timeout).await
    }

    /// One attempt: who asks tries again later, and a wait that is asked for is handed on.
    async fn once(&self, request: Request, timeout: Duration) -> Result<Reply, Error> {
        let bounds = Bounds { attempts: 1, total: Duration::ZERO, attempt: timeout, ..Bounds::default() };
        self.http.clone().bounded(bounds).send(request).await.map_err(|failure| Error {
            message: failure.to_string(),
            transient: failure.transient,
            retry_after: failure.retry_after,
        })
    }
}

impl IndicatorWrite<'_> {
    fn body(&self) -> Result<Value, String> {
        let member = match (self.kind, self.value.len()) {
            ("Address", _) => "ip",
            ("EmailAddress", _) => "address",
            ("File", 32) => "md5",
            ("File", 40) => "sha1",
            ("File", 64) => "sha256",
            ("Host", _) => "hostName",
            ("URL", _) => "text",
            ("ASN", _) => "AS Number",
            ("CIDR", _) => "Block",
            ("Email Subject", _) => "Subject",
            ("Hashtag", _) => "Hashtag",
            ("Mutex", _) => "Mutex",
            ("User Agent", _) => "User Agent String",
            ("File", _) => return Err("a File is written by its MD5, SHA-1 or SHA-256; the value is none of them".to_owned()),
            (other, _) => return Err(format!("indicators of type `{other}` cannot be written; change the type in the playbook")),
        };
        let mut body = Map::new();
        body.insert("type".to_owned(), json!(self.kind));
        body.insert(member.to_owned(), json!(self.value));
        // What is reported again is active again.
        body.insert("active".to_owned(), json!(true));
        if let Some(rating) = self.rating {
            body.insert("rating".to_owned(), json!(rating));
        }
        if let Some(confidence) = self.confidence {
            body.insert("confidence".to_owned(), json!(confidence));
        }
        if !self.tags.is_empty() {
            body.insert("tags".to_owned(), appended(self.tags.iter().map(|name| json!({ "name": name }))));
        }
        if let Some(label) = self.label {
            body.insert("securityLabels".to_owned(), appended([json!({ "name": label })]));
        }
        if !self.attributes.is_empty() {
            let attributes = self.attributes.iter().map(|(kind, value)| {
                let mut attribute = json!({ "type": kind, "value": value });
                if matches!(kind.as_str(), "Description" | "Source") {
                    attribute["default"] = json!(true);
                }
                attribute
            });
            body.insert("attributes".to_owned(), appended(attributes));
        }
        Ok(Value::Object(body))
    }
}

impl CaseWrite<'_> {
    /// What a new case and a known one have in common: a case that somebody closed stays closed.
    fn body(&self) -> Value {
        let mut body = json!({"name": self.name, "severity": self.severity});
        if let Some(description) = self.description {
            body["description"] = json!(description);
        }
        if !self.tags.is_empty() {
            body["tags"] = appended(self.tags.iter().map(|name| json!({ "name": name })));
        }
        body
    }
}

fn appended(entries: impl IntoIterator<Item = Value>) -> Value {
    json!({"data": entries.into_iter().collect::<Vec<_>>(), "mode": "append"})
}

fn id_of(row: &Value) -> Option<u64> {
    row.get("id").and_then(|id| id.as_u64().or_else(|| id.as_str()?.parse().ok()))
}

/// The id of what was written.
fn succeeded(operation: &str, reply: &Reply) -> Result<Option<u64>, Error> {
    Ok(answer(operation, reply)?.get("data").and_then(id_of))
}

/// A body whose `status` is `Success`.
fn answer(operation: &str, reply: &Reply) -> Result<Value, Error> {
    if !(200..300).contains(&reply.status) {
        return Err(refused(operation, reply));
    }
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let success = body.get("status").and_then(Value::as_str).is_none_or(|status| status.eq_ignore_ascii_case("success"));
    if success && body.is_object() { Ok(body) } else { Err(refused(operation, reply)) }
}

/// What a refusal means: the other side's text, and what to change.
fn refused(operation: &str, reply: &Reply) -> Error {
    let said = excerpt(&reply.body).unwrap_or_else(|| format!("status {}", reply.status));
    let advice = match reply.status {
        _ if said.to_ascii_lowercase().contains("exclusion list") => {
            "the value is on an exclusion list of the owner; take it off, or leave it out"
        }
        401 | 403 => "the API user may not write this; check its role in the owner, and the owner's name",
        404 => "there is no such thing at ThreatConnect",
        300..=399 => "THREATCONNECT_URL leads elsewhere; name the address that it leads to",
        200..=299 => "the answer does not say that it was done",
        _ => "ThreatConnect refused it",
    };
    Error::for_good(format!("failed to {operation} to ThreatConnect: {advice} ({said})"))
}

fn no_id(operation: &str) -> Error {
    Error { transient: true, ..Error::for_good(format!("failed to {operation}: the answer of ThreatConnect holds no id")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_indicator_is_written_as_the_vendor_shows_it() {
        let tags = ["Graph".to_owned()];
        let attributes = [("Description".to_owned(), "From alert 7f3a.".to_owned())];
        let write = IndicatorWrite {
            owner: "Acme Source",
            kind: "Address",
            value: "203.0.113.10",
            rating: Some(4),
            confidence: Some(85),
            tags: &tags,
            attributes: &attributes,
            label: Some("TLP:AMBER"),
        };
        assert_eq!(
            write.body().expect("a body"),
            json!({
                "type": "Address", "ip": "203.0.113.10", "active": true, "rating": 4, "confidence": 85,
                "tags": {"data": [{"name": "Graph"}], "mode": "append"},
                "attributes": {"data": [{"type": "Description", "value": "From alert 7f3a.", "default": true}], "mode": "append"},
                "securityLabels": {"data": [{"name": "TLP:AMBER"}], "mode": "append"},
            })
        );
    }

    #[test]
    fn each_type_has_its_member_and_a_hash_its_kind() {
        let member = |kind, value| {
            let body = IndicatorWrite { kind, value, ..IndicatorWrite::default() }.body()?;
            let members = body.as_object().expect("an object").clone();
            Ok::<_, String>(members.keys().find(|name| !matches!(name.as_str(), "type" | "active")).cloned().unwrap_or_default())
        };
        let (md5, sha1, sha256) = ("a".repeat(32), "a".repeat(40), "a".repeat(64));
        assert_eq!(member("File", &md5).as_deref(), Ok("md5"));
        assert_eq!(member("File", &sha1).as_deref(), Ok("sha1"));
        assert_eq!(member("File", &sha256).as_deref(), Ok("sha256"));
        assert_eq!(member("ASN", "ASN64496").as_deref(), Ok("AS Number"));
        assert!(member("File", "abc").is_err() && member("Registry Key", "x").is_err());
    }
}
