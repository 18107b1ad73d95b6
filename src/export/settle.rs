//! What an answer makes of claim and target row: pure, one group of rows per sighting, written whole.

use super::capacity::LATER;
use super::decide::{Change, Rules, Sighting, Verdict};
use super::ledger::Group;
use super::report::{Outcome, Tally};
use super::rows::{
    Claim, Gone, GoneReason, Holder, IntentItem, Rejection, RowClaim, TargetRow, claim_key, encode, gone_key, mark_key,
    rejection_key, target_key, tombstone_key,
};
use crate::indicator::{Observable, ObservableKey};
use crate::sinks::{Answer, ContentHash, Draft, Skip, Stamp};

/// Runs in a row without an answer, while neighbours were answered, after which an item counts as refused.
const UNANSWERED_RUNS: u8 = 3;

/// The text that users see.
const LEFT_TO_OTHERS: &str = "the target has the same already, made by another application; it is left alone";

/// The rows to write for one sighting, and whose claim lost its row by it.
#[derive(Debug, Default)]
pub(crate) struct Settled {
    pub group: Group,
    /// Its claim loses hash and *won* in the same transaction.
    pub dethroned: Option<Holder>,
}

/// Counts a sighting's outcome and says what is to be written. `row` is changed in place.
pub(crate) fn settle(sighting: &Sighting, row: &mut Option<TargetRow>, rules: &Rules<'_>, tally: &mut Tally) -> Settled {
    let type_name = sighting.kind.report_name();
    let Some((observable, key)) = &sighting.observable else {
        let reason = sighting.made.as_ref().err().map_or("malformed", |skip| skip.reason());
        tally.count(Outcome::Skipped, type_name, Some(reason), &sighting.raw);
        return Settled::default();
    };
    let example = observable.value();
    match (&sighting.verdict, &sighting.made) {
        (Verdict::Send(change), Ok(draft)) => sent(sighting, observable, *key, draft, *change, row, rules, tally),
        (Verdict::Unchanged, _) => {
            tally.count(Outcome::Unchanged, type_name, None, example);
            still_there(sighting, *key, row, rules)
        }
        (Verdict::Replayed, _) => {
            tally.count(Outcome::Accepted, type_name, None, example);
            tally.changes.added += 1;
            still_there(sighting, *key, row, rules)
        }
        (Verdict::StillRejected, _) => {
            tally.count(Outcome::Rejected, type_name, Some("refused before with the same content, see `rejected list`"), example);
            still_there(sighting, *key, row, rules)
        }
        (Verdict::LeftToOthers, _) => {
            tally.count(Outcome::Skipped, type_name, Some(LEFT_TO_OTHERS), example);
            still_there(sighting, *key, row, rules)
        }
        (Verdict::Later, Ok(draft)) => {
            tally.count(Outcome::OverCap, type_name, Some(LATER), example);
            let target = row.get_or_insert_with(|| blank(sighting, observable, *key, draft, rules));
            target.put_claim(row_claim(sighting, false, rules.job), rules.places);
            let mut group = written(sighting, *key, &Claim::new(&sighting.owner, sighting.weight), target, rules);
            group.retain(|(row, _)| *row != mark_key(*key));
            group.push((mark_key(*key), Some(b"{}".to_vec())));
            Settled { group, dethroned: None }
        }
        (Verdict::OverCap(reason), _) => {
            tally.count(Outcome::OverCap, type_name, Some(reason), example);
            still_there(sighting, *key, row, rules)
        }
        (_, Err(skip)) => {
            tally.count(Outcome::Skipped, type_name, Some(skip.reason()), example);
            Settled { group: ranked(sighting, row, rules), dethroned: None }
        }
        (Verdict::Duplicate | Verdict::Undecided | Verdict::Skipped, Ok(_)) => {
            tally.count(Outcome::Duplicate, type_name, None, example);
            duplicate(sighting, *key, row, rules)
        }
    }
}

