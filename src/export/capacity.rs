//! Places at a target that holds only so many objects: who is there, who may come, who must leave first. Pure.
//!
//! Also the first pass of a full run, which only finds the rank from which on there is a place ([`Selector`]).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::rank::{Places, Standing};
use super::rows::TargetRow;
use crate::indicator::ObservableKey;
use crate::sinks::{Answer, ContentHash};

/// Why a sighting has no place: the text that users see.
pub(crate) const NO_PLACE: &str = "no place is left for it: those there rank higher, or places are in reserve or held by others";
/// What is replaced needs the place for a moment.
pub(crate) const LATER: &str = "its place was needed for what is replaced; it is sent at the end of the run";
/// The guide's word on a reserve above what the target holds.
pub(crate) const CLOSED: &str = "Indicator Reserve Count is above what the target holds: nothing is sent there";
/// Another object would have to stand beside the old one for a moment.
pub(crate) const NO_PLACE_TO_REPLACE: &str =
    "no place is free to change what the target cannot change in an object; the next full run makes one";

/// Places that are kept free, at most, for objects that are replaced by others: one batch.
const BESIDE: u64 = 500;

/// The places of a capped target in one run, for users.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cap {
    /// Objects that the target holds at most.
    pub limit: u64,
    /// The largest Indicator Reserve Count of the destination's jobs; 0 when the reserve may be used.
    pub reserve: u64,
    /// Objects there that others made; none if the target does not show them.
    pub others: Option<u64>,
    /// What is left for this product: limit less reserve less others.
    pub places: u64,
    /// Of these, filled when the run ended.
    pub filled: u64,
}

/// Who is at the target. Without a limit nothing is kept, and everybody may come.
///
/// What grows with the places lies in trees: a hash table that grows doubles.
#[derive(Debug, Default)]
pub(crate) struct Capacity {
    cap: Option<Cap>,
    standing: BTreeMap<ObservableKey, Standing>,
    /// Those that can leave: no answer is awaited for them.
    settled: BTreeSet<Standing>,
    /// New objects that were sent, or will be, and not answered.
    coming: HashSet<ObservableKey>,
    /// What is there, by the claims of other jobs than the one that runs.
    rivals: Vec<Standing>,
    /// A new object is sent and may stand beside the old one.
    doubled: HashSet<ObservableKey>,
    /// Objects that may stand there because an answer was lost, by what they are about.
    ghosts: HashMap<ObservableKey, u64>,
    /// Objects of ours without a row: sending them again takes no new place.
    orphans: HashSet<(ObservableKey, ContentHash)>,
    /// Objects of others: to send the same would be to change theirs.
    foreign: HashSet<(ObservableKey, ContentHash)>,
    /// Only who ranks at least so high may come.
    threshold: Option<Standing>,
    /// Who ranks at least so high may come once places are free again.
    later: Option<Standing>,
    /// Observables that have a stored row: most candidates have none, and need not be looked for.
    stored: BTreeSet<ObservableKey>,
}

/// Whether a new object may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    Free,
    /// Once this one, which ranks lower, has left.
    After(ObservableKey),
    /// At the end of the run, when what is replaced needs no places beside its own any more.
    Later,
    Full,
}

impl Capacity {
    pub(crate) fn limited(cap: Cap) -> Self {
        Self { cap: Some(cap), ..Self::default() }
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.cap.is_some()
    }

    /// How many may be there.
    pub(crate) fn size(&self) -> u64 {
        self.cap.map_or(u64::MAX, |cap| cap.places)
    }

    /// How many are there, or may be.
    pub(crate) fn taken(&self) -> u64 {
        (self.standing.len() + self.doubled.len()) as u64 + self.ghosts.values().sum::<u64>()
    }

    pub(crate) fn holds(&self, key: ObservableKey) -> bool {
        self.standing.contains_key(&key)
    }

    pub(crate) fn select_from(&mut self, threshold: Option<Standing>, later: Option<Standing>) {
        (self.threshold, self.later) = (threshold, later);
    }

    /// Nothing is replaced any more.
    pub(crate) fn now_is_later(&mut self) {
        self.threshold = self.later;
    }

    pub(crate) fn resize(&mut self, cap: Cap) {
        self.cap = Some(cap);
    }

    pub(crate) fn rival(&mut self, standing: Standing) {
        self.rivals.push(standing);
    }

