//! The handshake: a real request to the endpoint, which must give the token back.
//!
//! As public logs show it: escapes in lower case, `+` for blanks, no User-Agent. Not imitated: HTTP/2, source addresses.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::api::Refusal;
use crate::server::Shared;

/// The longest answer that is read.
const LONGEST: usize = 64 << 10;

/// One handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handshake {
    pub at: Timestamp,
    /// With the token.
    pub url: String,
    /// None: no answer in time.
    pub status: Option<u16>,
    /// It is as it must be.
    pub good: bool,
}

pub(super) fn timed_out() -> Refusal {
    (400, "ValidationError", "Subscription validation request timed out.".to_owned())
}

/// Asks one endpoint.
#[expect(clippy::disallowed_methods, reason = "the emulator's own request, to an endpoint on this machine")]
pub(super) async fn shake(shared: &Shared, url: &str) -> Result<(), Refusal> {
    let (token, limit, at) = {
        let notifications = &mut shared.world().notifications;
        let usual = "Validation: Testing client application reachability for subscription Request-Id: ";
        let guid = notifications.guid();
        let token = notifications.handshake_text.clone().unwrap_or_else(|| format!("{usual}{guid}"));
        (token, notifications.limits.handshake, shared.time.now())
    };
    let asked = format!("{url}{}validationToken={}", if url.contains('?') { '&' } else { '?' }, encode(&token));
    let request = shared.client.post(&asked).header("content-type", "text/plain; charset=utf-8").timeout(limit).body("");
    let answer = async {
        let response = request.send().await?;
        let status = response.status().as_u16();
        let kind = response.headers().get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        Ok::<_, reqwest::Error>((status, kind, response.bytes().await?))
    };
    let answer = answer.await.ok();
    let result = match &answer {
        None => Err(timed_out()),
        Some((200, kind, body)) => {
            let plain = kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/plain"));
            if !plain {
                refuse(&format!("The content type of the response must be text/plain, not '{kind}'."))
            } else if body.len() > LONGEST || body.as_ref() != token.as_bytes() {
                refuse("Response must exactly match validationToken query parameter.")
            } else {
                Ok(())
            }
        }
        Some((status @ 201..=299, _, _)) => {
            refuse(&format!("The endpoint must respond with 200 OK to this request, not {status}."))
        }
        Some((status, _, _)) => refuse(&format!("HTTP status code is '{}'.", reason(*status))),
    };
    let status = answer.map(|(status, _, _)| status);
    shared.world().notifications.handshakes.push(Handshake { at, url: asked, status, good: result.is_ok() });
    result
}

fn refuse(why: &str) -> Result<(), Refusal> {
    Err((400, "ValidationError", format!("Subscription validation request failed. {why}")))
}

/// As .NET names it: `NotFound`.
fn reason(status: u16) -> String {
    let known = reqwest::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    known.map_or_else(|| status.to_string(), |reason| reason.replace([' ', '-'], ""))
}

/// As a form encodes it, with escapes in lower case.
fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' ' => encoded.push('+'),
            byte if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'*') => encoded.push(char::from(byte)),
            byte => _ = write!(encoded, "%{byte:02x}"),
        }
    }
    encoded
}
