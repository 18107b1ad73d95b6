//! What the Indicators API takes of one indicator: members, types with their actions, values; and values in one form.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

/// An indicator as it was sent. A member of another JSON type makes the whole body unreadable.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Submitted {
    pub indicator_value: Option<String>,
    pub indicator_type: Option<String>,
    pub action: Option<String>,
    pub title: Option<String>,
    pub description: Option<String>,
    pub application: Option<String>,
    pub expiration_time: Option<String>,
    pub severity: Option<String>,
    pub recommended_actions: Option<String>,
    pub rbac_group_names: Option<Vec<String>>,
    pub rbac_group_ids: Option<Vec<String>>,
    pub educate_url: Option<String>,
    pub generate_alert: Option<bool>,
    /// The resource page spells it `externalID`.
    #[serde(alias = "externalID")]
    pub external_id: Option<String>,
    /// Members that the resource page does not list, and read-only ones.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Why one indicator is not taken: a code of the error page, and a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub code: &'static str,
    pub message: String,
}

/// What `check` found out.
#[derive(Debug)]
pub(crate) struct Checked {
    /// The value in the form under which it is compared.
    pub normal: String,
    pub expires: Option<Timestamp>,
}

fn refuse<T>(code: &'static str, message: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { code, message: message.into() })
}

/// Checks one indicator.
pub(crate) fn check(item: &Submitted, takes_md5: bool, now: Timestamp) -> Result<Checked, Refusal> {
    let required = [
        ("indicatorValue", &item.indicator_value),
        ("indicatorType", &item.indicator_type),
        ("action", &item.action),
        ("title", &item.title),
        ("description", &item.description),
    ];
    for (name, text) in required {
        if text.as_ref().is_none_or(|text| text.trim().is_empty()) {
            return refuse("MissingRequiredParameter", format!("The field {name} is required."));
        }
    }
    let text = |text: &'_ Option<String>| text.clone().unwrap_or_default();
    let (value, kind) = (text(&item.indicator_value), text(&item.indicator_type));
    action(&kind, &text(&item.action), item.generate_alert == Some(true))?;
    if let Some(severity) = &item.severity
        && !["Informational", "Low", "Medium", "High"].contains(&severity.as_str())
    {
        return refuse("InvalidInput", format!("Unknown severity {severity}."));
    }
    if kind == "FileMd5" && !takes_md5 {
        return refuse("InvalidInput", "Indicators of type FileMd5 cannot be created.");
    }
    value_fits(&kind, &value)?;
    let expires = match &item.expiration_time {
        None => None,
        Some(text) => match text.parse::<Timestamp>() {
            // The time is exact to the second.
            Ok(at) => Some(Timestamp::from_second(at.as_second()).unwrap_or(at)),
            Err(_) => return refuse("InvalidInput", format!("expirationTime {text} is not a valid time.")),
        },
    };
    if expires.is_some_and(|at| at <= now) {
        return refuse("InvalidInput", "expirationTime must be in the future.");
    }
    Ok(Checked { normal: normal(&value), expires })
}

fn action(kind: &str, action: &str, alerts: bool) -> Result<(), Refusal> {
    let network = matches!(kind, "IpAddress" | "DomainName" | "Url");
    let file = matches!(kind, "FileSha1" | "FileSha256" | "FileMd5");
    if !network && !file && kind != "CertificateThumbprint" {
        return refuse("InvalidInput", format!("Unknown indicator type {kind}."));
    }
    match action {
        "Alert" | "AlertAndBlock" => refuse("InvalidInput", format!("The action {action} is no longer supported.")),
        "Audit" if !alerts => refuse("InvalidInput", "generateAlert must be true for the action Audit."),
        "Allowed" => Ok(()),
        "BlockAndRemediate" if !network => Ok(()),
        "Audit" | "Block" | "Warn" if network || file => Ok(()),
        "Audit" | "Block" | "Warn" | "BlockAndRemediate" => {
            refuse("InvalidInput", format!("The action {action} is not supported for indicators of type {kind}."))
        }
        _ => refuse("InvalidInput", format!("Unknown action {action}.")),
    }
}

