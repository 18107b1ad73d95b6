//! `ReceiveNotifications`: a handshake is sent back, a delivery is put into the queues and then answered.
//!
//! Microsoft Graph counts answers that take more than three seconds, and sends again what is answered with anything but a 2xx.
//! So nothing is done here but to keep what came, and what is dropped on purpose is answered like what is kept; a 5xx says
//! that something was not kept (vendor page "Receive change notifications through webhooks").

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use futures_util::FutureExt as _;
use percent_encoding::percent_decode_str;
use tracing::Instrument as _;

use super::body::{Refusal, Whole};
use super::{Answer, Failure, Function, Relay, Trigger, rest_of};
use crate::app::receiver::Kept;
use crate::notifications::handshake::{self, Handshake};
use crate::notifications::profile::Profile;
use crate::notifications::receipt::Drop;
use crate::telemetry;

const NAME: &str = "ReceiveNotifications";
/// What Microsoft Graph calls.
const ROUTE: &str = "notifications/{profile?}";
/// Of the three seconds after which an answer counts as slow: what is left is for the way.
const DEADLINE: Duration = Duration::from_millis(2_500);

pub(super) const FUNCTION: Function = Function {
    name: NAME,
    trigger: Trigger::Http { route: ROUTE },
    answer: Answer::Request(|relay, request| Box::pin(answer(relay, request))),
};

async fn answer(relay: Arc<Relay>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    // First of all, and of nothing but the query: it works while nothing else does.
    match handshake::answer(head.uri.query()) {
        Some(Handshake::Echo(token)) => return text(StatusCode::OK, token),
        Some(Handshake::Refused(reason)) => return text(StatusCode::BAD_REQUEST, reason.to_owned()),
        None => {}
    }
    let id = head.headers.get("x-azure-functions-invocationid").and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Anybody may send a trace context here: it is not continued.
    let span = telemetry::invocation(NAME, id, None);
    let body = match relay.room().read(&head.headers, body, relay.clock().as_ref()).await {
        Ok(body) => body,
        Err(refusal) => return span.in_scope(|| refuse(refusal)),
    };
    let profile = profile_of(head.uri.path());
    // In a task of its own: what was begun is ended and told, though the sender has gone away.
    let task = tokio::spawn(keep(Arc::clone(&relay), (body, head.headers), profile, span));
    let answer = task.await.unwrap_or_else(|_| not_kept());
    tokio::spawn(async move { relay.flush().await });
    answer
}

/// What stands after the route, decoded; blank for the plain address.
fn profile_of(path: &str) -> String {
    percent_decode_str(rest_of(ROUTE, path).unwrap_or_default()).decode_utf8_lossy().into_owned()
}

async fn keep(relay: Arc<Relay>, (body, headers): (Whole, HeaderMap), profile: String, span: tracing::Span) -> Response {
    let began = relay.clock().monotonic();
    let work = async {
        let receiver = relay.receiver().await?;
        // Beside the keeping: it costs no time of its own.
        receiver.look_up(&profile);
        let kept = receiver.keep(&body.bytes).await.map_err(Failure::new)?;
        Ok((kept, receiver))
    };
    let work = AssertUnwindSafe(work).catch_unwind();
    let ended = async {
        tokio::select! {
            biased;
            ended = work => ended.unwrap_or_else(|_| Err(Failure::bug())),
            () = relay.clock().alarm(DEADLINE) => {
                Err(Failure(format!("the storage has not taken it within {} ms", DEADLINE.as_millis())))
            }
        }
    };
    let since = || relay.clock().monotonic().saturating_sub(began);
    let outcome = match ended.instrument(span.clone()).await {
        // It is kept, whatever becomes of the answer's text.
        Ok((kept, receiver)) => Ok((kept, receiver.profile(&profile, DEADLINE.saturating_sub(since())).await)),
        Err(failure) => Err(failure),
    };
    let took = since();
    let answer = span.in_scope(|| match &outcome {
        Ok((kept, answer)) => {
            let unknown_profile = answer.is_none() && !profile.is_empty();
            if kept.dropped.contains_key(&Drop::EmptyBody) && relay.may_tell_of(Drop::EmptyBody) {
                tell_of_empty(relay.is_hosted());
            }
            if kept.dropped.contains_key(&Drop::NotJson) && relay.may_tell_of(Drop::NotJson) {
                tell_of_no_json(&form_of(&headers, &body.bytes));
            }
            tell(kept, body.bytes.len(), unknown_profile, took);
            answered(answer.as_ref().unwrap_or(&Profile::default()))
        }
        Err(failure) => {
            tracing::error!(
                event = "notification.not_kept",
                error = failure.0,
                "a delivery was not kept, and comes again: {failure}"
            );
            telemetry::fail(&span, &failure.0);
            not_kept()
        }
    });
    drop(span);
    answer
}

