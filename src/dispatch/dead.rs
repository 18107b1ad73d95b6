//! The store of what could not be acted on, or is held: rows that wait for a person, in the order in which the items came.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::key::{hash, item_key};
use crate::notifications::item::{Item, QUEUE, Task, Work};
use crate::storage::{CommitError, Queue, StateStore, StoreError, TRANSACTION_ROWS, VALUE_BYTES, Write};

pub(super) const PARTITION: &str = "dead";
/// Beyond every key, which begins with a digit.
const END: &str = ":";
/// Rows that are read at once.
const PAGE: usize = 100;
/// What no row of [`PARTITION`] can hold.
const BODIES: &str = "dead-body";
const PART_BYTES: usize = 512 << 10;
/// Characters that are shown of a resource, and of a reason, where the whole lies in parts.
const SHOWN: usize = 1_000;

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
    /// Where the task lies, if no row can hold it: `task` is then what a person is shown of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<Body>,
}

/// A task in parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Body {
    /// Another one for each that is put down.
    id: String,
    parts: usize,
}

fn normal() -> String {
    QUEUE.to_owned()
}

impl Dead {
    /// Of one that is whole. Sorts by the time of receipt; the same item and playbook have one row, however often they end here.
    #[must_use]
    pub fn key(&self) -> String {
        let received = self.task.item.received.as_millisecond().max(0);
        let playbook = self.playbook.as_deref().unwrap_or_default();
        format!("{received:014}.{}", &hash(&["dead", playbook, &item_key(&self.task.item)])[..24])
    }
}

/// Keeps it. What no row can hold lies beside it in parts, which are there before the row that names them: killed in between, the
/// message comes again, and its parts have another name.
pub(super) async fn keep(state: &dyn StateStore, dead: &mut Dead) -> Result<(), StoreError> {
    let key = dead.key();
    let is_large = |dead: &Dead| serde_json::to_vec(dead).is_ok_and(|value| value.len() > VALUE_BYTES);
    let mut earlier = None;
    if dead.playbook.is_none() || is_large(dead) {
        let row = state.get(PARTITION, &key).await?;
        earlier = row.and_then(|row| serde_json::from_slice::<Dead>(&row.value).ok());
    }
    if dead.playbook.is_none()
        && let Some(earlier) = &earlier
    {
        // A second delivery of it: who has had it is still true.
        dead.task.had.extend(earlier.task.had.iter().cloned());
    }
    dead.task.had.sort();
    dead.task.had.dedup();
    if is_large(dead) {
        lay_aside(state, dead).await?;
    }
    put(state, PARTITION, key, serde_json::to_vec(dead).unwrap_or_default()).await?;
    if let Some(body) = earlier.and_then(|earlier| earlier.body) {
        body.remove(state).await;
    }
    Ok(())
}

/// Puts its task down in parts; what is left of it is what a person is shown.
async fn lay_aside(state: &dyn StateStore, dead: &mut Dead) -> Result<(), StoreError> {
    let whole = message(&dead.task);
    let body = Body { id: uuid::Uuid::new_v4().simple().to_string(), parts: whole.len().div_ceil(PART_BYTES) };
    for (key, part) in body.keys().into_iter().zip(whole.chunks(PART_BYTES)) {
        put(state, BODIES, key, part.to_vec()).await?;
    }
    let cut = |text: &str| text.chars().take(SHOWN).collect::<String>();
    let item = &dead.task.item;
    let shown = Item { resource: item.resource.as_deref().map(cut), ..Item::new(item.origin, item.received, item.event) };
    dead.task = Task { item: shown, done: Vec::new(), ..dead.task.clone() };
    dead.reason = cut(&dead.reason);
    dead.body = Some(body);
    Ok(())
}

/// As it waits in a queue.
fn message(task: &Task) -> Vec<u8> {
    serde_json::to_vec(&Work::Item(Box::new(task.clone()))).unwrap_or_default()
}

async fn put(state: &dyn StateStore, partition: &str, key: String, value: Vec<u8>) -> Result<(), StoreError> {
    let written = state.commit(partition, vec![Write::Put { key, value }]).await;
    written.map(drop).map_err(|error| match error {
        CommitError::Failed(error) => error,
        CommitError::Conflict { key } => {
            StoreError { operation: "write", place: key, cause: "the store contradicts itself".to_owned() }
        }
    })
}

impl Body {
    fn keys(&self) -> Vec<String> {
        (0..self.parts).map(|part| format!("{}.{part:05}", self.id)).collect()
    }

    /// None: somebody else has just put it back, or set it aside again.
    async fn read(&self, state: &dyn StateStore) -> Result<Option<Vec<u8>>, StoreError> {
        let parts: Option<Vec<Vec<u8>>> =
            state.get_many(BODIES, self.keys()).await?.into_iter().map(|row| row.map(|row| row.value)).collect();
        Ok(parts.map(|parts| parts.concat()))
    }

    /// No row names it any more: what stays there harms nobody.
    async fn remove(&self, state: &dyn StateStore) {
        for chunk in self.keys().chunks(TRANSACTION_ROWS) {
            let deletes = chunk.iter().map(|key| Write::Delete { key: key.clone() }).collect();
            if let Err(error) = state.commit(BODIES, deletes).await {
                tracing::warn!("{error}; parts of a notification that is dead no more stay in the store");
            }
        }
    }
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
    let whole = match &dead.body {
        None => message(&dead.task),
        Some(body) => match body.read(state).await? {
            Some(whole) => whole,
            None => return Ok(false),
        },
    };
    queue.put(&dead.queue, whole, Duration::ZERO).await?;
    let delete = Write::DeleteIf { key: key.to_owned(), version: row.version };
    match state.commit(PARTITION, vec![delete]).await {
        Ok(_) => {}
        // Changed meanwhile: it died again, and the new row is another matter.
        Err(CommitError::Conflict { .. }) => return Ok(true),
        Err(CommitError::Failed(error)) => return Err(error),
    }
    if let Some(body) = &dead.body {
        body.remove(state).await;
    }
    Ok(true)
}
