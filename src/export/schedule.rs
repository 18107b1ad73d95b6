//! Runs by schedule and message: the tick plans runs that are due, a worker takes them from the queue.
//!
//! A message only names a run. Whether there is anything to do is in the stored rows, so a message that comes twice, late
//! or for a run that is over succeeds and does nothing.

use std::time::Duration;

use jiff::{Timestamp, ToSpan};
use serde::{Deserialize, Serialize};

use super::ledger::{Ledger, LedgerError};
use super::record::{Phase, RunRecord};
use super::report::{Mode, Report};
use super::rows::{JobState, job_key, run_key, schedule_key};
use super::run::{Exporter, Worked};
use super::{Job, Progress, Request};
use crate::storage::{Queue, StoreError};

/// The queue of runs.
pub const QUEUE: &str = "export-runs";
/// A destination that another run holds is tried again after this.
const HELD: Duration = Duration::from_secs(60);
/// Between two ticks: what a first tick looks back.
const TICK: i64 = 1;
/// A run that makes progress may take so long beyond twice its schedule before somebody is told.
const PROGRESS_FOR: Duration = Duration::from_secs(86_400);
/// A message that may have been lost is put once more after this.
const PUT_AGAIN: Duration = Duration::from_secs(300);

/// Names a run to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    pub job: String,
    /// None: a new run, now, that a person asked for (or the rest of the unfinished one).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<String>,
    /// 0 for a new run; one more for each continuation.
    #[serde(default)]
    pub version: u32,
    /// Read everything, whatever is due.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// What the tick knows of a job: the tick's own row, written under its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Scheduled {
    /// The occurrence that was scheduled last.
    at: Timestamp,
    /// The run that was planned for it.
    run: String,
    /// When the job was first scheduled.
    since: Timestamp,
    /// When a message was last put.
    put: Timestamp,
}

impl Scheduled {
    /// Neither the planned run nor any later one has begun. `record`: the job's latest run.
    fn waits_still(&self, record: Option<&RunRecord>) -> bool {
        record.is_none_or(|record| record.run != self.run && record.started < self.put)
    }
}

/// What became of a message.
#[derive(Debug)]
pub enum Handled {
    /// The run is over, or there was nothing to do.
    Over(Option<Box<Report>>),
    /// A delayed copy of the message was put into the queue; the report so far, if the run was worked on.
    Later(Duration, Option<Box<Report>>),
}

/// The message must come again.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Queue(#[from] StoreError),
    /// Tried again, it ends in the poison queue, where a person finds it.
    #[error("a message of the queue `{QUEUE}` names no job ({cause}); `{{\"job\": \"NAME\"}}` runs one now")]
    Unreadable { cause: String },
}

