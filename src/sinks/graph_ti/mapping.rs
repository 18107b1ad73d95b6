//! One row per guide field, word for word as the guide has it, and the object that comes of it for either product.
//!
//! What an update can change is here too: from it follows what makes another object.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use super::super::guide::{Column, Fill, to};
use super::super::{ContentHash, Skip, TargetProduct, Terms, cut, described, external_id, is_private, seconds};
use crate::indicator::{ActionToTake, Confidence, Group, Indicator, KillChainPhase, Kind, Observable, ThreatRating, Tlp};

const NO_EMAIL: &str = "Defender takes no e-mail indicators";
const NO_RANGES: &str = "Defender takes no ranges";
const NO_USER_AGENTS: &str = "Defender takes no user agents";
const PUBLIC_ONLY: &str = "Defender takes public addresses only";

/// In the guide's order.
pub(crate) static FIELDS: [Fill; 22] = [
    to("confidence", "absent when unset"),
    to("description", "cut at 100 characters"),
    to("externalId", "{owner id}-{indicator id}, for a File with the hash's kind behind it"),
    to("killChain", "each phase once: `Actions`, `C2`, `Delivery`, …"),
    to("knownFalsePositives", "a text"),
    to("lastReportedDateTime", "the latest value, UTC; without the attribute the indicator's own `lastSeen`"),
    to("severity", "0 to 5, rounded half up; absent when unset"),
    to("tags", "each tag once"),
    to("tlpLevel", "the highest label, else Default TLP Level; AMBER+STRICT as amber"),
    to("threatType", "`WatchList`"),
    to("additionalInformation", ""),
    to("emailSenderAddress", NO_EMAIL),
    to("emailSubject", NO_EMAIL),
    to("domainName", ""),
    to("networkCidrBlock", NO_RANGES),
    to("networkIPv4", PUBLIC_ONLY),
    to("networkPort", "of network observables"),
    to("networkProtocol", "the number of the IP header: TCP 6, UDP 17"),
    to("url", ""),
    to("userAgent", NO_USER_AGENTS),
    to("fileHashType", "`md5`, `sha1`, `sha256`"),
    to("fileHashValue", ""),
];

/// What the API needs and the guide does not name.
pub(crate) static BEYOND: [(&str, &str); 6] = [
    ("`targetProduct`", "`Azure Sentinel` or `Microsoft Defender ATP`"),
    ("`action`", "`alert` or `block`"),
    ("`expirationDateTime`", "time of sending and the expiration days of the group"),
    ("`networkIPv6`", "an IPv6 address, in place of `networkIPv4`"),
    ("`networkDestinationIPv4`, `networkDestinationIPv6`", "for Defender, beside the guide's property"),
    ("`passiveOnly`", "`true` where `tlpLevel` is red"),
];

pub(super) const COLUMN: Column = Column { product: "Microsoft Graph (either product)", fields: &FIELDS, beyond: &BEYOND };

/// The only length that is documented (vendor page "tiIndicator resource type").
const LONGEST_DESCRIPTION: usize = 100;

/// `targetProduct` as the service spells it.
pub(super) fn target(product: TargetProduct) -> &'static str {
    match product {
        TargetProduct::Sentinel => "Azure Sentinel",
        TargetProduct::Defender => "Microsoft Defender ATP",
    }
}

/// What an update can change, of what we write; all else makes another object (same page, "Properties by target product").
pub(super) fn is_editable(product: TargetProduct, property: &str) -> bool {
    const SENTINEL: [&str; 13] = [
        "action",
        "additionalInformation",
        "confidence",
        "description",
        "expirationDateTime",
        "externalId",
        "killChain",
        "knownFalsePositives",
        "lastReportedDateTime",
        "passiveOnly",
        "severity",
        "tags",
        "tlpLevel",
    ];
    const DEFENDER: [&str; 3] = ["description", "expirationDateTime", "severity"];
    match product {
        TargetProduct::Sentinel => SENTINEL.contains(&property),
        TargetProduct::Defender => DEFENDER.contains(&property),
    }
}

