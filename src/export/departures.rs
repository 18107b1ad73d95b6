//! Rows that leave the target: batches of withdrawals, their answers, and what is left of the rows.
//!
//! Who leaves is decided elsewhere: by the end of a run (nobody claims the row) or by the cap (others rank higher).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};

use super::capacity::Capacity;
use super::flow::{Stop, stamp};
use super::ledger::{Group, Ledger, LedgerError, Packer};
use super::outbox::{Load, Outbox, Parcel};
use super::record::RunRecord;
use super::rows::{
    Claim, Holder, IntentItem, RowClaim, TargetRow, claim_key, encode, gone_key, mark_key, rejection_key, run_key, target_key,
    tombstone_key,
};
use super::{Job, Progress};
use crate::indicator::{Observable, ObservableKey};
use crate::sinks::{Answer, Stamp, Withdrawal};

/// Rows that leave together.
const AT_ONCE: usize = 400;
/// Claims that leave with their row in one transaction: three rows each, and the row's own.
const CLAIMS_AT_ONCE: usize = 25;

/// The withdrawals of one run.
pub(crate) struct Departures<'a> {
    pub ledger: &'a mut Ledger,
    pub job: &'a Job,
    pub record: &'a mut RunRecord,
    pub progress: &'a Progress,
    /// Monotonic time at which the budget is over.
    pub deadline: Option<Duration>,
    pub capacity: &'a mut Capacity,
}

/// A row that leaves.
pub(crate) struct Leaving {
    pub key: ObservableKey,
    pub row: TargetRow,
    /// Its last claims, which leave with it (at least one), and whether the target refused them.
    pub claims: Vec<(Holder, bool)>,
}

impl Departures<'_> {
    /// # Errors
    /// [`Stop::Budget`] when the time is over, or somebody asked to stop: what has left is committed.
    pub(crate) fn in_time(&self) -> Result<(), Stop> {
        let over = self.deadline.is_some_and(|deadline| self.ledger.clock().monotonic() >= deadline);
        if over || self.progress.is_stopped() { Err(Stop::Budget) } else { Ok(()) }
    }

    /// Gives the places of these rows to others, whoever claims them; how many left.
    pub(crate) async fn displace(&mut self, keys: &[ObservableKey]) -> Result<u64, Stop> {
        let before = self.record.tally.withdrawn;
        for keys in keys.chunks(AT_ONCE) {
            self.in_time()?;
            let rows = self.ledger.rows().read_many::<TargetRow>(keys.iter().map(|key| target_key(*key)).collect()).await?;
            let mut leaving = Vec::with_capacity(keys.len());
            for (key, row) in keys.iter().zip(rows) {
                match row {
                    Some(row) if row.at_target && row.claims.is_empty() => {}
                    Some(row) if row.at_target => {
                        let row = self.thin(*key, row).await?;
                        let claims =
                            row.claims.iter().map(|claim| (Holder(claim.job.clone(), claim.id), claim.refused)).collect();
                        leaving.push(Leaving { key: *key, claims, row });
                    }
                    _ => self.capacity.leave(*key),
                }
            }
            for left in &leaving {
                let why = "its place went to an indicator that ranks higher, to the reserve or to others";
                self.record.tally.explain("displaced", left.row.kind.report_name(), why, &left.row.value, 1);
            }
            self.withdraw(leaving, "-e").await?;
        }
        Ok(self.record.tally.withdrawn - before)
    }

    /// A row with more claims than leave in one transaction loses most of them before.
    async fn thin(&mut self, key: ObservableKey, mut row: TargetRow) -> Result<TargetRow, LedgerError> {
        while row.claims.len() > CLAIMS_AT_ONCE {
            let mut group = Group::new();
            let winner = row.winner.clone();
            let is_winner =
                |claim: &RowClaim| winner.as_ref().is_some_and(|holder| holder.1 == claim.id && holder.0 == claim.job);
            let mut left = CLAIMS_AT_ONCE;
            row.claims.retain(|claim| {
                let stays = left == 0 || is_winner(claim);
                if !stays {
                    left -= 1;
                    group.extend(forget_claim(&claim.job, claim.id, key, claim.refused));
                }
                stays
            });
            group.push((target_key(key), Some(encode(&row))));
            let mut packer = Packer::new(self.ledger);
            packer.add(group).await?;
            packer.flush().await?;
        }
        Ok(row)
    }

    /// Withdraws rows, batch by batch; `name` tells the intents of one round from those of others.
    pub(crate) async fn withdraw(&mut self, leaving: Vec<Leaving>, name: &str) -> Result<(), Stop> {
        if leaving.is_empty() {
            return Ok(());
        }
        tracing::info!(job = self.job.name, rows = leaving.len(), first = leaving[0].row.value, "withdrawing rows");
        let mut outbox = Outbox::new(Arc::clone(&self.job.sink), &format!("{}{name}", self.record.run));
        let mut waiting: Vec<Parcel> = Vec::new();
        let mut open: HashMap<usize, (Leaving, Stamp)> = HashMap::new();
        let now = self.ledger.clock().now();
        for (token, leaving) in leaving.into_iter().enumerate().rev() {
            let stamp = withdrawal_stamp(now, &leaving.row);
            if let Some(parcel) = parcel(token, &leaving, stamp) {
                waiting.push(parcel);
                open.insert(token, (leaving, stamp));
            }
        }
        while !open.is_empty() {
            while outbox.has_room() && !waiting.is_empty() {
                let size = self.job.sink.limits().batch.min(waiting.len());
                let mut batch = waiting.split_off(waiting.len() - size);
                batch.reverse();
                outbox.dispatch(self.ledger, batch).await?;
            }
            let renewal = self.ledger.clock().alarm(self.ledger.renewal_due_in());
            tokio::select! {
                answers = outbox.answers() => {
                    let answers = answers.map_err(Stop::Target)?;
                    self.commit(&mut outbox, answers, &mut open).await?;
                }
                () = renewal => self.ledger.renew().await?,
            }
        }
        Ok(())
    }

    async fn commit(
        &mut self,
        outbox: &mut Outbox,
        answers: Vec<(usize, Answer)>,
        open: &mut HashMap<usize, (Leaving, Stamp)>,
    ) -> Result<(), Stop> {
        let mut withdrawn = 0;
        let mut packer = Packer::new(self.ledger);
        for (token, answer) in answers {
            let Some((leaving, stamp)) = open.remove(&token) else { continue };
            let (key, mut row) = (leaving.key, leaving.row);
            row.modified = row.modified.max(stamp.modified);
            let mut group = Group::new();
            if let Answer::Accepted { .. } = answer {
                withdrawn += 1;
                if let Some(journal) = self.progress.journal() {
                    journal.withdrawn(row.kind.report_name(), &row.value);
                }
                self.capacity.leave(key);
                row.claims.clear();
                row.cut = false;
                row.is_gone_from_target();
                row.withdrawn_in = Some(self.record.run.clone());
                for (holder, refused) in &leaving.claims {
                    group.extend(forget_claim(&holder.0, holder.1, key, *refused));
                }
                group.push((tombstone_key(key), Some(encode(&self.record.run))));
                group.push((mark_key(key), None));
            } else {
                // It may be gone or not: whoever held it must not take it for granted.
                group.extend(unhold(&packer, &row, key).await?);
                row.forget();
                row.expires = None;
            }
            match answer {
                Answer::Accepted { .. } => {}
                Answer::Unanswered { .. } => self.record.unanswered_at_end += 1,
                Answer::Refused { reason, .. } | Answer::Full { reason } => {
                    self.record.tally.explain("withdrawal_refused", row.kind.report_name(), &reason, &row.value, 1);
                }
            }
            group.push((target_key(key), Some(encode(&row))));
            group.extend(outbox.close(token).map(|intent| (intent, None)));
            packer.add(group).await?;
        }
        self.record.tally.withdrawn += withdrawn;
        self.progress.withdrew(withdrawn);
        packer.add(vec![(run_key(&self.record.job), Some(encode(self.record)))]).await?;
        packer.flush().await?;
        Ok(())
    }
}

