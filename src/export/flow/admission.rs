//! Who gets a place at a target that cannot hold all: the first pass ranks everybody, the second (or an incremental run)
//! lets in whoever has a place.

use std::collections::HashSet;

use super::super::capacity::{Admission, NO_PLACE, NO_PLACE_TO_REPLACE};
use super::super::decide::{Sighting, Verdict};
use super::super::departures::Departures;
use super::super::rank::Standing;
use super::super::rows::RowClaim;
use super::super::settle::row_claim;
use super::{Flow, PageWork, Stop};
use crate::indicator::ObservableKey;

impl Flow<'_> {
    /// The rank of a sighting's observable by this sighting alone.
    fn standing(&self, sighting: &Sighting) -> Option<Standing> {
        let (_, key) = sighting.observable.as_ref()?;
        let refused = sighting.verdict == Verdict::StillRejected;
        let claim = row_claim(sighting, refused, &self.job.name);
        Some(Standing::of(*key, &claim, self.capacity.holds(*key), &self.job.places))
    }

    /// First pass: every sighting competes for a place.
    pub(super) fn offer(&mut self, work: &PageWork, sends: &[usize]) {
        let Some(mut selector) = self.selector.take() else { return };
        for sighting in work.page.sightings.iter().filter(|sighting| sighting.made.is_ok()) {
            let Some(standing) = self.standing(sighting) else { continue };
            // What was refused takes no place, but what is there from before keeps one.
            if sighting.verdict != Verdict::StillRejected || self.capacity.holds(standing.key.0) {
                selector.offer(standing);
            }
        }
        for (id, key, weight) in &work.joined.protected {
            let claim = RowClaim { job: self.job.name.clone(), id: *id, weight: *weight, refused: false };
            if self.capacity.holds(*key) {
                selector.offer(Standing::of(*key, &claim, true, &self.job.places));
            }
        }
        if sends.iter().any(|i| self.is_replaced(&work.page.sightings[*i])) {
            selector.will_replace();
        }
        self.selector = Some(selector);
    }

    /// It is sent as another object than the one that is there.
    fn is_replaced(&self, sighting: &Sighting) -> bool {
        let (Some((_, key)), Ok(draft)) = (&sighting.observable, &sighting.made) else { return false };
        let row = self.rows.get(key).and_then(|(row, _)| row.as_ref());
        self.capacity.holds(*key) && row.is_some_and(|row| row.is_replaced_by(Some(draft.identity)))
    }

    /// Finds a place for each new object, best first; what gets none is not sent.
    pub(super) async fn admit(&mut self, work: &mut PageWork, sends: &mut Vec<usize>) -> Result<(), Stop> {
        if !self.capacity.is_limited() {
            return Ok(());
        }
        let mut ranked: Vec<(Standing, usize)> =
            sends.iter().filter_map(|i| Some((self.standing(&work.page.sightings[*i])?, *i))).collect();
        ranked.sort_by(|a, b| b.cmp(a));
        let busy: HashSet<ObservableKey> = if self.displaces { self.busy_keys(work) } else { HashSet::new() };
        let (mut leaving, mut pending) = (Vec::new(), Vec::new());
        for (standing, i) in ranked {
            let key = standing.key.0;
            let stays = |key: ObservableKey| busy.contains(&key) || leaving.contains(&key);
            let sighting = &work.page.sightings[i];
            let victim = if self.capacity.holds(key) {
                self.capacity.moves(standing);
                if !self.is_replaced(sighting) || self.capacity.double(key) {
                    continue;
                }
                self.capacity.worst(stays).filter(|worst| *worst < standing).map(|worst| worst.key.0)
            } else {
                let identity = sighting.made.as_ref().map_or(crate::sinks::ContentHash([0; 16]), |draft| draft.identity);
                match self.capacity.admit(standing, identity, stays) {
                    Admission::Free => {
                        self.capacity.expect(standing);
                        continue;
                    }
                    Admission::After(worst) => Some(worst),
                    Admission::Full => None,
                }
            };
            leaving.extend(victim.filter(|_| self.displaces));
            pending.push((standing, i));
        }
        if !leaving.is_empty() {
            let (ledger, record, capacity) = (&mut *self.ledger, &mut *self.record, &mut *self.capacity);
            Departures { ledger, job: self.job, record, progress: self.progress, capacity }.displace(&leaving).await?;
        }
        for (standing, i) in pending {
            let key = standing.key.0;
            let free = self.displaces && self.capacity.taken() < self.capacity.size();
            let there = self.capacity.holds(key);
            match (free, there) {
                (true, true) if self.capacity.double(key) => continue,
                (true, false) => {
                    self.capacity.expect(standing);
                    continue;
                }
                _ => {}
            }
            sends.retain(|place| *place != i);
            work.page.sightings[i].verdict = Verdict::OverCap(if there { NO_PLACE_TO_REPLACE } else { NO_PLACE });
        }
        Ok(())
    }

    /// What pages under way refer to: such rows do not leave now.
    fn busy_keys(&self, work: &PageWork) -> HashSet<ObservableKey> {
        let pages = self.pages.iter().chain(std::iter::once(work));
        let keys = pages.flat_map(|page| page.page.sightings.iter()).filter_map(|s| s.observable.as_ref().map(|(_, key)| *key));
        keys.chain(self.rows.keys().copied()).collect()
    }
}
