//! The frozen record of a run: what it set out to do, how far it is, what it counted. A continuation goes on from it.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::capacity::Cap;
use super::rank::Standing;
use super::report::{Mode, Report, Requests, Tally};
use super::rows::{Approval, JobState, RefusedWithdrawal};
use super::{Job, Request};

/// Incremental runs read this much again before the watermark: clocks and late writes.
const OVERLAP_MINUTES: i64 = 15;
/// A full run that ended incomplete is tried again at most this often.
const FULL_AGAIN_AFTER: Duration = Duration::from_secs(3_600);
/// An approval that was not used by then is void.
const APPROVAL_LASTS_DAYS: i64 = 7;

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// At a target that cannot hold all: a first pass over everything, which only ranks.
    Selecting,
    /// What is gone or fell below the threshold leaves, before what takes its place is sent.
    Clearing,
    /// The pass that sends.
    Reading,
    /// The empty page was read: withdrawals and hand-overs.
    Ending,
    Done,
}

/// The latest run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "independent wishes of the caller, kept for continuations")]
pub(crate) struct RunRecord {
    pub run: String,
    pub job: String,
    pub phase: Phase,
    pub mode: Mode,
    pub since: Option<Timestamp>,
    /// Workers that were at it.
    #[serde(default)]
    pub turns: u32,
    /// Our clock.
    pub started: Timestamp,
    /// The `Date` of the first page: the watermark, once the run is complete.
    pub server_time: Option<Timestamp>,
    /// For users: the query without its place.
    pub tql: String,
    pub fingerprint: String,
    /// Source id of the last committed page.
    pub cursor: u64,
    /// Rows that the query matched at the first page.
    pub count: Option<u64>,
    pub tally: Tally,
    /// Indicators read, per owner.
    pub owners_read: BTreeMap<String, u64>,
    /// Claims that the pages of a full run met: what the withdrawal limit is a part of.
    pub claims_seen: u64,
    pub without_id: u64,
    /// What the first pass found, where there is one.
    #[serde(default)]
    pub selection: Option<Selection>,
    /// The places, at a target that holds only so many.
    #[serde(default)]
    pub cap: Option<Cap>,
    /// The reserve may be filled.
    #[serde(default)]
    pub use_reserve: bool,
    /// Withdrawals and hand-overs without an answer.
    pub unanswered_at_end: u64,
    pub resend: bool,
    pub retry_rejected: bool,
    /// Saved with its use, so that a crash does not cost it.
    pub approval: Option<Approval>,
    pub refused: Option<RefusedWithdrawal>,
    pub not_before: Option<Timestamp>,
    pub error: Option<String>,
    /// A worker of this process saw something accepted.
    #[serde(skip)]
    pub accepted_by_worker: bool,
    /// Requests and time of the workers before this one.
    #[serde(skip)]
    pub before: (Requests, u64),
    /// Monotonic start of this worker.
    #[serde(skip)]
    pub worker_began: Duration,
}

/// The end of a first pass.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Selection {
    /// Indicators read so far.
    pub read: u64,
    /// Objects that will be replaced by others.
    pub replaces: u64,
    /// Who ranks lower has no place while objects are replaced; none if all have one.
    pub threshold: Option<Standing>,
    /// Who ranks lower has no place at all.
    pub later: Option<Standing>,
}

/// How a run begins.
#[derive(Debug)]
pub(crate) enum Start {
    Continue(RunRecord),
    New(RunRecord),
}

/// Chooses between the unfinished run and a new one, full or incremental. Pure, but for the floor that it resolves into `state`.
pub(crate) fn plan(
    previous: Option<RunRecord>,
    state: &mut JobState,
    job: &Job,
    request: &Request,
    run: &str,
    now: Timestamp,
) -> Start {
    if let Some(unfinished) = previous.filter(|record| record.phase != Phase::Done) {
        let same = unfinished.fingerprint == job.fingerprint;
        let wanted = !request.full
            && !request.retry_rejected
            && (!request.resend || unfinished.resend)
            && (!request.use_reserve || unfinished.use_reserve);
        if same && wanted {
            return Start::Continue(unfinished);
        }
    }
    let text = job.policy.last_run.as_ref().map(|last_run| last_run.text().to_owned());
    let floor_moved = job.policy.incremental && state.last_run_text != text;
    if floor_moved {
        state.floor = job.policy.last_run.as_ref().map(|last_run| last_run.resolve(now));
        state.last_run_text = text;
    }
    let settings_changed = state.fingerprint.as_ref() != Some(&job.fingerprint);
    let full = request.full || !job.policy.incremental || floor_moved || settings_changed || full_is_due(state, job, now);
    let watermark = state.watermark.filter(|_| !full);
    let (mode, since) = match watermark {
        Some(watermark) => (Mode::Incremental, watermark.checked_sub(OVERLAP_MINUTES.minutes()).ok()),
        None => (Mode::Full, state.floor.filter(|_| job.policy.incremental)),
    };
    Start::New(RunRecord {
        run: run.to_owned(),
        job: job.name.clone(),
        phase: Phase::Reading,
        mode,
        since,
        turns: 0,
        started: now,
        server_time: None,
        tql: job.filter.tql(since),
        fingerprint: job.fingerprint.clone(),
        cursor: 0,
        count: None,
        tally: Tally::default(),
        owners_read: BTreeMap::new(),
        claims_seen: 0,
        without_id: 0,
        selection: None,
        cap: None,
        use_reserve: request.use_reserve,
        unanswered_at_end: 0,
        resend: request.resend || job.policy.resends(),
        retry_rejected: request.retry_rejected,
        approval: None,
        refused: None,
        not_before: None,
        error: None,
        accepted_by_worker: false,
        before: (Requests::default(), 0),
        worker_began: Duration::ZERO,
    })
}

