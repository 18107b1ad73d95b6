//! The keys that a login host publishes for its signatures: fetched, kept for an hour, and through an outage for a day.
//!
//! Must not know what the keys prove: how they are read is an argument. Fails closed: without keys there is no proof.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use url::Url;

use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Authorized, Bounds, Failure, Http, Request, path_below};

/// Where the document is that names the keys' address; for every tenant
/// (vendor page "Set up Microsoft Graph change notifications with resource data").
const DOCUMENT: &str = "/common/.well-known/openid-configuration";
/// Keys are changed daily, and at once in an emergency (vendor page "Signing key rollover"): one that was withdrawn is trusted no
/// longer than this.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// Through an outage of the login host.
const KEPT_AT_MOST: Duration = Duration::from_secs(24 * 3_600);
/// For a key that is not among those we have: forgeries must not make us ask more often.
const UNKNOWN_KEY_EVERY: Duration = Duration::from_secs(300);
/// After an attempt that failed.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(60);
const BOUNDS: Bounds = Bounds { attempts: 3, total: Duration::from_secs(20), attempt: Duration::from_secs(5), body: 1 << 20 };

/// Makes keys of the document that holds them and the address of the login host; else says in one line what is wrong with it.
pub type Read<K> = fn(&[u8], &Url) -> Result<K, String>;

/// There are no keys.
#[derive(Debug, Clone, thiserror::Error)]
pub enum KeysError {
    #[error(transparent)]
    NoAnswer(Box<Failure>),
    #[error("failed to {operation}: the login host answers with status {status}; check LOGIN_URL and CLOUD")]
    Refused { operation: &'static str, status: u16 },
    #[error("failed to {operation}: {problem}; check LOGIN_URL and CLOUD")]
    Unreadable { operation: &'static str, problem: String },
    #[error("the login host says that its keys are at another place, which is not trusted; check LOGIN_URL and CLOUD")]
    Elsewhere,
}

/// The published keys of one login host, read as `K`.
pub struct Keys<K> {
    http: Http,
    login: Url,
    clock: Arc<dyn Clock>,
    read: Read<K>,
    state: Mutex<State<K>>,
    /// Held while the login host is asked, so that many who need keys ask once.
    asking: tokio::sync::Mutex<()>,
}

struct State<K> {
    kept: Option<Kept<K>>,
    /// When the login host was asked last.
    asked: Option<Duration>,
    /// What came of it, if it was no keys.
    failed: Option<KeysError>,
}

struct Kept<K> {
    keys: Arc<K>,
    since: Duration,
}

impl<K> fmt::Debug for Keys<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("login", &self.login.as_str()).finish_non_exhaustive()
    }
}

impl<K: Send + Sync> Keys<K> {
    /// `client` must follow no redirects; `login`: base address of the login host.
    #[must_use]
    pub fn new(client: reqwest::Client, clock: Arc<dyn Clock>, login: Url, read: Read<K>) -> Self {
        let http = Http::new("the login host", client, Arc::clone(&clock), login.clone(), Arc::new(Anybody)).bounded(BOUNDS);
        let state = Mutex::new(State { kept: None, asked: None, failed: None });
        Self { http, login, clock, read, state, asking: tokio::sync::Mutex::default() }
    }

    /// The keys, fetched within the last hour; within the last day while the login host gives none, or another asks it just now.
    ///
    /// # Errors
    /// [`KeysError`]; asking later may help with each of them.
    pub async fn current(&self) -> Result<Arc<K>, KeysError> {
        if let Some(keys) = self.fresh() {
            return Ok(keys);
        }
        let _asking = match (self.asking.try_lock(), self.known()) {
            (Ok(asking), _) => asking,
            // One waits for the login host, which may be slow; the others go on with what there is.
            (Err(_), Ok(keys)) => return Ok(keys),
            (Err(_), Err(_)) => self.asking.lock().await,
        };
        if let Some(keys) = self.fresh() {
            return Ok(keys);
        }
        let again = self.state().failed.is_none() || self.is_due(ASK_AGAIN_AFTER);
        if again {
            self.fetch().await;
        }
        self.known()
    }