/// Every property that an object may have, but for the time of its end.
pub(super) fn written() -> impl Iterator<Item = &'static str> {
    const BESIDE: [&str; 6] =
        ["targetProduct", "action", "networkIPv6", "networkDestinationIPv4", "networkDestinationIPv6", "passiveOnly"];
    let guides = FIELDS.iter().filter_map(|fill| match fill {
        Fill::Property { path, .. } => Some(*path),
        Fill::Declined(_) => None,
    });
    guides.chain(BESIDE)
}

/// The properties that may hold the observable's value.
pub(super) fn holders(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Address => &["networkIPv4", "networkIPv6", "networkDestinationIPv4", "networkDestinationIPv6"],
        Kind::Cidr => &["networkCidrBlock"],
        Kind::EmailAddress => &["emailSenderAddress"],
        Kind::EmailSubject => &["emailSubject"],
        Kind::Md5 | Kind::Sha1 | Kind::Sha256 => &["fileHashValue"],
        Kind::Host => &["domainName"],
        Kind::Url => &["url"],
        Kind::UserAgent => &["userAgent"],
    }
}

/// A tiIndicator without `expirationDateTime`, which is added when it is sent. What is absent is left out.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object<'a> {
    target_product: &'static str,
    action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    confidence: Option<u8>,
    description: String,
    pub(super) external_id: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kill_chain: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    known_false_positives: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_reported_date_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    severity: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tags: Vec<&'a str>,
    tlp_level: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    passive_only: Option<bool>,
    threat_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    additional_information: Option<&'a str>,
    #[serde(flatten)]
    observable: Holding<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_protocol: Option<u8>,
}

/// The observable's own properties: one kind in each object, so that an object is about one thing.
#[derive(Serialize, Default)]
#[serde(rename_all = "camelCase")]
struct Holding<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    email_sender_address: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    email_subject: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    network_cidr_block: Option<&'a str>,
    #[serde(rename = "networkIPv4", skip_serializing_if = "Option::is_none")]
    ipv4: Option<&'a str>,
    #[serde(rename = "networkIPv6", skip_serializing_if = "Option::is_none")]
    ipv6: Option<&'a str>,
    #[serde(rename = "networkDestinationIPv4", skip_serializing_if = "Option::is_none")]
    destination_ipv4: Option<&'a str>,
    #[serde(rename = "networkDestinationIPv6", skip_serializing_if = "Option::is_none")]
    destination_ipv6: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_hash_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    file_hash_value: Option<&'a str>,
}

/// The object of one sighting.
///
/// # Errors
/// [`Skip::Declined`] with the text of the row that declines its kind for this product.
pub(super) fn object<'a>(
    indicator: &'a Indicator,
    observable: &'a Observable,
    terms: &Terms,
    product: TargetProduct,
) -> Result<Object<'a>, Skip> {
    let holding = holding(observable, product)?;
    let mut tags: Vec<&str> = Vec::with_capacity(indicator.tags.len());
    for tag in &indicator.tags {
        if !tag.is_empty() && !tags.contains(&tag.as_str()) {
            tags.push(tag);
        }
    }
    let tlp = indicator.tlp.unwrap_or(terms.default_tlp);
    let network = indicator.network.filter(|_| observable.kind().group() == Group::Network);
    Ok(Object {
        target_product: target(product),
        action: action(terms.action),
        confidence: indicator.confidence.map(Confidence::value),
        description: cut(&described(indicator), LONGEST_DESCRIPTION),
        external_id: external_id(indicator, observable.kind()),
        kill_chain: indicator.phases.iter().map(|phase| kill_chain(*phase)).collect(),
        known_false_positives: indicator.false_positives.map(|count| count.to_string()),
        last_reported_date_time: indicator.last_seen.map(seconds),
        severity: indicator.rating.map(ThreatRating::rounded),
        tags,
        tlp_level: tlp_level(tlp),
        // The vendor asks for it with this level.
        passive_only: (tlp == Tlp::Red).then_some(true),
        threat_type: "WatchList",
        additional_information: indicator.web_link.as_deref().filter(|link| !link.is_empty()),
        observable: holding,
        network_port: network.and_then(|network| network.port),
        network_protocol: network.and_then(|network| network.transport).map(|transport| transport.number),
    })
}

