//! What it means when Microsoft Graph refuses a call as a whole: one line that names what to change. Pure.

use super::wire;
use crate::platform::http::{Failure, Reply, error_code, excerpt, request_id};
use crate::sinks::{SendError, SendErrorKind};

/// The permission that writing needs.
const PERMISSION: &str = "ThreatIndicators.ReadWrite.OwnedBy";

/// An answer to a call that names no object, other than success.
pub(super) fn refused(operation: &str, reply: &Reply) -> SendError {
    let code = error_code(&reply.body);
    let code = code.as_deref();
    let (kind, advice) = match reply.status {
        _ if is_choked(code) => (SendErrorKind::TooMuch, "the service choked on the request".to_owned()),
        404 | 410 => return gone(operation, reply),
        _ if says_retired(code) => return gone(operation, reply),
        400 | 409 | 413 | 422 => (SendErrorKind::Refused, format!("it was refused with status {}", reply.status)),
        401 => (
            SendErrorKind::Systemic,
            "the token is not accepted; check GRAPH_SCOPE and CLOUD (the audience must be that of Microsoft Graph)".to_owned(),
        ),
        403 => (
            SendErrorKind::Systemic,
            format!(
                "the app needs the application permission {PERMISSION} with an administrator's consent; \
                 where it has it, the API is closed for this tenant: use DELIVERY=product"
            ),
        ),
        status => (SendErrorKind::Systemic, format!("an unexpected status {status}; check GRAPH_URL")),
    };
    SendError::new(kind, told(operation, &advice, reply), request_id(&reply.headers))
}

/// The API answers no more, or as if it were not there.
pub(super) fn gone(operation: &str, reply: &Reply) -> SendError {
    let advice = "its tiIndicator API is gone or closed for this tenant; use DELIVERY=product";
    SendError::new(SendErrorKind::Systemic, told(operation, advice, reply), request_id(&reply.headers))
}

/// A next page that lies on another host, or pages without an end.
pub(super) fn astray(operation: &str) -> SendError {
    let message = format!("failed to {operation} through Microsoft Graph: its list of pages leads elsewhere; check GRAPH_URL");
    SendError::new(SendErrorKind::Systemic, message, None)
}

/// A call without a usable answer.
pub(super) fn unanswered(failure: Failure) -> SendError {
    let code = failure.code.as_deref();
    let (kind, advice) = if is_choked(code) {
        (SendErrorKind::TooMuch, "")
    } else if failure.status == Some(501) || says_retired(code) {
        (SendErrorKind::Systemic, "; its tiIndicator API is gone or closed for this tenant; use DELIVERY=product")
    } else if failure.transient {
        (SendErrorKind::Transient, "")
    } else {
        (SendErrorKind::Systemic, "")
    };
    let message = format!("{failure}{advice}");
    SendError { kind, message, retry_after: failure.retry_after, correlation: failure.request_id }
}

fn told(operation: &str, advice: &str, reply: &Reply) -> String {
    let said = excerpt(&reply.body).filter(|_| reply.status >= 300).map(|said| format!(" ({said})")).unwrap_or_default();
    format!("failed to {operation} through Microsoft Graph: {advice}{said}")
}

/// Full batches are answered so now and then where half of one passes.
fn is_choked(code: Option<&str>) -> bool {
    code.is_some_and(|code| code.eq_ignore_ascii_case("UnknownError"))
}

/// No page says with which code the API will go: these are the words that vendors use.
fn says_retired(code: Option<&str>) -> bool {
    let code = code.unwrap_or_default().to_ascii_lowercase();
    ["retired", "deprecated", "decommissioned"].iter().any(|word| code.contains(word))
        || ["gone", "notimplemented", "notsupported"].contains(&code.as_str())
}

/// What an answer to a call about one object means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum About {
    Done,
    NotThere,
    Refused { reason: String, correlation: Option<String> },
}

/// Reads the answer to a call that names one object.
///
/// # Errors
/// Where the answer is about us or the API, not about the object.
pub(super) fn about(operation: &str, reply: &Reply) -> Result<About, SendError> {
    match reply.status {
        200..=299 if wire::is_list(&reply.body) => Err(gone(operation, reply)),
        200..=299 => Ok(About::Done),
        404 | 410 => Ok(About::NotThere),
        _ => match refused(operation, reply) {
            SendError { kind: SendErrorKind::Refused, message, correlation, .. } => {
                Ok(About::Refused { reason: excerpt(&reply.body).unwrap_or(message), correlation })
            }
            error => Err(error),
        },
    }
}

/// The entries of a bulk answer.
///
/// # Errors
/// [`gone`] where there are none.
pub(super) fn entries(operation: &str, reply: &Reply) -> Result<Vec<serde_json::Value>, SendError> {
    wire::entries(&reply.body).ok_or_else(|| gone(operation, reply))
}
