//! Timers on a clock that tests move.

use std::sync::Arc;
use std::time::Duration;

use emulator::SimClock;
use emulator::host::{FunctionsHost, HostOptions, TimerStatuses};
use jiff::Timestamp;
use serde_json::json;

use crate::app::App;

fn clock(text: &str) -> SimClock {
    SimClock::at(text.parse().expect("a time"))
}

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

fn options(app: &App, clock: &SimClock, statuses: &TimerStatuses) -> HostOptions {
    let mut options = app.options();
    options.time = Arc::new(clock.clone());
    options.timer_statuses = statuses.clone();
    options
}

/// Waits until the timer has stored what its run left.
async fn next_is(statuses: &TimerStatuses, next: &str) {
    while statuses.get("Tick").map(|status| status.next.iso()).as_deref() != Some(next) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_runs_when_it_is_due_and_keeps_its_status() {
    let app = App::new().timer("Tick", "%Every%");
    let (clock, statuses) = (clock("2026-03-01T10:12:09.25Z"), TimerStatuses::default());
    let mut options = options(&app, &clock, &statuses);
    options.settings.insert("Every".to_owned(), "0 0 * * * *".to_owned());
    let host = FunctionsHost::start(options).await.unwrap();
    next_is(&statuses, "2026-03-01T11:00:00+00:00").await;
    assert!(host.invocations().is_empty());
    clock.advance_to(at("2026-03-01T11:00:00.5Z"));
    let log = host.completed("Tick", 1).await.results.logs[0].clone();
    let never = "0001-01-01T00:00:00+00:00";
    assert!(
        log.contains(&format!("{{\"Last\":\"{never}\",\"Next\":\"2026-03-01T11:00:00+00:00\",\"LastUpdated\":\"{never}\"}}")),
        "{log}"
    );
    next_is(&statuses, "2026-03-01T12:00:00+00:00").await;
    clock.advance_to(at("2026-03-01T12:00:00Z"));
    let log = host.completed("Tick", 2).await.results.logs[0].clone();
    assert!(log.contains("\"Last\":\"2026-03-01T11:00:00.5+00:00\"") && log.contains("\"IsPastDue\":false"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_occurrences_make_one_run_that_is_past_due() {
    let app = App::new().timer("Tick", "0 0 * * * *");
    let (clock, statuses) = (clock("2026-03-01T10:12:00Z"), TimerStatuses::default());
    let host = FunctionsHost::start(options(&app, &clock, &statuses)).await.unwrap();
    next_is(&statuses, "2026-03-01T11:00:00+00:00").await;
    host.stop().await;
    clock.advance(Duration::from_hours(5));
    let host = FunctionsHost::start(options(&app, &clock, &statuses)).await.unwrap();
    let log = host.completed("Tick", 1).await.results.logs[0].clone();
    assert!(log.contains("\"IsPastDue\":true") && log.contains("\"Next\":\"2026-03-01T11:00:00+00:00\""), "{log}");
    next_is(&statuses, "2026-03-01T16:00:00+00:00").await;
    assert_eq!(host.invocations().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_one_timer_do_not_overlap() {
    let app = App::new().timer("Tick", "0 * * * * *");
    let (clock, statuses) = (clock("2026-03-01T10:00:30Z"), TimerStatuses::default());
    let mut options = options(&app, &clock, &statuses);
    options.settings.insert("DO".to_owned(), "rest 300".to_owned());
    let host = FunctionsHost::start(options).await.unwrap();
    assert!(host.ready().await);
    next_is(&statuses, "2026-03-01T10:01:00+00:00").await;
    clock.advance(Duration::from_mins(1));
    host.until(|record| (record.invocations.len() == 1).then_some(())).await;
    clock.advance(Duration::from_mins(10));
    let fired = host.fire("Tick").await.unwrap();
    assert!(fired.succeeded());
    // When a run began, all before it had ended.
    let overlapped = host.until(|record| Some(record.finished("Tick").count() + 1 < record.invocations.len())).await;
    assert!(!overlapped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_policy_repeats_a_run_and_says_why() {
    let app = App::new().timer("Tick", "0 0 5 * * *");
    let path = app.folder.path().join("Tick/function.json");
    let mut json: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    json["retry"] = json!({"strategy": "fixedDelay", "maxRetryCount": 2, "delayInterval": "00:00:00.05"});
    std::fs::write(&path, json.to_string()).unwrap();
    let mut options = app.options();
    options.settings.insert("DO".to_owned(), "fail".to_owned());
    options.timers = false;
    let host = FunctionsHost::start(options).await.unwrap();
    assert!(!host.fire("Tick").await.unwrap().succeeded());
    assert_eq!(host.invocations().len(), 3);
}
