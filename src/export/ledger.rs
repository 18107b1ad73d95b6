//! The ledger of one destination: one writer at a time, transactions that a writer who was taken over cannot make.
//!
//! Knows the lease and how rows are packed into transactions; not what they mean.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::rows::{LEASE, encode};
use crate::platform::clock::Clock;
use crate::storage::{CommitError, Row, StateStore, StoreError, TRANSACTION_BYTES, TRANSACTION_ROWS, Version, Write};

/// How long a writer that says nothing keeps the lease.
pub(crate) const LEASE_LASTS: Duration = Duration::from_secs(60);
/// A writer that has nothing else to write renews this often.
pub(crate) const RENEW_EVERY: Duration = Duration::from_secs(20);
/// How long a newcomer watches a held lease before it gives up.
const WATCH_FOR: Duration = Duration::from_secs(75);
const WATCH_EVERY: Duration = Duration::from_secs(5);

/// Why the ledger could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Somebody else writes to the destination.
    #[error("{holder} is writing to this destination until {}; try again after that", until.strftime("%Y-%m-%d %H:%M:%SZ"))]
    Held { holder: String, until: Timestamp, run: Option<String> },
    /// Between plan and lease, another worker ended the run.
    #[error("another run of this job ended just now; try again")]
    Ended,
    /// Our lease was taken over; nothing more was written.
    #[error("another run has taken over this destination; this one wrote nothing more")]
    TakenOver,
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A row that is not ours, or of a newer version.
    #[error("failed to read the stored row `{key}`: {cause}; was the state written by a newer version?")]
    Unreadable { key: String, cause: String },
}

/// The stored lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseRow {
    /// The run that holds it, over its continuations; none when free.
    run: Option<String>,
    /// The worker that is at it now; none between two continuations.
    worker: Option<String>,
    /// For users: `run … of job …`.
    shown: String,
    until: Timestamp,
}

/// The rows of one destination, held by one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    rows: Rows,
    clock: Arc<dyn Clock>,
    run: String,
    worker: String,
    shown: String,
    version: Version,
    renewed: Duration,
    /// Transactions and rows written, for the report.
    pub written: u64,
}

/// Read access to the rows of one destination.
#[derive(Debug, Clone)]
pub(crate) struct Rows {
    store: Arc<dyn StateStore>,
    partition: String,
}

impl Rows {
    pub(crate) fn new(store: Arc<dyn StateStore>, partition: &str) -> Self {
        Self { store, partition: partition.to_owned() }
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, LedgerError> {
        self.store.get(&self.partition, key).await?.map(|row| decode(&row)).transpose()
    }

    /// The row with its version, for a conditional write without the lease.
    pub(crate) async fn read_versioned<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Version)>, LedgerError> {
        let row = self.store.get(&self.partition, key).await?;
        row.map(|row| Ok((decode(&row)?, row.version))).transpose()
    }

    pub(crate) async fn read_many<T: DeserializeOwned>(&self, keys: Vec<String>) -> Result<Vec<Option<T>>, LedgerError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let rows = self.store.get_many(&self.partition, keys).await?;
        rows.into_iter().map(|row| row.map(|row| decode(&row)).transpose()).collect()
    }

    /// Rows with `from <= key < to`, at most `limit`.
    pub(crate) async fn scan<T: DeserializeOwned>(
        &self,
        from: &str,
        to: &str,
        limit: usize,
    ) -> Result<Vec<(String, T)>, LedgerError> {
        let rows = self.store.scan(&self.partition, from, to, limit).await?;
        rows.into_iter().map(|row| Ok((decode(&row)?, row)).map(|(value, row)| (row.key, value))).collect()
    }

    /// Writes one row under its version, without the lease (the tick, an approval). False if somebody was faster.
    pub(crate) async fn write_one<T: Serialize>(
        &self,
        key: &str,
        row: &T,
        version: Option<Version>,
    ) -> Result<bool, LedgerError> {
        let write = Write::PutIf { key: key.to_owned(), value: encode(row), version };
        match self.store.commit(&self.partition, vec![write]).await {
            Ok(_) => Ok(true),
            Err(CommitError::Conflict { .. }) => Ok(false),
            Err(CommitError::Failed(error)) => Err(error.into()),
        }
    }
}

