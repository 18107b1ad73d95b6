//! Indicators in ThreatConnect's words, and their JSON as its documents show it.
//!
//! Not imitated: associations, enrichment, DNS and WHOIS data, false positive votes by user.

use std::fmt::Write as _;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// One indicator of one owner.
#[derive(Debug, Clone, PartialEq)]
pub struct Indicator {
    /// 0: the next free one.
    pub id: u64,
    pub owner: String,
    /// `Address`, `EmailAddress`, `File`, `User Agent`, …
    pub type_name: String,
    /// The value; a File's is made of its hashes.
    pub value: String,
    pub md5: Option<String>,
    pub sha1: Option<String>,
    pub sha256: Option<String>,
    pub rating: Option<f64>,
    pub confidence: Option<u8>,
    pub score: Option<u16>,
    pub false_positives: Option<u64>,
    pub tags: Vec<String>,
    pub labels: Vec<String>,
    /// Type and value.
    pub attributes: Vec<(String, String)>,
    pub active: bool,
    pub date_added: Timestamp,
    pub last_modified: Timestamp,
    pub last_seen: Option<Timestamp>,
    /// Awkward shapes that servers have been seen to send.
    pub quirks: Quirks,
    /// Sent instead of the rendered JSON.
    pub raw: Option<String>,
}

/// Awkward shapes of one indicator's JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quirks {
    /// `{"count": 0}` for empty collections instead of `{}`.
    pub count_zero: bool,
    /// `size` as text.
    pub size_as_text: bool,
    /// A blank behind `lastModified`.
    pub trailing_blank: bool,
}

impl Indicator {
    /// An active indicator without context.
    #[must_use]
    pub fn new(owner: &str, type_name: &str, value: &str, at: Timestamp) -> Self {
        let mut indicator = Self {
            id: 0,
            owner: owner.to_owned(),
            type_name: type_name.to_owned(),
            value: value.to_owned(),
            md5: None,
            sha1: None,
            sha256: None,
            rating: None,
            confidence: None,
            score: None,
            false_positives: None,
            tags: Vec::new(),
            labels: Vec::new(),
            attributes: Vec::new(),
            active: true,
            date_added: at,
            last_modified: at,
            last_seen: None,
            quirks: Quirks::default(),
            raw: None,
        };
        if type_name == "File" {
            match value.len() {
                32 => indicator.md5 = Some(value.to_owned()),
                40 => indicator.sha1 = Some(value.to_owned()),
                _ => indicator.sha256 = Some(value.to_owned()),
            }
        }
        indicator
    }

    /// What ThreatConnect shows: a File's hashes joined, else the value.
    #[must_use]
    pub fn summary(&self) -> String {
        if self.type_name == "File" {
            let hashes: Vec<&str> = [&self.md5, &self.sha1, &self.sha256].into_iter().flatten().map(String::as_str).collect();
            return hashes.join(" : ");
        }
        self.value.clone()
    }

    /// The JSON with these extra fields.
    #[must_use]
    pub fn render(&self, owner_id: u64, fields: &[String]) -> String {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut row = self.common(owner_id);
        let has = |field: &str| fields.iter().any(|f| f == field);
        if has("tags") {
            row.insert("tags".to_owned(), self.list(self.tags.iter().enumerate().map(|(i, name)| tag(i, name))));
        }
        if has("securityLabels") {
            row.insert("securityLabels".to_owned(), self.list(self.labels.iter().enumerate().map(|(i, name)| label(i, name))));
        }
        if has("attributes") {
            let attributes = self.attributes.iter().enumerate().map(|(i, (type_name, value))| {
                let added = time(self.date_added);
                json!({"id": self.id * 100 + i as u64, "dateAdded": added, "type": type_name, "value": value, "lastModified": added, "pinned": false, "default": false})
            });
            row.insert("attributes".to_owned(), self.list(attributes));
        }
        if has("falsePositives")
            && let Some(count) = self.false_positives
        {
            row.insert("falsePositives".to_owned(), count.into());
            row.insert("falsePositiveReportedByUser".to_owned(), false.into());
        }
        if has("threatAssess")
            && let Some(score) = self.score
        {
            row.insert("threatAssessScore".to_owned(), score.into());
            row.insert("threatAssessRating".to_owned(), json!(0.0));
            row.insert("threatAssessConfidence".to_owned(), json!(0.0));
            row.insert("threatAssessScoreObserved".to_owned(), 0.into());
            row.insert("threatAssessScoreFalsePositive".to_owned(), 0.into());
        }
        if has("sightings")
            && let Some(seen) = self.last_seen
        {
            row.insert("lastSeen".to_owned(), time(seen).into());
        }
        self.with_rating(&Value::Object(row).to_string())
    }

