//! What tiIndicators takes of one entity: JSON types, values, and what each target asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::defender::internal;

/// An entity's members.
pub(crate) type Entity = Map<String, Value>;

pub(crate) const SENTINEL: &str = "Azure Sentinel";
pub(crate) const DEFENDER: &str = "Microsoft Defender ATP";

/// What a member may be.
enum Shape {
    Text,
    Short(usize),
    Time,
    Choice(&'static [&'static str]),
    Number(i64, i64),
    Flag,
    Texts,
    Choices(&'static [&'static str]),
    Ip,
    Ipv4,
    Ipv6,
    Cidr,
    Domain,
    Url,
}

const ACTIONS: &[&str] = &["unknown", "allow", "block", "alert"];
const DIAMOND: &[&str] = &["unknown", "adversary", "capability", "infrastructure", "victim"];
const HASHES: &[&str] = &["unknown", "sha1", "sha256", "md5", "authenticodeHash256", "lsHash", "ctph"];
const PHASES: &[&str] = &["Actions", "C2", "Delivery", "Exploitation", "Installation", "Reconnaissance", "Weaponization"];
const PRODUCTS: &[&str] = &[SENTINEL, DEFENDER];
const THREATS: &[&str] =
    &["Botnet", "C2", "CryptoMining", "Darknet", "DDoS", "MaliciousUrl", "Malware", "Phishing", "Proxy", "PUA", "WatchList"];
const TLP: &[&str] = &["unknown", "white", "green", "amber", "red"];
const DESCRIPTION: usize = 100;
const PORT: i64 = 65_535;
const ASN: i64 = 4_294_967_295;

/// Members that an update may carry for Sentinel.
const EDITABLE_SENTINEL: [&str; 17] = [
    "action",
    "activityGroupNames",
    "additionalInformation",
    "confidence",
    "description",
    "diamondModel",
    "expirationDateTime",
    "externalId",
    "isActive",
    "killChain",
    "knownFalsePositives",
    "lastReportedDateTime",
    "malwareFamilyNames",
    "passiveOnly",
    "severity",
    "tags",
    "tlpLevel",
];
const EDITABLE_DEFENDER: [&str; 3] = ["expirationDateTime", "severity", "description"];

/// None: not a member of the type. Such are tolerated, kept and sent back.
fn shape(name: &str) -> Option<Shape> {
    Some(match name {
        "action" => Shape::Choice(ACTIONS),
        "description" => Shape::Short(DESCRIPTION),
        "diamondModel" => Shape::Choice(DIAMOND),
        "fileHashType" => Shape::Choice(HASHES),
        "killChain" => Shape::Choices(PHASES),
        "targetProduct" => Shape::Choice(PRODUCTS),
        "threatType" => Shape::Choice(THREATS),
        "tlpLevel" => Shape::Choice(TLP),
        "confidence" => Shape::Number(0, 100),
        "severity" => Shape::Number(0, 5),
        "fileSize" => Shape::Number(0, i64::MAX),
        "networkProtocol" => Shape::Number(0, 255),
        "networkPort" | "networkDestinationPort" | "networkSourcePort" => Shape::Number(0, PORT),
        "networkDestinationAsn" | "networkSourceAsn" => Shape::Number(0, ASN),
        "isActive" | "passiveOnly" => Shape::Flag,
        "activityGroupNames" | "malwareFamilyNames" | "tags" => Shape::Texts,
        "expirationDateTime" | "ingestedDateTime" | "lastReportedDateTime" | "fileCompileDateTime" | "fileCreatedDateTime" => {
            Shape::Time
        }
        "emailSourceIpAddress" => Shape::Ip,
        "networkIPv4" | "networkDestinationIPv4" | "networkSourceIPv4" => Shape::Ipv4,
        "networkIPv6" | "networkDestinationIPv6" | "networkSourceIPv6" => Shape::Ipv6,
        "networkCidrBlock" | "networkDestinationCidrBlock" | "networkSourceCidrBlock" => Shape::Cidr,
        "domainName" => Shape::Domain,
        "url" => Shape::Url,
        "id"
        | "additionalInformation"
        | "azureTenantId"
        | "externalId"
        | "knownFalsePositives"
        | "emailEncoding"
        | "emailLanguage"
        | "emailRecipient"
        | "emailSenderAddress"
        | "emailSenderName"
        | "emailSourceDomain"
        | "emailSubject"
        | "emailXMailer"
        | "fileHashValue"
        | "fileMutexName"
        | "fileName"
        | "filePacker"
        | "filePath"
        | "fileType"
        | "userAgent" => Shape::Text,
        _ => return None,
    })
}

