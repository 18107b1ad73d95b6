//! Runs by schedule and message: the tick plans runs that are due, a worker takes them from the queue.
//!
//! A message only names a run. Whether there is anything to do is in the stored rows, so a message that comes twice, late
//! or for a run that is over succeeds and does nothing.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, LedgerError};
use super::record::{Phase, RunRecord};
use super::report::Report;
use super::rows::{run_key, schedule_key};
use super::run::Exporter;
use super::{Job, Progress, Request};
use crate::storage::{Queue, StoreError};

/// The queue of runs.
pub const QUEUE: &str = "export-runs";
/// A destination that another run holds is tried again after this.
const HELD: Duration = Duration::from_secs(60);
/// Between two ticks: what a first tick looks back.
const TICK: i64 = 1;

/// Names a run to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub job: String,
    pub run: String,
    /// 0 for a new run; one more for each continuation.
    pub version: u32,
}

/// What the tick knows of a job: the tick's own row, written under its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Scheduled {
    /// The occurrence that was scheduled last.
    at: Timestamp,
    /// The run that was planned for it.
    run: String,
}

/// What became of a message.
#[derive(Debug)]
pub enum Handled {
    /// The run is over, or there was nothing to do.
    Over(Option<Box<Report>>),
    /// A delayed copy of the message was put into the queue.
    Later(Duration),
}

/// The rows or the queue could not be used: the message must come again.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Queue(#[from] StoreError),
}

impl Exporter {
    /// Enqueues one message per job that is due, and again for unfinished runs that nobody works at. `name` makes names of runs.
    ///
    /// # Errors
    /// [`ScheduleError`]; what was enqueued until then stays.
    pub async fn tick(&self, queue: &dyn Queue, name: impl Fn() -> String) -> Result<Vec<Message>, ScheduleError> {
        let mut messages = Vec::new();
        for job in self.jobs() {
            let message = match self.unfinished(job).await? {
                Some(record) => self.wake(job, &record).await?,
                None => self.plan_due(job, &name).await?,
            };
            if let Some(message) = message {
                put(queue, &message, Duration::ZERO).await?;
                messages.push(message);
            }
        }
        Ok(messages)
    }

    async fn unfinished(&self, job: &Job) -> Result<Option<RunRecord>, LedgerError> {
        let record: Option<RunRecord> = self.rows(job).read(&run_key(&job.name)).await?;
        Ok(record.filter(|record| record.phase != Phase::Done))
    }

    /// An unfinished run whose wait is over and whose destination is free.
    async fn wake(&self, job: &Job, record: &RunRecord) -> Result<Option<Message>, LedgerError> {
        let waits = record.not_before.is_some_and(|at| at > self.now());
        if waits || !Ledger::is_free_for(&self.rows(job), &record.run, self.now()).await? {
            return Ok(None);
        }
        Ok(Some(Message { job: job.name.clone(), run: record.run.clone(), version: record.turns }))
    }

    /// An occurrence lies between the last one scheduled and now; several missed are one.
    async fn plan_due(&self, job: &Job, name: &impl Fn() -> String) -> Result<Option<Message>, LedgerError> {
        let (rows, key, now) = (self.rows(job), schedule_key(&job.name), self.now());
        let known = rows.read_versioned::<Scheduled>(&key).await?;
        let since = known.as_ref().map_or_else(|| now.checked_sub(TICK.minutes()).unwrap_or(now), |(last, _)| last.at);
        let mut due = None;
        let mut next = job.policy.schedule.next_after(since);
        while let Some(at) = next.filter(|at| *at <= now) {
            due = Some(at);
            // What was missed for days is found in few steps: only the last occurrence counts.
            let skip = now.checked_sub(job.policy.schedule.longest_gap()).unwrap_or(at).max(at);
            next = job.policy.schedule.next_after(if skip < now { skip } else { at });
        }
        let Some(at) = due else { return Ok(None) };
        let run = name();
        let planned = Scheduled { at, run: run.clone() };
        let first = rows.write_one(&key, &planned, known.map(|(_, version)| version)).await?;
        Ok(first.then(|| Message { job: job.name.clone(), run, version: 0 }))
    }

    /// Works on the run that a message names, for at most `budget`.
    ///
    /// # Errors
    /// [`ScheduleError`]: the message must come again.
    pub async fn handle(
        &self,
        queue: &dyn Queue,
        body: &[u8],
        worker: &str,
        budget: Option<Duration>,
        progress: &Progress,
    ) -> Result<Handled, ScheduleError> {
        let Ok(message) = serde_json::from_slice::<Message>(body) else {
            tracing::error!("a message that names no run was dropped");
            return Ok(Handled::Over(None));
        };
        let Some(job) = self.jobs().iter().find(|job| job.name == message.job) else { return Ok(Handled::Over(None)) };
        let rows = self.rows(job);
        let unfinished = self.unfinished(job).await?;
        let planned = rows.read::<Scheduled>(&schedule_key(&job.name)).await?.is_some_and(|planned| planned.run == message.run);
        let record: Option<RunRecord> = rows.read(&run_key(&job.name)).await?;
        let done = record.is_some_and(|record| record.run == message.run && record.phase == Phase::Done);
        match &unfinished {
            Some(record) if record.run == message.run => {
                if let Some(wait) = record
                    .not_before
                    .and_then(|at| Duration::try_from(at.duration_since(self.now())).ok())
                    .filter(|wait| !wait.is_zero())
                {
                    put(queue, &message, wait).await?;
                    return Ok(Handled::Later(wait));
                }
            }
            None if planned && !done => {}
            _ => return Ok(Handled::Over(None)),
        }
        let request = Request { budget, ..Request::default() };
        match self.try_run(job, &request, (&message.run, worker), progress).await {
            Err(LedgerError::Held { .. }) => {
                put(queue, &message, HELD).await?;
                Ok(Handled::Later(HELD))
            }
            Err(error) => Err(error.into()),
            Ok(report) => match report.not_before {
                None => Ok(Handled::Over(Some(Box::new(report)))),
                Some(at) => {
                    let wait = Duration::try_from(at.duration_since(self.now())).unwrap_or(Duration::ZERO);
                    put(queue, &Message { version: message.version + 1, run: report.run.clone(), ..message }, wait).await?;
                    Ok(Handled::Later(wait))
                }
            },
        }
    }
}

async fn put(queue: &dyn Queue, message: &Message, delay: Duration) -> Result<(), StoreError> {
    queue.put(QUEUE, super::rows::encode(message), delay).await
}
