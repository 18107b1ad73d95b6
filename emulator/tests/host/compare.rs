//! Holds what the host did against what was recorded; each difference is a line.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::host::{Failure, HOST_VERSION, HttpOutput, Invocation, Json, Kind, Outcome, Value as Output};
use serde_json::{Map, Value, json};

use crate::listener::Raw;

pub(crate) type Differences = Vec<String>;

pub(crate) fn equal(differences: &mut Differences, what: &str, expected: &Value, found: &Value) {
    if expected != found {
        differences.push(format!("{what}:\n  recorded {expected}\n  found    {found}"));
    }
}

/// The requests that the handler saw: the first in full, all by number or in short.
pub(crate) fn requests(case: &Value, seen: &[Raw], port: u16) -> Differences {
    let mut differences = Vec::new();
    let outcome = &case["host_outcome"];
    if let Some(raw) = seen.first() {
        request(&mut differences, &case["request"], raw, port);
    } else if case["request"].is_object() {
        differences.push("the handler saw no request".to_owned());
    }
    match &outcome["requests_seen_by_handler"] {
        Value::Null => {}
        Value::Number(count) => equal(&mut differences, "requests", &json!(count), &json!(seen.len())),
        list => {
            let short = |raw: &Raw| {
                let bytes = if raw.body.is_empty() { "none" } else { "yes" };
                json!({"line": raw.first_line, "content_type": raw.header("content-type"), "body_bytes": bytes})
            };
            equal(&mut differences, "requests", list, &seen.iter().map(short).collect());
        }
    }
    differences
}

fn request(differences: &mut Differences, expected: &Value, raw: &Raw, port: u16) {
    let mut words = raw.first_line.split(' ');
    for part in ["method", "target", "version"] {
        let found = words.next().unwrap_or_default();
        if expected[part].is_string() {
            equal(differences, part, &expected[part], &json!(found));
        }
    }
    let id = raw.header("x-azure-functions-invocationid").unwrap_or("no id").to_owned();
    if let Some(headers) = expected["headers"].as_array() {
        let placed = |(name, value): &(String, String)| {
            let value = value.replace(&format!("127.0.0.1:{port}"), "127.0.0.1:<port>").replace(HOST_VERSION, "<host-version>");
            let value = value.replace(&id, "<invocation-id>");
            let generated = name.eq_ignore_ascii_case("traceparent");
            let by_client = generated && value.contains("11111111111111111111111111111111");
            let value = match (generated, by_client) {
                (true, true) => "<the client's traceparent>".to_owned(),
                (true, false) => "<traceparent>".to_owned(),
                _ => value,
            };
            format!("{}: {value}", name.to_ascii_lowercase())
        };
        let mut found: Vec<String> = raw.headers.iter().map(placed).collect();
        let text = |header: &Value| {
            format!("{}: {}", header[0].as_str().unwrap_or_default().to_ascii_lowercase(), header[1].as_str().unwrap_or_default())
        };
        let mut recorded: Vec<String> = headers.iter().map(text).collect();
        found.sort();
        recorded.sort();
        equal(differences, "headers", &json!(recorded), &json!(found));
    }
    if expected["framing"].is_string() {
        equal(differences, "framing", &expected["framing"], &json!(raw.framing));
    }
    let mut body = String::from_utf8_lossy(&raw.body).into_owned();
    for (key, placeholder) in [("UtcNow", "<utc-now>"), ("RandGuid", "<guid>"), ("StackTrace", "<stack-trace>")] {
        body = placed(&body, key, placeholder);
    }
    if expected["body"].is_string() {
        equal(differences, "body", &expected["body"], &json!(body));
    }
    if let Some(sum) = expected["normalised_body_sha256"].as_str() {
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, body.as_bytes());
        let hex: Vec<String> = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        equal(differences, "body's length", &expected["normalised_body_length"], &json!(body.chars().count()));
        equal(differences, "body's sum", &json!(sum), &json!(hex.concat()));
    }
}

/// Puts a placeholder in the place of the string value of a member.
fn placed(text: &str, key: &str, placeholder: &str) -> String {
    let start = format!("\"{key}\":\"");
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&start) {
        let end = after.find('"').unwrap_or(after.len());
        out.extend([before, start.as_str(), placeholder]);
        rest = &after[end..];
    }
    out + rest
}

/// How the invocation ended, and what came of it.
pub(crate) fn outcome(expected: &Value, invocation: &Invocation) -> Differences {
    let mut differences = Vec::new();
    let found = if invocation.succeeded() { "success" } else { "failure" };
    equal(&mut differences, "invocation", &expected["invocation"], &json!(found));
    match (&invocation.outcome, expected["exceptions"].as_array()) {
        (Outcome::Failure(failure), Some(recorded)) => differences.extend(exceptions(recorded, failure)),
        (Outcome::Failure(failure), None) => differences.push(format!("failed: {failure}")),
        _ => {}
    }
    let logs: Vec<Value> = invocation.results.logs.iter().map(|text| json!(["Information", text])).collect();
    equal(&mut differences, "logs", &expected["user_logs"], &json!(logs));
    if expected["result_outputs"].is_object() {
        let outputs: Map<String, Value> =
            invocation.results.outputs.iter().map(|(name, value)| (name.clone(), output(value))).collect();
        let recorded = without_texts(&expected["result_outputs"]);
        equal(&mut differences, "outputs", &recorded, &Value::Object(outputs));
    }
    if expected.get("result_return").is_some() {
        let found = invocation.results.return_value.as_ref().map_or(Value::Null, output);
        equal(&mut differences, "return value", &expected["result_return"], &found);
    }
    if expected["result_outputs"].is_object() {
        let mut written: Map<String, Value> = Map::new();
        for (name, bytes) in &invocation.messages {
            let message =
                String::from_utf8(bytes.clone()).map_or_else(|_| json!({"base64": STANDARD.encode(bytes)}), |text| json!(text));
            let list = written.entry(name.clone()).or_insert_with(|| json!([]));
            list.as_array_mut().expect("a list").push(message);
        }
        let mut recorded = expected["queue_messages_written"].as_object().cloned().unwrap_or_default();
        recorded.retain(|_, list| list.as_array().is_some_and(|list| !list.is_empty()));
        equal(&mut differences, "messages", &Value::Object(recorded), &Value::Object(written));
    }
    differences
}