impl Ledger {
    /// Takes the lease for a run; watches it while another worker holds it, until that one is seen alive or its time is over.
    ///
    /// # Errors
    /// [`LedgerError::Held`] with who holds it and until when.
    pub(crate) async fn acquire(
        rows: Rows,
        clock: Arc<dyn Clock>,
        run: &str,
        worker: &str,
        shown: &str,
    ) -> Result<Self, LedgerError> {
        let began = clock.monotonic();
        let mut seen: Option<(Version, Duration)> = None;
        loop {
            let current = rows.read_versioned::<LeaseRow>(LEASE).await?;
            let free = match &current {
                None => true,
                Some((lease, version)) => {
                    let since = match &seen {
                        Some((last, since)) if last == version => *since,
                        Some(_) => return Err(held(lease)), // it moved while we watched: its holder is alive
                        None => {
                            if lease.worker.is_some() {
                                tracing::warn!(holder = lease.shown, until = %lease.until, "the destination is held; watching whether its holder is alive");
                            }
                            clock.monotonic()
                        }
                    };
                    seen = Some((version.clone(), since));
                    let paused = lease.worker.is_none() && lease.run.as_deref().is_none_or(|holder| holder == run);
                    paused || clock.monotonic().saturating_sub(since) >= LEASE_LASTS
                }
            };
            if free {
                let version = current.as_ref().map(|(_, version)| version.clone());
                let lease = LeaseRow {
                    run: Some(run.to_owned()),
                    worker: Some(worker.to_owned()),
                    shown: shown.to_owned(),
                    until: clock.now() + LEASE_LASTS,
                };
                let write = Write::PutIf { key: LEASE.to_owned(), value: encode(&lease), version };
                match rows.store.commit(&rows.partition, vec![write]).await {
                    Ok(versions) => {
                        let renewed = clock.monotonic();
                        let version = first(versions);
                        let (run, worker, shown) = (run.to_owned(), worker.to_owned(), shown.to_owned());
                        return Ok(Self { rows, clock, run, worker, shown, version, renewed, written: 0 });
                    }
                    Err(CommitError::Conflict { .. }) => continue,
                    Err(CommitError::Failed(error)) => return Err(error.into()),
                }
            }
            if clock.monotonic().saturating_sub(began) >= WATCH_FOR {
                return Err(current.map_or(LedgerError::TakenOver, |(lease, _)| held(&lease)));
            }
            clock.sleep(WATCH_EVERY).await;
        }
    }

    /// Nobody works at the destination, as far as the stored lease says: a worker may try.
    pub(crate) async fn is_free_for(rows: &Rows, run: &str, now: Timestamp) -> Result<bool, LedgerError> {
        let lease = rows.read::<LeaseRow>(LEASE).await?;
        Ok(lease
            .is_none_or(|lease| (lease.worker.is_none() && lease.run.is_none_or(|holder| holder == run)) || lease.until <= now))
    }

    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Time until the lease wants to be renewed.
    pub(crate) fn renewal_due_in(&self) -> Duration {
        (self.renewed + RENEW_EVERY).saturating_sub(self.clock.monotonic())
    }

    /// One transaction with the lease row: all or nothing, and nothing if the lease was taken over.
    pub(crate) async fn commit(&mut self, writes: Vec<Write>) -> Result<(), LedgerError> {
        self.write(writes, Some(self.run.clone()), Some(self.worker.clone())).await
    }

    pub(crate) async fn renew(&mut self) -> Result<(), LedgerError> {
        self.commit(Vec::new()).await
    }

    /// Waits for something else, and keeps the lease meanwhile.
    pub(crate) async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Result<T, LedgerError> {
        let mut work = std::pin::pin!(work);
        loop {
            let renewal = self.clock.alarm(self.renewal_due_in());
            tokio::select! {
                done = &mut work => return Ok(done),
                () = renewal => self.renew().await?,
            }
        }
    }

    /// The last transaction of a run that is over: the destination is free again.
    pub(crate) async fn release(&mut self, writes: Vec<Write>) -> Result<(), LedgerError> {
        self.write(writes, None, None).await
    }

