//! Notifications on their way through playbooks: killed anywhere, doubled, out of order, against targets that fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select;
use indicator_relay::app::App;
use indicator_relay::app::playbooks::{Asked, Playbooks};
use indicator_relay::dispatch::{self, Decision, Fetch, Handled, Hold, Matches, Plan, Reading, Sealed};
use indicator_relay::functions::Relay;
use indicator_relay::notifications::item::{
    ChangeType, EncryptedContent, Event, Item, LifecycleEvent, Origin, QUEUE, Task, URGENT_QUEUE, Work,
};
use indicator_relay::notifications::wanted::Wanted;
use indicator_relay::platform::clock::Clock;
use indicator_relay::playbooks::action::Action;
use indicator_relay::playbooks::{NotFound, OnFailure, load};
use indicator_relay::polling::{Poller, Source};
use indicator_relay::storage::{Queue as _, StateStore as _, poison_of};
use serde_json::{Value, json};

use crate::between::Mortal;
use crate::functions::{Handler, ready, timer};
use crate::rig::Rig;
use crate::worker::{Answer, Call, World, graph, in_turn, ok, plan, reading, webhook};

const HOUR: Duration = Duration::from_secs(3_600);

pub(crate) fn deleted(mut item: Item) -> Item {
    item.event = Event::Change(ChangeType::Deleted);
    item
}

/// Keys of what reached the target, each with what it was about: `name id tag`.
fn effects(world: &World) -> BTreeMap<String, BTreeSet<String>> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for call in world.hooked() {
        let (name, body) = (call.target.trim_start_matches("/hook/").to_owned(), call.json());
        let about = format!("{name} {} {}", body["id"].as_str().unwrap_or_default(), body["tag"].as_str().unwrap_or_default());
        all.entry(about).or_default().insert(call.header("idempotency-key").to_owned());
    }
    all
}

fn sum(handled: &[Handled], of: impl Fn(&Handled) -> usize) -> usize {
    handled.iter().map(of).sum()
}

#[tokio::test]
async fn an_item_reaches_each_playbook_once_however_often_it_is_delivered() {
    let mut world = World::new(|call| Answer::Json(200, json!({"id": "u1", "read": call.target}))).await;
    world.plans = vec![world.hook("plain"), world.fetching_hook("reads", "users")];
    let item = world.item("Users", "u1", "e1");
    world.deliver(&item).await;
    world.deliver(&item).await;
    let handled = world.work().await;
    assert_eq!((sum(&handled, |h| h.done), sum(&handled, |h| h.duplicate)), (2, 2));
    world.clock.advance(7 * HOUR);
    world.deliver(&Item { received: world.clock.now(), ..item.clone() }).await;
    assert_eq!(sum(&world.work().await, |h| h.duplicate), 2, "seven hours later it is still known");
    assert_eq!(world.hooked().len(), 2);
    assert_eq!(world.read(), ["/users/u1"]);
    let body = world.hooked()[1].json();
    assert_eq!(body["resource"]["read"], "/v1.0/users/u1");
    world.clock.advance(2 * HOUR);
    world.deliver(&Item { received: world.clock.now(), ..item }).await;
    world.work().await;
    assert_eq!(world.hooked().len(), 4, "after eight hours it is acted on again");
    assert_eq!(effects(&world).values().map(BTreeSet::len).collect::<Vec<_>>(), [1, 1], "under the same key");
}

/// A day with everything in it: a large delivery, a second delivery, a deletion, a failing target, two kinds of playbooks.
async fn day() -> World {
    let failed = Mutex::new(BTreeSet::new());
    let mut world = World::new(move |call| {
        let tag = call.json()["tag"].as_str().unwrap_or_default().to_owned();
        let first = failed.lock().unwrap_or_else(PoisonError::into_inner).insert(call.header("idempotency-key").to_owned());
        if call.target.starts_with("/hook") && tag == "e2" && first { Answer::Json(500, json!({})) } else { ok() }
    })
    .await;
    world.plans = vec![
        world.hook("plain"),
        world.fetching_hook("reads", "users"),
        Plan { held: Some(Hold::Paused), ..world.hook("paused") },
    ];
    let batch = vec![world.item("users", "u1", "e1"), world.item("users", "u2", "e2"), deleted(world.item("users", "u1", "e3"))];
    world.put(&Work::Batch(batch)).await;
    world.deliver(&world.item("Users", "u2", "e2")).await;
    world
}

async fn killed_at(writes: i64, after: bool) -> bool {
    let world = day().await;
    let mortal = Mortal::at(&world.store, writes, after);
    let dispatcher = world.dispatcher_over(Arc::clone(&mortal) as _, Arc::clone(&mortal) as _);
    while !mortal.is_dead() {
        if world.handle_one(&dispatcher).await.is_none() {
            if world.store.count(QUEUE).await.expect("a queue") == 0 {
                break;
            }
            world.clock.advance(Duration::from_secs(1));
        }
    }
    world.work().await;
    let wanted: Vec<String> =
        ["plain u1 e1", "plain u1 e3", "plain u2 e2", "reads u1 e1", "reads u1 e3", "reads u2 e2"].map(str::to_owned).into();
    let effects = effects(&world);
    assert_eq!(effects.keys().cloned().collect::<Vec<_>>(), wanted, "killed at {writes} (after: {after})");
    assert!(effects.values().all(|keys| keys.len() == 1), "killed at {writes} (after: {after}): {effects:?}");
    let keys: BTreeSet<&String> = effects.values().flatten().collect();
    assert_eq!(keys.len(), 6, "each effect has a key of its own");
    let held: BTreeSet<String> =
        world.dead().await.iter().filter_map(|(_, dead)| dead.task.item.resource_id().map(str::to_owned)).collect();
    assert_eq!(held.len(), 2, "killed at {writes} (after: {after}): what is paused is held");
    assert!(world.dead().await.iter().all(|(_, dead)| dead.reason == "paused"));
    assert_eq!(world.store.count(&poison_of(QUEUE)).await.expect("a queue"), 0);
    mortal.is_dead()
}

#[tokio::test]
async fn killed_at_every_write_nothing_is_lost_and_each_effect_has_one_key() {
    let mut writes = 1;
    while killed_at(writes, false).await | killed_at(writes, true).await {
        writes += 1;
    }
    assert!(writes > 20, "{writes} writes were tried");
}

/// A playbook that writes the object that comes along into a case, with a note.
fn case_of(item: &Item) -> Action {
    let state = item.object.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned();
    Action::ThreatConnectCase {
        xid: "ir-5d41402abc4b2a76b9719d911017c592".to_owned(),
        name: state.clone(),
        status: "Open",
        severity: "High",
        description: None,
        tags: Vec::new(),
        artifacts: Vec::new(),
        notes: vec![state],
    }
}

