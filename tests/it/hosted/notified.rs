//! Notifications under the Functions host: processes are killed at random while deliveries come through its front door and its
//! queues, and each notification is acted on once in effect.
//!
//! A handler that is killed leaves its turn at a resource for three minutes, while its message comes again at once and waits as a
//! copy. The short story ends such turns in the table; the long one waits.
#![expect(clippy::disallowed_methods, reason = "this looks at the processes from outside, by the machine's time")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use emulator::host::{Fault, FunctionsHost, Invocation, Outcome, QueueClient};
use emulator::notifications;
use emulator::{FreePort, Playbook, Received, TENANT};
use indicator_relay::dispatch;
use indicator_relay::notifications::item::{QUEUE, URGENT_QUEUE};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::storage::azure::{self, Names};
use indicator_relay::storage::{StateStore, Write, poison_of};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::{Cloud, unpacked};
use crate::azurite::account;
use crate::ordeal::{A_PROOF, Dice, effects, key, keys_by_id, user};

const WEBHOOK: &str = "9f0c1f36-2c4c-4a7e-8f43-7d7e5a1f2b11";
const LOOK: Duration = Duration::from_millis(20);
/// The process of the HTTP functions, those of the queues, all of which one is killed, and the host itself.
const OF_HTTP: &str = "http";
const OF_QUEUES: [&str; 2] = ["RunPlaybooks", "RunUrgentPlaybooks"];
const ALL: [&str; 8] =
    [OF_HTTP, OF_HTTP, OF_QUEUES[0], OF_QUEUES[0], OF_QUEUES[0], OF_QUEUES[1], "ReconcileSubscriptions", "PollAlerts"];
const HOST: &str = "the host, before it deletes a message";
/// Messages that one queue function has in hand at most: a batch, and a new one once half of it is done.
const AT_ONCE: usize = 24;
/// A turn at a resource lasts so long.
const TURN: SignedDuration = SignedDuration::from_secs(180);

/// `seen` does not fetch and is worked off in its turn; `read` fetches and is urgent.
const PLAYBOOKS: &str = r#"
version = 1

