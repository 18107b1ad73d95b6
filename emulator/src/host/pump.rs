//! The queue trigger: fetches messages, runs the function, then deletes them, lets them come again, or moves them to poison.
//!
//! Real time, as the service's clock is real; the intervals can be set. Not imitated: scaling, dynamic concurrency.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use tokio::sync::{Mutex, Notify, Semaphore};

use super::app::{Function, TriggerKind};
use super::core::{Core, Fault};
use super::dates::{DotNetDate, http_date};
use super::envelope::{MessageBody, QueueTrigger, Trigger};
use super::queue_client::{Message, QueueClient};
use super::record::Level;

/// The waits of queue triggers.
#[derive(Debug, Clone)]
pub struct QueueTimes {
    /// How long a fetched message is hidden; renewed half-way. Whole seconds.
    pub lease: Duration,
    /// The first wait after nothing was found; it doubles up to `maxPollingInterval`.
    pub first_poll: Duration,
    /// Instead of `maxPollingInterval` of `host.json`.
    pub longest_poll: Option<Duration>,
    /// Instead of `visibilityTimeout` of `host.json`.
    pub after_failure: Option<Duration>,
}

impl Default for QueueTimes {
    fn default() -> Self {
        Self { lease: Duration::from_secs(600), first_poll: Duration::from_millis(100), longest_poll: None, after_failure: None }
    }
}

/// The trigger of one function.
#[derive(Debug)]
struct Pump {
    core: Arc<Core>,
    function: Arc<Function>,
    queue: String,
    binary: bool,
    client: QueueClient,
    times: QueueTimes,
}

/// Pumps until the handler is stopped for good; `nudge` ends a wait.
pub(crate) async fn keep(core: Arc<Core>, function: Arc<Function>, times: QueueTimes, nudge: Arc<Notify>) {
    let TriggerKind::Queue { queue, connection, binary } = &function.trigger else { return };
    let Some(client) = core.storage.client(connection).cloned() else {
        let message = format!("{}: the connection `{connection}` is not set; the trigger does not listen", function.name);
        core.journal.line(None, Level::Error, message);
        return;
    };
    let (queue, binary) = (queue.clone(), *binary);
    let pump = Arc::new(Pump { core, function, queue, binary, client, times });
    let limits = &pump.core.host_json.queues;
    let longest = pump.times.longest_poll.unwrap_or(limits.max_polling_interval);
    // As many as may run before new ones are fetched, and a batch more.
    let room = limits.new_batch_threshold + limits.batch_size;
    let places = Arc::new(Semaphore::new(room));
    let mut running = tokio::task::JoinSet::new();
    let mut pause = pump.times.first_poll;
    loop {
        while running.try_join_next().is_some() {}
        let Ok(batch) = Arc::clone(&places).acquire_many_owned(u32::try_from(limits.batch_size).unwrap_or(1)).await else {
            return;
        };
        drop(batch);
        if pump.core.group_of(&pump.function).wire().await.is_none() {
            return;
        }
        let found = pump.client.fetch(&pump.queue, limits.batch_size, pump.times.lease).await;
        let found = found.unwrap_or_else(|error| {
            pump.core.journal.line(None, Level::Warning, format!("{}: {error:#}", pump.function.name));
            None
        });
        let found = found.unwrap_or_default();
        if found.is_empty() {
            drop(tokio::time::timeout(pause, nudge.notified()).await);
            pause = (pause * 2).min(longest);
            continue;
        }
        pause = pump.times.first_poll;
        for message in found {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let pump = Arc::clone(&pump);
            running.spawn(async move {
                if let Err(error) = pump.process(message).await {
                    pump.core.journal.line(None, Level::Warning, format!("{}: {error:#}", pump.function.name));
                }
                drop(place);
            });
        }
    }
}

