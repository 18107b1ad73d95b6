//! Kinds of values: what each accepts, and how its text is read. Knows no key.

use std::time::Duration;

use jiff::{Span, SpanRelativeTo};
use url::{Host, Url};

use crate::indicator::{Kind, ThreatRating};

/// What a setting takes; says so in messages, tables and the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Described in words.
    Text(&'static str),
    List(&'static str),
    /// One of these, whatever the case.
    Choice(&'static [&'static str]),
    /// Any of these, as a list.
    Choices(&'static [&'static str]),
    Switch,
    Whole {
        from: u64,
        to: u64,
    },
    /// 0 to 5, at most two decimals.
    Rating,
    Percent,
    Duration,
    Schedule,
    LastRun,
    Address,
    /// The name of a secret in a vault.
    SecretName,
    /// Of a storage account; holds its key.
    ConnectionString,
}

impl Shape {
    /// Completes "give …".
    pub(super) fn accepts(self) -> String {
        let any = |names: &[&str], last: &str| match names {
            [] => String::new(),
            [one] => format!("`{one}`"),
            [others @ .., one] => format!("`{}` {last} `{one}`", others.join("`, `")),
        };
        match self {
            Self::Text(what) => what.to_owned(),
            Self::List(what) => format!("{what}: a JSON array, or separated by `|`"),
            Self::Choice(names) => any(names, "or"),
            Self::Choices(names) => format!("any of {}: a JSON array, or separated by `|`", any(names, "and")),
            Self::Switch => "`on` or `off` (also `true`, `false`, `1`, `0`)".to_owned(),
            Self::Whole { from, to: u64::MAX } => format!("a whole number from {from} up"),
            Self::Whole { from, to } => format!("a whole number from {from} to {to}"),
            Self::Rating => "a number from 0 to 5 with at most two decimals".to_owned(),
            Self::Percent => "a whole number of percent from `0%` to `100%`".to_owned(),
            Self::Duration => "a duration such as `90s`, `15m`, `24h`, `1d` or `PT15M`".to_owned(),
            Self::Schedule => "an NCRONTAB schedule in UTC, such as `0 */15 * * * *`".to_owned(),
            Self::LastRun => "`30 days ago`, a date `2023-11-21`, or a date and time `2023-11-21T10:11:12Z`".to_owned(),
            Self::Address => {
                "an `https://` address without user name, query and fragment (`http://` for loopback addresses only)".to_owned()
            }
            Self::ConnectionString => {
                "`UseDevelopmentStorage=true`, or a connection string with `AccountName` and `AccountKey`".to_owned()
            }
            Self::SecretName => "the name of a secret in the vault: letters, digits and `-`, at most 127".to_owned(),
        }
    }

    fn refuse(self) -> String {
        format!("give {}", self.accepts())
    }

    pub(super) fn whole(self, text: &str) -> Result<u64, String> {
        let range = match self {
            Self::Whole { from, to } => from..=to,
            _ => 0..=u64::MAX,
        };
        digits(text).filter(|value| range.contains(value)).ok_or_else(|| self.refuse())
    }
}

/// The names of a table of choices.
pub(super) const fn names<T: Copy, const N: usize>(choices: &[(&'static str, T); N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut i = 0;
    while i < N {
        names[i] = choices[i].0;
        i += 1;
    }
    names
}

pub(super) fn choice<T: Copy, const N: usize>(text: &str, choices: &[(&'static str, T); N]) -> Result<T, String> {
    let found = choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    found.map(|(_, value)| *value).ok_or_else(|| {
        let names = choices.map(|(name, _)| name);
        format!("give one of `{}`", names.join("`, `"))
    })
}

pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "on" | "true" | "1" => Ok(true),
        "off" | "false" | "0" => Ok(false),
        _ => Err(Shape::Switch.refuse()),
    }
}

pub(super) fn rating(text: &str) -> Result<ThreatRating, String> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let hundredths = || {
        let fraction = match fraction.len() {
            1 => digits(fraction)? * 10,
            2 => digits(fraction)?,
            _ => return None,
        };
        let hundredths = digits(whole)?.checked_mul(100)?.checked_add(fraction)?;
        ThreatRating::from_hundredths(u16::try_from(hundredths).ok()?)
    };
    hundredths().ok_or_else(|| Shape::Rating.refuse())
}

pub(super) fn percent(text: &str) -> Result<u8, String> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let value = digits(number).and_then(|value| u8::try_from(value).ok()).filter(|value| *value <= 100);
    value.ok_or_else(|| Shape::Percent.refuse())
}