/// Without `as_text`, which repeats an empty `base64`.
fn without_texts(outputs: &Value) -> Value {
    let mut outputs = outputs.clone();
    for (_, output) in outputs.as_object_mut().into_iter().flatten() {
        if let Some(output) = output.as_object_mut() {
            output.remove("as_text");
        }
    }
    outputs
}

/// By type and message; what Newtonsoft says by its type.
pub(crate) fn exceptions(recorded: &[Value], failure: &Failure) -> Differences {
    let mut differences = Vec::new();
    let mut by_type = false;
    let kinds: Vec<&Value> = recorded.iter().map(|exception| &exception["type"]).collect();
    let found: Vec<&str> = failure.exceptions.iter().map(|exception| exception.kind.as_str()).collect();
    equal(&mut differences, "exceptions", &json!(kinds), &json!(found));
    for (recorded, found) in recorded.iter().zip(&failure.exceptions) {
        by_type |= found.kind.starts_with("Newtonsoft.");
        if !by_type {
            let message = match found.message.split_once("(127.0.0.1:") {
                Some((before, _)) => format!("{before}(127.0.0.1:<port>)"),
                None => found.message.clone(),
            };
            equal(&mut differences, "message", &recorded["message"], &json!(message));
        }
    }
    differences
}

/// An output as the vectors write it.
fn output(value: &Output) -> Value {
    match value {
        Output::Bytes(bytes) => json!({"clr": "System.Byte[]", "base64": STANDARD.encode(bytes)}),
        Output::Json(value) => scalar(value),
        Output::Http(HttpOutput::Missing) => json!({"clr": "System.Dynamic.ExpandoObject", "fields": {}}),
        Output::Http(HttpOutput::Given { status_code, status, body, headers }) => {
            let text = |text: &Option<String>| text.as_ref().map_or(Value::Null, |text| scalar(&Json::text(text.clone())));
            let headers = headers.as_ref().map_or(Value::Null, |headers| {
                headers.iter().map(|(name, value)| (name.clone(), scalar(value))).collect::<Map<_, _>>().into()
            });
            let fields = json!({
                "StatusCode": text(status_code),
                "Status": text(status),
                "Body": body.as_ref().map_or(Value::Null, scalar),
                "Headers": headers,
            });
            json!({"clr": "System.Dynamic.ExpandoObject", "fields": fields})
        }
    }
}

fn scalar(value: &Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => json!({"clr": "System.Boolean", "value": value}),
        Json::Integer(digits) => match digits.parse::<i64>() {
            Ok(number) => json!({"clr": "System.Int64", "value": number}),
            Err(_) => json!({"clr": "System.Numerics.BigInteger", "value": digits}),
        },
        Json::Float(number, _) => json!({"clr": "System.Double", "value": number}),
        Json::Text(text) => json!({"clr": "System.String", "value": text}),
        Json::Date(date, _) => {
            let zone = match date.kind {
                Kind::Utc => "Z",
                Kind::Local => "+00:00",
                Kind::Unspecified => "",
            };
            let fraction = date.at.subsec_nanosecond() / 100;
            let text = format!("{}.{fraction:07}{zone}", date.at.strftime("%Y-%m-%dT%H:%M:%S"));
            json!({"clr": "System.DateTime", "value": text, "kind": format!("{:?}", date.kind)})
        }
        Json::Array(_) => json!({"clr": "Newtonsoft.Json.Linq.JArray", "json": value.compact()}),
        Json::Object(_) => json!({"clr": "Newtonsoft.Json.Linq.JObject", "json": value.compact()}),
    }
}

/// What the HTTP client got.
pub(crate) fn client_answer(expected: &Value, found: &Raw) -> Differences {
    let mut differences = Vec::new();
    equal(&mut differences, "status line", &expected["status_line"], &json!(found.first_line));
    let named = |(name, value): (&str, &str)| {
        let name = name.to_ascii_lowercase();
        let value = if name == "date" { "<http-date>" } else { value };
        format!("{name}: {value}")
    };
    let mut headers: Vec<String> = found.headers.iter().map(|(name, value)| named((name, value))).collect();
    let list = expected["headers"].as_array().expect("headers");
    let text = |header: &Value| named((header[0].as_str().unwrap_or_default(), header[1].as_str().unwrap_or_default()));
    let mut recorded: Vec<String> = list.iter().map(text).collect();
    headers.sort();
    recorded.sort();
    equal(&mut differences, "answer's headers", &json!(recorded), &json!(headers));
    equal(&mut differences, "answer's framing", &expected["framing"], &json!(found.framing));
    equal(&mut differences, "answer's body", &expected["body"], &json!(String::from_utf8_lossy(&found.body)));
    differences
}
