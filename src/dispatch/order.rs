//! Which runs of an item are still to be done, and whether it is its turn: judged by the row of its resource. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::key::{Names, run_key};
use super::plan::{Fetch, Plan, change_of, is_deletion, reads_by_itself};
use super::turns::{Resource as Row, Run, Waits};
use super::{Handled, TURN};
use crate::notifications::item::{ChangeType, Item, Origin, Task};
use crate::notifications::resources::Resource;

/// A deletion waits so long for what was delivered with it.
const GRACE: SignedDuration = SignedDuration::from_secs(5);
/// Clocks of receiver and worker differ by less: a read that began so much after a receipt began after it.
const APART: SignedDuration = SignedDuration::from_secs(1);

/// The runs that are still to be done; the others are counted.
pub(super) fn open_runs<'a>(
    resource: &Row,
    task: &Task,
    names: &Names,
    wanted: Vec<&'a Plan>,
    now: Timestamp,
    handled: &mut Handled,
) -> Vec<&'a Plan> {
    let is_open = |plan: &&Plan| {
        let known = resource.runs.get(&run_key(&names.item, &plan.name));
        let waits = |waits: &Waits| match task.playbook {
            // The copy itself, or an older one that came again.
            Some(_) => task.attempt < waits.attempt,
            // What was put off before its first attempt is no second delivery.
            None => waits.lives(now) && !(waits.untried && waits.received == task.item.received),
        };
        let duplicate = match known {
            Some(Run::Done(_)) => true,
            Some(Run::Waits(known)) => waits(known),
            None => found_again(resource, &task.item, plan),
        };
        let read = resource.covered.get(&covers(&plan.name, change_of(&task.item))).filter(|_| plan.reads(&task.item));
        // What changed was read before that read, for others.
        let read = read.filter(|_| !(reads_by_itself(task) && matches!(plan.fetch, Fetch::Delta(_))));
        let covered = read.is_some_and(|read| began_after(*read, task.item.received));
        handled.duplicate += usize::from(duplicate);
        handled.covered += usize::from(covered && !duplicate);
        !duplicate && !covered
    };
    wanted.into_iter().filter(is_open).collect()
}

/// How long the item must wait for others at its resource; none: it is its turn.
pub(super) fn must_wait(resource: &Row, item: &Item, names: &Names, open: &[&Plan], now: Timestamp) -> Option<Duration> {
    let own: Vec<String> = open.iter().map(|plan| run_key(&names.item, &plan.name)).collect();
    let this = Place { received: item.received, happened: happened(item) };
    // What reads sees the latest state whenever it runs, unless a deletion is told after it; all else keeps its order.
    let goes_first = |run: &str, waits: &Waits| {
        let other = Place { received: waits.received, happened: waits.happened };
        let mut same = open.iter().filter(|plan| plan.name == waits.playbook);
        let first = match (waits.deletion, is_deletion(item)) {
            (true, true) => other.received < this.received,
            (true, false) => same.next().is_some() && !comes_last(other, this, item),
            (false, true) => comes_last(this, other, item),
            (false, false) => other.received < this.received && same.any(|plan| !plan.reads(item)),
        };
        first && !own.iter().any(|own| own == run)
    };
    let next = resource.waiting(now).filter(|(run, waits)| goes_first(run, waits)).map(|(_, waits)| waits.next).max()?;
    Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + TURN)
}

/// How long a deletion still waits for what was delivered with it.
pub(super) fn grace(task: &Task, now: Timestamp) -> Option<Duration> {
    let left = GRACE - now.duration_since(task.item.received);
    let waits = is_deletion(&task.item) && task.attempt == 0 && left.is_positive();
    waits.then(|| Duration::try_from(left).unwrap_or(TURN))
}

/// A run that waits until then.
pub(super) fn waits(plan: &Plan, task: &Task, attempt: u32, next: Timestamp) -> Waits {
    Waits {
        playbook: plan.name.clone(),
        received: task.item.received,
        attempt,
        next,
        reads: plan.reads(&task.item),
        deletion: is_deletion(&task.item),
        change: change_of(&task.item),
        happened: happened(&task.item),
        untried: false,
    }
}

/// Where an item stands among the others.
#[derive(Clone, Copy)]
struct Place {
    received: Timestamp,
    happened: Option<Timestamp>,
}