fn holding(observable: &Observable, product: TargetProduct) -> Result<Holding<'_>, Skip> {
    let value = Some(observable.value());
    let defender = product == TargetProduct::Defender;
    let hash = |kind| Holding { file_hash_type: Some(kind), file_hash_value: value, ..Holding::default() };
    Ok(match observable.kind() {
        Kind::EmailAddress | Kind::EmailSubject if defender => return Err(Skip::Declined(NO_EMAIL)),
        Kind::Cidr if defender => return Err(Skip::Declined(NO_RANGES)),
        Kind::UserAgent if defender => return Err(Skip::Declined(NO_USER_AGENTS)),
        Kind::Address if defender && is_private(observable) => return Err(Skip::Declined(PUBLIC_ONLY)),
        // Defender's is the destination, and that alone is refused as "Missing indicators value".
        Kind::Address if observable.value().contains(':') => {
            Holding { ipv6: value, destination_ipv6: value.filter(|_| defender), ..Holding::default() }
        }
        Kind::Address => Holding { ipv4: value, destination_ipv4: value.filter(|_| defender), ..Holding::default() },
        Kind::Cidr => Holding { network_cidr_block: value, ..Holding::default() },
        Kind::Host => Holding { domain_name: value, ..Holding::default() },
        Kind::Url => Holding { url: value, ..Holding::default() },
        Kind::UserAgent => Holding { user_agent: value, ..Holding::default() },
        Kind::EmailAddress => Holding { email_sender_address: value, ..Holding::default() },
        Kind::EmailSubject => Holding { email_subject: value, ..Holding::default() },
        Kind::Md5 => hash("md5"),
        Kind::Sha1 => hash("sha1"),
        Kind::Sha256 => hash("sha256"),
    })
}

/// Over everything that no update changes: other values, and the names of what an update can change.
///
/// A name that goes counts, because no page says what a null does: an update never has to clear anything.
pub(super) fn identity(content: &[u8], product: TargetProduct) -> ContentHash {
    let properties: BTreeMap<&str, &RawValue> = serde_json::from_slice(content).expect("an object that we wrote is one");
    let mut parts: Vec<&[u8]> = Vec::with_capacity(properties.len() * 3);
    for (name, value) in &properties {
        parts.push(name.as_bytes());
        if !is_editable(product, name) {
            parts.push(value.get().as_bytes());
        }
        // JSON holds no bare line break: what precedes it is one property.
        parts.push(b"\n");
    }
    ContentHash::of(&parts)
}

fn action(action: ActionToTake) -> &'static str {
    match action {
        ActionToTake::Alert => "alert",
        ActionToTake::Block => "block",
    }
}

fn kill_chain(phase: KillChainPhase) -> &'static str {
    match phase {
        KillChainPhase::Reconnaissance => "Reconnaissance",
        KillChainPhase::Weaponization => "Weaponization",
        KillChainPhase::Delivery => "Delivery",
        KillChainPhase::Exploitation => "Exploitation",
        KillChainPhase::Installation => "Installation",
        KillChainPhase::C2 => "C2",
        KillChainPhase::Actions => "Actions",
    }
}

/// The service knows TLP 1.0.
fn tlp_level(tlp: Tlp) -> &'static str {
    match tlp {
        Tlp::White => "white",
        Tlp::Green => "green",
        Tlp::Amber | Tlp::AmberStrict => "amber",
        Tlp::Red => "red",
    }
}
