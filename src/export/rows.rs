//! What is stored about a destination: claims, target rows, intents, marks. Types, keys and their encoding; no I/O.
//!
//! All rows of a destination lie in one partition. Keys hold hashes and padded numbers only, never a raw value; the
//! first letter says what a row is:
//!
//! | key | row |
//! |---|---|
//! | `lease` | who writes now |
//! | `reserve` | until when the reserve of a capped target is lent |
//! | `known` | a run was complete here: what is there has rows |
//! | `j.{job}` | [`JobState`]: watermark, floor, refused withdrawal |
//! | `a.{job}` | an [`Approval`], written without the lease |
//! | `s.{job}` | what the tick scheduled last, written without the lease |
//! | `r.{job}` | the latest run, frozen record and counters |
//! | `R.{job}.{start}` | reports of finished runs |
//! | `c.{job}.{id}.{key}` | [`Claim`] |
//! | `t.{key}` | [`TargetRow`] |
//! | `i.{run}.{n}` | [`Intent`] |
//! | `h.{key}` | hand-over mark |
//! | `g.{job}.{id}.{key}` | [`Gone`]: a claim that waits for its withdrawal |
//! | `d.{key}` | tombstone: the run that withdrew the row |
//! | `x.{job}.{id}.{key}` | [`Rejection`] |
//! | `p.{job}.{run}.{n}` | candidates of a first pass that was interrupted |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::rank::Standing;
use super::stored;
use crate::indicator::{Kind, Observable, ObservableKey, Weight};
use crate::sinks::{ContentHash, Draft, There};

/// Claims that a target row names, at most; the best ones stay.
pub(crate) const CLAIMS_PER_ROW: usize = 200;

/// What a job last knew of a sighting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claim {
    #[serde(rename = "o")]
    pub owner: String,
    #[serde(rename = "w", with = "stored::weight")]
    pub weight: Weight,
    /// Of the content that won; none when it must be sent again.
    #[serde(rename = "h", with = "stored::hash", default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
    /// When the object that won expires, Unix seconds.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    #[serde(rename = "n", default, skip_serializing_if = "stored::is_false")]
    pub won: bool,
    /// The run that passed it by, or released it; a [`Gone`] row stands beside it.
    #[serde(rename = "g", default, skip_serializing_if = "Option::is_none")]
    pub gone_in: Option<String>,
    /// The run that sent it.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub sent_in: Option<String>,
    /// Content that the target refused for good.
    #[serde(rename = "r", with = "stored::hash", default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<ContentHash>,
    /// Runs in a row in which it got no answer though its neighbours did.
    #[serde(rename = "u", default, skip_serializing_if = "stored::is_zero")]
    pub unanswered: u8,
}

impl Claim {
    /// A claim that holds nothing at the target.
    pub(crate) fn new(owner: &str, weight: Weight) -> Self {
        Self {
            owner: owner.to_owned(),
            weight,
            hash: None,
            expires: None,
            won: false,
            gone_in: None,
            sent_in: None,
            refused: None,
            unanswered: 0,
        }
    }
}

/// A claim as its target row names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowClaim {
    #[serde(rename = "j")]
    pub job: String,
    #[serde(rename = "i")]
    pub id: u64,
    #[serde(rename = "w", with = "stored::weight")]
    pub weight: Weight,
    /// The target refused it: it protects the row but ranks below every other.
    #[serde(rename = "r", default, skip_serializing_if = "stored::is_false")]
    pub refused: bool,
}

/// Who holds a row: job and source id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Holder(pub String, pub u64);