impl Exporter {
    /// Enqueues one message per job that is due, and again for runs that nobody works at. `name` makes names of runs.
    ///
    /// # Errors
    /// [`ScheduleError`]; what was enqueued until then stays, and a later tick makes up for the rest.
    pub async fn tick(&self, queue: &dyn Queue, name: impl Fn() -> String) -> Result<Vec<Message>, ScheduleError> {
        let mut messages = Vec::new();
        let mut failed = None;
        for job in self.jobs() {
            match self.tick_job(queue, job, &name).await {
                Ok(message) => messages.extend(message),
                // The other jobs have their turn.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(messages), Err)
    }

    async fn tick_job(&self, queue: &dyn Queue, job: &Job, name: &impl Fn() -> String) -> Result<Option<Message>, ScheduleError> {
        let message = self.plan_job(job, name).await?;
        if let Some(message) = &message {
            put(queue, message, Duration::ZERO).await?;
        }
        Ok(message)
    }

    /// The message that a job needs now. That it was put is stored first: of two ticks, one puts it.
    async fn plan_job(&self, job: &Job, name: &impl Fn() -> String) -> Result<Option<Message>, LedgerError> {
        let (rows, key, now) = (self.rows(job), schedule_key(&job.name), self.now());
        let (known, version) = rows.read_versioned::<Scheduled>(&key).await?.unzip();
        let record: Option<RunRecord> = rows.read(&run_key(&job.name)).await?;
        let unfinished = record.as_ref().filter(|record| record.phase != Phase::Done);
        let goes_on = unfinished.filter(|record| record.error.is_none() || record.not_before.is_some());
        let rested = known.as_ref().is_none_or(|known| known.put.checked_add(PUT_AGAIN).is_ok_and(|at| at <= now));
        let (at, run, version_of_run) = if let Some(record) = goes_on {
            // Killed, stopped or put off: it goes on as soon as it may, whatever the schedule says.
            let waits = record.not_before.is_some_and(|at| at > now);
            if waits || !rested || !Ledger::is_free_for(&rows, &record.run, now).await? {
                return Ok(None);
            }
            (known.as_ref().map_or(record.started, |known| known.at), record.run.clone(), record.turns)
        } else if let Some(at) = occurrence(job, known.as_ref().map(|known| known.at), now) {
            // A run that failed for good is tried again when the schedule says so.
            let (run, turns) = unfinished.map_or_else(|| (name(), 0), |record| (record.run.clone(), record.turns));
            (at, run, turns)
        } else {
            // Planned, and no worker ever began: the message was lost between the two writes.
            let Some(known) = known.as_ref().filter(|known| rested && known.waits_still(record.as_ref())) else {
                return Ok(None);
            };
            if !Ledger::is_free_for(&rows, &known.run, now).await? {
                return Ok(None);
            }
            (known.at, known.run.clone(), 0)
        };
        let planned = Scheduled { at, run: run.clone(), since: known.map_or(now, |known| known.since), put: now };
        let first = rows.write_one(&key, &planned, version).await?;
        Ok(first.then(|| Message { job: job.name.clone(), run: Some(run), version: version_of_run, full: false }))
    }

    /// How long ago the job last completed a run (or was first scheduled), if that is more than twice its schedule and no run
    /// is making progress.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn overdue(&self, job: &Job) -> Result<Option<Duration>, LedgerError> {
        let (rows, now) = (self.rows(job), self.now());
        let Some(known) = rows.read::<Scheduled>(&schedule_key(&job.name)).await? else { return Ok(None) };
        let completed = rows.read::<JobState>(&job_key(&job.name)).await?.and_then(|state| state.completed);
        let age = Duration::try_from(now.duration_since(completed.unwrap_or(known.since))).unwrap_or_default();
        if age <= job.gap() * 2 {
            return Ok(None);
        }
        let record: Option<RunRecord> = rows.read(&run_key(&job.name)).await?;
        if age > job.gap() * 2 + PROGRESS_FOR {
            return Ok(Some(age));
        }
        let progresses = match record.filter(|record| record.phase != Phase::Done && record.error.is_none()) {
            None => false,
            Some(record) => {
                let handed_over = record.not_before.is_some_and(|at| at.checked_add(PUT_AGAIN).is_ok_and(|until| until > now));
                handed_over || !Ledger::is_free_for(&rows, &record.run, now).await?
            }
        };
        Ok(Some(age).filter(|_| !progresses))
    }

    /// Works on the run that a message names, for at most `budget`. `name` and `worker` are new random names.
    ///
    /// # Errors
    /// [`ScheduleError`]: the message must come again.
    pub async fn handle(
        &self,
        queue: &dyn Queue,
        body: &[u8],
        (name, worker): (&str, &str),
        budget: Option<Duration>,
        progress: &Progress,
    ) -> Result<Handled, ScheduleError> {
        let message: Message =
            serde_json::from_slice(body).map_err(|error| ScheduleError::Unreadable { cause: error.to_string() })?;
        let Some(job) = self.jobs().iter().find(|job| job.name == message.job) else {
            if message.run.is_none() {
                let cause = format!("`{}` is none of JOBS", message.job);
                return Err(ScheduleError::Unreadable { cause });
            }
            tracing::warn!(job = message.job, "a run of a job that JOBS names no more is dropped");
            return Ok(Handled::Over(None));
        };
        match self.standing(job, &message).await? {
            Standing::Over => return Ok(Handled::Over(None)),
            Standing::Waits(wait) => {
                put(queue, &message, wait).await?;
                return Ok(Handled::Later(wait, None));
            }
            Standing::Due => {}
        }
        // A message that comes again goes on with the full run that it began.
        let full = message.full && !self.is_in_full_run(job).await?;
        let request = Request { full, budget, ..Request::default() };
        let run = message.run.as_deref().unwrap_or(name);
        match self.try_run(job, &request, (run, worker), progress).await {
            // Another worker is at this very run; if it goes away, its own message comes again, or the tick wakes the run.
            Err(LedgerError::Held { run: Some(holder), .. }) if Some(&holder) == message.run.as_ref() => Ok(Handled::Over(None)),
            Err(LedgerError::Held { .. }) => {
                put(queue, &message, HELD).await?;
                Ok(Handled::Later(HELD, None))
            }
            // Who ended the run, or took it over, tells how it ends.
            Err(LedgerError::Ended) | Ok(Worked { unsaved: Some(LedgerError::TakenOver), .. }) => Ok(Handled::Over(None)),
            Err(error) | Ok(Worked { unsaved: Some(error), .. }) => Err(error.into()),
            Ok(Worked { report, unsaved: None }) => match report.not_before {
                None => Ok(Handled::Over(Some(Box::new(report)))),
                Some(at) => {
                    let wait = Duration::try_from(at.duration_since(self.now())).unwrap_or(Duration::ZERO);
                    // The continuation names the run, and asks for nothing new.
                    let next =
                        Message { job: message.job, run: Some(report.run.clone()), version: message.version + 1, full: false };
                    put(queue, &next, wait).await?;
                    Ok(Handled::Later(wait, Some(Box::new(report))))
                }
            },
        }
    }

    async fn is_in_full_run(&self, job: &Job) -> Result<bool, LedgerError> {
        let record: Option<RunRecord> = self.rows(job).read(&run_key(&job.name)).await?;
        Ok(record.is_some_and(|record| record.phase != Phase::Done && record.mode == Mode::Full))
    }

    /// Whether there is anything to do for a message.
    async fn standing(&self, job: &Job, message: &Message) -> Result<Standing, LedgerError> {
        let Some(run) = &message.run else { return Ok(Standing::Due) };
        let rows = self.rows(job);
        let record: Option<RunRecord> = rows.read(&run_key(&job.name)).await?;
        match &record {
            Some(record) if record.run == *run && record.phase == Phase::Done => Ok(Standing::Over),
            Some(record) if record.run == *run => {
                let wait = record.not_before.and_then(|at| Duration::try_from(at.duration_since(self.now())).ok());
                Ok(wait.filter(|wait| !wait.is_zero()).map_or(Standing::Due, Standing::Waits))
            }
            Some(record) if record.phase != Phase::Done => Ok(Standing::Over),
            _ => {
                let planned = rows.read::<Scheduled>(&schedule_key(&job.name)).await?;
                let waits = planned.is_some_and(|planned| planned.run == *run && planned.waits_still(record.as_ref()));
                Ok(if waits { Standing::Due } else { Standing::Over })
            }
        }
    }
}

/// A message against the stored rows.
enum Standing {
    /// It names a run that is over, or never was.
    Over,
    Waits(Duration),
    Due,
}

/// The latest occurrence between the last one scheduled and now: several missed are one.
fn occurrence(job: &Job, last: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
    let schedule = &job.policy.schedule;
    let mut due = None;
    let mut next = schedule.next_after(last.unwrap_or_else(|| now.checked_sub(TICK.minutes()).unwrap_or(now)));
    while let Some(at) = next.filter(|at| *at <= now) {
        due = Some(at);
        // What was missed for days is found in few steps: only the last occurrence counts.
        let skip = now.checked_sub(job.gap()).unwrap_or(at).max(at);
        next = schedule.next_after(if skip < now { skip } else { at });
    }
    due
}

async fn put(queue: &dyn Queue, message: &Message, delay: Duration) -> Result<(), StoreError> {
    queue.put(QUEUE, super::rows::encode(message), delay).await
}
