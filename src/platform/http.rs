//! The one HTTP client: retries by kind of failure and idempotence, the delay that the other side asks for,
//! attempts and time bounded, bodies capped, nothing secret in any error.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use url::Url;

use super::clock::{BoxFuture, Clock};
use super::pacer::Pacer;

/// Adds what proves who we are, anew for each attempt.
pub trait Authorize: fmt::Debug + Send + Sync {
    /// Headers for one attempt. `target` is the path and query exactly as they go on the request line.
    fn headers<'a>(
        &'a self,
        method: &'a Method,
        target: &'a str,
    ) -> BoxFuture<'a, Result<Vec<(HeaderName, HeaderValue)>, AuthorizeError>>;

    /// The service answered 401: forget what is cached. True if another attempt can differ from the last.
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
#[error("{service} did not answer to `{operation}`: {cause} ({attempts} attempts in {} s)", elapsed.as_secs())]
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
    /// False if credentials could not be had for a reason that waiting does not mend.
    pub transient: bool,
}

/// What one client sent, for the report.
#[derive(Debug, Default)]
pub struct Traffic {
    pub requests: AtomicU64,
    pub retried: AtomicU64,
    pub throttled: AtomicU64,
}

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
    wait_in_body: Option<fn(&[u8]) -> Option<Duration>>,
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
    pub fn reading_wait_from(mut self, read: fn(&[u8]) -> Option<Duration>) -> Self {
        self.wait_in_body = Some(read);
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
    pub async fn send(&self, _request: Request) -> Result<Reply, Failure> {
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        todo!()
    }
}