/// Its holder went away with it, and it comes again when a later state has been written.
#[tokio::test]
async fn an_older_state_that_comes_late_leaves_the_case_as_it_is_and_adds_its_note() {
    let (mut name, mut notes) = (Value::Null, Vec::new());
    let mut world = World::new(move |call| {
        let path = call.target.split('?').next().unwrap_or_default();
        let list = |rows: Vec<Value>| Answer::Json(200, json!({"data": rows, "status": "Success"}));
        match (call.method.as_str(), path) {
            ("GET", "/api/v3/cases") if name.is_null() => list(Vec::new()),
            ("GET", "/api/v3/cases") => list(vec![json!({"id": 7, "name": name})]),
            ("GET", _) => list(notes.clone()),
            ("POST", "/api/v3/notes") => {
                notes.push(call.json());
                Answer::Json(201, json!({"data": {"id": 1}}))
            }
            _ => {
                name = call.json()["name"].clone();
                Answer::Json(200, json!({"data": {"id": 7}}))
            }
        }
    })
    .await;
    world.plans = vec![plan("cases", Fetch::Nothing, 20, |item, _| vec![case_of(item)])];
    let state = |tag: &str| Item { object: Some(json!(tag)), ..world.item("security/alerts_v2", "a1", tag) };
    world.deliver(&state("old")).await;
    assert_eq!(world.store.receive(QUEUE, 1, HOUR).await.expect("a queue").len(), 1, "somebody has it, and goes away");
    world.clock.advance(Duration::from_secs(300));
    world.deliver(&state("new")).await;
    assert_eq!(sum(&world.work().await, |h| h.done), 2);
    world.clock.advance(Duration::from_secs(1));
    world.deliver(&state("newest")).await;
    world.work().await;
    let written = |path: &str, member: &str| -> Vec<String> {
        let calls = world.server.calls();
        let to = calls.iter().filter(|call| call.method != "GET" && call.target.starts_with(path));
        to.map(|call| call.json()[member].as_str().unwrap_or_default().lines().next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(written("/api/v3/cases", "name"), ["new", "newest"]);
    assert_eq!(written("/api/v3/notes", "text"), ["new", "old", "newest"]);
}

#[tokio::test]
async fn a_deletion_runs_last_though_it_came_first() {
    let mut failures = 2;
    let mut world = World::new(move |call| {
        if call.json()["tag"] == "e1" && failures > 0 {
            failures -= 1;
            return Answer::Json(503, json!({}));
        }
        ok()
    })
    .await;
    world.plans = vec![world.hook("plain")];
    world.deliver(&deleted(world.item("users", "u1", "e2"))).await;
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    let tags: Vec<Value> = world.hooked().iter().map(|call| call.json()["tag"].clone()).collect();
    assert_eq!(tags, ["e1", "e1", "e1", "e2"], "also while the update before it is tried again");
}

pub(crate) fn tags(world: &World, name: &str) -> Vec<String> {
    let calls = world.hooked().into_iter().filter(|call| call.target == format!("/hook/{name}"));
    calls.map(|call| call.json()["tag"].as_str().unwrap_or_default().to_owned()).collect()
}

pub(crate) fn created(mut item: Item) -> Item {
    item.event = Event::Change(ChangeType::Created);
    item
}

/// A message that is read leaves the filter `isRead eq false`, and comes back when it is marked as unread.
#[tokio::test]
async fn what_comes_back_after_a_deletion_is_told_after_it() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.hook("plain"), world.fetching_hook("reads", "users/u1/messages")];
    let message = |world: &World, tag: &str| world.item("users/u1/messages", "m1", tag);
    world.deliver(&created(message(&world, "e1"))).await;
    world.work_for(Duration::ZERO).await;
    world.clock.advance(Duration::from_secs(7));
    let left = deleted(message(&world, "e2"));
    world.deliver(&left).await;
    world.work_for(Duration::ZERO).await;
    world.clock.advance(Duration::from_secs(1));
    world.deliver(&Item { received: world.clock.now(), ..left }).await;
    world.deliver(&created(message(&world, "e3"))).await;
    let handled = world.work().await;
    assert_eq!(tags(&world, "plain"), ["e1", "e2", "e3"]);
    assert_eq!(tags(&world, "reads"), ["e1", "e2", "e3"], "also where the object is read");
    assert_eq!(sum(&handled, |h| h.duplicate), 2, "a second delivery of what waits is known");
    assert!(world.clock.now().duration_since(message(&world, "").received).as_secs() < 60 && world.dead().await.is_empty());
}

#[tokio::test]
async fn what_comes_back_waits_as_long_as_the_deletion_is_tried_again() {
    let mut world = World::new(in_turn([vec![Answer::Json(503, json!({})); 3], vec![ok()]].concat())).await;
    world.plans = vec![world.hook("plain")];
    world.deliver(&deleted(world.item("users/u1/messages", "m1", "e1"))).await;
    world.clock.advance(Duration::from_secs(2));
    world.deliver(&created(world.item("users/u1/messages", "m1", "e2"))).await;
    world.work().await;
    assert_eq!(tags(&world, "plain"), ["e1", "e1", "e1", "e1", "e2"]);
}

#[tokio::test]
async fn a_deletion_that_waits_for_long_is_still_in_front_of_what_came_after_it() {
    let failing = Arc::new(Mutex::new(true));
    let script = Arc::clone(&failing);
    let mut world = World::new(move |call| {
        let fails = *script.lock().unwrap_or_else(PoisonError::into_inner);
        if call.json()["tag"] == "e1" && fails { Answer::Json(503, json!({})) } else { ok() }
    })
    .await;
    world.plans = vec![world.fetching_hook("reads", "users/u1/messages")];
    world.deliver(&created(world.item("users/u1/messages", "m1", "e1"))).await;
    world.work_for(Duration::from_secs(1)).await;
    world.deliver(&deleted(world.item("users/u1/messages", "m1", "e2"))).await;
    world.work_for(HOUR / 2).await;
    world.deliver(&created(world.item("users/u1/messages", "m1", "e3"))).await;
    world.work_for(Duration::from_secs(5)).await;
    *failing.lock().unwrap_or_else(PoisonError::into_inner) = false;
    world.work().await;
    let mut order = tags(&world, "reads");
    order.dedup();
    assert_eq!(order, ["e1", "e2", "e3"]);
}

#[tokio::test]
async fn the_deletion_of_a_user_runs_last_though_the_change_before_it_came_later() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.hook("plain")];
    world.deliver(&deleted(world.item("users", "u1", "e2"))).await;
    world.work_for(Duration::ZERO).await;
    world.clock.advance(Duration::from_secs(2));
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    assert_eq!(tags(&world, "plain"), ["e1", "e2"]);
}

#[tokio::test]
async fn what_is_tried_again_keeps_its_order_where_nothing_is_read() {
    let mut world = World::new(in_turn(vec![Answer::Json(500, json!({})), Answer::Json(500, json!({})), ok()])).await;
    world.plans = vec![world.hook("plain")];
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work_for(Duration::ZERO).await;
    world.clock.advance(Duration::from_secs(1));
    world.deliver(&world.item("users", "u1", "e2")).await;
    world.work().await;
    let tags: Vec<Value> = world.hooked().iter().map(|call| call.json()["tag"].clone()).collect();
    assert_eq!(tags, ["e1", "e1", "e1", "e2"], "an older state never overwrites a newer one");
}

