//! The Azure Functions custom handler: one router over the functions of `functions/`, thin adapters behind it.
//!
//! The host starts the process, asks `GET /` until it answers, and then posts every trigger to `/{FunctionName}`. Each answer
//! is a JSON object, a failure too, since an empty one would hang the invocation; a panic ends one invocation only. Requests from
//! outside are handed over as they come, under their own path, and answered as their protocol says. What an adapter does is one
//! call of the core; decisions are made there.

mod body;
mod envelope;
mod events;
mod export_indicators;
mod opening;
mod poll_alerts;
mod receive_notifications;
mod reconcile_subscriptions;
mod relay;
mod run_export;
mod run_playbooks;
mod server;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use futures_util::FutureExt as _;
use serde_json::json;
use tokio::task::JoinSet;
use tracing::Instrument as _;

pub use envelope::{Envelope, EnvelopeError, TimerInfo};
pub use events::{EVENTS, Event};
pub(crate) use reconcile_subscriptions::FUNCTION as RECONCILE;
pub use relay::{FUNCTION_TIMEOUT, Relay};
pub use server::serve;

use crate::platform::clock::BoxFuture;
use crate::telemetry;

/// The host's own limit of a request, in bytes; a message in its envelope is longer than the 2 MB that axum takes by itself.
const BODY_LIMIT: usize = 104_857_600;

/// A function of the app: a folder of `functions/` with this name and trigger.
#[derive(Debug, Clone, Copy)]
pub struct Function {
    /// Of the folder; the host posts to `/{name}`.
    pub name: &'static str,
    /// As in `function.json`.
    pub trigger: Trigger,
    answer: Answer,
}

/// What a function makes of a call.
#[derive(Debug, Clone, Copy)]
enum Answer {
    /// Of the host's envelope.
    Envelope(Work),
    /// Of the request itself, which the host hands over as it came.
    Request(fn(Arc<Relay>, Request) -> BoxFuture<'static, Response>),
}

/// What makes the host call a function. `binding` is the name under which it hands the value over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    Timer {
        binding: &'static str,
        schedule: When,
    },
    Queue {
        binding: &'static str,
        queue: &'static str,
    },
    /// A request from outside, below [`PREFIX`]. The last part of a route may be optional: `a/{b?}`.
    Http {
        route: &'static str,
    },
}

/// The schedule of a timer, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// As it stands.
    Always(&'static str),
    /// What the setting of this name says, which the host reads as `%NAME%`.
    Setting(&'static str),
}

/// What the host puts before the route of each HTTP function: `routePrefix` of `host.json`, by default `api`.
pub const PREFIX: &str = "/api/";

/// Every function: the router is made of this table, and a test holds it against the folders.
pub const FUNCTIONS: [Function; 7] = [
    export_indicators::FUNCTION,
    run_export::FUNCTION,
    receive_notifications::FUNCTION,
    run_playbooks::NORMAL,
    run_playbooks::URGENT,
    reconcile_subscriptions::FUNCTION,
    poll_alerts::FUNCTION,
];

/// Why an invocation failed: one line, without a secret. The host tries again, or a later tick does.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
struct Failure(String);

impl Failure {
    #[expect(clippy::needless_pass_by_value, reason = "what `map_err` hands over")]
    fn new(error: impl ToString) -> Self {
        Self(error.to_string())
    }

    /// The panic itself is a line already.
    fn bug() -> Self {
        Self("the program has a bug: the invocation panicked".to_owned())
    }
}

/// The routes of all functions, and of the host's own question whether we are there.
pub fn router(relay: &Arc<Relay>) -> Router {
    routes(relay, |_| true)
}

/// What anybody may call: the HTTP functions, and the question whether we are there.
pub fn public_router(relay: &Arc<Relay>) -> Router {
    routes(relay, |trigger| matches!(trigger, Trigger::Http { .. }))
}

fn routes(relay: &Arc<Relay>, wanted: fn(&Trigger) -> bool) -> Router {
    let mut router = Router::new().route("/", {
        let relay = Arc::clone(relay);
        get(move || {
            // Beside the answer, which the host waits for before it sends the first invocation.
            tokio::spawn(async move { relay.prepare().await });
            async { object(StatusCode::OK, &json!({"status": "ready"})) }
        })
    });
    for function in FUNCTIONS.into_iter().filter(|function| wanted(&function.trigger)) {
        // A request finds its function by its route, below.
        let Answer::Envelope(work) = function.answer else { continue };
        let relay = Arc::clone(relay);
        let handler = move |headers: HeaderMap, body: Result<Bytes, BytesRejection>| {
            let relay = Arc::clone(&relay);
            async move { invoke(function.name, work, relay, &headers, body).await }
        };
        router = router.route(&format!("/{}", function.name), post(handler));
    }
    let relay = Arc::clone(relay);
    router
        .fallback(move |request: Request| requested(Arc::clone(&relay), request))
        .method_not_allowed_fallback(|| async { not_with_this_method() })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
}

/// Anything that is asked from outside.
async fn requested(relay: Arc<Relay>, request: Request) -> Response {
    let answers = |function: &Function| match (function.trigger, function.answer) {
        (Trigger::Http { route }, Answer::Request(answer)) => rest_of(route, request.uri().path()).map(|_| answer),
        _ => None,
    };
    match FUNCTIONS.iter().find_map(answers) {
        Some(answer) if request.method() == Method::POST => answer(relay, request).await,
        Some(_) => ([(header::ALLOW, Method::POST.as_str())], not_with_this_method()).into_response(),
        None => object(StatusCode::NOT_FOUND, &json!({"error": "there is no such function"})),
    }
}

fn not_with_this_method() -> Response {
    object(StatusCode::METHOD_NOT_ALLOWED, &json!({"error": "not with this method"}))
}

/// What a path holds in the place of the route's optional last part; none: the path is not of this route. Compared as the host's
/// own router does, which hands the path over as it came: without regard to case or to a slash at the end.
fn rest_of<'a>(route: &str, path: &'a str) -> Option<&'a str> {
    let optional = route.strip_suffix("?}").and_then(|route| route.rsplit_once("/{"));
    let fixed = format!("{PREFIX}{}", optional.map_or(route, |(fixed, _)| fixed));
    let (start, rest) = path.split_at_checked(fixed.len())?;
    let name = rest.trim_matches('/');
    let ends = rest.is_empty() || rest.starts_with('/');
    let fits = name.is_empty() || (optional.is_some() && !name.contains('/'));
    (start.eq_ignore_ascii_case(&fixed) && ends && fits).then_some(name)
}