/// One line for a delivery, whatever it held: its numbers by reason, and nothing of what it said.
fn tell(kept: &Kept, bytes: usize, unknown_profile: bool, took: Duration) {
    let dropped = |reason: Drop| kept.dropped.get(&reason).copied().unwrap_or_default();
    tracing::info!(
        event = "notification.received",
        accepted = kept.accepted,
        urgent = kept.urgent,
        unproven = kept.unproven,
        messages = kept.messages,
        dropped = kept.dropped.values().sum::<u64>(),
        empty_body = dropped(Drop::EmptyBody),
        not_json = dropped(Drop::NotJson),
        no_items = dropped(Drop::NoItems),
        no_object = dropped(Drop::NoObject),
        unreadable = dropped(Drop::Unreadable),
        foreign_client_state = dropped(Drop::ForeignClientState),
        wrong_client_state = dropped(Drop::WrongClientState),
        unknown_event = dropped(Drop::UnknownEvent),
        too_many_tokens = dropped(Drop::TooManyTokens),
        unknown_profile,
        bytes,
        duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "{}",
        summary(kept)
    );
}

/// Anybody may send one; many mean that bodies are lost on their way.
fn tell_of_empty(hosted: bool) {
    if hosted {
        tracing::error!(
            event = "notification.empty",
            "a delivery came without a body: something in front of this app loses bodies, and notifications with them; \
             `enableProxyingHttpRequest` must be true in host.json"
        );
    } else {
        tracing::warn!(
            "a delivery came without a body: somebody tries this address, or what stands in front of it loses bodies, and \
             notifications with them"
        );
    }
}

/// The same bytes would come again: the delivery is lost.
fn tell_of_no_json(form: &str) {
    tracing::warn!(
        "a delivery came that is no JSON ({form}): somebody tries this address, or what stands in front of it changes bodies or \
         cuts them off, and notifications are lost; it must hand them on as they come"
    );
}

/// What a body is instead of JSON, as far as that can be seen: Microsoft Graph sends UTF-8, and compresses nothing.
fn form_of(headers: &HeaderMap, body: &[u8]) -> String {
    // Anybody may send a header, and the line is to stay one.
    let plain = |text: &&str| text.len() <= 60 && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
    let header = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim).filter(plain);
    if let Some(encoding) = header(header::CONTENT_ENCODING).filter(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return format!("`content-encoding: {encoding}`");
    }
    match body {
        [0x1f, 0x8b, ..] => "it is compressed by gzip".to_owned(),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => "it begins with the byte order mark of UTF-16".to_owned(),
        [0, _, ..] | [_, 0, ..] => "it is UTF-16".to_owned(),
        _ => {
            header(header::CONTENT_TYPE).map_or_else(|| "without a content-type".to_owned(), |is| format!("`content-type: {is}`"))
        }
    }
}

