//! Which runs of an item are still to be done, and whether it is its turn: judged by the row of its resource. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::item::Names;
use super::key::run_key;
use super::plan::{Plan, change_of, is_deletion};
use super::turns::{Resource, Run, Waits};
use super::{Handled, TURN};
use crate::notifications::item::{ChangeType, Item, Origin, Task};

/// Clocks of receiver and worker differ by less: a read that began so much after a receipt began after it.
const APART: SignedDuration = SignedDuration::from_secs(1);

/// The runs that are still to be done; the others are counted.
pub(super) fn open_runs<'a>(
    resource: &Resource,
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
            None => waits.lives(now),
        };
        let duplicate = match known {
            Some(Run::Done(_)) => true,
            Some(Run::Waits(known)) => waits(known),
            None => found_again(resource, &task.item, plan),
        };
        let read = resource.covered.get(&covers(&plan.name, change_of(&task.item))).filter(|_| plan.reads(&task.item));
        let covered = read.is_some_and(|read| began_after(*read, task.item.received));
        handled.duplicate += usize::from(duplicate);
        handled.covered += usize::from(covered && !duplicate);
        !duplicate && !covered
    };
    wanted.into_iter().filter(is_open).collect()
}

/// How long the item must wait for others at its resource; none: it is its turn.
pub(super) fn must_wait(resource: &Resource, item: &Item, names: &Names, open: &[&Plan], now: Timestamp) -> Option<Duration> {
    if resource.held_until(now).is_some() {
        return Some(TURN);
    }
    let deletion = is_deletion(item);
    let own: Vec<String> = open.iter().map(|plan| run_key(&names.item, &plan.name)).collect();
    // What reads sees the latest state whenever it runs; all else keeps its order, and a deletion comes last.
    let goes_first = |run: &str, waits: &Waits| {
        let earlier = waits.received < item.received || (deletion && !waits.deletion && waits.received == item.received);
        let same = || open.iter().any(|plan| plan.name == waits.playbook && !plan.reads(item));
        !own.iter().any(|own| own == run) && earlier && (deletion || same())
    };
    let next = resource.waiting(now).filter(|(run, waits)| goes_first(run, waits)).map(|(_, waits)| waits.next).max()?;
    Some(Duration::try_from(next.duration_since(now)).unwrap_or_default() + TURN)
}

/// A read stands for all changes of the same type that came before it began; copies that still come for them have nothing to do.
/// Another type is another matter: a playbook may act on what is new and pass over the same object where it was changed.
pub(super) fn cover(resource: &mut Resource, playbook: &str, change: Option<ChangeType>, read: Timestamp, now: Timestamp) {
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
fn found_again(resource: &Resource, item: &Item, plan: &Plan) -> bool {
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