/// What is at the destination for one observable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TargetRow {
    #[serde(rename = "k")]
    pub kind: Kind,
    #[serde(rename = "v")]
    pub value: String,
    #[serde(rename = "e")]
    pub external_id: String,
    #[serde(rename = "id", default, skip_serializing_if = "Option::is_none")]
    pub remote_id: Option<String>,
    /// Of the object with `remote_id`: what the target cannot change in it.
    #[serde(rename = "y", with = "stored::hash", default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<ContentHash>,
    /// External ids of sends without an answer: each may have left an object of its own.
    #[serde(rename = "q", default, skip_serializing_if = "Vec::is_empty")]
    pub unsure: Vec<String>,
    /// One of these was sent beside the object that was there: it may be one more. A sink that looks first makes no further one.
    #[serde(rename = "b", default, skip_serializing_if = "stored::is_false")]
    pub beside: bool,
    /// Whose content is there; none when it must be chosen anew.
    #[serde(rename = "n", default, skip_serializing_if = "Option::is_none")]
    pub winner: Option<Holder>,
    #[serde(rename = "c")]
    pub claims: Vec<RowClaim>,
    /// More than [`CLAIMS_PER_ROW`] claimed it: the list is not whole.
    #[serde(rename = "cut", default, skip_serializing_if = "stored::is_false")]
    pub cut: bool,
    /// Of the content that is there; none when that is unknown.
    #[serde(rename = "h", with = "stored::hash", default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<ContentHash>,
    #[serde(rename = "a")]
    pub action: String,
    #[serde(rename = "cr", with = "stored::time")]
    pub created: Timestamp,
    /// The latest time of sending that the target may have seen.
    #[serde(rename = "m", with = "stored::time")]
    pub modified: Timestamp,
    #[serde(rename = "f", with = "stored::time")]
    pub valid_from: Timestamp,
    /// Unix seconds; none when unknown.
    #[serde(rename = "x", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// Of the object that is there, in days.
    #[serde(rename = "d", default)]
    pub expiration_days: u16,
    /// The run that sent it.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub sent_in: Option<String>,
    /// It was accepted, or may have been.
    #[serde(rename = "p", default, skip_serializing_if = "stored::is_false")]
    pub at_target: bool,
    /// A tombstone: the run that withdrew it.
    #[serde(rename = "z", default, skip_serializing_if = "Option::is_none")]
    pub withdrawn_in: Option<String>,
}

impl TargetRow {
    /// What a send or withdrawal must know of the object that is there; `identity` is of what is sent.
    pub(crate) fn there(&self, identity: Option<ContentHash>) -> There {
        if !self.at_target {
            return There::default();
        }
        let mut unsure = self.unsure.clone();
        if self.remote_id.is_none() && !unsure.contains(&self.external_id) {
            unsure.push(self.external_id.clone());
        }
        There { id: self.remote_id.clone(), replaced: self.is_replaced_by(identity), unsure }
    }

    /// All external ids under which an object of it may be: those of lost answers, and the known one's own.
    pub(crate) fn all_objects(&self) -> There {
        let mut there = self.there(None);
        if !there.unsure.contains(&self.external_id) {
            there.unsure.push(self.external_id.clone());
        }
        there
    }

    /// Nothing is known of an observable, at a target where something may be: an object under this external id is looked for.
    pub(crate) fn unknown(external_id: &str) -> There {
        There { unsure: vec![external_id.to_owned()], ..There::default() }
    }

    /// What is sent has another identity than the object that is there.
    pub(crate) fn is_replaced_by(&self, identity: Option<ContentHash>) -> bool {
        self.at_target && self.remote_id.is_some() && identity.is_some() && self.identity.is_some() && self.identity != identity
    }

    /// A send got no answer: under this external id there may be an object, `beside` the one that is known.
    pub(crate) fn may_be_there_as(&mut self, external_id: &str, beside: bool) {
        self.at_target = true;
        self.beside |= beside;
        if !self.unsure.iter().any(|known| known == external_id) {
            self.unsure.push(external_id.to_owned());
        }
    }

    /// Nothing is there but what is known.
    pub(crate) fn is_sure(&mut self) {
        self.unsure.clear();
        self.beside = false;
    }

    /// The known object is not there; one that is not known may be.
    pub(crate) fn is_one_or_none(&mut self) {
        self.beside = false;
        self.remote_id = None;
        self.identity = None;
    }

