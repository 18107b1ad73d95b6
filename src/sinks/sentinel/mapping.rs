//! One row per guide field: the STIX property and what writes it, or why not. And the object that comes of it.

use std::fmt::Write as _;

use serde::Serialize;
use uuid::Uuid;

use super::super::guide::{Column, Fill, to};
use super::super::{Skip, Terms, Withdrawal, described, external_id, seconds};
use super::Config;
use crate::indicator::{Indicator, Kind, Observable, Tlp};

const NO_USER_AGENT: &str =
    "Sentinel documents no pattern for user agents (SENTINEL_USER_AGENTS=on sends one that built-in rules do not match)";
const ONE_COMPARISON: &str = "one comparison per pattern";

/// In the guide's order.
pub(crate) static FIELDS: [Fill; 22] = [
    to("confidence", "absent when unset"),
    to("description", "as it is"),
    to(
        "external_references[0].external_id",
        "`source_name` is \"ThreatConnect\"; {owner id}-{indicator id}, for a File with the hash's kind behind it",
    ),
    to("kill_chain_phases", "`lockheed-martin-cyber-kill-chain`, each phase once"),
    to("external_references[0].description", "\"False positives {n}\""),
    to("external_references[0].description", "\"Last seen {time}\"; without the attribute the indicator's own `lastSeen`"),
    to(
        "external_references[0].description",
        "\"Threat Rating {n}\"; with `SENTINEL_SEVERITY_EXTENSION=on` also `extensions.sentinel-ext.severity`",
    ),
    to("labels", "each tag once"),
    to("object_marking_refs", "one TLP marking: the highest label, else Default TLP Level; AMBER+STRICT as amber"),
    to("indicator_types", "`watchlist`"),
    to("external_references[0].url", ""),
    to("pattern", "`[email-addr:value = '…']`"),
    to("pattern", "`[email-message:subject = '…']`; stored, not matched by the built-in rules"),
    to("pattern", "`[domain-name:value = '…']`"),
    to("pattern", "`[ipv4-addr:value = '…/n']` or `ipv6-addr`; stored, not range-matched by the built-in rules"),
    to("pattern", "`[ipv4-addr:value = '…']` or `[ipv6-addr:value = '…']`"),
    Fill::Declined(ONE_COMPARISON),
    Fill::Declined(ONE_COMPARISON),
    to("pattern", "`[url:value = '…']`"),
    Fill::Declined(NO_USER_AGENT),
    to("pattern", "part of the path: `'MD5'`, `'SHA-1'`, `'SHA-256'`"),
    to("pattern", "`[file:hashes.'…' = '…']`"),
];

/// What the upload API needs and the guide does not name.
pub(crate) static BEYOND: [(&str, &str); 10] = [
    ("`type`, `spec_version`", "`indicator`, `2.1`"),
    ("`id`", "`indicator--` and a UUIDv5 over kind and normal form: the same observable is the same object for ever"),
    ("`created`", "ThreatConnect's `dateAdded`"),
    ("`modified`", "time of sending, always later than the one sent before"),
    ("`name`", "the value"),
    ("`pattern_type`, `pattern_version`", "`stix`, `2.1`"),
    ("`valid_from`", "ThreatConnect's `dateAdded`"),
    ("`valid_until`", "time of sending and the expiration days of the group"),
    ("Action to Take", "declined: Sentinel stores, its rules act; kept in the reference's description"),
    ("ThreatAssess score, port and protocol", "in `external_references[0].description`"),
];

pub(crate) const COLUMN: Column = Column { product: "Microsoft Sentinel", fields: &FIELDS, beyond: &BEYOND };

/// Names STIX ids; never changes: another one would orphan every object ever uploaded.
const NAMESPACE: Uuid = Uuid::from_u128(0x7d1f_0a52_3c8e_5b46_9f27_61d4_c0be_83a9);

/// The object's constant id: `indicator--` and UUIDv5 over `{kind}:{normal form}`.
pub(crate) fn stix_id(observable: &Observable) -> String {
    let name = format!("{}:{}", observable.kind().stable_name(), observable.value());
    format!("indicator--{}", Uuid::new_v5(&NAMESPACE, name.as_bytes()))
}

/// An indicator object without `modified` and `valid_until`, which are added when it is sent. Empty lists are left out.
#[derive(Serialize)]
pub(crate) struct Object<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    spec_version: &'static str,
    id: &'a str,
    created: String,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    indicator_types: Option<[&'static str; 1]>,
    pattern: String,
    pattern_type: &'static str,
    pattern_version: &'static str,
    valid_from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kill_chain_phases: Vec<Phase>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    labels: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "object_marking_refs")]
    marking_refs: Option<[&'static str; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_references: Option<[Reference<'a>; 1]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    extensions: Option<Extensions>,
}

#[derive(Serialize)]
struct Phase {
    kill_chain_name: &'static str,
    phase_name: &'static str,
}

#[derive(Serialize)]
struct Reference<'a> {
    source_name: &'static str,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    external_id: String,
}

#[derive(Serialize)]
struct Extensions {
    #[serde(rename = "sentinel-ext")]
    sentinel: SentinelExtension,
}

#[derive(Serialize)]
struct SentinelExtension {
    severity: u8,
}

