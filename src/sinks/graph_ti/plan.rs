//! What becomes of one item: which object is kept, and which ones go. Pure.

use super::wire::Entity;
use crate::sinks::There;

/// An item's objects. Without one that is kept, a new one is made; the others go once the item is at the target.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub keep: Option<String>,
    pub extra: Vec<String>,
}

/// Of the object that is known and those that a lookup found for the item, the first that an update can make right is kept.
pub(super) fn plan(there: &There, found: &[Entity], can_become: impl Fn(&Entity) -> bool) -> Plan {
    let known = there.id.iter().map(|id| (id, !there.replaced));
    let others = found.iter().filter(|entity| Some(&entity.id) != there.id.as_ref());
    let mut plan = Plan::default();
    for (id, fits) in known.chain(others.map(|entity| (&entity.id, can_become(entity)))) {
        if fits && plan.keep.is_none() {
            plan.keep = Some(id.clone());
        } else if plan.keep.as_ref() != Some(id) && !plan.extra.contains(id) {
            plan.extra.push(id.clone());
        }
    }
    plan
}

/// All objects of an item that shall go.
pub(super) fn all(there: &There, found: &[Entity]) -> Vec<String> {
    plan(&There { replaced: true, ..there.clone() }, found, |_| false).extra
}

/// One object of an item is kept, the known one if it is among those that were found; the others go.
pub(super) fn sole(there: &There, found: &[Entity]) -> Plan {
    let keep = found.iter().find(|entity| Some(&entity.id) == there.id.as_ref()).or_else(|| found.first());
    let extra = found.iter().filter(|entity| Some(&entity.id) != keep.map(|kept| &kept.id));
    Plan { extra: extra.map(|entity| entity.id.clone()).collect(), keep: keep.map(|kept| kept.id.clone()) }
}
