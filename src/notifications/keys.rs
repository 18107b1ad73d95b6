//! The keys of client states: read where they are kept, and held, so that a receipt does not wait for a vault.
//!
//! The one file of this room that asks anybody: receipt, worker and subscriptions need the same keys, and none of them may wait
//! long. Read again each hour, and when a client state of our form does not fit. Knows nothing of settings.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::client_state::Keys;
use crate::platform::clock::Clock;
use crate::platform::reading::Reading;
use crate::platform::secret::Secret;
use crate::platform::vault::SecretSource;
use crate::storage::{CommitError, StateStore, Write};

/// How long keys are used before they are read again.
const KEPT_FOR: Duration = Duration::from_secs(3_600);
/// After a failure.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Between two readings because a client state does not fit: anybody can send one.
const DOUBT_AFTER: Duration = Duration::from_secs(60);
/// So long a reading is waited for by who receives: answers are due within three seconds, also while a vault is silent.
const PATIENCE: Duration = Duration::from_secs(1);
/// The same for who owes nobody an answer: a vault that is asked for the first time takes some seconds.
const LONG_PATIENCE: Duration = Duration::from_secs(15);

/// Where a key that was made here is kept.
const PARTITION: &str = "secrets";
const ROW: &str = "client-state-key";
const KEY_BYTES: usize = 32;

/// Where the keys are.
#[derive(Debug, Clone)]
pub enum KeySource {
    /// In settings, or in a vault. Where the vault has no secret for the key before, there was none.
    Secrets { current: SecretSource, previous: Option<SecretSource> },
    /// Made at first use, and kept beside the state.
    Stored(Arc<dyn StateStore>),
    /// Nowhere, and why: one line.
    Nowhere(String),
}

/// Keys that are read when they are needed. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Ring>);

struct Ring {
    source: KeySource,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: Option<Arc<Keys>>,
    /// On the clock that only goes forward: when to read next.
    due: Duration,
    /// When a client state did not fit and the keys were read for it.
    doubted: Option<Duration>,
    reading: Option<Reading>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRing").finish_non_exhaustive()
    }
}

impl KeyRing {
    pub fn new(source: KeySource, clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Ring { source, clock, state: Mutex::default() }))
    }

    /// The keys; none while they cannot be had. Waits a second at most, and not at all where some are known.
    pub async fn keys(&self) -> Option<Arc<Keys>> {
        self.keys_within(PATIENCE).await
    }

    /// The same beside no delivery: waits for longer.
    pub async fn keys_at_leisure(&self) -> Option<Arc<Keys>> {
        self.keys_within(LONG_PATIENCE).await
    }

    async fn keys_within(&self, patience: Duration) -> Option<Arc<Keys>> {
        let reading = {
            let mut state = self.0.state();
            if self.0.clock.monotonic() >= state.due {
                self.read(&mut state);
            }
            if state.known.is_some() {
                return state.known.clone();
            }
            state.reading.clone()
        };
        self.wait(reading, patience).await;
        self.0.state().known.clone()
    }

    /// A client state of our form does not fit `keys`: other ones, if there are any by now. Asked at most once in a minute.
    pub async fn other_than(&self, keys: &Arc<Keys>) -> Option<Arc<Keys>> {
        let other = |state: &State| state.known.clone().filter(|known| known != keys);
        let reading = {
            let mut state = self.0.state();
            if let Some(other) = other(&state) {
                return Some(other);
            }
            let now = self.0.clock.monotonic();
            if state.doubted.is_some_and(|at| now < at + DOUBT_AFTER) {
                // Another delivery has asked, and may still wait.
                state.reading.clone()
            } else {
                state.doubted = Some(now);
                self.0.source.doubt();
                self.read(&mut state);
                state.reading.clone()
            }
        };
        self.wait(reading, PATIENCE).await;
        other(&self.0.state())
    }

    /// Begins to read, unless somebody has begun.
    fn read(&self, state: &mut State) {
        if state.reading.as_ref().is_some_and(Reading::is_under_way) {
            return;
        }
        let ring = Arc::clone(&self.0);
        let work = async move {
            let read = ring.source.read().await;
            let now = ring.clock.monotonic();
            let mut state = ring.state();
            match read {
                Ok(keys) => {
                    state.due = now + KEPT_FOR;
                    if state.known.as_deref() != Some(&keys) {
                        state.known = Some(Arc::new(keys));
                    }
                }
                Err(error) => {
                    state.due = now + ASK_AGAIN_AFTER;
                    let held = if state.known.is_some() {
                        "those read before are still used"
                    } else {
                        "notifications are kept unchecked"
                    };
                    tracing::warn!("the keys of client states cannot be read, {held}: {error}");
                }
            }
        };
        state.reading = Some(Reading::begin(self.0.clock.as_ref(), work));
    }

    async fn wait(&self, reading: Option<Reading>, patience: Duration) {
        let Some(reading) = reading else { return };
        let clock = self.0.clock.as_ref();
        let waited = clock.monotonic().saturating_sub(reading.began());
        reading.end(clock, patience.saturating_sub(waited)).await;
    }
}

