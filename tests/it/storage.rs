//! One suite for every store: what the product takes for granted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::storage::overlay::Overlay;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{CommitError, Queue, StateStore, TRANSACTION_ROWS, VALUE_BYTES, Write};
use jiff::Timestamp;
use proptest::prelude::*;

/// A clock that tests move.
#[derive(Debug, Clone)]
struct Hand(emulator::SimClock);

impl Hand {
    fn new() -> Self {
        Self(emulator::SimClock::at("2026-11-24T09:00:00Z".parse().expect("a time")))
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        emulator::Time::now(&self.0)
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn memory() -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open_in_memory(Arc::new(Hand::new())).expect("SQLite"))
}

/// Every implementation, fresh.
async fn stores(folder: &std::path::Path) -> Vec<(&'static str, Arc<dyn StateStore>)> {
    let file = SqliteStore::open(&folder.join("state.db"), Arc::new(Hand::new())).expect("SQLite");
    let overlay = Overlay::new(memory(), memory());
    let azure = crate::azurite::stores().await.state;
    vec![("file", Arc::new(file)), ("memory", memory()), ("overlay", Arc::new(overlay)), ("azure", azure)]
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

fn put_if(key: &str, value: &str, version: Option<indicator_relay::storage::Version>) -> Write {
    Write::PutIf { key: key.to_owned(), value: value.as_bytes().to_vec(), version }
}

async fn value(store: &dyn StateStore, key: &str) -> Option<String> {
    store.get("p", key).await.expect("readable").map(|row| String::from_utf8(row.value).expect("text"))
}

async fn keys(store: &dyn StateStore, from: &str, to: &str, limit: usize) -> Vec<String> {
    store.scan("p", from, to, limit).await.expect("readable").into_iter().map(|row| row.key).collect()
}

#[tokio::test]
async fn rows_are_there_in_key_order_within_their_partition() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        store.commit("p", vec![put("b", "2"), put("a.1", "1"), put("c", "3"), put("B", "0")]).await.expect(name);
        store.commit("other", vec![put("b", "x")]).await.expect(name);
        assert_eq!(keys(store.as_ref(), "A", "z", 10).await, ["B", "a.1", "b", "c"], "{name}");
        assert_eq!(keys(store.as_ref(), "a", "c", 10).await, ["a.1", "b"], "{name}: the end is not in it");
        assert_eq!(keys(store.as_ref(), "A", "z", 2).await, ["B", "a.1"], "{name}");
        assert_eq!(value(store.as_ref(), "b").await.as_deref(), Some("2"), "{name}");
        let many = store.get_many("p", vec!["c".to_owned(), "none".to_owned(), "b".to_owned()]).await.expect(name);
        let values: Vec<Option<Vec<u8>>> = many.into_iter().map(|row| row.map(|row| row.value)).collect();
        assert_eq!(values, [Some(b"3".to_vec()), None, Some(b"2".to_vec())], "{name}");
    }
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let first = store.commit("p", vec![put_if("lease", "1", None), put("x", "old")]).await.expect(name);
        let stale = first[0].clone();
        let second = store.commit("p", vec![put_if("lease", "2", Some(stale.clone()))]).await.expect(name);
        assert_ne!(stale, second[0], "{name}");
        let refused = store
            .commit("p", vec![put("x", "new"), Write::Delete { key: "x".to_owned() + "y" }, put_if("lease", "3", Some(stale))])
            .await;
        assert!(matches!(refused, Err(CommitError::Conflict { key }) if key == "lease"), "{name}");
        assert_eq!(value(store.as_ref(), "x").await.as_deref(), Some("old"), "{name}");
        assert!(matches!(store.commit("p", vec![put_if("x", "new", None)]).await, Err(CommitError::Conflict { .. })), "{name}");
        store
            .commit("p", vec![Write::Delete { key: "x".to_owned() }, Write::Delete { key: "never".to_owned() }])
            .await
            .expect(name);
        assert_eq!(value(store.as_ref(), "x").await, None, "{name}");
        store.commit("p", vec![put_if("x", "again", None)]).await.expect(name);
    }
}

#[tokio::test]
async fn a_version_never_comes_again() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let first = store.commit("p", vec![put_if("x", "same", None)]).await.expect(name);
        store.commit("p", vec![Write::Delete { key: "x".to_owned() }]).await.expect(name);
        let again = store.commit("p", vec![put_if("x", "same", None)]).await.expect(name);
        assert_ne!(first, again, "{name}");
        let refused = store.commit("p", vec![put_if("x", "new", Some(first[0].clone()))]).await;
        assert!(matches!(refused, Err(CommitError::Conflict { .. })), "{name}");
    }
}

#[tokio::test]
async fn what_the_narrowest_store_cannot_keep_is_refused_by_all() {
    let store = memory();
    let refused = |writes: Vec<Write>| {
        let store = Arc::clone(&store);
        async move { matches!(store.commit("p", writes).await, Err(CommitError::Failed(_))) }
    };
    let many = |n: usize| (0..n).map(|i| put(&format!("k{i}"), "v")).collect::<Vec<_>>();
    assert!(!refused(many(TRANSACTION_ROWS)).await);
    assert!(refused(many(TRANSACTION_ROWS + 1)).await);
    assert!(refused(vec![put("a", "1"), put("a", "2")]).await);
    assert!(refused(vec![Write::Put { key: "big".to_owned(), value: vec![0; VALUE_BYTES + 1] }]).await);
    assert!(refused((0..6).map(|i| Write::Put { key: format!("b{i}"), value: vec![0; VALUE_BYTES] }).collect()).await);
    for key in ["a/b", "a\\b", "a#b", "a?b", "a\u{7}b", "", &"k".repeat(600)] {
        assert!(refused(vec![put(key, "v")]).await, "{key}");
    }
}

