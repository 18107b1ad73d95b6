//! A client's HTTP request as the host sees it: decoded path, query, headers in the server's order and spelling.
//!
//! Not imitated: identities (one anonymous one; a real host adds the key's claims), HTTPS, cookies as a collection.

use std::fmt::Write as _;

use bytes::Bytes;

use super::json::Json;
use super::metadata::{BindingData, Bound};

/// Headers that the server knows, in its order: they come first, in this spelling; then `Content-Length`, then all others.
#[rustfmt::skip]
const KNOWN: [&str; 44] = [
    "Accept", "Connection", "Host", "User-Agent", "Accept-Charset", "Accept-Encoding", "Accept-Language",
    "Access-Control-Request-Headers", "Access-Control-Request-Method", "Authorization", "baggage", "Cache-Control", "Content-Type",
    "Cookie", "Correlation-Context", "Date", "Expect", "From", "Grpc-Accept-Encoding", "Grpc-Encoding", "Grpc-Timeout", "If-Match",
    "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since", "Keep-Alive", "Max-Forwards", "Origin", "Pragma",
    "Proxy-Authorization", "Range", "Referer", "Request-Id", "TE", "traceparent", "tracestate", "Transfer-Encoding", "Translate",
    "Upgrade", "Upgrade-Insecure-Requests", "Via", "Warning", "Content-Length",
];

const IDENTITY: &str = r#"[{"AuthenticationType":null,"IsAuthenticated":false,"Actor":null,"BootstrapContext":null,"Claims":[],"Label":null,"Name":null,"NameClaimType":"http://schemas.xmlsoap.org/ws/2005/05/identity/claims/name","RoleClaimType":"http://schemas.microsoft.com/ws/2008/06/identity/claims/role"}]"#;

/// A request, with its body if that has a length.
#[derive(Debug, Clone, Default)]
pub struct HttpRequest {
    pub method: String,
    /// The path with its escapes decoded, but for `%2F`.
    pub path: String,
    /// With the `?`, as it came; or empty.
    pub query_string: String,
    /// Name and values, ordered by [`HttpRequest::ordered`].
    pub headers: Vec<(String, Vec<String>)>,
    /// Route parameters; none: an optional one that is not there.
    pub parameters: Vec<(String, Option<String>)>,
    /// Only with a `Content-Length` above 0.
    pub body: Option<Bytes>,
}

impl HttpRequest {
    /// Headers as the server lists them.
    #[must_use]
    pub fn ordered(headers: &[(String, String)]) -> Vec<(String, Vec<String>)> {
        let mut listed: Vec<(String, Vec<String>)> = Vec::new();
        for (name, value) in headers {
            if let Some((_, values)) = listed.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                values.push(value.clone());
            } else {
                let spelling = KNOWN.iter().find(|known| known.eq_ignore_ascii_case(name)).copied().unwrap_or(name);
                listed.push((spelling.to_owned(), vec![value.clone()]));
            }
        }
        listed.sort_by_key(|(name, _)| KNOWN.iter().position(|known| known == name).unwrap_or(KNOWN.len()));
        listed
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let (_, values) = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        values.first().map(String::as_str)
    }

    /// The query's pairs: names once, in any case, with all their values.
    #[must_use]
    pub fn query(&self) -> Vec<(String, Vec<String>)> {
        let mut listed: Vec<(String, Vec<String>)> = Vec::new();
        for (name, value) in crate::server::form(self.query_string.trim_start_matches('?')) {
            match listed.iter_mut().find(|(known, _)| known.eq_ignore_ascii_case(&name)) {
                Some((_, values)) => values.push(value),
                None => listed.push((name, vec![value])),
            }
        }
        listed
    }

    /// `Data.{binding}` of the envelope.
    pub(crate) fn json(&self) -> Json {
        let strings = |pairs: Vec<(String, Vec<String>)>| {
            Json::Object(pairs.into_iter().map(|(name, values)| (name, Json::Text(values.join(",")))).collect())
        };
        let headers = self
            .headers
            .iter()
            .map(|(name, values)| (name.clone(), Json::Array(values.iter().map(|value| Json::text(value.clone())).collect())));
        let parameters = self.parameters.iter().map(|(name, value)| (name.clone(), value.clone().map_or(Json::Null, Json::Text)));
        let host = self.header("host").unwrap_or_default();
        let mut members = vec![
            ("Url", Json::Text(format!("http://{host}{}{}", encoded_path(&self.path, true), self.query_string))),
            ("Method", Json::text(self.method.clone())),
            ("Query", strings(self.query())),
            ("Headers", Json::Object(headers.collect())),
            ("Params", Json::Object(parameters.collect())),
            ("Identities", Json::parse(IDENTITY).unwrap_or(Json::Null)),
        ];
        if let Some(body) = &self.body {
            members.push(("Body", if self.is_binary() { Bound::Bytes(body.to_vec()).json() } else { Json::Text(text(body)) }));
        }
        Json::Object(members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    /// What the trigger adds to the binding data: the body's properties, the query, the route, and `Query` and `Headers`.
    pub(crate) fn bind(&self, data: &mut BindingData) {
        if let Some(body) = &self.body {
            data.leak(&text(body));
        }
        let query: Vec<(String, String)> =
            self.query().into_iter().map(|(name, mut values)| (name, values.pop().unwrap_or_default())).collect();
        for (name, value) in query.iter().filter(|(name, _)| !name.eq_ignore_ascii_case("code")) {
            data.set(name, Bound::Text(value.clone()));
        }
        for (name, value) in &self.parameters {
            data.set(name, value.clone().map_or(Bound::Null, Bound::Text));
        }
        let object = |pairs: Vec<(String, String)>| {
            Bound::Object(Json::Object(pairs.into_iter().map(|(name, value)| (name, Json::Text(value))).collect()))
        };
        if !data.contains("Query") {
            data.set("Query", object(query));
        }
        if !data.contains("Headers") {
            data.set("Headers", object(self.headers.iter().map(|(name, values)| (name.clone(), values.join(","))).collect()));
        }
    }

    fn is_binary(&self) -> bool {
        let kind = self.header("content-type").and_then(|value| value.split(';').next()).unwrap_or_default().trim();
        kind.contains('/')
            && (kind.eq_ignore_ascii_case("application/octet-stream") || kind.to_ascii_lowercase().contains("multipart/"))
    }
}

/// A body read as text: UTF-8, or what its byte order mark says.
fn text(body: &[u8]) -> String {
    match body {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] | rest => String::from_utf8_lossy(rest).into_owned(),
    }
}

