//! Which runs of an item are still to be done, and whether it is its turn: judged by the row of its resource. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

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
/// What is received less than [`APART`] after a deletion may have happened before it.
const TOGETHER: SignedDuration = SignedDuration::from_millis(999);

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
            Some(_) => task.tries() < waits.tries,
            None => waits.lives(now),
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

/// Those whose turn it is, and those that must wait, each with how long: a playbook waits for nothing but what is its own.
pub(super) fn by_turn<'a>(
    resource: &Row,
    task: &Task,
    names: &Names,
    open: &[&'a Plan],
    now: Timestamp,
) -> (Vec<&'a Plan>, Vec<(&'a Plan, Duration)>) {
    let held = resource.held_until(now).map(|_| TURN);
    let (mut ready, mut waiting) = (Vec::new(), Vec::new());
    for plan in open {
        match must_wait(resource, &task.item, names, plan, now).max(grace(task, now)).max(held) {
            Some(wait) => waiting.push((*plan, wait)),
            None => ready.push(*plan),
        }
    }
    (ready, waiting)
}

/// How long a playbook must wait with the item for others at the resource; none: it is its turn.
fn must_wait(resource: &Row, item: &Item, names: &Names, plan: &Plan, now: Timestamp) -> Option<Duration> {
    let (own, this) = (run_key(&names.item, &plan.name), Place::of(item));
    // What reads sees the latest state whenever it runs, unless a deletion is told after it; all else keeps its order.
    let ordered = |waits: &Waits| waits.place.deletion || this.deletion || !waits.untried && !plan.reads(item);
    let goes_first = |run: &str, waits: &Waits| waits.playbook == plan.name && waits.place < this && ordered(waits) && run != own;
    let next = resource.waiting(now).filter(|(run, waits)| goes_first(run, waits)).map(|(_, waits)| waits.next).max()?;
    Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + TURN)
}

/// How long a deletion still waits for what was delivered with it.
fn grace(task: &Task, now: Timestamp) -> Option<Duration> {
    let left = GRACE - now.duration_since(task.item.received);
    let waits = is_deletion(&task.item) && task.attempt == 0 && left.is_positive();
    waits.then(|| Duration::try_from(left).unwrap_or(TURN))
}

/// A run whose copy waits until then.
pub(super) fn waits(plan: &Plan, copy: &Task, next: Timestamp) -> Waits {
    Waits {
        playbook: plan.name.clone(),
        place: Place::of(&copy.item),
        tries: copy.tries(),
        next,
        reads: plan.reads(&copy.item),
        change: change_of(&copy.item),
        untried: false,
    }
}

/// Where an item stands among the others of its resource. The fields in their order are the rule, and each is of one item alone: so
/// all who compare two items agree, and no items wait for each other in a circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Place {
    /// The deletion of a user or group is the end. Elsewhere `deleted` may only tell that something left a filter or a chat, and it
    /// may come back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    last: bool,
    /// When the change happened, or, where the service does not say it, when we knew of it.
    at: Timestamp,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deletion: bool,
    /// When it was received or, where its object was found by a read of ours, when that began.
    pub known: Timestamp,
}

impl Place {
    pub(super) fn of(item: &Item) -> Self {
        let deletion = is_deletion(item);
        let kind = item.resource.as_deref().and_then(Resource::of_object);
        let known = item.read.unwrap_or(item.received);
        // What is received together with a deletion was before it.
        let counts = if deletion { known.saturating_add(TOGETHER).unwrap_or(known) } else { known };
        Self {
            last: deletion && kind.is_some_and(Resource::is_gone_for_good),
            at: happened(item).unwrap_or(counts),
            deletion,
            known,
        }
    }
}

/// What a playbook last wrote that its next write takes the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    pub place: Place,
    /// When its read began, if it read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Timestamp>,
}

