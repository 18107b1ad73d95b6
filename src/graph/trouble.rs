//! What it means when Graph does not do what it is asked: a closed set, each with what to do about it. Pure.
//!
//! The texts that are looked for come from the vendor's pages and from public threads; they are matched loosely, and what
//! Graph said is kept beside the meaning.

use std::time::Duration;

use crate::platform::http::{Failure, Reply, error_code, excerpt, one_line, request_id};

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Graph was not asked: our address does not answer us as Graph needs it. What was said has the remedy.
    OwnAddress,
    /// Our address did not answer the handshake in time.
    ValidationTimedOut,
    /// Something answered the handshake in our place: with this status, where Graph says it.
    EndpointAnswered(Option<String>),
    /// So many minutes are allowed.
    TooFar(u32),
    LifecycleUrlRequired,
    InvalidFilter,
    /// The service behind Graph forbids it.
    Forbidden,
    NotRich,
    /// A 400 for another reason.
    Refused,
    Unauthorized,
    /// There are too many subscriptions.
    Quota,
    Permission,
    /// There is no such subscription or object.
    Gone,
    /// The state of a delta query is too old.
    Expired,
    /// There is one already; its id, where Graph says it.
    Exists(Option<String>),
    Throttled,
    /// 5xx, a broken connection, no answer in time.
    Unavailable,
    /// An answer that is not Graph's.
    NotGraph,
    /// Nothing was sent: there is no token. What was said has the remedy.
    NoToken,
    /// Nothing was sent: who gives tokens does not answer. What was said names it.
    NoTokenNow,
}

impl Trouble {
    /// What to do about it, in one line.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::OwnAddress => "our own address does not answer as Graph needs it: check PUBLIC_URL",
            Self::ValidationTimedOut => {
                "our address did not answer Graph in time: keep an instance always ready, and let nothing in front of the app hold requests up"
            }
            Self::EndpointAnswered(_) => {
                "something in front of the app answers in its place: POST to PUBLIC_URL must reach the app without login, client certificate or web filter"
            }
            Self::TooFar(_) => "the end was too far away; the number that Graph named is used from now on",
            Self::LifecycleUrlRequired => {
                "this resource needs lifecycle notifications: leave `source.lifecycle` on in the playbook"
            }
            Self::InvalidFilter => "Graph does not understand the query of the resource: mend `source.resource` in the playbook",
            Self::Forbidden => {
                "the service behind Graph forbids it: grant the app the permission that `subscriptions resources` names for this resource; some resources also need a `$filter`"
            }
            Self::NotRich => "this resource cannot come with its data: take `include_resource_data` out of the playbook",
            Self::Refused => "Graph refuses it: see what it said, and mend the playbook's source",
            Self::Unauthorized => "the token is not accepted: check GRAPH_SCOPE, CLOUD and the app's client secret",
            Self::Quota => "too many subscriptions: delete some, or use one on a whole collection",
            Self::Permission => {
                "grant the app the permission that `subscriptions resources` names for this resource, with an administrator's consent"
            }
            Self::Gone => "it is not there any more",
            Self::Expired => "the state of the delta query is too old; it begins anew",
            Self::Exists(_) => "there is one on the same resource already; `subscriptions list` shows those of this app",
            Self::Throttled => "Graph asks for a pause; it is kept",
            Self::Unavailable => "Graph does not answer: check GRAPH_URL and the way there, or wait until it is back",
            Self::NotGraph => "the answer is not Graph's: check GRAPH_URL, and proxies on the way",
            Self::NoToken | Self::NoTokenNow => "there is no token for Graph: check the identity's settings and LOGIN_URL",
        }
    }

    /// It passes by itself: nobody has to change anything.
    #[must_use]
    pub const fn passes(&self) -> bool {
        matches!(
            self,
            Self::Throttled
                | Self::Unavailable
                | Self::NoTokenNow
                | Self::Gone
                | Self::TooFar(_)
                | Self::OwnAddress
                | Self::ValidationTimedOut
                | Self::Expired
        )
    }
}

/// A call that Graph did not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphError {
    /// Completes "failed to …".
    pub operation: &'static str,
    pub trouble: Trouble,
    /// What was said, in short; holds no secret.
    pub said: Option<String>,
    /// The pause that was asked for.
    pub retry_after: Option<Duration>,
    pub request_id: Option<String>,
    /// It may have been done all the same.
    pub unknown: bool,
}

impl std::error::Error for GraphError {}

impl std::fmt::Display for GraphError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Trouble::OwnAddress, Some(said)) = (&self.trouble, &self.said) {
            return f.write_str(said);
        }
        write!(f, "failed to {} at Microsoft Graph: ", self.operation)?;
        if let (Trouble::NoToken | Trouble::NoTokenNow, Some(said)) = (&self.trouble, &self.said) {
            return f.write_str(said);
        }
        f.write_str(self.trouble.remedy())?;
        match (&self.trouble, &self.said) {
            (Trouble::EndpointAnswered(Some(status)), None) => write!(f, " (the answer was {status})"),
            (_, Some(said)) => write!(f, " ({said})"),
            _ => Ok(()),
        }
    }
}

