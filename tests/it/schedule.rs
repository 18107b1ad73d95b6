//! Ticks and messages: what is due is run once, whatever is lost, comes twice or fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use emulator::Service;
use emulator::faults::Effect;
use indicator_relay::app::App;
use indicator_relay::export::{Handled, Message, Progress, QUEUE};
use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{Queue, StoreError, Write};

use crate::between::{Between, Fate, Hooks, Mortal};
use crate::rig::{HOUR, Rig};

const MINUTE: Duration = Duration::from_secs(60);

/// A rig whose app and queue live on, as those of a handler do.
struct Scheduled {
    rig: Rig,
    app: App,
    queue: SqliteStore,
    names: AtomicU32,
}

impl Scheduled {
    async fn new(hosts: usize, prepare: impl FnOnce(&mut Rig)) -> Self {
        let mut rig = Rig::new().await;
        rig.set("EXPORT_SCHEDULE", "0 */15 * * * *");
        rig.add_hosts(hosts);
        prepare(&mut rig);
        let clock: Arc<dyn Clock> = Arc::new(rig.clock.clone());
        let queue = SqliteStore::open_in_memory(clock).expect("SQLite");
        let app = rig.app();
        Self { rig, app, queue, names: AtomicU32::new(0) }
    }

    fn name(&self) -> String {
        format!("n{}", self.names.fetch_add(1, Ordering::SeqCst))
    }

    async fn tick(&self) -> usize {
        self.app.exporter.tick(&self.queue, || self.name()).await.expect("a tick").len()
    }

    /// Takes a message that is visible now, as lost.
    async fn take(&self) -> Option<Message> {
        let message = self.queue.receive(QUEUE, 1, MINUTE).await.expect("a queue").pop()?;
        assert!(self.queue.delete(QUEUE, &message).await.expect("a queue"));
        Some(serde_json::from_slice(&message.body).expect("a message"))
    }

    async fn handle(&self, message: &Message, budget: Option<Duration>) -> Handled {
        let body = serde_json::to_vec(message).expect("JSON");
        let (run, worker) = (self.name(), self.name());
        let progress = Progress::default();
        self.app.exporter.handle(&self.queue, &body, (&run, &worker), budget, &progress).await.expect("handled")
    }

    async fn overdue(&self) -> Option<u64> {
        let job = &self.app.exporter.jobs()[0];
        self.app.exporter.overdue(job).await.expect("readable").map(|age| age.as_secs() / 60)
    }
}