pub(crate) fn is_observable(name: &str) -> bool {
    let group = ["email", "file", "network"].iter().any(|group| name.starts_with(group));
    (group || matches!(name, "domainName" | "url" | "userAgent")) && shape(name).is_some()
}

/// A member whose JSON type is not the one of the schema: the whole body cannot be read.
pub(crate) fn misshapen(entity: &Entity) -> Option<&str> {
    let fits = |name: &str, value: &Value| match shape(name) {
        _ if value.is_null() => true,
        None => true,
        Some(Shape::Number(..)) => value.is_i64() || value.is_u64(),
        Some(Shape::Flag) => value.is_boolean(),
        Some(Shape::Texts | Shape::Choices(_)) => value.as_array().is_some_and(|items| items.iter().all(Value::is_string)),
        Some(_) => value.is_string(),
    };
    entity.iter().find(|(name, value)| !fits(name, value)).map(|(name, _)| name.as_str())
}

/// Checks the values of all members that are there.
fn values(entity: &Entity) -> Result<(), String> {
    for (name, value) in entity {
        let Some(shape) = shape(name) else { continue };
        if is_observable(name) && value.as_str().is_some_and(|text| text.trim().is_empty()) {
            return Err("Recieved an empty indicator value.".to_owned());
        }
        value_fits(name, &shape, value)?;
    }
    hash(entity)
}

fn value_fits(name: &str, shape: &Shape, value: &Value) -> Result<(), String> {
    let text = value.as_str().unwrap_or_default();
    let chosen = |choices: &[&str], text: &str| {
        if choices.contains(&text) { Ok(()) } else { Err(format!("{text} is not a valid value of {name}")) }
    };
    let good = match shape {
        Shape::Short(most) if text.chars().count() > *most => {
            return Err(format!("{name} is longer than {most} characters"));
        }
        Shape::Text | Shape::Texts | Shape::Flag | Shape::Short(_) => true,
        Shape::Choice(choices) => return chosen(choices, text),
        Shape::Choices(choices) => {
            let mut items = value.as_array().into_iter().flatten().filter_map(Value::as_str);
            return items.try_for_each(|item| chosen(choices, item));
        }
        Shape::Time => text.parse::<Timestamp>().is_ok(),
        Shape::Number(low, high) => value.as_i64().is_some_and(|number| (*low..=*high).contains(&number)),
        Shape::Cidr => cidr(text),
        Shape::Domain => domain(text),
        Shape::Url => text.split_once("://").is_some_and(|(_, rest)| !rest.is_empty()) && !text.contains(char::is_whitespace),
        Shape::Ip | Shape::Ipv4 | Shape::Ipv6 => {
            let ip = match shape {
                Shape::Ipv4 => text.parse::<Ipv4Addr>().is_ok(),
                Shape::Ipv6 => text.parse::<Ipv6Addr>().is_ok(),
                _ => text.parse::<IpAddr>().is_ok(),
            };
            return if ip { Ok(()) } else { Err(format!("{text} is not a valid IP address")) };
        }
    };
    if good { Ok(()) } else { Err(format!("{value} is not a valid value of {name}")) }
}

fn cidr(text: &str) -> bool {
    let Some((ip, length)) = text.split_once('/') else { return false };
    let most = match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    length.parse::<u8>().is_ok_and(|length| length <= most)
}

fn domain(text: &str) -> bool {
    let labels: Vec<&str> = text.split('.').collect();
    let strange = |c: char| c.is_whitespace() || matches!(c, '/' | ':' | '@' | '?' | '#' | '*');
    labels.len() > 1 && labels.iter().all(|label| !label.is_empty()) && !text.contains(strange)
}

/// Type and value of a hash come together, and fit.
fn hash(entity: &Entity) -> Result<(), String> {
    let text = |name: &str| entity.get(name).and_then(Value::as_str);
    let (kind, value) = match (text("fileHashType"), text("fileHashValue")) {
        (None, None) => return Ok(()),
        (Some(kind), Some(value)) => (kind, value),
        _ => return Err("fileHashType and fileHashValue must come together".to_owned()),
    };
    let digits = match kind {
        "md5" => 32,
        "sha1" => 40,
        "sha256" | "authenticodeHash256" => 64,
        _ => return Ok(()),
    };
    let good = value.len() == digits && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    if good { Ok(()) } else { Err(format!("{value} is not a valid value of the hash type {kind}")) }
}

