//! The product without the Functions host: schedules, queue workers and HTTP routes of the same functions in one process.
//!
//! Knows when a function is called, not what it does. Any process can be killed at any instruction here too; a graceful stop
//! only spares the next start some repeated work, and the wait for what nobody holds any more.

mod hand;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use hand::InHand;

use crate::app::receiver::Receiver;
use crate::app::{App, names};
use crate::functions::{self, Envelope, FUNCTIONS, Function, Relay, Trigger, When};
use crate::platform::clock::Clock;
use crate::platform::schedule::Schedule;
use crate::settings::Settings;
use crate::storage::{Message, Place, Queue};

/// Messages of one queue that are handled at once.
const AT_ONCE: usize = 8;
/// A queue that is empty is looked at again after this, doubled up to the longest: a look at a file costs nothing, one at a
/// storage account costs money.
const FIRST_REST: Duration = Duration::from_millis(50);
const LONGEST_REST_OF_FILE: Duration = Duration::from_millis(200);
const LONGEST_REST_OF_ACCOUNT: Duration = Duration::from_secs(5);
/// Nobody else gets a message while it is handled; longer than any invocation takes.
const HELD_FOR: Duration = Duration::from_secs(5 * 60);
/// The same for a run; one that takes longer is not disturbed: who gets its message then sees that it is worked on.
const RUN_HELD_FOR: Duration = Duration::from_secs(30 * 60);
/// How long a client may take for the head of a request.
const PATIENCE: Duration = Duration::from_secs(30);
/// What failed comes again after this, doubled with each try.
const AGAIN: Duration = Duration::from_secs(15);
/// What is under way at a stop may end; then the process does.
const GRACE: Duration = Duration::from_secs(25);
/// Giving back what did not end takes no longer.
const GIVING_BACK: Duration = Duration::from_secs(5);

/// Runs everything until the first of `stops`, and then waits for what is under way, for a while, or until the second. What has not
/// ended by then is given back.
///
/// # Errors
/// One line: a schedule that cannot be read.
pub async fn serve(
    app: App,
    receiver: Receiver,
    clock: Arc<dyn Clock>,
    listener: TcpListener,
    mut stops: mpsc::Receiver<()>,
) -> Result<(), String> {
    let queue = Arc::clone(&app.queue);
    let longest_rest = match app.settings.storage {
        Place::Embedded(_) => LONGEST_REST_OF_FILE,
        Place::Azure(_) => LONGEST_REST_OF_ACCOUNT,
    };
    let mut timers = Vec::new();
    for function in FUNCTIONS {
        if let Trigger::Timer { schedule, .. } = function.trigger {
            let schedule = of(schedule, &app.settings).map_err(|error| format!("{}: {error}", function.name))?;
            timers.push((function, schedule));
        }
    }
    let app = Arc::new(app);
    let relay = Relay::opened(Arc::clone(&clock), Arc::clone(&app));
    relay.receive_with(receiver);
    let in_hand = Arc::new(InHand::default());
    let (end, ends) = watch::channel(false);
    let mut tasks = JoinSet::new();
    // What the playbooks want is told and made now, not at the first tick.
    tasks.spawn({
        let relay = Arc::clone(&relay);
        async move { _ = functions::call(functions::RECONCILE, &relay, &names().0, Envelope::default()).await }
    });
    for (function, schedule) in timers {
        tasks.spawn(keep_time(function, schedule, Arc::clone(&relay), Arc::clone(&clock), ends.clone()));
    }
    for function in FUNCTIONS {
        if let Trigger::Queue { queue: name, .. } = function.trigger {
            tasks.spawn(work(Worker {
                function,
                name,
                relay: Arc::clone(&relay),
                queue: Arc::clone(&queue),
                clock: Arc::clone(&clock),
                longest_rest,
                in_hand: Arc::clone(&in_hand),
                ends: ends.clone(),
            }));
        }
    }
    let http = functions::serve(listener, functions::public_router(&relay), Arc::clone(&clock), Some(PATIENCE));
    tokio::select! {
        () = http => {}
        _ = stops.recv() => {}
    }
    end.send_replace(true);
    stop(&app, &in_hand, &clock, tasks, &mut stops).await;
    Ok(())
}

/// Waits for what is under way, and gives back what does not end.
async fn stop(app: &App, in_hand: &InHand, clock: &Arc<dyn Clock>, mut tasks: JoinSet<()>, stops: &mut mpsc::Receiver<()>) {
    tracing::info!("stopping: what is under way may end, for up to {} s; a second signal ends it at once", GRACE.as_secs());
    let ended = async { while tasks.join_next().await.is_some() {} };
    let what = tokio::select! {
        () = ended => return tracing::info!("stopped"),
        () = clock.alarm(GRACE) => "stopped with work under way",
        Some(()) = stops.recv() => "stopped at once",
    };
    let given_back = async {
        // What is given back must not be done here as well.
        tasks.shutdown().await;
        if let Err(error) = app.dispatcher.let_go().await {
            tracing::warn!("{error}");
        }
        in_hand.give_back(&app.queue).await
    };
    tokio::select! {
        count = given_back => {
            let messages = if count == 1 { "1 message is".to_owned() } else { format!("{count} messages are") };
            tracing::warn!("{what}: {messages} given back, and handled at the next start");
        }
        () = clock.alarm(GIVING_BACK) => {
            tracing::warn!("{what}: what was in hand could not be given back, and comes again after some minutes");
        }
    }
}