fn value_fits(kind: &str, value: &str) -> Result<(), Refusal> {
    if value.trim() != value {
        return refuse("InvalidInput", "The indicator value begins or ends with white space.");
    }
    let hash = |digits: usize| value.len() == digits && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    match kind {
        "FileMd5" if hash(32) => Ok(()),
        "FileSha1" | "CertificateThumbprint" if hash(40) => Ok(()),
        "FileSha256" if hash(64) => Ok(()),
        "IpAddress" => address(value),
        "DomainName" if domain(value) => Ok(()),
        "DomainName" => refuse("InvalidDomainName", format!("{value} is not a valid domain name.")),
        "Url" if url(value) => Ok(()),
        "Url" => refuse("InvalidUrl", format!("{value} is not a valid URL.")),
        _ => refuse("InvalidHashValue", format!("{value} is not a valid value of type {kind}.")),
    }
}

fn address(value: &str) -> Result<(), Refusal> {
    let Ok(ip) = value.parse::<IpAddr>() else {
        return refuse("InvalidIpAddress", format!("{value} is not a valid IP address."));
    };
    if ip.is_ipv6() && (value.contains("::") || value.split(':').count() != 8) {
        return refuse("InvalidIpAddress", format!("{value} must be written with all eight segments."));
    }
    if internal(ip) {
        return refuse("InvalidIpAddress", format!("{value} is not an external IP address."));
    }
    Ok(())
}

/// Not of the public Internet. Addresses that are set aside for documentation count as public here, because examples need some.
pub(crate) fn internal(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => internal_v4(ip),
        IpAddr::V6(ip) => internal_v6(ip),
    }
}

fn internal_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmark = a == 198 && (18..20).contains(&b);
    let protocol = (a, b, c) == (192, 0, 0);
    let plain = ip.is_private() || ip.is_loopback() || ip.is_link_local() || ip.is_multicast();
    plain || shared || benchmark || protocol || a == 0 || a >= 240
}

fn internal_v6(ip: Ipv6Addr) -> bool {
    let first = ip.segments()[0];
    let unique_local = first & 0xfe00 == 0xfc00;
    let link_local = first & 0xffc0 == 0xfe80;
    let mapped = ip.to_ipv4_mapped().is_some();
    ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || unique_local || link_local || mapped
}

fn domain(value: &str) -> bool {
    let labels: Vec<&str> = value.split('.').collect();
    let label = |label: &&str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    let numeric = labels.last().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    labels.len() > 1 && value.len() <= 253 && labels.iter().all(label) && !numeric && !value.starts_with('_')
}

