//! Hand-overs: rows whose winner must be chosen anew. The best claim is read again by id and judged by its own job.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::capacity::{Admission, Capacity};
use super::decide::{Change, Rules, Sighting, Verdict};
use super::departures::unhold;
use super::flow::{Stop, stamp};
use super::ledger::{Ledger, LedgerError, Packer};
use super::outbox::{Load, Outbox, Parcel};
use super::rank::{Standing, rank};
use super::reader::sightings;
use super::record::RunRecord;
use super::rows::{
    Claim, Holder, IntentItem, JobState, TargetRow, claim_key, encode, job_key, mark_key, parse_last_key, run_key, target_key,
};
use super::settle::{accepted, row_claim};
use super::{Job, Progress};
use crate::indicator::ObservableKey;
use crate::sinks::{Answer, Upload};
use crate::threatconnect::Item;

/// Marks worked off together.
const AT_ONCE: usize = 100;

/// The marks of one destination, worked off at the end of a run.
pub(crate) struct HandOver<'a> {
    pub ledger: &'a mut Ledger,
    /// All jobs of the destination.
    pub jobs: &'a [Job],
    /// The job whose run this is: its sink sends.
    pub job: &'a Job,
    pub record: &'a mut RunRecord,
    pub progress: &'a Progress,
    /// Monotonic time at which the budget is over.
    pub deadline: Option<Duration>,
    pub capacity: &'a mut Capacity,
}

/// One mark.
struct Case {
    key: ObservableKey,
    row: TargetRow,
    /// Claims that do not qualify now.
    out: HashSet<Holder>,
    /// The claim that shall win: its job's place among [`HandOver::jobs`], and what that job makes of it today.
    chosen: Option<(usize, Sighting)>,
    settled: bool,
    /// Weights were corrected.
    touched: bool,
}

