//! Entity group transactions: a transaction as one multipart body, and what its answer says. Pure.
//!
//! Source: "Performing entity group transactions". The answer holds one part per operation, or one part that names the
//! operation that failed, in which case nothing happened.

use std::fmt::Write as _;

use super::entity;
use crate::platform::http::error_code;
use crate::storage::{Version, Write};

/// Of the whole request, as its `Content-Type` says it. The boundaries are constant: no line of a body begins with them.
pub(super) const CONTENT_TYPE: &str = "multipart/mixed; boundary=batch_indicator_relay";
const BATCH: &str = "--batch_indicator_relay";
const CHANGESET: &str = "--changeset_indicator_relay";

/// Around each operation, keys and address apart.
const AROUND: usize = 420;

/// The body for `writes`; `base` is the address of the service without a slash at its end.
pub(super) fn body(base: &str, table: &str, partition: &str, writes: &[&Write]) -> String {
    let partition = entity::partition_key(partition);
    let size = |write: &&Write| match write {
        Write::Put { key, value } | Write::PutIf { key, value, .. } => {
            AROUND + 4 * key.len() + value.len().div_ceil(3) * 4 + value.len() / 1_000
        }
        Write::Delete { key } | Write::DeleteIf { key, .. } => AROUND + 3 * key.len(),
    };
    let around = base.len() + table.len() + 4 * partition.len();
    let mut body = String::with_capacity(writes.iter().map(|write| size(write) + around).sum::<usize>() + 256);
    let _ = write!(body, "{BATCH}\r\nContent-Type: multipart/mixed; boundary={}\r\n\r\n", &CHANGESET[2..]);
    for write in writes {
        let _ = write!(body, "{CHANGESET}\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\n");
        let at = |key: &str| entity::address(table, &partition, key);
        let (key, value) = match write {
            Write::Put { key, value } => {
                let _ = write!(body, "PUT {base}{} HTTP/1.1\r\n", at(key));
                (key, Some(value))
            }
            Write::PutIf { key, value, version: None } => {
                let _ = write!(body, "POST {base}/{table} HTTP/1.1\r\nPrefer: return-no-content\r\n");
                (key, Some(value))
            }
            Write::PutIf { key, value, version: Some(version) } => {
                let _ = write!(body, "PUT {base}{} HTTP/1.1\r\nIf-Match: {}\r\n", at(key), tag(version));
                (key, Some(value))
            }
            Write::Delete { key } => {
                let _ = write!(body, "DELETE {base}{} HTTP/1.1\r\nIf-Match: *\r\n", at(key));
                (key, None)
            }
            Write::DeleteIf { key, version } => {
                let _ = write!(body, "DELETE {base}{} HTTP/1.1\r\nIf-Match: {}\r\n", at(key), tag(version));
                (key, None)
            }
        };
        body.push_str("Accept: application/json;odata=minimalmetadata\r\nDataServiceVersion: 3.0;NetFx\r\n");
        if let Some(value) = value {
            body.push_str("Content-Type: application/json\r\n\r\n");
            entity::write(&mut body, &partition, key, value);
        } else {
            body.push_str("\r\n");
        }
        body.push_str("\r\n");
    }
    let _ = write!(body, "{CHANGESET}--\r\n{BATCH}--\r\n");
    body
}

/// The tag on a header line; a version that was never ours matches nothing.
fn tag(version: &Version) -> &str {
    let valid =
        version.0.starts_with("W/\"") && version.0.ends_with('"') && version.0.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if valid { &version.0 } else { "W/\"none\"" }
}

/// What became of a transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// With the tag of each operation, where it has one.
    Done(Vec<Option<Version>>),
    /// Nothing happened: what the service says of the operation that failed.
    Refused { index: Option<usize>, status: u16, code: Option<String>, body: Vec<u8> },
    /// The answer cannot be read to its end.
    Unreadable,
}

/// Reads the answer to `operations` operations.
pub(super) fn outcome(answer: &[u8], operations: usize) -> Outcome {
    let text = String::from_utf8_lossy(answer);
    let mut tags = Vec::with_capacity(operations);
    for part in text.split("\nHTTP/1.1 ").skip(1) {
        let Some(status) = part.get(..3).and_then(|status| status.parse::<u16>().ok()) else { return Outcome::Unreadable };
        let (head, rest) = part.split_once("\r\n\r\n").or_else(|| part.split_once("\n\n")).unwrap_or((part, ""));
        if status >= 400 {
            let body = rest.split("--changeset").next().unwrap_or_default().trim().as_bytes().to_vec();
            return Outcome::Refused { index: failed_operation(&body), status, code: error_code(&body), body };
        }
        let tag = head.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("etag").then(|| Version(value.trim().into()))
        });
        tags.push(tag);
    }
    if tags.len() == operations { Outcome::Done(tags) } else { Outcome::Unreadable }
}

