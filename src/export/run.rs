//! The life of one run: plan, lease, record, sweep, read, end.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::capacity::Capacity;
use super::ending::Ending;
use super::flow::{Flow, Stop};
use super::hand_over::HandOver;
use super::ledger::{Ledger, LedgerError, Rows, write};
use super::outbox::Halt;
use super::passes::{self, select};
use super::preview::Silent;
use super::rank::Places;
use super::reconcile::stopped;
use super::reconcile::{Look, reconcile};
use super::record::{Phase, RunRecord, Selection, Start, plan};
use super::report::{Mode, Report};
use super::rows::{HISTORY, JobState, KNOWN, REGISTRY, RESERVE, Registered, encode, end_of, history_prefix, job_key, run_key};
use super::sweep::sweep;
use super::{Job, Progress, Request};
use crate::platform::clock::Clock;
use crate::storage::overlay::Overlay;
use crate::storage::{StateStore, Write};

/// How long what `--use-reserve` sent is left alone.
const RESERVE_LENT_FOR: Duration = Duration::from_secs(86_400);
/// What was decided when the time is over may still be sent for this part of the budget; the rest is decided anew by the
/// continuation. Far less than the fifth of the time-out that the budget leaves.
const GRACE: u32 = 10;
/// When a target or source that gave no answer is tried again, if it did not say itself.
const TRY_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// What a worker did in a run.
#[derive(Debug)]
pub(crate) struct Worked {
    pub report: Report,
    /// Why how it ended could not be saved: the rows are as a killed worker leaves them.
    pub unsaved: Option<LedgerError>,
}

/// Runs jobs over one store.
#[derive(Debug)]
pub struct Exporter {
    store: Arc<dyn StateStore>,
    clock: Arc<dyn Clock>,
    jobs: Vec<Job>,
}

impl Exporter {
    /// `jobs` in the order of `JOBS`.
    #[must_use]
    pub fn new(store: Arc<dyn StateStore>, clock: Arc<dyn Clock>, mut jobs: Vec<Job>) -> Self {
        let homes: Vec<(String, String)> =
            jobs.iter().map(|job| (job.sink.destination().fingerprint.clone(), job.name.clone())).collect();
        for job in &mut jobs {
            let home = &job.sink.destination().fingerprint;
            job.places = Places::new(homes.iter().filter(|(h, _)| h == home).map(|(_, name)| name.clone()).collect());
        }
        Self { store, clock, jobs }
    }

    #[must_use]
    pub fn jobs(&self) -> &[Job] {
        &self.jobs
    }

