//! The end of a run: what is gone leaves its rows, rows without claims are withdrawn, under guards.

use std::collections::BTreeSet;
use std::time::Duration;

use super::capacity::{Capacity, Selector};
use super::departures::{Departures, Leaving, forget_claim};
use super::flow::Stop;
use super::ledger::{Ledger, LedgerError, Packer, write};
use super::record::{Phase, RunRecord};
use super::report::Mode;
use super::rows::{
    Approval, Claim, Gone, GoneReason, Holder, JobState, RefusedWithdrawal, TargetRow, approval_key, claim_key, encode, end_of,
    gone_key, gone_prefix, mark_key, parse_last_key, parse_sighting_key, run_key, target_key, tombstone_key,
};
use super::{Job, Progress, passes};
use crate::indicator::ObservableKey;

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
    /// Monotonic time at which the budget is over.
    pub deadline: Option<Duration>,
    pub capacity: &'a mut Capacity,
}

impl Ending<'_> {
    /// Takes back what is gone, as far as the guards allow. True if they allow what a complete full run may do.
    pub(crate) async fn withdraw(&mut self) -> Result<bool, Stop> {
        let ordinary =
            self.record.mode == Mode::Full && self.record.read_is_complete() && self.job.policy.withdraw && self.guard().await?;
        let mut from = gone_prefix(&self.job.name);
        let end = end_of(&from);
        loop {
            let chunk: Vec<(String, Gone)> = self.ledger.rows().scan(&from, &end, AT_ONCE).await?;
            let Some((last, _)) = chunk.last() else { return Ok(ordinary) };
            self.departures().in_time()?;
            from = format!("{last}!");
            let allowed: Vec<(u64, ObservableKey)> = chunk
                .iter()
                .filter(|(_, gone)| ordinary || gone.is_exempt(self.job.policy.withdraw))
                .filter_map(|(key, _)| parse_sighting_key(key))
                .collect();
            let leaving = self.remove_claims(&allowed).await?;
            self.departures().withdraw(leaving, "-w").await?;
        }
    }

    /// Between the two passes: what is gone or fell below the threshold leaves, so that what was chosen has a place.
    pub(crate) async fn clear(&mut self, chosen: &Selector, displaces: bool) -> Result<(), Stop> {
        if self.withdraw().await? && displaces && self.may_shrink().await? {
            let fallen = self.capacity.fallen(|key| chosen.chose(key));
            self.displace(&fallen).await?;
            let too_many = self.capacity.too_many();
            self.displace(&too_many).await?;
        }
        self.record.begin_pass(Phase::Reading);
        self.ledger.commit(vec![write(run_key(&self.job.name), Some(encode(self.record)))]).await?;
        Ok(passes::forget(self.ledger, self.job).await?)
    }

    /// Places that have become fewer, for a larger reserve or for others: what leaves for that comes under the same limit as what
    /// is withdrawn, for nothing better takes its place.
    pub(crate) async fn may_shrink(&mut self) -> Result<bool, Stop> {
        let there = self.capacity.settled();
        let excess = there.saturating_sub(self.capacity.size());
        Ok(self.permits(excess, there, Vec::new()).await?)
    }

    /// Rows whose places go to others.
    pub(crate) async fn displace(&mut self, keys: &[ObservableKey]) -> Result<u64, Stop> {
        self.departures().displace(keys).await
    }

    fn departures(&mut self) -> Departures<'_> {
        let (deadline, capacity) = (self.deadline, &mut *self.capacity);
        Departures { ledger: self.ledger, job: self.job, record: self.record, progress: self.progress, deadline, capacity }
    }

    /// Whether this run may withdraw what full runs passed by; if not, why, and how to approve it.
    async fn guard(&mut self) -> Result<bool, Stop> {
        let (rows, owners) = self.count_leaving().await?;
        let silent: Vec<String> = owners.into_iter().filter(|owner| !self.record.owners_read.contains_key(owner)).collect();
        Ok(self.permits(rows, self.record.claims_seen, silent).await?)
    }

    /// Whether so many rows of so many may go, by the limit or by an approval; if not, it is said how to approve it.
    async fn permits(&mut self, rows: u64, of: u64, silent: Vec<String>) -> Result<bool, LedgerError> {
        let limit = of * u64::from(self.job.policy.withdraw_limit) / 100;
        if (rows <= limit || rows <= ALWAYS_ALLOWED) && silent.is_empty() {
            self.permitted();
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
            self.permitted();
            return Ok(true);
        }
        let refused = RefusedWithdrawal { rows, of, owners: silent, run: self.record.run.clone() };
        self.record.refused = Some(refused.clone());
        self.state.refused = Some(refused);
        Ok(false)
    }

    /// Nothing waits for approval any more, unless this run has refused something already.
    fn permitted(&mut self) {
        if self.record.refused.is_none() {
            self.state.refused = None;
        }
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
                        leaving.push(Leaving { key, row, claims: vec![(Holder(job.to_owned(), id), refused)] });
                        continue;
                    }
                    group.push((target_key(key), None));
                    group.push((mark_key(key), None));
                }
                Some(mut row) => {
                    if row.remove_claim(job, id) {
                        group.push((mark_key(key), Some(b"{}".to_vec())));
                    }
                    self.capacity.follow(&row, key, &self.job.places);
                    group.push((target_key(key), Some(encode(&row))));
                }
            }
            packer.add(group).await?;
        }
        packer.flush().await?;
        Ok(leaving)
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