    /// As many as there are places, and nobody yet.
    pub(crate) fn empty_selector(&self) -> Selector {
        Selector { size: usize::try_from(self.size()).unwrap_or(usize::MAX), ..Selector::default() }
    }

    /// What a first pass begins with: other jobs' objects compete too.
    pub(crate) fn selector(&self) -> Selector {
        let mut selector = self.empty_selector();
        self.rivals.iter().for_each(|rival| selector.offer(*rival));
        selector
    }

    pub(crate) fn haunted_by(&mut self, key: ObservableKey, ghosts: u64) {
        if ghosts > 0 {
            *self.ghosts.entry(key).or_default() += ghosts;
        }
    }

    pub(crate) fn orphan(&mut self, key: ObservableKey, identity: ContentHash) {
        self.orphans.insert((key, identity));
    }

    pub(crate) fn has_row(&mut self, key: ObservableKey) {
        if self.is_limited() {
            self.stored.insert(key);
        }
    }

    /// Without a limit nobody counted.
    pub(crate) fn may_have_row(&self, key: ObservableKey) -> bool {
        !self.is_limited() || self.stored.contains(&key)
    }

    pub(crate) fn belongs_to_others(&mut self, key: ObservableKey, identity: ContentHash) {
        self.foreign.insert((key, identity));
    }

    /// The very object is there, made by somebody else.
    pub(crate) fn is_foreign(&self, key: ObservableKey, identity: ContentHash) -> bool {
        self.foreign.contains(&(key, identity))
    }

    /// It is at the target.
    pub(crate) fn occupy(&mut self, standing: Standing) {
        if self.is_limited() {
            self.forget(standing.key.0);
            self.standing.insert(standing.key.0, standing);
            self.settled.insert(standing);
        }
    }

    /// It has left.
    pub(crate) fn leave(&mut self, key: ObservableKey) {
        self.forget(key);
        self.doubled.remove(&key);
        self.ghosts.remove(&key);
    }

    fn forget(&mut self, key: ObservableKey) {
        if let Some(before) = self.standing.remove(&key) {
            self.settled.remove(&before);
        }
    }

    /// Whether an object that is not there may come; a place is not taken yet.
    pub(crate) fn admit(&self, candidate: Standing, identity: ContentHash, stays: impl Fn(ObservableKey) -> bool) -> Admission {
        if !self.is_limited() {
            return Admission::Free;
        }
        if self.orphans.contains(&(candidate.key.0, identity)) {
            return Admission::Free; // it is counted among what others hold
        }
        if self.threshold.is_some_and(|threshold| candidate < threshold) {
            let later = self.later.is_some_and(|later| candidate >= later);
            return if later { Admission::Later } else { Admission::Full };
        }
        if self.is_free() {
            return Admission::Free;
        }
        self.instead_of_worst(candidate, stays)
    }

    /// One more may come.
    pub(crate) fn is_free(&self) -> bool {
        self.cap.is_none_or(|cap| self.taken() < cap.places)
    }

    /// A place is free, after so many have left; places that are taken for a moment only are free again.
    pub(crate) fn has_spare(&self, leaving: usize) -> bool {
        let taken = self.taken() - self.doubled.len() as u64;
        self.cap.is_none_or(|cap| taken < cap.places + leaving as u64)
    }

    /// Of this one a second object may be there already: another takes no further place.
    pub(crate) fn is_haunted(&self, key: ObservableKey) -> bool {
        self.ghosts.contains_key(&key) && self.cap.is_none_or(|cap| self.taken() <= cap.places)
    }

    /// A place beside its own for a moment: that of the worst, if that ranks lower.
    pub(crate) fn instead_of_worst(&self, standing: Standing, stays: impl Fn(ObservableKey) -> bool) -> Admission {
        self.worst(stays).filter(|worst| *worst < standing).map_or(Admission::Full, |worst| Admission::After(worst.key.0))
    }

    /// Who leaves first, of those that may.
    fn worst(&self, stays: impl Fn(ObservableKey) -> bool) -> Option<Standing> {
        self.settled.iter().find(|standing| !stays(standing.key.0)).copied()
    }