    /// A key is not among `seen`: others, if there are or if the login host was not asked lately; else the same.
    ///
    /// # Errors
    /// As [`Self::current`].
    pub async fn anew(&self, seen: &Arc<K>) -> Result<Arc<K>, KeysError> {
        let _asking = self.asking.lock().await;
        let same = self.state().kept.as_ref().is_some_and(|kept| Arc::ptr_eq(&kept.keys, seen));
        if same && self.is_due(UNKNOWN_KEY_EVERY) {
            self.fetch().await;
        }
        self.known()
    }

    fn state(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fresh(&self) -> Option<Arc<K>> {
        let now = self.clock.monotonic();
        let state = self.state();
        let fresh = state.kept.as_ref().filter(|kept| now.saturating_sub(kept.since) < KEPT_FOR);
        fresh.map(|kept| Arc::clone(&kept.keys))
    }

    /// What there is, old or new.
    fn known(&self) -> Result<Arc<K>, KeysError> {
        let now = self.clock.monotonic();
        let state = self.state();
        match (&state.kept, &state.failed) {
            (Some(kept), _) if now.saturating_sub(kept.since) < KEPT_AT_MOST => Ok(Arc::clone(&kept.keys)),
            (_, Some(failed)) => Err(failed.clone()),
            // Not asked since they grew too old: `current` asks.
            (_, None) => Err(unreadable("it was not asked yet".to_owned())),
        }
    }

    fn is_due(&self, every: Duration) -> bool {
        let now = self.clock.monotonic();
        self.state().asked.is_none_or(|asked| now.saturating_sub(asked) >= every)
    }

    async fn fetch(&self) {
        let began = self.clock.monotonic();
        let fetched = self.ask().await;
        let mut state = self.state();
        state.asked = Some(began);
        match fetched {
            Ok(keys) => {
                state.kept = Some(Kept { keys: Arc::new(keys), since: began });
                state.failed = None;
            }
            Err(error) => {
                tracing::warn!(keys.kept = state.kept.is_some(), "no new keys for validation tokens: {error}");
                state.failed = Some(error);
            }
        }
    }

    async fn ask(&self) -> Result<K, KeysError> {
        let document = self.get("read where the login host publishes its keys", DOCUMENT.to_owned()).await?;
        let document: serde_json::Value =
            serde_json::from_slice(&document).map_err(|_| unreadable("the OpenID configuration is no JSON".to_owned()))?;
        let address = document.get("jwks_uri").and_then(serde_json::Value::as_str).and_then(|text| Url::parse(text).ok());
        let address = address.ok_or_else(|| unreadable("the OpenID configuration names no keys".to_owned()))?;
        // Same scheme, host and port: what the login address may be, the keys' may be.
        let path = path_below(&self.login, &address).ok_or(KeysError::Elsewhere)?;
        let keys = self.get(KEYS, path).await?;
        (self.read)(&keys, &self.login).map_err(|problem| unreadable(format!("of the key set, {problem}")))
    }

    async fn get(&self, operation: &'static str, path: String) -> Result<Bytes, KeysError> {
        let request = Request { operation, method: Method::GET, path, body: None, idempotent: true };
        let reply = self.http.send(request).await.map_err(|failure| KeysError::NoAnswer(Box::new(failure)))?;
        match reply.status {
            200 => Ok(reply.body),
            status => Err(KeysError::Refused { operation, status }),
        }
    }
}

const KEYS: &str = "read the keys of the login host";

fn unreadable(problem: String) -> KeysError {
    KeysError::Unreadable { operation: KEYS, problem }
}

/// What is public is asked for without a name.
#[derive(Debug)]
struct Anybody;

impl Authorize for Anybody {
    fn headers<'a>(&'a self, _method: &'a Method, _target: &'a str) -> BoxFuture<'a, Authorized> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn renew(&self) -> bool {
        false
    }
}
