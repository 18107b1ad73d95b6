//! What the upload API checks of an indicator object, and a reader of patterns of one comparison.
//!
//! Not imitated: compound patterns, other object types' own fields, custom languages.

use jiff::Timestamp;
use serde_json::Value;

/// What is known of an object that passed.
#[derive(Debug, Clone, PartialEq)]
pub struct Checked {
    pub id: String,
    pub pattern: String,
    pub modified: Timestamp,
    pub valid_from: Timestamp,
    pub valid_until: Option<Timestamp>,
    pub revoked: bool,
}

/// Checks one object as the service does.
///
/// # Errors
/// The service's messages, one per property.
pub fn check(json: &str) -> Result<Checked, Vec<String>> {
    let object: Value = serde_json::from_str(json).map_err(|_| vec!["The object is not valid JSON.".to_owned()])?;
    let mut errors = Vec::new();
    let mut wrong = |property: &str, why: &str| {
        let actual = object.get(property).map_or_else(|| "NULL".to_owned(), Value::to_string);
        errors.push(format!("Error for Property={property}: {why} Actual value: {actual}."));
    };
    let text = |property: &str| object.get(property).and_then(Value::as_str);
    let required = "Required property is missing.";
    if text("type") != Some("indicator") {
        wrong("type", "Not an accepted object type.");
    }
    let uuid = text("id").and_then(|id| id.strip_prefix("indicator--")).filter(|uuid| is_uuid(uuid));
    if uuid.is_none() {
        wrong("id", if text("id").is_none() { required } else { "Not of the form <type>--<uuid>." });
    }
    if !matches!(text("spec_version"), None | Some("2.0" | "2.1")) {
        wrong("spec_version", "Not a supported version.");
    }
    let mut times = [None; 4];
    for (time, property) in times.iter_mut().zip(["created", "modified", "valid_from", "valid_until"]) {
        match text(property) {
            None if property == "valid_until" && object.get(property).is_none() => {}
            None => wrong(property, required),
            Some(value) => match rfc3339_utc(value) {
                Some(at) => *time = Some(at),
                None => wrong(property, "Not an RFC 3339 time in UTC."),
            },
        }
    }
    let [created, modified, valid_from, valid_until] = times;
    if let (Some(from), Some(until)) = (valid_from, valid_until)
        && until <= from
    {
        wrong("valid_until", "Must be later than valid_from.");
    }
    if let (Some(created), Some(modified)) = (created, modified)
        && modified < created
    {
        wrong("modified", "Must not be earlier than created.");
    }
    match (text("pattern"), text("pattern_type")) {
        (None, _) => wrong("pattern", required),
        (Some(_), None) => wrong("pattern_type", required),
        (Some(pattern), Some("stix")) if read_pattern(pattern).is_none() => wrong("pattern", "Not a valid STIX pattern."),
        _ => {}
    }
    if object.get("confidence").is_some_and(|value| value.as_u64().is_none_or(|confidence| confidence > 100)) {
        wrong("confidence", "Must be between 0 and 100.");
    }
    for list in ["labels", "indicator_types", "object_marking_refs", "external_references", "kill_chain_phases"] {
        if object.get(list).is_some_and(|value| value.as_array().is_none_or(Vec::is_empty)) {
            wrong(list, "Must be a list with at least one value.");
        }
    }
    match (modified, valid_from) {
        (Some(modified), Some(valid_from)) if errors.is_empty() => Ok(Checked {
            id: text("id").unwrap_or_default().to_owned(),
            pattern: text("pattern").unwrap_or_default().to_owned(),
            modified,
            valid_from,
            valid_until,
            revoked: object.get("revoked").and_then(Value::as_bool).unwrap_or(false),
        }),
        _ => Err(errors),
    }
}

fn is_uuid(text: &str) -> bool {
    let bytes = text.as_bytes();
    let dash = |i: usize| matches!(i, 8 | 13 | 18 | 23);
    bytes.len() == 36 && bytes.iter().enumerate().all(|(i, b)| if dash(i) { *b == b'-' } else { b.is_ascii_hexdigit() })
}

fn rfc3339_utc(text: &str) -> Option<Timestamp> {
    (text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T')).then(|| text.parse().ok()).flatten()
}

/// Object path and value of `[path = 'value']`.
#[must_use]
pub fn read_pattern(pattern: &str) -> Option<(String, String)> {
    let inner = pattern.trim().strip_prefix('[')?.strip_suffix(']')?;
    let (path, literal) = inner.split_once(" = ")?;
    if !path.contains(':') || path.contains(char::is_whitespace) {
        return None;
    }
    let literal = literal.trim().strip_prefix('\'')?.strip_suffix('\'')?;
    let mut value = String::with_capacity(literal.len());
    let mut chars = literal.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => value.push(chars.next().filter(|c| matches!(c, '\'' | '\\'))?),
            '\'' => return None,
            c => value.push(c),
        }
    }
    (!value.is_empty()).then(|| (path.to_owned(), value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_with_their_escapes() {
        assert_eq!(read_pattern(r"[url:value = 'a\'b\\']"), Some(("url:value".to_owned(), r"a'b\".to_owned())));
        assert_eq!(read_pattern("[file:hashes.'SHA-256' = 'ff']"), Some(("file:hashes.'SHA-256'".to_owned(), "ff".to_owned())));
        for wrong in
            ["url:value = 'x'", "[url:value = 'a'b']", "[url:value = 'x' AND a:b = 'y']", "[url:value = '']", "[value = 'x']"]
        {
            assert_eq!(read_pattern(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_object_that_ends_before_it_begins_is_refused() {
        let object = r#"{"type":"indicator","id":"indicator--7d1f0a52-3c8e-5b46-9f27-61d4c0be83a9","created":"2026-01-01T00:00:00.000Z","modified":"2026-01-01T00:00:00.000Z","pattern":"[url:value = 'x']","pattern_type":"stix","valid_from":"2026-01-02T00:00:00.000Z","valid_until":"2026-01-02T00:00:00.000Z"}"#;
        let errors = check(object).expect_err("refused");
        assert!(errors[0].contains("Property=valid_until"), "{errors:?}");
        assert!(check(&object.replace("2026-01-02T00:00:00.000Z\"}", "2026-01-03T00:00:00.000Z\"}")).is_ok());
    }
}
