//! The end of a run: what is gone leaves its rows, rows without claims are withdrawn, under guards.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};

use super::flow::{Stop, stamp};
use super::ledger::{Group, Ledger, LedgerError, Packer, write};
use super::outbox::{Load, Outbox, Parcel};
use super::record::RunRecord;
use super::report::Mode;
use super::rows::{
    Approval, Claim, Gone, GoneReason, IntentItem, JobState, RefusedWithdrawal, TargetRow, approval_key, claim_key, encode,
    end_of, gone_key, gone_prefix, mark_key, parse_last_key, parse_sighting_key, rejection_key, run_key, target_key,
    tombstone_key,
};
use super::{Job, Progress};
use crate::indicator::{Observable, ObservableKey};
use crate::sinks::{Answer, Stamp, Withdrawal};

/// Index rows read at once.
const AT_ONCE: usize = 400;
/// Up to so many rows are withdrawn whatever their share.
const ALWAYS_ALLOWED: u64 = 20;
/// An approval covers the number shown and so many percent more.
const APPROVAL_SLACK_PERCENT: u64 = 10;

/// The end of one run.
pub(crate) struct Ending<'a> {
    pub ledger: &'a mut Ledger,
    pub job: &'a Job,
    pub record: &'a mut RunRecord,
    pub state: &'a mut JobState,
    pub progress: &'a Progress,
}

/// A row whose last claim goes.
struct Leaving {
    id: u64,
    key: ObservableKey,
    refused: bool,
    row: TargetRow,
}