    /// A new object is about to be sent: it has a place, but nobody knows yet.
    pub(crate) fn expect(&mut self, standing: Standing, identity: ContentHash) {
        let Some(cap) = &mut self.cap else { return };
        if self.orphans.remove(&(standing.key.0, identity)) {
            cap.others = cap.others.map(|others| others.saturating_sub(1));
            cap.places += 1;
        }
        self.standing.insert(standing.key.0, standing);
        self.coming.insert(standing.key.0);
    }

    /// A second object is about to be sent for one that is there. False if there is no place for it.
    pub(crate) fn double(&mut self, key: ObservableKey) -> bool {
        // The second object that a lost answer may have left is the one that is sent again.
        let free = (self.is_haunted(key) && self.exorcise(key)) || self.is_free();
        if free && self.is_limited() {
            self.doubled.insert(key);
            if let Some(standing) = self.standing.get(&key) {
                self.settled.remove(standing);
            }
        }
        free
    }

    /// True if there was a ghost of it; there is one less now.
    fn exorcise(&mut self, key: ObservableKey) -> bool {
        let Some(ghosts) = self.ghosts.get_mut(&key) else { return false };
        *ghosts -= 1;
        if *ghosts == 0 {
            self.ghosts.remove(&key);
        }
        true
    }

    /// What the target said of an object that was expected, doubled or changed in place.
    pub(crate) fn answered(&mut self, key: ObservableKey, answer: &Answer) {
        if !self.is_limited() {
            return;
        }
        let (doubled, came) = (self.doubled.remove(&key), self.coming.remove(&key));
        match answer {
            Answer::Unanswered { .. } if doubled => self.haunted_by(key, 1),
            Answer::Accepted { .. } => _ = self.ghosts.remove(&key),
            Answer::Refused { .. } | Answer::Full { .. } if came => self.forget(key),
            _ => {}
        }
        if let Some(standing) = self.standing.get(&key) {
            self.settled.insert(*standing);
        }
        if matches!(answer, Answer::Full { .. }) {
            // The target knows better: somebody else has come meanwhile.
            let taken = self.taken();
            if let Some(cap) = &mut self.cap {
                cap.places = cap.places.min(taken);
            }
        }
    }

    /// The best claim on an object that is there has another rank now.
    pub(crate) fn moves(&mut self, standing: Standing) {
        let Some(known) = self.standing.get_mut(&standing.key.0) else { return };
        if self.settled.remove(known) {
            self.settled.insert(standing);
        }
        *known = standing;
    }

    /// As [`Capacity::moves`], by the claims that the row names.
    pub(crate) fn follow(&mut self, row: &TargetRow, key: ObservableKey, jobs: &Places) {
        if self.holds(key)
            && let Some(standing) = row.standing(key, jobs, |_| true)
        {
            self.moves(standing);
        }
    }

    /// How many are there for sure.
    pub(crate) fn settled(&self) -> u64 {
        self.settled.len() as u64
    }

    /// A reserve of more than there is means that nothing shall be sent.
    pub(crate) fn is_closed(&self) -> bool {
        self.cap.is_some_and(|cap| cap.reserve > cap.limit)
    }

    /// Those that are there and rank below the threshold, unless `chosen`.
    pub(crate) fn fallen(&self, chosen: impl Fn(ObservableKey) -> bool) -> Vec<ObservableKey> {
        let Some(threshold) = self.threshold else { return Vec::new() };
        self.settled.iter().take_while(|standing| **standing < threshold).map(|s| s.key.0).filter(|key| !chosen(*key)).collect()
    }

    /// The worst of those that are too many.
    pub(crate) fn too_many(&self) -> Vec<ObservableKey> {
        // What a lost answer may have left keeps others out, but drives nobody out.
        let excess = usize::try_from((self.standing.len() as u64).saturating_sub(self.size())).unwrap_or(usize::MAX);
        self.settled.iter().take(excess).map(|standing| standing.key.0).collect()
    }

    /// For the report.
    pub(crate) fn report(&self) -> Option<Cap> {
        self.cap.map(|cap| Cap { filled: self.standing.len() as u64, ..cap })
    }

    /// The lowest rank that has a place, if no place is free.
    pub(crate) fn lowest_if_full(&self) -> Option<Standing> {
        let full = self.cap.is_some_and(|cap| self.taken() >= cap.places);
        self.settled.first().filter(|_| full).copied()
    }
}

