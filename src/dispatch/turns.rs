//! One row for each resource: who works on it now, what was done about it lately, and from where its changes are read.
//!
//! Everything that must be remembered about an item is in the row of its resource, so that an item costs one read and two
//! writes, and what is decided under the lease is stored with the lease's return.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::key::run_key;
use super::order::{Place, Written};
use crate::notifications::item::ChangeType;
use crate::platform::clock::Clock;
use crate::storage::{CommitError, StateStore, StoreError, Version, Write};

pub(super) const PARTITION: &str = "dispatch";
/// Keys of resources begin with it; the next character ends the range.
pub(super) const ROWS: (&str, &str) = ("r.", "r/");
/// A notification comes again for up to four hours (vendor page "Receive change notifications through webhooks"), and a catch-up
/// looks back a quarter more than six, from whenever it runs: longer than both.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(8);
/// A holder that was killed keeps others away for so long.
const LEASE: Duration = Duration::from_secs(180);
/// At least so much of it is left when something begins that may take long.
const LEFT: Duration = Duration::from_secs(120);
/// Clocks of two machines differ by less.
const SKEW: SignedDuration = SignedDuration::from_secs(10);
/// A copy that is later than this was taken away by somebody.
const LATE: SignedDuration = SignedDuration::from_mins(15);
/// While a target fails, changes may come by the thousand: so many that wait for their turn are noted, beside deletions.
const MOST_UNTRIED: usize = 64;
/// Whose write meets another's tries again so often.
const TRIES: usize = 8;
/// So many runs are remembered for one resource, whatever the time: its row stays small.
const MOST_RUNS: usize = 4_000;

/// What is known of one resource.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Resource {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lease: Option<Lease>,
    /// By run key.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub runs: BTreeMap<String, Run>,
    /// By playbook and type of change: when the latest read began whose run is done. What came before it needs no run.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub covered: BTreeMap<String, Timestamp>,
    /// By playbook: when its run for a creation was done, which happens once to a resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub created: BTreeMap<String, Timestamp>,
    /// By playbook: what it last wrote that the next write takes the place of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub written: BTreeMap<String, Written>,
    /// Items whose holder went away: whatever it sent holds an older state than what is read now.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    broken: BTreeMap<String, Timestamp>,
    /// When the latest deletion came that was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<Timestamp>,
    /// When the latest read began that found it gone, and was acted on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone: Option<Timestamp>,
    /// By what is asked for: where to go on reading changes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub delta: BTreeMap<String, Delta>,
}

/// Somebody works on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lease {
    item: String,
    until: Timestamp,
}

/// What became of an item at a playbook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Run {
    /// In seconds since 1970.
    Done(i64),
    Waits(Waits),
}

/// A delayed copy is on its way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Waits {
    pub playbook: String,
    /// Of its item.
    pub place: Place,
    /// Of the copy: attempts and looks.
    #[serde(rename = "attempt")]
    pub tries: u32,
    /// When the copy becomes visible.
    pub next: Timestamp,
    /// It reads when it runs: a later read stands for it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reads: bool,
    /// Only a read for the same type of change stands for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<ChangeType>,
    /// It was not its turn yet. Deletions keep their order with it; what else comes does as it would have without the note, so that
    /// many are soon worked off.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untried: bool,
}

impl Run {
    fn is_untried(&self) -> bool {
        matches!(self, Self::Waits(waits) if waits.untried)
    }
}

/// Where to go on reading changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Delta {
    /// Path and query below the service's address.
    pub link: String,
    /// When the read began that gave it.
    pub at: Timestamp,
    /// The read has not come to its end: the link leads to its next page.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfinished: Option<Unfinished>,
}

/// A read of changes between two pages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unfinished {
    /// All that there is is read: what was modified before this is no news. None: only changes are read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// From when on what was modified is news, should the service forget the place.
    pub news: Timestamp,
    /// So many were read.
    pub pages: usize,
}

impl Waits {
    pub(super) fn lives(&self, now: Timestamp) -> bool {
        now.duration_since(self.next) < LATE
    }
}

