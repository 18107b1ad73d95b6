//! The real program killed again and again while notifications come for both queues, and for playbooks of every kind: some fetch
//! and some do not, two share an item, and one has two actions of which the second often fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use emulator::faults::{Effect, Fault, When};
use emulator::{Received, Service, TENANT};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::killed::{AT_ONCE, age, finish, held_since, more, rough, runs};
use super::{Served, USER};
use crate::ordeal::{A_PROOF, Dice, effects, key, keys_by_id, user};

/// `TO` stands for the end of the address: who was told.
const ACTION: &str = r#"
  [[playbook.action]]
  kind = "webhook"
  url = "WEBHOOK?to=TO"
  allow_private_address = true
  body = "selected"
"#;

const SOURCES: [(&str, &[&str]); 4] = [
    (
        r#"
[[playbook]]
name = "seen"
source = { resource = "users", change_types = ["updated"] }
fetch = { mode = "none" }
select.string = { id = "notification.resourceData.sequenceNumber" }
"#,
        &["seen"],
    ),
    (
        r#"
[[playbook]]
name = "read"
source = { resource = "users", change_types = ["updated"] }
select.string = { id = "resource.id", state = "resource.displayName" }
"#,
        &["read"],
    ),
    (
        r#"
[[playbook]]
name = "pair"
priority = "urgent"
source = { resource = "groups", change_types = ["updated"] }
fetch = { mode = "none" }
select.string = { id = "notification.resourceData.sequenceNumber" }
"#,
        &["first", "second"],
    ),
    (
        r#"
[[playbook]]
name = "mail"
priority = "urgent"
source = { resource = "users/USER/messages", change_types = ["created"] }
select.string = { id = "resource.id", state = "resource.subject" }
"#,
        &["mail"],
    ),
];

fn document() -> String {
    let playbook = |(text, to): &(&str, &[&str])| {
        let actions: String = to.iter().map(|to| ACTION.replace("TO", to)).collect();
        text.replace("USER", USER) + &actions
    };
    "version = 1\n".to_owned() + &SOURCES.iter().map(playbook).collect::<String>()
}

struct Ordeal {
    /// Changes of users, of groups and of messages, in all.
    changes: usize,
    kills: usize,
    /// Each kill comes within so many requests at the webhook after a start, or so much time.
    requests: u64,
    within: Duration,
    seed: u64,
    /// What is held by the dead is free at the last start; else it is waited for.
    age: bool,
}

/// What there is in the end.
#[derive(Default)]
struct Made {
    names: BTreeMap<String, String>,
    groups: usize,
    messages: BTreeSet<String>,
}

impl Made {
    /// Half of the changes are of users, the rest of groups and messages.
    fn change(&mut self, served: &Served, change: usize, users: usize) {
        let (mut world, now) = (served.emulator.world(), Timestamp::now());
        let told = match change % 4 {
            0 | 1 => {
                let (id, name) = (user(change % users), format!("name {change}"));
                self.names.insert(id.clone(), name.clone());
                world.put_user(TENANT, &id, json!({"displayName": name}), now)
            }
            2 => {
                self.groups += 1;
                world.put_group(TENANT, &format!("g{}", change % (users / 2)), json!({"displayName": change}), now)
            }
            _ => {
                let id = format!("m{change}");
                self.messages.insert(id.clone());
                world.put_message(TENANT, USER, &id, json!({"subject": "a subject"}), now)
            }
        };
        assert_eq!(told, 1, "one subscription");
    }
}

/// The second action of the pair fails in three ways, and in the last one has an effect all the same.
fn faults(served: &Served) {
    let again = Effect::Status { status: 429, body: String::new(), retry_after: Some("1".to_owned()) };
    let broken = Effect::Status { status: 503, body: String::new(), retry_after: None };
    for (state, permille, effect) in [(1, 80, again), (2, 50, broken), (3, 30, Effect::CutAfter)] {
        let (path, when) = ("to=second".to_owned(), When::Chance { permille, state });
        served.emulator.world().faults.push(Fault { service: Service::ThreatConnect, path, body: String::new(), when, effect });
    }
}

