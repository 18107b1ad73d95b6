//! What is stored of subscriptions, in one partition: those that there are, intents written before one is made, tombstones,
//! what failed, what is to be looked up again.
//!
//! Knows how rows are read and written; not when. Only what the client state holds but its MAC is ever stored of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::SubscriptionError;
use crate::graph::{GraphError, Subscription, Trouble};
use crate::notifications::wanted::Wanted;
use crate::platform::hex;
use crate::storage::{CommitError, StateStore, Version, Write};

pub(super) const PARTITION: &str = "subscriptions";
/// Neither a renewal nor a reauthorization follows another one sooner (vendor page "Reduce missing subscriptions").
pub(super) const APART: Duration = Duration::from_secs(600);
/// What passes by itself is tried again at least so often.
const PASSES: Duration = Duration::from_secs(600);
/// No pause that is asked for is kept longer: nonsense must not end everything.
const LONGEST_PAUSE: Duration = Duration::from_secs(3_600);
/// Rows of one scan.
const SCANNED: usize = 1_000;

/// A subscription of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Held {
    pub id: String,
    pub group: String,
    pub wanted: Wanted,
    /// The address that is told of changes.
    pub url: String,
    pub lifecycle_url: Option<String>,
    /// Names the key of its client state.
    pub key: String,
    /// Label of its certificate.
    pub certificate: Option<String>,
    pub created: Timestamp,
    pub expires: Timestamp,
    /// Its life when it was last renewed, in minutes.
    pub granted_minutes: u32,
    /// When it was made, or last renewed with success.
    pub renewed: Timestamp,
    /// When a renewal or a reauthorization was last sent, whatever became of it.
    pub touched: Option<Timestamp>,
    pub reauthorized: Option<Timestamp>,
    /// Graph asked for a reauthorization, and none was done since.
    #[serde(default)]
    pub challenged: bool,
    #[serde(default)]
    pub problem: Option<Problem>,
}

/// What failed, and when it is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub since: Timestamp,
    pub tries: u32,
    /// One line with the remedy.
    pub message: String,
    pub not_before: Timestamp,
    /// Somebody has to change something.
    pub lasting: bool,
    /// What was asked for was refused, not who asked.
    #[serde(default)]
    pub refused: bool,
    /// For which address it failed: another one is tried at once.
    #[serde(default)]
    pub url: String,
}

/// Written before a subscription is asked for, removed with the answer: one that is left may have been made or not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub group: String,
    pub wanted: Wanted,
    pub url: String,
    pub lifecycle_url: Option<String>,
    pub key: String,
    pub certificate: Option<String>,
    /// The client state without its MAC.
    pub state: String,
    pub minutes: u32,
    pub at: Timestamp,
}

/// A subscription that was ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tombstone {
    pub id: String,
    pub group: String,
    pub wanted: Wanted,
    pub at: Timestamp,
}

/// Why changes may have been missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A new subscription takes a while to spread.
    Created,
    /// It was gone.
    Removed,
    /// Graph says so.
    Missed,
}

/// What changed since then is to be looked up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    pub group: String,
    pub resource: String,
    pub since: Timestamp,
    pub reason: Reason,
}

/// How far catching up is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caught {
    /// Everything that changed before this was looked up.
    pub last: Timestamp,
    /// When to look again.
    pub next: Timestamp,
    /// Path that gives what changed since then.
    pub delta: Option<String>,
    /// Path of the next page of a look that is not finished.
    #[serde(default)]
    pub page: Option<String>,
    /// When that one began.
    #[serde(default)]
    pub began: Option<Timestamp>,
    #[serde(default)]
    pub problem: Option<String>,
}

/// All rows.
#[derive(Debug, Clone, Default)]
pub struct Book {
    pub held: BTreeMap<String, Held>,
    pub intents: BTreeMap<String, Intent>,
    /// By group: making one failed.
    pub problems: BTreeMap<String, Problem>,
    pub tombstones: BTreeMap<String, Tombstone>,
    /// By kind: the most minutes that Graph said it allows.
    pub limits: BTreeMap<String, u32>,
    /// By row key.
    pub resyncs: BTreeMap<String, Resync>,
    /// By id: when a notification last came.
    pub heard: BTreeMap<String, Timestamp>,
    /// By group.
    pub caught: BTreeMap<String, Caught>,
}