fn without_nulls(mut entity: Entity) -> Entity {
    entity.retain(|_, value| !value.is_null());
    entity
}

/// An entity that may be created.
pub(crate) fn creatable(entity: Entity) -> Result<Entity, String> {
    let entity = without_nulls(entity);
    let Some(target) = entity.get("targetProduct").and_then(Value::as_str) else {
        return Err("targetProduct is required".to_owned());
    };
    let required: &[&str] =
        if target == DEFENDER { &["action"] } else { &["action", "description", "expirationDateTime", "threatType", "tlpLevel"] };
    if let Some(missing) = required.iter().find(|name| !entity.contains_key(**name)) {
        return Err(format!("{missing} is required"));
    }
    values(&entity)?;
    if target == DEFENDER {
        for_defender(&entity)?;
    } else if !entity.keys().any(|name| is_observable(name)) {
        return Err("Missing indicators value".to_owned());
    }
    Ok(entity)
}

/// Hash, domain, URL or destination address; no email, user agent, block or source. A destination alone is not found.
fn for_defender(entity: &Entity) -> Result<(), String> {
    let has = |name: &str| entity.contains_key(name);
    let addressed = |family: &str| has(&format!("networkDestination{family}"));
    let doubled = |family: &str| has(&format!("network{family}"));
    let missing = Err("Missing indicators value".to_owned());
    if ["IPv4", "IPv6"].iter().any(|family| addressed(family) && !doubled(family)) {
        return missing;
    }
    if !has("domainName") && !has("url") && !has("fileHashValue") && !addressed("IPv4") && !addressed("IPv6") {
        return missing;
    }
    let foreign = |name: &&String| {
        name.starts_with("email") || name.starts_with("networkSource") || name.ends_with("CidrBlock") || *name == "userAgent"
    };
    if let Some(name) = entity.keys().find(foreign) {
        return Err(format!("{name} is not supported for {DEFENDER}"));
    }
    for name in ["networkDestinationIPv4", "networkDestinationIPv6"] {
        if let Some(ip) = entity.get(name).and_then(Value::as_str)
            && ip.parse().is_ok_and(internal)
        {
            return Err(format!("{ip} is not a valid IP address"));
        }
    }
    Ok(())
}

/// The members that an update of an entity with this target changes; null takes one away.
pub(crate) fn changes(update: &Entity, target: &str) -> Result<Entity, String> {
    for name in ["expirationDateTime", "targetProduct"] {
        if update.get(name).is_none_or(Value::is_null) {
            return Err(format!("{name} is required"));
        }
    }
    if update.get("targetProduct").and_then(Value::as_str) != Some(target) {
        return Err(format!("targetProduct must be {target}"));
    }
    let editable: &[&str] = if target == DEFENDER { &EDITABLE_DEFENDER } else { &EDITABLE_SENTINEL };
    let mut changes = Entity::new();
    for (name, value) in update {
        if matches!(name.as_str(), "id" | "targetProduct") || name.starts_with('@') {
            continue;
        }
        if shape(name).is_some() && !editable.contains(&name.as_str()) {
            return Err(format!("{name} cannot be updated"));
        }
        changes.insert(name.clone(), value.clone());
    }
    values(&without_nulls(changes.clone()))?;
    Ok(changes)
}

