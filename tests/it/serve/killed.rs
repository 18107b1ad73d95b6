//! The real program killed again and again while notifications come: nothing is lost, and nothing is done twice in effect.
//!
//! Who is killed can tell nobody what it had begun: its messages come again after five minutes, and its turn at a resource ends
//! after three. The short story moves that time forward in the state file; the long one waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use emulator::{Received, TENANT};
use indicator_relay::dispatch;
use indicator_relay::notifications::item::{QUEUE, URGENT_QUEUE};
use indicator_relay::platform::clock::SystemClock;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{Queue as _, poison_of};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::process::Child;

use super::{PATIENCE, Served, WEBHOOK};
use crate::ordeal::{Dice, body, key, user};

/// Messages that one queue's worker handles at once, and for how long nobody else gets them.
pub(super) const AT_ONCE: usize = 8;
pub(super) const HELD_FOR: SignedDuration = SignedDuration::from_mins(5);
pub(super) const LOOK: Duration = Duration::from_millis(100);

const SEEN: &str = r#"
version = 1

[[playbook]]
name = "seen"

  [playbook.source]
  resource = "users"
  change_types = ["updated"]

  [playbook.fetch]
  mode = "none"

  [playbook.select]
  string = { user = "notification.resourceData.id", number = "notification.resourceData.sequenceNumber" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

const READ: &str = r#"
version = 1

[[playbook]]
name = "read"

  [playbook.source]
  resource = "users"
  change_types = ["updated"]

  [playbook.select]
  string = { user = "resource.id", name = "resource.displayName" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

/// What happens to the program.
struct Ordeal {
    playbooks: &'static str,
    notifications: usize,
    users: usize,
    kills: usize,
    /// Each kill comes within so long after a start, and within so many requests at the webhook.
    within: Duration,
    requests: Option<u64>,
    /// What is held by the dead is free at the last start.
    age: bool,
    seed: u64,
}

/// It runs for so long, or ends by itself, which it must not.
pub(super) async fn runs(child: &mut Child, time: Duration, served: &Served) {
    if let Ok(ended) = tokio::time::timeout(time, child.wait()).await {
        panic!("the program ended by itself ({ended:?}): {}", served.log());
    }
}

/// It is over.
struct Endured {
    served: Served,
    /// The name that each user has in the end.
    names: BTreeMap<String, String>,
    /// Kills at which messages were at work, and how many those were in all.
    busy: usize,
    caught: usize,
}

/// So many more requests came to the webhook.
pub(super) async fn more(served: &Served, requests: usize) {
    let count = || served.emulator.world().playbooks[WEBHOOK].received.len();
    let until = count().saturating_add(requests);
    let mut look = tokio::time::interval(Duration::from_millis(5));
    while count() < until {
        look.tick().await;
    }
}

impl Ordeal {
    /// Lives through it.
    async fn endured(&self) -> Endured {
        let mut served = Served::new(self.playbooks).await;
        served.set("SUBSCRIPTION_SCHEDULE", "0 0 0 1 1 *");
        rough(&mut served);
        let mut child = served.start().await;
        served.subscribe().await;
        let (mut dice, mut changes, mut names) = (Dice(self.seed), 0, BTreeMap::new());
        let (mut busy, mut caught, mut started) = (0, 0, Timestamp::now());
        for kill in 1..=self.kills {
            let until = self.notifications * kill / self.kills;
            while changes < until {
                let (id, name) = (user(changes % self.users), format!("name {changes}"));
                let told = served.emulator.world().put_user(TENANT, &id, json!({"displayName": name}), Timestamp::now());
                assert_eq!(told, 1, "one subscription");
                names.insert(id, name);
                changes += 1;
            }
            let within = u64::try_from(self.within.as_millis()).expect("small");
            let moment = runs(&mut child, Duration::from_millis(dice.below(within)), &served);
            let requests = self.requests.map(|most| 1 + usize::try_from(dice.below(most)).expect("small"));
            tokio::select! {
                () = moment => {}
                () = more(&served, requests.unwrap_or_default()), if requests.is_some() => {}
            }
            child.kill().await.expect("killed");
            let held = held_since(&served, started);
            busy += usize::from(held > 0);
            caught += held;
            if self.age && kill == self.kills {
                age(&served);
            }
            started = Timestamp::now();
            child = served.spawn();
        }
        finish(&served, &mut child).await;
        Endured { served, names, busy, caught }
    }

    /// Requests with a key that came before: no more than what was under way when it was killed.
    fn repeated(&self, received: &[Received]) -> usize {
        let keys: BTreeSet<&str> = received.iter().map(key).collect();
        let repeated = received.len() - keys.len();
        assert!(repeated <= self.kills * AT_ONCE, "{repeated} requests came again after {} kills", self.kills);
        repeated
    }
}

/// A service that delivers doubled, out of order and several at once, as soon as it can.
pub(super) fn rough(served: &mut Served) {
    {
        let mut world = served.emulator.world();
        let notifications = &mut world.notifications;
        notifications.doubled_permille = 100;
        notifications.shuffled = true;
        notifications.parallel = 4;
        world.resources.enforce_rate = false;
    }
    served.emulator.deliver_always();
}

/// All was delivered, and the queues are empty.
pub(super) async fn finish(served: &Served, child: &mut Child) {
    let store = store(served);
    let work = async {
        loop {
            runs(child, LOOK, served).await;
            let settled = served.emulator.world().notifications.is_settled();
            let waiting = (store.count(QUEUE).await.expect("counted"), store.count(URGENT_QUEUE).await.expect("counted"));
            if settled && waiting == (0, 0) {
                return;
            }
        }
    };
    let done = tokio::time::timeout(Duration::from_secs(1_200), work).await;
    assert!(done.is_ok(), "it does not come to an end: {}", served.log());
    assert_eq!(served.emulator.world().notifications.lost, [], "the service lost something itself");
    for queue in [QUEUE, URGENT_QUEUE] {
        assert_eq!(store.count(&poison_of(queue)).await.expect("counted"), 0);
        assert_eq!(store.count(queue).await.expect("counted"), 0);
    }
    let dead = dispatch::list(&store, None).await.expect("listed");
    assert!(dead.is_empty(), "{dead:#?}");
}

pub(super) fn store(served: &Served) -> SqliteStore {
    SqliteStore::open(&served.folder.path().join("state.db"), Arc::new(SystemClock::default())).expect("opened")
}

/// The program's file, which it may be at.
pub(super) fn state(served: &Served) -> rusqlite::Connection {
    let file = rusqlite::Connection::open(served.folder.path().join("state.db")).expect("opened");
    file.busy_timeout(PATIENCE).expect("set");
    file
}

/// Messages that a program started then had received when it was killed, and not deleted.
pub(super) fn held_since(served: &Served, started: Timestamp) -> usize {
    let file = state(served);
    let until = (started + HELD_FOR).as_millisecond();
    let held = "SELECT count(*) FROM messages WHERE tries > 0 AND visible_at >= ?1";
    let count: i64 = file.query_row(held, [until], |row| row.get(0)).expect("counted");
    usize::try_from(count).expect("small")
}

/// Ten minutes pass for who waits until what a dead program holds is free.
pub(super) fn age(served: &Served) {
    let passed = SignedDuration::from_mins(10);
    let file = state(served);
    let by = i64::try_from(passed.as_millis()).expect("small");
    file.execute("UPDATE messages SET visible_at = visible_at - ?1", [by]).expect("aged");
    let held = "FROM rows WHERE key LIKE 'r.%' AND json_extract(value, '$.lease.until') IS NOT NULL";
    let mut select = file.prepare(&format!("SELECT key, json_extract(value, '$.lease.until') {held}")).expect("a query");
    let leases: Vec<(String, String)> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows").map(|row| row.expect("a row")).collect();
    for (key, until) in leases {
        let until = until.parse::<Timestamp>().expect("a time") - passed;
        let aged = "UPDATE rows SET value = CAST(json_set(value, '$.lease.until', ?1) AS BLOB) WHERE key = ?2";
        file.execute(aged, [&until.to_string(), &key]).expect("aged");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_ten_times_it_still_tells_of_the_latest_state_of_each_user() {
    let ordeal = Ordeal {
        playbooks: READ,
        notifications: 500,
        users: 250,
        kills: 10,
        within: Duration::from_secs(5),
        requests: Some(40),
        age: true,
        seed: 11,
    };
    let Endured { served, names, busy, caught } = ordeal.endured().await;
    let received = served.received();
    let repeated = ordeal.repeated(&received);
    // The other side takes a key once: the first request with it is the one that has an effect.
    let (mut taken, mut latest) = (BTreeSet::new(), BTreeMap::new());
    for received in received.iter().filter(|received| taken.insert(key(received))) {
        let body = body(received);
        let text = |name: &str| body[name].as_str().expect("a text").to_owned();
        latest.insert(text("user"), text("name"));
    }
    println!(
        "{} notifications; {} kills, {busy} of them with {caught} messages at work; {} runs in {} requests, {repeated} of them repeated",
        ordeal.notifications,
        ordeal.kills,
        taken.len(),
        received.len(),
    );
    let missed: Vec<_> = names.iter().filter(|(user, name)| latest.get(*user) != Some(*name)).collect();
    assert!(missed.is_empty(), "{missed:?}\n{}", served.log());
}

/// `cargo test --test it serve::killed::ten -- --ignored --nocapture`: some seven minutes, because what a killed program held
/// is free after five.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes seven minutes"]
async fn ten_thousand_notifications_survive_fifty_kills() {
    let ordeal = Ordeal {
        playbooks: SEEN,
        notifications: 10_000,
        users: 2_500,
        kills: 50,
        within: Duration::from_secs(4),
        requests: Some(200),
        age: false,
        seed: 23,
    };
    let Endured { served, busy, caught, .. } = ordeal.endured().await;
    let received = served.received();
    let repeated = ordeal.repeated(&received);
    let world = served.emulator.world();
    let delivered = world.notifications.delivered_items();
    let told: BTreeSet<String> = delivered.iter().map(|item| item["resourceData"]["sequenceNumber"].to_string()).collect();
    let mut acted: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for received in &received {
        let number = body(received)["number"].as_str().expect("a number").to_owned();
        acted.entry(number).or_default().insert(key(received));
    }
    let runs = world.playbooks[WEBHOOK].runs_by_key();
    println!(
        "{} notifications in {} items of {} deliveries ({} tries); {} kills, {busy} of them with {caught} messages at work; {} keys in {} requests, {repeated} of them repeated",
        told.len(),
        delivered.len(),
        world.notifications.delivered().count(),
        world.notifications.log.len(),
        ordeal.kills,
        runs.len(),
        received.len(),
    );
    assert!(busy * 2 > ordeal.kills, "most kills found nothing at work");
    assert_eq!(told.len(), ordeal.notifications);
    assert_eq!(acted.keys().collect::<Vec<_>>(), told.iter().collect::<Vec<_>>(), "each was acted on");
    assert!(acted.values().all(|keys| keys.len() == 1), "each under one key");
    assert_eq!(runs.len(), ordeal.notifications);
}
