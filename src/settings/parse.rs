//! From text to meaning, one function per kind of value. Pure; each error completes "`KEY` …".

use std::time::Duration;

use jiff::SignedDuration;
use url::Url;

use super::LoggingLevel;
use crate::export::{LastRun, Resend};
use crate::indicator::{ActionToTake, Confidence, Kind, NeverSend, ThreatAssessScore, ThreatRating, Tlp};
use crate::platform::http::transport_allowed;
use crate::platform::schedule::Schedule;

pub(crate) const SWITCH: &str = "on, off, true, false, 1, 0";
pub(crate) const DURATION: &str = "`24h`, `15m`, `90s`, `2d`, or ISO 8601 such as `PT15M`";
pub(crate) const URL: &str = "an https address (http for this machine only)";

/// A row of the clouds that Microsoft runs (vendor pages on national clouds).
#[derive(Debug)]
pub(crate) struct Cloud {
    pub name: &'static str,
    pub login: &'static str,
    pub sentinel: &'static str,
    pub sentinel_scope: &'static str,
}

pub(crate) static CLOUDS: [Cloud; 4] = [
    Cloud {
        name: "global",
        login: "https://login.microsoftonline.com",
        sentinel: "https://api.ti.sentinel.azure.com",
        sentinel_scope: "https://management.azure.com/.default",
    },
    Cloud {
        name: "usgov",
        login: "https://login.microsoftonline.us",
        sentinel: "https://api.ti.sentinel.azure.us",
        sentinel_scope: "https://management.usgovcloudapi.net/.default",
    },
    Cloud {
        name: "usgov-dod",
        login: "https://login.microsoftonline.us",
        sentinel: "https://api.ti.sentinel.azure.us",
        sentinel_scope: "https://management.usgovcloudapi.net/.default",
    },
    Cloud {
        name: "china",
        login: "https://login.partner.microsoftonline.cn",
        sentinel: "https://api.ti.sentinel.azure.cn",
        sentinel_scope: "https://management.chinacloudapi.cn/.default",
    },
];

/// The guide's target products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TargetProduct {
    Sentinel,
    Defender,
}

pub(crate) fn text(_: &str) -> Result<(), String> {
    Ok(())
}

/// Goes into the path of an address.
pub(crate) fn name(text: &str) -> Result<(), String> {
    let fits = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_'));
    if fits { Ok(()) } else { Err("holds a character that no id has".to_owned()) }
}

pub(crate) fn query(text: &str) -> Result<(), String> {
    if text.chars().any(char::is_control) { Err("holds a control character".to_owned()) } else { Ok(()) }
}

pub(crate) fn source_system(text: &str) -> Result<(), String> {
    let reserved = text.trim().eq_ignore_ascii_case("Microsoft Sentinel");
    if reserved { Err("is reserved by Microsoft".to_owned()) } else { Ok(()) }
}

/// One of `choices`, in any case.
fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text.trim()));
    found.map(|(_, value)| *value).ok_or_else(|| "is none of the accepted values".to_owned())
}

pub(crate) fn tlp(text: &str) -> Result<Tlp, String> {
    choice(text, &[("white", Tlp::White), ("clear", Tlp::White), ("green", Tlp::Green), ("amber", Tlp::Amber), ("red", Tlp::Red)])
}

pub(crate) fn target_product(text: &str) -> Result<TargetProduct, String> {
    choice(text, &[("Microsoft Sentinel", TargetProduct::Sentinel), ("Microsoft Defender for Endpoint", TargetProduct::Defender)])
}

pub(crate) fn action(text: &str) -> Result<ActionToTake, String> {
    choice(text, &ActionToTake::ALL.map(|action| (action.name(), action)))
}

pub(crate) fn resend(text: &str) -> Result<Resend, String> {
    choice(text, &[("changed", Resend::Changed), ("always", Resend::Always)])
}

/// True for Graph.
pub(crate) fn delivery(text: &str) -> Result<bool, String> {
    choice(text, &[("product", false), ("graph", true)])
}

/// True for a managed identity.
pub(crate) fn identity(text: &str) -> Result<bool, String> {
    choice(text, &[("secret", false), ("managed", true)])
}

pub(crate) fn cloud(text: &str) -> Result<&'static Cloud, String> {
    let found = CLOUDS.iter().find(|cloud| cloud.name.eq_ignore_ascii_case(text.trim()));
    found.ok_or_else(|| "is none of the accepted values".to_owned())
}

pub(crate) fn logging_level(text: &str) -> Result<LoggingLevel, String> {
    use LoggingLevel::{Debug, Error, Info, Trace, Warn};
    choice(text, &[("trace", Trace), ("debug", Debug), ("info", Info), ("warn", Warn), ("warning", Warn), ("error", Error)])
}

pub(crate) fn switch(text: &str) -> Result<bool, String> {
    choice(text, &[("on", true), ("true", true), ("1", true), ("off", false), ("false", false), ("0", false)])
}

fn number(text: &str, least: u64, most: u64) -> Result<u64, String> {
    let value: u64 = text.trim().parse().map_err(|_| "is no whole number".to_owned())?;
    if (least..=most).contains(&value) { Ok(value) } else { Err("is out of range".to_owned()) }
}

pub(crate) fn count(text: &str) -> Result<u64, String> {
    number(text, 0, u64::MAX)
}

pub(crate) fn days(text: &str) -> Result<u16, String> {
    number(text, 1, 3_650).map(|days| u16::try_from(days).unwrap_or(3_650))
}

pub(crate) fn page_size(text: &str) -> Result<u32, String> {
    number(text, 1, 10_000).map(|size| u32::try_from(size).unwrap_or(10_000))
}

