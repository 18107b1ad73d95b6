//! The one HTTP client: retries by kind of failure and idempotence, the delay that the other side asks for,
//! attempts and time bounded, bodies capped, nothing secret in any error.

mod wait;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::{Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};
use reqwest::Method;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::Url;

pub use wait::{http_date, suggested_wait};

use super::claims::roles;
use super::clock::{BoxFuture, Clock};
use super::pacer::Pacer;

/// Before the second attempt, where the service does not say; doubled for each further one.
const FIRST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// Everything outside RFC 3986's unreserved characters, so that nothing is left for anybody to normalise.
pub const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// Characters of a foreign message that we repeat.
const EXCERPT: usize = 200;

/// The headers of one attempt, or why there are none.
pub type Authorized = Result<Signed, AuthorizeError>;
/// Headers that prove who asks.
pub type Signed = Vec<(HeaderName, HeaderValue)>;

/// Adds what proves who we are, anew for each attempt.
pub trait Authorize: fmt::Debug + Send + Sync {
    /// Headers for one attempt. `target` is the path and query exactly as they go on the request line.
    fn headers<'a>(&'a self, method: &'a Method, target: &'a str) -> BoxFuture<'a, Authorized>;

    /// The service answered 401 or 403: forget what is cached. True if another attempt can differ from the last.
    fn renew(&self) -> bool;
}

/// No credentials could be had.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct AuthorizeError {
    /// One line: what failed and what to change. Holds no secret.
    pub message: String,
    /// True if trying later may help (the token endpoint is down), false if a setting is wrong.
    pub transient: bool,
}

/// One call, before it is signed.
#[derive(Debug, Clone)]
pub struct Request {
    /// Completes "failed to …": `read indicators`.
    pub operation: &'static str,
    pub method: Method,
    /// Below the base URL: begins with `/`, already percent-encoded, with its query.
    pub path: String,
    /// JSON body.
    pub body: Option<Bytes>,
    /// May be sent again when it is unknown whether it took effect.
    pub idempotent: bool,
}

/// An answer, whatever its status, that is not to be retried any more.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Bounds of one call with its retries.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    pub attempts: u32,
    /// From the first attempt to the last answer; a longer wait that is asked for ends the call.
    pub total: Duration,
    /// One attempt, from connection to the last byte.
    pub attempt: Duration,
    /// Largest accepted body, in bytes.
    pub body: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { attempts: 5, total: Duration::from_secs(120), attempt: Duration::from_secs(30), body: 256 << 20 }
    }
}

/// A call that got no usable answer.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{service} {} `{operation}`: {cause}{}", reaction(*unsigned, *status), tries(*attempts, *elapsed))]
pub struct Failure {
    pub service: &'static str,
    pub operation: &'static str,
    /// `status 503`, `timed out`, `connection refused`, … with the service's own message where it gave one; no secret.
    pub cause: String,
    /// Of the last attempt.
    pub status: Option<u16>,
    pub attempts: u32,
    pub elapsed: Duration,
    /// The service asked for this wait before the next attempt, longer than the bounds allow.
    pub retry_after: Option<Duration>,
    /// The service's own correlation id.
    pub request_id: Option<String>,
    /// The service's own error code in the last answer.
    pub code: Option<String>,
    /// False if credentials could not be had for a reason that waiting does not mend.
    pub transient: bool,
    /// The service may have acted on it.
    pub unknown: bool,
    /// It was not asked: credentials could not be had.
    pub unsigned: bool,
}

/// What one client sent, for the report.
#[derive(Debug, Default)]
pub struct Traffic {
    pub requests: AtomicU64,
    pub retried: AtomicU64,
    pub throttled: AtomicU64,
}

/// What a service wants to hear where it is not plain JSON.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    pub accept: &'static str,
    pub content_type: &'static str,
    /// Sent with each request: names in lower case.
    pub headers: &'static [(&'static str, &'static str)],
}

const JSON: Dialect = Dialect { accept: "application/json", content_type: "application/json", headers: &[] };

/// Reads a wait from an error body.
pub type ReadWait = fn(&[u8]) -> Option<Duration>;

/// A client of one service.
#[derive(Debug, Clone)]
pub struct Http {
    service: &'static str,
    client: reqwest::Client,
    clock: Arc<dyn Clock>,
    base: Url,
    authorize: Arc<dyn Authorize>,
    pacer: Option<Arc<Mutex<Pacer>>>,
    bounds: Bounds,
    /// Reads a wait from an error body, for services that say it only there.
    wait_in_body: Option<ReadWait>,
    dialect: Dialect,
    traffic: Arc<Traffic>,
}