impl Ring {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeySource {
    async fn read(&self) -> Result<Keys, String> {
        match self {
            Self::Secrets { current, previous } => {
                let current = current.read().await.map_err(|e| e.message)?;
                let previous = match previous {
                    Some(source) => match source.read().await {
                        Ok(secret) => Some(secret),
                        // Without it, what it proves would be taken for wrong.
                        Err(error) if error.transient => return Err(error.message),
                        Err(_) => None,
                    },
                    None => None,
                };
                Ok(Keys { current, previous })
            }
            Self::Stored(store) => stored(store.as_ref()).await.map(|current| Keys { current, previous: None }),
            Self::Nowhere(reason) => Err(reason.clone()),
        }
    }

    fn doubt(&self) {
        if let Self::Secrets { current, previous } = self {
            current.doubt();
            if let Some(previous) = previous {
                previous.doubt();
            }
        }
    }
}

/// The key of the store; made, if there is none.
async fn stored(store: &dyn StateStore) -> Result<Secret, String> {
    let found = || async { store.get(PARTITION, ROW).await.map_err(|e| e.to_string()) };
    if let Some(row) = found().await? {
        return readable(&row.value);
    }
    let mut random = [0; KEY_BYTES];
    rand::fill(&mut random).map_err(|_| "this machine gives no random numbers".to_owned())?;
    let made = URL_SAFE_NO_PAD.encode(random);
    let put = Write::PutIf { key: ROW.to_owned(), value: made.clone().into_bytes(), version: None };
    match store.commit(PARTITION, vec![put]).await {
        Ok(_) => Ok(Secret::new(&made)),
        // Another process was first.
        Err(CommitError::Conflict { .. }) => match found().await? {
            Some(row) => readable(&row.value),
            None => Err("the stored key went away while it was read".to_owned()),
        },
        Err(CommitError::Failed(error)) => Err(error.to_string()),
    }
}

fn readable(value: &[u8]) -> Result<Secret, String> {
    let text = std::str::from_utf8(value).map_err(|_| format!("the row `{ROW}` of the state holds no text"))?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::platform::clock::BoxFuture;
    use crate::storage::sqlite::SqliteStore;

    /// Time does not go on: no reading takes too long.
    #[derive(Debug)]
    struct Still;

    impl Clock for Still {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::UNIX_EPOCH
        }
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }
        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(std::future::pending())
        }
    }

    #[tokio::test]
    async fn a_key_that_is_nowhere_is_made_once_and_found_by_all() {
        let clock: Arc<dyn Clock> = Arc::new(Still);
        let store: Arc<dyn StateStore> = Arc::new(SqliteStore::open_in_memory(Arc::clone(&clock)).expect("SQLite"));
        let rings: Vec<KeyRing> =
            (0..4).map(|_| KeyRing::new(KeySource::Stored(Arc::clone(&store)), Arc::clone(&clock))).collect();
        let keys = futures_util::future::join_all(rings.iter().map(KeyRing::keys)).await;
        let first = keys[0].clone().expect("a key");
        assert!(first.current.expose().len() >= 43 && first.previous.is_none());
        assert!(keys.iter().all(|keys| keys.as_ref() == Some(&first)));
        assert_eq!(rings[0].other_than(&first).await, None);
    }

    #[tokio::test]
    async fn what_is_nowhere_is_no_key() {
        let ring = KeyRing::new(KeySource::Nowhere("why".to_owned()), Arc::new(Still));
        assert_eq!(ring.keys().await, None);
    }
}
