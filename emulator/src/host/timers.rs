//! Timers: when they are due by the emulator's clock, their stored status, and one run at a time.
//!
//! What a long run overruns follows the listener's source: however many occurrences passed, one run follows at once, and it is
//! not past due. Not imitated: the lease between instances (there is one), time zones.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;

use super::app::{Function, TriggerKind};
use super::core::Core;
use super::cron::Schedule;
use super::dates::{DotNetDate, Kind};
use super::envelope::{RetryContext, ScheduleStatus, TimerTrigger, Trigger};
use super::record::{Invocation, Outcome};

/// Between two looks at the clock, in real time.
const LOOK: Duration = Duration::from_millis(20);

/// The stored status of each monitored timer, as the host keeps it in a blob; clones share it, so that it outlives a host.
#[derive(Debug, Clone, Default)]
pub struct TimerStatuses(Arc<Mutex<BTreeMap<String, ScheduleStatus>>>);

impl TimerStatuses {
    #[must_use]
    pub fn get(&self, function: &str) -> Option<ScheduleStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(function).copied()
    }

    fn set(&self, function: &str, status: ScheduleStatus) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(function.to_owned(), status);
    }
}

/// All timers of a host.
#[derive(Debug)]
pub(crate) struct Timers {
    stored: TimerStatuses,
    /// By function: its status in memory, held while it runs.
    running: BTreeMap<String, tokio::sync::Mutex<Option<ScheduleStatus>>>,
}

/// `default(DateTime)`.
const ZERO: DotNetDate = DotNetDate { at: jiff::civil::DateTime::constant(1, 1, 1, 0, 0, 0, 0), kind: Kind::Local };

fn never_run(next: Timestamp, last_updated: DotNetDate) -> ScheduleStatus {
    ScheduleStatus { last: ZERO, next: DotNetDate::local(next), last_updated }
}

fn instant(date: DotNetDate) -> Option<Timestamp> {
    jiff::tz::Offset::UTC.to_timestamp(date.at).ok()
}

impl Timers {
    pub(crate) fn new(functions: &[Arc<Function>], stored: TimerStatuses) -> Self {
        let timers = functions.iter().filter(|function| matches!(function.trigger, TriggerKind::Timer { .. }));
        let running = timers.map(|function| (function.name.clone(), tokio::sync::Mutex::default())).collect();
        Self { stored, running }
    }

    pub(crate) fn status(&self, function: &str) -> Option<ScheduleStatus> {
        self.stored.get(function)
    }
}

/// Whether an occurrence was missed; writes the first status, and a new one if the schedule was changed.
fn check_past_due(stored: &TimerStatuses, name: &str, schedule: &Schedule, now: Timestamp) -> bool {
    let Some(next_from_now) = schedule.next(now) else { return false };
    let Some(status) = stored.get(name) else {
        stored.set(name, never_run(next_from_now, DotNetDate::local(now)));
        return false;
    };
    let base = [status.last, status.last_updated].into_iter().find(|date| *date != ZERO).and_then(instant).unwrap_or(now);
    let expected = schedule.next(base).unwrap_or(next_from_now);
    if instant(status.next) == Some(expected) {
        return now > expected;
    }
    let (next, updated) = if now > expected { (next_from_now, now) } else { (expected, base) };
    stored.set(name, never_run(next, DotNetDate::local(updated)));
    false
}

/// What a timer is to do when the host has started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    Wait,
    RunAtOnce,
    /// It missed an occurrence.
    MakeUp,
}

/// Reads the status of a timer, or makes one.
pub(crate) async fn begin(core: &Core, function: &Function) -> Start {
    let TriggerKind::Timer { schedule, run_on_startup, monitored } = &function.trigger else { return Start::Wait };
    let Some(status) = core.timers.running.get(&function.name) else { return Start::Wait };
    let now = core.time.now();
    let earlier = core.timers.stored.get(&function.name).filter(|_| *monitored);
    let past_due = *monitored && check_past_due(&core.timers.stored, &function.name, schedule, now);
    let Some(first) = schedule.next(now) else { return Start::Wait };
    // The listener does not read back what it just wrote for a timer that it did not know.
    let current = earlier.and_then(|_| core.timers.stored.get(&function.name)).unwrap_or_else(|| never_run(first, ZERO));
    *status.lock().await = Some(current);
    match (past_due, run_on_startup) {
        (true, _) => Start::MakeUp,
        (false, true) => Start::RunAtOnce,
        (false, false) => Start::Wait,
    }
}