/// Longer than nothing. A day has 24 hours; months and years have no length.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let span = text.parse::<Span>().ok();
    let length = span.and_then(|span| span.to_duration(SpanRelativeTo::days_are_24_hours()).ok());
    let length = length.and_then(|length| Duration::try_from(length).ok()).filter(|length| !length.is_zero());
    length.ok_or_else(|| Shape::Duration.refuse())
}

/// A JSON array of strings, or values separated by one of `separators`. Blank values are dropped.
pub(super) fn list(text: &str, separators: &[char]) -> Result<Vec<String>, String> {
    let values = if text.starts_with('[') {
        serde_json::from_str::<Vec<String>>(text).map_err(|_| "begins like a JSON array but is no array of strings".to_owned())?
    } else {
        text.split(separators).map(str::to_owned).collect()
    };
    Ok(values.iter().map(|value| value.trim()).filter(|value| !value.is_empty()).map(str::to_owned).collect())
}

/// The guide's names or ThreatConnect's, whatever case, blanks and hyphens; `File` stands for its three hashes. In the guide's order.
pub(super) fn kinds(text: &str) -> Result<Vec<Kind>, String> {
    let plain = |name: &str| name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let mut wanted = Vec::new();
    let mut unknown = Vec::new();
    for name in list(text, &['|'])? {
        let named = |kind: &Kind| [kind.guide_name(), kind.type_name()].iter().any(|known| plain(known) == plain(&name));
        let before = wanted.len();
        wanted.extend(Kind::ALL.into_iter().filter(named));
        if wanted.len() == before {
            unknown.push(name.escape_debug().to_string());
        }
    }
    if !unknown.is_empty() {
        let names = Kind::ALL.map(Kind::guide_name);
        return Err(format!(
            "no indicator type `{}`; give any of `{}` as a JSON array, or separated by `|`",
            unknown.join("`, `"),
            names.join("`, `")
        ));
    }
    Ok(Kind::ALL.into_iter().filter(|kind| wanted.contains(kind)).collect())
}