impl Http {
    /// `base`: scheme, host, port and path prefix; opaque.
    #[must_use]
    pub fn new(
        service: &'static str,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        base: Url,
        authorize: Arc<dyn Authorize>,
    ) -> Self {
        Self {
            service,
            client,
            clock,
            base,
            authorize,
            pacer: None,
            bounds: Bounds::default(),
            wait_in_body: None,
            dialect: JSON,
            traffic: Arc::default(),
        }
    }

    /// Every attempt, retries included, takes a place of this pacer.
    #[must_use]
    pub fn paced(mut self, pacer: Arc<Mutex<Pacer>>) -> Self {
        self.pacer = Some(pacer);
        self
    }

    #[must_use]
    pub fn bounded(mut self, bounds: Bounds) -> Self {
        self.bounds = bounds;
        self
    }

    #[must_use]
    pub fn reading_wait_from(mut self, read: ReadWait) -> Self {
        self.wait_in_body = Some(read);
        self
    }

    #[must_use]
    pub fn speaking(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Sends with retries.
    ///
    /// # Errors
    /// [`Failure`] when no attempt within the bounds got an answer other than 408, 429 or 5xx, or none could be signed.
    pub async fn send(&self, request: Request) -> Result<Reply, Failure> {
        let began = self.clock.monotonic();
        let mut delays = ExponentialBuilder::default()
            .with_min_delay(FIRST_DELAY)
            .with_max_delay(LONGEST_DELAY)
            .with_jitter()
            .without_max_times()
            .build();
        let mut attempts = 0;
        let mut renewed = false;
        // Waiting for a place under the rate limit is not the service's fault: it does not count against the time allowed.
        let mut paced = Duration::ZERO;
        loop {
            attempts += 1;
            paced += self.take_place().await;
            let mut signed = Vec::new();
            let trouble = match self.attempt(&request, attempts, &mut signed).await {
                Ok(reply) if !renewed && self.may_differ(&request, reply.status, &signed).await => {
                    renewed = true;
                    continue;
                }
                Ok(reply) if !is_retryable(reply.status) => return Ok(reply),
                Ok(reply) => self.troubled(&reply),
                Err(trouble) => trouble,
            };
            let elapsed = self.clock.monotonic().saturating_sub(began).saturating_sub(paced);
            if let Some(wait) = trouble.wait
                && trouble.status == Some(429)
                && let Some(pacer) = &self.pacer
            {
                pacer
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .close_until(self.clock.monotonic() + wait.min(self.bounds.total));
            }
            let wait = trouble.wait.unwrap_or_else(|| delays.next().unwrap_or(LONGEST_DELAY));
            let may_repeat = request.idempotent || trouble.not_taken;
            if !trouble.transient || !may_repeat || attempts >= self.bounds.attempts || elapsed + wait > self.bounds.total {
                let retry_after = trouble.wait.filter(|wait| elapsed + *wait > self.bounds.total);
                return Err(Failure {
                    service: self.service,
                    operation: request.operation,
                    cause: trouble.cause,
                    status: trouble.status,
                    attempts,
                    elapsed,
                    retry_after,
                    request_id: trouble.request_id,
                    code: trouble.code,
                    transient: trouble.transient,
                    unknown: !trouble.not_taken,
                    unsigned: trouble.unsigned,
                });
            }
            tracing::debug!(
                service = self.service,
                operation = request.operation,
                attempts,
                cause = trouble.cause,
                wait_ms = wait.as_millis(),
                "trying again"
            );
            self.traffic.retried.fetch_add(1, Ordering::Relaxed);
            self.clock.sleep(wait).await;
        }
    }

    /// Whether another attempt can be answered otherwise than one that was `signed` so and refused with this status.
    async fn may_differ(&self, request: &Request, status: u16, signed: &[(HeaderName, HeaderValue)]) -> bool {
        if status != 403 {
            return status == 401 && self.authorize.renew();
        }
        // A role that was granted just now is not in the token that we have; another token with the same roles is refused again.
        let granted = async || roles(&self.authorize.headers(&request.method, &request.path).await.unwrap_or_default());
        let before = roles(signed);
        // Another call may have had the new one meanwhile.
        before.is_some() && granted().await != before || self.authorize.renew() && (before.is_none() || granted().await != before)
    }

    /// Waits for this attempt's place under the rate limit; how long it took.
    async fn take_place(&self) -> Duration {
        let Some(pacer) = &self.pacer else { return Duration::ZERO };
        let began = self.clock.monotonic();
        let wait = pacer.lock().unwrap_or_else(PoisonError::into_inner).reserve(began);
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
        self.clock.monotonic().saturating_sub(began)
    }

    async fn attempt(&self, request: &Request, attempt: u32, signed: &mut Signed) -> Result<Reply, Trouble> {
        let mut url = self.base.clone();
        let (path, query) =
            request.path.split_once('?').map_or((request.path.as_str(), None), |(path, query)| (path, Some(query)));
        url.set_path(&format!("{}{path}", self.base.path().trim_end_matches('/')));
        url.set_query(query);
        // Signed after parsing: these are the bytes that go on the request line.
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        *signed = self.authorize.headers(&request.method, &target).await.map_err(Trouble::from)?;
        let mut builder =
            self.client.request(request.method.clone(), url).timeout(self.bounds.attempt).header(ACCEPT, self.dialect.accept);
        for (name, value) in self.dialect.headers {
            builder = builder.header(*name, *value);
        }
        let typed = signed.iter().any(|(name, _)| name == CONTENT_TYPE);
        for (name, value) in signed.iter() {
            builder = builder.header(name, value);
        }
        if let Some(body) = &request.body {
            builder = if typed { builder } else { builder.header(CONTENT_TYPE, self.dialect.content_type) }.body(body.clone());
        }
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::disallowed_methods, reason = "this is the one client that the rule points to")]
        let mut response = builder.send().await.map_err(|e| Trouble::from(&e))?;
        let status = response.status().as_u16();
        let headers = std::mem::take(response.headers_mut());
        if status == 429 {
            self.traffic.throttled.fetch_add(1, Ordering::Relaxed);
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = response.chunk().await.map_err(|e| Trouble::from(&e))? {
            if body.len() + chunk.len() > self.bounds.body {
                return Err(Trouble::for_good(format!("an answer of more than {} MiB", self.bounds.body >> 20)));
            }
            body.extend_from_slice(&chunk);
        }
        tracing::debug!(service = self.service, operation = request.operation, attempt, status, bytes = body.len(), "answered");
        Ok(Reply { status, headers, body: body.freeze() })
    }