    fn common(&self, owner_id: u64) -> Map<String, Value> {
        let blank = if self.quirks.trailing_blank { " " } else { "" };
        let mut row = Map::new();
        let mut put = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
        put("id", self.id.into());
        put("dateAdded", time(self.date_added).into());
        put("ownerId", owner_id.into());
        put("ownerName", self.owner.clone().into());
        put("webLink", format!("https://example.threatconnect.com/#/details/indicators/{}", self.id).into());
        put("type", self.type_name.clone().into());
        put("lastModified", format!("{}{blank}", time(self.last_modified)).into());
        if let Some(confidence) = self.confidence {
            put("confidence", confidence.into());
        }
        put("summary", self.summary().into());
        put("privateFlag", false.into());
        put("active", self.active.into());
        put("activeLocked", false.into());
        match self.type_name.as_str() {
            "Address" => put("ip", self.value.clone().into()),
            "EmailAddress" => put("address", self.value.clone().into()),
            "Host" => {
                put("hostName", self.value.clone().into());
                put("dnsActive", false.into());
                put("whoisActive", false.into());
            }
            "URL" => put("text", self.value.clone().into()),
            "CIDR" => put("Block", self.value.clone().into()),
            "Email Subject" => put("Subject", self.value.clone().into()),
            "User Agent" => put("User Agent String", self.value.clone().into()),
            "ASN" => put("AS Number", self.value.clone().into()),
            "File" => {
                for (key, hash) in [("md5", &self.md5), ("sha1", &self.sha1), ("sha256", &self.sha256)] {
                    if let Some(hash) = hash {
                        put(key, hash.clone().into());
                    }
                }
                put("size", if self.quirks.size_as_text { "48128".into() } else { 48_128.into() });
            }
            other => put(other, self.value.clone().into()),
        }
        row
    }

    /// Ratings are decimals with two places: `3.00`. A JSON value cannot hold that text, so it is put in afterwards.
    fn with_rating(&self, row: &str) -> String {
        let Some(rating) = self.rating else { return row.to_owned() };
        let mut text = row.strip_suffix('}').unwrap_or(row).to_owned();
        let _ = write!(text, ",\"rating\":{rating:.2}}}");
        text
    }

    fn list(&self, items: impl Iterator<Item = Value>) -> Value {
        let items: Vec<Value> = items.collect();
        match (items.is_empty(), self.quirks.count_zero) {
            (true, true) => json!({"count": 0}),
            (true, false) => json!({}),
            (false, _) => json!({ "data": items }),
        }
    }
}

fn tag(i: usize, name: &str) -> Value {
    json!({"id": 40 + i, "name": name, "lastUsed": "2023-11-20T18:00:00Z"})
}

fn label(i: usize, name: &str) -> Value {
    let owner = if name.starts_with("TLP:") { "System" } else { "Acme Org" };
    json!({"id": 1 + i, "name": name, "description": format!("Example text for {name}."), "color": "FFC000", "owner": owner, "dateAdded": "2016-08-31T00:00:00Z"})
}

/// As the documents write times: to the second, with `Z`.
pub(crate) fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
