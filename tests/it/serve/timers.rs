//! The real program killed again and again while its timers work: subscriptions are made, renewed, replaced and caught up, and
//! alerts are polled, while notifications and lifecycle events come.
//!
//! Whoever is killed at the subscriptions keeps others away for five minutes, what it had in hand is hidden for as long, and
//! nothing is sent twice to one subscription within ten. So ten minutes pass at every other kill, for what is stored and for the
//! service alike; in between, what comes later is done before what was in hand.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use emulator::notifications::{Changed, Lifecycle};
use emulator::{Service, TENANT};
use indicator_relay::dispatch;
use indicator_relay::notifications::item::{QUEUE, URGENT_QUEUE};
use indicator_relay::storage::{Queue as _, poison_of};
use jiff::{SignedDuration, Timestamp};
use rusqlite::OptionalExtension as _;
use serde_json::{Value, json};
use tokio::process::Child;

use super::killed::{AT_ONCE, LOOK, age, rough, runs, state, store};
use super::{Served, USER};
use crate::ordeal::{A_PROOF, Dice, effects, user};

/// Who is at the subscriptions keeps others away for so long.
const LEASE: SignedDuration = SignedDuration::from_mins(5);
/// What passes at a kill, and less than that between two touches of a subscription.
const PASSED: SignedDuration = SignedDuration::from_mins(10);
const APART: SignedDuration = SignedDuration::from_secs(590);
/// The latest moment of a kill after a start.
const WITHIN: Duration = Duration::from_secs(5);
const USERS: usize = 20;

const READ: &str = r#"
version = 1