/// The object of one sighting.
///
/// # Errors
/// [`Skip::Declined`] with the text of the row that declines its kind.
pub(crate) fn object<'a>(
    indicator: &'a Indicator,
    observable: &'a Observable,
    id: &'a str,
    terms: &Terms,
    config: &Config,
) -> Result<Object<'a>, Skip> {
    let pattern = pattern(observable, config.user_agents)?;
    let mut labels: Vec<&str> = Vec::with_capacity(indicator.tags.len());
    for tag in &indicator.tags {
        if !tag.is_empty() && !labels.contains(&tag.as_str()) {
            labels.push(tag);
        }
    }
    let phase = |phase: &crate::indicator::KillChainPhase| Phase {
        kill_chain_name: "lockheed-martin-cyber-kill-chain",
        phase_name: phase.lockheed_martin(),
    };
    let severity = indicator.rating.filter(|_| config.severity_extension).map(crate::indicator::ThreatRating::rounded);
    Ok(Object {
        kind: "indicator",
        spec_version: "2.1",
        id,
        created: time(indicator.date_added),
        name: observable.value(),
        description: Some(described(indicator)),
        indicator_types: Some(["watchlist"]),
        pattern,
        pattern_type: "stix",
        pattern_version: "2.1",
        valid_from: time(indicator.date_added),
        confidence: indicator.confidence.map(crate::indicator::Confidence::value),
        kill_chain_phases: indicator.phases.iter().map(phase).collect(),
        labels,
        marking_refs: Some([marking(indicator.tlp.unwrap_or(terms.default_tlp))]),
        external_references: Some([Reference {
            source_name: "ThreatConnect",
            description: context(indicator, terms),
            url: indicator.web_link.as_deref().filter(|link| is_url(link)),
            external_id: external_id(indicator, observable.kind()),
        }]),
        extensions: severity.map(|severity| Extensions { sentinel: SentinelExtension { severity } }),
    })
}

/// The object that takes an observable back, rebuilt from what is stored of it.
///
/// # Errors
/// [`Skip::Declined`] never in practice: it was sent once.
pub(crate) fn farewell<'a>(item: &'a Withdrawal, config: &Config) -> Result<Object<'a>, Skip> {
    let always = Config { user_agents: true, ..config.clone() };
    Ok(Object {
        kind: "indicator",
        spec_version: "2.1",
        id: &item.external_id,
        created: time(item.created),
        name: item.observable.value(),
        description: None,
        indicator_types: None,
        pattern: pattern(&item.observable, always.user_agents)?,
        pattern_type: "stix",
        pattern_version: "2.1",
        valid_from: time(item.valid_from),
        confidence: None,
        kill_chain_phases: Vec::new(),
        labels: Vec::new(),
        marking_refs: None,
        external_references: None,
        extensions: None,
    })
}

/// A pattern of one comparison: only such are matched by the built-in rules.
fn pattern(observable: &Observable, user_agents: bool) -> Result<String, Skip> {
    let path = match observable.kind() {
        Kind::Address | Kind::Cidr if observable.value().contains(':') => "ipv6-addr:value",
        Kind::Address | Kind::Cidr => "ipv4-addr:value",
        Kind::Host => "domain-name:value",
        Kind::Url => "url:value",
        Kind::EmailAddress => "email-addr:value",
        Kind::EmailSubject => "email-message:subject",
        Kind::Md5 => "file:hashes.'MD5'",
        Kind::Sha1 => "file:hashes.'SHA-1'",
        Kind::Sha256 => "file:hashes.'SHA-256'",
        Kind::UserAgent if user_agents => "network-traffic:extensions.'http-request-ext'.request_header.'User-Agent'",
        Kind::UserAgent => return Err(Skip::Declined(NO_USER_AGENT)),
    };
    let value = observable.value();
    let mut text = String::with_capacity(path.len() + value.len() + 8);
    let _ = write!(text, "[{path} = '");
    for c in value.chars() {
        if matches!(c, '\'' | '\\') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push_str("']");
    Ok(text)
}

/// STIX's own TLP markings; TLP 2.0's AMBER+STRICT has none.
fn marking(tlp: Tlp) -> &'static str {
    match tlp {
        Tlp::White => "marking-definition--613f2e26-407d-48c7-9eca-b8e91df99dc9",
        Tlp::Green => "marking-definition--34098fce-860f-48ae-8e50-ebd3cc5e41da",
        Tlp::Amber | Tlp::AmberStrict => "marking-definition--f88d31f6-486f-44da-b317-01333bde0b82",
        Tlp::Red => "marking-definition--5e57c739-391a-4eb3-b6be-7d15ca92d5ed",
    }
}

/// One line of what has no property of its own, with only what is there.
fn context(indicator: &Indicator, terms: &Terms) -> String {
    let mut line = String::with_capacity(120);
    let mut part = |text: std::fmt::Arguments<'_>| {
        if !line.is_empty() {
            line.push_str("; ");
        }
        let _ = line.write_fmt(text);
    };
    if let Some(score) = indicator.score {
        part(format_args!("ThreatAssess {}", score.value()));
    }
    if let Some(rating) = indicator.rating {
        part(format_args!("Threat Rating {rating}"));
    }
    if let Some(count) = indicator.false_positives {
        part(format_args!("False positives {count}"));
    }
    if let Some(seen) = indicator.last_seen {
        part(format_args!("Last seen {}", seconds(seen)));
    }
    part(format_args!("Action {}", terms.action.name()));
    if let Some(network) = indicator.network {
        let label = if network.port.is_some() { "Port" } else { "Protocol" };
        part(format_args!("{label} {network}"));
    }
    line
}

/// STIX takes URLs of RFC 3986 only; a strict reader would refuse the whole object for another.
fn is_url(link: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}');
    link.bytes().all(allowed) && url::Url::parse(link).is_ok()
}

/// RFC 3339 in UTC with milliseconds.
pub(crate) fn time(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}
