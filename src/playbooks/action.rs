//! What playbooks ask for, as data: first as the document says it, then with everything filled in.
//!
//! Nothing is done here, and secrets are names only.

use aws_lc_rs::digest;
use serde::Serialize;
use serde_json::{Map, Value};
use thiserror::Error;

use super::evaluate::{Selected, Variables};
use super::keys::SEVERITIES;
use super::template::{Shape, Template};
use crate::platform::hex;

/// Something to do, with everything filled in.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Action {
    /// One message; who puts it adds the idempotency key.
    Queue { queue: String, body: Body },
    /// A POST with the idempotency key as a header.
    Webhook {
        address: Address,
        auth: Auth,
        headers: Vec<(String, String)>,
        body: Body,
        allow_plain_http: bool,
        allow_private_address: bool,
    },
    /// Each value made, or changed where it is there.
    #[serde(rename = "threatconnect_indicator")]
    ThreatConnectIndicator {
        owner: String,
        /// As ThreatConnect spells it.
        indicator_type: &'static str,
        /// May be none: then there is nothing to do.
        values: Vec<String>,
        rating: Option<u8>,
        confidence: Option<u8>,
        tags: Vec<String>,
        /// Type and value; `Description` and `Source` are the defaults of their types.
        attributes: Vec<(String, String)>,
        security_label: Option<String>,
    },
    /// Made, or changed where one with this external id is there.
    #[serde(rename = "threatconnect_case")]
    ThreatConnectCase {
        /// 35 characters, the same for the same resource.
        xid: String,
        /// At most 255 characters.
        name: String,
        status: &'static str,
        severity: &'static str,
        /// At most 1,500 characters.
        description: Option<String>,
        tags: Vec<String>,
        /// Type and summary.
        artifacts: Vec<(String, String)>,
        notes: Vec<String>,
    },
    /// An export now; several within this time are one.
    TriggerExport { job: Option<String>, coalesce_seconds: u32 },
}

