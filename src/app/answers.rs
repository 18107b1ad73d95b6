//! The answers that playbooks give to deliveries, as their document has them now.
//!
//! No delivery waits for the document: it is read in a task of its own, once for all who come meanwhile, and what was read before
//! is taken until then. Only the first deliveries of a process, for which nothing was read yet, give it a moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::notifications::profile::Profile;
use crate::platform::clock::Clock;
use crate::platform::reading::Reading;
use crate::playbooks;
use crate::storage::document::Document;

/// How long what was read is taken for the present.
const READ_EVERY: Duration = Duration::from_secs(60);
/// After a failure.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// So long since it began, the first reading of a process is waited for.
const PATIENCE: Duration = Duration::from_millis(500);

/// Answers by the name of their profile. Cheap to clone.
#[derive(Clone)]
pub(super) struct Answers(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    profiles: Arc<BTreeMap<String, Profile>>,
    /// Where they are read from.
    document: Option<Arc<Document>>,
    /// On the clock that only goes forward: when to read next.
    due: Duration,
    /// When the first reading began.
    began: Option<Duration>,
    reading: Option<Reading>,
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answers").finish_non_exhaustive()
    }
}

impl Answers {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self(Arc::new(Inner { clock, state: Mutex::default() }))
    }

    pub(super) fn read_from(&self, document: Option<Arc<Document>>) {
        self.0.state().document = document;
    }

    pub(super) fn set(&self, profiles: BTreeMap<String, Profile>) {
        self.0.state().profiles = Arc::new(profiles);
    }

    /// Begins to read, if it is time and nobody has begun.
    pub(super) fn look(&self) {
        let mut state = self.0.state();
        let Some(document) = state.document.clone() else { return };
        let now = self.0.clock.monotonic();
        if now < state.due || state.reading.as_ref().is_some_and(Reading::is_under_way) {
            return;
        }
        let inner = Arc::clone(&self.0);
        let work = async move {
            let read = document.read().await;
            // A large document takes its time, which deliveries do not have.
            drop(tokio::task::spawn_blocking(move || inner.take(read)).await);
        };
        state.began.get_or_insert(now);
        state.reading = Some(Reading::begin(self.0.clock.as_ref(), work));
    }

    /// The answer under a name; none if no playbook names it. Waits no longer than `at_most`, and not at all after the first
    /// reading.
    pub(super) async fn find(&self, name: &str, at_most: Duration) -> Option<Profile> {
        let (reading, left) = {
            let state = self.0.state();
            let over = state.began.map(|began| began + PATIENCE).unwrap_or_default();
            (state.reading.clone(), over.saturating_sub(self.0.clock.monotonic()).min(at_most))
        };
        if let Some(reading) = reading.filter(|_| !left.is_zero()) {
            reading.end(self.0.clock.as_ref(), left).await;
        }
        let profiles = Arc::clone(&self.0.state().profiles);
        profiles.get(name).cloned()
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was read; none where there is no document.
    fn take(&self, read: Result<Option<String>, String>) {
        let loaded = read.map(|text| text.map(|text| playbooks::load(&text, &|_| true)));
        let now = self.clock.monotonic();
        let mut state = self.state();
        match loaded {
            Ok(loaded) => {
                state.due = now + READ_EVERY;
                // One that cannot be read at all changes no answer.
                if loaded.as_ref().is_none_or(|loaded| !loaded.has_errors() || !loaded.profiles.is_empty()) {
                    state.profiles = Arc::new(loaded.map(|loaded| loaded.profiles).unwrap_or_default());
                }
            }
            Err(error) => {
                state.due = now + ASK_AGAIN_AFTER;
                tracing::warn!("the playbooks file {error}; deliveries are answered as before");
            }
        }
    }
}
