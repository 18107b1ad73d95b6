//! The export flow: keeps a destination equal to its jobs' sources.
//!
//! `run` is the life of one run: lease, record, sweep, read (`flow`), end (`ending`). Decisions (`decide`, `rank`) and
//! what they write (`settle`) are pure; `ledger` and `rows` are what is stored.

mod capacity;
mod decide;
mod departures;
mod ending;
mod explain;
mod flow;
mod hand_over;
mod history;
mod journal;
mod last_run;
mod ledger;
mod outbox;
mod passes;
mod preview;
mod rank;
mod reader;
mod reconcile;
mod record;
mod report;
mod retire;
mod rows;
mod run;
mod schedule;
mod settle;
mod stored;
mod sweep;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

pub use capacity::Cap;
pub use explain::{ExplainError, ExplainedIndicator, ExplainedTarget, Explanation};
pub use history::ApproveError;
pub use journal::Journal;
pub use last_run::LastRun;
pub use ledger::LedgerError;
pub use report::{Changes, Mode, Outcome, Outcomes, Read, Reason, Report, Requests, Tally};
pub use retire::{RetireError, Retired};
pub use rows::{RefusedWithdrawal, Registered, Rejection};
pub use run::Exporter;
pub use schedule::{Handled, Message, QUEUE, ScheduleError};

use crate::platform::schedule::Schedule;
use crate::sinks::{Sink, Terms};
use crate::threatconnect::{Client, Filter};
use flow::Stop;
use rank::{Places, Rank};

/// How a job runs.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The guide's "Only Send Indicators Modified Since Last Run".
    pub incremental: bool,
    /// The guide's "Last Run"; none when `incremental` is off.
    pub last_run: Option<LastRun>,
    pub schedule: Schedule,
    /// From start to start, while `incremental` is on.
    pub full_run_every: Duration,
    pub resend: Resend,
    pub withdraw: bool,
    /// Percent of the rows that one run may withdraw.
    pub withdraw_limit: u8,
    /// The guide's "Indicator Reserve Count": places of the target to leave free.
    pub reserve: u64,
}

impl Policy {
    /// The longest time between two full runs.
    #[must_use]
    pub fn interval(&self) -> Duration {
        if self.incremental { self.full_run_every } else { self.schedule.longest_gap() }
    }

    fn resends(&self) -> bool {
        self.resend == Resend::Always
    }
}

/// What is sent on each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// What is new, changed or close to its expiry.
    Changed,
    /// Everything: the guide's behaviour.
    Always,
}

/// A job with its wired parts.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    /// The guide's words: `Microsoft Sentinel`.
    pub target_product: &'static str,
    /// `product` or `graph`.
    pub delivery: &'static str,
    pub client: Client,
    pub filter: Filter,
    pub terms: Arc<Terms>,
    pub sink: Arc<dyn Sink>,
    pub policy: Policy,
    /// Of the settings that decide what is sent.
    pub fingerprint: String,
    /// Between two full runs: [`Policy::interval`], which takes a while to find.
    interval: Duration,
    /// The longest time between two occurrences of the schedule, which takes a while to find too.
    gap: Duration,
    /// The jobs of the same destination; [`Exporter::new`] fills it.
    places: Places,
}

impl Job {
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the parts of a job, each of another type, put together once")]
    pub fn new(
        name: &str,
        (target_product, delivery): (&'static str, &'static str),
        client: Client,
        filter: Filter,
        terms: Terms,
        sink: Arc<dyn Sink>,
        policy: Policy,
        fingerprint: &str,
    ) -> Self {
        Self {
            name: name.to_owned(),
            target_product,
            delivery,
            client,
            filter,
            terms: Arc::new(terms),
            sink,
            interval: policy.interval(),
            gap: policy.schedule.longest_gap(),
            policy,
            fingerprint: fingerprint.to_owned(),
            places: Places::default(),
        }
    }

    pub(crate) fn gap(&self) -> Duration {
        self.gap
    }
}

/// What the caller wants of one run.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent wishes of the caller")]
pub struct Request {
    /// Read everything, whatever is due.
    pub full: bool,
    /// Send even what is unchanged.
    pub resend: bool,
    /// Try again what the target refused.
    pub retry_rejected: bool,
    /// Fill the guide's "Indicator Reserve Count" too.
    pub use_reserve: bool,
    /// End after this time, and say that a continuation is wanted.
    pub budget: Option<Duration>,
}

/// How far a run is; read by a progress bar while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    expected: AtomicU64,
    read: AtomicU64,
    settled: AtomicU64,
    accepted: AtomicU64,
    withdrawn: AtomicU64,
    journal: Option<Journal>,
    stop: AtomicBool,
}

/// One look at a [`Progress`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgressNow {
    /// Indicators that the source announced.
    pub expected: u64,
    /// Indicators read.
    pub read: u64,
    /// Indicators whose sightings are all answered and committed.
    pub settled: u64,
    pub accepted: u64,
    pub withdrawn: u64,
}

impl Progress {
    /// Writes lists and payloads as well.
    #[must_use]
    pub fn with_journal(journal: Journal) -> Self {
        Self { journal: Some(journal), ..Self::default() }
    }

    /// Asks the run to save its place and end; the next one goes on from there.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Somebody asked.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The journal back, to be finished.
    #[must_use]
    pub fn into_journal(self) -> Option<Journal> {
        self.journal
    }

    fn journal(&self) -> Option<&Journal> {
        self.journal.as_ref()
    }

    #[must_use]
    pub fn now(&self) -> ProgressNow {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ProgressNow {
            expected: load(&self.expected),
            read: load(&self.read),
            settled: load(&self.settled),
            accepted: load(&self.accepted),
            withdrawn: load(&self.withdrawn),
        }
    }

    fn expect(&self, indicators: u64) {
        self.expected.store(indicators, Ordering::Relaxed);
    }

    fn read(&self, indicators: u64) {
        self.read.fetch_add(indicators, Ordering::Relaxed);
    }

    fn answered(&self, page: &Tally) {
        self.settled.fetch_add(page.read.indicators, Ordering::Relaxed);
        self.accepted.fetch_add(page.outcomes.accepted, Ordering::Relaxed);
    }

    fn withdrew(&self, rows: u64) {
        self.withdrawn.fetch_add(rows, Ordering::Relaxed);
    }
}