impl Action {
    /// What it writes of a resource takes the place of what was written before.
    #[must_use]
    pub const fn replaces(&self) -> bool {
        matches!(self, Self::ThreatConnectCase { .. })
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Body {
    /// `application/json`.
    Json(Value),
    /// `text/plain; charset=utf-8`, unless a header says otherwise.
    Text(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    Url(String),
    /// By name. What it holds is to be judged by `address::judge` when it is read.
    Secret(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Auth {
    None,
    Basic { username_secret: String, password_secret: String },
    Header { header: String, header_secret: String },
}

/// Why an action cannot be made of an item.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FillError {
    #[error(
        "the severity is `{0}`; ThreatConnect has Low, Medium, High and Critical: map it in the expression, or write one of them"
    )]
    Severity(String),
    #[error("the name of the case is empty; give `name` a text beside its variables")]
    NoName,
    #[error("neither the resource nor the notification has an id that could name the case")]
    NoId,
}

/// An action as the document says it.
#[derive(Debug, Clone, PartialEq)]
pub struct ActionSpec {
    /// `label`, else its place from 1: a part of the idempotency key.
    pub label: String,
    pub(super) work: Work,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Work {
    Queue {
        queue: String,
        body: BodySpec,
    },
    Webhook {
        address: Address,
        auth: Auth,
        headers: Vec<(String, String)>,
        body: BodySpec,
        allow_plain_http: bool,
        allow_private_address: bool,
    },
    Indicator {
        owner: String,
        indicator_type: &'static str,
        values: String,
        rating: Option<u8>,
        confidence: Option<u8>,
        tags: Vec<Template>,
        attributes: Vec<(String, Template)>,
        security_label: Option<String>,
    },
    Case {
        name: Template,
        status: &'static str,
        severity: Template,
        description: Option<Template>,
        tags: Vec<Template>,
        /// Type and variable.
        artifacts: Vec<(String, String)>,
        notes: Vec<Template>,
    },
    TriggerExport {
        job: Option<String>,
        coalesce_seconds: u32,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum BodySpec {
    Context,
    Selected,
    Template(Shape),
}

/// What an action is filled with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Given<'a> {
    pub(super) context: &'a Value,
    pub(super) selected: &'a Variables,
    /// Those and `meta.…`.
    pub(super) all: &'a Variables,
    /// External id of a case for this item.
    pub(super) case: Option<&'a str>,
}

impl ActionSpec {
    /// The word of the document.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.work {
            Work::Queue { .. } => "queue",
            Work::Webhook { .. } => "webhook",
            Work::Indicator { .. } => "threatconnect_indicator",
            Work::Case { .. } => "threatconnect_case",
            Work::TriggerExport { .. } => "trigger_export",
        }
    }
}

impl Work {
    pub(super) fn fill(&self, given: &Given<'_>) -> Result<Action, FillError> {
        Ok(match self {
            Self::Queue { queue, body } => Action::Queue { queue: queue.clone(), body: body.fill(given) },
            Self::Webhook { address, auth, headers, body, allow_plain_http, allow_private_address } => Action::Webhook {
                address: address.clone(),
                auth: auth.clone(),
                headers: headers.clone(),
                body: body.fill(given),
                allow_plain_http: *allow_plain_http,
                allow_private_address: *allow_private_address,
            },
            Self::Indicator { owner, indicator_type, values, rating, confidence, tags, attributes, security_label } => {
                let attribute = |(kind, template): &(String, Template)| (kind.clone(), template.fill(given.all));
                Action::ThreatConnectIndicator {
                    owner: owner.clone(),
                    indicator_type,
                    values: texts_of(values, given),
                    rating: *rating,
                    confidence: *confidence,
                    tags: tags_of(tags, given),
                    attributes: attributes.iter().map(attribute).filter(|(_, value)| !value.trim().is_empty()).collect(),
                    security_label: security_label.clone(),
                }
            }
            Self::Case { name, status, severity, description, tags, artifacts, notes } => {
                let name = cut(name.fill(given.all).trim(), 255);
                if name.is_empty() {
                    return Err(FillError::NoName);
                }
                let filled = |template: &Template, most| {
                    let text = cut(template.fill(given.all).trim(), most);
                    (!text.is_empty()).then_some(text)
                };
                let artifact = |(kind, values): &(String, String)| {
                    texts_of(values, given).into_iter().map(|value| (kind.clone(), value)).collect::<Vec<_>>()
                };
                Action::ThreatConnectCase {
                    xid: given.case.ok_or(FillError::NoId)?.to_owned(),
                    name,
                    status,
                    severity: severity_of(&severity.fill(given.all))?,
                    description: description.as_ref().and_then(|template| filled(template, 1_500)),
                    tags: tags_of(tags, given),
                    artifacts: artifacts.iter().flat_map(artifact).collect(),
                    notes: notes.iter().filter_map(|template| filled(template, 65_500)).collect(),
                }
            }
            Self::TriggerExport { job, coalesce_seconds } => {
                Action::TriggerExport { job: job.clone(), coalesce_seconds: *coalesce_seconds }
            }
        })
    }
}

impl BodySpec {
    fn fill(&self, given: &Given<'_>) -> Body {
        match self {
            Self::Context => Body::Json(given.context.clone()),
            Self::Selected => {
                let members = given.selected.iter().map(|(name, value)| (name.clone(), value.json()));
                Body::Json(Value::Object(members.collect::<Map<_, _>>()))
            }
            Self::Template(Shape::Template(template)) => Body::Text(template.fill(given.all)),
            Self::Template(shape) => Body::Json(shape.fill(given.all)),
        }
    }
}

/// The word of ThreatConnect for a severity; Microsoft's `informational` is the lowest that it has.
pub(super) fn severity_of(text: &str) -> Result<&'static str, FillError> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("informational") {
        return Ok("Low");
    }
    let found = SEVERITIES.into_iter().find(|known| known.eq_ignore_ascii_case(text));
    found.ok_or_else(|| FillError::Severity(text.chars().take(40).map(|c| if c.is_control() { ' ' } else { c }).collect()))
}

/// Each once, without blanks at its ends and without empty ones.
fn texts_of(variable: &str, given: &Given<'_>) -> Vec<String> {
    distinct(given.all.get(variable).map(Selected::texts).unwrap_or_default())
}

/// A tag that is one variable and nothing else may be several.
fn tags_of(templates: &[Template], given: &Given<'_>) -> Vec<String> {
    let texts = templates.iter().flat_map(|template| match Shape::Template(template.clone()).fill(given.all) {
        Value::Array(list) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Value::String(text) => vec![text],
        _ => Vec::new(),
    });
    distinct(texts.map(|text| cut(&text, 128)).collect())
}

fn distinct(texts: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::HashSet::new();
    let trimmed = texts.into_iter().map(|text| text.trim().to_owned());
    trimmed.filter(|text| !text.is_empty() && seen.insert(text.clone())).collect()
}

fn cut(text: &str, characters: usize) -> String {
    text.chars().take(characters).collect()
}

pub(super) fn hash(parts: &[&str]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        // The length first, so that no two lists of parts give the same bytes.
        context.update(&u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        context.update(part.as_bytes());
    }
    hex::digits(context.finish().as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_read_as_microsoft_writes_them() {
        assert_eq!(severity_of("high"), Ok("High"));
        assert_eq!(severity_of("Informational"), Ok("Low"));
        assert_eq!(severity_of("unknown"), Err(FillError::Severity("unknown".to_owned())));
    }

    #[test]
    fn tags_are_distinct_and_an_array_gives_several() {
        let all: Variables = [("t".to_owned(), Selected::Texts(vec!["a".to_owned(), " b ".to_owned(), String::new()]))].into();
        let given = Given { context: &Value::Null, selected: &all, all: &all, case: None };
        let tags = ["{t}", "b", "x {t}"].map(Template::parse);
        assert_eq!(tags_of(&tags, &given), ["a", "b", "x a,  b ,"]);
    }
}