/// All that an entity is about, as one text: two entities with the same are doubles.
pub(crate) fn observed(entity: &Entity) -> String {
    let parts = entity.iter().filter(|(name, _)| is_observable(name));
    parts.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entity(value: &Value) -> Entity {
        value.as_object().cloned().expect("an object")
    }

    fn with(target: &str, more: &Value) -> Result<Entity, String> {
        let mut all = entity(&json!({"targetProduct": target, "action": "alert", "description": "d", "threatType": "Malware",
            "tlpLevel": "amber", "expirationDateTime": "2026-12-31T00:00:00.5+00:00"}));
        all.extend(entity(more));
        creatable(all)
    }

    #[test]
    fn sentinel_asks_for_six_members_and_an_observable() {
        assert!(with(SENTINEL, &json!({"domainName": "a.example", "MISP": 7})).is_ok_and(|entity| entity["MISP"] == 7));
        for name in ["action", "description", "expirationDateTime", "targetProduct", "threatType", "tlpLevel"] {
            let missing = Err(format!("{name} is required"));
            assert_eq!(with(SENTINEL, &json!({"domainName": "a.example", name: null})), missing);
        }
        assert_eq!(with(SENTINEL, &json!({})), Err("Missing indicators value".to_owned()));
        assert_eq!(with(SENTINEL, &json!({"userAgent": " "})), Err("Recieved an empty indicator value.".to_owned()));
        assert!(with("Microsoft Sentinel", &json!({"domainName": "a.example"})).is_err());
    }

    #[test]
    fn values_are_checked() {
        let wrong = [
            json!({"confidence": 101}),
            json!({"severity": 6}),
            json!({"killChain": ["Recon"]}),
            json!({"tlpLevel": "Amber"}),
            json!({"threatType": "malware"}),
            json!({"description": "x".repeat(101)}),
            json!({"networkIPv4": "10.0.0.0/8"}),
            json!({"networkIPv6": "1.2.3.4"}),
            json!({"networkCidrBlock": "1.2.3.4/33"}),
            json!({"domainName": "http://a.example"}),
            json!({"url": "a.example/x"}),
            json!({"fileHashValue": "aa"}),
            json!({"fileHashType": "md5", "fileHashValue": "aa"}),
            json!({"networkProtocol": 256}),
            json!({"networkPort": 65_536}),
            json!({"lastReportedDateTime": "yesterday"}),
            json!({"action": "unknownFutureValue"}),
        ];
        for more in wrong {
            let mut all = json!({"userAgent": "x"});
            all.as_object_mut().expect("an object").extend(entity(&more));
            assert!(with(SENTINEL, &all).is_err(), "{more}");
        }
        assert_eq!(with(SENTINEL, &json!({"networkIPv4": "1.2.3.0/8"})), Err("1.2.3.0/8 is not a valid IP address".to_owned()));
        let good = json!({"confidence": 100, "killChain": ["C2"], "networkIPv6": "2001:db8::1", "networkProtocol": 6, "networkPort": 443});
        assert!(with(SENTINEL, &good).is_ok());
        assert_eq!(misshapen(&entity(&json!({"confidence": "1"}))), Some("confidence"));
        assert_eq!(misshapen(&entity(&json!({"tags": "a"}))), Some("tags"));
        assert_eq!(misshapen(&entity(&json!({"other": 1, "isActive": null}))), None);
    }

    #[test]
    fn defender_takes_few_observables() {
        let fits = |more: Value| with(DEFENDER, &more).is_ok();
        assert!(fits(json!({"domainName": "a.example", "threatType": null, "description": null, "expirationDateTime": null})));
        assert!(fits(json!({"fileHashType": "sha1", "fileHashValue": "a".repeat(40)})));
        assert!(fits(json!({"networkDestinationIPv4": "8.8.8.8", "networkIPv4": "8.8.8.8"})));
        assert!(fits(json!({"networkDestinationIPv6": "2001:db8::1", "networkIPv6": "2001:db8::1"})));
        assert!(!fits(json!({"networkDestinationIPv4": "8.8.8.8"})));
        assert!(!fits(json!({"networkDestinationIPv6": "2001:db8::1"})));
        assert!(!fits(json!({"networkIPv4": "8.8.8.8"})));
        assert!(!fits(json!({"networkDestinationIPv4": "10.0.0.1", "networkIPv4": "10.0.0.1"})));
        for name in ["emailSubject", "userAgent"] {
            assert!(!fits(json!({name: "x"})) && !fits(json!({"domainName": "a.example", name: "x"})), "{name}");
        }
        assert!(!fits(json!({"domainName": "a.example", "networkCidrBlock": "8.8.8.0/24"})));
    }

    #[test]
    fn updates_change_what_they_may() {
        let update = |target: &str, more: Value| {
            let mut all = entity(&json!({"id": "1", "targetProduct": target, "expirationDateTime": "2026-12-31T00:00:00Z"}));
            all.extend(entity(&more));
            changes(&all, target)
        };
        assert!(update(SENTINEL, json!({"tags": ["a"], "confidence": null, "own": 1})).is_ok_and(|changes| changes.len() == 4));
        assert!(update(SENTINEL, json!({"threatType": "C2"})).is_err());
        assert!(update(SENTINEL, json!({"domainName": "b.example"})).is_err());
        assert!(update(SENTINEL, json!({"severity": 9})).is_err());
        assert!(update(DEFENDER, json!({"severity": 4})).is_ok());
        assert!(update(DEFENDER, json!({"tags": []})).is_err());
        assert!(update(SENTINEL, json!({"expirationDateTime": null})).is_err());
        assert!(
            changes(&entity(&json!({"targetProduct": DEFENDER, "expirationDateTime": "2026-12-31T00:00:00Z"})), SENTINEL)
                .is_err()
        );
    }
}