/// What a function makes of an envelope.
type Work = fn(Arc<Relay>, Envelope) -> BoxFuture<'static, Result<(), Failure>>;

/// One invocation, in a task of its own: it goes on if the connection breaks, and a panic ends only it.
async fn invoke(name: &str, work: Work, relay: Arc<Relay>, headers: &HeaderMap, body: Result<Bytes, BytesRejection>) -> Response {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let id = header("x-azure-functions-invocationid").unwrap_or_default();
    let span = telemetry::invocation(name, id, header("traceparent"));
    let envelope = match body {
        Ok(body) => Envelope::parse(&body).map_err(Failure::new),
        Err(rejection) => Err(Failure(format!("failed to read the request of the Functions host: {rejection}"))),
    };
    let ended = tokio::spawn(invocation(work, relay, span, envelope)).await;
    let outcome = ended.unwrap_or_else(|_| Err(Failure::bug()));
    match outcome {
        Ok(()) => object(StatusCode::OK, &json!({"Outputs": {}, "Logs": [], "ReturnValue": null})),
        Err(failure) => object(StatusCode::INTERNAL_SERVER_ERROR, &json!({"error": failure.0})),
    }
}

/// The same without a host: a timer's or a message's. False if it failed, which was told. Dropped, it ends where it is.
pub(crate) async fn call(function: Function, relay: &Arc<Relay>, id: &str, envelope: Envelope) -> bool {
    let Answer::Envelope(work) = function.answer else { return false };
    let span = telemetry::invocation(function.name, id, None);
    let mut task = JoinSet::new();
    task.spawn(invocation(work, Arc::clone(relay), span, Ok(envelope)));
    matches!(task.join_next().await, Some(Ok(Ok(()))))
}

/// The work with all that is told of it, which nobody may lose who goes away meanwhile.
async fn invocation(
    work: Work,
    relay: Arc<Relay>,
    span: tracing::Span,
    envelope: Result<Envelope, Failure>,
) -> Result<(), Failure> {
    let shared = Arc::clone(&relay);
    let work = async move { work(relay, envelope?).await };
    // What a panic leaves behind is not looked at again: stores and queues hold what counts.
    let ended = AssertUnwindSafe(work.instrument(span.clone())).catch_unwind().await;
    let outcome = ended.unwrap_or_else(|_| Err(Failure::bug()));
    if let Err(failure) = &outcome {
        // Before the answer: the host throws the body of a failure away.
        span.in_scope(|| tracing::error!(event = "invocation.failed", error = failure.0, "the invocation failed: {failure}"));
        telemetry::fail(&span, &failure.0);
    }
    drop(span);
    shared.flush().await;
    outcome
}

/// An answer as the host takes it: always an object, never empty.
fn object(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, axum::Json(body)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_of_a_route_however_it_is_spelt() {
        let rest = |path| rest_of("notifications/{profile?}", path);
        for path in ["/api/notifications", "/api/notifications/", "/API/Notifications", "/api/NOTIFICATIONS//"] {
            assert_eq!(rest(path), Some(""), "{path}");
        }
        for path in ["/api/notifications/Guide", "/Api/Notifications/Guide/"] {
            assert_eq!(rest(path), Some("Guide"), "{path}");
        }
        for path in ["/", "/api", "/api/notification", "/api/notificationsx", "/api/notifications/a/b", "/notifications"] {
            assert_eq!(rest(path), None, "{path}");
        }
        assert_eq!(rest_of("status", "/api/status/x"), None);
    }
}