/// What is written of a sighting that is not sent now: a claim that it no longer makes is released, another gets its rank of today.
pub(crate) fn ranked(sighting: &Sighting, row: &mut Option<TargetRow>, rules: &Rules<'_>) -> Group {
    match (&sighting.made, &sighting.observable) {
        (_, None) => Group::new(),
        (Ok(_), Some((_, key))) => still_there(sighting, *key, row, rules).group,
        (Err(skip), Some((_, key))) => {
            let reason = if *skip == Skip::NeverSend { GoneReason::NeverSend } else { GoneReason::Released };
            release(sighting.claim.as_ref(), sighting.id, *key, reason, rules)
        }
    }
}

/// The index row and the mark on a claim that is gone or released. Nothing if it is marked already for the same reason.
pub(crate) fn release(claim: Option<&Claim>, id: u64, key: ObservableKey, reason: GoneReason, rules: &Rules<'_>) -> Group {
    let Some(claim) = claim else { return Group::new() };
    let claim = Claim { gone_in: Some(rules.run.to_owned()), ..claim.clone() };
    let gone = Gone { run: rules.run.to_owned(), reason, incremental: rules.incremental, owner: claim.owner.clone() };
    vec![(claim_key(rules.job, id, key), Some(encode(&claim))), (gone_key(rules.job, id, key), Some(encode(&gone)))]
}