impl Resource {
    /// Until when somebody else works on it.
    pub(super) fn held_until(&self, now: Timestamp) -> Option<Timestamp> {
        let until = self.lease.as_ref()?.until;
        (now.duration_since(until) < SKEW).then_some(until)
    }

    /// An earlier attempt at this item may have sent something that nobody remembers.
    pub(super) fn is_broken(&self, item: &str) -> bool {
        self.broken.contains_key(item)
    }

    /// Copies that still come.
    pub(super) fn waiting(&self, now: Timestamp) -> impl Iterator<Item = (&str, &Waits)> {
        self.runs.iter().filter_map(move |(key, run)| match run {
            Run::Waits(waits) if waits.lives(now) => Some((key.as_str(), waits)),
            _ => None,
        })
    }

    /// A copy is on its way, unless more is known of it, or too much is to be remembered.
    pub(super) fn note(&mut self, run: &str, waits: &Waits) {
        let more = match self.runs.get(run) {
            Some(Run::Done(_)) => true,
            Some(Run::Waits(known)) => known.tries > waits.tries,
            None => !waits.place.deletion && self.runs.values().filter(|run| run.is_untried()).count() >= MOST_UNTRIED,
        };
        if !more {
            self.runs.insert(run.to_owned(), Run::Waits(waits.clone()));
        }
    }

    /// Nothing that is still needed.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        let mut left = self.clone();
        left.lease.take_if(|lease| now.duration_since(lease.until) > REMEMBERED);
        left.forget(now);
        left == Self::default()
    }

    fn forget(&mut self, now: Timestamp) {
        let recent = |at: Timestamp| now.duration_since(at) < REMEMBERED;
        self.runs.retain(|_, run| match run {
            Run::Done(at) => now.as_second() - *at < REMEMBERED.as_secs(),
            Run::Waits(waits) => recent(waits.next),
        });
        self.covered.retain(|_, at| recent(*at));
        self.created.retain(|_, at| recent(*at));
        self.written.retain(|_, written| recent(written.place.known.max(written.read.unwrap_or(Timestamp::MIN))));
        self.broken.retain(|_, at| recent(*at));
        self.deleted = self.deleted.filter(|at| recent(*at));
        self.gone = self.gone.filter(|at| recent(*at));
        if self.runs.len() > MOST_RUNS {
            let mut done: Vec<(i64, String)> = self
                .runs
                .iter()
                .filter_map(|(key, run)| match run {
                    Run::Done(at) => Some((*at, key.clone())),
                    Run::Waits(_) => None,
                })
                .collect();
            done.sort_unstable();
            for (_, key) in done.into_iter().take(self.runs.len() - MOST_RUNS) {
                self.runs.remove(&key);
            }
        }
    }
}

/// A row as it was read.
#[derive(Debug)]
pub(super) struct Seen {
    key: String,
    pub resource: Resource,
    version: Option<Version>,
}

/// Somebody else changed the row, or the store gives no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum TurnError {
    #[error("another worker took over while this one was at work")]
    TakenOver,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<CommitError> for TurnError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict { .. } => Self::TakenOver,
            CommitError::Failed(error) => Self::Store(error),
        }
    }
}

/// The row of a resource; one that cannot be read is as good as none, since every effect has its own key.
pub(super) async fn look(store: &dyn StateStore, resource: &str, now: Timestamp) -> Result<Seen, StoreError> {
    look_at(store, format!("{}{resource}", ROWS.0), now).await
}

async fn look_at(store: &dyn StateStore, key: String, now: Timestamp) -> Result<Seen, StoreError> {
    let row = store.get(PARTITION, &key).await?;
    let (mut resource, version) = match row {
        None => (Resource::default(), None),
        Some(row) => (serde_json::from_slice::<Resource>(&row.value).unwrap_or_default(), Some(row.version)),
    };
    resource.forget(now);
    Ok(Seen { key, resource, version })
}

/// Turns that this process has: row and item. Who ends in an orderly way gives them back.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<Mutex<BTreeMap<String, String>>>);