/// Keeps the best distinct observables of a pass, as many as there are places.
#[derive(Debug, Default)]
pub(crate) struct Selector {
    size: usize,
    best: BTreeMap<ObservableKey, Standing>,
    order: BTreeSet<Standing>,
    /// Objects that will be replaced by others: for a moment both stand there.
    replaces: u64,
}

impl Selector {
    pub(crate) fn offer(&mut self, standing: Standing) {
        let key = standing.key.0;
        if let Some(known) = self.best.get_mut(&key) {
            if *known < standing {
                self.order.remove(known);
                *known = standing;
                self.order.insert(standing);
            }
            return;
        }
        self.best.insert(key, standing);
        self.order.insert(standing);
        if self.order.len() > self.size {
            self.drop_worst();
        }
    }

    fn drop_worst(&mut self) {
        if let Some(worst) = self.order.pop_first() {
            self.best.remove(&worst.key.0);
        }
    }

    pub(crate) fn will_replace(&mut self, objects: u64) {
        self.replaces += objects;
    }

    pub(crate) fn replaces(&self) -> u64 {
        self.replaces
    }

    /// Those that were kept so far.
    pub(crate) fn kept(&self) -> impl Iterator<Item = &Standing> {
        self.order.iter()
    }

    /// The ranks from which on there is a place at once, and at the end of the run; none if there is one for all.
    pub(crate) fn thresholds(&mut self) -> (Option<Standing>, Option<Standing>) {
        if self.order.len() < self.size {
            return (None, None);
        }
        let later = self.order.first().copied();
        // With one place free, everything can be replaced one by one; with a tenth of them, it does not take hours.
        let free = self.replaces.div_ceil(10).min(BESIDE).min((self.size as u64 / 20).max(1));
        (0..free).for_each(|_| self.drop_worst());
        (self.order.first().copied(), later)
    }