[[playbook]]
name = "users"

  [playbook.source]
  resource = "users"
  change_types = ["updated"]

  [playbook.select]
  string = { kind = "'user'", id = "resource.id", state = "resource.displayName" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"

[[playbook]]
name = "alerts"

  [playbook.source]
  kind = "poll"
  resource = "security/alerts_v2"
  change_types = ["created", "updated"]

  [playbook.select.string]
  kind = "notification.changeType"
  id = "resource.id"
  state = "resource.status"
  told = "notification.resourceData.eventTime"
  updated = "resource.lastUpdateDateTime"

  [[playbook.action]]
  kind = "threatconnect_case"
  name = "{id}"
  severity = "High"
  description = "{state}"
  notes = ["{kind} {state}"]

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

/// Another playbook: in the second third of the ordeal, and in the last one with more changes.
const GROUPS: &str = r#"
[[playbook]]
name = "groups"
priority = "urgent"

  [playbook.source]
  resource = "groups"
  change_types = ["updated"]

  [playbook.fetch]
  mode = "none"

  [playbook.select]
  string = { kind = "'group'", id = "notification.resourceData.sequenceNumber" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

/// In the last third too.
const MESSAGES: &str = r#"
[[playbook]]
name = "messages"

  [playbook.source]
  resource = "users/3f6c2a10-0000-4000-8000-000000000001/messages"
  change_types = ["created"]

  [playbook.select]
  string = { kind = "'message'", id = "resource.id" }

  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK"
  allow_private_address = true
  body = "selected"
"#;

fn document(kill: usize, kills: usize) -> String {
    match kill * 3 / kills {
        0 => READ.to_owned(),
        1 => READ.to_owned() + GROUPS,
        _ => READ.to_owned() + &GROUPS.replace("[\"updated\"]", "[\"updated\", \"deleted\"]") + MESSAGES,
    }
}

/// Resources and changes of the live subscriptions, sorted.
fn live(served: &Served) -> Vec<(String, Vec<Changed>)> {
    let world = served.emulator.world();
    let live = world.notifications.subscriptions(Timestamp::now());
    let mut live: Vec<_> = live.iter().map(|one| (one.resource.clone(), one.changes())).collect();
    live.sort();
    live
}

fn wanted() -> Vec<(String, Vec<Changed>)> {
    vec![
        ("groups".to_owned(), vec![Changed::Updated, Changed::Deleted]),
        ("users".to_owned(), vec![Changed::Updated]),
        (format!("users/{USER}/messages"), vec![Changed::Created]),
    ]
}

/// Of the timers' work.
fn is_timers(target: &str) -> bool {
    ["/subscriptions", "/delta", "/alerts_v2"].iter().any(|part| target.contains(part))
}

/// Requests of timers at Graph so far.
fn asked(served: &Served, part: &str) -> usize {
    let world = served.emulator.world();
    let graph = world.log.iter().filter(|logged| logged.service == Service::Graph && is_timers(&logged.target));
    graph.filter(|logged| logged.target.contains(part)).count()
}

/// So many more of them.
async fn more(served: &Served, requests: u64) {
    let until = asked(served, "") + usize::try_from(requests).expect("small");
    let mut look = tokio::time::interval(Duration::from_millis(5));
    while asked(served, "") < until {
        look.tick().await;
    }
}

/// Ten minutes are over, for what the program has stored and for the service.
fn pass(served: &Served) {
    age(served);
    let file = state(served);
    // On a slow machine, each start may be killed over the same messages: they are not set aside for that.
    file.execute("UPDATE messages SET tries = 0", []).expect("aged");
    let ours = "partition = (SELECT id FROM partitions WHERE name = 'subscriptions')";
    let update = format!("UPDATE rows SET value = ?1 WHERE key = ?2 AND {ours}");
    let mut select = file.prepare(&format!("SELECT key, value FROM rows WHERE {ours}")).expect("a query");
    let rows: Vec<(String, Vec<u8>)> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows").map(|row| row.expect("a row")).collect();
    for (key, value) in rows {
        let mut value: Value = serde_json::from_slice(&value).expect("JSON");
        for name in ["/until", "/not_before", "/at", "/created", "/touched", "/next", "/problem/not_before"] {
            let Some(place) = value.pointer_mut(name) else { continue };
            if let Some(Ok(at)) = place.as_str().map(str::parse::<Timestamp>) {
                *place = json!(at - PASSED);
            }
        }
        file.execute(&update, rusqlite::params![serde_json::to_vec(&value).expect("JSON"), key]).expect("aged");
    }
    let notifications = &mut served.emulator.world().notifications;
    let ids: Vec<String> = notifications.subscriptions(Timestamp::now()).iter().map(|one| one.id.clone()).collect();
    for one in ids {
        let one = notifications.subscription_mut(&one).expect("it is there");
        one.created -= PASSED;
        one.patched.iter_mut().chain(&mut one.reauthorized).for_each(|at| *at -= PASSED);
    }
}

/// Somebody who was started then is at the subscriptions, or was when it was killed.
fn is_held(file: &rusqlite::Connection, started: Timestamp) -> bool {
    let until =
        "SELECT json_extract(value, '$.until') FROM rows WHERE key = 'lease' AND json_extract(value, '$.holder') IS NOT NULL";
    let until: Option<String> = file.query_row(until, [], |row| row.get(0)).optional().expect("a row");
    until.is_some_and(|until| until.parse::<Timestamp>().expect("a time") >= started + LEASE)
}

/// The moment of a kill: after so many requests of timers, and at every other kill while somebody is at the subscriptions.
async fn moment(served: &Served, dice: &mut Dice, kill: usize, started: Timestamp) {
    more(served, 1 + dice.below(6)).await;
    if kill.is_multiple_of(2) {
        return;
    }
    let (file, mut look) = (state(served), tokio::time::interval(Duration::from_millis(2)));
    while !is_held(&file, started) {
        look.tick().await;
    }
    tokio::time::timeout(Duration::from_millis(dice.below(20)), std::future::pending::<()>()).await.unwrap_or_default();
}

/// What happens to the program.
struct Ordeal {
    kills: usize,
    seed: u64,
}

/// What the world looks like, and what was counted.
#[derive(Default)]
struct Told {
    /// The latest name of each user, and the latest state of each alert.
    users: BTreeMap<String, String>,
    alerts: BTreeMap<String, String>,
    /// Kills at which a timer was at the subscriptions, and at which alerts were polled.
    at_subscriptions: usize,
    at_alerts: usize,
    events: BTreeMap<&'static str, usize>,
}

impl Told {
    /// Users and alerts change.
    fn change(&mut self, served: &Served, dice: &mut Dice, round: usize) {
        let mut world = served.emulator.world();
        for change in 0..10 {
            let id = user(dice.place(USERS));
            let name = format!("name {round} {change}");
            world.put_user(TENANT, &id, json!({"displayName": name}), Timestamp::now());
            self.users.insert(id, name);
        }
        for change in 0..5 {
            world.put_group(TENANT, &format!("g{change}"), json!({"displayName": round}), Timestamp::now());
        }
        world.put_message(TENANT, USER, &format!("m{round}"), json!({"subject": round}), Timestamp::now());
        for change in 0..6_usize {
            // Half of them are new.
            let known = self.alerts.len();
            let number = if change < 3 { known } else { dice.place(known) };
            let (id, state) = (format!("a{number:04}"), format!("state {round} {change}"));
            world.put_alert(TENANT, &id, json!({"title": "Beacon", "status": state}), Timestamp::now());
            self.alerts.insert(id, state);
        }
    }

    /// Something happens to one of the subscriptions, or to the key of all of them.
    fn happen(&mut self, served: &mut Served, dice: &mut Dice, round: usize) {
        let now = Timestamp::now();
        let ids: Vec<String> =
            served.emulator.world().notifications.subscriptions(now).iter().map(|one| one.id.clone()).collect();
        let Some(id) = ids.get(dice.place(ids.len())) else { return };
        // First each kind once.
        let kind = if round <= 5 { round as u64 } else { dice.below(6) };
        let what = match kind {
            0 | 1 => {
                served.emulator.world().remove_subscription(id, now);
                "removed"
            }
            2 => {
                served.emulator.world().raise_lifecycle(id, Lifecycle::ReauthorizationRequired, now);
                "challenged"
            }
            3 => {
                served.emulator.world().raise_lifecycle(id, Lifecycle::Missed, now);
                "missed"
            }
            4 => {
                let mut world = served.emulator.world();
                world.notifications.subscription_mut(id).expect("it is there").expires = now + SignedDuration::from_hours(1);
                "near its end"
            }
            _ => {
                let before = served.environment.get("CLIENT_STATE_KEY").cloned().expect("a key");
                served.set("CLIENT_STATE_KEY_PREVIOUS", &before);
                served.set("CLIENT_STATE_KEY", &format!("the key of the round {round}"));
                "another key"
            }
        };
        *self.events.entry(what).or_default() += 1;
    }
}

fn text(body: &Value, name: &str) -> String {
    body[name].as_str().unwrap_or_else(|| panic!("no {name}: {body}")).to_owned()
}

/// The last state of each of a kind that anybody was told.
fn states(effects: &[(&str, Value)], kinds: &[&str]) -> BTreeMap<String, String> {
    let mut states: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (_, body) in effects.iter().filter(|(_, body)| kinds.contains(&text(body, "kind").as_str())) {
        // Users have no time: what comes later was read later.
        let at = body["updated"].as_str().unwrap_or_default().to_owned();
        let known = states.entry(text(body, "id")).or_default();
        if at >= known.0 {
            *known = (at, text(body, "state"));
        }
    }
    states.into_iter().map(|(id, (_, state))| (id, state)).collect()
}

impl Ordeal {
    async fn endured(&self) -> (Served, Told) {
        let mut served = Served::new(&document(0, self.kills)).await;
        served.set("SUBSCRIPTION_SCHEDULE", "*/1 * * * * *");
        served.set("ALERT_POLL_SCHEDULE", "*/1 * * * * *");
        served.set("CLIENT_STATE_KEY", "the key of the first round");
        rough(&mut served);
        served.emulator.world().notifications.enforce_rate = false;
        let mut child = served.start().await;
        served.until("a place in the changes of users", |_| asked(&served, "/users/delta") > 0).await;
        let (mut dice, mut told, mut started) = (Dice(self.seed), Told::default(), Timestamp::now());
        for kill in 1..=self.kills {
            told.change(&served, &mut dice, kill);
            let polled = |served: &Served| (asked(served, "/alerts_v2"), served.log().matches("poll.finished").count());
            let before = polled(&served);
            tokio::select! {
                () = runs(&mut child, WITHIN, &served) => {}
                () = moment(&served, &mut dice, kill, started) => {}
            }
            child.kill().await.expect("killed");
            told.at_subscriptions += usize::from(is_held(&state(&served), started));
            let after = polled(&served);
            told.at_alerts += usize::from(after.0 - before.0 > after.1 - before.1);
            if kill.is_multiple_of(2) || kill == self.kills {
                pass(&served);
            }
            served.write(&document(kill, self.kills));
            told.happen(&mut served, &mut dice, kill);
            started = Timestamp::now();
            child = served.spawn();
        }
        self.settle(&served, &mut child, &told).await;
        // Each of those that there are tells of what comes next, once.
        {
            let (mut world, now) = (served.emulator.world(), Timestamp::now());
            assert_eq!(world.put_user(TENANT, &user(0), json!({"displayName": "last"}), now), 1);
            assert_eq!(world.put_group(TENANT, "last", json!({"displayName": "last"}), now), 1);
            assert_eq!(world.put_message(TENANT, USER, "last", json!({"subject": "last"}), now), 1);
        }
        told.users.insert(user(0), "last".to_owned());
        self.settle(&served, &mut child, &told).await;
        (served, told)
    }

    /// All was delivered and told, each wanted subscription is there once, and the timers find nothing to do.
    async fn settle(&self, served: &Served, child: &mut Child, told: &Told) {
        let store = store(served);
        let quiet = |event: &str, words: &[&str]| {
            let log = served.log();
            log.lines().filter(|line| line.contains(event) && words.iter().all(|word| line.contains(word))).count()
        };
        let timers = || {
            let reconciled = quiet("subscriptions.reconciled", &["\"changed\":0", "\"failed\":0", "\"caught_up\":0"]);
            (reconciled, quiet("poll.finished", &["\"created\":0", "\"updated\":0"]))
        };
        let is_done = || async {
            let waits = !served.emulator.world().notifications.is_settled();
            let mut messages = 0;
            for queue in [QUEUE, URGENT_QUEUE] {
                messages += store.count(queue).await.expect("counted");
            }
            let received = served.received();
            let effects = effects(&received);
            !waits
                && messages == 0
                && live(served) == wanted()
                && states(&effects, &["user"]) == told.users
                && states(&effects, &["created", "updated"]) == told.alerts
        };
        let work = async {
            loop {
                runs(child, LOOK, served).await;
                if !is_done().await {
                    continue;
                }
                let before = timers();
                loop {
                    runs(child, LOOK, served).await;
                    let after = timers();
                    if after.0 >= before.0 + 2 && after.1 >= before.1 + 2 {
                        break;
                    }
                }
                if is_done().await {
                    return;
                }
            }
        };
        let done = tokio::time::timeout(Duration::from_secs(1_200), work).await;
        let waits = (store.count(QUEUE).await.expect("counted"), store.count(URGENT_QUEUE).await.expect("counted"));
        assert!(done.is_ok(), "it does not come to rest: {:?}, {waits:?} messages\n{}", live(served), served.log());
        for queue in [QUEUE, URGENT_QUEUE] {
            assert_eq!(store.count(&poison_of(queue)).await.expect("counted"), 0);
        }
        let dead = dispatch::list(&store, None).await.expect("listed");
        assert!(dead.is_empty(), "{dead:#?}");
    }

    fn judge(&self, served: &Served, told: &Told) {
        let received = served.received();
        let effects = effects(&received);
        let repeated = received.len() - effects.len();
        let of = |kind: &str| -> Vec<&(&str, Value)> { effects.iter().filter(|(_, body)| body["kind"] == kind).collect() };
        let (created, updated, groups) = (of("created"), of("updated"), of("group"));
        let world = served.emulator.world();
        let made =
            world.log.iter().filter(|one| one.method == "POST" && one.target.ends_with("/subscriptions") && one.status == 201);
        println!(
            "{} kills, {} at the subscriptions and {} at the alerts; {:?}; {} subscriptions made; {} alerts in {} creations and {} updates; {} effects in {} requests, {repeated} of them repeated",
            self.kills,
            told.at_subscriptions,
            told.at_alerts,
            told.events,
            made.count(),
            told.alerts.len(),
            created.len(),
            updated.len(),
            effects.len(),
            received.len(),
        );
        let ids: BTreeSet<String> = created.iter().map(|(_, body)| text(body, "id")).collect();
        assert_eq!(ids, told.alerts.keys().cloned().collect::<BTreeSet<_>>(), "each alert is told of as new");
        assert_eq!(created.len(), told.alerts.len(), "under one key");
        let states: BTreeSet<(String, String)> = updated.iter().map(|(_, body)| (text(body, "id"), text(body, "told"))).collect();
        assert_eq!(states.len(), updated.len(), "each later state under one key");
        assert!(updated.iter().all(|(_, body)| body["told"] == body["updated"]), "each with its own state");
        let cases = world.cases.cases.values().map(|case| json!(case.members));
        let cases: Vec<(String, String)> = cases.map(|case| (text(&case, "name"), text(&case, "description"))).collect();
        assert_eq!(
            (cases.len(), cases.into_iter().collect()),
            (told.alerts.len(), told.alerts.clone()),
            "a case in its last state"
        );
        assert_eq!(world.cases.notes.len(), created.len() + updated.len(), "a note for each");
        // What is looked up has no number: it tells that something changed, whether or not a notification did.
        let numbers: Vec<String> = groups.iter().map(|(_, body)| text(body, "id")).filter(|number| !number.is_empty()).collect();
        let different = numbers.iter().collect::<BTreeSet<_>>().len();
        assert_eq!((different, numbers.is_empty()), (numbers.len(), false), "each notification under one key");
        let messages: BTreeSet<String> = of("message").iter().map(|(_, body)| text(body, "id")).collect();
        assert_eq!((messages.len(), messages.contains("last")), (of("message").len(), true), "each message under one key");
        assert!(repeated <= self.kills * 2 * AT_ONCE, "{repeated} requests came again");
        let lost: BTreeSet<&str> = world.notifications.lost.iter().map(|(_, why)| *why).collect();
        assert!(lost.iter().all(|why| *why == "the subscription is gone"), "{lost:?}");
        assert!(world.notifications.too_close.is_empty());
        for one in world.notifications.subscriptions(Timestamp::now()) {
            let apart = one.patched.windows(2).all(|pair| pair[1].duration_since(pair[0]) >= APART);
            assert!(apart, "renewed twice within ten minutes: {one:?}");
        }
        assert!(self.kills < A_PROOF || told.at_subscriptions * 4 > self.kills, "few kills found the subscriptions at work");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_its_timers_work_it_has_each_subscription_once_and_has_told_of_each_alert() {
    let ordeal = Ordeal { kills: 9, seed: 5 };
    let (served, told) = ordeal.endured().await;
    ordeal.judge(&served, &told);
}

/// `cargo test --test it serve::timers::fifty -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes"]
async fn fifty_kills_while_its_timers_work_double_no_subscription_and_no_alert() {
    let ordeal = Ordeal { kills: 50, seed: 17 };
    let (served, told) = ordeal.endured().await;
    ordeal.judge(&served, &told);
}