    /// What a 408, 429 or 5xx means for the next attempt.
    fn troubled(&self, reply: &Reply) -> Trouble {
        let now = self.clock.now();
        let in_header = suggested_wait(&reply.headers, now);
        let in_body = || self.wait_in_body.and_then(|read| read(&reply.body));
        Trouble {
            cause: format!("status {}{}", reply.status, excerpt(&reply.body).map(|text| format!(": {text}")).unwrap_or_default()),
            status: Some(reply.status),
            wait: in_header.or_else(in_body),
            request_id: request_id(&reply.headers),
            code: error_code(&reply.body),
            transient: true,
            not_taken: matches!(reply.status, 429 | 503),
            unsigned: false,
        }
    }
}

/// One attempt that is not an answer.
struct Trouble {
    cause: String,
    status: Option<u16>,
    wait: Option<Duration>,
    request_id: Option<String>,
    code: Option<String>,
    transient: bool,
    /// The service certainly did not act on it.
    not_taken: bool,
    unsigned: bool,
}

impl Trouble {
    fn for_good(cause: String) -> Self {
        let (wait, request_id, code) = (None, None, None);
        Self { cause, status: None, wait, request_id, code, transient: false, not_taken: false, unsigned: false }
    }
}

impl From<&reqwest::Error> for Trouble {
    fn from(error: &reqwest::Error) -> Self {
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        let ended = innermost.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof);
        let cause = if error.is_timeout() {
            "timed out".to_owned()
        } else if ended {
            "the answer broke off".to_owned()
        } else if error.is_connect() {
            format!("no connection: {innermost}")
        } else if error.is_body() || error.is_decode() {
            format!("the answer broke off: {innermost}")
        } else {
            format!("the connection broke: {innermost}")
        };
        Self { transient: !error.is_builder(), not_taken: error.is_connect(), ..Self::for_good(cause) }
    }
}

impl From<AuthorizeError> for Trouble {
    fn from(error: AuthorizeError) -> Self {
        Self { transient: error.transient, not_taken: true, unsigned: true, ..Self::for_good(error.message) }
    }
}

/// What the service did about an operation.
fn reaction(unsigned: bool, status: Option<u16>) -> &'static str {
    match status {
        _ if unsigned => "could not be asked to",
        Some(_) => "answered to",
        None => "did not answer to",
    }
}

/// Blank for one attempt, which is all that some callers make.
fn tries(attempts: u32, elapsed: Duration) -> String {
    if attempts < 2 { String::new() } else { format!(" ({attempts} attempts in {} s)", elapsed.as_secs()) }
}

fn is_retryable(status: u16) -> bool {
    status == 408 || status == 429 || status >= 500
}

/// The service's own correlation id.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> Option<String> {
    ["x-ms-request-id", "request-id", "x-ms-correlation-request-id"]
        .iter()
        .find_map(|name| headers.get(*name)?.to_str().ok().map(str::to_owned))
}

