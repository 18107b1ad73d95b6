//! A stop in an orderly way: nobody waits for minutes for what it had in hand.

use std::sync::Arc;
use std::time::Duration;

use emulator::{Answered, TENANT};
use indicator_relay::notifications::item::QUEUE;
use indicator_relay::platform::clock::SystemClock;
use indicator_relay::storage::Queue as _;
use indicator_relay::storage::sqlite::SqliteStore;
use jiff::Timestamp;
use rusqlite::OptionalExtension as _;
use serde_json::json;

use super::killed::state;
use super::{PATIENCE, Served, USER, USERS, WEBHOOK};

#[tokio::test]
async fn what_is_under_way_at_a_stop_is_given_back_and_done_at_the_next_start() {
    let served = Served::new(USERS).await;
    let mut child = served.start().await;
    served.subscribe().await;
    let hangs = Answered { status: 200, hang: Duration::from_secs(600), ..Answered::default() };
    served.emulator.world().playbooks.get_mut(WEBHOOK).expect("one").script.push_back(hangs);
    assert_eq!(served.emulator.world().put_user(TENANT, USER, json!({"displayName": "Jane"}), Timestamp::now()), 1);
    served.deliver().await;
    served.until_received(1).await;
    Served::signal(&child, "-TERM").await;
    served.until("it says that it waits", |_| served.log().contains("for up to 25 s; a second signal ends it at once")).await;
    Served::signal(&child, "-INT").await;
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time").expect("it ended");
    assert_eq!(ended.code(), Some(0));
    assert!(served.log().contains("stopped at once: 1 message is given back"), "{}", served.log());
    // Neither the message nor the resource is held: those would take five minutes and three.
    let _child = served.start().await;
    served.until_received(2).await;
    let received = served.received();
    assert_eq!(received[0].header("idempotency-key"), received[1].header("idempotency-key"), "the same once more");
}

#[tokio::test]
async fn what_fails_comes_again_soon() {
    let served = Served::new(USERS).await;
    let store = SqliteStore::open(&served.folder.path().join("state.db"), Arc::new(SystemClock::default())).expect("opened");
    store.put(QUEUE, b"nonsense".to_vec(), Duration::ZERO).await.expect("put");
    let _child = served.start().await;
    // Received and given back as often; nobody may have looked the first time.
    let (file, given_back) = (state(&served), std::cell::Cell::new(None));
    served
        .until("it is given back", |_| {
            let wait = "SELECT visible_at, tries FROM messages WHERE tries > 0 AND receipt = 2 * tries";
            let row = file.query_row(wait, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, u32>(1)?)));
            given_back.set(row.optional().expect("a row"));
            given_back.get().is_some()
        })
        .await;
    let (visible, tries) = given_back.get().expect("given back");
    let wait = visible - Timestamp::now().as_millisecond();
    assert!(wait <= 15_000 << (tries - 1), "{wait} ms after {tries} tries");
}
