//! What receives notifications: the queues, the keys of client states, and the answers that playbooks give.
//!
//! Opened by itself, beside the product: notifications must be kept while a job is set up wrongly, ThreatConnect is away or a
//! vault is slow. Nothing is asked while it opens.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use tokio::sync::Semaphore;

use super::{App, OpenError, Surroundings};
use crate::notifications::client_state;
use crate::notifications::keys::{KeyRing, KeySource};
use crate::notifications::profile::Profile;
use crate::notifications::receipt::{Drop, Put, Receipt, receive};
use crate::platform::clock::Clock;
use crate::platform::vault::Vault;
use crate::playbooks;
use crate::settings::Receiving;
use crate::storage::document::Document;
use crate::storage::{self, Queue, StoreError};
use crate::telemetry::Telemetry;

/// A delivery that is larger is read in a thread of its own, so that others do not wait for it.
const SMALL_BYTES: usize = 64 << 10;
/// How long a delivery waits for the document that holds its answer, and how long that is taken for the present.
const READING: Duration = Duration::from_millis(500);
const READ_EVERY: Duration = Duration::from_secs(60);
/// Messages that are put at once, of all deliveries: each is a connection to the storage.
const PUTS: usize = 128;

/// Keeps notifications.
#[derive(Debug)]
pub struct Receiver {
    queue: Arc<dyn Queue>,
    keys: KeyRing,
    clock: Arc<dyn Clock>,
    puts: Semaphore,
    profiles: RwLock<Arc<BTreeMap<String, Profile>>>,
    /// Where the profiles are, and when they were read last.
    document: Option<Arc<Document>>,
    read: tokio::sync::Mutex<Option<Duration>>,
    pub telemetry: Telemetry,
}

/// What became of a delivery that can be answered: each item is in a queue, or was dropped on purpose.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    pub accepted: u64,
    /// Of these, those in the queue that is worked off first.
    pub urgent: u64,
    /// Of these, those that wait for a key to be proven.
    pub unproven: u64,
    /// Written to the queues.
    pub messages: u64,
    pub dropped: BTreeMap<Drop, u64>,
}

impl Receiver {
    /// Reads the few settings that it needs, and opens the store.
    ///
    /// # Errors
    /// [`OpenError`]: there is nowhere to put anything.
    pub async fn open(around: &Surroundings) -> Result<Self, OpenError> {
        let settings = Receiving::from_map(&around.environment).map_err(OpenError::Settings)?;
        let (client, clock) = (around.client.clone(), Arc::clone(&around.clock));
        // A file may be locked for a while.
        let opened = tokio::task::spawn_blocking({
            let (place, client, clock) = (settings.storage.clone(), client.clone(), Arc::clone(&clock));
            move || storage::open(&place, &client, &clock)
        });
        let stores = opened.await.map_err(|e| e.to_string()).flatten().map_err(OpenError::Failed)?;
        let vault = settings.vault.map(|(url, resident)| Vault::new(url, &resident, client, Arc::clone(&clock)));
        let (vault, problem) = match vault.transpose() {
            Ok(vault) => (vault.map(Arc::new), None),
            Err(problem) => (None, Some(problem)),
        };
        let source = match (settings.client_state, problem) {
            (Err(problem), _) | (Ok(_), Some(problem)) => KeySource::Nowhere(problem),
            (Ok(client_state), None) => client_state.source(vault.as_ref(), &stores.state),
        };
        let keys = KeyRing::new(source, Arc::clone(&clock));
        let document = |name| Document::open(name, &settings.storage, &around.client, &around.clock).map(Arc::new);
        // Without it, every answer is the default.
        let document = settings.playbooks_file.as_deref().and_then(|name| document(name).ok());
        Ok(Self { telemetry: around.telemetry.clone(), document, ..Self::new(stores.queue, keys, clock) })
    }

    #[must_use]
    pub fn new(queue: Arc<dyn Queue>, keys: KeyRing, clock: Arc<dyn Clock>) -> Self {
        let puts = Semaphore::new(PUTS);
        let (profiles, telemetry) = (RwLock::default(), Telemetry::default());
        Self { queue, keys, clock, puts, profiles, document: None, read: tokio::sync::Mutex::default(), telemetry }
    }