pub(crate) fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let units: Vec<u16> = bytes.chunks_exact(2).map(|pair| unit([pair[0], pair[1]])).collect();
    String::from_utf16_lossy(&units)
}

/// Decodes a path as the server does: all escapes but `%2F`; dot segments are gone.
pub(crate) fn decoded_path(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex = path.get(i + 1..i + 3).filter(|hex| bytes[i] == b'%' && hex.bytes().all(|b| b.is_ascii_hexdigit()));
        let escape = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escape {
            Some(byte) if byte != b'/' && byte != 0 => {
                out.push(byte);
                i += 3;
            }
            _ => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    // Escapes that are not UTF-8 stay.
    let decoded = String::from_utf8(out).unwrap_or_else(|_| path.to_owned());
    if !decoded.contains("/.") {
        return decoded;
    }
    let mut segments: Vec<&str> = Vec::new();
    let mut parts = decoded.split('/').peekable();
    while let Some(part) = parts.next() {
        match part {
            "." if parts.peek().is_some() => {}
            "." => segments.push(""),
            ".." => {
                if segments.len() > 1 {
                    segments.pop();
                }
                if parts.peek().is_none() {
                    segments.push("");
                }
            }
            part => segments.push(part),
        }
    }
    segments.join("/")
}

/// Escapes a decoded path; with `keep`, what is an escape already stays one.
pub(crate) fn encoded_path(path: &str, keep: bool) -> String {
    let escape = |i: usize| path.get(i + 1..i + 3).is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    let mut out = String::with_capacity(path.len());
    for (i, byte) in path.bytes().enumerate() {
        if byte.is_ascii_alphanumeric() || b"!$&'()*+,-./:;=@_~".contains(&byte) || (keep && byte == b'%' && escape(i)) {
            out.push(char::from(byte));
        } else {
            _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Escapes a name or value of a query as the host's URL encoder does.
pub(crate) fn encoded_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"!$()*,-.;@_~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_queries_are_escaped_again_with_the_servers_slips() {
        assert_eq!(decoded_path("/api/a%2Fb%20c/%e2%9c%93"), "/api/a%2Fb c/✓");
        assert_eq!(decoded_path("/api/./x/../y/."), "/api/y/");
        assert_eq!(encoded_path("/api/a%2Fb c/✓", false), "/api/a%252Fb%20c/%E2%9C%93");
        assert_eq!(encoded_path("/api/a%2Fb c%", true), "/api/a%2Fb%20c%25");
        assert_eq!(encoded_query("a b+c/1,2"), "a%20b%2Bc%2F1,2");
    }

    #[test]
    fn headers_are_listed_as_the_server_lists_them() {
        let given = [("x-two", "a"), ("content-length", "5"), ("USER-AGENT", "u"), ("X-TWO", "b"), ("accept", "*/*")];
        let given = given.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let listed = HttpRequest::ordered(&given);
        let listed: Vec<String> = listed.into_iter().map(|(name, values)| format!("{name}={}", values.join(","))).collect();
        assert_eq!(listed, ["Accept=*/*", "User-Agent=u", "Content-Length=5", "x-two=a,b"]);
    }
}
