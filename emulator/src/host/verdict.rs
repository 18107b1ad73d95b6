//! What the host makes of a handler's answer to an envelope (rules R1 to R8 of the reference).
//!
//! Not imitated: XML bodies (the host's client would read them; no handler sends them), masking of secrets in failures.

use super::app::{Function, OutputKind};
use super::failure::Failure;
use super::json::{Json, JsonError};
use super::outputs::{HttpOutput, Value};
use super::request::utf16;

/// An answer, read whole.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    pub status: u16,
    pub reason: String,
    /// As they came; names in any case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// What an answer means.
#[derive(Debug, Clone)]
pub enum Verdict {
    Success(Results),
    Failure(Failure),
    /// Nothing completes the invocation before the function time-out: the body is empty, or `null`.
    Pending(&'static str),
}

/// A successful answer.
#[derive(Debug, Clone, Default)]
pub struct Results {
    pub logs: Vec<String>,
    /// By binding, in the order of `function.json`.
    pub outputs: Vec<(String, Value)>,
    pub return_value: Option<Value>,
}

const CONTENT_HEADERS: [&str; 11] = [
    "allow",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "expires",
    "last-modified",
];

/// .NET keeps such headers with the body; without one they are lost.
pub(crate) fn is_content_header(name: &str) -> bool {
    CONTENT_HEADERS.iter().any(|known| known.eq_ignore_ascii_case(name))
}

/// Judges an answer to an envelope.
#[must_use]
pub fn judge(function: &Function, answer: &Answer) -> Verdict {
    if !(200..300).contains(&answer.status) {
        return Verdict::Failure(Failure::status(answer.status, &answer.reason));
    }
    if answer.body.is_empty() {
        return Verdict::Pending("the answer's body is empty; send a JSON object");
    }
    match read(answer) {
        Ok(None) => Verdict::Pending("the answer's body is JSON null; send a JSON object"),
        Ok(Some(results)) => match convert(function, results) {
            Ok(results) => Verdict::Success(results),
            Err(failure) => Verdict::Failure(failure),
        },
        Err(failure) => Verdict::Failure(failure.within("System.InvalidOperationException", invalid(answer))),
    }
}

/// The three members of an answer.
#[derive(Default)]
struct Members {
    outputs: Option<Vec<(String, Json)>>,
    logs: Vec<String>,
    return_value: Option<Json>,
}

fn read(answer: &Answer) -> Result<Option<Members>, Failure> {
    let content_type = answer.header("content-type").unwrap_or("application/octet-stream");
    let mut parts = content_type.split(';').map(str::trim);
    let media_type = parts.next().filter(|kind| kind.contains('/')).unwrap_or("application/octet-stream");
    if !media_type.eq_ignore_ascii_case("application/json") && !media_type.eq_ignore_ascii_case("text/json") {
        return Err(Failure::new(
            "System.Net.Http.UnsupportedMediaTypeException",
            format!(
                "No MediaTypeFormatter is available to read an object of type 'HttpScriptInvocationResult' from content with media type '{media_type}'."
            ),
        ));
    }
    let charset = charset(content_type).unwrap_or_default();
    let text = if charset.eq_ignore_ascii_case("utf-16") {
        utf16(answer.body.strip_prefix(&[0xff, 0xfe]).unwrap_or(&answer.body), u16::from_le_bytes)
    } else {
        let body = answer.body.strip_prefix(&[0xef, 0xbb, 0xbf]).unwrap_or(&answer.body);
        std::str::from_utf8(body).map_err(|error| undecodable(body, &error))?.to_owned()
    };
    match Json::parse_first(&text, 256).map_err(|error| unreadable(&error))? {
        None | Some((Json::Null, _)) => Ok(None),
        Some((object @ Json::Object(_), _)) => members(&object).map(Some),
        Some((Json::Array(_), _)) => Err(mismatch("an array is not a result: send a JSON object")),
        Some((scalar, _)) => Err(mismatch(format!("`{}` is not a result: send a JSON object", scalar.compact()))),
    }
}

fn members(object: &Json) -> Result<Members, Failure> {
    let mut members = Members::default();
    match object.get_any_case("Outputs") {
        None | Some(Json::Null) => {}
        Some(Json::Object(outputs)) => members.outputs = Some(outputs.clone()),
        Some(_) => return Err(mismatch("`Outputs` is not an object")),
    }
    match object.get_any_case("Logs") {
        None | Some(Json::Null) => {}
        Some(Json::Array(logs)) => members.logs = logs.iter().map(log_line).collect::<Result<_, _>>()?,
        Some(_) => {
            let cast = "Could not cast or convert to System.Collections.Generic.List`1[System.String].";
            return Err(mismatch("`Logs` is not an array").caused_by("System.ArgumentException", cast));
        }
    }
    members.return_value = object.get_any_case("ReturnValue").filter(|value| **value != Json::Null).cloned();
    Ok(members)
}

/// A line of `Logs` as the logger writes it.
fn log_line(line: &Json) -> Result<String, Failure> {
    match line {
        Json::Null => Ok("[null]".to_owned()),
        Json::Bool(value) => Ok(value.to_string()),
        Json::Integer(raw) | Json::Float(_, raw) | Json::Text(raw) | Json::Date(_, raw) => Ok(raw.clone()),
        Json::Array(_) | Json::Object(_) => {
            Err(Failure::new("Newtonsoft.Json.JsonReaderException", "`Logs` holds an object or array; send strings only"))
        }
    }
}

fn charset(content_type: &str) -> Option<&str> {
    let parameter = content_type.split(';').map(str::trim).find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then_some(value)
    })?;
    Some(parameter.trim().trim_matches('"'))
}

