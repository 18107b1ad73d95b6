//! One suite for every store: what the product takes for granted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::storage::overlay::Overlay;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{CommitError, StateStore, TRANSACTION_ROWS, VALUE_BYTES, Version, Write};
use jiff::Timestamp;
use proptest::prelude::*;

/// A clock that tests move.
#[derive(Debug, Clone)]
pub(crate) struct Hand(pub(crate) emulator::SimClock);

impl Hand {
    pub(crate) fn new() -> Self {
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
async fn a_row_that_changed_is_not_deleted_by_who_has_not_seen_it() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let delete = |version: &Version| vec![Write::DeleteIf { key: "x".to_owned(), version: version.clone() }];
        let first = store.commit("p", vec![put_if("x", "old", None)]).await.expect(name)[0].clone();
        let second = store.commit("p", vec![put_if("x", "new", Some(first.clone()))]).await.expect(name)[0].clone();
        let refused = store.commit("p", delete(&first)).await;
        assert!(matches!(refused, Err(CommitError::Conflict { key }) if key == "x"), "{name}");
        assert_eq!(value(store.as_ref(), "x").await.as_deref(), Some("new"), "{name}");
        store.commit("p", delete(&second)).await.expect(name);
        assert_eq!(value(store.as_ref(), "x").await, None, "{name}");
        assert!(matches!(store.commit("p", delete(&second)).await, Err(CommitError::Conflict { .. })), "{name}");
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
    for key in ["a/b", "a\\b", "a#b", "a?b", "a%b", "a\u{7}b", "é", "", &"k".repeat(600)] {
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

fn sized(key: &str, length: usize) -> Write {
    let value = (0..length).map(|i| u8::try_from(i % 251).expect("small")).collect();
    Write::Put { key: key.to_owned(), value }
}

#[tokio::test]
async fn values_of_every_size_come_back_however_they_are_written() {
    const PART: usize = 64 << 10;
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        for length in [0, 1, PART - 1, PART, PART + 1, 5 * PART + 7, VALUE_BYTES - 1] {
            let Write::Put { value, .. } = sized("x", length) else { panic!("a put") };
            let conditional = |version| Write::PutIf { key: "x".to_owned(), value: value.clone(), version };
            let first = store.commit("p", vec![conditional(None)]).await.expect(name).remove(0);
            let second = store.commit("p", vec![conditional(Some(first))]).await.expect(name).remove(0);
            let row = store.get("p", "x").await.expect(name).expect("a row");
            assert!(row.value == value && row.version == second, "{name}: {length}");
            store.commit("p", vec![sized("x", length)]).await.expect(name);
            assert!(store.scan("p", "x", "y", 1).await.expect(name)[0].value == value, "{name}: {length}");
            store.commit("p", vec![Write::Delete { key: "x".to_owned() }]).await.expect(name);
        }
    }
}

#[tokio::test]
async fn a_transaction_of_the_most_bytes_is_taken_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let each = indicator_relay::storage::TRANSACTION_BYTES / TRANSACTION_ROWS - 8;
        store.commit("p", (0..TRANSACTION_ROWS).map(|i| sized(&format!("row{i:03}"), each)).collect()).await.expect(name);
        assert_eq!(keys(store.as_ref(), "row", "rox", 1_000).await.len(), TRANSACTION_ROWS, "{name}");
    }
}

#[tokio::test]
async fn no_character_of_a_key_or_partition_means_anything() {
    let odd = "it's \"a\" + b & c = d, (e); f: @$*[]{}|<>^`~!_.-";
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        for partition in ["p", "a/b c'd#e?f%g\\h é", "''", odd] {
            let rows = vec![put(odd, partition), put("'", "quote"), put("''", "quotes")];
            store.commit(partition, rows).await.expect(name);
            let row = store.get(partition, odd).await.expect(name).expect("a row");
            assert_eq!((row.key.as_str(), row.value.as_slice()), (odd, partition.as_bytes()), "{name}");
            assert_eq!(store.scan(partition, "'", "j", 10).await.expect(name).len(), 3, "{name}");
            assert_eq!(store.scan(partition, odd, "j", 10).await.expect(name).len(), 1, "{name}");
            let update = Write::PutIf { key: odd.to_owned(), value: b"new".to_vec(), version: Some(row.version) };
            store.commit(partition, vec![update, Write::Delete { key: "'".to_owned() }]).await.expect(name);
            let many = store.get_many(partition, vec!["'".to_owned(), odd.to_owned(), "''".to_owned()]).await.expect(name);
            let values: Vec<Option<Vec<u8>>> = many.into_iter().map(|row| row.map(|row| row.value)).collect();
            assert_eq!(values, [None, Some(b"new".to_vec()), Some(b"quotes".to_vec())], "{name}");
        }
    }
}

#[tokio::test]
async fn more_rows_than_one_answer_holds_are_read_in_order() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let all: Vec<String> = (0..2_300).map(|i| format!("row{i:05}")).collect();
        for chunk in all.chunks(TRANSACTION_ROWS) {
            store.commit("p", chunk.iter().map(|key| put(key, key)).collect()).await.expect(name);
        }
        for limit in [999, 1_000, 1_001, 2_300, 10_000] {
            let found = keys(store.as_ref(), "row", "rox", limit).await;
            assert_eq!(found, all[..limit.min(2_300)], "{name}");
        }
        assert_eq!(keys(store.as_ref(), "row00900", "row02100", 5_000).await, all[900..2_100], "{name}");
        assert!(keys(store.as_ref(), "row", "rox", 0).await.is_empty() && keys(store.as_ref(), "b", "a", 9).await.is_empty());
        let wanted: Vec<String> = (0..300).map(|i| format!("row{:05}", i * 10)).collect();
        let many = store.get_many("p", wanted.clone()).await.expect(name);
        let found: Vec<bool> =
            many.iter().zip(&wanted).map(|(row, key)| row.as_ref().is_some_and(|row| row.key == *key)).collect();
        assert_eq!(found, (0..300).map(|i| i < 230).collect::<Vec<_>>(), "{name}");
    }
}

