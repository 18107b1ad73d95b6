//! The worker behind the notification queues: each item reaches each playbook that wants it, once in effect.
//!
//! A message may come twice, late, or beside its own copy, and the process may end between any two instructions. So every effect has
//! a key that does not depend on how often it was tried; what was done is stored after it was done; and a message is handled only
//! when everything that follows from it is stored or in a queue. Knows nothing of documents, of HTTP triggers, or of settings.

mod changes;
mod dead;
mod fetch;
mod item;
mod key;
mod order;
mod path;
mod plan;
mod sweep;
mod turns;
mod wait;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::actions::Performer;
use crate::notifications::item::{Event, Item, LifecycleEvent, Origin, Task, Work};
use crate::notifications::wanted::Wanted;
use crate::platform::clock::{BoxFuture, Clock};
use crate::storage::{Queue, StateStore, StoreError};

pub use dead::{Dead, list, replay};
pub use fetch::Reader;
pub use plan::{Context, Decide, Decision, Fetch, Hold, Matches, Plan, Reading, Unnamed};
pub use sweep::Swept;

/// Before the second attempt, where nobody says otherwise; doubled for each further one.
const FIRST_DELAY: Duration = Duration::from_secs(2);
const LONGEST_DELAY: Duration = Duration::from_secs(3_600);
/// What waits for its turn looks again after this.
const TURN: Duration = Duration::from_secs(2);
/// While playbooks or keys cannot be read, items wait so long.
const UNREADY: Duration = Duration::from_secs(60);
/// Lifecycle events lose their meaning after some hours.
const LIFECYCLE_ATTEMPTS: u32 = 16;
/// Messages of one delivery that are put at once.
const PUTS: usize = 16;

/// The message could not be handled and must come again; tried too often, it is in the poison queue.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    #[error("a message of the queue `{queue}` is no notification ({cause}); `playbooks dead list` shows it once it is set aside")]
    Unreadable { queue: String, cause: String },
    #[error("failed to handle a notification: {0}")]
    Store(#[from] StoreError),
    #[error("another worker took over a notification while this one was at work; nothing is lost")]
    TakenOver,
}

impl From<turns::TurnError> for DispatchError {
    fn from(error: turns::TurnError) -> Self {
        match error {
            turns::TurnError::TakenOver => Self::TakenOver,
            turns::TurnError::Store(error) => Self::Store(error),
        }
    }
}

/// An encrypted item could not be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// One line without content.
    pub cause: String,
    /// Later it may be.
    pub transient: bool,
}

type Answer<T, E> = BoxFuture<'static, Result<T, E>>;
/// A question to somebody above.
type Ask<Q, T, E> = Arc<dyn Fn(Q) -> Answer<T, E> + Send + Sync>;

/// A question for the playbooks.
type Plans = Arc<dyn Fn() -> Answer<Arc<[Plan]>, String> + Send + Sync>;

/// What dispatch is given and does not do itself.
#[derive(Clone)]
pub struct Hooks {
    /// The playbooks as they were read last. The error is one line: they cannot be read.
    pub plans: Plans,
    /// The playbooks as they are now, for an item that was set aside because of what was read, or would be: that may be mended.
    /// Many may ask at once: they need not be read for each.
    pub plans_now: Plans,
    /// The group that a client state proves; none: it proves nothing. The error: the key cannot be had.
    pub prove: Ask<Option<String>, Option<String>, String>,
    /// What the subscription of an item was made for, where no playbook wants just that any more: by what is stored of it. The
    /// error is one line: the store gives no answer.
    pub made_for: Ask<Item, Option<Wanted>, String>,
    /// Acts on a lifecycle event, which may come twice.
    pub lifecycle: Arc<dyn Fn(LifecycleEvent, Item) -> Answer<(), String> + Send + Sync>,
    /// Verifies and opens an encrypted item.
    pub open: Ask<Item, Value, Sealed>,
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// What became of a message, in numbers of runs (an item at a playbook), for the log.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Handled {
    /// Messages that a large delivery was split into.
    pub split: usize,
    pub done: usize,
    /// The playbook's condition does not hold.
    pub skipped: usize,
    /// Done before, or waiting already.
    pub duplicate: usize,
    /// A later read stands for it.
    pub covered: usize,
    /// Objects found below a root, each a message now.
    pub found: usize,
    /// Tried again later, each with its reason.
    pub again: Vec<Told>,
    /// Set aside, each with its reason.
    pub dead: Vec<Told>,
    /// The item waits for its turn at the resource.
    pub waits: bool,
    /// Nobody is to act on it.
    pub dropped: Option<&'static str>,
}

