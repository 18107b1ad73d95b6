//! Bodies of the upload API: how a batch is written, and what an answer says of its items.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use crate::sinks::{Answer, body_of};

/// Where a 429 says nothing about when to come back.
pub(crate) const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The request body.
pub(crate) fn body(source_system: &str, payloads: &[&[u8]]) -> Vec<u8> {
    let head = format!("{{\"sourcesystem\":{},\"stixobjects\":[", serde_json::Value::from(source_system));
    body_of(head.as_bytes(), payloads.iter().copied())
}

#[derive(Deserialize)]
struct Errors {
    errors: Option<Vec<RecordError>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RecordError {
    record_index: Option<usize>,
    error_messages: Option<Vec<String>>,
}

/// Items refused, by their place in the batch; none if the body is no list of errors.
pub(crate) fn refused(body: &[u8]) -> Option<BTreeMap<usize, String>> {
    let errors = serde_json::from_slice::<Errors>(body).ok()?.errors?;
    let mut refused: BTreeMap<usize, String> = BTreeMap::new();
    for error in errors {
        let text = error
            .error_messages
            .filter(|said| !said.is_empty())
            .map_or("refused without a message".to_owned(), |said| said.join(" "));
        let known = refused.entry(error.record_index.unwrap_or(usize::MAX)).or_default();
        if !known.is_empty() {
            known.push(' ');
        }
        known.push_str(&text);
    }
    Some(refused)
}

/// What a 200 says of each of `count` items: nothing means that all were accepted; what cannot be read means nothing at all.
pub(crate) fn answers(body: &[u8], count: usize, correlation: Option<&str>) -> Vec<Answer> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return vec![Answer::Accepted { remote_id: None }; count];
    }
    let accepts_all = || serde_json::from_slice::<Errors>(body).is_ok_and(|body| body.errors.is_none());
    let Some(refused) = refused(body) else {
        let answer = if accepts_all() {
            Answer::Accepted { remote_id: None }
        } else {
            Answer::Unanswered { reason: "Sentinel's answer could not be read".to_owned() }
        };
        return vec![answer; count];
    };
    // An error that names no item of ours could be about any that is not named.
    let unclear = refused.range(count..).next().map(|(_, text)| format!("Sentinel named an item that was not sent: {text}"));
    (0..count)
        .map(|i| match (refused.get(&i), &unclear) {
            (Some(reason), _) => Answer::Refused { reason: reason.clone(), correlation: correlation.map(str::to_owned) },
            (None, Some(reason)) => Answer::Unanswered { reason: reason.clone() },
            (None, None) => Answer::Accepted { remote_id: None },
        })
        .collect()
}

/// "Rate limit is exceeded. Try again in N seconds.": the only place where the service says how long.
pub(crate) fn wait(body: &[u8]) -> Option<Duration> {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    let throttled = text.contains("rate limit") || text.replace(char::is_whitespace, "").contains("\"statuscode\":429");
    if !throttled {
        return None;
    }
    // The wording may change; the number before "second" is what counts.
    let before = text.split_once("second").map_or("", |(before, _)| before).trim_end();
    let digits = &before[before.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').len()..];
    let seconds: Option<f64> = digits.parse().ok();
    Some(seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or(DEFAULT_WAIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_answer_accepts_all_and_an_unreadable_one_nothing() {
        assert!(answers(b"", 2, None).iter().all(|a| matches!(a, Answer::Accepted { .. })));
        assert!(answers(b"{}", 2, None).iter().all(|a| matches!(a, Answer::Accepted { .. })));
        assert!(answers(b"<html>", 2, None).iter().all(|a| matches!(a, Answer::Unanswered { .. })));
        assert!(answers(br#"{"errors":[{"recordIndex":5}]}"#, 2, None).iter().all(|a| matches!(a, Answer::Unanswered { .. })));
    }

    #[test]
    fn errors_belong_to_their_items() {
        let body = br#"{"errors":[{"recordIndex":1,"errorMessages":["a.","b."]},{"recordIndex":1,"errorMessages":["c."]}]}"#;
        let answers = answers(body, 3, Some("id"));
        assert!(matches!(&answers[0], Answer::Accepted { .. }) && matches!(&answers[2], Answer::Accepted { .. }));
        assert_eq!(answers[1], Answer::Refused { reason: "a. b. c.".to_owned(), correlation: Some("id".to_owned()) });
    }

    #[test]
    fn what_is_refused_stays_so_beside_an_error_without_an_item() {
        let body = br#"{"errors":[{"recordIndex":0,"errorMessages":["a."]},{"errorMessages":null},{"recordIndex":9}]}"#;
        let answers = answers(body, 2, None);
        assert_eq!(answers[0], Answer::Refused { reason: "a.".to_owned(), correlation: None });
        assert!(matches!(&answers[1], Answer::Unanswered { .. }));
    }

    #[test]
    fn the_wait_is_read_from_the_message() {
        let said = |text: &str| wait(format!("{{\"statusCode\":429,\"message\":\"{text}\"}}").as_bytes());
        assert_eq!(said("Rate limit is exceeded. Try again in 27 seconds."), Some(Duration::from_secs(27)));
        assert_eq!(said("Rate limit is exceeded. Retry after 1.5 second(s)"), Some(Duration::from_millis(1500)));
        assert_eq!(wait(br#"{ "statusCode": 429, "message": "Come back in 9 seconds" }"#), Some(Duration::from_secs(9)));
        assert_eq!(said("Rate limit is exceeded."), Some(Duration::from_secs(60)));
        assert_eq!(wait(b"{\"statusCode\":500,\"message\":\"Internal server error\"}"), None);
    }
}