fn mismatch(message: impl Into<String>) -> Failure {
    Failure::new("Newtonsoft.Json.JsonSerializationException", message)
}

/// The reader complains of a text that ends within a value it reads freely, the serializer of one that ends within its own object.
fn unreadable(error: &JsonError) -> Failure {
    let kind =
        if error.ended_at_depth.is_some_and(|depth| depth <= 2) { "JsonSerializationException" } else { "JsonReaderException" };
    Failure::new(&format!("Newtonsoft.Json.{kind}"), error.message.clone())
}

fn undecodable(body: &[u8], error: &std::str::Utf8Error) -> Failure {
    let at = error.valid_up_to();
    let bad = &body[at..(at + error.error_len().unwrap_or(1)).min(body.len())];
    let hex: Vec<String> = bad.iter().map(|byte| format!("[{byte:02X}]")).collect();
    let hex = hex.concat();
    Failure::new(
        "System.Text.DecoderFallbackException",
        format!("Unable to translate bytes {hex} at index {at} from specified code page to Unicode."),
    )
}

/// The host's description of an answer that it could not read.
fn invalid(answer: &Answer) -> String {
    let (of_body, general): (Vec<_>, Vec<_>) = answer.headers.iter().partition(|(name, _)| is_content_header(name));
    let lines: Vec<String> =
        general.into_iter().chain(of_body).map(|(name, value)| format!("  {}: {value}\n", title_case(name))).collect();
    let content = content_text(answer);
    format!(
        "Invalid HttpResponseMessage:\nStatusCode: {}, ReasonPhrase: '{}', Version: 1.1, Content: System.Net.Http.HttpConnectionResponseContent, Headers:\n{{\n{}}}\n {content}",
        answer.status,
        answer.reason,
        lines.concat()
    )
}

fn content_text(answer: &Answer) -> String {
    let latin1 =
        answer.header("content-type").and_then(charset).is_some_and(|charset| charset.eq_ignore_ascii_case("iso-8859-1"));
    if latin1 {
        return answer.body.iter().map(|byte| char::from(*byte)).collect();
    }
    String::from_utf8_lossy(&answer.body).into_owned()
}

fn title_case(name: &str) -> String {
    let word = |word: &str| {
        let mut characters = word.chars();
        characters.next().map(|first| first.to_ascii_uppercase().to_string() + characters.as_str()).unwrap_or_default()
    };
    name.split('-').map(word).collect::<Vec<_>>().join("-")
}

/// Gives each output binding its value.
fn convert(function: &Function, members: Members) -> Result<Results, Failure> {
    let mut results = Results { logs: members.logs, ..Results::default() };
    if let Some(outputs) = &members.outputs {
        for output in &function.outputs {
            let given = outputs.iter().find(|(name, _)| *name == output.name).map(|(_, value)| value);
            if output.kind == OutputKind::Http && output.name != "$return" {
                results.outputs.push((output.name.clone(), Value::Http(HttpOutput::read(given)?)));
            } else if let Some(value) = given.and_then(|value| Value::read(value, output.binary)) {
                results.outputs.push((output.name.clone(), value));
            }
        }
    }
    let returns = function.outputs.iter().find(|output| output.name == "$return");
    results.return_value = members.return_value.as_ref().and_then(|value| match returns {
        Some(output) => Value::read(value, output.binary),
        None => Some(Value::Json(value.clone())),
    });
    if returns.is_some() {
        results.outputs.retain(|(name, _)| name != "$return");
        results.outputs.extend(results.return_value.clone().map(|value| ("$return".to_owned(), value)));
    } else if let Some(Value::Json(Json::Object(members))) = &results.return_value {
        for (name, value) in members {
            results.outputs.retain(|(known, _)| known != name);
            if *value != Json::Null && function.outputs.iter().any(|output| output.name == *name) {
                results.outputs.push((name.clone(), Value::Json(value.clone())));
            }
        }
    }
    Ok(results)
}