#[tokio::test]
async fn a_target_that_fails_for_an_hour_gets_each_item_once_and_is_left_alone_meanwhile() {
    let mut world = World::new(|_| ok()).await;
    let (clock, start) = (world.clock.clone(), world.clock.now());
    world.server = crate::worker::Server::start(move |_| {
        let failing = clock.now().duration_since(start).as_secs() < 3_600;
        if failing { Answer::Json(500, json!({})) } else { ok() }
    })
    .await;
    world.plans = vec![world.hook("plain")];
    for i in 0..3 {
        world.deliver(&world.item("users", &format!("u{i}"), "e")).await;
    }
    world.work().await;
    let effects = effects(&world);
    assert_eq!((effects.len(), world.dead().await.len()), (3, 0));
    assert!(effects.values().all(|keys| keys.len() == 1));
    let calls = world.hooked().len();
    assert!((30..=42).contains(&calls), "{calls} calls for three items: the waits double");
    assert!(world.clock.now().duration_since(start).as_secs() < 2 * 3_600 + 600);
}

#[tokio::test]
async fn what_has_no_attempt_left_is_set_aside_with_the_reason_and_a_replay_performs_the_rest() {
    let failing = Arc::new(Mutex::new(true));
    let script = Arc::clone(&failing);
    let mut world = World::new(move |call| {
        let fails = *script.lock().unwrap_or_else(PoisonError::into_inner);
        if call.target == "/hook/b" && fails { Answer::Json(500, json!({"message": "no room"})) } else { ok() }
    })
    .await;
    let (a, b) = (world.server.url("/hook/a"), world.server.url("/hook/b"));
    world.plans = vec![plan("two", Fetch::Nothing, 3, move |item, _| vec![webhook(&b, item, None), webhook(&a, item, None)])];
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    let targets = |world: &World| world.hooked().iter().map(|call| call.target.clone()).collect::<Vec<_>>();
    assert_eq!(targets(&world), ["/hook/b", "/hook/a", "/hook/b", "/hook/b"], "what is done is not done again");
    let dead = world.dead().await;
    let [(_, row)] = dead.as_slice() else { panic!("{dead:?}") };
    assert_eq!((row.attempts, row.reason.as_str()), (3, "action 1: the webhook answered status 500: no room"));
    *failing.lock().unwrap_or_else(PoisonError::into_inner) = false;
    assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), &dead[0].0).await.expect("stored"));
    assert!(!dispatch::replay(world.store.as_ref(), world.store.as_ref(), &dead[0].0).await.expect("stored"));
    world.work().await;
    assert_eq!(targets(&world)[4..], ["/hook/b"]);
    assert_eq!(world.dead().await.len(), 0);
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    assert_eq!(targets(&world).len(), 5, "and then it is known");
}

#[tokio::test]
async fn a_target_that_refuses_is_not_asked_again() {
    let mut world = World::new(|_| Answer::Json(422, json!({"message": "not like that"}))).await;
    world.plans = vec![world.hook("plain")];
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    let dead = world.dead().await;
    assert!(world.hooked().len() == 1 && dead.len() == 1, "{dead:?}");
    assert_eq!(dead[0].1.reason, "action 1: the webhook refused the item: status 422 (not like that)");
}

#[tokio::test]
async fn a_target_that_hangs_holds_up_no_other() {
    let mut world = World::new(|call| if call.target == "/hook/hangs" { Answer::Hang } else { ok() }).await;
    let other = World::new(|_| ok()).await;
    world.per_target = 1;
    let (hangs, works) = (world.server.url("/hook/hangs"), other.server.url("/hook/works"));
    let to = move |item: &Item, _: Option<&Value>| {
        let url = if item.resource_id() == Some("good") { &works } else { &hangs };
        vec![webhook(url, item, None)]
    };
    world.plans = vec![plan("p", Fetch::Nothing, 20, to)];
    let dispatcher = world.dispatcher();
    let handle = |id: &str| {
        let (dispatcher, work) = (&dispatcher, Work::first(world.item("users", id, "e")));
        async move { dispatcher.handle(QUEUE, work).await.expect("handled") }
    };
    let moving = async {
        world.server.called().await;
        let good = handle("good").await;
        while !world.clock.is_awaited() {
            tokio::task::yield_now().await;
        }
        world.clock.advance(Duration::from_secs(3));
        good
    };
    // Which of the two has the place, and hangs as long as this looks, is all the same.
    let bad = select(Box::pin(handle("bad1")), Box::pin(handle("bad2")));
    let (bad, good) = tokio::join!(bad, moving);
    assert_eq!(good.done, 1);
    let reason = &bad.factor_first().0.again[0].reason;
    assert!(reason.contains("no place free"), "{reason}");
    assert_eq!(world.store.count(QUEUE).await.expect("a queue"), 1, "it comes again");
}

#[tokio::test]
async fn a_target_that_hangs_is_left_after_a_while_and_tried_again() {
    let mut world = World::new(|_| Answer::Hang).await;
    world.plans = vec![world.hook("plain")];
    world.timeout = Duration::from_millis(300);
    let work = Work::first(world.item("users", "u1", "e"));
    let handled = world.dispatcher().handle(QUEUE, work).await.expect("handled");
    let [told] = handled.again.as_slice() else { panic!("{handled:?}") };
    assert_eq!(told.reason, "action 1: the webhook did not answer: timed out");
    assert!(told.next.is_some_and(|next| next >= world.clock.now().saturating_add(Duration::from_secs(2)).expect("in range")));
    assert_eq!(world.store.count(QUEUE).await.expect("a queue"), 1, "it comes again");
}

#[tokio::test]
async fn many_changes_of_one_resource_are_read_once_and_a_later_one_again() {
    let mut world = World::new(|_| Answer::Json(200, json!({"id": "u1"}))).await;
    world.plans = vec![world.fetching_hook("reads", "users")];
    for i in 0..50 {
        world.deliver(&world.item("users", "u1", &format!("e{i}"))).await;
    }
    world.clock.advance(Duration::from_secs(2));
    let handled = world.work().await;
    assert_eq!((world.read().len(), sum(&handled, |h| h.covered)), (1, 49));
    world.clock.advance(Duration::from_secs(2));
    world.deliver(&world.item("users", "u1", "e50")).await;
    world.work().await;
    assert_eq!(world.read().len(), 2, "a change after the read is read again");
}

#[tokio::test]
async fn what_is_not_there_yet_is_looked_for_and_then_the_playbook_says() {
    let not_found = || Answer::Json(404, json!({}));
    let mut world = World::new(in_turn(vec![not_found(), not_found(), Answer::Json(200, json!({"id": "u1"})), ok()])).await;
    world.plans = vec![world.fetching_hook("reads", "users")];
    let start = world.clock.now();
    world.deliver(&world.item("users", "u1", "e")).await;
    world.work().await;
    assert_eq!((world.read().len(), world.hooked().len()), (3, 1));
    let took = world.clock.now().duration_since(start).as_secs();
    assert!((7..=12).contains(&took), "{took} s: after two and five seconds");
    for (policy, hooked, dead) in [(NotFound::Continue, 1, 0), (NotFound::Drop, 0, 0), (NotFound::Retry, 0, 1)] {
        let mut world =
            World::new(move |call| if call.target.starts_with("/hook") { ok() } else { Answer::Json(404, json!({})) }).await;
        let fetch = Fetch::Resource(Reading { not_found: policy, ..reading("users") });
        world.plans = vec![Plan { fetch, max_attempts: 7, ..world.hook("reads") }];
        let start = world.clock.now();
        world.deliver(&world.item("users", "u1", "e")).await;
        world.work().await;
        let looks = if policy == NotFound::Retry { 4 + 7 } else { 5 };
        assert_eq!((world.read().len(), world.hooked().len(), world.dead().await.len()), (looks, hooked, dead), "{policy:?}");
        assert!(world.clock.now().duration_since(start).as_secs() >= 82);
        assert!(world.dead().await.iter().all(|(_, dead)| dead.reason == "not found"));
    }
}