    /// The same jobs, sending nothing and writing to `scratch` only.
    #[must_use]
    pub fn preview(&self, scratch: Arc<dyn StateStore>) -> Self {
        let store = Arc::new(Overlay::new(Arc::clone(&self.store), scratch));
        let silent = |job: &Job| Job { sink: Arc::new(Silent::new(Arc::clone(&job.sink))), ..job.clone() };
        Self::new(store, Arc::clone(&self.clock), self.jobs.iter().map(silent).collect())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    pub(crate) fn store(&self) -> &Arc<dyn StateStore> {
        &self.store
    }

    pub(crate) fn rows(&self, job: &Job) -> Rows {
        Rows::new(Arc::clone(&self.store), &job.sink.destination().fingerprint)
    }

    /// One run of `job`, or the rest of its unfinished one. `run` and `worker` are new random names.
    pub async fn run(&self, job: &Job, request: &Request, (run, worker): (&str, &str), progress: &Progress) -> Report {
        match self.try_run(job, request, (run, worker), progress).await {
            Ok(Worked { report, .. }) => report,
            Err(error) => self.not_begun(job, run, &error.to_string()),
        }
    }

    /// As [`Exporter::run`]; a run that could not begin is an error.
    pub(crate) async fn try_run(
        &self,
        job: &Job,
        request: &Request,
        (run, worker): (&str, &str),
        progress: &Progress,
    ) -> Result<Worked, LedgerError> {
        let rows = self.rows(job);
        let began = self.clock.monotonic();
        let planned = self.prepare(&rows, job, request, run).await?;
        let shown = format!("run {} of job `{}`", planned.run, job.name);
        let mut ledger = Ledger::acquire(rows, Arc::clone(&self.clock), &planned.run, worker, &shown).await?;
        let deadline = request.budget.map(|budget| began + budget);
        // What was planned without the lease is planned again with it: the run before may have ended meanwhile.
        let mut record = self.prepare(ledger.rows(), job, request, run).await?;
        let ended: Option<RunRecord> = ledger.rows().read(&run_key(&job.name)).await?;
        if record.run != planned.run || ended.is_some_and(|ended| ended.run == run && ended.phase == Phase::Done) {
            ledger.release(Vec::new()).await?;
            return Err(LedgerError::Ended);
        }
        record.begin_worker(job, began);
        let end = self.work(&mut ledger, job, &mut record, request, deadline, progress).await;
        record.count_traffic(job);
        record.count_time(self.clock.monotonic());
        match self.close(&mut ledger, job, &mut record, end).await {
            Ok(report) => Ok(Worked { report, unsaved: None }),
            Err(error) => {
                record.error = Some(error.to_string());
                Ok(Worked { report: record.report(job, false, None), unsaved: Some(error) })
            }
        }
    }

    async fn prepare(&self, rows: &Rows, job: &Job, request: &Request, run: &str) -> Result<RunRecord, LedgerError> {
        let mut state: JobState = rows.read(&job_key(&job.name)).await?.unwrap_or_default();
        let previous: Option<RunRecord> = rows.read(&run_key(&job.name)).await?;
        Ok(match plan(previous, &mut state, job, request, run, self.clock.now()) {
            Start::Continue(record) | Start::New(record) => record,
        })
    }

    async fn work(
        &self,
        ledger: &mut Ledger,
        job: &Job,
        record: &mut RunRecord,
        request: &Request,
        deadline: Option<Duration>,
        progress: &Progress,
    ) -> Result<JobState, Stop> {
        self.register(job).await?;
        ledger.meanwhile(check_owners(job)).await??;
        let mut state: JobState = ledger.rows().read(&job_key(&job.name)).await?.unwrap_or_default();
        // Resolves the floor into the state that is saved with the record.
        drop(plan(None, &mut state, job, request, &record.run, record.started));
        record.error = None;
        record.not_before = None;
        ledger
            .commit(vec![write(run_key(&job.name), Some(encode(record))), write(job_key(&job.name), Some(encode(&state)))])
            .await?;
        clean_up(ledger, job).await?;
        let mends = record.mode == Mode::Full && record.turns == 1;
        let look = Look { reserve: self.reserve(job, record), keeps: self.reserve_is_lent(ledger, record).await?, mends };
        let mut capacity = reconcile(ledger, job, look).await?;
        record.cap = capacity.report();
        let known = ledger.rows().read::<bool>(KNOWN).await?.unwrap_or(false);
        let looks_first = !known && !ledger.meanwhile(job.sink.is_empty()).await?.map_err(stopped)?;
        // A reserve of more than there is says that nothing shall be sent: no reason to take back what is there.
        let may_displace = job.policy.withdraw && record.cap.is_some_and(|cap| cap.reserve <= cap.limit);
        let displaces = may_displace && record.mode == Mode::Incremental && state.refused.is_none();
        if record.phase == Phase::Reading && ledger.meanwhile(self.cannot_hold_all(job, record, &capacity)).await?? {
            record.begin_pass(Phase::Selecting);
            record.selection = Some(Selection::default());
        }
        let mut chosen = None;
        if record.phase == Phase::Selecting {
            chosen = Some(select(ledger, job, record, (progress, deadline), &mut capacity).await?);
        }
        let selection = record.selection.clone().unwrap_or_default();
        capacity.select_from(selection.threshold, selection.later);
        let capacity = &mut capacity;
        if record.phase == Phase::Clearing {
            let chosen = match chosen.take() {
                Some(chosen) => chosen,
                None => passes::saved(ledger, job, record, capacity.empty_selector()).await?,
            };
            Ending { ledger, job, record, state: &mut state, progress, deadline, capacity }.clear(&chosen, may_displace).await?;
        }
        if record.phase == Phase::Reading {
            if displaces && capacity.taken() > capacity.size() {
                let mut ending = Ending { ledger, job, record, state: &mut state, progress, deadline, capacity };
                if ending.may_shrink().await? {
                    let too_many = ending.capacity.too_many();
                    ending.displace(&too_many).await?;
                }
            }
            let mut flow = Flow::new(ledger, job, record, progress, deadline, capacity);
            (flow.displaces, flow.looks_first) = (displaces, looks_first);
            flow.cut_off = deadline.zip(request.budget).map(|(deadline, budget)| deadline + budget / GRACE);
            flow.read().await?;
            record.phase = Phase::Ending;
            ledger.commit(vec![write(run_key(&job.name), Some(encode(record)))]).await?;
        }
        capacity.now_is_later();
        Ending { ledger, job, record, state: &mut state, progress, deadline, capacity }.withdraw().await?;
        HandOver { ledger, jobs: &self.jobs, job, record, progress, deadline, capacity }.work_off().await?;
        let complete = record.read_is_complete();
        if complete && record.mode == Mode::Full {
            Ending { ledger, job, record, state: &mut state, progress, deadline, capacity }.bury().await?;
        }
        if complete && !known {
            ledger.commit(vec![write(KNOWN.to_owned(), Some(encode(&true)))]).await?;
        }
        record.cap = capacity.report();
        state.lowest = capacity.lowest_if_full();
        finish(record, &mut state, complete);
        Ok(state)
    }

    /// The places to leave free: what the most careful of the destination's jobs asks for.
    pub(super) fn reserve(&self, job: &Job, record: &RunRecord) -> u64 {
        if record.use_reserve {
            return 0;
        }
        let home = &job.sink.destination().fingerprint;
        let all = self.jobs().iter().filter(|other| other.sink.destination().fingerprint == *home);
        all.map(|other| other.policy.reserve).max().unwrap_or(0)
    }

    /// What was put into the reserve on demand stays for a day, though no more comes.
    async fn reserve_is_lent(&self, ledger: &mut Ledger, record: &RunRecord) -> Result<bool, LedgerError> {
        let now = self.now();
        if record.use_reserve {
            let until = now.checked_add(RESERVE_LENT_FOR).unwrap_or(now);
            ledger.commit(vec![write(RESERVE.to_owned(), Some(encode(&until)))]).await?;
        }
        Ok(ledger.rows().read::<Timestamp>(RESERVE).await?.is_some_and(|until| now < until))
    }

    /// A full run that has not begun yet, of more than there may be places for.
    async fn cannot_hold_all(&self, job: &Job, record: &mut RunRecord, capacity: &Capacity) -> Result<bool, Stop> {
        let begins = record.mode == Mode::Full && record.selection.is_none() && record.cursor == 0;
        if !begins || !capacity.is_limited() {
            return Ok(false);
        }
        let (count, server_time) = job.client.count(&job.filter, record.since).await.map_err(Stop::Source)?;
        record.server_time = record.server_time.or(server_time);
        let objects = count.unwrap_or(u64::MAX).saturating_mul(job.sink.limits().per_indicator);
        Ok(objects.saturating_add(capacity.taken()) > capacity.size())
    }

    /// Saves how the run ended, and frees the destination (or keeps it for the continuation).
    async fn close(
        &self,
        ledger: &mut Ledger,
        job: &Job,
        record: &mut RunRecord,
        end: Result<JobState, Stop>,
    ) -> Result<Report, LedgerError> {
        let mut writes = Vec::new();
        let now = self.clock.now();
        let paused = matches!(end, Err(Stop::Budget));
        let again = |wait: Option<Duration>| now.checked_add(wait.unwrap_or(TRY_AGAIN_AFTER)).ok();
        match end {
            Ok(mut state) => {
                if record.error.is_none() {
                    state.completed = Some(now);
                }
                writes.push(write(job_key(&job.name), Some(encode(&state))));
            }
            Err(Stop::Budget) => record.not_before = Some(now),
            Err(Stop::Ledger(error)) => return Err(error),
            Err(Stop::Source(error)) => {
                record.not_before = if error.transient { again(error.retry_after) } else { None };
                record.error = Some(error.message);
            }
            Err(Stop::Target(Halt::Outage(error))) => {
                record.not_before = again(error.retry_after);
                record.error = Some(format!("{}; what was not answered is sent again by the next run", error.message));
            }
            Err(Stop::Target(Halt::Systemic(error))) => record.error = Some(error.message),
            Err(Stop::RefusedAlike { count, reason }) => {
                record.error =
                    Some(format!("the target refused all {count} items alike, so nothing was marked as rejected: {reason}"));
            }
        }
        let complete = record.phase == Phase::Done && record.error.is_none();
        let known: Option<JobState> = ledger.rows().read(&job_key(&job.name)).await?;
        let watermark =
            if complete { record.server_time.or(Some(record.started)) } else { known.and_then(|state| state.watermark) };
        let report = record.report(job, complete, watermark);
        writes.push(write(run_key(&job.name), Some(encode(record))));
        if paused {
            ledger.pause(writes).await?;
        } else {
            let key = format!("{}{}", history_prefix(&job.name), record.started.strftime("%Y%m%dT%H%M%S%3f"));
            writes.push(Write::Put { key, value: encode(&report) });
            writes.extend(self.forget_old_reports(ledger, job).await?);
            ledger.release(writes).await?;
        }
        Ok(report)
    }

    async fn forget_old_reports(&self, ledger: &Ledger, job: &Job) -> Result<Vec<Write>, LedgerError> {
        let from = history_prefix(&job.name);
        let kept: Vec<(String, serde_json::Value)> = ledger.rows().scan(&from, &end_of(&from), HISTORY + 20).await?;
        let old = kept.len().saturating_sub(HISTORY - 1);
        Ok(kept.into_iter().take(old).map(|(key, _)| Write::Delete { key }).collect())
    }

    async fn register(&self, job: &Job) -> Result<(), LedgerError> {
        let destination = job.sink.destination();
        let registry = Rows::new(Arc::clone(&self.store), REGISTRY);
        let key = format!("{}.{}", destination.fingerprint, job.name);
        let entry = Registered {
            job: job.name.clone(),
            destination: destination.fingerprint.clone(),
            product: destination.product.to_owned(),
            shown: destination.shown.clone(),
        };
        match registry.read_versioned::<Registered>(&key).await? {
            Some((known, _)) if known == entry => {}
            known => {
                registry.write_one(&key, &entry, known.map(|(_, version)| version)).await?;
            }
        }
        Ok(())
    }

    fn not_begun(&self, job: &Job, run: &str, error: &str) -> Report {
        let mut state = JobState::default();
        let now: Timestamp = self.clock.now();
        let (Start::Continue(mut record) | Start::New(mut record)) = plan(None, &mut state, job, &Request::default(), run, now);
        record.error = Some(error.to_owned());
        record.report(job, false, None)
    }
}

/// What an earlier run left.
async fn clean_up(ledger: &mut Ledger, job: &Job) -> Result<(), LedgerError> {
    let items = sweep(ledger, &job.places).await?;
    if items > 0 {
        let job = &job.name;
        tracing::warn!(job, items, "an earlier run left items without an answer; they are sent again or withdrawn");
    }
    Ok(())
}

/// What the next run knows of this one.
fn finish(record: &mut RunRecord, state: &mut JobState, complete: bool) {
    record.error = record.shortfall();
    record.phase = Phase::Done;
    if record.refused.is_some() {
        state.refused.clone_from(&record.refused); // whichever worker of the run it was
    }
    if complete {
        state.watermark = Some(record.server_time.unwrap_or(record.started));
        state.fingerprint = Some(record.fingerprint.clone());
    }
    if record.mode == Mode::Full {
        if complete {
            state.full_started = Some(record.started);
            state.full_failed = None;
        } else {
            state.full_failed = Some(record.started);
        }
    }
}

/// Each configured owner must be one that the API user sees: a wrong name would silently return nothing.
async fn check_owners(job: &Job) -> Result<(), Stop> {
    if job.filter.owners.is_empty() || job.filter.tql.is_some() {
        return Ok(());
    }
    let visible = job.client.owners().await.map_err(Stop::Source)?;
    let unknown: Vec<&String> =
        job.filter.owners.iter().filter(|name| !visible.iter().any(|owner| owner.name == **name && owner.readable)).collect();
    let Some(first) = unknown.first() else { return Ok(()) };
    let mut near: Vec<&str> = visible.iter().filter(|owner| owner.readable).map(|owner| owner.name.as_str()).collect();
    near.sort_by(|a, b| strsim::jaro_winkler(b, first).total_cmp(&strsim::jaro_winkler(a, first)));
    near.truncate(5);
    let message = format!(
        "OWNERS (guide: Owners) of job `{}` names {}, which the API user does not see; it sees: {}",
        job.name,
        unknown.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "),
        if near.is_empty() { "no owner at all".to_owned() } else { near.join(", ") },
    );
    Err(Stop::Source(crate::threatconnect::Error { message, transient: false, retry_after: None }))
}