    /// Beside a product that is open: over its queue, its keys and the document of its playbooks.
    #[must_use]
    pub fn beside(app: &App, clock: &Arc<dyn Clock>) -> Self {
        let receiver = Self::new(Arc::clone(&app.queue), app.client_state_keys.clone(), Arc::clone(clock));
        Self { telemetry: app.telemetry.clone(), document: Some(Arc::clone(&app.document)), ..receiver }
    }

    /// From now on, deliveries are answered with these.
    pub fn answer_with(&self, profiles: BTreeMap<String, Profile>) {
        *self.profiles.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(profiles);
    }

    /// The answer under a name of the address; none if no playbook names it. Read again each minute; a document that is slow
    /// does not keep an answer back: then it is the one known before.
    pub async fn profile(&self, name: &str) -> Option<Profile> {
        if !name.is_empty() {
            tokio::select! {
                () = self.read_profiles() => {}
                () = self.clock.alarm(READING) => {}
            }
        }
        self.profiles.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    async fn read_profiles(&self) {
        let Some(document) = &self.document else { return };
        let mut read = self.read.lock().await;
        let now = self.clock.monotonic();
        if read.is_some_and(|at| now.saturating_sub(at) < READ_EVERY) {
            return;
        }
        match document.read().await {
            Ok(text) => {
                let loaded = text.map(|text| playbooks::load(&text, &|_| true));
                // One that cannot be read at all changes no answer.
                if loaded.as_ref().is_none_or(|loaded| !loaded.has_errors() || !loaded.profiles.is_empty()) {
                    self.answer_with(loaded.map(|loaded| loaded.profiles).unwrap_or_default());
                }
                *read = Some(now);
            }
            Err(error) => tracing::warn!("the playbooks file {error}; deliveries are answered as before"),
        }
    }

    /// Puts every item of a delivery that can be ours. Nothing of it may be answered as kept before this has returned.
    ///
    /// # Errors
    /// Something could not be put; what was put before stays there, and comes again.
    pub async fn keep(&self, body: &Bytes) -> Result<Kept, StoreError> {
        let receipt = self.judge(body).await;
        let mut kept = Kept { messages: receipt.put.len() as u64, ..Kept::default() };
        for item in receipt.items() {
            let claimed = item.client_state.as_deref();
            let group = item.group.as_deref().or_else(|| claimed.and_then(client_state::claimed));
            kept.accepted += 1;
            kept.urgent += u64::from(group.is_some_and(client_state::is_urgent));
            kept.unproven += u64::from(claimed.is_some());
        }
        try_join_all(receipt.put.into_iter().map(|put| self.put(put))).await?;
        kept.dropped = receipt.dropped;
        Ok(kept)
    }

    /// By the keys that are known, and once more by newer ones if that may save an item.
    async fn judge(&self, body: &Bytes) -> Receipt {
        let keys = self.keys.keys().await;
        let receipt = self.receive(body, keys.clone()).await;
        if receipt.may_be_ours()
            && let Some(known) = keys
            && let Some(other) = self.keys.other_than(&known).await
        {
            return self.receive(body, Some(other)).await;
        }
        receipt
    }

    async fn receive(&self, body: &Bytes, keys: Option<Arc<client_state::Keys>>) -> Receipt {
        let now = self.clock.now();
        if body.len() <= SMALL_BYTES {
            return receive(body, keys.as_deref(), now);
        }
        let body = body.clone();
        let read = tokio::task::spawn_blocking(move || receive(&body, keys.as_deref(), now)).await;
        read.unwrap_or_else(|bug| std::panic::resume_unwind(bug.into_panic()))
    }

    async fn put(&self, put: Put) -> Result<(), StoreError> {
        let _place = self.puts.acquire().await.expect("it is never closed");
        let body = serde_json::to_vec(&put.work).expect("maps with text keys serialise");
        self.queue.put(put.queue, body, std::time::Duration::ZERO).await
    }
}
