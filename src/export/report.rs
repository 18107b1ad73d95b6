//! What a run did, in numbers: one outcome for each sighting, two laws, one report.
//!
//! Knows neither source nor sink; the command line and the status page render it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::capacity::Cap;
use super::rows::RefusedWithdrawal;

/// Distinct reasons that one run keeps; further ones are counted together.
const REASONS: usize = 200;

/// What became of one sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Accepted,
    Unchanged,
    Duplicate,
    Skipped,
    Rejected,
    OverCap,
    Unanswered,
}

impl Outcome {
    pub const ALL: [Self; 7] =
        [Self::Accepted, Self::Unchanged, Self::Duplicate, Self::Skipped, Self::Rejected, Self::OverCap, Self::Unanswered];

    /// The word in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Unchanged => "unchanged",
            Self::Duplicate => "duplicate",
            Self::Skipped => "skipped",
            Self::Rejected => "rejected",
            Self::OverCap => "over_cap",
            Self::Unanswered => "unanswered",
        }
    }
}

/// Sightings per outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcomes {
    pub accepted: u64,
    pub unchanged: u64,
    pub duplicate: u64,
    pub skipped: u64,
    pub rejected: u64,
    pub over_cap: u64,
    pub unanswered: u64,
}

impl Outcomes {
    #[must_use]
    pub fn of(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Accepted => self.accepted,
            Outcome::Unchanged => self.unchanged,
            Outcome::Duplicate => self.duplicate,
            Outcome::Skipped => self.skipped,
            Outcome::Rejected => self.rejected,
            Outcome::OverCap => self.over_cap,
            Outcome::Unanswered => self.unanswered,
        }
    }

    fn slot(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Accepted => &mut self.accepted,
            Outcome::Unchanged => &mut self.unchanged,
            Outcome::Duplicate => &mut self.duplicate,
            Outcome::Skipped => &mut self.skipped,
            Outcome::Rejected => &mut self.rejected,
            Outcome::OverCap => &mut self.over_cap,
            Outcome::Unanswered => &mut self.unanswered,
        }
    }

    #[must_use]
    pub fn sum(&self) -> u64 {
        Outcome::ALL.iter().map(|outcome| self.of(*outcome)).sum()
    }
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Read {
    pub indicators: u64,
    /// Indicators that gave no sighting: of an unsupported type, or without a value.
    pub without_observable: u64,
    pub unreadable: u64,
    /// Sightings: a File gives up to three.
    pub observables: u64,
    /// Indicators that gave at least one sighting.
    #[serde(skip_serializing_if = "is_zero")]
    pub with_observable: u64,
    /// Pages, the empty one included.
    pub pages: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// Why, how often, and one example.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// An outcome's name, or `without_observable`, `unreadable`.
    pub outcome: String,
    #[serde(rename = "type")]
    pub type_name: String,
    pub reason: String,
    pub count: u64,
    pub example: String,
}

/// What was done at the target beyond counting sightings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Changes {
    /// Accepted: not at the target before.
    pub added: u64,
    /// Accepted: other content than before.
    pub changed: u64,
    /// Accepted: the same content with a new expiry.
    pub refreshed: u64,
    /// Rows given to another claim at the end of the run.
    pub handed_over: u64,
    /// Rejections that no run had seen before.
    pub newly_rejected: u64,
}

/// Requests sent, retries included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    pub source: u64,
    pub sink: u64,
    pub retried: u64,
    pub throttled: u64,
}

/// Counters of a run, kept in its record so that a continuation goes on counting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    pub read: Read,
    pub outcomes: Outcomes,
    pub by_type: BTreeMap<String, Outcomes>,
    pub reasons: Vec<Reason>,
    pub changes: Changes,
    pub withdrawn: u64,
    pub requests: Requests,
    /// Milliseconds of all workers of the run.
    pub duration_ms: u64,
}

impl Tally {
    /// One sighting, with the reason where the outcome has one.
    pub(crate) fn count(&mut self, outcome: Outcome, type_name: &str, reason: Option<&str>, example: &str) {
        *self.outcomes.slot(outcome) += 1;
        match self.by_type.get_mut(type_name) {
            Some(outcomes) => *outcomes.slot(outcome) += 1,
            None => *self.by_type.entry(type_name.to_owned()).or_default().slot(outcome) += 1,
        }
        if let Some(reason) = reason {
            self.explain(outcome.name(), type_name, reason, example, 1);
        }
    }