#[tokio::test]
async fn looks_for_what_is_not_there_yet_cost_the_actions_no_attempt() {
    let mut fails = [500, 429, 500].into_iter();
    let mut world = World::new(move |call| {
        let found = call.target.starts_with("/hook");
        Answer::Json(if found { fails.next().unwrap_or(200) } else { 404 }, json!({}))
    })
    .await;
    let fetch = Fetch::Resource(Reading { not_found: NotFound::Continue, ..reading("users") });
    world.plans = vec![Plan { fetch, max_attempts: 4, ..world.hook("reads") }];
    let start = world.clock.now();
    world.deliver(&world.item("users", "u1", "e")).await;
    let first = world.work_for(Duration::from_secs(100)).await;
    assert!(first.iter().all(|handled| handled.dead.is_empty()));
    world.work().await;
    assert_eq!((world.hooked().len(), world.dead().await.len()), (4, 0));
    let took = world.clock.now().duration_since(start).as_secs();
    assert!((82 + 14..=82 + 20).contains(&took), "{took} s: what failed first is tried again soon");
}

#[tokio::test]
async fn who_may_try_once_looks_all_the_same_and_a_replay_looks_anew() {
    let mut world = World::new(|_| Answer::Json(404, json!({}))).await;
    world.plans = vec![Plan { max_attempts: 1, ..world.fetching_hook("reads", "users") }];
    world.deliver(&world.item("users", "u1", "e")).await;
    world.work().await;
    let dead = world.dead().await;
    assert!(world.read().len() == 5 && dead.len() == 1 && dead[0].1.attempts == 1, "{dead:?}");
    assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), &dead[0].0).await.expect("stored"));
    world.work().await;
    assert_eq!(world.read().len(), 10);
}

#[tokio::test]
async fn a_look_that_comes_again_is_a_duplicate() {
    let mut world = World::new(|_| Answer::Json(404, json!({}))).await;
    world.plans = vec![world.fetching_hook("reads", "users")];
    let dispatcher = world.dispatcher();
    let task = |looks| Task { playbook: Some("reads".to_owned()), looks, ..Task::first(world.item("users", "u1", "e")) };
    let handle = |task| dispatcher.handle(QUEUE, Work::Item(Box::new(task)));
    for (looks, again, duplicate) in [(0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 0, 1), (2, 1, 0)] {
        let handled = handle(task(looks)).await.expect("handled");
        assert_eq!((handled.again.len(), handled.duplicate), (again, duplicate), "look {looks}");
    }
    assert_eq!(world.read().len(), 3);
}

#[test]
fn a_message_of_an_earlier_build_has_looked_for_nothing() {
    let work = |text: &str| dispatch::read(QUEUE, text.as_bytes());
    let item =
        r#""item": {"origin": "graph", "received": "2026-11-24T09:00:00Z", "event": {"change": "updated"}, "notification": {}}"#;
    let Ok(Work::Item(task)) = work(&format!(r#"{{"item": {{{item}, "attempt": 3}}}}"#)) else { panic!("a task") };
    assert_eq!((task.attempt, task.looks, task.tries()), (3, 0, 3));
    assert!(!serde_json::to_string(&task).expect("JSON").contains("looks"), "and an earlier build reads it");
}

#[tokio::test]
async fn what_is_not_permitted_is_told_at_once_and_a_wait_that_is_asked_for_is_kept() {
    let forbidden = || Answer::Json(403, json!({"error": {"code": "Forbidden", "message": "no"}}));
    let mut world = World::new(move |call| if call.target.starts_with("/hook") { ok() } else { forbidden() }).await;
    world.plans = vec![world.fetching_hook("reads", "users")];
    world.deliver(&world.item("users", "u1", "e")).await;
    world.work().await;
    let dead = world.dead().await;
    assert!(world.read().len() == 1 && dead[0].1.reason.contains("permission"), "{dead:?}");
    let fetch = Fetch::Resource(Reading { on_failure: OnFailure::Continue, ..reading("users") });
    world.plans = vec![Plan { fetch, ..world.hook("continues") }];
    world.deliver(&world.item("users", "u2", "e")).await;
    world.work().await;
    assert_eq!(world.hooked().len(), 1);

    let mut world = World::new(in_turn(vec![Answer::Wait(429, "120"), Answer::Json(200, json!({})), ok()])).await;
    world.plans = vec![world.fetching_hook("reads", "users")];
    let start = world.clock.now();
    world.deliver(&world.item("users", "u1", "e")).await;
    world.work().await;
    assert!(world.clock.now().duration_since(start).as_secs() >= 120 && world.hooked().len() == 1);
}

#[tokio::test]
async fn an_address_from_outside_is_not_read() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.fetching_hook("reads", "chats/getAllMessages")];
    let mut item = world.item("chats", "x", "e");
    item.notification.insert("resourceData".to_owned(), json!({"id": "x", "@odata.id": "https://evil.example/chats/1"}));
    world.deliver(&item).await;
    world.work().await;
    assert!(world.server.calls().is_empty());
    assert!(world.dead().await[0].1.reason.contains("may not be read"));
}

/// A playbook of a document that puts each item into the queue `seen`, and the group that it is in.
async fn queueing(resource: &str, fetch: &str) -> (World, String) {
    let document = format!(
        "version = 1\n[[playbook]]\nname = \"p\"\n[playbook.source]\nkind = \"graph\"\nresource = \"{resource}\"\nchange_types = [\"updated\"]\n\
         {fetch}\n[[playbook.action]]\nkind = \"queue\"\nqueue = \"seen\"\n"
    );
    let loaded = load(&document, &|_| true);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    let mut world = World::new(|_| ok()).await;
    let group = format!("n{}", loaded.playbooks[0].group);
    world.plans = loaded.playbooks.into_iter().map(Plan::of).collect();
    (world, group)
}