fn of(schedule: When, settings: &Settings) -> Result<Schedule, String> {
    match schedule {
        When::Always(text) => Schedule::parse(text),
        When::Setting("SUBSCRIPTION_SCHEDULE") => Ok(settings.notifications.subscription_schedule.clone()),
        When::Setting("ALERT_POLL_SCHEDULE") => Ok(settings.notifications.alert_poll_schedule.clone()),
        When::Setting(other) => Err(format!("no setting `{other}` holds a schedule")),
    }
}

/// Completes when the process is about to end.
async fn ended(ends: &mut watch::Receiver<bool>) {
    // Who could say so is gone: that is an end too.
    drop(ends.wait_for(|end| *end).await);
}

/// Calls a function at each occurrence; those that pass while it runs are one.
async fn keep_time(
    function: Function,
    schedule: Schedule,
    relay: Arc<Relay>,
    clock: Arc<dyn Clock>,
    mut ends: watch::Receiver<bool>,
) {
    loop {
        let now = clock.now();
        let Some(next) = schedule.next_after(now) else { return ended(&mut ends).await };
        // Wall time may jump: a long wait is looked at again.
        let wait = next.duration_since(now).unsigned_abs().min(Duration::from_secs(60));
        tokio::select! {
            () = clock.alarm(wait) => {}
            () = ended(&mut ends) => return,
        }
        if clock.now() >= next {
            functions::call(function, &relay, &names().0, Envelope::default()).await;
        }
    }
}

struct Worker {
    function: Function,
    /// Of the queue.
    name: &'static str,
    relay: Arc<Relay>,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    longest_rest: Duration,
    in_hand: Arc<InHand>,
    ends: watch::Receiver<bool>,
}

/// Hands over what waits in a queue. What fails comes again, five times in all; then the queue moves it to its poison queue.
async fn work(mut worker: Worker) {
    let held_for = if worker.name == crate::export::QUEUE { RUN_HELD_FOR } else { HELD_FOR };
    let mut handled: JoinSet<()> = JoinSet::new();
    let mut rest = FIRST_REST;
    loop {
        while handled.try_join_next().is_some() {}
        let room = AT_ONCE - handled.len().min(AT_ONCE);
        let received = if room == 0 { Ok(Vec::new()) } else { worker.queue.receive(worker.name, room, held_for).await };
        let messages = received.unwrap_or_else(|error| {
            tracing::error!("{error}; looked at again");
            Vec::new()
        });
        for message in &messages {
            worker.in_hand.take(worker.name, message);
        }
        if *worker.ends.borrow() {
            for message in messages {
                worker.in_hand.release(worker.queue.as_ref(), worker.name, &message.id, Duration::ZERO).await;
            }
            break;
        }
        rest = if messages.is_empty() { (rest * 2).min(worker.longest_rest) } else { FIRST_REST };
        let idle = messages.is_empty();
        for message in messages {
            let (relay, queue, in_hand) = (Arc::clone(&worker.relay), Arc::clone(&worker.queue), Arc::clone(&worker.in_hand));
            handled.spawn(handle(worker.function, worker.name, relay, queue, in_hand, message));
        }
        if !idle {
            continue;
        }
        tokio::select! {
            _ = handled.join_next(), if !handled.is_empty() => {}
            () = worker.clock.alarm(rest) => {}
            () = ended(&mut worker.ends) => break,
        }
    }
    while handled.join_next().await.is_some() {}
}

async fn handle(
    function: Function,
    name: &'static str,
    relay: Arc<Relay>,
    queue: Arc<dyn Queue>,
    in_hand: Arc<InHand>,
    message: Message,
) {
    let Trigger::Queue { binding, .. } = function.trigger else { return };
    // Every message of ours is JSON.
    let envelope = Envelope::of_message(binding, &String::from_utf8_lossy(&message.body), message.tries);
    if !functions::call(function, &relay, &message.id, envelope).await {
        let wait = AGAIN.saturating_mul(1 << message.tries.saturating_sub(1).min(8));
        return in_hand.release(queue.as_ref(), name, &message.id, wait).await;
    }
    if let Err(error) = queue.delete(name, &message).await {
        tracing::warn!("{error}; the message comes again, and is known then");
    }
    in_hand.done(name, &message.id);
}
