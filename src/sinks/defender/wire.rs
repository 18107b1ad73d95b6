//! Bodies of the Indicators API: how requests are written, and what answers say.

use std::collections::HashMap;
use std::net::IpAddr;

use percent_encoding::utf8_percent_encode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use url::Url;

use crate::platform::http::{ENCODED, excerpt, path_below};
use crate::sinks::{Answer, body_of, cut, says_full};

/// Characters of a foreign message that we repeat.
const EXCERPT: usize = 200;
/// Bytes of one filter: longer request lines are refused on the way.
const FILTER: usize = 1_500;
/// Comparisons in one filter: OData services bound the nodes of an expression.
const COMPARISONS: usize = 15;
/// Requests that look values up; for more, one list of everything is cheaper.
const LOOK_UPS: usize = 5;

/// The body of an import.
pub(crate) fn import(payloads: &[&[u8]]) -> Vec<u8> {
    body_of(b"{\"Indicators\":[", payloads.iter().copied())
}

/// The body of a bulk deletion.
pub(crate) fn deletion(ids: &[&str]) -> Vec<u8> {
    serde_json::json!({ "IndicatorIds": ids }).to_string().into_bytes()
}

/// Filters that find these values, percent-encoded; none if they would be too long or too many.
pub(crate) fn filters(values: &[String]) -> Option<Vec<String>> {
    let or = utf8_percent_encode(" or ", ENCODED).to_string();
    let mut filters: Vec<String> = Vec::new();
    let mut comparisons = COMPARISONS;
    for value in values {
        let comparison = format!("indicatorValue eq '{}'", value.replace('\'', "''"));
        let comparison = utf8_percent_encode(&comparison, ENCODED).to_string();
        let fits = |filter: &String| comparisons < COMPARISONS && filter.len() + or.len() + comparison.len() <= FILTER;
        if let Some(filter) = filters.last_mut().filter(|filter| fits(filter)) {
            filter.push_str(&or);
            filter.push_str(&comparison);
            comparisons += 1;
        } else if comparison.len() > FILTER || filters.len() == LOOK_UPS {
            return None;
        } else {
            filters.push(comparison);
            comparisons = 1;
        }
    }
    Some(filters)
}

/// One indicator of a list. What of it cannot be read is empty: it takes a place at the target all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub id: String,
    pub value: String,
    pub indicator_type: String,
    pub action: String,
    /// None if it has some that are not named.
    pub groups: Option<Vec<String>>,
    pub application: String,
}

/// One page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    pub entries: Vec<Entry>,
    /// Of the next page, as the service writes it.
    pub next: Option<String>,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    /// Taken apart one by one: an indicator has thirty members, a page ten thousand indicators.
    #[serde(borrow)]
    value: Vec<&'a RawValue>,
    #[serde(rename = "@odata.nextLink")]
    next: Option<String>,
}

/// Reads a page; none if it is no list.
pub(crate) fn page(body: &[u8]) -> Option<Page> {
    let raw: RawPage<'_> = serde_json::from_slice(body).ok()?;
    let entries = raw.value.iter().filter_map(|raw| entry(&serde_json::from_str(raw.get()).ok()?)).collect();
    Some(Page { entries, next: raw.next.filter(|link| !link.is_empty()) })
}

fn entry(value: &Value) -> Option<Entry> {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    // The pages call it a list of strings, and, some of them, one string with commas.
    let names: Vec<&str> = match value.get("rbacGroupNames") {
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        Some(Value::String(names)) => names.split(',').filter(|name| !name.trim().is_empty()).collect(),
        _ => Vec::new(),
    };
    let has_ids = value.get("rbacGroupIds").and_then(Value::as_array).is_some_and(|ids| !ids.is_empty());
    let groups = (!names.is_empty() || !has_ids).then(|| names.into_iter().map(str::to_owned).collect());
    Some(Entry {
        id: any_id(value.get("id")?).filter(|id| !id.is_empty())?,
        value: text("indicatorValue"),
        indicator_type: text("indicatorType"),
        action: text("action"),
        groups,
        application: text("application"),
    })
}

/// The pages have a text, where others give a number.
fn any_id(value: &Value) -> Option<String> {
    match value {
        Value::Number(number) => Some(number.to_string()),
        Value::String(text) => Some(text.trim().to_owned()),
        _ => None,
    }
}

/// The id of an indicator that was accepted: a decimal number; zero is none.
fn id(value: &Value) -> Option<String> {
    any_id(value).filter(|id| id.bytes().all(|b| b.is_ascii_digit()) && id.bytes().any(|b| b != b'0'))
}

/// Path and query of a link, which may be relative.
pub(crate) fn below(base: &Url, link: &str) -> Option<String> {
    path_below(base, &base.join(link).ok()?)
}

/// One spelling for all that the service may give a value: two values of the same name are never sent in one call.
pub(crate) fn name(value: &str) -> String {
    let value = value.trim();
    if let Ok(ip) = value.parse::<IpAddr>() {
        return ip.to_canonical().to_string();
    }
    if value.contains("://") {
        return url_name(value);
    }
    let host = value.trim_end_matches(['.', '/']);
    idna::domain_to_ascii(host).unwrap_or_else(|_| host.to_lowercase())
}