#[expect(clippy::too_many_arguments, reason = "the parts of one sighting, taken apart once by its only caller")]
fn sent(
    sighting: &Sighting,
    observable: &Observable,
    key: ObservableKey,
    draft: &Draft,
    change: Change,
    row: &mut Option<TargetRow>,
    rules: &Rules<'_>,
    tally: &mut Tally,
) -> Settled {
    let type_name = sighting.kind.report_name();
    let stamp = sighting.stamp.unwrap_or(Stamp { modified: rules.now, expires: rules.now });
    match &sighting.answer {
        Some(Answer::Accepted { remote_id }) => {
            tally.count(Outcome::Accepted, type_name, None, observable.value());
            match change {
                Change::Added => tally.changes.added += 1,
                Change::Changed => tally.changes.changed += 1,
                Change::Refreshed => tally.changes.refreshed += 1,
            }
            accepted(sighting, observable, key, draft, stamp, remote_id.clone(), row, rules)
        }
        Some(Answer::Refused { reason, correlation }) => {
            tally.count(Outcome::Rejected, type_name, Some(reason), observable.value());
            let known = sighting.claim.as_ref().is_some_and(|claim| claim.refused == Some(draft.hash));
            tally.changes.newly_rejected += u64::from(!known);
            rejected(sighting, observable, key, draft, (reason, correlation.as_deref()), row, rules)
        }
        Some(Answer::Unanswered { reason }) => {
            let runs = sighting.claim.as_ref().map_or(0, |claim| claim.unanswered) + 1;
            if runs >= UNANSWERED_RUNS {
                let reason = format!("no answer in {runs} runs: {reason}");
                tally.count(Outcome::Rejected, type_name, Some(&reason), observable.value());
                tally.changes.newly_rejected += 1;
                return rejected(sighting, observable, key, draft, (&reason, None), row, rules);
            }
            tally.count(Outcome::Unanswered, type_name, Some(reason), observable.value());
            unanswered(sighting, observable, key, draft, (stamp, runs), row, rules)
        }
        Some(Answer::Full { reason }) => {
            tally.count(Outcome::OverCap, type_name, Some(reason), observable.value());
            still_there(sighting, key, row, rules)
        }
        None => {
            tally.count(Outcome::Unanswered, type_name, Some("no answer"), observable.value());
            unanswered(sighting, observable, key, draft, (stamp, 1), row, rules)
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the parts of one sighting, taken apart once by its callers")]
pub(crate) fn accepted(
    sighting: &Sighting,
    observable: &Observable,
    key: ObservableKey,
    draft: &Draft,
    stamp: Stamp,
    remote_id: Option<String>,
    row: &mut Option<TargetRow>,
    rules: &Rules<'_>,
) -> Settled {
    let target = row.get_or_insert_with(|| blank(sighting, observable, key, draft, rules));
    let dethroned = target.winner.take().filter(|holder| holder.0 != rules.job || holder.1 != sighting.id);
    let was_tombstone = target.withdrawn_in.take().is_some();
    target.winner = Some(Holder(rules.job.to_owned(), sighting.id));
    target.put_claim(row_claim(sighting, false, rules.job), rules.places);
    target.external_id.clone_from(&draft.external_id);
    rules.action.clone_into(&mut target.action);
    // An answer without an id keeps the one that is known, unless that was another object's.
    let known = target.remote_id.take().filter(|_| target.identity == Some(draft.identity));
    target.remote_id = remote_id.or(known);
    target.identity = Some(draft.identity).filter(|identity| *identity != ContentHash::NONE);
    target.is_sure();
    target.hash = Some(draft.hash);
    target.created = draft.created;
    target.valid_from = draft.valid_from;
    target.modified = stamp.modified.max(target.modified);
    target.expires = Some(stamp.expires.as_second());
    target.expiration_days = draft.expiration_days;
    target.sent_in = Some(rules.run.to_owned());
    target.at_target = true;
    let claim = Claim {
        hash: Some(draft.hash),
        expires: target.expires,
        won: true,
        sent_in: Some(rules.run.to_owned()),
        ..Claim::new(&sighting.owner, sighting.weight)
    };
    let mut group = written(sighting, key, &claim, target, rules);
    if was_tombstone {
        group.push((tombstone_key(key), None));
    }
    Settled { group, dethroned }
}

fn rejected(
    sighting: &Sighting,
    observable: &Observable,
    key: ObservableKey,
    draft: &Draft,
    (reason, correlation): (&str, Option<&str>),
    row: &mut Option<TargetRow>,
    rules: &Rules<'_>,
) -> Settled {
    let target = row.get_or_insert_with(|| blank(sighting, observable, key, draft, rules));
    target.put_claim(row_claim(sighting, true, rules.job), rules.places);
    // What was there before is there still: who holds the row goes on holding it, without a content to compare with.
    let won = target.is_held_by(rules.job, sighting.id);
    let claim = Claim { won, refused: Some(draft.hash), ..Claim::new(&sighting.owner, sighting.weight) };
    let rejection = Rejection {
        job: rules.job.to_owned(),
        id: sighting.id,
        owner: sighting.owner.clone(),
        kind: observable.kind(),
        value: observable.value().to_owned(),
        reason: reason.to_owned(),
        correlation: correlation.map(str::to_owned),
        run: rules.run.to_owned(),
        at: rules.now,
    };
    let mut group = written(sighting, key, &claim, target, rules);
    group.retain(|(row, _)| *row != rejection_key(rules.job, sighting.id, key));
    group.push((rejection_key(rules.job, sighting.id, key), Some(encode(&rejection))));
    Settled { group, dethroned: None }
}

fn unanswered(
    sighting: &Sighting,
    observable: &Observable,
    key: ObservableKey,
    draft: &Draft,
    (stamp, runs): (Stamp, u8),
    row: &mut Option<TargetRow>,
    rules: &Rules<'_>,
) -> Settled {
    let target = row.get_or_insert_with(|| blank(sighting, observable, key, draft, rules));
    let dethroned = target.winner.take().filter(|holder| holder.0 != rules.job || holder.1 != sighting.id);
    target.forget();
    target.put_claim(row_claim(sighting, false, rules.job), rules.places);
    target.modified = stamp.modified.max(target.modified);
    target.expires = None;
    let beside = target.is_replaced_by(Some(draft.identity));
    target.may_be_there_as(&draft.external_id, beside);
    let was_tombstone = target.withdrawn_in.take().is_some();
    let claim = Claim { unanswered: runs, ..Claim::new(&sighting.owner, sighting.weight) };
    let mut group = written(sighting, key, &claim, target, rules);
    if was_tombstone {
        group.push((tombstone_key(key), None));
    }
    Settled { group, dethroned }
}

fn duplicate(sighting: &Sighting, key: ObservableKey, row: &mut Option<TargetRow>, rules: &Rules<'_>) -> Settled {
    let claimed = |row: &&mut TargetRow| row.at_target || row.claims.iter().any(|claim| claim.refused);
    let Some(target) = row.as_mut().filter(claimed) else {
        return Settled::default(); // who ranks before it has no place at the target: there is nothing to claim
    };
    let holds = target.is_held_by(rules.job, sighting.id);
    let claim = match &sighting.claim {
        Some(claim) if holds => Claim { weight: sighting.weight, gone_in: None, ..claim.clone() },
        _ => Claim::new(&sighting.owner, sighting.weight),
    };
    let changed = target.put_claim(row_claim(sighting, false, rules.job), rules.places);
    let marked = target.wants_hand_over(rules.places) || !rules.lives(target.expires, target.expiration_days);
    let known = sighting.claim.as_ref() == Some(&claim);
    if known && !changed && !marked {
        return Settled::default();
    }
    let mut group = written(sighting, key, &claim, target, rules);
    if marked && !group.iter().any(|(row, _)| *row == mark_key(key)) {
        group.push((mark_key(key), Some(b"{}".to_vec())));
    }
    Settled { group, dethroned: None }
}

/// The claim was read: it loses its `gone_in`, and claim and row get the rank of today.
fn still_there(sighting: &Sighting, key: ObservableKey, row: &mut Option<TargetRow>, rules: &Rules<'_>) -> Settled {
    let Some(claim) = &sighting.claim else { return Settled::default() };
    if claim.gone_in.is_none() && claim.weight == sighting.weight {
        return Settled::default();
    }
    let now = Claim { weight: sighting.weight, gone_in: None, ..claim.clone() };
    let mut group = Group::new();
    if claim.gone_in.is_some() {
        group.push((gone_key(rules.job, sighting.id, key), None));
    }
    group.push((claim_key(rules.job, sighting.id, key), Some(encode(&now))));
    if claim.weight != sighting.weight
        && let Some(target) = row
    {
        target.put_claim(row_claim(sighting, claim.refused.is_some(), rules.job), rules.places);
        group.push((target_key(key), Some(encode(target))));
        if target.wants_hand_over(rules.places) {
            group.push((mark_key(key), Some(b"{}".to_vec())));
        }
    }
    Settled { group, dethroned: None }
}

/// Claim and row, the mark that the row wants, and what the new claim makes void.
fn written(sighting: &Sighting, key: ObservableKey, claim: &Claim, row: &TargetRow, rules: &Rules<'_>) -> Group {
    let mut group = Group::with_capacity(3);
    group.push((claim_key(rules.job, sighting.id, key), Some(encode(claim))));
    group.push((target_key(key), Some(encode(row))));
    if row.wants_hand_over(rules.places) {
        group.push((mark_key(key), Some(b"{}".to_vec())));
    }
    if let Some(before) = &sighting.claim {
        if before.gone_in.is_some() {
            group.push((gone_key(rules.job, sighting.id, key), None));
        }
        if before.refused.is_some() {
            group.push((rejection_key(rules.job, sighting.id, key), None));
        }
    }
    group
}

pub(crate) fn row_claim(sighting: &Sighting, refused: bool, job: &str) -> RowClaim {
    RowClaim { job: job.to_owned(), id: sighting.id, weight: sighting.weight, refused }
}

/// A row for something that is not at the target yet.
fn blank(sighting: &Sighting, observable: &Observable, key: ObservableKey, draft: &Draft, rules: &Rules<'_>) -> TargetRow {
    IntentItem::sent(rules.job, sighting.id, &sighting.owner, (observable, key), draft).blank_row()
}