#[tokio::test]
async fn an_object_that_cannot_be_named_is_set_aside_unless_the_playbook_goes_on_without_it() {
    let (usual, goes_on) = ("", "[playbook.fetch]\non_failure = \"continue\"");
    for (subscribed, resource, data, fetch, expected) in [
        ("groups", "groups/G1", Value::Null, usual, Ok("/groups/G1")),
        ("groups", "groups", json!({"@odata.id": "groups('G1')"}), usual, Ok("/groups/G1")),
        ("groups", "groups/7", json!({"id": 7}), usual, Ok("/groups/7")),
        ("groups", "groups", json!({"id": 7}), usual, Err(Some("names no object"))),
        ("groups", "groups", Value::Null, usual, Err(Some("names no object"))),
        ("groups", "groups", Value::Null, goes_on, Err(None)),
        ("groups", "groups", Value::Null, "[playbook.fetch]\nmode = \"none\"", Err(None)),
        ("groups", "groups/G1", json!({"id": "../users/AAA"}), usual, Err(Some("may not be read"))),
        ("groups", "groups", json!({"id": "%2e%2e%2fusers"}), usual, Err(Some("may not be read"))),
        ("groups", "groups", json!({"id": "a\r\nHost: evil"}), usual, Err(Some("may not be read"))),
        ("groups", "groups", json!({"id": "https://evil.example/groups/G1"}), usual, Err(Some("may not be read"))),
        ("groups", "groups", json!({"id": "../users/AAA"}), goes_on, Err(None)),
        ("books/b/pages", "books/b/pages", json!({"id": "../users/AAA"}), usual, Err(Some("may not be read"))),
        ("books/b/pages", "books/b/pages", Value::Null, usual, Err(None)),
    ] {
        let (world, group) = queueing(subscribed, fetch).await;
        let mut item = world.item(resource, "", "");
        item.notification.insert("resourceData".to_owned(), data.clone());
        world.deliver(&Item { group: Some(group), ..item }).await;
        world.work().await;
        let (seen, dead) = (world.store.count("seen").await.expect("a queue"), world.dead().await);
        let case = format!("{subscribed}: {resource} {data} {fetch}: {dead:?}");
        assert_eq!(world.read(), expected.iter().map(ToString::to_string).collect::<Vec<_>>(), "{case}");
        match expected {
            Err(Some(reason)) => assert!(seen == 0 && dead.len() == 1 && dead[0].1.reason.contains(reason), "{case}"),
            _ => assert!(seen == 1 && dead.is_empty(), "{case}"),
        }
    }
}

#[tokio::test]
async fn what_cannot_be_read_reaches_the_playbook_as_it_is_unless_that_asks_for_more() {
    for (resource, id, fetch, hooked, dead) in [
        ("books/getAllPages", "pages('p')", "", 2, 0),
        ("books/getAllPages", "pages('p')", "[playbook.fetch]\nmode = \"resource\"", 0, 2),
        ("books/getAllPages", "pages('p')", "[playbook.fetch]\non_failure = \"continue\"", 2, 0),
        (
            "communications/onlineMeetings",
            "communications/onlineMeetings?$filter=joinWebUrl+eq+'https://teams.example/l'",
            "",
            2,
            0,
        ),
    ] {
        let (world, group) = queueing(resource, fetch).await;
        for tag in ["e1", "e2"] {
            let mut item = world.item(resource, "x", tag);
            item.notification.insert("resourceData".to_owned(), json!({"@odata.id": id, "id": id, "@odata.etag": tag}));
            world.deliver(&Item { group: Some(group.clone()), ..item }).await;
            world.clock.advance(Duration::from_secs(5));
        }
        world.work().await;
        assert!(world.server.calls().is_empty());
        let seen = world.store.count("seen").await.expect("a queue");
        assert_eq!(
            (seen, world.dead().await.len()),
            (hooked, dead),
            "{resource} {fetch}: nothing was read that stands for another"
        );
    }
}

#[tokio::test]
async fn changes_below_a_root_are_read_once_and_each_object_is_acted_on_once() {
    let mut world = World::new(|_| ok()).await;
    let url = Arc::new(Mutex::new(String::new()));
    let base = Arc::clone(&url);
    world.server = crate::worker::Server::start(move |call: &Call| {
        let base = base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let file = |id: &str, at: &str| json!({"id": id, "eTag": format!("{id}1"), "lastModifiedDateTime": at});
        match call.target.as_str() {
            "/v1.0/users/u/drive/root/delta" => Answer::Json(
                200,
                json!({"value": [file("old", "2026-01-01T00:00:00Z"), file("a", "2026-11-24T08:59:00Z")],
                    "@odata.nextLink": format!("{base}/v1.0/users/u/drive/root/delta?page=2")}),
            ),
            "/v1.0/users/u/drive/root/delta?page=2" => Answer::Json(
                200,
                json!({"value": [file("b", "2026-11-24T08:59:30Z")], "@odata.deltaLink": format!("{base}/v1.0/users/u/drive/root/delta?token=1")}),
            ),
            "/v1.0/users/u/drive/root/delta?token=1" => Answer::Json(
                200,
                json!({"value": [file("c", "2026-01-01T00:00:00Z")], "@odata.deltaLink": format!("{base}/v1.0/users/u/drive/root/delta?token=2")}),
            ),
            "/v1.0/users/u/drive/root/delta?token=2" => Answer::Json(410, json!({})),
            _ => ok(),
        }
    })
    .await;
    *url.lock().unwrap_or_else(PoisonError::into_inner) = world.server.url("");
    let delta = |world: &World, name: &str| Plan { fetch: Fetch::Delta(reading("users/u/drive/root")), ..world.hook(name) };
    world.plans = vec![delta(&world, "one"), delta(&world, "two")];
    for _ in 0..20 {
        world.deliver(&world.item("users/u/drive/root", "", "")).await;
    }
    world.clock.advance(Duration::from_secs(2));
    world.work().await;
    assert_eq!(world.read(), ["/users/u/drive/root/delta", "/users/u/drive/root/delta?page=2"]);
    let about: Vec<String> = effects(&world).into_keys().collect();
    assert_eq!(about, ["one a a1", "one b b1", "two a a1", "two b b1"], "what was modified long ago is no news");
    world.clock.advance(HOUR);
    world.deliver(&world.item("users/u/drive/root", "", "")).await;
    world.work().await;
    assert_eq!(world.read()[2..], ["/users/u/drive/root/delta?token=1"], "from where the last read ended");
    assert!(effects(&world).contains_key("two c c1"));
    world.clock.advance(HOUR);
    world.deliver(&world.item("users/u/drive/root", "", "")).await;
    world.work().await;
    assert_eq!(world.read().len(), 6, "a place that the service has forgotten: from the beginning");
    assert_eq!(world.hooked().len(), 6, "and what is known is not acted on again");
    world.clock.advance(24 * HOUR);
    world.dispatcher().sweep(10).await.expect("swept");
    world.deliver(&world.item("users/u/drive/root", "", "")).await;
    world.work().await;
    assert!(world.read()[6].ends_with("token=1"), "the place outlives quiet days: {:?}", world.read());
}

#[tokio::test]
async fn who_is_unproven_is_not_acted_on() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.hook("plain")];
    let can = Arc::new(Mutex::new(false));
    let key = Arc::clone(&can);
    world.hooks.prove = Arc::new(move |state| {
        let can = *key.lock().unwrap_or_else(PoisonError::into_inner);
        ready(match state.as_deref() {
            _ if !can => Err("the vault gives no answer".to_owned()),
            Some("good") => Ok(Some("n1".to_owned())),
            _ => Ok(None),
        })
    });
    let unproven = |id: &str, state: Option<&str>| Item {
        group: None,
        client_state: state.map(str::to_owned),
        ..world.item("users", id, "e")
    };
    for (id, state) in [("u1", Some("good")), ("u2", Some("bad")), ("u3", None)] {
        world.deliver(&unproven(id, state)).await;
    }
    let waits = world.work_for(Duration::ZERO).await;
    assert_eq!(sum(&waits, |h| h.again.len()), 3, "while the key cannot be had, items wait");
    *can.lock().unwrap_or_else(PoisonError::into_inner) = true;
    let handled = world.work().await;
    assert_eq!(handled.iter().filter(|h| h.dropped == Some("wrong client state")).count(), 2);
    assert_eq!(effects(&world).into_keys().collect::<Vec<_>>(), ["plain u1 e"]);
}