fn url_name(value: &str) -> String {
    let Ok(mut url) = Url::parse(value) else { return value.trim_end_matches('/').to_lowercase() };
    if let Some(host) = url.host_str().and_then(|host| host.strip_suffix('.')).map(str::to_owned) {
        let _ = url.set_host(Some(&host)); // a host that is none without its dot stays as it is
    }
    url.as_str().to_lowercase().trim_end_matches('/').to_owned()
}

/// What one line of an import's answer says.
#[derive(Debug)]
struct Line {
    id: Option<String>,
    failed: Option<bool>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Lines {
    value: Vec<Value>,
}

/// What a 200 says of each item, by its name. HTTP 200 itself says nothing of items.
pub(crate) fn answers(body: &[u8], names: &[&str], correlation: Option<&str>) -> Vec<Answer> {
    let Ok(read) = serde_json::from_slice::<Lines>(body) else {
        return vec![Answer::Unanswered { reason: "Defender's answer could not be read".to_owned() }; names.len()];
    };
    let mut lines: HashMap<String, Vec<Line>> = HashMap::new();
    for value in &read.value {
        let Some(indicator) = value.get("indicator").and_then(Value::as_str) else { continue };
        let reason = value.get("failureReason").and_then(Value::as_str).map(one_line);
        let failed = value.get("isFailed").and_then(Value::as_bool);
        let line = Line { id: value.get("id").and_then(id), failed, reason };
        lines.entry(name(indicator)).or_default().push(line);
    }
    names.iter().map(|name| answer(lines.get(*name).map_or(&[], Vec::as_slice), correlation)).collect()
}

fn answer(lines: &[Line], correlation: Option<&str>) -> Answer {
    let unanswered = |reason: &str| Answer::Unanswered { reason: format!("Defender's answer {reason}") };
    let Some(first) = lines.first() else { return unanswered("does not name it") };
    let mut ids: Vec<&String> = lines.iter().filter_map(|line| line.id.as_ref()).collect();
    ids.sort();
    ids.dedup();
    match first.failed {
        _ if lines.iter().any(|line| line.failed != first.failed) => unanswered("contradicts itself"),
        None => unanswered("does not say whether it was accepted"),
        Some(false) if ids.len() > 1 => unanswered("gives it several ids"),
        Some(false) => Answer::Accepted { remote_id: ids.first().map(|id| (*id).clone()) },
        Some(true) => {
            let reason = first.reason.clone().filter(|reason| !reason.is_empty());
            refused(reason.unwrap_or_else(|| "refused without a reason".to_owned()), correlation)
        }
    }
}

/// No page lists the reasons: the words decide.
fn refused(reason: String, correlation: Option<&str>) -> Answer {
    const PASSING: [&str; 8] = [
        "try again",
        "internal server error",
        "internal error",
        "timeout",
        "timed out",
        "temporarily",
        "too many requests",
        "throttl",
    ];
    if says_full(&reason) {
        return Answer::Full { reason };
    }
    let text = reason.to_lowercase();
    if PASSING.iter().any(|words| text.contains(words)) {
        return Answer::Unanswered { reason };
    }
    Answer::Refused { reason, correlation: correlation.map(str::to_owned) }
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorText,
}

#[derive(Deserialize)]
struct ErrorText {
    code: Option<String>,
    message: Option<String>,
    target: Option<String>,
}

/// What the body of an error says, in one line, and the id under which the vendor finds it again.
pub(crate) fn error(body: &[u8]) -> (Option<String>, Option<String>) {
    let Ok(ErrorBody { error }) = serde_json::from_slice(body) else { return (excerpt(body), None) };
    let parts: Vec<&str> = [&error.code, &error.message].into_iter().flatten().map(String::as_str).collect();
    let said = one_line(&parts.join(": "));
    (Some(said).filter(|said| !said.is_empty()), error.target.as_deref().map(one_line).filter(|target| !target.is_empty()))
}

fn one_line(text: &str) -> String {
    cut(&text.split_whitespace().collect::<Vec<_>>().join(" "), EXCERPT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &str, names: &[&str]) -> Vec<Answer> {
        answers(format!("{{\"value\":[{lines}]}}").as_bytes(), names, Some("r"))
    }

    fn is_unanswered(answer: &Answer) -> bool {
        matches!(answer, Answer::Unanswered { .. })
    }

    #[test]
    fn lines_belong_to_their_values_whatever_their_order_and_spelling() {
        let lines = r#"
            {"id":"9","indicator":"stranger.example","isFailed":false},
            {"id":"3","indicator":"2001:0DB8:0000:0:0:0:0:25","isFailed":false,"failureReason":null},
            {"id":2,"indicator":"HTTP://BÜCHER.example/Ü","isFailed":false,"failureReason":null},
            {"id":null,"indicator":"Evil.Example.","isFailed":true,"failureReason":"Not\n this one."}"#;
        let values = ["evil.example", "http://xn--bcher-kva.example/Ü/", "2001:db8::25", "silent.example"];
        let names = values.map(name);
        let answers = read(lines, &names.each_ref().map(String::as_str));
        let reason = "Not this one.".to_owned();
        assert_eq!(answers[0], Answer::Refused { reason, correlation: Some("r".to_owned()) });
        assert_eq!(answers[1], Answer::Accepted { remote_id: Some("2".to_owned()) });
        assert_eq!(answers[2], Answer::Accepted { remote_id: Some("3".to_owned()) });
        assert!(is_unanswered(&answers[3]));
    }

    #[test]
    fn lines_that_contradict_each_other_answer_nothing() {
        let line = |id: &str, failed: &str| format!(r#"{{"id":"{id}","indicator":"a","isFailed":{failed}}}"#);
        let said = |lines: &[String]| read(&lines.join(","), &["a"]).remove(0);
        assert!(is_unanswered(&said(&[line("1", "false"), line("1", "true")])));
        assert!(is_unanswered(&said(&[line("1", "false"), line("2", "false")])));
        assert!(is_unanswered(&said(&[line("1", "null")])));
        assert_eq!(said(&[line("1", "false"), line("0", "false")]), Answer::Accepted { remote_id: Some("1".to_owned()) });
        assert_eq!(said(&[line("", "false")]), Answer::Accepted { remote_id: None });
        assert_eq!(said(&[line("-1", "false")]), Answer::Accepted { remote_id: None });
    }

    #[test]
    fn an_answer_that_cannot_be_read_answers_nothing() {
        for body in ["", "{}", "<html>", "[]", r#"{"value":null}"#] {
            assert!(answers(body.as_bytes(), &["a", "b"], None).iter().all(is_unanswered), "{body}");
        }
        assert!(read(r#"7, null, {"indicator":7}, {"isFailed":false}"#, &["a"]).iter().all(is_unanswered));
    }

    #[test]
    fn reasons_are_for_good_unless_they_say_otherwise() {
        for full in [
            "The maximum of 15000 active indicators per tenant is reached.",
            "You have exceeded the limit of 15,000 indicators",
            "Max capacity reached",
        ] {
            assert!(matches!(refused(full.to_owned(), None), Answer::Full { .. }), "{full}");
        }
        for passing in ["Internal server error", "The request timed out, try again later"] {
            assert!(is_unanswered(&refused(passing.to_owned(), None)), "{passing}");
        }
        for good in [
            "Invalid IP",
            "The title of the indicator exceeds the maximum length",
            "Maximum number of indicators per call exceeded",
        ] {
            assert!(matches!(refused(good.to_owned(), None), Answer::Refused { .. }), "{good}");
        }
    }

    #[test]
    fn filters_quote_and_stay_short() {
        assert_eq!(filters(&["o'x&y".to_owned()]), Some(vec!["indicatorValue%20eq%20%27o%27%27x%26y%27".to_owned()]));
        let values = |count: usize, length: usize| vec!["x".repeat(length); count];
        let some = filters(&values(70, 20)).expect("filters");
        assert!(some.len() == LOOK_UPS && some.iter().all(|filter| filter.len() <= FILTER));
        let compared: usize = some.iter().map(|filter| filter.matches("%20eq%20").count()).sum();
        assert_eq!(compared, 70);
        assert_eq!(filters(&values(76, 20)), None);
        assert_eq!(filters(&values(1, 2_000)), None);
    }

    #[test]
    fn only_links_to_the_same_service_are_followed() {
        let base = Url::parse("https://eu.api.security.microsoft.com/prefix").expect("a URL");
        let followed = |link: &str| below(&base, link);
        let own = "https://eu.api.security.microsoft.com:443/prefix/api/indicators?$skip=5&$filter=a%20eq%20%27b%27";
        assert_eq!(followed(own).as_deref(), Some("/api/indicators?$skip=5&$filter=a%20eq%20%27b%27"));
        for link in [
            "https://api.security.microsoft.com/prefix/api/indicators?$skip=5",
            "http://eu.api.security.microsoft.com/prefix/api/indicators",
            "https://eu.api.security.microsoft.com/other",
            "https://eu.api.security.microsoft.com/prefixed/api",
            "https://",
        ] {
            assert_eq!(followed(link), None, "{link}");
        }
    }

    #[test]
    fn an_indicator_of_a_list_is_read_as_far_as_it_goes() {
        let body =
            br#"{"value":[{"id":5,"indicatorValue":7,"rbacGroupNames":"A,B"},{"id":"x","rbacGroupNames":null,"rbacGroupIds":["1"]},{"id":null},3]}"#;
        let entries = page(body).expect("a page").entries;
        assert_eq!(entries.iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(), ["5", "x"]);
        let named = ["A", "B"].map(str::to_owned).to_vec();
        assert_eq!((entries[0].value.as_str(), &entries[0].groups, &entries[1].groups), ("", &Some(named), &None));
        assert!(page(b"{}").is_none() && page(b"").is_none());
    }
}
