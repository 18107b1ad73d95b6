//! Ticks and messages: what is due is run once, whatever is lost, comes twice or fails.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use emulator::Service;
use emulator::faults::Effect;
use indicator_relay::app::App;
use indicator_relay::export::{Handled, Message, Progress, QUEUE};
use indicator_relay::platform::clock::Clock;
use indicator_relay::storage::Queue;
use indicator_relay::storage::sqlite::SqliteStore;

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
async fn what_a_person_asks_for_runs_at_once() {
    let it = Scheduled::new(5, |_| ()).await;
    let asked: Message = serde_json::from_str(r#"{"job": "default", "full": true}"#).expect("a message");
    assert!(report(&it.handle(&asked, None).await).complete);
    assert_eq!(it.rig.live().len(), 5);
    let nobody: Message = serde_json::from_str(r#"{"job": "nobody"}"#).expect("a message");
    assert!(matches!(it.handle(&nobody, None).await, Handled::Over(None)));
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