impl Ending<'_> {
    /// Takes back what is gone, as far as the guards allow.
    pub(crate) async fn withdraw(&mut self) -> Result<(), Stop> {
        let ordinary =
            self.record.mode == Mode::Full && self.record.read_is_complete() && self.job.policy.withdraw && self.guard().await?;
        let mut from = gone_prefix(&self.job.name);
        let end = end_of(&from);
        let mut outbox = Outbox::new(Arc::clone(&self.job.sink), &format!("{}-w", self.record.run));
        loop {
            let chunk: Vec<(String, Gone)> = self.ledger.rows().scan(&from, &end, AT_ONCE).await?;
            let Some((last, _)) = chunk.last() else { return Ok(()) };
            from = format!("{last}!");
            let allowed: Vec<(u64, ObservableKey)> = chunk
                .iter()
                .filter(|(_, gone)| ordinary || gone.is_exempt(self.job.policy.withdraw))
                .filter_map(|(key, _)| parse_sighting_key(key))
                .collect();
            let leaving = self.remove_claims(&allowed).await?;
            self.send_withdrawals(&mut outbox, leaving).await?;
        }
    }

    /// Whether this run may withdraw what full runs passed by; if not, why, and how to approve it.
    async fn guard(&mut self) -> Result<bool, Stop> {
        let (rows, owners) = self.count_leaving().await?;
        let of = self.record.claims_seen;
        let limit = of * u64::from(self.job.policy.withdraw_limit) / 100;
        let silent: Vec<String> = owners.into_iter().filter(|owner| !self.record.owners_read.contains_key(owner)).collect();
        if (rows <= limit || rows <= ALWAYS_ALLOWED) && silent.is_empty() {
            self.state.refused = None;
            return Ok(true);
        }
        if self.record.approval.is_none() {
            let key = approval_key(&self.job.name);
            let standing: Option<Approval> = self.ledger.rows().read(&key).await?;
            if let Some(approval) = standing.filter(|approval| approval.stands(self.ledger.clock().now())) {
                self.record.approval = Some(approval);
                let record = write(run_key(&self.job.name), Some(encode(self.record)));
                self.ledger.commit(vec![record, write(key, None)]).await?;
            }
        }
        let approved = self.record.approval.as_ref();
        if approved.is_some_and(|approval| rows <= approval.rows + (approval.rows * APPROVAL_SLACK_PERCENT).div_ceil(100)) {
            self.state.refused = None;
            return Ok(true);
        }
        let refused = RefusedWithdrawal { rows, of, owners: silent, run: self.record.run.clone() };
        self.record.refused = Some(refused.clone());
        self.state.refused = Some(refused);
        Ok(false)
    }

    /// Rows that would be left without a claim, and the owners of what was passed by; nothing is changed.
    async fn count_leaving(&mut self) -> Result<(u64, BTreeSet<String>), LedgerError> {
        let mut from = gone_prefix(&self.job.name);
        let end = end_of(&from);
        let (mut rows, mut owners) = (0, BTreeSet::new());
        loop {
            let chunk: Vec<(String, Gone)> = self.ledger.rows().scan(&from, &end, AT_ONCE).await?;
            let Some((last, _)) = chunk.last() else { return Ok((rows, owners)) };
            from = format!("{last}!");
            let counted: Vec<(u64, ObservableKey)> =
                chunk.iter().filter(|(_, gone)| !gone.is_exempt(true)).filter_map(|(key, _)| parse_sighting_key(key)).collect();
            owners.extend(chunk.into_iter().filter(|(_, gone)| gone.reason == GoneReason::Passed).map(|(_, gone)| gone.owner));
            let targets: Vec<Option<TargetRow>> =
                self.ledger.rows().read_many(counted.iter().map(|(_, key)| target_key(*key)).collect()).await?;
            for ((id, key), row) in counted.into_iter().zip(targets) {
                let Some(row) = row else { continue };
                if self.leaves_empty(&row, id, key).await? {
                    rows += 1;
                }
            }
            self.ledger.renew().await?;
        }
    }

    /// All other claims of the row are of this job, gone as well, and were counted before this one.
    async fn leaves_empty(&self, row: &TargetRow, id: u64, key: ObservableKey) -> Result<bool, LedgerError> {
        for other in row.claims.iter().filter(|claim| claim.job != self.job.name || claim.id != id) {
            if other.job != self.job.name || other.id > id {
                return Ok(false);
            }
            if self.ledger.rows().read::<Gone>(&gone_key(&other.job, other.id, key)).await?.is_none() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Claims leave rows that others claim too; the rows that none else claims come back.
    async fn remove_claims(&mut self, gone: &[(u64, ObservableKey)]) -> Result<Vec<Leaving>, LedgerError> {
        let job = self.job.name.as_str();
        let mut leaving = Vec::new();
        let mut packer = Packer::new(self.ledger);
        for &(id, key) in gone {
            let claim: Option<Claim> = packer.read(&claim_key(job, id, key)).await?;
            let row: Option<TargetRow> = packer.read(&target_key(key)).await?;
            let refused = claim.is_some_and(|claim| claim.refused.is_some());
            let mut group = forget_claim(job, id, key, refused);
            match row {
                None => {}
                Some(row) if row.claims.iter().all(|claim| claim.job == job && claim.id == id) => {
                    if row.cut {
                        // Others claimed it too once. The next full run names them again; only then is it known.
                        let whole = TargetRow { cut: false, ..row };
                        packer.add(vec![(target_key(key), Some(encode(&whole)))]).await?;
                        continue;
                    }
                    if row.at_target {
                        leaving.push(Leaving { id, key, refused, row });
                        continue;
                    }
                    group.push((target_key(key), None));
                    group.push((mark_key(key), None));
                }
                Some(mut row) => {
                    if row.remove_claim(job, id) {
                        group.push((mark_key(key), Some(b"{}".to_vec())));
                    }
                    group.push((target_key(key), Some(encode(&row))));
                }
            }
            packer.add(group).await?;
        }
        packer.flush().await?;
        Ok(leaving)
    }

    /// Withdraws rows, batch by batch.
    async fn send_withdrawals(&mut self, outbox: &mut Outbox, leaving: Vec<Leaving>) -> Result<(), Stop> {
        if leaving.is_empty() {
            return Ok(());
        }
        tracing::info!(
            job = self.job.name,
            rows = leaving.len(),
            first = leaving[0].row.value,
            "withdrawing rows that nobody claims any more"
        );
        let mut waiting: Vec<Parcel> = Vec::new();
        let mut open: HashMap<usize, (Leaving, Stamp)> = HashMap::new();
        let now = self.ledger.clock().now();
        for (token, leaving) in leaving.into_iter().enumerate().rev() {
            let stamp = withdrawal_stamp(now, &leaving.row);
            if let Some(parcel) = self.withdrawal(token, &leaving, stamp) {
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
                    self.commit_withdrawals(outbox, answers, &mut open).await?;
                }
                () = renewal => self.ledger.renew().await?,
            }
        }
        Ok(())
    }

    fn withdrawal(&self, token: usize, leaving: &Leaving, stamp: Stamp) -> Option<Parcel> {
        let row = &leaving.row;
        let observable = Observable::parse(row.kind, &row.value).ok()?;
        let intent = IntentItem {
            job: self.job.name.clone(),
            id: leaving.id,
            owner: String::new(),
            kind: row.kind,
            value: row.value.clone(),
            key: leaving.key.to_string(),
            external_id: row.external_id.clone(),
            created: row.created,
            valid_from: row.valid_from,
            withdrawal: true,
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

    async fn commit_withdrawals(
        &mut self,
        outbox: &mut Outbox,
        answers: Vec<(usize, Answer)>,
        open: &mut HashMap<usize, (Leaving, Stamp)>,
    ) -> Result<(), Stop> {
        let job = self.job.name.as_str();
        let mut withdrawn = 0;
        let mut packer = Packer::new(self.ledger);
        for (token, answer) in answers {
            let Some((leaving, stamp)) = open.remove(&token) else { continue };
            let (key, mut row) = (leaving.key, leaving.row);
            row.forget();
            row.expires = None;
            row.modified = row.modified.max(stamp.modified);
            let mut group = Group::new();
            match answer {
                Answer::Accepted { .. } => {
                    withdrawn += 1;
                    if let Some(journal) = self.progress.journal() {
                        journal.withdrawn(row.kind.report_name(), &row.value);
                    }
                    row.claims.clear();
                    row.cut = false;
                    row.is_gone_from_target();
                    row.withdrawn_in = Some(self.record.run.clone());
                    group.extend(forget_claim(job, leaving.id, key, leaving.refused));
                    group.push((tombstone_key(key), Some(encode(&self.record.run))));
                    group.push((mark_key(key), None));
                }
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
        packer.add(vec![(run_key(job), Some(encode(self.record)))]).await?;
        packer.flush().await?;
        Ok(())
    }

    /// Tombstones of earlier runs have lasted one more full run: they go.
    pub(crate) async fn bury(&mut self) -> Result<(), LedgerError> {
        let mut from = "d.".to_owned();
        loop {
            let chunk: Vec<(String, String)> = self.ledger.rows().scan(&from, "d/", AT_ONCE).await?;
            let Some((last, _)) = chunk.last() else { return Ok(()) };
            from = format!("{last}!");
            let old: Vec<ObservableKey> =
                chunk.iter().filter(|(_, run)| *run != self.record.run).filter_map(|(key, _)| parse_last_key(key)).collect();
            let mut packer = Packer::new(self.ledger);
            for key in old {
                let row: Option<TargetRow> = packer.read(&target_key(key)).await?;
                let mut group = vec![(tombstone_key(key), None)];
                if row.is_some_and(|row| row.withdrawn_in.is_some()) {
                    group.push((target_key(key), None));
                }
                packer.add(group).await?;
            }
            packer.flush().await?;
        }
    }
}

impl Gone {
    /// Not counted against the limit: `NEVER_SEND`, a retired job, and what an incremental run released (few).
    fn is_exempt(&self, withdraw: bool) -> bool {
        match self.reason {
            GoneReason::NeverSend | GoneReason::Retired => true,
            GoneReason::Released => self.incremental && withdraw,
            GoneReason::Passed => false,
        }
    }
}

/// The rows that leave with a claim.
fn forget_claim(job: &str, id: u64, key: ObservableKey, refused: bool) -> Group {
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
