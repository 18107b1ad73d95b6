//! One instance reconciles at a time: a row that names who does, and until when; each write of a run renews it.
//!
//! Time-outs are by the wall clock, which instances share well enough: what must never happen twice is guarded by the version
//! of the row that it concerns.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::SubscriptionError;
use super::rows::{PARTITION, Rows, after_pause, put_if};
use crate::platform::clock::Clock;
use crate::storage::{CommitError, Version, Write};

/// Longer than the longest call with its retries.
const LASTS: Duration = Duration::from_secs(300);
const KEY: &str = "lease";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseRow {
    holder: Option<String>,
    until: Timestamp,
    /// Graph asked for a pause until then.
    #[serde(default)]
    not_before: Option<Timestamp>,
}

/// The right to reconcile.
#[derive(Debug)]
pub(super) struct Lease {
    rows: Rows,
    clock: Arc<dyn Clock>,
    holder: String,
    version: Version,
    not_before: Option<Timestamp>,
}

impl Lease {
    /// # Errors
    /// [`SubscriptionError::Busy`] while somebody else has it.
    pub(super) async fn take(rows: &Rows, clock: &Arc<dyn Clock>, holder: String) -> Result<Self, SubscriptionError> {
        let now = clock.now();
        let known = rows.read::<LeaseRow>(KEY).await?;
        if let Some((row, _)) = &known
            && row.holder.is_some()
            && row.until > now
        {
            return Err(SubscriptionError::Busy { until: row.until });
        }
        let (not_before, version) = known.map_or((None, None), |(row, version)| (row.not_before, Some(version)));
        let row = LeaseRow { holder: Some(holder.clone()), until: now + LASTS, not_before };
        match rows.replace(KEY.to_owned(), &row, version).await? {
            Some(version) => Ok(Self { rows: rows.clone(), clock: Arc::clone(clock), holder, version, not_before }),
            None => Err(SubscriptionError::Busy { until: row.until }),
        }
    }

    /// Until when Graph wants to be left alone.
    pub(super) fn paused_until(&self) -> Option<Timestamp> {
        self.not_before.filter(|at| *at > self.clock.now())
    }

    /// Remembers the pause that Graph asks for.
    pub(super) fn pause(&mut self, wait: Duration) {
        self.not_before = self.not_before.max(Some(after_pause(self.clock.now(), wait)));
    }

    /// All or nothing, and nothing if somebody has taken over.
    pub(super) async fn commit(&mut self, writes: Vec<Write>) -> Result<(), SubscriptionError> {
        self.write(writes, Some(self.holder.clone())).await
    }

    pub(super) async fn release(mut self) -> Result<(), SubscriptionError> {
        self.write(Vec::new(), None).await
    }

    async fn write(&mut self, mut writes: Vec<Write>, holder: Option<String>) -> Result<(), SubscriptionError> {
        let row = LeaseRow { holder, until: self.clock.now() + LASTS, not_before: self.paused_until() };
        writes.push(put_if(KEY.to_owned(), &row, Some(self.version.clone())));
        match self.rows.store.commit(PARTITION, writes).await {
            Ok(versions) => {
                self.version = versions.into_iter().last().expect("the lease row is a conditional put");
                Ok(())
            }
            Err(CommitError::Conflict { .. }) => Err(SubscriptionError::TakenOver),
            Err(CommitError::Failed(error)) => Err(error.into()),
        }
    }
}
