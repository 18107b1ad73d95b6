//! Output values: how they become queue messages, or the answer to an HTTP client.
//!
//! Not imitated: content negotiation, cookies, streams.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::failure::Failure;
use super::json::Json;
use super::metadata::looks_like_json;

/// .NET takes white space, wants padding, and ignores bits that are left over.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// The value of an output, after the host's conversion.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A string that could be read as base64.
    Bytes(Vec<u8>),
    Json(Json),
    /// Of an HTTP output.
    Http(HttpOutput),
}

impl Value {
    /// None for null.
    pub(crate) fn read(value: &Json, binary: bool) -> Option<Self> {
        match value {
            Json::Null => None,
            Json::Text(text) if !binary => Some(from_base64(text).map_or_else(|| Self::Json(value.clone()), Self::Bytes)),
            value => Some(Self::Json(value.clone())),
        }
    }

    /// The messages that a queue output writes.
    pub fn messages(&self) -> Result<Vec<Vec<u8>>, Failure> {
        let bytes = |value: &Json| value.display().into_bytes();
        Ok(match self {
            Self::Bytes(bytes) => vec![bytes.clone()],
            Self::Json(Json::Array(items)) => items.iter().map(bytes).collect(),
            Self::Json(Json::Text(text)) if looks_like_json(text) => match Json::parse(text) {
                Ok(Json::Array(items)) => items.iter().map(bytes).collect(),
                Ok(object) => vec![bytes(&object)],
                Err(error) => return Err(Failure::new("Newtonsoft.Json.JsonReaderException", error.message)),
            },
            Self::Json(value) => vec![bytes(value)],
            Self::Http(_) => Vec::new(),
        })
    }
}

fn from_base64(text: &str) -> Option<Vec<u8>> {
    let packed: String = text.chars().filter(|c| !matches!(c, ' ' | '\t' | '\r' | '\n')).collect();
    BASE64.decode(packed).ok()
}

/// What an HTTP output was given.
#[derive(Debug, Clone, PartialEq)]
pub enum HttpOutput {
    /// Nothing.
    Missing,
    Given {
        status_code: Option<String>,
        /// Read, and ignored.
        status: Option<String>,
        body: Option<Json>,
        headers: Option<Vec<(String, Json)>>,
    },
}

impl HttpOutput {
    pub(crate) fn read(given: Option<&Json>) -> Result<Self, Failure> {
        let Some(given) = given else { return Ok(Self::Missing) };
        let unexpected = || {
            let message = "Failed while trying to Deserialize to httpOutputBindingResponse. Output is not in expected format";
            Failure::new("System.InvalidOperationException", message)
        };
        let object = match given {
            Json::Object(_) => given.clone(),
            Json::Text(text) => Json::parse(text).map_err(|_| unexpected())?,
            _ => return Err(unexpected()),
        };
        let Json::Object(_) = object else { return Err(unexpected()) };
        let scalar = |name: &str| match object.get_any_case(name) {
            None | Some(Json::Null) => Ok(None),
            Some(Json::Bool(value)) => Ok(Some(value.to_string())),
            Some(Json::Integer(raw) | Json::Float(_, raw) | Json::Text(raw) | Json::Date(_, raw)) => Ok(Some(raw.clone())),
            Some(Json::Array(_) | Json::Object(_)) => Err(unexpected()),
        };
        let headers = match object.get_any_case("Headers") {
            None | Some(Json::Null) => None,
            Some(Json::Object(headers)) => Some(headers.clone()),
            Some(_) => return Err(unexpected()),
        };
        let body = object.get_any_case("Body").filter(|body| **body != Json::Null).cloned();
        Ok(Self::Given { status_code: scalar("StatusCode")?, status: scalar("Status")?, body, headers })
    }
}

/// The answer that an HTTP client gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ClientAnswer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl ClientAnswer {
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    /// Of a function whose invocation succeeded; none: no HTTP output was given at all.
    pub(crate) fn of(value: Option<&Value>) -> Self {
        let text_plain = |body: String| Self::written(200, None, Some(body));
        match value {
            None => Self::empty(200),
            Some(Value::Http(HttpOutput::Missing)) => text_plain("{}".to_owned()),
            Some(Value::Http(HttpOutput::Given { status_code, body, headers, .. })) => {
                Self::written(code(status_code.as_deref()), headers.as_deref(), body.as_ref().map(Json::display))
            }
            Some(Value::Bytes(bytes)) => Self { status: 200, headers: Vec::new(), body: bytes.clone() },
            Some(Value::Json(Json::Text(text))) => match Json::parse(text) {
                Ok(object @ Json::Object(_)) => Self::by_convention(&object),
                Ok(other) => text_plain(other.display()),
                Err(_) => text_plain(text.clone()),
            },
            Some(Value::Json(object @ Json::Object(_))) => Self::by_convention(object),
            Some(Value::Json(other)) => text_plain(other.display()),
        }
    }

    /// An object with a `body` says what the answer is; any other object is the body.
    fn by_convention(object: &Json) -> Self {
        let Some(body) = object.get_any_case("body") else { return Self::written(200, None, Some(object.indented())) };
        let status = object.get_any_case("statusCode").or_else(|| object.get_any_case("status"));
        let status = match status {
            Some(Json::Integer(raw) | Json::Text(raw)) => code(Some(raw)),
            _ => 200,
        };
        let headers = match object.get_any_case("headers") {
            Some(Json::Object(headers)) => Some(headers.as_slice()),
            _ => None,
        };
        let body = match body {
            Json::Null => None,
            Json::Object(_) => Some(body.compact()),
            Json::Array(_) => Some("System.Collections.Generic.List`1[System.Object]".to_owned()),
            scalar => Some(scalar.display()),
        };
        Self::written(status, headers, body)
    }

    fn written(status: u16, headers: Option<&[(String, Json)]>, body: Option<String>) -> Self {
        let mut answer = Self { status, headers: Vec::new(), body: body.unwrap_or_default().into_bytes() };
        let mut content_type = "text/plain; charset=utf-8".to_owned();
        for (name, value) in headers.unwrap_or_default() {
            let text = value.display();
            let sendable = text.bytes().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
            if *value == Json::Null || !sendable || name.is_empty() {
                return Self::empty(500);
            }
            if ["content-length", "transfer-encoding"].iter().any(|own| name.eq_ignore_ascii_case(own)) {
                continue;
            }
            if name.eq_ignore_ascii_case("content-type") {
                let has_charset = text.to_ascii_lowercase().contains("charset=");
                content_type = if has_charset { text } else { text + "; charset=utf-8" };
            } else if !answer.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
                answer.headers.push((name.clone(), text));
            }
        }
        answer.headers.insert(0, ("Content-Type".to_owned(), content_type));
        answer
    }
}

/// A status code as text; what is none counts as 200.
fn code(text: Option<&str>) -> u16 {
    text.and_then(|text| text.trim().parse().ok()).unwrap_or(200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded_as_dotnet_does() {
        assert_eq!(from_base64("two words").map(|b| b.len()), Some(6));
        assert_eq!(from_base64("YR==").as_deref(), Some(&b"a"[..]), "bits left over are ignored");
        assert_eq!(from_base64(" \r\n"), Some(Vec::new()));
        for text in ["abc", "YQ", "YQ=", "{}==", "YQ==YQ=="] {
            assert_eq!(from_base64(text), None, "{text}");
        }
    }
}