/// What a person may want to know of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Blank before a playbook was chosen.
    pub playbook: String,
    pub reason: String,
    /// When it is tried again.
    pub next: Option<Timestamp>,
}

/// What a message of `queue` asks for.
///
/// # Errors
/// [`DispatchError::Unreadable`].
pub fn read(queue: &str, body: &[u8]) -> Result<Work, DispatchError> {
    serde_json::from_slice(body).map_err(|error| DispatchError::Unreadable { queue: queue.to_owned(), cause: error.to_string() })
}

/// The worker.
#[derive(Debug)]
pub struct Dispatcher {
    state: Arc<dyn StateStore>,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    reader: Reader,
    performer: Performer,
    hooks: Hooks,
    turns: turns::Held,
}

impl Dispatcher {
    #[must_use]
    pub fn new(
        state: Arc<dyn StateStore>,
        queue: Arc<dyn Queue>,
        clock: Arc<dyn Clock>,
        reader: Reader,
        performer: Performer,
        hooks: Hooks,
    ) -> Self {
        Self { state, queue, clock, reader, performer, hooks, turns: turns::Held::default() }
    }

    /// Whatever was at work here is not any more: the resources are free for others, who do it again.
    ///
    /// # Errors
    /// The store gives no answer: the turns end by themselves.
    pub async fn let_go(&self) -> Result<(), DispatchError> {
        Ok(self.turns.let_go(&self.state, &self.clock).await?)
    }

    /// Handles what one message of `queue` asks for; it may be deleted when this returns.
    ///
    /// # Errors
    /// [`DispatchError`]: the message must come again.
    pub async fn handle(&self, queue: &str, work: Work) -> Result<Handled, DispatchError> {
        match work {
            Work::Batch(items) => self.split(queue, items).await,
            Work::Item(task) => self.item(queue, *task).await,
        }
    }

    /// Each item becomes a message. Killed in between, the batch comes again, and what was put twice is known by its key.
    async fn split(&self, queue: &str, items: Vec<Item>) -> Result<Handled, DispatchError> {
        let split = items.len();
        self.put_all(queue, items.into_iter().map(Work::first)).await?;
        Ok(Handled { split, ..Handled::default() })
    }

    async fn item(&self, queue: &str, mut task: Task) -> Result<Handled, DispatchError> {
        if task.item.origin == Origin::Graph && task.item.group.is_none() {
            match (self.hooks.prove)(task.item.client_state.clone()).await {
                Ok(Some(group)) => {
                    task.item.group = Some(group);
                    task.item.client_state = None;
                }
                Ok(None) => return Ok(Handled { dropped: Some("wrong client state"), ..Handled::default() }),
                Err(cause) => return self.wait_for(queue, task, cause).await,
            }
        }
        if let Event::Lifecycle(event) = task.item.event {
            return self.lifecycle(queue, event, task).await;
        }
        match self.plans(&task).await {
            Ok((plans, made_for)) => self.run(queue, task, (&plans, made_for.as_ref())).await,
            Err(cause) => self.wait_for(queue, task, cause).await,
        }
    }