impl GraphError {
    /// An answer other than success.
    pub(super) fn refused(operation: &'static str, reply: &Reply) -> Self {
        let text = full_text(&reply.body);
        let trouble = classify(reply.status, error_code(&reply.body).as_deref(), &text);
        Self {
            operation,
            trouble,
            said: excerpt(&reply.body).or_else(|| Some(format!("status {}", reply.status))),
            retry_after: None,
            request_id: request_id(&reply.headers),
            unknown: false,
        }
    }

    /// A call without a usable answer.
    pub(super) fn unanswered(failure: &Failure) -> Self {
        let trouble = match failure.status {
            Some(429) => Trouble::Throttled,
            _ if failure.unsigned && failure.transient => Trouble::NoTokenNow,
            _ if failure.unsigned => Trouble::NoToken,
            _ if failure.transient => Trouble::Unavailable,
            _ => Trouble::NotGraph,
        };
        Self {
            operation: failure.operation,
            trouble,
            said: Some(failure.cause.clone()),
            retry_after: failure.retry_after,
            request_id: failure.request_id.clone(),
            unknown: failure.unknown,
        }
    }

    /// A success that cannot be read, or that leads elsewhere.
    pub(super) fn astray(operation: &'static str, reply: &Reply) -> Self {
        let said = Some(format!("status {} with a body that is none of Graph's", reply.status));
        Self {
            operation,
            trouble: Trouble::NotGraph,
            said,
            retry_after: None,
            request_id: request_id(&reply.headers),
            unknown: true,
        }
    }

    pub(super) fn endless(operation: &'static str) -> Self {
        let said = Some("its pages have no end".to_owned());
        Self { operation, trouble: Trouble::NotGraph, said, retry_after: None, request_id: None, unknown: false }
    }
}

/// All that an error says, not shortened: ids and numbers stand at its end.
fn full_text(body: &[u8]) -> String {
    match serde_json::from_slice::<serde_json::Value>(body) {
        Ok(value) => {
            value.pointer("/error/message").and_then(serde_json::Value::as_str).map_or_else(|| value.to_string(), str::to_owned)
        }
        Err(_) => String::from_utf8_lossy(&body[..body.len().min(16 << 10)]).into_owned(),
    }
}

fn classify(status: u16, code: Option<&str>, text: &str) -> Trouble {
    let lower = text.to_ascii_lowercase();
    let code = code.unwrap_or_default();
    let exists = lower.contains("already exists") || code.eq_ignore_ascii_case("ObjectIdentifierInUse");
    match status {
        // Some resources have answers of their own for it.
        400 | 403 | 409 if exists => Trouble::Exists(guid_in(text)),
        409 => Trouble::Exists(guid_in(text)),
        400 | 422 => bad_request(code, &lower),
        401 => Trouble::Unauthorized,
        403 if ["quota", "limit", "maximum number", "too many"].iter().any(|word| lower.contains(word)) => Trouble::Quota,
        403 => Trouble::Permission,
        404 => Trouble::Gone,
        410 => Trouble::Expired,
        429 => Trouble::Throttled,
        500.. => Trouble::Unavailable,
        _ => Trouble::NotGraph,
    }
}

fn bad_request(code: &str, lower: &str) -> Trouble {
    let has = |part: &str| lower.contains(part);
    if let Some(minutes) = minutes_allowed(lower) {
        return Trouble::TooFar(minutes);
    }
    if has("validation request timed out") || (has("validation") && has("timed out")) {
        return Trouble::ValidationTimedOut;
    }
    if has("http status code is") || has("must respond with 200") {
        return Trouble::EndpointAnswered(quoted_after(lower, "http status code is"));
    }
    if has("lifecyclenotificationurl") && has("required") {
        return Trouble::LifecycleUrlRequired;
    }
    if has("invalid filter clause") {
        return Trouble::InvalidFilter;
    }
    if has("not enabled for rich notifications") || (has("includeresourcedata") && has("not supported")) {
        return Trouble::NotRich;
    }
    if has("forbidden") || (code.eq_ignore_ascii_case("ExtensionError") && has("unauthorized")) {
        return Trouble::Forbidden;
    }
    Trouble::Refused
}

/// The number of minutes in `can only be 4230 minutes in the future`, or in `beyond allowed max '2.22:30:00'`.
fn minutes_allowed(lower: &str) -> Option<u32> {
    if let Some((_, rest)) = lower.split_once("can only be ") {
        return rest.split_whitespace().next()?.parse().ok();
    }
    let (_, rest) = lower.split_once("beyond allowed max")?;
    let span = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
    let span: &str = span.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).next()?;
    let (days, clock) = match span.split_once('.') {
        Some((days, clock)) if clock.contains(':') => (days.parse::<u32>().ok()?, clock),
        _ => (0, span),
    };
    let mut parts = clock.split(':').map(|part| part.split('.').next().unwrap_or_default().parse::<u32>().ok());
    let (hours, minutes) = (parts.next()??, parts.next()??);
    days.checked_mul(24)?.checked_add(hours)?.checked_mul(60)?.checked_add(minutes)
}

