//! Which rows nobody needs any more. Pure.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::rows::{Book, delete, keyed};
use crate::notifications::wanted::Wanted;
use crate::storage::Write;

/// Events of what is gone still come, and what comes back is caught up from where it was left.
const KEPT: Duration = Duration::from_secs(7 * 86_400);
/// Of one transaction, the lease's row beside them.
const SWEPT: usize = 90;

/// Deletions of at most one transaction; the rest comes with the next run.
pub(super) fn leftovers(book: &Book, wanted: &[Wanted], now: Timestamp) -> Vec<Write> {
    let old = |at: Timestamp| at.checked_add(KEPT).is_ok_and(|until| until <= now);
    let groups: BTreeSet<String> = wanted.iter().map(Wanted::group).collect();
    let alive = |group: &String| groups.contains(group) || book.held.values().any(|held| held.group == *group);
    let tombstones = book.tombstones.values().filter(|tombstone| old(tombstone.at)).map(|row| keyed('t', &row.id));
    let heard = book.heard.iter().filter(|(id, at)| old(**at) && !book.held.contains_key(*id)).map(|(id, _)| keyed('n', id));
    let problems = book.problems.keys().filter(|group| !groups.contains(*group)).map(|group| keyed('f', group));
    let intents = book.intents.values().filter(|intent| old(intent.at) && !alive(&intent.group));
    let intents = intents.map(|intent| keyed('i', &intent.group));
    let caught = book.caught.iter().filter(|(group, caught)| old(caught.last) && !alive(group));
    let caught = caught.map(|(group, _)| keyed('c', group));
    let asked = book.resyncs.iter().filter(|(_, asked)| old(asked.since) && !alive(&asked.group)).map(|(key, _)| key.clone());
    tombstones.chain(heard).chain(problems).chain(intents).chain(caught).chain(asked).take(SWEPT).map(delete).collect()
}

#[cfg(test)]
mod tests {
    use super::super::rows::{Caught, Reason, Resync};
    use super::*;

    #[test]
    fn only_what_is_old_and_nobody_wants_goes() {
        let now: Timestamp = "2026-11-24T09:00:00Z".parse().expect("a time");
        let week = now - KEPT;
        let caught = |last| Caught { last, next: now, delta: None, page: None, began: None, problem: None };
        let asked = |since| Resync { group: "n2".to_owned(), resource: "users".to_owned(), since, reason: Reason::Missed };
        let book = Book {
            caught: [("n1".to_owned(), caught(week)), ("n2".to_owned(), caught(now))].into(),
            heard: [("one".to_owned(), week), ("two".to_owned(), now)].into(),
            resyncs: [("r.n2.1".to_owned(), asked(week)), ("r.n2.2".to_owned(), asked(now))].into(),
            ..Book::default()
        };
        let gone = ["n.one", "c.n1", "r.n2.1"].map(|key| delete(key.to_owned()));
        assert_eq!(leftovers(&book, &[], now), gone);
    }
}