impl Held {
    fn note(&self, key: &str, item: Option<&str>) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match item {
            Some(item) => held.insert(key.to_owned(), item.to_owned()),
            None => held.remove(key),
        };
    }

    /// Gives all of them back: nobody here works under them any more. Whoever still does finds that it was taken over.
    pub(super) async fn let_go(&self, store: &Arc<dyn StateStore>, clock: &Arc<dyn Clock>) -> Result<(), StoreError> {
        let held = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for (key, item) in held {
            let seen = look_at(store.as_ref(), key, clock.now()).await?;
            if seen.resource.lease.as_ref().is_some_and(|lease| lease.item == item) {
                let version = seen.version.clone();
                let mut turn = Turn::over(store, clock, seen, &item);
                // Who was faster has it.
                if let Err(TurnError::Store(error)) = turn.write(false, version).await {
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}

/// Stores that runs wait, also while somebody works on the resource, who takes it over with the next write. Where many write, it is
/// left out after some tries: the copies look again.
pub(super) async fn note(
    store: &dyn StateStore,
    resource: &str,
    runs: &[(String, Waits)],
    now: Timestamp,
) -> Result<(), StoreError> {
    for _ in 0..TRIES {
        let mut seen = look(store, resource, now).await?;
        for (run, waits) in runs {
            seen.resource.note(run, waits);
        }
        let value = serde_json::to_vec(&seen.resource).unwrap_or_default();
        let write = Write::PutIf { key: seen.key, value, version: seen.version };
        match store.commit(PARTITION, vec![write]).await {
            Err(CommitError::Conflict { .. }) => {}
            Err(CommitError::Failed(error)) => return Err(error),
            Ok(_) => return Ok(()),
        }
    }
    Ok(())
}

/// The right to work on a resource. One that is dropped ends by itself; what was done under it is then repeated.
#[derive(Debug)]
pub(super) struct Turn {
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    key: String,
    item: String,
    version: Version,
    /// On the monotonic clock.
    ends: Duration,
    held: Held,
    pub resource: Resource,
}

impl Turn {
    /// Takes the turn, under the version that was seen.
    pub(super) async fn take(
        store: &Arc<dyn StateStore>,
        clock: &Arc<dyn Clock>,
        seen: Seen,
        item: &str,
        held: &Held,
    ) -> Result<Self, TurnError> {
        let version = seen.version.clone();
        let mut turn = Self { held: held.clone(), ..Self::over(store, clock, seen, item) };
        turn.write(true, version).await?;
        Ok(turn)
    }

    /// Whoever held the turn before is gone.
    fn over(store: &Arc<dyn StateStore>, clock: &Arc<dyn Clock>, seen: Seen, item: &str) -> Self {
        let mut resource = seen.resource;
        if let Some(left) = resource.lease.take() {
            resource.broken.insert(left.item, clock.now());
        }
        Self {
            store: Arc::clone(store),
            clock: Arc::clone(clock),
            key: seen.key,
            item: item.to_owned(),
            version: Version("".into()),
            ends: Duration::ZERO,
            held: Held::default(),
            resource,
        }
    }

    /// Makes sure that enough of the turn is left for one more step.
    pub(super) async fn keep(&mut self) -> Result<(), TurnError> {
        if self.ends.saturating_sub(self.clock.monotonic()) >= LEFT {
            return Ok(());
        }
        self.store().await
    }

    /// Stores what is known now, and goes on.
    pub(super) async fn store(&mut self) -> Result<(), TurnError> {
        let version = self.version.clone();
        self.write(true, Some(version)).await
    }

    /// How long a step may take, on the monotonic clock.
    pub(super) fn ends(&self) -> Duration {
        self.ends
    }

    /// Stores what is known now, and gives the turn back.
    pub(super) async fn end(mut self) -> Result<(), TurnError> {
        let version = self.version.clone();
        self.write(false, Some(version)).await
    }

    /// Gives the turn back after a failure: what was sent is not known any more. If this fails too, the turn ends by itself.
    pub(super) async fn give_up(mut self) {
        self.resource.broken.insert(self.item.clone(), self.clock.now());
        let version = self.version.clone();
        if let Err(error) = self.write(false, Some(version)).await {
            tracing::debug!("{error}");
        }
    }

    async fn write(&mut self, hold: bool, mut version: Option<Version>) -> Result<(), TurnError> {
        let (began, now) = (self.clock.monotonic(), self.clock.now());
        let until = now.saturating_add(SignedDuration::try_from(LEASE).unwrap_or(SignedDuration::MAX)).unwrap_or(now);
        let lease = hold.then(|| Lease { item: self.item.clone(), until });
        let mine = std::mem::replace(&mut self.resource.lease, lease);
        self.resource.forget(now);
        // Before it is there: cut off in between, it is given back all the same.
        if hold {
            self.held.note(&self.key, Some(&self.item));
        }
        for _ in 0..TRIES {
            let value = serde_json::to_vec(&self.resource).unwrap_or_default();
            let write = Write::PutIf { key: self.key.clone(), value, version };
            match self.store.commit(PARTITION, vec![write]).await {
                Ok(versions) => {
                    self.version = versions.into_iter().next().ok_or(TurnError::TakenOver)?;
                    self.ends = began + LEASE;
                    if !hold {
                        self.held.note(&self.key, None);
                    }
                    return Ok(());
                }
                Err(CommitError::Conflict { .. }) if mine.is_some() => version = self.take_over_notes(mine.as_ref(), now).await?,
                Err(error) => return Err(error.into()),
            }
        }
        Err(TurnError::TakenOver)
    }

    /// Somebody wrote under our turn. What only notes that others wait is taken over; the version under which it is stored.
    async fn take_over_notes(&mut self, mine: Option<&Lease>, now: Timestamp) -> Result<Option<Version>, TurnError> {
        let stored = look_at(self.store.as_ref(), self.key.clone(), now).await?;
        if stored.resource.lease.as_ref() != mine {
            return Err(TurnError::TakenOver);
        }
        for (run, known) in &stored.resource.runs {
            // Of the item at work we know more than the row does.
            if let Run::Waits(waits) = known
                && *run != run_key(&self.item, &waits.playbook)
            {
                self.resource.note(run, waits);
            }
        }
        Ok(stored.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notifications::item::{Event, Item, Origin};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn place(received: &str) -> Place {
        Place::of(&Item::new(Origin::Graph, at(received), Event::Change(ChangeType::Updated)))
    }

    #[test]
    fn what_is_older_than_eight_hours_is_forgotten_and_a_place_in_the_changes_is_kept() {
        let mut resource = Resource::default();
        resource.runs.insert("a".to_owned(), Run::Done(at("2026-11-24T09:00:00Z").as_second()));
        resource.covered.insert("p".to_owned(), at("2026-11-24T09:00:00Z"));
        resource.created.insert("p".to_owned(), at("2026-11-24T09:00:00Z"));
        let written = Written { place: place("2026-11-24T08:30:00Z"), read: Some(at("2026-11-24T09:00:00Z")) };
        resource.written.insert("p".to_owned(), written);
        assert!(!resource.is_over(at("2026-11-24T16:59:59Z")));
        assert!(resource.is_over(at("2026-11-24T17:00:00Z")));
        resource.delta.insert("d".to_owned(), Delta { link: "/x".to_owned(), at: at("2026-11-24T09:00:00Z"), unfinished: None });
        assert!(!resource.is_over(at("2027-11-24T15:00:00Z")));
    }

    #[test]
    fn a_busy_resource_forgets_its_oldest_runs_and_no_copy_that_comes() {
        let mut resource = Resource::default();
        for i in 0..MOST_RUNS + 10 {
            let second = at("2026-11-24T09:00:00Z").as_second() + i64::try_from(i).expect("small");
            resource.runs.insert(format!("{i:05}"), Run::Done(second));
        }
        let (place, next) = (place("2026-11-24T08:00:00Z"), at("2026-11-24T09:00:00Z"));
        let waits = Waits { playbook: "p".to_owned(), place, tries: 1, next, reads: false, change: None, untried: false };
        resource.runs.insert("waits".to_owned(), Run::Waits(waits));
        resource.forget(at("2026-11-24T11:00:00Z"));
        assert_eq!(resource.runs.len(), MOST_RUNS);
        assert!(resource.runs.contains_key("waits") && !resource.runs.contains_key("00000"));
        let size = serde_json::to_vec(&resource).expect("JSON").len();
        assert!(size < crate::storage::VALUE_BYTES / 4, "{size} bytes");
    }
}