#[tokio::test]
async fn of_two_writers_on_one_file_one_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    let one = SqliteStore::open(&path, Arc::new(Hand::new())).expect("SQLite");
    let other = SqliteStore::open(&path, Arc::new(Hand::new())).expect("SQLite");
    let version = one.commit("p", vec![put_if("lease", "0", None)]).await.expect("free")[0].clone();
    let (a, b) = tokio::join!(
        one.commit("p", vec![put_if("lease", "one", Some(version.clone()))]),
        other.commit("p", vec![put_if("lease", "other", Some(version.clone()))])
    );
    assert_eq!([a.is_ok(), b.is_ok()].iter().filter(|won| **won).count(), 1);
}

#[tokio::test]
async fn a_file_that_is_no_store_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("notes.txt");
    std::fs::write(&path, "not a database, but long enough to be read as the header of one, which it is not.....")
        .expect("written");
    let error = SqliteStore::open(&path, Arc::new(Hand::new())).expect_err("refused").to_string();
    assert!(error.contains("notes.txt") && error.contains("STATE_FILE"), "{error}");
    assert!(SqliteStore::open(&folder.path().join("none/state.db"), Arc::new(Hand::new())).is_err());
}

#[tokio::test]
async fn a_message_is_received_until_it_is_deleted_and_five_times_at_most() {
    let clock = Hand::new();
    let queue = SqliteStore::open_in_memory(Arc::new(clock.clone())).expect("SQLite");
    let minute = Duration::from_secs(60);
    queue.put("q", b"now".to_vec(), Duration::ZERO).await.expect("put");
    queue.put("q", b"later".to_vec(), minute * 10).await.expect("put");
    let first = queue.receive("q", 10, minute).await.expect("received");
    assert_eq!((first.len(), first[0].tries, first[0].body.as_slice()), (1, 1, b"now".as_slice()));
    assert!(queue.receive("q", 10, minute).await.expect("received").is_empty(), "invisible to others");
    for tries in 2..=5 {
        clock.0.advance(minute);
        let again = queue.receive("q", 1, minute).await.expect("received");
        assert_eq!(again[0].tries, tries);
        assert!(!queue.delete("q", &first[0]).await.expect("answered"), "an old receipt deletes nothing");
    }
    clock.0.advance(minute);
    assert!(queue.receive("q", 10, minute).await.expect("received").is_empty());
    let poison = queue.receive("q-poison", 10, minute).await.expect("received");
    assert_eq!(poison[0].body, b"now");
    assert!(queue.delete("q-poison", &poison[0]).await.expect("deleted"));
    clock.0.advance(minute * 10);
    let late = queue.receive("q", 10, minute).await.expect("received");
    assert_eq!(late[0].body, b"later");
    queue.poison("q", &late[0]).await.expect("moved");
    assert_eq!(queue.receive("q-poison", 10, minute).await.expect("received")[0].body, b"later");
}

#[derive(Debug, Clone)]
enum Change {
    Put(u8, u8),
    PutIf(u8, u8, bool),
    Delete(u8),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (0_u8..12, any::<u8>()).prop_map(|(key, value)| Change::Put(key, value)),
        (0_u8..12, any::<u8>(), any::<bool>()).prop_map(|(key, value, right)| Change::PutIf(key, value, right)),
        (0_u8..12).prop_map(Change::Delete),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_store_behaves_as_a_map(transactions in prop::collection::vec(prop::collection::vec(change(), 1..6), 1..20), base in prop::collection::vec(0_u8..12, 0..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let below = memory();
            for key in &base {
                below.commit("p", vec![put(&format!("k{key:02}"), "base")]).await.expect("written");
            }
            let stores: [(Arc<dyn StateStore>, bool); 2] = [(memory(), false), (Arc::new(Overlay::new(below, memory())), true)];
            for (store, has_base) in stores {
                let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
                if has_base {
                    model.extend(base.iter().map(|key| (format!("k{key:02}"), b"base".to_vec())));
                }
                for changes in &transactions {
                    let mut after = model.clone();
                    let mut writes: BTreeMap<String, Write> = BTreeMap::new();
                    let mut conflict = false;
                    for change in changes {
                        let (Change::Put(key, _) | Change::PutIf(key, ..) | Change::Delete(key)) = change;
                        let key = format!("k{key:02}");
                        if writes.contains_key(&key) {
                            continue;
                        }
                        let there = store.get("p", &key).await.expect("readable").map(|row| row.version);
                        let write = match change {
                            Change::Put(_, value) => { after.insert(key.clone(), vec![*value]); Write::Put { key: key.clone(), value: vec![*value] } }
                            Change::Delete(_) => { after.remove(&key); Write::Delete { key: key.clone() } }
                            Change::PutIf(_, value, right) => {
                                after.insert(key.clone(), vec![*value]);
                                let version = if *right { there } else if there.is_some() { None } else { Some(indicator_relay::storage::Version("wrong".into())) };
                                conflict |= !right;
                                Write::PutIf { key: key.clone(), value: vec![*value], version }
                            }
                        };
                        writes.insert(key, write);
                    }
                    let outcome = store.commit("p", writes.into_values().collect()).await;
                    assert_eq!(outcome.is_err(), conflict);
                    if !conflict {
                        model = after;
                    }
                    for limit in [1, 3, 100] {
                        let rows = store.scan("p", "k", "l", limit).await.expect("readable");
                        let got: Vec<(String, Vec<u8>)> = rows.into_iter().map(|row| (row.key, row.value)).collect();
                        let wanted: Vec<(String, Vec<u8>)> = model.clone().into_iter().take(limit).collect();
                        assert_eq!(got, wanted);
                    }
                }
            }
        });
    }
}