#[tokio::test]
async fn what_is_encrypted_is_opened_for_the_run_and_nowhere_else() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.fetching_hook("reads", "users/u/messages")];
    world.hooks.open = Arc::new(|item| {
        let content = item.encrypted.map(|content| content.data).unwrap_or_default();
        ready(match content.as_str() {
            "good" => Ok(json!({"subject": "plain text"})),
            _ => Err(Sealed { cause: "the signature does not match".to_owned(), transient: false }),
        })
    });
    for (id, data) in [("m1", "good"), ("m2", "bad")] {
        let content = EncryptedContent {
            data: data.to_owned(),
            data_key: String::new(),
            data_signature: None,
            certificate_id: None,
            certificate_thumbprint: None,
        };
        world.deliver(&Item { encrypted: Some(content), ..world.item("users/u/messages", id, "e") }).await;
    }
    world.work().await;
    let hooked = world.hooked();
    assert!(hooked.len() == 1 && hooked[0].json()["resource"]["subject"] == "plain text" && world.read().is_empty());
    let dead = world.dead().await;
    assert!(dead.len() == 1 && dead[0].1.reason.contains("signature") && dead[0].1.task.item.encrypted.is_some());
}

#[tokio::test]
async fn lifecycle_events_go_to_who_keeps_the_subscriptions() {
    let mut world = World::new(|_| ok()).await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    world.hooks.lifecycle = Arc::new(move |event, item| {
        let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
        log.push((event, item.subscription));
        ready(if log.len() < 3 { Err("no answer".to_owned()) } else { Ok(()) })
    });
    let event = Event::Lifecycle(LifecycleEvent::Missed);
    world.deliver(&Item { event, resource: None, ..world.item("", "", "") }).await;
    let handled = world.work().await;
    assert_eq!((sum(&handled, |h| h.again.len()), sum(&handled, |h| h.done)), (2, 1));
    assert_eq!(seen.lock().unwrap_or_else(PoisonError::into_inner)[0], (LifecycleEvent::Missed, "s1".to_owned()));
}

#[tokio::test]
async fn what_nobody_can_read_ends_in_the_poison_queue() {
    let world = World::new(|_| ok()).await;
    world.store.put(QUEUE, b"nonsense".to_vec(), Duration::ZERO).await.expect("a queue");
    let dispatcher = world.dispatcher();
    for _ in 0..5 {
        let handled = world.handle_one(&dispatcher).await.expect("a message");
        assert!(handled.is_err_and(|error| error.to_string().contains("no notification")));
        world.clock.advance(Duration::from_secs(61));
    }
    assert!(world.handle_one(&dispatcher).await.is_none());
    let poison = poison_of(QUEUE);
    assert_eq!(world.store.count(&poison).await.expect("a queue"), 1);
    for _ in 0..10 {
        world.clock.advance(Duration::from_secs(61));
        let seen = world.store.receive(&poison, 1, Duration::from_secs(60)).await.expect("a queue");
        assert_eq!(seen.len(), 1, "however often one looks, it stays there");
    }
}

#[tokio::test]
async fn what_is_quiet_is_forgotten_and_what_is_not_is_kept() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.hook("plain")];
    for i in 0..1_100 {
        let work = Work::first(world.item("users", &format!("u{i}"), "e"));
        world.dispatcher().handle(QUEUE, work).await.expect("handled");
    }
    world.clock.advance(8 * HOUR);
    world.deliver(&world.item("users", "u7", "e2")).await;
    world.work().await;
    let swept = world.dispatcher().sweep(1).await.expect("swept");
    assert_eq!(swept.looked_at, 500, "one page at a time");
    let mut forgotten = swept.forgotten;
    for _ in 0..3 {
        forgotten += world.dispatcher().sweep(1).await.expect("swept").forgotten;
    }
    assert_eq!(forgotten, 1_099);
    let left = world.store.scan("dispatch", "r.", "r/", 10).await.expect("readable");
    assert_eq!(left.len(), 1);
}

#[tokio::test]
async fn what_is_held_is_replayed_when_the_playbook_runs_again() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![Plan { held: Some(Hold::Paused), ..world.hook("p") }];
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.clock.advance(Duration::from_secs(10));
    world.deliver(&world.item("users", "u1", "e1")).await;
    world.work().await;
    let dead = world.dead().await;
    assert!(world.hooked().is_empty() && dead.iter().all(|(_, dead)| dead.reason == "paused"));
    world.plans = vec![world.hook("p")];
    for (key, _) in &dead {
        assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), key).await.expect("stored"));
    }
    world.work().await;
    assert_eq!(world.hooked().len(), 1, "a second delivery that was held too is known");
    world.plans.clear();
    world.deliver(&world.item("users", "u2", "e")).await;
    assert_eq!(world.work().await[0].dropped, Some("no playbook wants it"));
}

#[tokio::test]
async fn while_nobody_can_say_what_a_subscription_was_made_for_its_items_wait() {
    let mut world = World::new(|_| ok()).await;
    let of = |resource: &str| Wanted {
        tenant: "default".to_owned(),
        resource: resource.to_owned(),
        change_types: vec![ChangeType::Updated],
        rich: false,
        lifecycle: true,
        minutes: None,
        profile: None,
        urgent: false,
        playbooks: Vec::new(),
    };
    let high: Matches = Arc::new(|_, made_for: Option<&Wanted>| made_for.is_some_and(|made| made.resource == "users?high"));
    world.plans = vec![Plan { matches: high, ..world.hook("high") }];
    world.hooks.made_for = Arc::new(|_| ready(Err("the store gives no answer".to_owned())));
    world.deliver(&world.item("users", "u1", "e")).await;
    assert_eq!(sum(&world.work_for(Duration::ZERO).await, |h| h.again.len()), 1);
    let answer = of("users?high");
    world.hooks.made_for = Arc::new(move |_| ready(Ok(Some(answer.clone()))));
    world.work().await;
    assert_eq!(effects(&world).into_keys().collect::<Vec<_>>(), ["high u1 e"]);
}

#[tokio::test]
async fn what_a_poll_found_needs_no_proof_and_no_read() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.hook("plain")];
    let object = Some(json!({"id": "a1", "severity": "high"}));
    world.deliver(&Item { origin: Origin::Poll, group: None, object, ..world.item("security/alerts_v2", "a1", "t1") }).await;
    world.work().await;
    assert_eq!(world.hooked()[0].json()["resource"]["severity"], "high");
}

/// A host's message, as it comes to the function.
async fn post(handler: &Handler, function: &str, work: &Work) -> (u16, Value) {
    let text = serde_json::to_string(work).expect("JSON");
    handler.post(function, &json!({"Data": {"message": Value::from(text).to_string()}, "Metadata": {}})).await
}