    /// Nothing is at the target any more.
    pub(crate) fn is_gone_from_target(&mut self) {
        self.forget();
        self.is_sure();
        self.at_target = false;
        self.remote_id = None;
        self.identity = None;
        self.expires = None;
    }
}

/// Saved before something is sent or withdrawn, removed with its answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Intent {
    pub items: Vec<IntentItem>,
    /// The latest time of sending in the batch.
    #[serde(with = "stored::time")]
    pub modified: Timestamp,
}

/// One item of an [`Intent`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IntentItem {
    pub job: String,
    pub id: u64,
    pub owner: String,
    pub kind: Kind,
    pub value: String,
    /// Of the observable at this destination, as in the row's key.
    pub key: String,
    pub external_id: String,
    #[serde(with = "stored::time")]
    pub created: Timestamp,
    #[serde(with = "stored::time")]
    pub valid_from: Timestamp,
    #[serde(default, skip_serializing_if = "stored::is_false")]
    pub withdrawal: bool,
    /// Sent as a new object beside one that was there.
    #[serde(default, skip_serializing_if = "stored::is_false")]
    pub beside: bool,
}

impl IntentItem {
    /// A sighting about to be sent.
    pub(crate) fn sent(job: &str, id: u64, owner: &str, (observable, key): (&Observable, ObservableKey), draft: &Draft) -> Self {
        Self {
            key: key.to_string(),
            job: job.to_owned(),
            id,
            owner: owner.to_owned(),
            kind: observable.kind(),
            value: observable.value().to_owned(),
            external_id: draft.external_id.clone(),
            created: draft.created,
            valid_from: draft.valid_from,
            withdrawal: false,
            beside: false,
        }
    }

    /// A row for what the item names, of which nothing else is known yet.
    pub(crate) fn blank_row(&self) -> TargetRow {
        TargetRow {
            kind: self.kind,
            value: self.value.clone(),
            external_id: self.external_id.clone(),
            remote_id: None,
            identity: None,
            unsure: Vec::new(),
            beside: false,
            winner: None,
            claims: Vec::new(),
            cut: false,
            hash: None,
            action: String::new(),
            created: self.created,
            modified: Timestamp::UNIX_EPOCH,
            valid_from: self.valid_from,
            expires: None,
            expiration_days: 0,
            sent_in: None,
            at_target: false,
            withdrawn_in: None,
        }
    }
}

/// Why a claim waits for its withdrawal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum GoneReason {
    /// A full run passed its source id without reading it.
    Passed,
    /// Read with our own eyes: the indicator no longer yields it.
    Released,
    /// `NEVER_SEND` covers it now.
    NeverSend,
    /// Its job was retired.
    Retired,
}

/// The index row beside a claim with `gone_in`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Gone {
    pub run: String,
    pub reason: GoneReason,
    /// Seen by an incremental run: few, and exempt from the limit.
    #[serde(default, skip_serializing_if = "stored::is_false")]
    pub incremental: bool,
    pub owner: String,
}

/// An item that the target refused for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rejection {
    pub job: String,
    /// ThreatConnect's id.
    pub id: u64,
    pub owner: String,
    pub kind: Kind,
    pub value: String,
    /// The target's own words.
    pub reason: String,
    /// The target's correlation id, if it gave one.
    pub correlation: Option<String>,
    pub run: String,
    pub at: Timestamp,
}

/// What a job knows from run to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobState {
    /// Server time at the start of the last complete run.
    pub watermark: Option<Timestamp>,
    /// `LAST_RUN`, resolved once, and the text that it was resolved from.
    pub floor: Option<Timestamp>,
    pub last_run_text: Option<String>,
    /// Settings of the last complete run.
    pub fingerprint: Option<String>,
    /// Start of the last complete full run, on our clock.
    pub full_started: Option<Timestamp>,
    /// Start of the last full run that ended incomplete, if none was complete since.
    pub full_failed: Option<Timestamp>,
    /// A withdrawal that was refused, and may be approved.
    pub refused: Option<RefusedWithdrawal>,
    /// When a run was last complete.
    #[serde(default)]
    pub completed: Option<Timestamp>,
    /// At a target that was full when the last run ended: who ranks lower has no place.
    #[serde(default)]
    pub lowest: Option<Standing>,
}

