//! One row per guide field: the indicator's property and what writes it, or why not. And the payload that comes of it.

use std::net::IpAddr;

use serde::Serialize;

use super::super::guide::{Column, Fill, to};
use super::super::{Skip, Terms, cut, described, is_private, screen};
use super::{Config, FileHashes};
use crate::indicator::{ActionToTake, Group, Indicator, Kind, Observable, ThreatRating};

/// Names this product in its indicators: what a survey knows them by.
pub(crate) const APPLICATION: &str = "Indicator Relay";

const NO_FIELD: &str = "Defender has no field for it";
const NO_EMAIL: &str = "Defender takes no e-mail indicators";
const NO_RANGES: &str = "Defender takes no ranges of addresses";
const NO_USER_AGENTS: &str = "Defender takes no user agents";
const PUBLIC_ONLY: &str = "private or reserved address: Defender takes public addresses only";
const LONGER_HASH: &str = "Defender gets the longest hash of a file only (DEFENDER_FILE_HASHES=all sends all)";

/// Characters. No page states limits; the guide's own for Graph, and what other clients keep to.
const DESCRIPTION: usize = 100;
const TITLE: usize = 200;

/// In the guide's order.
pub(crate) static FIELDS: [Fill; 22] = [
    Fill::Declined("Defender has no confidence"),
    to("description", "cut at 100 characters"),
    to("externalId", "{owner id}-{indicator id}, for a File with the hash's kind behind it"),
    Fill::Declined("Defender documents no field for a kill chain"),
    Fill::Declined(NO_FIELD),
    Fill::Declined(NO_FIELD),
    to("severity", "0 `Informational`, 1 and 2 `Low`, 3 `Medium`, 4 and 5 `High`; `Informational` when unset"),
    Fill::Declined(NO_FIELD),
    Fill::Declined(NO_FIELD),
    Fill::Declined(NO_FIELD),
    to("recommendedActions", "\"Details: {weblink}\""),
    Fill::Declined(NO_EMAIL),
    Fill::Declined(NO_EMAIL),
    to("indicatorValue", "`indicatorType` is `DomainName`"),
    Fill::Declined(NO_RANGES),
    to("indicatorValue", "`indicatorType` is `IpAddress`; IPv6 with all eight segments; private and reserved ones are declined"),
    Fill::Declined(NO_FIELD),
    Fill::Declined(NO_FIELD),
    to("indicatorValue", "`indicatorType` is `Url`"),
    Fill::Declined(NO_USER_AGENTS),
    to("indicatorType", "`FileMd5`, `FileSha1`, `FileSha256`"),
    to("indicatorValue", "the longest hash of a File only, unless `DEFENDER_FILE_HASHES=all`"),
];

/// What the Indicators API needs and the guide does not name.
pub(crate) static BEYOND: [(&str, &str); 6] = [
    ("`title`", "\"{type}: {value}\", cut at 200 characters"),
    ("`action`", "Alert: `Audit`; Block: `Block`"),
    ("`generateAlert`", "true"),
    ("`rbacGroupNames`", "`DEFENDER_DEVICE_GROUPS`; left out for all devices"),
    ("`application`", "\"Indicator Relay\""),
    ("`expirationTime`", "time of sending and the expiration days of the group, to the second"),
];

pub(crate) const COLUMN: Column = Column { product: "Microsoft Defender for Endpoint", fields: &FIELDS, beyond: &BEYOND };

/// An indicator without `expirationTime`, which is added when it is sent.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payload<'a> {
    indicator_value: &'a str,
    indicator_type: &'static str,
    action: &'static str,
    generate_alert: bool,
    title: String,
    description: String,
    severity: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    recommended_actions: Option<String>,
    /// None means all devices.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    rbac_group_names: &'a [String],
    external_id: &'a str,
    application: &'static str,
}

/// The payload of one sighting, without its end.
///
/// # Errors
/// [`Skip::Declined`] with the text of the row that declines it.
pub(crate) fn payload(
    indicator: &Indicator,
    observable: &Observable,
    id: &str,
    terms: &Terms,
    config: &Config,
) -> Result<Vec<u8>, Skip> {
    let indicator_type = indicator_type(observable.kind())?;
    if is_private(observable) {
        return Err(Skip::Declined(PUBLIC_ONLY));
    }
    if config.file_hashes == FileHashes::Longest && has_longer_hash(indicator, observable.kind(), terms) {
        return Err(Skip::Declined(LONGER_HASH));
    }
    let value = value(observable);
    let payload = Payload {
        indicator_value: &value,
        indicator_type,
        action: action(terms.action),
        generate_alert: true, // the API refuses `Audit` without
        title: cut(&format!("{}: {value}", observable.kind().guide_name()), TITLE),
        description: cut(&described(indicator), DESCRIPTION),
        severity: severity(indicator.rating),
        recommended_actions: indicator.web_link.as_ref().map(|link| format!("Details: {link}")),
        rbac_group_names: &config.device_groups,
        external_id: id,
        application: APPLICATION,
    };
    Ok(serde_json::to_vec(&payload).expect("an object of strings cannot fail to serialise"))
}

/// What the API calls the kind.
fn indicator_type(kind: Kind) -> Result<&'static str, Skip> {
    match kind {
        Kind::Address => Ok("IpAddress"),
        Kind::Host => Ok("DomainName"),
        Kind::Url => Ok("Url"),
        Kind::Md5 => Ok("FileMd5"),
        Kind::Sha1 => Ok("FileSha1"),
        Kind::Sha256 => Ok("FileSha256"),
        Kind::Cidr => Err(Skip::Declined(NO_RANGES)),
        Kind::EmailAddress | Kind::EmailSubject => Err(Skip::Declined(NO_EMAIL)),
        Kind::UserAgent => Err(Skip::Declined(NO_USER_AGENTS)),
    }
}

/// What an indicator of this type and value stands for; none if it is nothing that is sent.
pub(crate) fn observable(indicator_type: &str, value: &str) -> Option<Observable> {
    let kind = Kind::ALL.into_iter().find(|kind| self::indicator_type(*kind).is_ok_and(|name| name == indicator_type))?;
    Observable::parse(kind, value).ok()
}

/// Successors of the retired `Alert` and `AlertAndBlock` that every type takes (vendor page "Create indicators").
pub(crate) fn action(action: ActionToTake) -> &'static str {
    match action {
        ActionToTake::Alert => "Audit",
        ActionToTake::Block => "Block",
    }
}

/// The value as the API wants it: IPv6 with all eight segments (same page).
pub(crate) fn value(observable: &Observable) -> String {
    match observable.address() {
        Some(IpAddr::V6(ip)) => ip.segments().map(|segment| format!("{segment:x}")).join(":"),
        _ => observable.value().to_owned(),
    }
}

fn severity(rating: Option<ThreatRating>) -> &'static str {
    match rating.map_or(0, ThreatRating::rounded) {
        0 => "Informational",
        1 | 2 => "Low",
        3 => "Medium",
        _ => "High",
    }
}

/// True if the File has a longer hash that is sent: one that is malformed, not selected or never sent leaves its place.
fn has_longer_hash(indicator: &Indicator, kind: Kind, terms: &Terms) -> bool {
    // `Kind` orders the hashes by length.
    let longer = |other: Kind| kind.group() == Group::File && other.group() == Group::File && other > kind;
    let sent = |kind, value: &str| Observable::parse(kind, value).is_ok_and(|other| screen(&other, terms).is_ok());
    indicator.values.iter().any(|(other, value)| longer(*other) && sent(*other, value))
}