impl Pump {
    async fn process(self: &Arc<Self>, message: Message) -> anyhow::Result<()> {
        let limits = &self.core.host_json.queues;
        let receipt = Arc::new(Mutex::new(message.pop_receipt.clone()));
        let Some(trigger) = self.trigger(&message) else {
            let what = format!("{}: a message is not base64; host.json says it should be", self.function.name);
            self.core.journal.line(None, Level::Error, what);
            return self.poison(&message, &receipt).await;
        };
        if message.dequeue_count > limits.max_dequeue_count {
            return self.poison(&message, &receipt).await;
        }
        let renewal = tokio::spawn(Arc::clone(self).renew(message.id.clone(), Arc::clone(&receipt)));
        let renewal = AbortOnDrop(renewal);
        let succeeded = self.deliver(trigger).await;
        if self.core.strikes(&self.function, Fault::KillBeforeDelete) {
            self.core.group_of(&self.function).kill();
            return Ok(());
        }
        // From here on nobody else changes the receipt.
        let current = receipt.lock().await.clone();
        drop(renewal);
        if succeeded {
            return self.client.delete(&self.queue, &message.id, &current).await;
        }
        if message.dequeue_count >= limits.max_dequeue_count {
            return self.poison(&message, &receipt).await;
        }
        let after = self.times.after_failure.unwrap_or(limits.visibility_timeout);
        self.client.hide(&self.queue, &message.id, &current, after).await.map(drop)
    }

    /// Runs the function, twice at once if that fault strikes; whether (one of) it succeeded.
    async fn deliver(&self, trigger: QueueTrigger) -> bool {
        let once = async |trigger: QueueTrigger| self.core.run(&self.function, &Trigger::Queue(trigger)).await.succeeded();
        if self.core.strikes(&self.function, Fault::DuplicateDelivery) {
            let again = QueueTrigger { dequeue_count: trigger.dequeue_count + 1, ..trigger.clone() };
            let (first, second) = tokio::join!(once(trigger), once(again));
            return first || second;
        }
        once(trigger).await
    }

    /// Keeps the message hidden; each renewal makes the receipt before it stale.
    async fn renew(self: Arc<Self>, id: String, receipt: Arc<Mutex<String>>) {
        let mut ticks = tokio::time::interval(self.times.lease / 2);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let mut receipt = receipt.lock().await;
            match self.client.hide(&self.queue, &id, &receipt, self.times.lease).await {
                Ok(new) => *receipt = new,
                Err(error) => {
                    self.core.journal.line(None, Level::Warning, format!("{}: {error:#}", self.function.name));
                    return;
                }
            }
        }
    }

    fn trigger(&self, message: &Message) -> Option<QueueTrigger> {
        let base64 = self.core.host_json.queues.base64;
        let bytes = if base64 {
            base64::engine::general_purpose::STANDARD.decode(&message.text).ok()?
        } else {
            message.text.clone().into_bytes()
        };
        let body =
            if self.binary { MessageBody::Bytes(bytes) } else { MessageBody::Text(String::from_utf8_lossy(&bytes).into_owned()) };
        let date = |text: &str| http_date(text).unwrap_or(DotNetDate::NEVER);
        Some(QueueTrigger {
            body,
            dequeue_count: message.dequeue_count,
            expiration: date(&message.expiration),
            id: Some(message.id.clone()),
            insertion: date(&message.insertion),
            next_visible: date(&message.next_visible),
            pop_receipt: Some(message.pop_receipt.clone()),
            manual: false,
        })
    }

    /// Copies a message to the poison queue and deletes it; a poison queue has none itself.
    async fn poison(&self, message: &Message, receipt: &Mutex<String>) -> anyhow::Result<()> {
        if !self.queue.ends_with("-poison") {
            let poison = format!("{}-poison", self.queue);
            self.client.put_creating(&poison, &message.text).await?;
            let what = format!("{}: message {} was moved to `{poison}`", self.function.name, message.id);
            self.core.journal.line(None, Level::Warning, what);
        }
        let receipt = receipt.lock().await.clone();
        self.client.delete(&self.queue, &message.id, &receipt).await
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