pub(crate) fn percent(text: &str) -> Result<u8, String> {
    number(text.trim().trim_end_matches('%'), 0, 100).map(|percent| u8::try_from(percent).unwrap_or(100))
}

pub(crate) fn score(text: &str) -> Result<ThreatAssessScore, String> {
    ThreatAssessScore::new(number(text, 0, 1_000)?).ok_or_else(|| "is out of range".to_owned())
}

pub(crate) fn confidence(text: &str) -> Result<Confidence, String> {
    Confidence::new(number(text, 0, 100)?).ok_or_else(|| "is out of range".to_owned())
}

pub(crate) fn rating(text: &str) -> Result<ThreatRating, String> {
    let value: f64 = text.trim().parse().map_err(|_| "is no number".to_owned())?;
    ThreatRating::from_f64(value).ok_or_else(|| "is out of range".to_owned())
}

/// A JSON array of strings, or values separated by `|`. No value is empty or holds a control character.
pub(crate) fn list(text: &str) -> Result<Vec<String>, String> {
    let text = text.trim();
    let values: Vec<String> = if text.starts_with('[') {
        serde_json::from_str(text).map_err(|_| "begins as a JSON array but is none of strings".to_owned())?
    } else {
        text.split('|').map(|value| value.trim().to_owned()).collect()
    };
    if values.is_empty() || values.iter().any(String::is_empty) {
        return Err("holds an empty value".to_owned());
    }
    if values.iter().any(|value| value.chars().any(char::is_control)) {
        return Err("holds a control character".to_owned());
    }
    Ok(values)
}

pub(crate) fn kinds(text: &str) -> Result<Vec<Kind>, String> {
    let mut kinds = Vec::new();
    for name in list(text)? {
        let matches = |kind: &&Kind| kind.guide_name().eq_ignore_ascii_case(&name) || kind.report_name().eq_ignore_ascii_case(&name);
        match Kind::ALL.iter().find(matches) {
            Some(kind) if kinds.contains(kind) => {}
            Some(kind) => kinds.push(*kind),
            None => return Err(format!("names the type `{name}`")),
        }
    }
    Ok(kinds)
}

pub(crate) fn never_send(text: &str) -> Result<NeverSend, String> {
    NeverSend::parse(&list(text)?).map_err(|problems| problems.join("; "))
}

pub(crate) fn jobs(text: &str) -> Result<Vec<String>, String> {
    let text = text.trim();
    let names = if text.starts_with('[') { list(text)? } else { list(&text.replace(',', "|"))? };
    for (i, name) in names.iter().enumerate() {
        let begins = name.starts_with(|c: char| c.is_ascii_lowercase());
        if !begins || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-') {
            return Err(format!("names a job `{name}`"));
        }
        if names[..i].contains(name) {
            return Err(format!("names the job `{name}` twice"));
        }
    }
    Ok(names)
}

pub(crate) fn schedule(text: &str) -> Result<Schedule, String> {
    Schedule::parse(text)
}

pub(crate) fn last_run(text: &str) -> Result<LastRun, String> {
    LastRun::parse(text)
}

/// `24h`, `15m`, or ISO 8601; more than nothing.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let unit = |seconds: u64| text[..text.len() - 1].trim().parse::<u64>().ok().and_then(|n| n.checked_mul(seconds));
    let short = match text.as_bytes().last() {
        Some(b's') => unit(1),
        Some(b'm') => unit(60),
        Some(b'h') => unit(3_600),
        Some(b'd') => unit(86_400),
        _ => None,
    };
    let iso = || text.parse::<SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
    let duration = short.map(Duration::from_secs).or_else(iso).ok_or_else(|| "is no duration".to_owned())?;
    if duration.is_zero() { Err("must be longer than nothing".to_owned()) } else { Ok(duration) }
}

pub(crate) fn url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text.trim()).map_err(|e| format!("is no address: {e}"))?;
    if !transport_allowed(&url) {
        return Err("is neither https nor on this machine".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
        return Err("may hold scheme, host, port and path only".to_owned());
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_json_or_separated_by_bars() {
        assert_eq!(list("Acme Org | R&D, Source").expect("a list"), ["Acme Org", "R&D, Source"]);
        assert_eq!(list(r#"["a|b", "c"]"#).expect("a list"), ["a|b", "c"]);
        assert!(list("a||b").is_err() && list("[1]").is_err() && list("a\u{7}").is_err());
        assert_eq!(jobs("sentinel, defender-2").expect("jobs"), ["sentinel", "defender-2"]);
        assert!(jobs("Sentinel").is_err() && jobs("a,a").is_err() && jobs("a_b").is_err());
    }

    #[test]
    fn durations_are_short_or_iso() {
        let seconds = |text: &str| duration(text).map(|d| d.as_secs());
        assert_eq!((seconds("24h"), seconds("15m"), seconds("PT15M"), seconds("2d")), (Ok(86_400), Ok(900), Ok(900), Ok(172_800)));
        assert!(seconds("0h").is_err() && seconds("soon").is_err() && seconds("-1h").is_err() && seconds("").is_err());
    }

    #[test]
    fn kinds_are_the_guides_names_in_any_case() {
        assert_eq!(kinds("url|Email Address|EmailAddress"), Ok(vec![Kind::Url, Kind::EmailAddress]));
        assert_eq!(kinds("ASN"), Err("names the type `ASN`".to_owned()));
    }

    #[test]
    fn addresses_hold_no_credentials_and_are_not_plain() {
        assert!(url("https://app.threatconnect.com/api").is_ok() && url("http://127.0.0.1:1234/api").is_ok());
        assert!(url("http://app.threatconnect.com/api").is_err() && url("https://u:p@x.example").is_err() && url("x").is_err());
    }
}
