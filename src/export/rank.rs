//! Rank: which claim of an observable wins, and which observables stay where places are few. Total orders.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use super::rows::{Holder, RowClaim, TargetRow};
use super::stored;
use crate::indicator::{ObservableKey, Weight};

/// The jobs that are configured for one destination, in the order of `JOBS`.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places(Vec<String>);

impl Places {
    pub(crate) fn new(jobs: Vec<String>) -> Self {
        Self(jobs)
    }

    /// The job's place; none if it is not configured for this destination.
    pub(crate) fn of(&self, job: &str) -> Option<usize> {
        self.0.iter().position(|name| name == job)
    }
}

/// Greater wins: not refused, weight, incumbent, the job's place in `JOBS`, source id.
pub(crate) type Rank = (bool, Weight, bool, Reverse<usize>, Reverse<u64>);

pub(crate) fn rank(claim: &RowClaim, incumbent: Option<&Holder>, places: &Places) -> Rank {
    rank_of(&claim.job, claim.id, claim.weight, claim.refused, incumbent, places)
}

pub(crate) fn rank_of(job: &str, id: u64, weight: Weight, refused: bool, incumbent: Option<&Holder>, places: &Places) -> Rank {
    let is_incumbent = incumbent.is_some_and(|holder| holder.0 == job && holder.1 == id);
    (!refused, weight, is_incumbent, Reverse(places.of(job).unwrap_or(usize::MAX)), Reverse(id))
}

/// An observable's rank among all of its destination, by its best claim: greater stays. Fields in order of weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// The target did not refuse it.
    welcome: bool,
    #[serde(with = "stored::weight")]
    pub weight: Weight,
    /// It is there already: nothing is gained by putting an equal in its place.
    there: bool,
    /// Of its job in `JOBS`.
    place: Reverse<usize>,
    id: Reverse<u64>,
    #[serde(with = "stored::key")]
    pub key: Reverse<ObservableKey>,
}

impl Standing {
    /// By one claim on the observable `key`.
    pub(crate) fn of(key: ObservableKey, claim: &RowClaim, there: bool, places: &Places) -> Self {
        Self {
            welcome: !claim.refused,
            weight: claim.weight,
            there,
            place: Reverse(places.of(&claim.job).unwrap_or(usize::MAX)),
            id: Reverse(claim.id),
            key: Reverse(key),
        }
    }
}

impl TargetRow {
    /// Its observable's rank by those of its claims that `count`; none if none does.
    pub(crate) fn standing(&self, key: ObservableKey, places: &Places, count: impl Fn(&RowClaim) -> bool) -> Option<Standing> {
        self.claims.iter().filter(|claim| count(claim)).map(|claim| Standing::of(key, claim, true, places)).max()
    }

    /// The claim that ranks first.
    pub(crate) fn best(&self, places: &Places) -> Option<&RowClaim> {
        self.claims.iter().max_by_key(|claim| rank(claim, self.winner.as_ref(), places))
    }

    pub(crate) fn is_held_by(&self, job: &str, id: u64) -> bool {
        self.winner.as_ref().is_some_and(|holder| holder.1 == id && holder.0 == job)
    }

    /// Another claim must be chosen and sent: somebody else ranks first, what is there is unknown, or its job has left.
    ///
    /// A row with a single claim needs no mark: that claim's own next read mends it.
    pub(crate) fn wants_hand_over(&self, places: &Places) -> bool {
        if self.claims.len() < 2 {
            return false;
        }
        match &self.winner {
            None => true,
            Some(holder) => {
                self.hash.is_none()
                    || places.of(&holder.0).is_none()
                    || self.best(places).is_some_and(|best| best.id != holder.1 || best.job != holder.0)
            }
        }
    }

    /// Adds or replaces a claim; keeps the best [`super::rows::CLAIMS_PER_ROW`]. True if the row changed.
    pub(crate) fn put_claim(&mut self, claim: RowClaim, places: &Places) -> bool {
        match self.claims.iter_mut().find(|known| known.id == claim.id && known.job == claim.job) {
            Some(known) if *known == claim => return false,
            Some(known) => *known = claim,
            None => self.claims.push(claim),
        }
        if self.claims.len() > super::rows::CLAIMS_PER_ROW {
            self.cut = true;
            let incumbent = self.winner.clone();
            let worst = (0..self.claims.len())
                .filter(|i| !self.is_held_by(&self.claims[*i].job, self.claims[*i].id))
                .min_by_key(|i| rank(&self.claims[*i], incumbent.as_ref(), places));
            if let Some(worst) = worst {
                self.claims.swap_remove(worst);
            }
        }
        true
    }

    /// Takes a claim away. True if it was the winner.
    pub(crate) fn remove_claim(&mut self, job: &str, id: u64) -> bool {
        self.claims.retain(|claim| claim.id != id || claim.job != job);
        if self.is_held_by(job, id) {
            self.forget();
            return true;
        }
        false
    }

    /// What is at the target is not known any more, or must be chosen anew.
    pub(crate) fn forget(&mut self) {
        self.winner = None;
        self.hash = None;
    }
}