    /// The last transaction before a continuation: the run keeps the destination, any worker may go on with it.
    pub(crate) async fn pause(&mut self, writes: Vec<Write>) -> Result<(), LedgerError> {
        self.write(writes, Some(self.run.clone()), None).await
    }

    async fn write(&mut self, mut writes: Vec<Write>, run: Option<String>, worker: Option<String>) -> Result<(), LedgerError> {
        let lease = LeaseRow { run, worker, shown: self.shown.clone(), until: self.clock.now() + LEASE_LASTS };
        self.written += writes.len() as u64;
        let value = encode(&lease);
        writes.push(Write::PutIf { key: LEASE.to_owned(), value: value.clone(), version: Some(self.version.clone()) });
        self.version = match self.rows.store.commit(&self.rows.partition, writes).await {
            Ok(versions) => first(versions),
            Err(CommitError::Conflict { .. }) => return Err(LedgerError::TakenOver),
            Err(CommitError::Failed(error)) => self.written_all_the_same(&value).await.ok_or(error)?,
        };
        self.renewed = self.clock.monotonic();
        Ok(())
    }

    /// An answer may be lost though the transaction happened: then the lease row is as it was to be, and its version a new one.
    async fn written_all_the_same(&self, lease: &[u8]) -> Option<Version> {
        let row = self.rows.store.get(&self.rows.partition, LEASE).await.ok()??;
        (row.version != self.version && row.value == lease).then_some(row.version)
    }
}

/// Packs small groups of rows, each of which must be written whole, into as few transactions as the limits allow.
#[derive(Debug)]
pub(crate) struct Packer<'a> {
    ledger: &'a mut Ledger,
    pending: BTreeMap<String, Option<Vec<u8>>>,
    bytes: usize,
}

/// What becomes of rows: new bytes, or none to delete.
pub(crate) type Group = Vec<(String, Option<Vec<u8>>)>;

impl<'a> Packer<'a> {
    pub(crate) fn new(ledger: &'a mut Ledger) -> Self {
        Self { ledger, pending: BTreeMap::new(), bytes: 0 }
    }

    /// Adds a group that shares its fate. A row written twice in one transaction keeps the later bytes.
    pub(crate) async fn add(&mut self, group: Group) -> Result<(), LedgerError> {
        let size: usize = group.iter().map(|(key, value)| 64 + key.len() + value.as_ref().map_or(0, Vec::len)).sum();
        let full = self.pending.len() + group.len() > TRANSACTION_ROWS - 1 || self.bytes + size > TRANSACTION_BYTES - (64 << 10);
        if full {
            self.flush().await?;
        }
        self.bytes += size;
        self.pending.extend(group);
        Ok(())
    }

    /// A row as it will be after what is pending.
    pub(crate) async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, LedgerError> {
        match self.pending.get(key) {
            Some(Some(bytes)) => decode_bytes(key, bytes).map(Some),
            Some(None) => Ok(None),
            None => self.ledger.rows.read(key).await,
        }
    }

    pub(crate) async fn flush(&mut self) -> Result<(), LedgerError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let writes = std::mem::take(&mut self.pending);
        self.ledger.commit(writes.into_iter().map(|(key, value)| write(key, value)).collect()).await
    }
}

/// A put, or a delete where there is no value.
pub(crate) fn write(key: String, value: Option<Vec<u8>>) -> Write {
    match value {
        Some(value) => Write::Put { key, value },
        None => Write::Delete { key },
    }
}

fn held(lease: &LeaseRow) -> LedgerError {
    LedgerError::Held { holder: lease.shown.clone(), until: lease.until, run: lease.run.clone() }
}

fn first(versions: Vec<Version>) -> Version {
    versions.into_iter().next().expect("a commit answers with a version per conditional put")
}

fn decode<T: DeserializeOwned>(row: &Row) -> Result<T, LedgerError> {
    decode_bytes(&row.key, &row.value)
}

fn decode_bytes<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, LedgerError> {
    serde_json::from_slice(bytes).map_err(|e| LedgerError::Unreadable { key: key.to_owned(), cause: e.to_string() })
}