    /// The playbooks with what the item's subscription was made for, as far as they are looked at now.
    async fn plans(&self, task: &Task) -> Result<(Arc<[Plan]>, Option<Wanted>), String> {
        // A copy for one playbook that was not tried yet may be one that was put back.
        let put_back = task.playbook.is_some() && task.attempt == 0;
        if !put_back {
            let plans = (self.hooks.plans)().await?;
            let made_for = (self.hooks.made_for)(task.item.clone()).await?;
            if !item::would_hold(&plans, task, made_for.as_ref()) {
                return Ok((plans, made_for));
            }
        }
        let plans = (self.hooks.plans_now)().await?;
        Ok((plans, (self.hooks.made_for)(task.item.clone()).await?))
    }

    /// Something is missing that no item is to blame for: it waits as long as that takes.
    async fn wait_for(&self, queue: &str, task: Task, reason: String) -> Result<Handled, DispatchError> {
        self.put(queue, Work::Item(Box::new(task)), UNREADY).await?;
        let again = vec![Told { playbook: String::new(), reason, next: Some(self.after(UNREADY)) }];
        Ok(Handled { again, ..Handled::default() })
    }

    async fn lifecycle(&self, queue: &str, event: LifecycleEvent, task: Task) -> Result<Handled, DispatchError> {
        let Err(reason) = (self.hooks.lifecycle)(event, task.item.clone()).await else {
            return Ok(Handled { done: 1, ..Handled::default() });
        };
        let told = |next| vec![Told { playbook: String::new(), reason: reason.clone(), next }];
        if task.attempt + 1 >= LIFECYCLE_ATTEMPTS {
            let attempts = task.attempt + 1;
            let task = Task { attempt: 0, ..task };
            let (at, queue) = (self.clock.now(), queue.to_owned());
            let mut dead = Dead { task, reason: reason.clone(), playbook: None, at, queue, attempts, body: None };
            dead::keep(self.state.as_ref(), &mut dead).await?;
            return Ok(Handled { dead: told(None), ..Handled::default() });
        }
        let delay = backoff(task.attempt, &key::item_key(&task.item));
        let next = Task { attempt: task.attempt + 1, ..task };
        self.put(queue, Work::Item(Box::new(next)), delay).await?;
        Ok(Handled { again: told(Some(self.after(delay))), ..Handled::default() })
    }

    /// The time after this wait, as far as there is one.
    fn after(&self, wait: Duration) -> Timestamp {
        let now = self.clock.now();
        now.saturating_add(SignedDuration::try_from(wait).unwrap_or_default()).unwrap_or(now)
    }

    /// Many messages, some at once.
    async fn put_all(&self, queue: &str, works: impl Iterator<Item = Work>) -> Result<(), StoreError> {
        let put = |work| -> BoxFuture<'_, Result<(), StoreError>> { Box::pin(self.put(queue, work, Duration::ZERO)) };
        let puts: Vec<_> = works.map(put).collect();
        stream::iter(puts).buffer_unordered(PUTS).try_collect().await
    }

    async fn put(&self, queue: &str, work: Work, delay: Duration) -> Result<(), StoreError> {
        let body = serde_json::to_vec(&work).unwrap_or_default();
        self.queue.put(queue, body, delay).await
    }
}

/// The wait before attempt `attempt + 1`: 2 s, doubled each time up to an hour, and up to a fifth more, so that what failed together
/// does not come back together.
fn backoff(attempt: u32, key: &str) -> Duration {
    let wait = FIRST_DELAY.saturating_mul(1_u32.checked_shl(attempt.min(16)).unwrap_or(u32::MAX)).min(LONGEST_DELAY);
    let spread = key.get(..2).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    (wait + wait * spread / (5 * 256)).min(LONGEST_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_two_seconds_to_an_hour() {
        let waits: Vec<u64> = (0..14).map(|attempt| backoff(attempt, "00").as_secs()).collect();
        assert_eq!(waits, [2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 3_600, 3_600, 3_600]);
        assert_eq!(backoff(u32::MAX, "ff"), LONGEST_DELAY);
        assert!(backoff(3, "ff") < Duration::from_secs(20) && backoff(3, "ff") > Duration::from_secs(19));
    }
}