impl Written {
    /// Whether an item holds an older state. Messages of who went away come again after those that came later. A read that was told
    /// of before a deletion began after it as a rule, and yet the deletion is the later state.
    pub(super) fn is_newer_than(&self, place: Place, read: Option<Timestamp>) -> bool {
        let read_after = |at: Timestamp| self.read.is_some_and(|read| read > at);
        match read {
            Some(read) => read_after(read) || self.place.last && place < self.place,
            None => place < self.place || !place.deletion && read_after(place.known),
        }
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
            && began_after(read, waits.place.known)
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
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::notifications::item::Event;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_780_000_000 + second).expect("a time")
    }

    fn place(resource: &str, change: ChangeType, received: i64, happened: Option<i64>) -> Place {
        let data = happened.map_or(json!({}), |second| json!({"eventTime": at(second).to_string()}));
        Place::of(&Item {
            resource: Some(resource.to_owned()),
            notification: Map::from_iter([("resourceData".to_owned(), data)]),
            ..Item::new(Origin::Graph, at(received), Event::Change(change))
        })
    }

    #[test]
    fn a_deletion_comes_last_of_what_was_before_it() {
        for (deletion, other, expected) in [
            ((10, None), (9, None), true),
            ((10, None), (10, None), true),
            ((10, None), (11, None), false),
            // Told too late, or too early.
            ((10, Some(8)), (12, Some(7)), true),
            ((10, Some(8)), (9, Some(9)), false),
            ((10, Some(8)), (12, None), false),
        ] {
            let is_last = |resource| {
                let of = |change, (received, happened)| place(resource, change, received, happened);
                of(ChangeType::Deleted, deletion) > of(ChangeType::Updated, other)
            };
            assert_eq!(is_last("users/u/messages/m"), expected, "{deletion:?} {other:?}");
            assert!(is_last("Users/u") && is_last("groups/g/members"), "nothing comes after that");
        }
    }

    #[test]
    fn no_three_items_wait_for_each_other() {
        let message = |change, received, happened| place("users/u/messages/m", change, received, Some(happened));
        let first = message(ChangeType::Deleted, 12, 5);
        let update = message(ChangeType::Updated, 11, 7);
        let second = message(ChangeType::Deleted, 10, 8);
        assert!(first < update && update < second && first < second);
    }

    fn any_place(resource: &'static str) -> impl Strategy<Value = Place> {
        let change = prop::sample::select(&ChangeType::ALL[..]);
        (change, 0_i64..6, prop::option::of(0_i64..6))
            .prop_map(move |(change, received, happened)| place(resource, change, received, happened))
    }

    fn three(resource: &'static str) -> impl Strategy<Value = [Place; 3]> {
        [any_place(resource), any_place(resource), any_place(resource)]
    }

    proptest! {
        #[test]
        fn the_order_of_items_is_one(places in prop_oneof![three("users/u"), three("users/u/messages/m")]) {
            let [a, b, c] = places;
            prop_assert!(u8::from(a < b) + u8::from(b < a) + u8::from(a == b) == 1);
            prop_assert!(!(a < b && b < c) || a < c);
            prop_assert!(!(a == b && b < c) || a < c);
        }
    }

    #[test]
    fn what_was_written_is_newer_than_what_was_before_it() {
        use ChangeType::{Created, Deleted, Updated};
        let message = |change, received| place("users/u/messages/m", change, received, None);
        let written = |place, read: Option<i64>| Written { place, read: read.map(at) };
        for (known, this, read, expected) in [
            (written(message(Updated, 10), None), message(Updated, 9), None, true),
            (written(message(Updated, 10), None), message(Updated, 11), None, false),
            (written(message(Updated, 10), Some(12)), message(Updated, 11), None, true),
            (written(message(Updated, 10), Some(12)), message(Updated, 9), Some(at(13)), false),
            // A deletion that the read before it waited for, and one that comes after what came back.
            (written(message(Updated, 10), Some(12)), message(Deleted, 10), None, false),
            (written(message(Created, 13), Some(14)), message(Deleted, 10), None, true),
            (written(message(Deleted, 10), None), message(Created, 13), None, false),
            (written(place("users/u", Deleted, 10, None), None), place("users/u", Updated, 13, None), Some(at(14)), true),
        ] {
            assert_eq!(known.is_newer_than(this, read), expected, "{known:?} {this:?}");
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