/// The code of an error body (`{"error":{"code":"…"}}`; OData version 3 calls it `odata.error`).
#[must_use]
pub fn error_code(body: &[u8]) -> Option<String> {
    let value = serde_json::from_slice::<serde_json::Value>(body).ok()?;
    let code = value.pointer("/error/code").or_else(|| value.pointer("/odata.error/code"));
    code.and_then(serde_json::Value::as_str).map(str::to_owned)
}

/// What a body says, in one short line: a JSON message, the title of a page, or its first words.
#[must_use]
pub fn excerpt(body: &[u8]) -> Option<String> {
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(body) {
        let said = ["/message", "/error/message", "/error_description", "/error", "/odata.error/message/value"]
            .iter()
            .find_map(|path| value.pointer(path).and_then(serde_json::Value::as_str).map(str::to_owned));
        return said.map(|text| one_line(&text));
    }
    let text = String::from_utf8_lossy(&body[..body.len().min(4_096)]);
    if text.trim_start().starts_with('<') {
        let title =
            text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>")).map(|(title, _)| one_line(title));
        return Some(title.map_or_else(|| "an HTML page".to_owned(), |title| format!("an HTML page ({title})")));
    }
    let line = one_line(&text);
    (!line.is_empty()).then_some(line)
}

/// A foreign message in one short line.
#[must_use]
pub fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(EXCERPT).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

/// A link's path and query below a base address; none if it leads elsewhere, where our token has no business.
#[must_use]
pub fn path_below(base: &Url, link: &Url) -> Option<String> {
    if link.origin() != base.origin() {
        return None;
    }
    let path = link.path().strip_prefix(base.path().trim_end_matches('/')).filter(|path| path.starts_with('/'))?;
    Some(link.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}")))
}

/// An address of this machine.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(pairs: &[(&'static str, &str)]) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, HeaderValue::from_str(value).expect("a header value"));
        }
        suggested_wait(&headers, "2023-11-21T10:00:00Z".parse().expect("a time"))
    }

    #[test]
    fn every_form_of_retry_after_is_obeyed() {
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        assert_eq!(wait(&[("retry-after", "2.5")]), Some(Duration::from_millis(2_500)));
        assert_eq!(wait(&[("retry-after-ms", "1500")]), Some(Duration::from_millis(1_500)));
        assert_eq!(wait(&[("retry-after", "Tue, 21 Nov 2023 10:00:09 GMT")]), Some(Duration::from_secs(9)));
        let dated = [("retry-after", "Tue, 21 Nov 2023 10:00:09 GMT"), ("date", "Tue, 21 Nov 2023 10:00:05 GMT")];
        assert_eq!(wait(&dated), Some(Duration::from_secs(4)));
        assert_eq!(wait(&[("retry-after", "Tue, 21 Nov 2023 09:00:00 GMT")]), Some(Duration::ZERO));
    }

    #[test]
    fn absurd_waits_ask_for_nothing() {
        assert_eq!(wait(&[("retry-after", "-3")]), None);
        assert_eq!(wait(&[("retry-after", "soon")]), None);
        assert_eq!(wait(&[("retry-after", "NaN")]), None);
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn a_failure_says_whether_there_was_an_answer_and_how_often_it_was_asked_for() {
        let said = |status: Option<u16>, unsigned, cause: &str, attempts| {
            let failure = Failure {
                service: "Graph",
                operation: "read it",
                cause: cause.to_owned(),
                status,
                attempts,
                elapsed: Duration::from_secs(7),
                retry_after: None,
                request_id: None,
                code: None,
                transient: true,
                unknown: true,
                unsigned,
            };
            failure.to_string()
        };
        assert_eq!(said(Some(503), false, "status 503", 2), "Graph answered to `read it`: status 503 (2 attempts in 7 s)");
        assert_eq!(said(None, false, "timed out", 1), "Graph did not answer to `read it`: timed out");
        assert_eq!(said(None, true, "there is no token", 1), "Graph could not be asked to `read it`: there is no token");
    }

    #[test]
    fn bodies_become_one_line() {
        assert_eq!(excerpt(b"{\"message\":\"Access\\nDenied\"}").as_deref(), Some("Access Denied"));
        assert_eq!(excerpt(b"<html><title>Sign  in</title>").as_deref(), Some("an HTML page (Sign in)"));
        assert_eq!(excerpt(b""), None);
    }

    #[test]
    fn only_an_error_body_has_a_code() {
        assert_eq!(error_code(br#"{"error":{"code":"UnknownError","message":""}}"#).as_deref(), Some("UnknownError"));
        assert_eq!(error_code(br#"{"error":"invalid_client"}"#), None);
        assert_eq!(error_code(br#"{"odata.error":{"code":"TableNotFound"}}"#).as_deref(), Some("TableNotFound"));
        assert_eq!(error_code(b"<html>"), None);
    }
}
