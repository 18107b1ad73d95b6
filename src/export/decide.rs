//! Decisions about sightings: new, changed, unchanged, better than the winner, duplicate. Pure.

use std::collections::HashMap;
use std::time::Duration;

use jiff::Timestamp;

use super::rank::{Places, Rank, rank, rank_of};
use super::rows::{Claim, Holder, TargetRow};
use crate::indicator::{Kind, Observable, ObservableKey, Weight};
use crate::sinks::{Answer, Draft, Skip, Stamp};

/// One sighting on its way through a run.
#[derive(Debug)]
pub(crate) struct Sighting {
    /// ThreatConnect's id.
    pub id: u64,
    pub owner: String,
    pub weight: Weight,
    pub kind: Kind,
    /// Normal form; none if the value is malformed.
    pub observable: Option<(Observable, ObservableKey)>,
    /// The value as it came, where there is no normal form.
    pub raw: String,
    pub made: Result<Draft, Skip>,
    /// What its job last knew of it.
    pub claim: Option<Claim>,
    pub verdict: Verdict,
    /// Of the last payload that was sent.
    pub stamp: Option<Stamp>,
    pub answer: Option<Answer>,
}

/// What is to be done with a sighting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Undecided,
    Send(Change),
    Unchanged,
    /// Accepted by this run already, before a crash.
    Replayed,
    Duplicate,
    Skipped,
    /// Refused before with the same content.
    StillRejected,
    /// Somebody else made the same object there.
    LeftToOthers,
    /// It has a place, but not yet.
    Later,
    /// No place at the target, for this reason.
    OverCap(&'static str),
}

/// Why a sighting is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Changed,
    Refreshed,
}

/// What decisions are made by.
#[derive(Debug, Clone)]
pub(crate) struct Rules<'a> {
    pub job: &'a str,
    pub run: &'a str,
    /// The guide's word for what is to be done at the target, kept in the row.
    pub action: &'a str,
    /// The run reads only what changed.
    pub incremental: bool,
    pub now: Timestamp,
    pub places: &'a Places,
    /// Between two full runs.
    pub interval: Duration,
    /// Send even what is unchanged.
    pub resend: bool,
    /// Try again what was refused.
    pub retry_rejected: bool,
}

impl Rules<'_> {
    /// An object lives long enough: more than half of its days are left, and more than two intervals between full runs.
    pub(crate) fn lives(&self, expires: Option<i64>, days: u16) -> bool {
        let Some(expires) = expires else { return false };
        let left = expires - self.now.as_second();
        let interval = i64::try_from(self.interval.as_secs()).unwrap_or(i64::MAX);
        left > i64::from(days) * 43_200 && left > interval.saturating_mul(2)
    }

    /// The claim alone tells that nothing is to be done, or that this run did it already.
    pub(crate) fn settled_by_claim(&self, sighting: &Sighting) -> Option<Verdict> {
        let (Ok(draft), Some(claim)) = (&sighting.made, &sighting.claim) else { return None };
        if !claim.won || claim.hash != Some(draft.hash) || claim.weight != sighting.weight {
            return None;
        }
        if claim.sent_in.as_deref() == Some(self.run) {
            return Some(Verdict::Replayed);
        }
        (!self.resend && self.lives(claim.expires, draft.expiration_days)).then_some(Verdict::Unchanged)
    }
}

/// Sightings in unanswered or uncommitted pages: who is about to win which observable.
pub(crate) type InFlight = HashMap<ObservableKey, (Holder, Weight)>;

/// Decides the sightings of one observable: `group` are their places in `sightings`.
pub(crate) fn decide(
    sightings: &mut [Sighting],
    group: &[usize],
    row: Option<&TargetRow>,
    rules: &Rules<'_>,
    in_flight: Option<&(Holder, Weight)>,
) {
    let mut contenders: Vec<usize> = Vec::with_capacity(group.len());
    for &i in group {
        if still_rejected(&sightings[i], rules) {
            sightings[i].verdict = Verdict::StillRejected;
        } else {
            contenders.push(i);
        }
    }
    let incumbent = row.and_then(|row| row.winner.as_ref());
    let rank_here = |s: &Sighting| rank_of(rules.job, s.id, s.weight, false, incumbent, rules.places);
    contenders.sort_by_key(|&i| std::cmp::Reverse(rank_here(&sightings[i])));
    let Some(&top) = contenders.first() else { return };
    let first =
        in_flight.is_none() && best_other(sightings, group, row, rules).is_none_or(|other| rank_here(&sightings[top]) > other);
    for &i in &contenders {
        let keeps = if in_flight.is_some() { None } else { keeps_its_row(&sightings[i], row, rules) };
        sightings[i].verdict = match (first, i == top) {
            (true, true) => keeps.unwrap_or_else(|| Verdict::Send(change(&sightings[i], row))),
            // One of this page takes the row.
            (true, false) => Verdict::Duplicate,
            // One outside this page ranks first: who holds the row keeps it until the hand-over.
            (false, _) => keeps.unwrap_or(Verdict::Duplicate),
        };
    }
}

fn still_rejected(sighting: &Sighting, rules: &Rules<'_>) -> bool {
    let (Ok(draft), Some(claim)) = (&sighting.made, &sighting.claim) else { return false };
    !rules.retry_rejected && claim.refused == Some(draft.hash)
}

/// The best rank among the row's claims that are not in this group.
fn best_other(sightings: &[Sighting], group: &[usize], row: Option<&TargetRow>, rules: &Rules<'_>) -> Option<Rank> {
    let row = row?;
    let in_group = |job: &str, id: u64| job == rules.job && group.iter().any(|&i| sightings[i].id == id);
    let others = row.claims.iter().filter(|claim| !in_group(&claim.job, claim.id) && !claim.refused);
    others.map(|claim| rank(claim, row.winner.as_ref(), rules.places)).max()
}

/// The sighting holds the row with this very content: nothing to send.
fn keeps_its_row(sighting: &Sighting, row: Option<&TargetRow>, rules: &Rules<'_>) -> Option<Verdict> {
    let (Ok(draft), Some(claim), Some(row)) = (&sighting.made, &sighting.claim, row) else { return None };
    let same =
        claim.won && claim.hash == Some(draft.hash) && row.hash == Some(draft.hash) && row.is_held_by(rules.job, sighting.id);
    if same && claim.sent_in.as_deref() == Some(rules.run) {
        return Some(Verdict::Replayed);
    }
    (same && !rules.resend && rules.lives(row.expires, draft.expiration_days)).then_some(Verdict::Unchanged)
}

fn change(sighting: &Sighting, row: Option<&TargetRow>) -> Change {
    match row.filter(|row| row.at_target) {
        None => Change::Added,
        Some(row) if sighting.made.as_ref().is_ok_and(|draft| row.hash == Some(draft.hash)) => Change::Refreshed,
        Some(_) => Change::Changed,
    }
}
