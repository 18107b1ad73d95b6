//! Many writers at once on a SQLite file: writes share transactions, and nobody may notice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{CommitError, Queue as _, StateStore as _, Version, Write};
use proptest::prelude::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::rig::HOUR;
use crate::storage::Hand;

/// Where the process writes that is killed.
const FILE: &str = "INDICATOR_RELAY_TEST_FILE";

fn open(path: &Path) -> SqliteStore {
    SqliteStore::open(path, Arc::new(Hand::new())).expect("SQLite")
}

fn put(key: &str, value: &str) -> Write {
    Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec() }
}

fn put_if(key: &str, value: &str, version: Option<Version>) -> Write {
    Write::PutIf { key: key.to_owned(), value: value.as_bytes().to_vec(), version }
}

#[tokio::test]
async fn many_writers_of_two_processes_count_without_a_gap() {
    const TURNS: u64 = 12;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    let stores = [open(&path), open(&path)];
    let conflicts = AtomicU64::new(0);
    let writer = async |who: usize| {
        let store = &stores[who % 2];
        let mut won = 0;
        while won < TURNS {
            let row = store.get("p", "n").await.expect("readable");
            let n: u64 = row.as_ref().map_or(0, |row| String::from_utf8_lossy(&row.value).parse().expect("a number"));
            let next = (n + 1).to_string();
            let log = put(&format!("log.{next}"), &who.to_string());
            // What is first in a transaction that is refused must not stay.
            match store.commit("p", vec![log, put_if("n", &next, row.map(|row| row.version))]).await {
                Ok(_) => {
                    won += 1;
                    let row = store.get("p", &format!("log.{next}")).await.expect("readable").expect("it was answered");
                    assert_eq!(row.value, who.to_string().as_bytes(), "nobody else had this number");
                    store.put("q", next.into_bytes(), Duration::ZERO).await.expect("put");
                }
                Err(CommitError::Conflict { key }) => {
                    assert_eq!(key, "n");
                    conflicts.fetch_add(1, Ordering::Relaxed);
                }
                Err(other) => panic!("{other}"),
            }
        }
    };
    join_all((0..16).map(writer)).await;
    let total = 16 * TURNS;
    assert!(conflicts.into_inner() > 0);
    let last = stores[1].get("p", "n").await.expect("readable").expect("a row").value;
    assert_eq!(last, total.to_string().as_bytes());
    assert_eq!(stores[0].scan("p", "log.", "log/", 10_000).await.expect("readable").len() as u64, total);
    let messages = stores[0].receive("q", 10_000, HOUR).await.expect("received");
    let numbers: BTreeSet<Vec<u8>> = messages.into_iter().map(|message| message.body).collect();
    assert_eq!(numbers.len() as u64, total, "each was put once");
}

#[tokio::test]
async fn of_many_receivers_each_gets_other_messages() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = open(&folder.path().join("state.db"));
    let puts = join_all((0..300_u32).map(|i| store.put("q", i.to_be_bytes().to_vec(), Duration::ZERO))).await;
    assert!(puts.iter().all(Result::is_ok));
    let taken = join_all((0..40).map(|_| store.receive("q", 10, HOUR))).await;
    let taken: Vec<_> = taken.into_iter().flat_map(|messages| messages.expect("received")).collect();
    assert_eq!(taken.iter().map(|message| &message.body).collect::<BTreeSet<_>>().len(), 300);
    // Each is deleted twice at once: one of the two did it.
    let twice = join_all(taken.iter().chain(&taken).map(|message| store.delete("q", message))).await;
    assert_eq!((taken.len(), twice.into_iter().filter(|deleted| *deleted.as_ref().expect("answered")).count()), (300, 300));
}

/// One transaction of several that come at once: key, value, and for a conditional write whether it expects the first version.
type Transaction = BTreeMap<u8, (u8, Option<bool>)>;