impl Held {
    /// When it may be renewed or reauthorized; none: now.
    #[must_use]
    pub fn touchable_at(&self, now: Timestamp) -> Option<Timestamp> {
        let at = self.touched?.checked_add(APART).unwrap_or(Timestamp::MAX);
        (at > now).then_some(at)
    }

    /// Takes over the end that Graph tells: a renewal whose answer was lost has moved it. True if it differs. Addresses stay as
    /// we gave them: Graph may write them otherwise.
    pub fn see(&mut self, listed: &Subscription) -> bool {
        let moved = listed.expires.duration_since(self.expires).abs().as_secs() >= 60;
        if moved && listed.expires > self.expires {
            self.renewed = self.touched.unwrap_or(self.renewed);
            self.granted_minutes = minutes_between(self.renewed, listed.expires);
            self.problem = None;
            self.challenged = false;
        }
        if moved {
            self.expires = listed.expires;
        }
        moved
    }
}

impl Problem {
    /// The same once more, with a longer rest: `shortest`, doubled each time, where it passes by itself; else `longest`.
    pub(super) fn again(
        before: Option<&Self>,
        error: &GraphError,
        now: Timestamp,
        (shortest, longest): (Duration, Duration),
    ) -> Self {
        let tries = before.map_or(0, |before| before.tries) + 1;
        let rest = if error.trouble.passes() {
            // Not for long: what works again is to be used at once.
            (shortest * (1 << (tries - 1).min(10))).min(PASSES.max(shortest))
        } else {
            longest
        };
        let rest = rest.max(error.retry_after.unwrap_or_default().min(LONGEST_PAUSE));
        Self {
            since: before.map_or(now, |before| before.since),
            tries,
            message: error.to_string(),
            not_before: now.checked_add(rest).unwrap_or(Timestamp::MAX),
            lasting: !error.trouble.passes(),
            refused: matches!(error.trouble, Trouble::Refused | Trouble::TooFar(_) | Trouble::InvalidFilter),
            url: String::new(),
        }
    }

    /// Somebody should hear of it.
    #[must_use]
    pub fn is_serious(&self) -> bool {
        self.lasting || self.tries >= 3
    }
}

/// The end of a pause that Graph asks for.
pub(super) fn after_pause(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait.min(LONGEST_PAUSE)).unwrap_or(Timestamp::MAX)
}

/// Whole minutes, at least one.
pub(super) fn minutes_between(from: Timestamp, to: Timestamp) -> u32 {
    u32::try_from((to.duration_since(from).as_secs() + 30) / 60).unwrap_or(0).max(1)
}

/// A part of a key that may hold anything.
pub(super) fn keyed(prefix: char, text: &str) -> String {
    let plain = !text.is_empty() && text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if plain {
        return format!("{prefix}.{text}");
    }
    format!("{prefix}.{}", hex::digits(digest(&SHA256, text.as_bytes()).as_ref()))
}

pub(super) fn held_key(id: &str) -> String {
    keyed('s', id)
}

pub(super) fn put<T: Serialize>(key: String, row: &T) -> Write {
    Write::Put { key, value: encode(row) }
}

pub(super) fn put_if<T: Serialize>(key: String, row: &T, version: Option<Version>) -> Write {
    Write::PutIf { key, value: encode(row), version }
}

pub(super) fn delete(key: String) -> Write {
    Write::Delete { key }
}

/// A resync in a row of its own: those that come while one is worked off stay.
pub(super) fn resync(resync: &Resync, now: Timestamp) -> Write {
    put(format!("r.{}.{:015}", resync.group, now.as_millisecond()), resync)
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows are plain data")
}

/// The rows of all subscriptions.
#[derive(Debug, Clone)]
pub(super) struct Rows {
    pub(super) store: Arc<dyn StateStore>,
}