fn full_is_due(state: &JobState, job: &Job, now: Timestamp) -> bool {
    if let Some(failed) = state.full_failed {
        return now.duration_since(failed).unsigned_abs() >= FULL_AGAIN_AFTER || state.full_started.is_none();
    }
    state.full_started.is_none_or(|started| now.duration_since(started).unsigned_abs() >= job.policy.full_run_every)
}

impl Approval {
    /// It has not lapsed.
    pub(crate) fn stands(&self, now: Timestamp) -> bool {
        self.at.checked_add((APPROVAL_LASTS_DAYS * 24).hours()).is_ok_and(|end| now < end)
    }
}

impl RunRecord {
    /// This worker begins: what came before is kept apart from what its clients count.
    pub(crate) fn begin_worker(&mut self, job: &Job, monotonic: Duration) {
        self.turns += 1;
        let now = traffic(job);
        let so_far = self.tally.requests;
        self.before = (
            Requests {
                source: so_far.source.wrapping_sub(now.source),
                sink: so_far.sink.wrapping_sub(now.sink),
                retried: so_far.retried.wrapping_sub(now.retried),
                throttled: so_far.throttled.wrapping_sub(now.throttled),
            },
            self.tally.duration_ms,
        );
        self.worker_began = monotonic;
    }

    /// Brings the request counters up to date.
    pub(crate) fn count_traffic(&mut self, job: &Job) {
        let (now, before) = (traffic(job), self.before.0);
        self.tally.requests = Requests {
            source: before.source.wrapping_add(now.source),
            sink: before.sink.wrapping_add(now.sink),
            retried: before.retried.wrapping_add(now.retried),
            throttled: before.throttled.wrapping_add(now.throttled),
        };
    }

    pub(crate) fn count_time(&mut self, monotonic: Duration) {
        let worked = monotonic.saturating_sub(self.worker_began).as_millis();
        self.tally.duration_ms = self.before.1 + u64::try_from(worked).unwrap_or(u64::MAX);
    }

    /// The empty page was read, nothing is unanswered, and (in a full run) about as many rows came as were announced.
    pub(crate) fn read_is_complete(&self) -> bool {
        let answered = self.tally.outcomes.unanswered == 0 && self.unanswered_at_end == 0;
        let announced = self.count.unwrap_or(0);
        let slack = (announced / 100).max(10);
        let first_pass = self.selection.as_ref().filter(|_| self.phase == Phase::Clearing);
        let read = first_pass.map_or(self.tally.read.indicators, |selection| selection.read);
        let whole = self.mode == Mode::Incremental || read + slack >= announced;
        answered && whole && self.without_id == 0
    }

    /// Reads everything again, from the first id on; what the pass before met is counted anew.
    pub(crate) fn begin_pass(&mut self, phase: Phase) {
        self.phase = phase;
        self.cursor = 0;
        self.count = None;
        self.owners_read.clear();
        self.claims_seen = 0;
        self.without_id = 0;
    }

    /// Why a run that was read to its end is not complete.
    pub(crate) fn shortfall(&self) -> Option<String> {
        let (read, announced) = (self.tally.read.indicators, self.count.unwrap_or(0));
        if self.without_id > 0 {
            Some(format!("{} indicators came without a readable id; nothing was withdrawn", self.without_id))
        } else if self.tally.outcomes.unanswered + self.unanswered_at_end > 0 {
            let count = self.tally.outcomes.unanswered + self.unanswered_at_end;
            Some(format!("{count} items got no answer from the target; they are sent again by the next run"))
        } else if !self.read_is_complete() {
            Some(format!(
                "ThreatConnect announced {announced} indicators and returned {read}; nothing was withdrawn, the next run reads all again"
            ))
        } else {
            None
        }
    }

    pub(crate) fn report(&self, job: &Job, complete: bool, watermark: Option<Timestamp>) -> Report {
        Report {
            job: self.job.clone(),
            target_product: job.target_product.to_owned(),
            delivery: job.delivery.to_owned(),
            mode: self.mode,
            complete,
            dry_run: false,
            since: self.since,
            watermark,
            read: self.tally.read,
            outcomes: self.tally.outcomes,
            withdrawn: self.tally.withdrawn,
            by_type: self.tally.by_type.clone(),
            reasons: self.tally.reasons.clone(),
            changes: self.tally.changes,
            requests: self.tally.requests,
            duration_ms: self.tally.duration_ms,
            refused_withdrawal: self.refused.clone(),
            cap: self.cap,
            error: self.error.clone(),
            run: self.run.clone(),
            started: self.started,
            not_before: self.not_before,
        }
    }
}

fn traffic(job: &Job) -> Requests {
    let (source, sink) = (job.client.traffic(), job.sink.traffic());
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    Requests {
        source: load(&source.requests),
        sink: load(&sink.requests),
        retried: load(&source.retried) + load(&sink.retried),
        throttled: load(&source.throttled) + load(&sink.throttled),
    }
}