/// `received 3 notifications; dropped 2: foreign client state, wrong client state`.
fn summary(kept: &Kept) -> String {
    // These say something of the whole delivery.
    for reason in [Drop::EmptyBody, Drop::NotJson, Drop::NoItems] {
        if kept.dropped.contains_key(&reason) {
            return format!("received a delivery without a notification: {}", name(reason));
        }
    }
    let dropped: u64 = kept.dropped.values().sum();
    let all = match kept.accepted + dropped {
        1 => "1 notification".to_owned(),
        all => format!("{all} notifications"),
    };
    if dropped == 0 {
        return format!("received {all}");
    }
    let reason = |(reason, count): (&Drop, &u64)| {
        let times = if kept.dropped.len() > 1 { format!("{count} ") } else { String::new() };
        format!("{times}{}", name(*reason))
    };
    let reasons: Vec<String> = kept.dropped.iter().map(reason).collect();
    format!("received {all}; dropped {dropped}: {}", reasons.join(", "))
}

/// As the field is called, in words.
fn name(reason: Drop) -> &'static str {
    match reason {
        Drop::EmptyBody => "empty body",
        Drop::NotJson => "not JSON",
        Drop::NoItems => "no items",
        Drop::NoObject => "no object",
        Drop::Unreadable => "unreadable",
        Drop::ForeignClientState => "foreign client state",
        Drop::WrongClientState => "wrong client state",
        Drop::UnknownEvent => "unknown event",
        Drop::TooManyTokens => "too many tokens",
    }
}

fn refuse(refusal: Refusal) -> Response {
    let (status, reason) = (refusal.status(), refusal.reason());
    if refusal == Refusal::NoRoom {
        tracing::error!(event = "notification.not_kept", error = reason, "a delivery was not kept, and comes again: {reason}");
    } else {
        tracing::warn!(event = "notification.refused", status = status.as_u16(), reason, "a request was refused: {reason}");
    }
    // What is left of the body is not read.
    ([(header::CONNECTION, "close")], text(status, reason.to_owned())).into_response()
}

/// The reason is in the log; who asks need not know.
fn not_kept() -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, "not kept; send it again".to_owned())
}

/// Never as a page, and never from a cache.
fn text(status: StatusCode, body: String) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/plain; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (status, headers, body).into_response()
}

/// What cannot be a header is left out: the delivery is kept, and must be answered.
fn answered(profile: &Profile) -> Response {
    let mut headers = HeaderMap::new();
    for (name, value) in &profile.headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.append(name, value);
        }
    }
    let status = StatusCode::from_u16(profile.code).unwrap_or(StatusCode::ACCEPTED);
    let typed = headers.contains_key(header::CONTENT_TYPE) || profile.body.is_empty();
    let mut answer = (status, profile.body.clone()).into_response();
    if typed {
        answer.headers_mut().remove(header::CONTENT_TYPE);
    }
    answer.headers_mut().extend(headers);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_became_of_a_body_on_its_way_is_named() {
        let of = |name: &'static str, value: &'static [u8], body: &[u8]| {
            let value = HeaderValue::from_bytes(value).expect("a header value");
            form_of(&HeaderMap::from_iter([(HeaderName::from_static(name), value)]), body)
        };
        assert_eq!(of("content-encoding", b"gzip", &[0x1f, 0x8b, 8]), "`content-encoding: gzip`");
        assert_eq!(of("content-encoding", b"identity", &[0x1f, 0x8b, 8]), "it is compressed by gzip");
        for mark in [[0xff, 0xfe], [0xfe, 0xff]] {
            assert_eq!(of("accept", b"x", &mark), "it begins with the byte order mark of UTF-16");
        }
        for text in [b"{\0\"\0", b"\0{\0\""] {
            assert_eq!(of("accept", b"x", text), "it is UTF-16");
        }
        assert_eq!(of("content-type", b"text/html", b"<html>"), "`content-type: text/html`");
        for strange in [&b"caf\xe9"[..], &[b'x'; 61]] {
            let value = HeaderValue::from_bytes(strange).expect("a header value");
            assert_eq!(form_of(&HeaderMap::from_iter([(header::CONTENT_TYPE, value)]), b"<"), "without a content-type");
        }
    }
}