/// A row with a value that its key only hashes.
#[derive(Serialize, Deserialize)]
pub(super) struct Named<T> {
    pub(super) name: String,
    pub(super) value: T,
}

impl Rows {
    pub(super) async fn load(&self) -> Result<Book, SubscriptionError> {
        let (mut book, mut from) = (Book::default(), "a".to_owned());
        loop {
            let rows = self.store.scan(PARTITION, &from, "{", SCANNED).await?;
            let Some(last) = rows.last() else { return Ok(book) };
            // The next key that there can be.
            from = format!("{} ", last.key);
            let full = rows.len() == SCANNED;
            for row in &rows {
                book.add(&row.key, &row.value)?;
            }
            if !full {
                return Ok(book);
            }
        }
    }

    pub(super) async fn held(&self, id: &str) -> Result<Option<(Held, Version)>, SubscriptionError> {
        self.read(&held_key(id)).await
    }

    pub(super) async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<(T, Version)>, SubscriptionError> {
        let row = self.store.get(PARTITION, key).await?;
        row.map(|row| Ok((decode(key, &row.value)?, row.version))).transpose()
    }

    /// One row under its version. False if somebody was faster.
    pub(super) async fn replace<T: Serialize>(
        &self,
        key: String,
        row: &T,
        version: Option<Version>,
    ) -> Result<Option<Version>, SubscriptionError> {
        match self.store.commit(PARTITION, vec![put_if(key, row, version)]).await {
            Ok(versions) => Ok(versions.into_iter().next()),
            Err(CommitError::Conflict { .. }) => Ok(None),
            Err(CommitError::Failed(error)) => Err(error.into()),
        }
    }

    /// Changes a subscription's row, over whatever others write meanwhile; none where there is no such row.
    pub(super) async fn amend(&self, id: &str, change: impl Fn(&mut Held)) -> Result<Option<Held>, SubscriptionError> {
        loop {
            let Some((mut held, version)) = self.held(id).await? else { return Ok(None) };
            change(&mut held);
            if self.replace(held_key(id), &held, Some(version)).await?.is_some() {
                return Ok(Some(held));
            }
        }
    }

    pub(super) async fn write(&self, writes: Vec<Write>) -> Result<(), SubscriptionError> {
        match self.store.commit(PARTITION, writes).await {
            Ok(_) => Ok(()),
            Err(CommitError::Conflict { .. }) => Err(SubscriptionError::TakenOver),
            Err(CommitError::Failed(error)) => Err(error.into()),
        }
    }
}

impl Book {
    fn add(&mut self, key: &str, value: &[u8]) -> Result<(), SubscriptionError> {
        let Some((kind, rest)) = key.split_once('.') else { return Ok(()) };
        match kind {
            "s" => {
                let held: Held = decode(key, value)?;
                self.held.insert(held.id.clone(), held);
            }
            "i" => drop(self.intents.insert(rest.to_owned(), decode(key, value)?)),
            "f" => drop(self.problems.insert(rest.to_owned(), decode(key, value)?)),
            "t" => {
                let tombstone: Tombstone = decode(key, value)?;
                self.tombstones.insert(tombstone.id.clone(), tombstone);
            }
            "m" => {
                let limit: Named<u32> = decode(key, value)?;
                self.limits.insert(limit.name, limit.value);
            }
            "n" => {
                let heard: Named<Timestamp> = decode(key, value)?;
                self.heard.insert(heard.name, heard.value);
            }
            "r" => drop(self.resyncs.insert(key.to_owned(), decode(key, value)?)),
            "c" => drop(self.caught.insert(rest.to_owned(), decode(key, value)?)),
            // A newer version's.
            _ => {}
        }
        Ok(())
    }

    /// What was looked up, for a group: nothing before this time can have been missed.
    pub(super) fn covered(&self, group: &str, otherwise: Timestamp) -> Timestamp {
        self.caught.get(group).map_or(otherwise, |caught| caught.last)
    }
}

fn decode<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, SubscriptionError> {
    serde_json::from_slice(value).map_err(|e| SubscriptionError::Unreadable { key: key.to_owned(), cause: e.to_string() })
}