/// An address without a slash at its end. Plain HTTP is accepted where nobody can listen: on loopback.
pub(super) fn address(text: &str) -> Result<Url, String> {
    let refuse = || Shape::Address.refuse();
    let mut url = Url::parse(text).map_err(|_| refuse())?;
    let loopback = match url.host().ok_or_else(refuse)? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    let safe = url.scheme() == "https" || url.scheme() == "http" && loopback;
    let bare = url.username().is_empty() && url.password().is_none() && url.query().is_none() && url.fragment().is_none();
    if !safe || !bare {
        return Err(refuse());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

/// A GUID in its usual form, so that another spelling is not another workspace.
pub(super) fn guid(text: &str) -> Result<String, String> {
    let id = uuid::Uuid::try_parse(text).map_err(|_| "give a GUID, such as `12345678-90ab-cdef-1234-567890abcdef`".to_owned())?;
    Ok(id.hyphenated().to_string())
}

/// A tenant's id, or one of its domain names: it becomes a part of addresses.
pub(super) fn tenant(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    if plain { Ok(text.to_owned()) } else { Err("give the id of the tenant, or one of its domain names".to_owned()) }
}

/// Sentinel keeps its own name for itself.
pub(super) fn source_system(text: &str) -> Result<String, String> {
    if text.eq_ignore_ascii_case("Microsoft Sentinel") {
        return Err("is reserved by Sentinel; give another name".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn secret_name(text: &str) -> Result<String, String> {
    let valid = text.len() <= 127 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if valid && !text.is_empty() { Ok(text.to_owned()) } else { Err(Shape::SecretName.refuse()) }
}

fn digits(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_take_three_pairs_of_words() {
        for (text, expected) in [("on", true), ("TRUE", true), ("1", true), ("off", false), ("False", false), ("0", false)] {
            assert_eq!(switch(text), Ok(expected));
        }
        assert!(switch("yes").is_err_and(|reason| reason.contains("`on` or `off`")));
    }

    #[test]
    fn durations_are_short_or_iso() {
        for (text, seconds) in [
            ("24h", 86_400),
            ("15m", 900),
            ("90s", 90),
            ("1d", 86_400),
            ("PT15M", 900),
            ("P1D", 86_400),
            ("1h30m", 5400),
            ("1w", 604_800),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for text in ["24", "0s", "-5m", "5m ago", "1mo", "1y", "", "soon", "P1M"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lists_are_json_or_separated_and_keep_commas() {
        let values = |text| list(text, &['|']).expect("a list");
        assert_eq!(values("APT29, Russia | Ransomware||"), ["APT29, Russia", "Ransomware"]);
        assert_eq!(values(r#"["a|b", " c "]"#), ["a|b", "c"]);
        assert_eq!(list("a,b|c", &['|', ',']).expect("a list"), ["a", "b", "c"]);
        assert!(list("[a, b]", &['|']).is_err());
        assert!(list("[1]", &['|']).is_err());
    }

    #[test]
    fn kinds_have_the_guides_names_and_threatconnects() {
        assert_eq!(kinds("url|EMAIL ADDRESS|emailaddress"), Ok(vec![Kind::EmailAddress, Kind::Url]));
        assert_eq!(kinds("File"), Ok(vec![Kind::Md5, Kind::Sha1, Kind::Sha256]));
        assert_eq!(kinds("SHA-256|CIDR"), Ok(vec![Kind::Cidr, Kind::Sha256]));
        assert!(kinds("Address, Host").is_err_and(|reason| reason.contains("`Address, Host`") && reason.contains("`|`")));
    }

    #[test]
    fn addresses_are_https_or_loopback() {
        for (text, expected) in [
            ("https://example.threatconnect.com/api/", "https://example.threatconnect.com/api"),
            ("https://example.com", "https://example.com/"),
            ("http://127.0.0.1:8080/api", "http://127.0.0.1:8080/api"),
            ("http://[::1]/", "http://[::1]/"),
            ("http://localhost:1", "http://localhost:1/"),
        ] {
            assert_eq!(address(text).map(String::from), Ok(expected.to_owned()));
        }
        for text in [
            "http://example.com",
            "http://localhost.example.com",
            "ftp://127.0.0.1",
            "https://u@example.com",
            "https://u:p@example.com",
            "https://example.com/?sig=1",
            "https://example.com/#a",
            "example.com",
            "mailto:a@example.com",
            "https://",
        ] {
            assert!(address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_have_no_sign_and_keep_their_range() {
        let days = Shape::Whole { from: 1, to: 3650 };
        assert_eq!(days.whole("3650"), Ok(3650));
        for text in ["0", "3651", "+1", "-1", "1.5", "", "99999999999999999999999"] {
            assert!(days.whole(text).is_err(), "{text}");
        }
        assert_eq!(rating("3.5").map(ThreatRating::hundredths), Ok(350));
        assert_eq!(rating("0").map(ThreatRating::hundredths), Ok(0));
        for text in ["5.01", "6", ".", "3.", "1.234", "-1", ""] {
            assert!(rating(text).is_err(), "{text}");
        }
        assert_eq!((percent("20%"), percent("0"), percent("100 %")), (Ok(20), Ok(0), Ok(100)));
        assert!(percent("101%").is_err() && percent("%").is_err());
    }

    #[test]
    fn ids_and_secret_names_are_checked() {
        assert_eq!(guid("{12345678-90AB-CDEF-1234-567890ABCDEF}").as_deref(), Ok("12345678-90ab-cdef-1234-567890abcdef"));
        assert!(guid("/subscriptions/1/workspaces/w").is_err());
        assert_eq!(secret_name("threatconnect-token").as_deref(), Ok("threatconnect-token"));
        assert!(secret_name("aB8~secret").is_err() && secret_name(&"a".repeat(128)).is_err());
    }
}
