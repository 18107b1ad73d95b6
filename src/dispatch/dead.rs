//! The store of what could not be acted on, or is held: rows that wait for a person, in the order in which the items came.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::{hash, item_key};
use crate::notifications::item::{QUEUE, Task, Work};
use crate::storage::{Queue, StateStore, StoreError, VALUE_BYTES, Write, poison_of};

pub(super) const PARTITION: &str = "dead";
/// Beyond every key, which begins with a digit.
const END: &str = ":";
/// Rows that are read at once.
const PAGE: usize = 100;

/// One row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dead {
    /// As it would be tried again.
    pub task: Task,
    /// Why it is here: `paused`, or one line.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub playbook: Option<String>,
    pub at: Timestamp,
    /// Where it came from, and goes back to.
    #[serde(default = "normal")]
    pub queue: String,
    /// How often it was tried.
    #[serde(default)]
    pub attempts: u32,
}

fn normal() -> String {
    QUEUE.to_owned()
}

impl Dead {
    /// Sorts by the time of receipt; the same item and playbook have one row, however often they end here.
    #[must_use]
    pub fn key(&self) -> String {
        let received = self.task.item.received.as_millisecond().max(0);
        let playbook = self.playbook.as_deref().unwrap_or_default();
        format!("{received:014}.{}", &hash(&["dead", playbook, &item_key(&self.task.item)])[..24])
    }
}

/// Keeps it. What no row can hold goes to the poison queue, which keeps any size. Neither has an end.
pub(super) async fn keep(state: &dyn StateStore, queue: &dyn Queue, dead: &mut Dead) -> Result<(), StoreError> {
    if dead.playbook.is_none()
        && let Some(row) = state.get(PARTITION, &dead.key()).await?
        && let Ok(earlier) = serde_json::from_slice::<Dead>(&row.value)
    {
        // A second delivery of it: who has had it is still true.
        dead.task.had.extend(earlier.task.had);
    }
    dead.task.had.sort();
    dead.task.had.dedup();
    let value = serde_json::to_vec(dead).unwrap_or_default();
    if value.len() > VALUE_BYTES {
        let body = serde_json::to_vec(&Work::Item(Box::new(dead.task.clone()))).unwrap_or_default();
        return queue.put(&poison_of(&dead.queue), body, Duration::ZERO).await;
    }
    let written = state.commit(PARTITION, vec![Write::Put { key: dead.key(), value }]).await;
    written.map(drop).map_err(|error| match error {
        crate::storage::CommitError::Failed(error) => error,
        crate::storage::CommitError::Conflict { key } => {
            StoreError { operation: "write", place: key, cause: "the store contradicts itself".to_owned() }
        }
    })
}

/// Rows in order of receipt, from `after` on, with their keys: at most a hundred. A row that cannot be read is left out, and said.
///
/// # Errors
/// When the store cannot be read.
pub async fn list(state: &dyn StateStore, after: Option<&str>) -> Result<Vec<(String, Option<Dead>)>, StoreError> {
    let from = after.map_or_else(|| "0".to_owned(), |key| format!("{key}!"));
    let rows = state.scan(PARTITION, &from, END, PAGE).await?;
    Ok(rows.into_iter().map(|row| (row.key, serde_json::from_slice(&row.value).ok())).collect())
}

/// Puts one back into its queue, and deletes the row only then: killed in between, it is there twice and acted on once.
/// False: there is no such row, or it cannot be read.
///
/// # Errors
/// When store or queue give no answer.
pub async fn replay(state: &dyn StateStore, queue: &dyn Queue, key: &str) -> Result<bool, StoreError> {
    let Some(row) = state.get(PARTITION, key).await? else { return Ok(false) };
    let Ok(dead) = serde_json::from_slice::<Dead>(&row.value) else { return Ok(false) };
    let body = serde_json::to_vec(&Work::Item(Box::new(dead.task))).unwrap_or_default();
    queue.put(&dead.queue, body, Duration::ZERO).await?;
    let delete = Write::DeleteIf { key: key.to_owned(), version: row.version };
    match state.commit(PARTITION, vec![delete]).await {
        // Changed meanwhile: it died again, and the new row is another matter.
        Ok(_) | Err(crate::storage::CommitError::Conflict { .. }) => Ok(true),
        Err(crate::storage::CommitError::Failed(error)) => Err(error),
    }
}