    pub(crate) fn chose(&self, key: ObservableKey) -> bool {
        self.best.contains_key(&key)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::rows::RowClaim;
    use super::*;
    use crate::indicator::{ThreatAssessScore, Weight};

    fn standing(key: u8, score: u16, there: bool) -> Standing {
        let weight = Weight { score: ThreatAssessScore::new(score.into()), ..Weight::default() };
        let claim = RowClaim { job: "job".to_owned(), id: u64::from(key), weight, refused: false };
        Standing::of(ObservableKey([key; 32]), &claim, there, &Places::new(vec!["job".to_owned()]))
    }

    fn places(places: u64) -> Capacity {
        Capacity::limited(Cap { limit: places, places, ..Cap::default() })
    }

    const ANY: ContentHash = ContentHash([0; 16]);
    const NOBODY: fn(ObservableKey) -> bool = |_| false;

    #[test]
    fn without_a_limit_everybody_may_come() {
        let mut capacity = Capacity::default();
        capacity.occupy(standing(1, 1, true));
        assert_eq!(capacity.admit(standing(2, 1, false), ANY, NOBODY), Admission::Free);
        assert!(capacity.double(ObservableKey([1; 32])) && capacity.report().is_none() && capacity.lowest_if_full().is_none());
    }

    #[test]
    fn the_better_comes_for_the_worst_and_an_equal_does_not() {
        let mut capacity = places(2);
        capacity.occupy(standing(1, 10, true));
        capacity.occupy(standing(2, 20, true));
        assert_eq!(capacity.admit(standing(3, 15, false), ANY, NOBODY), Admission::After(ObservableKey([1; 32])));
        assert_eq!(capacity.admit(standing(3, 10, false), ANY, NOBODY), Admission::Full, "nothing is gained by an equal");
        let first_stays = |key: ObservableKey| key.0[0] == 1;
        assert_eq!(capacity.admit(standing(3, 15, false), ANY, first_stays), Admission::Full);
        assert_eq!(capacity.admit(standing(3, 25, false), ANY, first_stays), Admission::After(ObservableKey([2; 32])));
        capacity.leave(ObservableKey([1; 32]));
        assert_eq!(capacity.admit(standing(3, 1, false), ANY, NOBODY), Admission::Free);
    }

    #[test]
    fn a_lost_answer_keeps_its_place_and_a_refusal_gives_it_back() {
        let mut capacity = places(1);
        capacity.expect(standing(1, 1, false), ANY);
        assert_eq!(capacity.admit(standing(2, 9, false), ANY, NOBODY), Admission::Full, "nobody leaves before its answer");
        capacity.answered(ObservableKey([1; 32]), &Answer::Unanswered { reason: String::new() });
        assert_eq!(
            (capacity.taken(), capacity.admit(standing(2, 9, false), ANY, NOBODY)),
            (1, Admission::After(ObservableKey([1; 32])))
        );
        capacity.answered(ObservableKey([1; 32]), &Answer::Accepted { remote_id: None });
        capacity.leave(ObservableKey([1; 32]));
        capacity.expect(standing(2, 9, false), ANY);
        capacity.answered(ObservableKey([2; 32]), &Answer::Refused { reason: String::new(), correlation: None });
        assert_eq!(capacity.taken(), 0);
    }

    #[test]
    fn what_is_replaced_stands_twice_until_its_answer() {
        let mut capacity = places(2);
        capacity.occupy(standing(1, 1, true));
        assert!(capacity.double(ObservableKey([1; 32])) && capacity.taken() == 2);
        capacity.answered(ObservableKey([1; 32]), &Answer::Accepted { remote_id: None });
        assert_eq!(capacity.taken(), 1);
        assert!(capacity.double(ObservableKey([1; 32])));
        capacity.answered(ObservableKey([1; 32]), &Answer::Unanswered { reason: String::new() });
        assert_eq!(capacity.taken(), 2, "both may be there");
        assert!(capacity.double(ObservableKey([1; 32])), "what may be there twice takes no third place");
        assert_eq!(capacity.taken(), 2);
        capacity.answered(ObservableKey([1; 32]), &Answer::Accepted { remote_id: None });
        assert_eq!(capacity.taken(), 1);
    }

    #[test]
    fn a_target_that_says_it_is_full_is_believed() {
        let mut capacity = places(100);
        capacity.occupy(standing(1, 1, true));
        capacity.expect(standing(2, 2, false), ANY);
        capacity.answered(ObservableKey([2; 32]), &Answer::Full { reason: String::new() });
        assert_eq!((capacity.size(), capacity.admit(standing(3, 0, false), ANY, NOBODY)), (1, Admission::Full));
    }

    proptest! {
        #[test]
        fn the_selector_keeps_the_best_distinct_ones(offers in prop::collection::vec((0_u8..20, 0_u16..50), 0..80), size in 1_u64..15) {
            let mut selector = places(size).selector();
            let mut best: HashMap<u8, Standing> = HashMap::new();
            for (key, score) in offers {
                let offer = standing(key, score, false);
                selector.offer(offer);
                let known = best.entry(key).or_insert(offer);
                *known = offer.max(*known);
            }
            let mut wanted: Vec<Standing> = best.into_values().collect();
            wanted.sort_by(|a, b| b.cmp(a));
            wanted.truncate(usize::try_from(size).expect("small"));
            let full = wanted.len() as u64 == size;
            let threshold = wanted.last().copied().filter(|_| full);
            prop_assert_eq!(selector.thresholds(), (threshold, threshold));
            wanted.reverse();
            prop_assert_eq!(selector.kept().copied().collect::<Vec<_>>(), wanted);
        }

        #[test]
        fn nobody_is_ever_let_in_beyond_the_last_place(steps in prop::collection::vec((0_u8..12, 0_u16..50, 0_u8..6), 0..120), size in 1_u64..6) {
            let mut capacity = places(size);
            for (key, score, what) in steps {
                let (name, new) = (ObservableKey([key; 32]), standing(key, score, false));
                match what {
                    0 | 1 if !capacity.holds(name) => match capacity.admit(new, ANY, NOBODY) {
                        Admission::Free => capacity.expect(new, ANY),
                        Admission::After(worst) => {
                            capacity.leave(worst);
                            capacity.expect(new, ANY);
                        }
                        Admission::Later | Admission::Full => {}
                    },
                    2 if capacity.holds(name) => _ = capacity.double(name),
                    3 => capacity.answered(name, &Answer::Accepted { remote_id: None }),
                    4 => capacity.answered(name, &Answer::Refused { reason: String::new(), correlation: None }),
                    _ => capacity.moves(new),
                }
                prop_assert!(capacity.taken() <= size, "{} of {size}", capacity.taken());
            }
        }
    }
}
