//! What no row can hold is set aside and put back all the same: whole, with its reason, killed anywhere.

use std::collections::BTreeSet;
use std::sync::Arc;

use indicator_relay::dispatch::{self, Hold, Plan};
use indicator_relay::notifications::item::{Item, QUEUE, Work};
use indicator_relay::platform::clock::Clock as _;
use indicator_relay::storage::{Queue as _, StateStore as _, poison_of};
use serde_json::json;

use crate::between::Mortal;
use crate::worker::{World, ok};

/// A playbook that is paused, and an item of so many bytes that has come for it.
async fn paused(bytes: usize) -> (World, Item) {
    let mut world = World::new(|_| ok()).await;
    world.plans = vec![Plan { held: Some(Hold::Paused), ..world.hook("p") }];
    let mut item = world.item("users", "u1", "e1");
    item.notification.insert("note".to_owned(), json!("x".repeat(bytes)));
    world.deliver(&item).await;
    (world, item)
}

/// How many parts of bodies are in the store.
async fn parts(world: &World) -> usize {
    world.store.scan("dead-body", "0", "z", 100).await.expect("rows").len()
}

async fn replay(world: &World, key: &str) {
    assert!(dispatch::replay(world.store.as_ref(), world.store.as_ref(), key).await.expect("put back"));
}

#[tokio::test]
async fn what_no_row_can_hold_has_its_reason_and_is_put_back_whole() {
    let (mut world, item) = paused(5_000_000).await;
    world.work().await;
    let (key, dead) = world.dead().await.remove(0);
    assert_eq!((dead.reason.as_str(), dead.playbook.as_deref(), dead.attempts), ("paused", Some("p"), 1));
    assert_eq!((dead.queue.as_str(), dead.task.item.resource.as_deref(), dead.at), (QUEUE, Some("users/u1"), world.clock.now()));
    assert_eq!((world.store.count(&poison_of(QUEUE)).await.expect("a queue"), parts(&world).await), (0, 10));

    replay(&world, &key).await;
    assert_eq!((world.dead().await.len(), parts(&world).await), (0, 0));
    let back = world.store.peek(QUEUE, 1).await.expect("a queue").remove(0);
    let Ok(Work::Item(task)) = dispatch::read(QUEUE, &back.body) else { panic!("an item") };
    assert_eq!((task.item, task.playbook.as_deref()), (item.clone(), Some("p")));
    world.work().await;
    world.deliver(&item).await;
    world.work().await;
    assert_eq!((world.dead().await.len(), parts(&world).await), (1, 10), "once, however often it ends here");

    world.plans = vec![world.hook("p")];
    replay(&world, &key).await;
    world.work().await;
    assert_eq!((world.hooked().len(), world.dead().await.len(), parts(&world).await), (1, 0, 0));
    assert!(!dispatch::replay(world.store.as_ref(), world.store.as_ref(), &key).await.expect("answered"));
}

/// Killed at a write while it is set aside, and at one while it is put back.
async fn killed_at(writes: i64, after: bool) -> bool {
    let (mut world, item) = paused(1_500_000).await;
    let mortal = Mortal::at(&world.store, writes, after);
    let dispatcher = world.dispatcher_over(Arc::clone(&mortal) as _, Arc::clone(&mortal) as _);
    drop(world.handle_one(&dispatcher).await.expect("a message"));
    world.work().await;
    let (key, dead) = world.dead().await.remove(0);
    assert_eq!(world.dead().await.len(), 1, "killed at {writes} (after: {after})");
    assert_eq!((dead.reason.as_str(), dead.task.item.notification.len()), ("paused", 0));

    world.plans = vec![world.hook("p")];
    let replaying = Mortal::at(&world.store, writes, after);
    drop(dispatch::replay(replaying.as_ref(), replaying.as_ref(), &key).await);
    world.work().await;
    dispatch::replay(world.store.as_ref(), world.store.as_ref(), &key).await.expect("put back, if it was not");
    world.work().await;
    let effects = world.hooked();
    assert!(!effects.is_empty() && effects.iter().all(|call| call.json()["id"] == json!(item.resource_id())));
    let keys: BTreeSet<&str> = effects.iter().map(|call| call.header("idempotency-key")).collect();
    assert_eq!((keys.len(), world.dead().await.len()), (1, 0), "killed at {writes} (after: {after})");
    mortal.is_dead()
}

#[tokio::test]
async fn killed_at_every_write_it_is_set_aside_and_put_back() {
    let mut writes = 1;
    while killed_at(writes, false).await | killed_at(writes, true).await {
        writes += 1;
    }
    assert!(writes > 5, "{writes} writes were tried");
}