impl Ordeal {
    async fn endured(&self) {
        let mut served = Served::new(&document()).await;
        served.set("SUBSCRIPTION_SCHEDULE", "0 0 0 1 1 *");
        rough(&mut served);
        let mut child = served.start().await;
        served.subscribe().await;
        faults(&served);
        let (mut dice, mut made, mut changes) = (Dice(self.seed), Made::default(), 0);
        let (mut busy, mut caught, mut started) = (0, 0, Timestamp::now());
        for kill in 1..=self.kills {
            while changes < self.changes * kill / self.kills {
                made.change(&served, changes, self.changes / 4);
                changes += 1;
            }
            let requests = 1 + usize::try_from(dice.below(self.requests)).expect("small");
            tokio::select! {
                () = runs(&mut child, self.within, &served) => {}
                () = more(&served, requests) => {}
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
        println!("{changes} changes; {} kills, {busy} of them with {caught} messages at work", self.kills);
        finish(&served, &mut child).await;
        self.judge(&served, &made);
        assert!(self.kills < A_PROOF || busy * 2 > self.kills, "most kills found nothing at work");
    }

    fn judge(&self, served: &Served, made: &Made) {
        let received = served.received();
        let to = |name: &str| -> Vec<&Received> {
            let end = format!("?to={name}");
            received.iter().filter(|one| one.target.ends_with(&end)).collect()
        };
        let world = served.emulator.world();
        let refused = world.log.iter().filter(|one| one.target.ends_with("to=second") && one.status != 200);
        let (told, delivered) = (world.notifications.log.len(), world.notifications.delivered_items());
        println!("{} items of {told} tries; the second action failed {} times", delivered.len(), refused.count());
        let numbers = |of: &str| -> BTreeSet<String> {
            let items = delivered.iter().filter(|item| item["resource"].as_str().is_some_and(|path| path.starts_with(of)));
            let numbers = items.map(|item| item["resourceData"]["sequenceNumber"].clone());
            numbers.filter(|number| !number.is_null()).map(|number| number.to_string()).collect()
        };
        let (users, groups) = (numbers("Users/"), numbers("Groups/"));
        assert_eq!(groups.len(), made.groups);
        for (name, expected) in [("seen", &users), ("first", &groups), ("second", &groups), ("mail", &made.messages)] {
            let keys = keys_by_id(to(name));
            assert_eq!(keys.keys().cloned().collect::<BTreeSet<_>>(), *expected, "{name}: each was acted on");
            assert!(keys.values().all(|keys| keys.len() == 1), "{name}: each under one key");
        }
        for name in ["seen", "read", "first", "second", "mail"] {
            let (requests, keys) = (to(name).len(), to(name).iter().map(|one| key(one)).collect::<BTreeSet<_>>().len());
            println!("{name}: {keys} keys in {requests} requests, {} of them repeated", requests - keys);
            // That the second failed is no reason to ask the first again; only that one's answers were lost.
            let bound = self.kills * AT_ONCE + if name == "second" { groups.len() } else { 0 };
            assert!(requests - keys <= bound, "{name}: {} requests came again", requests - keys);
        }
        let text = |body: &Value, name: &str| body[name].as_str().expect("a text").to_owned();
        let latest: BTreeMap<String, String> =
            effects(to("read")).iter().map(|(_, body)| (text(body, "id"), text(body, "state"))).collect();
        assert_eq!(latest, made.names, "the latest state of each user");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_both_queues_reach_playbooks_of_every_kind_once_in_effect() {
    let within = Duration::from_secs(4);
    Ordeal { changes: 240, kills: 8, requests: 40, within, seed: 3, age: true }.endured().await;
}

/// `cargo test --test it serve::mixed::five -- --ignored --nocapture`: what a killed program held is free after five minutes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes six minutes"]
async fn five_thousand_changes_for_both_queues_survive_fifty_kills() {
    let within = Duration::from_secs(5);
    Ordeal { changes: 5_000, kills: 50, requests: 120, within, seed: 31, age: false }.endured().await;
}