#[tokio::test]
async fn the_functions_hand_their_messages_over_and_poll() {
    let mut world = World::new(|call| {
        let alert = json!({"id": "a1", "createdDateTime": "2026-11-24T08:59:00Z", "lastUpdateDateTime": "2026-11-24T08:59:00Z"});
        if call.target.starts_with("/v1.0/security") { Answer::Json(200, json!({ "value": [alert] })) } else { ok() }
    })
    .await;
    world.plans = vec![world.hook("plain")];
    let rig = Rig::new().await;
    let base = world.server.base("/v1.0");
    let source = Source { resource: "security/alerts_v2".to_owned(), tenant: None, group: None, urgent: true };
    let (state, queue) = (Arc::clone(&world.store), Arc::clone(&world.store));
    let http = graph(&world.clock, &base);
    let poller = Poller::new(http, base, state, queue, Arc::new(world.clock.clone()), vec![source]);
    let playbooks = Playbooks::given(Asked { poller: Some(poller), ..Asked::default() });
    let app = App { dispatcher: world.dispatcher(), playbooks, queue: Arc::clone(&world.store) as _, ..rig.app() };
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let handler = Handler::start(Relay::opened(Arc::clone(&clock), app), clock).await;
    assert_eq!(post(&handler, "RunPlaybooks", &Work::first(world.item("users", "u1", "e"))).await.0, 200);
    let batch = Work::Batch(vec![world.item("users", "u2", "e"), world.item("users", "u3", "e")]);
    assert_eq!(post(&handler, "RunUrgentPlaybooks", &batch).await.0, 200);
    assert_eq!(world.store.count(URGENT_QUEUE).await.expect("a queue"), 2, "back into the queue that it came from");
    assert_eq!(world.hooked().len(), 1);
    let (status, answer) = handler.post("RunPlaybooks", &json!({"Data": {"message": "nonsense"}, "Metadata": {}})).await;
    assert!(status == 500 && answer["error"].as_str().is_some_and(|line| line.contains("no notification")), "{answer}");
    assert_eq!(handler.post("PollAlerts", &timer()).await.0, 200);
    assert_eq!(world.store.count(URGENT_QUEUE).await.expect("a queue"), 3);
    let app = rig.app();
    let queue = Arc::clone(&app.queue);
    let without = Handler::start(Relay::opened(Arc::new(world.clock.clone()), app), Arc::new(world.clock.clone())).await;
    assert_eq!(post(&without, "RunPlaybooks", &Work::first(world.item("users", "u4", "e"))).await.0, 200);
    assert_eq!(queue.count(QUEUE).await.expect("a queue"), 1, "without a document it waits, and nothing is lost");
}

#[tokio::test]
async fn a_failed_poll_is_told_once() {
    let (_guard, lines) = crate::handler::listen();
    let world = World::new(|_| Answer::Json(410, json!({"error": {"code": "Gone", "message": "no more"}}))).await;
    let (rig, base) = (Rig::new().await, world.server.base("/v1.0"));
    let source = Source { resource: "security/alerts_v2".to_owned(), tenant: None, group: None, urgent: true };
    let (state, queue) = (Arc::clone(&world.store), Arc::clone(&world.store));
    let poller = Poller::new(graph(&world.clock, &base), base, state, queue, Arc::new(world.clock.clone()), vec![source]);
    let playbooks = Playbooks::given(Asked { poller: Some(poller), ..Asked::default() });
    let app = App { dispatcher: world.dispatcher(), playbooks, queue: Arc::clone(&world.store) as _, ..rig.app() };
    let clock: Arc<dyn Clock> = Arc::new(world.clock.clone());
    let handler = Handler::start(Relay::opened(Arc::clone(&clock), app), clock).await;
    assert_eq!(handler.post("PollAlerts", &timer()).await.0, 200);
    let errors: Vec<Value> = lines.lines().into_iter().filter(|line| line["level"] == "ERROR").collect();
    assert!(errors.len() == 1 && errors[0]["event"] == "poll.failed", "{errors:#?}");
}

const DOCUMENT: &str = r#"
version = 1
[[playbook]]
name = "users"
max_attempts = 9
when = "resource.accountEnabled"
  [playbook.source]
  kind = "graph"
  resource = "users"
  change_types = ["updated", "deleted"]
  [playbook.fetch]
  mode = "resource"
  select = "id,accountEnabled"
  [playbook.select]
  string = { id = "resource.id" }
  [[playbook.action]]
  kind = "queue"
  queue = "user-items"
  body = "selected"
[[playbook]]
name = "off"
enabled = false
  [playbook.source]
  kind = "graph"
  resource = "users"
  change_types = ["updated"]
  [[playbook.action]]
  kind = "queue"
  queue = "user-items"
"#;

#[tokio::test]
async fn playbooks_of_a_document_run() {
    let mut world = World::new(|call| {
        Answer::Json(200, json!({"id": call.target.split(['/', '?']).nth(3), "accountEnabled": !call.target.contains("u2")}))
    })
    .await;
    let loaded = load(DOCUMENT, &|_| true);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    world.plans = loaded.playbooks.into_iter().map(Plan::of).collect();
    for id in ["u1", "u2"] {
        world.deliver(&Item { group: None, ..world.item("users", id, "e") }).await;
    }
    world.hooks.prove = {
        let group = format!("n{}", load(DOCUMENT, &|_| true).playbooks[0].group);
        Arc::new(move |_| ready(Ok(Some(group.clone()))))
    };
    let handled = world.work().await;
    assert_eq!((sum(&handled, |h| h.done), sum(&handled, |h| h.skipped)), (1, 1));
    assert_eq!(world.read()[0], "/users/u1?$select=id%2CaccountEnabled");
    let messages = world.store.receive("user-items", 9, Duration::from_secs(1)).await.expect("a queue");
    let body: Value = serde_json::from_slice(&messages[0].body).expect("JSON");
    assert_eq!((messages.len(), &body["id"]), (1, &json!("u1")));
    assert_eq!(body["idempotencyKey"].as_str().map(str::len), Some(64));
    let off = format!("n{}", load(DOCUMENT, &|_| true).playbooks[1].group);
    world.deliver(&Item { group: Some(off), ..world.item("users", "u3", "e") }).await;
    world.work().await;
    assert_eq!(world.dead().await[0].1.reason, "disabled");
}

const RICH: &str = r#"
version = 1
[[playbook]]
name = "mail"
  [playbook.source]
  kind = "graph"
  resource = "users/u/messages?$select=subject"
  change_types = ["created"]
  include_resource_data = true
  [playbook.select]
  string = { subject = "resource.subject" }
  [[playbook.action]]
  kind = "queue"
  queue = "mail-items"
  body = "selected"
"#;

#[tokio::test]
async fn what_comes_encrypted_is_read_where_we_found_it_ourselves() {
    let mut world = World::new(|_| Answer::Json(200, json!({"subject": "as it is now"}))).await;
    let loaded = load(RICH, &|_| true);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    world.plans = loaded.playbooks.into_iter().map(Plan::of).collect();
    let event = Event::Change(ChangeType::Created);
    let found = Item { origin: Origin::CatchUp, event, ..world.item("users/u/messages", "m1", "e") };
    world.deliver(&Item { group: None, ..found }).await;
    world.work().await;
    assert_eq!(world.read(), ["/users/u/messages/m1"]);
    let messages = world.store.receive("mail-items", 9, Duration::from_secs(1)).await.expect("a queue");
    let body: Value = serde_json::from_slice(&messages[0].body).expect("JSON");
    assert_eq!(body["subject"], "as it is now");
}