/// Whether a deletion comes after another item of the resource. Of users and groups it is the end. Elsewhere `deleted` may only tell
/// that something left a filter or a chat, and it may come back: then the times of the two changes say it or, without them, whether
/// the other one was surely received later.
fn comes_last(deletion: Place, other: Place, item: &Item) -> bool {
    if item.resource.as_deref().and_then(Resource::of_object).is_some_and(Resource::is_gone_for_good) {
        return true;
    }
    match (deletion.happened, other.happened) {
        (Some(deletion), Some(other)) => other <= deletion,
        _ => other.received.duration_since(deletion.received) < APART,
    }
}

/// When the change happened, if the service says so.
fn happened(item: &Item) -> Option<Timestamp> {
    item.resource_data()?.get("eventTime")?.as_str()?.parse().ok()
}

/// A read stands for all changes of the same type that came before it began; copies that still come for them have nothing to do.
/// Another type is another matter: a playbook may act on what is new and pass over the same object where it was changed.
pub(super) fn cover(resource: &mut Row, playbook: &str, change: Option<ChangeType>, read: Timestamp, now: Timestamp) {
    let known = resource.covered.entry(covers(playbook, change)).or_insert(read);
    *known = (*known).max(read);
    for run in resource.runs.values_mut() {
        if let Run::Waits(waits) = run
            && waits.reads
            && waits.playbook == playbook
            && waits.change == change
            && began_after(read, waits.received)
        {
            *run = Run::Done(now.as_second());
        }
    }
}

/// The read surely saw what the notification tells of.
fn began_after(read: Timestamp, received: Timestamp) -> bool {
    read.duration_since(received) > APART
}

/// A catch-up cannot tell whether a creation was told of, and by which tag.
fn found_again(resource: &Row, item: &Item, plan: &Plan) -> bool {
    let creation = item.origin == Origin::CatchUp && change_of(item) == Some(ChangeType::Created);
    creation && resource.created.contains_key(&creates(&plan.name))
}

/// The key under which a row remembers that the playbook has acted on the creation.
pub(super) fn creates(playbook: &str) -> String {
    run_key("creates", playbook)
}

/// The key under which a row remembers as of when the playbook last wrote what the next write takes the place of.
pub(super) fn writes(playbook: &str) -> String {
    run_key("writes", playbook)
}

fn covers(playbook: &str, change: Option<ChangeType>) -> String {
    run_key(&format!("covers {}", change.map_or("", ChangeType::name)), playbook)
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};

    use super::*;
    use crate::notifications::item::Event;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_780_000_000 + second).expect("a time")
    }

    #[test]
    fn a_deletion_comes_last_of_what_was_before_it() {
        let place = |received, happened: Option<i64>| Place { received: at(received), happened: happened.map(at) };
        let last = |resource: &str, deletion, other| {
            let item = Item::new(Origin::Graph, at(0), Event::Change(ChangeType::Deleted));
            comes_last(deletion, other, &Item { resource: Some(resource.to_owned()), ..item })
        };
        let message = "users/u/messages/m";
        for (deletion, other, expected) in [
            (place(10, None), place(9, None), true),
            (place(10, None), place(10, None), true),
            (place(10, None), place(11, None), false),
            // Told too late, or too early.
            (place(10, Some(8)), place(12, Some(7)), true),
            (place(10, Some(8)), place(9, Some(9)), false),
            (place(10, Some(8)), place(12, None), false),
        ] {
            assert_eq!(last(message, deletion, other), expected, "{:?}", (deletion.received, other.received));
            assert!(last("Users/u", deletion, other) && last("groups/g/members", deletion, other), "nothing comes after that");
        }
    }

    #[test]
    fn a_change_happened_when_the_service_says_so() {
        let of = |data| {
            let item = Item::new(Origin::Graph, at(0), Event::Change(ChangeType::Updated));
            happened(&Item { notification: Map::from_iter([("resourceData".to_owned(), data)]), ..item })
        };
        assert_eq!(of(json!({"eventTime": "2026-06-01T09:30:00.1234567Z"})), "2026-06-01T09:30:00.1234567Z".parse().ok());
        assert_eq!(of(json!({"eventTime": 7})), None);
        assert_eq!(of(json!(null)), None);
    }
}