#[tokio::test]
async fn in_a_full_transaction_the_row_that_was_changed_is_named_and_nothing_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let key = |i: usize| format!("k{i:03}");
        let insert = |i: usize| put_if(&key(i), "old", None);
        let versions = store.commit("p", (0..TRANSACTION_ROWS).map(insert).collect()).await.expect(name);
        assert_eq!(versions.len(), TRANSACTION_ROWS, "{name}");
        let update = |i: usize| put_if(&key(i), "new", Some(versions[i].clone()));
        for taken in [0, 57, TRANSACTION_ROWS - 1] {
            let before = store.get("p", &key(taken)).await.expect(name).expect("a row").version;
            store.commit("p", vec![put_if(&key(taken), "theirs", Some(before))]).await.expect(name);
            let refused = store.commit("p", (0..TRANSACTION_ROWS).map(update).collect()).await;
            let first = [0, 57, TRANSACTION_ROWS - 1].into_iter().find(|i| *i <= taken).map(key);
            assert!(matches!(&refused, Err(CommitError::Conflict { key }) if Some(key) == first.as_ref()), "{name}: {refused:?}");
        }
        let rows = store.scan("p", "k", "l", 200).await.expect(name);
        assert_eq!(rows.iter().filter(|row| row.value == b"old").count(), TRANSACTION_ROWS - 3, "{name}");
        // A row that is not there was changed too; so was one that is, where none was expected.
        for (write, named) in [(put_if("gone", "x", Some(versions[0].clone())), "gone"), (put_if(&key(9), "x", None), "k009")] {
            let refused = store.commit("p", vec![put("other", "x"), Write::Delete { key: key(3) }, write]).await;
            assert!(matches!(&refused, Err(CommitError::Conflict { key }) if key == named), "{name}: {refused:?}");
        }
        assert_eq!((value(store.as_ref(), "other").await, value(store.as_ref(), &key(3)).await.as_deref()), (None, Some("old")));
    }
}

#[tokio::test]
async fn absent_rows_are_deleted_beside_others_that_are_written() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let delete = |key: &str| Write::Delete { key: key.to_owned() };
        store.commit("p", vec![put("there", "1"), put("stays", "1")]).await.expect(name);
        let writes =
            vec![delete("none1"), put("new", "1"), delete("there"), delete("none2"), put_if("lease", "1", None), delete("none3")];
        let versions = store.commit("p", writes).await.expect(name);
        let lease = store.get("p", "lease").await.expect(name).expect("a row");
        assert_eq!(versions, [lease.version], "{name}");
        assert_eq!(keys(store.as_ref(), "a", "z", 10).await, ["lease", "new", "stays"], "{name}");
        assert!(store.commit("p", vec![delete("none1"), delete("none2")]).await.expect(name).is_empty(), "{name}");
        let stale = vec![delete("none1"), put_if("lease", "2", None)];
        assert!(matches!(store.commit("p", stale).await, Err(CommitError::Conflict { key }) if key == "lease"), "{name}");
    }
}

#[tokio::test]
async fn of_many_writers_at_once_one_wins() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, store) in stores(folder.path()).await {
        let mut version = None;
        for round in 0..20 {
            let write = |who: u32| {
                let (store, version) = (Arc::clone(&store), version.clone());
                async move {
                    store
                        .commit("p", vec![put_if("lease", &format!("{round}.{who}"), version), put(&format!("row{who}"), "x")])
                        .await
                }
            };
            let results = futures_util::future::join_all((0..8).map(write)).await;
            let mut won: Vec<_> = Vec::new();
            for result in results {
                match result {
                    Ok(versions) => won.extend(versions),
                    Err(CommitError::Conflict { key }) => assert_eq!(key, "lease", "{name}"),
                    Err(other) => panic!("{name}: {other}"),
                }
            }
            assert_eq!(won.len(), 1, "{name}");
            version = won.pop();
        }
    }
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

/// Every transaction has the effect that it has on a map, or none.
async fn behaves_as_a_map(store: &dyn StateStore, base: &[u8], transactions: &[Vec<Change>]) {
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    model.extend(base.iter().map(|key| (format!("k{key:02}"), b"base".to_vec())));
    for changes in transactions {
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
                Change::Put(_, value) => {
                    after.insert(key.clone(), vec![*value]);
                    Write::Put { key: key.clone(), value: vec![*value] }
                }
                Change::Delete(_) => {
                    after.remove(&key);
                    Write::Delete { key: key.clone() }
                }
                Change::PutIf(_, value, right) => {
                    after.insert(key.clone(), vec![*value]);
                    let version = if *right {
                        there
                    } else if there.is_some() {
                        None
                    } else {
                        Some(indicator_relay::storage::Version("wrong".into()))
                    };
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
            let overlay = Overlay::new(below, memory());
            let stores: [(Arc<dyn StateStore>, bool); 2] = [(memory(), false), (Arc::new(overlay), true)];
            for (store, has_base) in stores {
                let base: &[u8] = if has_base { &base } else { &[] };
                behaves_as_a_map(store.as_ref(), base, &transactions).await;
            }
        });
    }

    #[test]
    fn so_does_azure(transactions in prop::collection::vec(prop::collection::vec(change(), 1..6), 60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            // A few long histories: each request takes its time.
            static TURNS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
            if TURNS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 5 {
                behaves_as_a_map(crate::azurite::stores().await.state.as_ref(), &[], &transactions).await;
            }
        });
    }
}