fn transaction() -> impl Strategy<Value = Transaction> {
    prop::collection::btree_map(0_u8..6, (any::<u8>(), prop::option::of(any::<bool>())), 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rows 0 to 2 are there before, 3 to 5 are not.
    #[test]
    fn what_comes_at_once_is_as_if_it_came_one_after_the_other(transactions in prop::collection::vec(transaction(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let store = SqliteStore::open_in_memory(Arc::new(Hand::new())).expect("SQLite");
            let first = (0..3).map(|key| put_if(&format!("k{key}"), "first", None)).collect();
            let versions = store.commit("p", first).await.expect("free");
            let mut model: BTreeMap<u8, Option<u8>> = (0..3).map(|key| (key, None)).collect();
            let (mut expected, mut calls) = (Vec::new(), Vec::new());
            for transaction in &transactions {
                let as_expected = |(key, (_, condition)): (&u8, &(u8, Option<bool>))| match condition {
                    Some(true) if *key < 3 => model.get(key) == Some(&None),
                    Some(_) => !model.contains_key(key),
                    None => true,
                };
                let fits = transaction.iter().all(as_expected);
                if fits {
                    model.extend(transaction.iter().map(|(key, (value, _))| (*key, Some(*value))));
                }
                expected.push(fits);
                let writes = transaction.iter().map(|(key, (value, condition))| {
                    let (name, value) = (format!("k{key}"), value.to_string());
                    let version = |first: bool| versions.get(usize::from(*key)).filter(|_| first).cloned();
                    condition.map_or_else(|| put(&name, &value), |first| put_if(&name, &value, version(first)))
                });
                calls.push(store.commit("p", writes.collect()));
            }
            let outcomes = join_all(calls).await;
            assert_eq!(outcomes.iter().map(Result::is_ok).collect::<Vec<_>>(), expected);
            let given: Vec<&Version> = outcomes.iter().flatten().filter_map(|versions| versions.first()).collect();
            assert!(given.iter().enumerate().all(|(i, version)| !given[..i].contains(version)), "no version comes twice");
            let rows = store.scan("p", "k", "l", 10).await.expect("readable");
            let rows: Vec<_> = rows.into_iter().map(|row| (row.key, String::from_utf8(row.value).expect("text"))).collect();
            let value = |value: Option<u8>| value.map_or_else(|| "first".to_owned(), |value| value.to_string());
            assert_eq!(rows, model.into_iter().map(|(key, there)| (format!("k{key}"), value(there))).collect::<Vec<_>>());
        });
    }
}

/// Writes until it is killed, and says what was answered.
#[tokio::test]
#[ignore = "the process that the next story kills"]
async fn it_writes_until_it_is_killed() {
    #[expect(clippy::disallowed_methods, reason = "a process is told by its environment")]
    let Ok(path) = std::env::var(FILE) else { return };
    let store = open(Path::new(&path));
    let writer = async |who: u32| {
        for i in 0_u32.. {
            let rows = (0..5).map(|row| put(&format!("{who:02}.{i:06}.{row}"), "x")).collect();
            store.commit("p", rows).await.expect("written");
            println!("\nrows {who:02}.{i:06}");
            store.put("q", format!("{who:02}.{i:06}").into_bytes(), Duration::ZERO).await.expect("put");
            println!("\nmessage {who:02}.{i:06}");
        }
    };
    join_all((0..20).map(writer)).await;
}

#[tokio::test]
async fn of_a_process_that_is_killed_what_was_answered_is_there_and_the_rest_is_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    for (round, enough) in [1, 150, 700].into_iter().enumerate() {
        let path = folder.path().join(format!("{round}.db"));
        let mut child = tokio::process::Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "--nocapture", "groups::it_writes_until_it_is_killed"])
            .env(FILE, &path)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("started");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut answered: BTreeSet<(String, String)> = BTreeSet::new();
        while let Some(line) = lines.next_line().await.expect("read") {
            // The test program says this and that beside.
            let told = line.split_once(' ').filter(|(what, _)| ["rows", "message"].contains(what));
            answered.extend(told.map(|(what, id)| (what.to_owned(), id.to_owned())));
            if answered.len() >= enough {
                child.start_kill().expect("killed"); // what it still says until it is dead counts too
            }
        }
        assert!(!child.wait().await.expect("ended").success() && answered.len() >= enough, "{answered:?}");
        let store = open(&path);
        let mut groups: BTreeMap<String, usize> = BTreeMap::new();
        for row in store.scan("p", "", "~", 1_000_000).await.expect("readable") {
            *groups.entry(row.key[..9].to_owned()).or_default() += 1;
        }
        assert!(groups.values().all(|rows| *rows == 5), "whole or not at all: {groups:?}");
        let messages = store.receive("q", 1_000_000, HOUR).await.expect("received");
        let messages: BTreeSet<String> =
            messages.into_iter().map(|message| String::from_utf8(message.body).expect("text")).collect();
        assert!(messages.iter().all(|id| groups.contains_key(id)), "never before the rows that were answered first");
        for (what, id) in &answered {
            let is_there = if what == "rows" { groups.contains_key(id) } else { messages.contains(id) };
            assert!(is_there, "{what} {id} was answered");
        }
    }
}