#[track_caller]
fn report(handled: &Handled) -> &indicator_relay::export::Report {
    match handled {
        Handled::Over(Some(report)) | Handled::Later(_, Some(report)) => report,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_message_that_was_lost_between_two_writes_is_put_again() {
    let it = Scheduled::new(3, |_| ()).await;
    assert_eq!(it.tick().await, 1);
    drop(it.take().await.expect("a message, which is lost"));
    for _ in 0..4 {
        it.rig.clock.advance(MINUTE);
        assert_eq!(it.tick().await, 0, "it may be on its way");
    }
    it.rig.clock.advance(MINUTE);
    assert_eq!(it.tick().await, 1);
    let again = it.take().await.expect("a message");
    assert!(report(&it.handle(&again, None).await).complete);
    assert!(matches!(it.handle(&again, None).await, Handled::Over(None)), "the one that was late does nothing");
    it.rig.clock.advance(6 * MINUTE);
    assert_eq!(it.tick().await, 0);
}

#[tokio::test]
async fn a_run_that_failed_for_good_waits_for_its_schedule() {
    let it = Scheduled::new(3, |_| ()).await;
    it.rig.emulator.world().users[0].secret = "another".to_owned();
    assert_eq!(it.tick().await, 1);
    let first = it.take().await.expect("a message");
    let handled = it.handle(&first, None).await;
    assert!(report(&handled).error.as_ref().is_some_and(|error| error.contains("THREATCONNECT_SECRET_KEY")), "{handled:?}");
    for _ in 0..14 {
        it.rig.clock.advance(MINUTE);
        assert_eq!(it.tick().await, 0, "a wrong key is not tried each minute");
    }
    it.rig.emulator.world().users[0].secret = emulator::SECRET_KEY.to_owned();
    it.rig.clock.advance(MINUTE);
    assert_eq!(it.tick().await, 1);
    let second = it.take().await.expect("a message");
    assert!(report(&it.handle(&second, None).await).complete);
    assert_eq!(it.rig.live().len(), 3);
}

#[tokio::test]
async fn a_run_that_was_killed_goes_on_at_a_later_tick() {
    let it = Scheduled::new(900, |rig| rig.set("THREATCONNECT_PAGE_SIZE", "100")).await;
    assert_eq!(it.tick().await, 1);
    let message = it.take().await.expect("a message");
    let handled = it.handle(&message, Some(Duration::ZERO)).await;
    assert!(matches!(handled, Handled::Later(wait, Some(_)) if wait.is_zero()));
    drop(it.take().await.expect("the continuation, which is lost"));
    it.rig.clock.advance(6 * MINUTE);
    assert_eq!(it.tick().await, 1);
    let mut next = it.take().await;
    while let Some(message) = next {
        drop(it.handle(&message, None).await);
        next = it.take().await;
    }
    assert_eq!(it.rig.live().len(), 900);
}

#[tokio::test]
async fn a_job_that_completes_nothing_for_twice_its_schedule_is_overdue() {
    let it = Scheduled::new(3, |_| ()).await;
    assert_eq!(it.overdue().await, None, "no tick yet");
    let run = async || {
        it.tick().await;
        while let Some(message) = it.take().await {
            drop(it.handle(&message, None).await);
        }
    };
    run().await;
    it.rig.clock.advance(30 * MINUTE);
    assert_eq!(it.overdue().await, None);
    it.rig
        .emulator
        .world()
        .faults
        .always(Service::ThreatConnect, Effect::Status { status: 403, body: String::new(), retry_after: None });
    run().await;
    it.rig.clock.advance(MINUTE);
    assert_eq!(it.overdue().await, Some(31));
    it.rig.emulator.world().faults.clear();
    it.rig.clock.advance(HOUR);
    run().await;
    assert_eq!(it.overdue().await, None);
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_makes_the_message_come_again() {
    for writes in [2, 3, 5, 8] {
        let it = Scheduled::new(300, |rig| rig.set("THREATCONNECT_PAGE_SIZE", "50")).await;
        assert_eq!(it.tick().await, 1);
        let message = it.take().await.expect("a message");
        let body = serde_json::to_vec(&message).expect("JSON");
        let dying = Mortal::at(&it.rig.store, writes, false);
        let app = it.rig.app_over(dying);
        let handled = app.exporter.handle(&it.queue, &body, ("n", "w"), None, &Progress::default()).await;
        assert!(handled.is_err(), "{writes}: {handled:?}");
        it.rig.clock.advance(2 * MINUTE);
        assert!(report(&it.handle(&message, None).await).complete, "{writes}");
        assert_eq!(it.rig.live().len(), 300);
    }
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_seen_to_have_happened() {
    let it = Scheduled::new(60, |rig| rig.set("THREATCONNECT_PAGE_SIZE", "20")).await;
    let deaf = Between::new(&it.rig.store, Deaf { commits: AtomicU32::new(0) });
    let app = it.rig.app_over(deaf);
    let message = br#"{"job": "default"}"#;
    let handled = app.exporter.handle(&it.queue, message, ("n", "w"), None, &Progress::default()).await.expect("handled");
    assert!(report(&handled).complete, "{handled:?}");
    assert_eq!((it.rig.live().len(), it.rig.emulator.world().sentinel.uploaded), (60, 60));
}

/// Through Graph, a changed object is one request, of which a minute allows so many: what was read when the time is over
/// would take minutes more.
#[tokio::test]
async fn when_the_time_is_over_what_was_read_does_not_keep_a_run_for_minutes() {
    let it = Scheduled::new(8_000, |rig| {
        rig.set("THREATCONNECT_PAGE_SIZE", "2000");
        rig.set("DELIVERY", "graph");
        rig.set("TARGET_PRODUCT", crate::rig::DEFENDER);
    })
    .await;
    let asked: Message = serde_json::from_str(r#"{"job": "default"}"#).expect("a message");
    assert!(report(&it.handle(&asked, None).await).complete);
    it.rig.clock.advance(HOUR);
    let now = it.rig.now();
    {
        let mut world = it.rig.emulator.world();
        let ids: Vec<u64> = world.indicators().map(|indicator| indicator.id).collect();
        for id in ids {
            world.touch(id, now, |indicator| indicator.confidence = Some(77));
        }
    }
    let (mut next, mut turns) = (Some(asked), 0);
    while let Some(message) = next {
        let began = it.rig.now();
        let handled = it.handle(&message, Some(MINUTE)).await;
        let took = it.rig.now().duration_since(began).as_secs();
        assert!(took <= 200, "{took} s");
        turns += 1;
        assert!(turns < 40, "{handled:?}");
        next = it.take().await;
    }
    assert!(turns >= 3, "{turns}");
    let there = it.rig.at_graphs(crate::rig::DEFENDER);
    assert!(there.len() == 8_000 && there.values().all(|entity| entity["confidence"] == 77));
}

/// Writes, and every third answer is lost.
#[derive(Debug)]
struct Deaf {
    commits: AtomicU32,
}

impl Hooks for Deaf {
    fn write(&self) -> BoxFuture<'_, Fate> {
        // The first ones register the job and take the lease; nobody can tell of those whether they happened.
        let silent = self.commits.fetch_add(1, Ordering::SeqCst) % 3 == 2;
        let cause = "the answer was lost".to_owned();
        let lost = StoreError { operation: "write", place: "a test".to_owned(), cause };
        Box::pin(std::future::ready(if silent { Fate::Unheard(lost) } else { Fate::Happens }))
    }
}

#[tokio::test]
async fn what_was_planned_is_not_run_after_a_later_run_by_hand() {
    let it = Scheduled::new(3, |_| ()).await;
    assert_eq!(it.tick().await, 1);
    let planned = it.take().await.expect("a message");
    it.rig.clock.advance(MINUTE);
    let asked: Message = serde_json::from_str(r#"{"job": "default"}"#).expect("a message");
    assert!(report(&it.handle(&asked, None).await).complete);
    assert!(matches!(it.handle(&planned, None).await, Handled::Over(None)), "it comes late");
    it.rig.clock.advance(6 * MINUTE);
    assert_eq!(it.tick().await, 0, "it was not lost: it was overtaken");
}

#[tokio::test]
async fn rows_of_one_job_that_cannot_be_read_do_not_stop_the_others() {
    let it = Scheduled::new(3, |rig| {
        rig.set("JOBS", "one,two");
        rig.set("TWO__TARGET_PRODUCT", crate::rig::DEFENDER);
    })
    .await;
    let destination = it.app.exporter.jobs()[0].sink.destination().fingerprint.clone();
    let nonsense = Write::Put { key: "s.one".to_owned(), value: b"nonsense".to_vec() };
    it.rig.store.commit(&destination, vec![nonsense]).await.expect("written");
    assert!(it.app.exporter.tick(&it.queue, || it.name()).await.is_err(), "it is told");
    assert_eq!(it.take().await.map(|message| message.job).as_deref(), Some("two"));
}

#[tokio::test]
async fn what_a_person_asks_for_runs_at_once() {
    let it = Scheduled::new(5, |_| ()).await;
    let asked: Message = serde_json::from_str(r#"{"job": "default", "full": true}"#).expect("a message");
    assert!(report(&it.handle(&asked, None).await).complete);
    assert_eq!(it.rig.live().len(), 5);
    let progress = Progress::default();
    let nobody = it.app.exporter.handle(&it.queue, br#"{"job": "nobody"}"#, ("n", "w"), None, &progress).await;
    assert!(nobody.is_err_and(|error| error.to_string().contains("`nobody` is none of JOBS")));
    let of_the_past: Message = serde_json::from_str(r#"{"job": "nobody", "run": "x"}"#).expect("a message");
    assert!(matches!(it.handle(&of_the_past, None).await, Handled::Over(None)));
}

#[tokio::test]
async fn the_tick_plans_what_is_due_and_workers_take_it_from_the_queue() {
    let mut rig = Rig::new().await;
    rig.set("EXPORT_SCHEDULE", "0 */15 * * * *");
    rig.set("THREATCONNECT_PAGE_SIZE", "100");
    rig.add_hosts(1_500);
    let clock: Arc<dyn Clock> = Arc::new(rig.clock.clone());
    let queue = SqliteStore::open_in_memory(clock).expect("SQLite");
    let app = rig.app();
    let counter = AtomicU32::new(0);
    let name = || format!("tick{}", counter.fetch_add(1, Ordering::SeqCst));
    assert_eq!(app.exporter.tick(&queue, name).await.expect("a tick").len(), 1, "nine o'clock is an occurrence");
    assert!(app.exporter.tick(&queue, name).await.expect("a tick").is_empty(), "not twice");
    let progress = Progress::default();
    let budget = Some(Duration::from_secs(3));
    let minute = MINUTE;
    let mut turns = 0;
    loop {
        let Some(message) = queue.receive(QUEUE, 1, minute).await.expect("a queue").pop() else { break };
        let handled =
            app.exporter.handle(&queue, &message.body, ("n", &format!("w{turns}")), budget, &progress).await.expect("handled");
        // The same message once more does no harm.
        drop(
            app.exporter
                .handle(&queue, &message.body, ("n", &format!("again{turns}")), Some(Duration::ZERO), &progress)
                .await
                .expect("handled"),
        );
        assert!(queue.delete(QUEUE, &message).await.expect("a queue"));
        turns += 1;
        if let Handled::Over(Some(report)) = handled {
            assert!(report.complete, "{report:#?}");
            break;
        }
        assert!(turns < 60, "it never ends");
    }
    assert!(turns > 1, "{turns}");
    assert_eq!(rig.live().len(), 1_500);
    rig.clock.advance(HOUR);
    assert_eq!(app.exporter.tick(&queue, name).await.expect("a tick").len(), 1, "four missed are one");
    assert!(app.exporter.tick(&queue, name).await.expect("a tick").is_empty());
}