impl HandOver<'_> {
    /// Works off all marks; what is unanswered keeps its mark.
    pub(crate) async fn work_off(&mut self) -> Result<(), Stop> {
        let mut from = "h.".to_owned();
        loop {
            let marks: Vec<(String, serde_json::Value)> = self.ledger.rows().scan(&from, "h/", AT_ONCE).await?;
            let Some((last, _)) = marks.last() else { return Ok(()) };
            if self.progress.is_stopped() || self.deadline.is_some_and(|end| self.ledger.clock().monotonic() >= end) {
                return Err(Stop::Budget);
            }
            from = format!("{last}!");
            let keys: Vec<ObservableKey> = marks.iter().filter_map(|(key, _)| parse_last_key(key)).collect();
            let rows: Vec<Option<TargetRow>> =
                self.ledger.rows().read_many(keys.iter().map(|key| target_key(*key)).collect()).await?;
            let mut cases = Vec::new();
            let mut packer = Packer::new(self.ledger);
            for (key, row) in keys.into_iter().zip(rows) {
                match row.filter(|row| !row.claims.is_empty()) {
                    Some(row) => cases.push(Case { key, row, out: HashSet::new(), chosen: None, settled: false, touched: false }),
                    None => packer.add(vec![(mark_key(key), None)]).await?,
                }
            }
            packer.flush().await?;
            while cases.iter().any(|case| !case.settled) {
                self.choose(&mut cases).await?;
                self.send(&mut cases).await?;
                self.ledger.renew().await?;
            }
        }
    }

    /// Reads the best claim of each open case and judges it; what qualifies is chosen, what does not is out.
    async fn choose(&mut self, cases: &mut [Case]) -> Result<(), Stop> {
        let mut wanted: BTreeMap<usize, Vec<(usize, u64)>> = BTreeMap::new();
        for (i, case) in cases.iter_mut().enumerate().filter(|(_, case)| !case.settled && case.chosen.is_none()) {
            let places = &self.job.places;
            let incumbent = case.row.winner.clone();
            let open = case.row.claims.iter().filter(|claim| {
                !claim.refused && !case.out.contains(&Holder(claim.job.clone(), claim.id)) && places.of(&claim.job).is_some()
            });
            let best = open.max_by_key(|claim| rank(claim, incumbent.as_ref(), places)).cloned();
            let Some(best) = best else {
                self.leave_as_it_is(case).await?;
                continue;
            };
            match self.jobs.iter().position(|job| job.name == best.job) {
                Some(job) => wanted.entry(job).or_default().push((i, best.id)),
                None => drop(case.out.insert(Holder(best.job, best.id))),
            }
        }
        for (place, cases_of_job) in wanted {
            let job = &self.jobs[place];
            let since = self.floor_of(job).await?;
            let mut ids: Vec<u64> = cases_of_job.iter().map(|(_, id)| *id).collect();
            ids.sort_unstable();
            ids.dedup();
            let items = self.ledger.meanwhile(job.client.by_ids(&job.filter, since, &ids)).await?.map_err(Stop::Source)?;
            let items: HashMap<u64, Item> = items.into_iter().map(|item| (item.id(), item)).collect();
            for (i, id) in cases_of_job {
                let found = self.judge(job, items.get(&id), cases[i].key);
                self.weigh(place, &mut cases[i], id, found).await?;
            }
        }
        Ok(())
    }

    /// How far back a full run of the job reads.
    async fn floor_of(&self, job: &Job) -> Result<Option<jiff::Timestamp>, LedgerError> {
        if !job.policy.incremental {
            return Ok(None);
        }
        Ok(self.ledger.rows().read::<JobState>(&job_key(&job.name)).await?.and_then(|state| state.floor))
    }

    /// What the job makes of the indicator today, for this observable.
    fn judge(&self, job: &Job, item: Option<&Item>, key: ObservableKey) -> Option<Sighting> {
        let Some(Item::Indicator(indicator)) = item else { return None };
        let mut all = Vec::new();
        sightings(indicator, job.sink.as_ref(), &job.terms, self.ledger.clock().now(), &mut all);
        all.into_iter().find(|s| s.made.is_ok() && s.observable.as_ref().is_some_and(|(_, found)| *found == key))
    }

    async fn weigh(&mut self, place: usize, case: &mut Case, id: u64, found: Option<Sighting>) -> Result<(), Stop> {
        let job = &self.jobs[place];
        let Some(mut sighting) = found else {
            case.out.insert(Holder(job.name.clone(), id));
            return Ok(());
        };
        let Some(claim) = case.row.claims.iter_mut().find(|claim| claim.id == id && claim.job == job.name) else { return Ok(()) };
        let fell = sighting.weight < claim.weight;
        if claim.weight != sighting.weight {
            claim.weight = sighting.weight;
            case.touched = true;
        }
        if fell {
            return Ok(()); // the next round looks who ranks first now
        }
        let Ok(draft) = &sighting.made else { return Ok(()) };
        let same = case.row.hash == Some(draft.hash) && case.row.is_held_by(&job.name, id);
        if same && self.rules(job).lives(case.row.expires, draft.expiration_days) {
            return self.leave_as_it_is(case).await.map_err(Stop::from);
        }
        sighting.claim = self.ledger.rows().read(&claim_key(&job.name, id, case.key)).await?;
        sighting.verdict = Verdict::Send(Change::Changed);
        case.chosen = Some((place, sighting));
        Ok(())
    }

    /// No claim qualifies, or the right one is there already: the mark goes, the target stays.
    async fn leave_as_it_is(&mut self, case: &mut Case) -> Result<(), LedgerError> {
        let mut packer = Packer::new(self.ledger);
        let mut group = vec![(mark_key(case.key), None)];
        if case.touched {
            group.push((target_key(case.key), Some(encode(&case.row))));
            for claim in &case.row.claims {
                let key = claim_key(&claim.job, claim.id, case.key);
                if let Some(stored) = packer.read::<Claim>(&key).await?
                    && stored.weight != claim.weight
                {
                    group.push((key, Some(encode(&Claim { weight: claim.weight, ..stored }))));
                }
            }
        }
        packer.add(group).await?;
        packer.flush().await?;
        case.settled = true;
        Ok(())
    }

    /// Sends what was chosen; these sends are not outcomes.
    async fn send(&mut self, cases: &mut [Case]) -> Result<(), Stop> {
        let mut outbox = Outbox::new(Arc::clone(&self.job.sink), &format!("{}-h", self.record.run));
        let mut parcels: Vec<Parcel> = Vec::new();
        let mut without_place = Vec::new();
        let now = self.ledger.clock().now();
        for (token, case) in cases.iter_mut().enumerate() {
            if !self.has_place(case) {
                case.chosen = None;
                without_place.push(token);
            }
            let Some((place, sighting)) = case.chosen.as_mut() else { continue };
            let (Some((observable, key)), Ok(draft)) = (&sighting.observable, &sighting.made) else { continue };
            let stamp = stamp(now, draft.created, draft.expiration_days, Some(&case.row));
            sighting.stamp = Some(stamp);
            let job = &self.jobs[*place].name;
            let beside = case.row.is_replaced_by(Some(draft.identity));
            let intent = IntentItem { beside, ..IntentItem::sent(job, sighting.id, &sighting.owner, (observable, *key), draft) };
            let upload = Upload {
                observable: observable.clone(),
                external_id: draft.external_id.clone(),
                payload: self.job.sink.payload(draft, stamp),
                there: case.row.there(Some(draft.identity)),
            };
            parcels.push(Parcel { token, load: Load::Upload(upload), intent, modified: stamp.modified });
        }
        for token in without_place {
            self.wait_for_place(&mut cases[token]).await?;
        }
        let mut open = parcels.len();
        while open > 0 {
            while outbox.has_room() && !parcels.is_empty() {
                let batch = parcels.drain(..self.job.sink.limits().batch.min(parcels.len())).collect();
                outbox.dispatch(self.ledger, batch).await?;
            }
            let renewal = self.ledger.clock().alarm(self.ledger.renewal_due_in());
            tokio::select! {
                answers = outbox.answers() => {
                    let answers = answers.map_err(Stop::Target)?;
                    open -= answers.len();
                    self.commit(&mut outbox, cases, answers).await?;
                }
                () = renewal => self.ledger.renew().await?,
            }
        }
        Ok(())
    }

    /// What is there keeps its mark: a place beside it may be free in the next run. What is not there competes again when a claim
    /// of it is read.
    async fn wait_for_place(&mut self, case: &mut Case) -> Result<(), LedgerError> {
        if self.capacity.holds(case.key) {
            case.settled = true;
            return Ok(());
        }
        self.leave_as_it_is(case).await
    }

    /// Whether what was chosen can be sent at a target that cannot hold all; a place is taken for it.
    fn has_place(&mut self, case: &Case) -> bool {
        let Some((place, sighting)) = &case.chosen else { return true };
        let Ok(draft) = &sighting.made else { return true };
        if self.capacity.is_closed() || self.capacity.is_foreign(case.key, draft.identity) {
            return false;
        }
        if self.capacity.holds(case.key) {
            return !case.row.is_replaced_by(Some(draft.identity)) || self.capacity.double(case.key);
        }
        let claim = row_claim(sighting, false, &self.jobs[*place].name);
        let standing = Standing::of(case.key, &claim, false, &self.job.places);
        let free = self.capacity.admit(standing, draft.identity, |_| true) == Admission::Free;
        if free {
            self.capacity.expect(standing, draft.identity);
        }
        free
    }

    async fn commit(&mut self, outbox: &mut Outbox, cases: &mut [Case], answers: Vec<(usize, Answer)>) -> Result<(), Stop> {
        for (token, answer) in answers {
            let case = &mut cases[token];
            let Some((place, sighting)) = case.chosen.take() else { continue };
            let job = &self.jobs[place];
            self.capacity.answered(case.key, &answer);
            let mut group = match answer {
                Answer::Accepted { remote_id } => {
                    case.settled = true;
                    self.record.tally.changes.handed_over += 1;
                    let mut group = self.won(job, case, &sighting, remote_id).await?;
                    group.push((mark_key(case.key), None));
                    group
                }
                Answer::Refused { reason, .. } => {
                    self.record.tally.explain("hand_over_refused", sighting.kind.report_name(), &reason, &case.row.value, 1);
                    case.out.insert(Holder(job.name.clone(), sighting.id));
                    Vec::new()
                }
                Answer::Full { reason } => {
                    // The mark stays: a place may be free in the next run.
                    case.settled = true;
                    self.record.tally.explain("over_cap", sighting.kind.report_name(), &reason, &case.row.value, 1);
                    Vec::new()
                }
                Answer::Unanswered { .. } => {
                    case.settled = true;
                    self.record.unanswered_at_end += 1;
                    let Ok(draft) = &sighting.made else { continue };
                    let beside = case.row.is_replaced_by(Some(draft.identity));
                    self.lost(case, &draft.external_id, beside).await?
                }
            };
            group.extend(outbox.close(token).map(|intent| (intent, None)));
            group.push((run_key(&self.record.job), Some(encode(self.record))));
            let mut packer = Packer::new(self.ledger);
            packer.add(group).await?;
            packer.flush().await?;
        }
        Ok(())
    }

    async fn won(
        &mut self,
        job: &Job,
        case: &mut Case,
        sighting: &Sighting,
        remote_id: Option<String>,
    ) -> Result<super::ledger::Group, Stop> {
        let (Some((observable, _)), Ok(draft), Some(stamp)) = (&sighting.observable, &sighting.made, sighting.stamp) else {
            return Ok(Vec::new());
        };
        let mut row = Some(case.row.clone());
        let rules = self.rules(job);
        let settled = accepted(sighting, observable, case.key, draft, stamp, remote_id, &mut row, &rules);
        let mut group = settled.group;
        if let Some(holder) = settled.dethroned {
            let key = claim_key(&holder.0, holder.1, case.key);
            if let Some(loser) = self.ledger.rows().read::<Claim>(&key).await? {
                group.push((key, Some(encode(&Claim { hash: None, won: false, ..loser }))));
            }
        }
        Ok(group)
    }

    /// It is unknown what is at the target now: the row forgets, its mark stays.
    async fn lost(&mut self, case: &mut Case, external_id: &str, beside: bool) -> Result<super::ledger::Group, Stop> {
        let mut group = unhold(&Packer::new(self.ledger), &case.row, case.key).await?;
        case.row.forget();
        case.row.may_be_there_as(external_id, beside);
        group.push((target_key(case.key), Some(encode(&case.row))));
        Ok(group)
    }

    fn rules<'r>(&'r self, job: &'r Job) -> Rules<'r> {
        Rules {
            job: &job.name,
            run: &self.record.run,
            action: job.terms.action.name(),
            incremental: true,
            now: self.ledger.clock().now(),
            places: &self.job.places,
            interval: job.interval,
            resend: false,
            retry_rejected: false,
        }
    }
}