    /// Why `count` sightings or indicators ended as `outcome` (or as `without_observable`, `unreadable`).
    pub(crate) fn explain(&mut self, outcome: &str, type_name: &str, reason: &str, example: &str, count: u64) {
        if self.more_of(outcome, type_name, reason, count) {
            return;
        }
        let full = self.reasons.len() >= REASONS;
        let (reason, example) = if full { ("other reasons, see the log", "") } else { (reason, example) };
        if full && self.more_of(outcome, type_name, reason, count) {
            return;
        }
        self.reasons.push(Reason {
            outcome: outcome.to_owned(),
            type_name: type_name.to_owned(),
            reason: reason.to_owned(),
            count,
            example: example.chars().take(120).collect(),
        });
    }

    fn more_of(&mut self, outcome: &str, type_name: &str, reason: &str, count: u64) -> bool {
        let mut known = self.reasons.iter_mut();
        let entry = known.find(|r| r.reason == reason && r.type_name == type_name && r.outcome == outcome);
        entry.map(|entry| entry.count += count).is_some()
    }

    /// Adds the counts of a page that was committed.
    pub(crate) fn add(&mut self, page: &Self) {
        self.read.indicators += page.read.indicators;
        self.read.without_observable += page.read.without_observable;
        self.read.unreadable += page.read.unreadable;
        self.read.observables += page.read.observables;
        self.read.with_observable += page.read.with_observable;
        self.read.pages += page.read.pages;
        for outcome in Outcome::ALL {
            *self.outcomes.slot(outcome) += page.outcomes.of(outcome);
        }
        for (type_name, outcomes) in &page.by_type {
            let entry = self.by_type.entry(type_name.clone()).or_default();
            for outcome in Outcome::ALL {
                *entry.slot(outcome) += outcomes.of(outcome);
            }
        }
        for reason in &page.reasons {
            self.explain(&reason.outcome, &reason.type_name, &reason.reason, &reason.example, reason.count);
        }
        self.changes.added += page.changes.added;
        self.changes.changed += page.changes.changed;
        self.changes.refreshed += page.changes.refreshed;
        self.changes.handed_over += page.changes.handed_over;
        self.changes.newly_rejected += page.changes.newly_rejected;
        self.withdrawn += page.withdrawn;
    }

    /// The two laws: each sighting has one outcome, each indicator read is accounted for.
    ///
    /// # Errors
    /// The law that does not hold, with its numbers.
    pub fn laws(&self) -> Result<(), String> {
        let (read, outcomes) = (&self.read, &self.outcomes);
        if read.observables != outcomes.sum() {
            return Err(format!("{} sightings were read, {} have an outcome", read.observables, outcomes.sum()));
        }
        let accounted = read.with_observable + read.without_observable + read.unreadable;
        if read.indicators != accounted {
            return Err(format!("{} indicators were read, {accounted} are accounted for", read.indicators));
        }
        Ok(())
    }
}

/// How far a run reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// All that the filters match (and, with the guide's checkbox on, that changed since the floor).
    Full,
    /// What changed since the last complete run.
    Incremental,
}

/// One run, for users.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub job: String,
    pub target_product: String,
    pub delivery: String,
    pub mode: Mode,
    pub complete: bool,
    pub dry_run: bool,
    pub since: Option<Timestamp>,
    pub watermark: Option<Timestamp>,
    pub read: Read,
    pub outcomes: Outcomes,
    pub withdrawn: u64,
    pub by_type: BTreeMap<String, Outcomes>,
    pub reasons: Vec<Reason>,
    pub changes: Changes,
    pub requests: Requests,
    pub duration_ms: u64,
    /// A withdrawal that was refused, and how to approve it.
    pub refused_withdrawal: Option<RefusedWithdrawal>,
    /// The places, at a target that holds only so many.
    #[serde(default)]
    pub cap: Option<Cap>,
    /// Why the run failed or is incomplete; one line.
    pub error: Option<String>,
    pub run: String,
    pub started: Timestamp,
    /// The run goes on in a continuation, not before this.
    pub not_before: Option<Timestamp>,
}