[[playbook]]
name = "seen"
source = { resource = "users", change_types = ["updated"] }
fetch = { mode = "none" }
select.string = { id = "notification.resourceData.sequenceNumber" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK?to=seen"
  allow_private_address = true
  body = "selected"

[[playbook]]
name = "read"
priority = "urgent"
source = { resource = "groups", change_types = ["updated"] }
select.string = { id = "resource.id", state = "resource.displayName" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK?to=read"
  allow_private_address = true
  body = "selected"
"#;

/// What happens to the processes.
struct Ordeal {
    /// Of users and of groups, in all.
    changes: usize,
    kills: usize,
    /// Each kill comes within so many requests at the webhook after the last one, or so much time.
    requests: u64,
    within: Duration,
    /// Timers run too, and are killed as well; the host itself falters now and then.
    whole: bool,
    seed: u64,
}

/// A host with the playbooks, and subscriptions that lead to its front door.
async fn subscribed(cloud: &mut Cloud, whole: bool) -> FunctionsHost {
    let port = FreePort::find().expect("a port");
    cloud.set("PUBLIC_URL", &format!("http://127.0.0.1:{}", port.number()));
    cloud.set("EXPORT_SCHEDULE", "0 0 * * * *");
    for key in ["SUBSCRIPTION_SCHEDULE", "ALERT_POLL_SCHEDULE"] {
        cloud.set(key, "*/10 * * * * *");
    }
    {
        let mut world = cloud.emulator.world();
        world.playbooks.insert(WEBHOOK.to_owned(), Playbook::default());
        world.resources.enforce_rate = false;
        let notifications = &mut world.notifications;
        notifications.doubled_permille = 100;
        notifications.shuffled = true;
        notifications.parallel = 4;
        notifications.first_retry = Duration::from_millis(200);
        notifications.fewest_answers = usize::MAX;
    }
    let app = unpacked(cloud.folder.path());
    let playbooks = PLAYBOOKS.replace("WEBHOOK", &cloud.emulator.playbook_url(WEBHOOK));
    std::fs::write(app.join("playbooks.toml"), playbooks).expect("written");
    let mut options = cloud.options(app);
    options.port = port.number();
    options.recycle = true;
    options.timers = whole;
    options.queue_times.lease = Duration::from_secs(30);
    let host = FunctionsHost::start(options).await.expect("a host");
    assert!(host.ready().await, "{:#?}", host.lines());
    // A tick waits some seconds until the key of client states is made, and leaves the rest to the next, which a slow machine needs.
    let ticks = async {
        while cloud.emulator.world().notifications.subscriptions(Timestamp::now()).len() < 2 {
            assert!(host.fire("ReconcileSubscriptions").await.expect("a timer").succeeded(), "{:#?}", host.lines());
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(600), ticks).await.is_ok(), "{:#?}", host.lines());
    host
}

fn received(cloud: &Cloud) -> usize {
    cloud.emulator.world().playbooks[WEBHOOK].received.len()
}

/// So many more requests at the webhook.
async fn more(cloud: &Cloud, requests: usize) {
    let until = received(cloud) + requests;
    let mut look = tokio::time::interval(LOOK);
    while received(cloud) < until {
        look.tick().await;
    }
}

/// Azurite closes connections that are quiet, at times while a request is on its way.
async fn count(queues: &QueueClient, queue: &str) -> u64 {
    let mut count = queues.count(queue).await;
    for _ in 0..3 {
        if count.is_err() {
            count = queues.count(queue).await;
        }
    }
    count.expect("counted").unwrap_or(0)
}

/// Invocations of the queues that run, each with a time when it had not begun yet.
#[derive(Default)]
struct Running {
    looked: Timestamp,
    begun_after: BTreeMap<String, Timestamp>,
}

impl Running {
    /// Looks again. Who took a turn before this time does not live any more, however slow the machine is.
    fn since(&mut self, host: &FunctionsHost) -> Timestamp {
        let now = Timestamp::now();
        let runs = |one: &Invocation| OF_QUEUES.contains(&&*one.function) && matches!(one.outcome, Outcome::Running);
        let (last, known) = (std::mem::replace(&mut self.looked, now), std::mem::take(&mut self.begun_after));
        for one in host.invocations().into_iter().filter(runs) {
            let after = known.get(&one.id).copied().unwrap_or(last);
            self.begun_after.insert(one.id, after);
        }
        self.begun_after.values().min().copied().unwrap_or(now)
    }
}

/// Ends the turns that were taken before a time.
async fn end_turns(state: &dyn StateStore, before: Timestamp) {
    let rows = state.scan("dispatch", "r.", "r/", 10_000).await.expect("rows");
    for row in rows {
        let mut value: Value = serde_json::from_slice(&row.value).expect("JSON");
        let Some(until) = value["lease"]["until"].as_str().map(|until| until.parse::<Timestamp>().expect("a time")) else {
            continue;
        };
        if until - TURN >= before {
            continue;
        }
        value["lease"]["until"] = json!(until - SignedDuration::from_mins(10));
        let value = serde_json::to_vec(&value).expect("JSON");
        // Who wrote it meanwhile is alive.
        drop(state.commit("dispatch", vec![Write::PutIf { key: row.key, value, version: Some(row.version) }]).await);
    }
}

impl Ordeal {
    async fn endured(&self) {
        let mut cloud = Cloud::with_keys().await;
        let host = subscribed(&mut cloud, self.whole).await;
        cloud.emulator.deliver_always();
        let (mut dice, mut changes, mut states) = (Dice(self.seed), 0, BTreeMap::new());
        let mut killed: BTreeMap<&str, usize> = BTreeMap::new();
        for kill in 1..=self.kills {
            while changes < self.changes * kill / self.kills {
                self.change(&cloud, changes, &mut states);
                changes += 1;
            }
            let group = self.victim(&mut dice, kill);
            drop(tokio::time::timeout(self.within, self.moment(&cloud, &host, &mut dice, group)).await);
            if group == HOST {
                // A message comes twice at once; another one is done, and comes again.
                host.inject(OF_QUEUES[dice.place(2)], Fault::DuplicateDelivery).expect("a function");
                host.inject(OF_QUEUES[dice.place(2)], Fault::KillBeforeDelete).expect("a function");
            } else {
                host.kill(group).expect("a group");
            }
            *killed.entry(group).or_default() += 1;
        }
        self.finish(&cloud, &host).await;
        println!("{changes} changes, {} kills: {killed:?}", self.kills);
        self.judge(&cloud, &host, &states);
    }

    /// Every other change is of a user, the rest are of groups.
    fn change(&self, cloud: &Cloud, change: usize, states: &mut BTreeMap<String, String>) {
        let (mut world, now) = (cloud.emulator.world(), Timestamp::now());
        let told = if change.is_multiple_of(2) {
            let id = user(change % (self.changes / 2));
            world.put_user(TENANT, &id, json!({"displayName": change}), now)
        } else {
            let (id, state) = (format!("g{}", change % (self.changes / 4)), format!("state {change}"));
            let told = world.put_group(TENANT, &id, json!({"displayName": state}), now);
            states.insert(id, state);
            told
        };
        assert_eq!(told, 1, "one subscription");
    }

    /// Who is killed: first each that takes part.
    fn victim(&self, dice: &mut Dice, kill: usize) -> &'static str {
        match kill {
            1 | 4 => OF_QUEUES[0],
            2 => OF_HTTP,
            3 => OF_QUEUES[1],
            _ if self.whole && kill.is_multiple_of(5) => HOST,
            _ => ALL[dice.place(if self.whole { ALL.len() } else { 6 })],
        }
    }

    /// When it is: at some time while that process has something in hand.
    async fn moment(&self, cloud: &Cloud, host: &FunctionsHost, dice: &mut Dice, group: &str) {
        let function = match group {
            OF_HTTP => "ReceiveNotifications",
            HOST => OF_QUEUES[0],
            function => function,
        };
        if function == OF_QUEUES[0] {
            more(cloud, 1 + usize::try_from(dice.below(self.requests)).expect("small")).await;
        }
        let works = |one: &Invocation| one.function == function && matches!(one.outcome, Outcome::Running);
        host.until(|record| record.invocations.iter().rev().take(200).any(works).then_some(())).await;
        drop(tokio::time::timeout(Duration::from_millis(dice.below(15)), std::future::pending::<()>()).await);
    }

    /// All was delivered, and the queues are empty.
    async fn finish(&self, cloud: &Cloud, host: &FunctionsHost) {
        let (queues, clock) = (cloud.queues(), std::sync::Arc::new(SystemClock::default()) as std::sync::Arc<dyn Clock>);
        let store =
            azure::open(&account(&cloud.azurite), &Names::default(), &reqwest::Client::new(), &clock).expect("an account");
        let work = async {
            let (mut look, mut running) = (tokio::time::interval(Duration::from_millis(500)), Running::default());
            loop {
                look.tick().await;
                let mut left = !cloud.emulator.world().notifications.is_settled();
                for queue in [QUEUE, URGENT_QUEUE] {
                    left |= count(&queues, queue).await > 0;
                }
                if !left {
                    return;
                }
                if !self.whole {
                    end_turns(store.state.as_ref(), running.since(host)).await;
                }
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(900), work).await;
        assert!(done.is_ok(), "it does not come to an end: {:#?}", host.lines().iter().rev().take(50).collect::<Vec<_>>());
        assert_eq!(cloud.emulator.world().notifications.lost, [], "the service lost something itself");
        for queue in [QUEUE, URGENT_QUEUE] {
            assert_eq!(count(&queues, &poison_of(queue)).await, 0, "{queue}");
        }
        let dead = dispatch::list(store.state.as_ref(), None).await.expect("listed");
        assert!(dead.is_empty(), "{dead:#?}");
    }

    fn judge(&self, cloud: &Cloud, host: &FunctionsHost, states: &BTreeMap<String, String>) {
        let mut failed: BTreeMap<String, usize> = BTreeMap::new();
        for invocation in host.invocations().iter().filter(|one| matches!(one.outcome, Outcome::Failure(_))) {
            *failed.entry(invocation.function.clone()).or_default() += 1;
        }
        let world = cloud.emulator.world();
        let received = &world.playbooks[WEBHOOK].received;
        let to = |name: &str| -> Vec<&Received> {
            let end = format!("?to={name}");
            received.iter().filter(|one| one.target.ends_with(&end)).collect()
        };
        let delivered = world.notifications.delivered_items();
        let users = delivered.iter().filter(|item| item["resource"].as_str().is_some_and(|path| path.starts_with("Users/")));
        let told: BTreeSet<String> = users.map(|item| item["resourceData"]["sequenceNumber"].to_string()).collect();
        let (tries, taken) = (world.notifications.log.len(), world.notifications.delivered().count());
        let keys: BTreeSet<&str> = received.iter().map(key).collect();
        let repeated = received.len() - keys.len();
        println!(
            "{} items in {taken} deliveries ({tries} tries); invocations that failed: {failed:?}; {} keys in {} requests, {repeated} of them repeated",
            delivered.len(),
            keys.len(),
            received.len(),
        );
        let acted = keys_by_id(to("seen"));
        assert_eq!(acted.keys().cloned().collect::<BTreeSet<_>>(), told, "each was acted on");
        assert!(acted.values().all(|keys| keys.len() == 1), "each under one key");
        let text = |body: &Value, name: &str| body[name].as_str().expect("a text").to_owned();
        let latest: BTreeMap<String, String> =
            effects(to("read")).iter().map(|(_, body)| (text(body, "id"), text(body, "state"))).collect();
        assert_eq!(latest, *states, "the latest state of each group");
        assert!(repeated <= self.kills * AT_ONCE, "{repeated} requests came again after {} kills", self.kills);
        // A kill that nobody noticed is none.
        let noticed = ["ReceiveNotifications", OF_QUEUES[0], OF_QUEUES[1]].iter().all(|name| failed.contains_key(*name));
        assert!(self.kills < A_PROOF || noticed, "kills found nothing at work: {failed:?}");
        let live: Vec<&notifications::Subscription> = world.notifications.subscriptions(Timestamp::now());
        assert_eq!(live.len(), 2, "{live:?}");
        assert_eq!(host.contract_errors(), []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_are_killed_while_notifications_come_and_each_is_acted_on_once_in_effect() {
    let within = Duration::from_secs(3);
    Ordeal { changes: 90, kills: 6, requests: 12, within, whole: false, seed: 7 }.endured().await;
}

/// `cargo test --test it hosted::notified::ten -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes seven minutes"]
async fn ten_thousand_notifications_survive_fifty_kills_of_any_process() {
    let within = Duration::from_secs(10);
    Ordeal { changes: 10_000, kills: 50, requests: 150, within, whole: true, seed: 41 }.endured().await;
}