/// Runs a timer whenever it is due, until its handler is stopped for good.
pub(crate) async fn keep(core: Arc<Core>, function: Arc<Function>, start: Start) {
    let Some(status) = core.timers.running.get(&function.name) else { return };
    if start != Start::Wait {
        run(&core, &function, start == Start::MakeUp).await;
    }
    let mut looks = tokio::time::interval(LOOK);
    loop {
        looks.tick().await;
        let next = status.lock().await.and_then(|status| instant(status.next));
        let Some(next) = next else { return };
        if core.time.now() >= next {
            if core.group_of(&function).wire().await.is_none() {
                return;
            }
            run(&core, &function, false).await;
        }
    }
}

/// One run, and its repetitions if the function has a retry policy; then the new status. Waits for a run under way.
pub(crate) async fn run(core: &Core, function: &Function, past_due: bool) -> Option<Invocation> {
    let TriggerKind::Timer { schedule, monitored, .. } = &function.trigger else { return None };
    let mut status = core.timers.running.get(&function.name)?.lock().await;
    let now = core.time.now();
    let mut retry = function.retry.map(|(limit, _)| RetryContext { count: 0, limit, failure: None });
    let invocation = loop {
        let trigger = Trigger::Timer(TimerTrigger {
            adjust_for_daylight: schedule.adjusts_for_daylight(),
            status: status.filter(|_| *monitored),
            past_due,
            manual_input: None,
            retry: retry.clone(),
        });
        let invocation = core.run(function, &trigger).await;
        match (&mut retry, &invocation.outcome) {
            (Some(retry), Outcome::Failure(failure)) if retry.limit < 0 || retry.count < retry.limit => {
                retry.count += 1;
                retry.failure = Some(failure.clone());
                wait(function.retry.map(|(_, delay)| delay).unwrap_or_default()).await;
            }
            _ => break invocation,
        }
    };
    // A run a little before its time counts as one at its time, or it would be due again at once.
    let early = status.and_then(|status| instant(status.next)).filter(|next| !past_due && *next > now);
    let last = early.unwrap_or(now);
    if let Some(next) = schedule.next(last) {
        let last = DotNetDate::local(last);
        *status = Some(ScheduleStatus { last, next: DotNetDate::local(next), last_updated: last });
    }
    if let Some(status) = status.filter(|_| *monitored) {
        core.timers.stored.set(&function.name, status);
    }
    Some(invocation)
}

#[expect(clippy::disallowed_methods, reason = "a retry policy asks for a delay")]
async fn wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missed_occurrence_is_noticed_but_not_after_a_change_of_schedule() {
        let hourly: Schedule = "0 0 * * * *".parse().unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let stored = TimerStatuses::default();
        assert!(!check_past_due(&stored, "T", &hourly, at("2026-03-01T10:12:00Z")), "a timer that is new");
        assert_eq!(stored.get("T").map(|s| s.next.iso()).unwrap(), "2026-03-01T11:00:00+00:00");
        assert!(!check_past_due(&stored, "T", &hourly, at("2026-03-01T10:50:00Z")));
        assert!(check_past_due(&stored, "T", &hourly, at("2026-03-01T13:30:00Z")));
        let daily: Schedule = "0 0 5 * * *".parse().unwrap();
        assert!(!check_past_due(&stored, "T", &daily, at("2026-03-01T13:30:00Z")), "the schedule changed");
        assert_eq!(stored.get("T").map(|s| s.next.iso()).unwrap(), "2026-03-02T05:00:00+00:00");
    }
}