/// The claim that holds the row loses hash and *won*.
pub(crate) async fn unhold(packer: &Packer<'_>, row: &TargetRow, key: ObservableKey) -> Result<Group, LedgerError> {
    let Some(holder) = &row.winner else { return Ok(Group::new()) };
    let claim = claim_key(&holder.0, holder.1, key);
    let loser = packer.read::<Claim>(&claim).await?;
    Ok(loser.map(|loser| (claim, Some(encode(&Claim { hash: None, won: false, ..loser })))).into_iter().collect())
}

fn parcel(token: usize, leaving: &Leaving, stamp: Stamp) -> Option<Parcel> {
    let row = &leaving.row;
    let observable = Observable::parse(row.kind, &row.value).ok()?;
    let (holder, _) = leaving.claims.first()?;
    let intent = IntentItem {
        job: holder.0.clone(),
        id: holder.1,
        owner: String::new(),
        kind: row.kind,
        value: row.value.clone(),
        key: leaving.key.to_string(),
        external_id: row.external_id.clone(),
        created: row.created,
        valid_from: row.valid_from,
        withdrawal: true,
        beside: false,
    };
    let load = Load::Withdrawal(Withdrawal {
        observable,
        external_id: row.external_id.clone(),
        there: row.there(None),
        created: row.created,
        valid_from: row.valid_from,
        stamp,
    });
    Some(Parcel { token, load, intent, modified: stamp.modified })
}

/// The rows that leave with a claim.
pub(crate) fn forget_claim(job: &str, id: u64, key: ObservableKey, refused: bool) -> Group {
    let mut group = vec![(claim_key(job, id, key), None), (gone_key(job, id, key), None)];
    if refused {
        group.push((rejection_key(job, id, key), None));
    }
    group
}

/// A withdrawal ends in the past, but after it began.
fn withdrawal_stamp(now: Timestamp, row: &TargetRow) -> Stamp {
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let past = second.checked_sub(1.second()).unwrap_or(second);
    let expires = if past > row.valid_from { past } else { row.valid_from.checked_add(1.second()).unwrap_or(row.valid_from) };
    Stamp { modified: stamp(now, row.created, 0, Some(row)).modified, expires }
}