/// The message begins with the number of the operation and a colon.
fn failed_operation(body: &[u8]) -> Option<usize> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let message = value.pointer("/odata.error/message/value")?.as_str()?;
    message.split_once(':')?.0.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the documents show them.
    const DONE: &str = "--batchresponse_4c637ba4\r\nContent-Type: multipart/mixed; boundary=changesetresponse_03da\r\n\r\n--changesetresponse_03da\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nHTTP/1.1 204 No Content\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-cache\r\nDataServiceVersion: 3.0;\r\nETag: W/\"datetime'2026-11-24T09%3A00%3A00.1234567Z'\"\r\n\r\n\r\n--changesetresponse_03da\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nHTTP/1.1 204 No Content\r\nDataServiceVersion: 1.0;\r\n\r\n\r\n--changesetresponse_03da--\r\n--batchresponse_4c637ba4--\r\n";
    const REFUSED: &str = "--batchresponse_4c637ba4\r\nContent-Type: multipart/mixed; boundary=changesetresponse_03da\r\n\r\n--changesetresponse_03da\r\nContent-Type: application/http\r\nContent-Transfer-Encoding: binary\r\n\r\nHTTP/1.1 409 Conflict\r\nX-Content-Type-Options: nosniff\r\nDataServiceVersion: 3.0;\r\nContent-Type: application/json;odata=minimalmetadata;streaming=true;charset=utf-8\r\n\r\n{\"odata.error\":{\"code\":\"EntityAlreadyExists\",\"message\":{\"lang\":\"en-US\",\"value\":\"17:The specified entity already exists.\\n\\nRequestId:1\\nTime:2026-11-24T09:00:00.0000000Z\"}}}\r\n--changesetresponse_03da--\r\n--batchresponse_4c637ba4--\r\n";

    #[test]
    fn answers_are_read_as_the_documents_show_them() {
        let version = Version("W/\"datetime'2026-11-24T09%3A00%3A00.1234567Z'\"".into());
        assert_eq!(outcome(DONE.as_bytes(), 2), Outcome::Done(vec![Some(version), None]));
        let Outcome::Refused { index, status, code, .. } = outcome(REFUSED.as_bytes(), 20) else { panic!("refused") };
        assert_eq!((index, status, code.as_deref()), (Some(17), 409, Some("EntityAlreadyExists")));
    }

    #[test]
    fn an_answer_with_too_few_parts_says_nothing() {
        assert_eq!(outcome(DONE.as_bytes(), 3), Outcome::Unreadable);
        assert_eq!(outcome(b"<html>", 1), Outcome::Unreadable);
        assert_eq!(outcome(b"\nHTTP/1.1 ", 1), Outcome::Unreadable);
        assert_eq!(outcome("\nHTTP/1.1 é".as_bytes(), 1), Outcome::Unreadable);
    }

    #[test]
    fn each_write_has_its_verb_and_condition() {
        let writes = [
            Write::Put { key: "a".to_owned(), value: b"1".to_vec() },
            Write::PutIf { key: "b".to_owned(), value: Vec::new(), version: None },
            Write::PutIf { key: "c".to_owned(), value: Vec::new(), version: Some(Version("W/\"1\"".into())) },
            Write::PutIf { key: "d".to_owned(), value: Vec::new(), version: Some(Version("x\r\nX: y".into())) },
            Write::Delete { key: "e".to_owned() },
            Write::DeleteIf { key: "f".to_owned(), version: Version("W/\"2\"".into()) },
        ];
        let writes: Vec<&Write> = writes.iter().collect();
        let body = body("https://a.example", "t", "p", &writes);
        let lines: Vec<&str> = body.lines().filter(|line| line.contains("HTTP/1.1") || line.starts_with("If-Match")).collect();
        assert_eq!(
            lines,
            [
                "PUT https://a.example/t(PartitionKey='p',RowKey='a') HTTP/1.1",
                "POST https://a.example/t HTTP/1.1",
                "PUT https://a.example/t(PartitionKey='p',RowKey='c') HTTP/1.1",
                "If-Match: W/\"1\"",
                "PUT https://a.example/t(PartitionKey='p',RowKey='d') HTTP/1.1",
                "If-Match: W/\"none\"",
                "DELETE https://a.example/t(PartitionKey='p',RowKey='e') HTTP/1.1",
                "If-Match: *",
                "DELETE https://a.example/t(PartitionKey='p',RowKey='f') HTTP/1.1",
                "If-Match: W/\"2\"",
            ]
        );
        assert!(body.contains(r#"{"PartitionKey":"p","RowKey":"a","v0@odata.type":"Edm.Binary","v0":"MQ=="}"#));
    }
}