fn quoted_after(text: &str, marker: &str) -> Option<String> {
    let (_, rest) = text.split_once(marker)?;
    let word = rest.trim_start().trim_start_matches(['\'', '"', ':', ' ']);
    let word = word.split(['\'', '"', '.', ';']).next()?.trim();
    (!word.is_empty()).then(|| one_line(word))
}

/// The first text of the form `8-4-4-4-12`.
fn guid_in(text: &str) -> Option<String> {
    let is_part = |c: char| c.is_ascii_hexdigit() || c == '-';
    let lengths = |word: &str| word.split('-').map(str::len).collect::<Vec<_>>();
    text.split(|c: char| !is_part(c)).find(|word| lengths(word) == [8, 4, 4, 4, 12]).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderMap;
    use serde_json::json;

    use super::*;

    fn of(status: u16, code: &str, message: &str) -> Trouble {
        let body = json!({"error": {"code": code, "message": message}}).to_string();
        let reply = Reply { status, headers: HeaderMap::new(), body: body.into() };
        GraphError::refused("create a subscription", &reply).trouble
    }

    #[test]
    fn each_answer_of_the_table_has_its_meaning() {
        let id = "5522bd62-7c96-4530-85b0-00b916f6151a";
        for (status, code, message, trouble) in [
            (400, "InvalidRequest", "Subscription validation request timed out.", Trouble::ValidationTimedOut),
            (
                400,
                "ValidationError",
                "Subscription validation request failed. Response must respond with 200 OK to this request.",
                Trouble::EndpointAnswered(None),
            ),
            (
                400,
                "InvalidRequest",
                "Subscription validation request failed. HTTP status code is 'Forbidden'.",
                Trouble::EndpointAnswered(Some("forbidden".into())),
            ),
            (400, "ExtensionError", "Subscription expiration can only be 4230 minutes in the future.", Trouble::TooFar(4_230)),
            (
                400,
                "InvalidRequest",
                "Requested ExpirationDateTime '2026-12-09T10:00:00Z' is beyond allowed max '2.22:30:00'",
                Trouble::TooFar(4_230),
            ),
            (400, "InvalidRequest", "The end is beyond allowed max '01:00:00'.", Trouble::TooFar(60)),
            (
                400,
                "InvalidRequest",
                "lifecycleNotificationUrl is a required property for subscription creation on this resource when the expirationDateTime value is set to greater than 1 hour",
                Trouble::LifecycleUrlRequired,
            ),
            (400, "InvalidRequest", "Invalid filter clause", Trouble::InvalidFilter),
            (400, "ExtensionError", "Operation: Create; Exception: [Status Code: Forbidden; Reason: denied]", Trouble::Forbidden),
            (400, "InvalidRequest", "Resource 'driveItem' is not enabled for rich notifications.", Trouble::NotRich),
            (400, "InvalidRequest", "something else", Trouble::Refused),
            (401, "InvalidAuthenticationToken", "expired", Trouble::Unauthorized),
            (403, "Forbidden", "The subscription quota for this app was exceeded", Trouble::Quota),
            (403, "Authorization_RequestDenied", "Insufficient privileges", Trouble::Permission),
            (404, "ResourceNotFound", "The object was not found.", Trouble::Gone),
            (
                409,
                "Conflict",
                &format!("Subscription {id} already exists for the requested combination"),
                Trouble::Exists(Some(id.into())),
            ),
            (409, "ObjectIdentifierInUse", "", Trouble::Exists(None)),
            (302, "", "", Trouble::NotGraph),
        ] {
            assert_eq!(of(status, code, message), trouble, "{status} {message}");
        }
    }

    #[test]
    fn an_error_says_what_to_do_and_what_was_said() {
        let reply = Reply { status: 403, headers: HeaderMap::new(), body: r#"{"error":{"message":"Access\ndenied"}}"#.into() };
        let error = GraphError::refused("renew a subscription", &reply).to_string();
        assert!(error.starts_with("failed to renew a subscription") && error.ends_with("(Access denied)"), "{error}");
        assert!(!error.contains('\n'));
    }

    #[test]
    fn what_is_no_json_is_an_outage_or_not_graph() {
        let reply = |status| Reply { status, headers: HeaderMap::new(), body: "<html><title>Gateway</title>".into() };
        assert_eq!(GraphError::refused("x", &reply(400)).trouble, Trouble::Refused);
        assert_eq!(GraphError::refused("x", &reply(301)).trouble, Trouble::NotGraph);
    }
}