/// A withdrawal that the guards stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedWithdrawal {
    /// Rows that would have gone.
    pub rows: u64,
    /// Of so many.
    pub of: u64,
    /// Owners that had indicators and returned none.
    pub owners: Vec<String>,
    pub run: String,
}

/// A job at a destination, as it was registered by its first run there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registered {
    pub job: String,
    /// Partition of the destination's rows.
    pub destination: String,
    pub product: String,
    /// For users: `workspace …`.
    pub shown: String,
}

/// The user's word that a large withdrawal is meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Approval {
    pub rows: u64,
    pub at: Timestamp,
}

/// Names which jobs write to which destinations, over all of them.
pub(crate) const REGISTRY: &str = "registry";
/// Reports that are kept of each job.
pub(crate) const HISTORY: usize = 50;

pub(crate) const LEASE: &str = "lease";
pub(crate) const RESERVE: &str = "reserve";
pub(crate) const KNOWN: &str = "known";

pub(crate) fn job_key(job: &str) -> String {
    format!("j.{job}")
}

pub(crate) fn approval_key(job: &str) -> String {
    format!("a.{job}")
}

pub(crate) fn schedule_key(job: &str) -> String {
    format!("s.{job}")
}

pub(crate) fn run_key(job: &str) -> String {
    format!("r.{job}")
}

pub(crate) fn history_prefix(job: &str) -> String {
    format!("R.{job}.")
}

pub(crate) fn claim_key(job: &str, id: u64, key: ObservableKey) -> String {
    format!("c.{job}.{id:020}.{key}")
}

/// All claims of the job from this source id on.
pub(crate) fn claims_from(job: &str, id: u64) -> String {
    format!("c.{job}.{id:020}.")
}

pub(crate) fn claims_prefix(job: &str) -> String {
    format!("c.{job}.")
}

pub(crate) fn target_key(key: ObservableKey) -> String {
    format!("t.{key}")
}

pub(crate) fn intent_key(run: &str, number: u64) -> String {
    format!("i.{run}.{number:010}")
}

pub(crate) fn mark_key(key: ObservableKey) -> String {
    format!("h.{key}")
}

pub(crate) fn gone_key(job: &str, id: u64, key: ObservableKey) -> String {
    format!("g.{job}.{id:020}.{key}")
}

pub(crate) fn gone_prefix(job: &str) -> String {
    format!("g.{job}.")
}

pub(crate) fn candidates_prefix(job: &str) -> String {
    format!("p.{job}.")
}

pub(crate) fn candidates_key(job: &str, run: &str, number: usize) -> String {
    format!("p.{job}.{run}.{number:06}")
}

pub(crate) fn tombstone_key(key: ObservableKey) -> String {
    format!("d.{key}")
}

pub(crate) fn rejection_key(job: &str, id: u64, key: ObservableKey) -> String {
    format!("x.{job}.{id:020}.{key}")
}

/// The key after all keys that begin with `prefix` (which ends in `.`; `/`, the next character, is in no key).
pub(crate) fn end_of(prefix: &str) -> String {
    let mut end = prefix.to_owned();
    end.pop();
    end.push('/');
    end
}

/// Source id and observable of a claim's, mark's or rejection's key: its last two parts.
pub(crate) fn parse_sighting_key(key: &str) -> Option<(u64, ObservableKey)> {
    let (rest, observable) = key.rsplit_once('.')?;
    let (_, id) = rest.rsplit_once('.')?;
    Some((id.parse().ok()?, ObservableKey::parse(observable)?))
}

/// The observable of a key that ends in one.
pub(crate) fn parse_last_key(key: &str) -> Option<ObservableKey> {
    ObservableKey::parse(key.rsplit_once('.')?.1)
}

/// A row's bytes.
pub(crate) fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows have string keys only and cannot fail to serialise")
}