#[tokio::test]
async fn a_change_that_was_passed_over_stands_for_no_creation() {
    let mut world = World::new(|_| Answer::Json(200, json!({"id": "u1"}))).await;
    let (url, both) = (world.server.url("/hook/p"), world.fetching_hook("reads", "users"));
    // As with `when = "event is created"`.
    let decide: dispatch::Decide = Arc::new(move |context| {
        let new = context.item.event == Event::Change(ChangeType::Created);
        let action = || ("a".to_owned(), webhook(&url, context.item, context.resource));
        Ok(if new { Decision::Perform(vec![action()]) } else { Decision::Skip })
    });
    world.plans = vec![Plan { decide, ..both }];
    let created = Item { event: Event::Change(ChangeType::Created), ..world.item("users", "u1", "e1") };
    world.deliver(&world.item("users", "u1", "e2")).await;
    world.deliver(&created).await;
    world.clock.advance(Duration::from_secs(2));
    let handled = world.work().await;
    assert_eq!((sum(&handled, |h| h.done), sum(&handled, |h| h.skipped), sum(&handled, |h| h.covered)), (1, 1, 0));
    assert_eq!(world.hooked().len(), 1);
}

#[tokio::test]
async fn a_creation_that_a_catch_up_finds_again_is_known_whatever_its_tag_is_now() {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![world.hook("p")];
    let created =
        |id: &str, tag: &str| Item { event: Event::Change(ChangeType::Created), ..world.item("users/u/messages", id, tag) };
    let (told, found) = (created("m1", "e1"), [created("m1", "e2"), created("m2", "e2")]);
    world.deliver(&told).await;
    world.work().await;
    world.clock.advance(Duration::from_secs(7 * 3_600));
    for item in found {
        world.deliver(&Item { origin: Origin::CatchUp, received: world.clock.now(), ..item }).await;
    }
    let handled = world.work().await;
    assert_eq!((sum(&handled, |h| h.duplicate), sum(&handled, |h| h.done)), (1, 1));
    assert_eq!(effects(&world).into_keys().collect::<Vec<_>>(), ["p m1 e1", "p m2 e2"]);
}

#[tokio::test]
async fn what_was_refused_is_not_sent_again_while_another_action_is_tried_again() {
    let calls = Arc::new(Mutex::new(0));
    let mut world = World::new(move |call| {
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        *calls += 1;
        match call.target.as_str() {
            "/hook/refuses" if *calls < 5 => Answer::Json(422, json!({"message": "not like that"})),
            "/hook/fails" if *calls < 4 => Answer::Json(503, json!({})),
            _ => ok(),
        }
    })
    .await;
    let (refuses, fails) = (world.server.url("/hook/refuses"), world.server.url("/hook/fails"));
    world.plans =
        vec![plan("p", Fetch::Nothing, 9, move |item, _| vec![webhook(&refuses, item, None), webhook(&fails, item, None)])];
    world.deliver(&world.item("users", "u1", "e1")).await;
    let handled = world.work().await;
    let targets = |world: &World| world.hooked().iter().map(|call| call.target.clone()).collect::<Vec<_>>();
    assert_eq!(targets(&world), ["/hook/refuses", "/hook/fails", "/hook/fails", "/hook/fails"]);
    assert_eq!(handled[0].again[0].reason, "action 2: the webhook answered status 503");
    let dead = world.dead().await;
    assert!(
        dead.len() == 1 && dead[0].1.reason.starts_with("action 1: ") && dead[0].1.reason.contains("not like that"),
        "{dead:?}"
    );
    assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), &dead[0].0).await.expect("stored"));
    world.work().await;
    assert_eq!(targets(&world)[4..], ["/hook/refuses"], "a replay asks it once more, and what is done is done");
}

/// A drive of so many pages, each with a file of its own.
async fn large_drive(pages: usize) -> World {
    let mut world = World::new(|_| ok()).await;
    let url = Arc::new(Mutex::new(String::new()));
    let base = Arc::clone(&url);
    world.server = crate::worker::Server::start(move |call: &Call| {
        let Some(rest) = call.target.strip_prefix("/v1.0/users/u/drive/root/delta") else { return ok() };
        let page: usize = rest.strip_prefix("?page=").map_or(1, |page| page.parse().expect("a page"));
        let link = |query: String| {
            let base = base.lock().unwrap_or_else(PoisonError::into_inner);
            format!("{}/v1.0/users/u/drive/root/delta?{query}", *base)
        };
        let file = json!({"id": format!("f{page}"), "eTag": "1", "lastModifiedDateTime": "2026-11-24T08:59:00Z"});
        let old = json!({"id": format!("old{page}"), "eTag": "1", "lastModifiedDateTime": "2026-01-01T00:00:00Z"});
        let next = if page < pages {
            ("@odata.nextLink", link(format!("page={}", page + 1)))
        } else {
            ("@odata.deltaLink", link("token=1".to_owned()))
        };
        Answer::Json(200, json!({"value": [file, old], next.0: next.1}))
    })
    .await;
    *url.lock().unwrap_or_else(PoisonError::into_inner) = world.server.url("");
    world.plans =
        ["one", "two"].map(|name| Plan { fetch: Fetch::Delta(reading("users/u/drive/root")), ..world.hook(name) }).into();
    world.deliver(&world.item("users/u/drive/root", "", "")).await;
    world
}

#[tokio::test]
async fn a_read_of_many_pages_that_was_cut_short_goes_on_from_its_last_page() {
    let world = large_drive(5).await;
    // Took the turn, then for each of two pages two messages and its place; dies while the third is told.
    let mortal = Mortal::at(&world.store, 8, false);
    let dispatcher = world.dispatcher_over(Arc::clone(&mortal) as _, Arc::clone(&mortal) as _);
    assert!(world.handle_one(&dispatcher).await.is_some_and(|handled| handled.is_err()) && mortal.is_dead());
    let before = world.read();
    assert_eq!(before.len(), 3, "{before:?}");
    world.work().await;
    let pages = world.read()[3..].iter().filter(|path| path.contains("/root/delta")).cloned().collect::<Vec<_>>();
    assert_eq!(pages, [3, 4, 5].map(|page| format!("/users/u/drive/root/delta?page={page}")), "not from the beginning");
    let about: Vec<String> = effects(&world).into_keys().collect();
    let wanted = ["one", "two"].map(|name| (1..=5).map(move |page| format!("{name} f{page} 1"))).into_iter().flatten();
    assert_eq!(about, wanted.collect::<Vec<_>>(), "each once, and what is old is still no news");
}

#[tokio::test]
async fn a_read_of_very_many_pages_is_spread_over_several_messages() {
    let world = large_drive(250).await;
    let dispatcher = world.dispatcher();
    world.handle_one(&dispatcher).await.expect("a message").expect("handled");
    let first = world.read().len();
    assert!(first < 250, "one message reads {first} pages");
    world.work().await;
    assert_eq!(world.read().len(), 250, "each page once");
    assert_eq!((effects(&world).len(), world.hooked().len()), (500, 500));
    assert!(world.dead().await.is_empty());
}
