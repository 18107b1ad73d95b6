//! An export as soon as possible: a message to the queue of runs. Several asked for within some time are one, which begins after the
//! last of them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Outcome, Performer};
use crate::export::{Message, QUEUE};
use crate::storage::{CommitError, StoreError, Version, Write};

const PARTITION: &str = "triggers";

/// What was put last for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Put {
    /// When that message becomes visible: who asks before that is served by it.
    visible: Timestamp,
    /// No other message becomes visible before.
    free: Timestamp,
}

impl Performer {
    pub(super) async fn trigger(&self, job: Option<&str>, coalesce_seconds: u32) -> Outcome {
        let jobs: Vec<&str> = match job {
            Some(job) => vec![job],
            None => self.tools.jobs.iter().map(String::as_str).collect(),
        };
        for job in jobs {
            if !self.tools.jobs.iter().any(|known| known == job) {
                return Outcome::Refused(format!("`{job}` is none of JOBS; change the playbook"));
            }
            if let Err(error) = self.trigger_one(job, coalesce_seconds).await {
                return Outcome::Later { after: None, cause: error.to_string() };
            }
        }
        Outcome::Done
    }

    /// The message goes before the row: killed in between, an export too many begins, never one too few.
    async fn trigger_one(&self, job: &str, coalesce_seconds: u32) -> Result<(), StoreError> {
        let now = self.tools.clock.now();
        let key = format!("t.{job}");
        let row = self.tools.state.get(PARTITION, &key).await?;
        let version: Option<Version> = row.as_ref().map(|row| row.version.clone());
        let known: Option<Put> = row.and_then(|row| serde_json::from_slice(&row.value).ok());
        if known.is_some_and(|known| known.visible > now) {
            return Ok(());
        }
        let visible = known.map_or(now, |known| known.free.max(now));
        let delay = Duration::try_from(visible.duration_since(now)).unwrap_or_default();
        let message = Message { job: job.to_owned(), run: None, version: 0, full: false };
        let body = serde_json::to_vec(&message).unwrap_or_default();
        self.tools.queue.put(QUEUE, body, delay).await?;
        let free = visible.saturating_add(SignedDuration::from_secs(i64::from(coalesce_seconds))).unwrap_or(visible);
        let value = serde_json::to_vec(&Put { visible, free }).unwrap_or_default();
        match self.tools.state.commit(PARTITION, vec![Write::PutIf { key, value, version }]).await {
            // Somebody else asked at the same time: two messages, and the second run finds nothing new.
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Failed(error)) => Err(error),
        }
    }
}