fn url(value: &str) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else { return false };
    let known = ["http", "https", "ftp"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let place = authority.rsplit('@').next().unwrap_or(authority);
    let (host, port) = match place.strip_prefix('[').and_then(|v6| v6.split_once(']')) {
        Some((v6, port)) => (v6, port.strip_prefix(':')),
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let host_fits = domain(host) || host.parse::<IpAddr>().is_ok();
    known && port_fits && host_fits && !value.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// A value in one form: addresses as they are shortest, a URL's scheme and host in lower case and its empty path as `/`, all
/// else in lower case.
pub(crate) fn normal(value: &str) -> String {
    if let Ok(ip) = value.trim().parse::<IpAddr>() {
        return ip.to_string();
    }
    let Some((scheme, rest)) = value.split_once("://") else { return value.to_lowercase() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let slash = if path.starts_with('/') { "" } else { "/" };
    format!("{}://{}{slash}{path}", scheme.to_lowercase(), host.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(kind: &str, value: &str, action: &str, alerts: bool) -> &'static str {
        let item = serde_json::json!({"indicatorValue": value, "indicatorType": kind, "action": action, "title": "t", "description": "d", "generateAlert": alerts});
        let item = serde_json::from_value(item).expect("an indicator");
        check(&item, true, Timestamp::UNIX_EPOCH).map_or_else(|refusal| refusal.code, |_| "")
    }

    #[test]
    fn values_fit_their_types() {
        let block = |kind: &str, value: &str| checked(kind, value, "Block", false);
        for value in ["8.8.8.8", "203.0.113.7", "2001:db8:0:0:0:0:0:1", "2001:0DB8:0000:0000:0000:0000:0000:0001"] {
            assert_eq!(block("IpAddress", value), "", "{value}");
        }
        let wrong = "10.0.0.1 172.16.0.1 192.168.1.1 127.0.0.1 169.254.1.1 224.0.0.1 0.0.0.0 255.255.255.255 100.64.0.1 198.18.0.1 \
            8.8.8.0/24 8.8.8 2001:db8::1 ::1 0:0:0:0:0:0:0:1 fe80:0:0:0:0:0:0:1 fd00:0:0:0:0:0:0:1 ff02:0:0:0:0:0:0:1 0:0:0:0:0:ffff:808:808";
        for value in wrong.split_whitespace() {
            assert_eq!(block("IpAddress", value), "InvalidIpAddress", "{value}");
        }
        for value in
            ["*.evil.example", "_dmarc.evil.example", "evil", "evil.example.", "http://evil.example", "a..b", "-a.b", "1.2.3.4"]
        {
            assert_eq!(block("DomainName", value), "InvalidDomainName", "{value}");
        }
        for value in ["https://evil.example", "http://8.8.8.8:8080/a?b=c", "http://u@a_b.example/ü#f"] {
            assert_eq!(block("Url", value), "", "{value}");
        }
        for value in ["evil.example/a", "http://", "http://*.evil.example", "http://evil.example/a b", "http://a.example:port/"] {
            assert_eq!(block("Url", value), "InvalidUrl", "{value}");
        }
        assert_eq!(block("DomainName", "xn--bcher-kva.evil.example"), "");
        assert_eq!(block("DomainName", "evil.example "), "InvalidInput");
        assert_eq!(block("FileSha1", &"a".repeat(40)), "");
        assert_eq!(block("FileSha256", &"a".repeat(40)), "InvalidHashValue");
        assert_eq!(block("FileMd5", &"g".repeat(32)), "InvalidHashValue");
        assert_eq!(block("Domain", "evil.example"), "InvalidInput");
    }

    #[test]
    fn actions_fit_types_as_in_the_table() {
        let (hash, thumb) = ("a".repeat(64), "b".repeat(40));
        let fits = |kind, value: &str, action, alerts| checked(kind, value, action, alerts).is_empty();
        for action in ["Allowed", "Warn", "Block"] {
            assert!(fits("FileSha256", &hash, action, false) && fits("Url", "http://a.b", action, false), "{action}");
        }
        assert!(fits("FileSha256", &hash, "BlockAndRemediate", false));
        assert!(!fits("DomainName", "evil.example", "BlockAndRemediate", false));
        assert!(fits("DomainName", "evil.example", "Audit", true));
        assert!(!fits("DomainName", "evil.example", "Audit", false));
        assert!(fits("CertificateThumbprint", &thumb, "BlockAndRemediate", false));
        assert!(!fits("CertificateThumbprint", &thumb, "Block", false));
        for action in ["Alert", "AlertAndBlock", "Allow", "block"] {
            assert!(!fits("FileSha256", &hash, action, true), "{action}");
        }
    }

    #[test]
    fn one_form_per_value() {
        assert_eq!(normal("2001:0DB8:0:0:0:0:0:1"), "2001:db8::1");
        assert_eq!(normal("HTTP://Evil.Example?Q=1"), "http://evil.example/?Q=1");
        assert_eq!(normal("http://evil.example/A"), "http://evil.example/A");
        assert_eq!(normal("EVIL.example"), "evil.example");
    }
}
