//! Who gets a place at a target that cannot hold all: the first pass ranks everybody, the second (or an incremental run)
//! lets in whoever has a place.

use std::collections::HashSet;

use super::super::capacity::{Admission, CLOSED, NO_PLACE, NO_PLACE_TO_REPLACE};
use super::super::decide::{Sighting, Verdict};
use super::super::departures::Departures;
use super::super::rank::Standing;
use super::super::rows::{RowClaim, claim_key, target_key};
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
        for sighting in &work.page.sightings {
            let (Ok(draft), Some(standing)) = (&sighting.made, self.standing(sighting)) else { continue };
            if self.capacity.is_foreign(standing.key.0, draft.identity) {
                continue;
            }
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
        let replaced = sends.iter().filter(|i| self.is_replaced(&work.page.sightings[**i])).count();
        selector.will_replace(replaced as u64);
        self.selector = Some(selector);
    }

    /// It is sent as another object than the one that is there.
    pub(super) fn is_replaced(&self, sighting: &Sighting) -> bool {
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
        let busy = if self.displaces { self.busy_keys(work, sends) } else { HashSet::new() };
        let (mut leaving, mut pending) = (HashSet::new(), Vec::new());
        for (standing, i) in ranked {
            let stays = |key: ObservableKey| busy.contains(&key) || leaving.contains(&key);
            match self.place_for(&work.page.sightings[i], standing, leaving.len(), stays) {
                Ok(Admission::Free) => {}
                Ok(Admission::After(worst)) if self.displaces => {
                    leaving.insert(worst);
                    pending.push((standing, i));
                }
                Ok(Admission::After(_) | Admission::Later | Admission::Full) => pending.push((standing, i)),
                Err(verdict) => work.page.sightings[i].verdict = verdict,
            }
        }
        if !leaving.is_empty() {
            self.displace(work, &leaving.into_iter().collect::<Vec<_>>()).await?;
        }
        for (standing, i) in pending {
            let sighting = &mut work.page.sightings[i];
            let there = self.capacity.holds(standing.key.0);
            // What is replaced waits until a place is free; what is new takes one for good.
            match &sighting.made {
                Ok(_) if self.displaces && there && self.capacity.has_spare(0) => {}
                Ok(draft) if self.displaces && !there && self.capacity.is_free() => {
                    self.capacity.expect(standing, draft.identity);
                }
                _ => sighting.verdict = Verdict::OverCap(if there { NO_PLACE_TO_REPLACE } else { NO_PLACE }),
            }
        }
        sends.retain(|i| matches!(work.page.sightings[*i].verdict, Verdict::Send(_)));
        Ok(())
    }

    /// Whether a sighting that is to be sent has a place, which is taken then; or why it is not sent at all. So many places are
    /// about to become free.
    fn place_for(
        &mut self,
        sighting: &Sighting,
        standing: Standing,
        leaving: usize,
        stays: impl Fn(ObservableKey) -> bool,
    ) -> Result<Admission, Verdict> {
        let (Ok(draft), key) = (&sighting.made, standing.key.0) else { return Ok(Admission::Full) };
        if self.capacity.is_closed() {
            return Err(Verdict::OverCap(CLOSED));
        }
        if self.capacity.is_foreign(key, draft.identity) {
            return Err(Verdict::LeftToOthers);
        }
        if !self.capacity.holds(key) {
            let admission = self.capacity.admit(standing, draft.identity, stays);
            match admission {
                Admission::Free => self.capacity.expect(standing, draft.identity),
                Admission::Later => return Err(Verdict::Later),
                Admission::After(_) | Admission::Full => {}
            }
            return Ok(admission);
        }
        self.capacity.moves(standing);
        // One place is enough for all that are replaced, one after the other.
        let room = self.capacity.is_haunted(key) || self.capacity.has_spare(leaving);
        let waits = self.is_replaced(sighting) && !room;
        Ok(if waits { self.capacity.instead_of_worst(standing, stays) } else { Admission::Free })
    }

    /// Takes the places of these; sightings of this page that held them are told.
    async fn displace(&mut self, work: &mut PageWork, leaving: &[ObservableKey]) -> Result<(), Stop> {
        let (ledger, record, capacity) = (&mut *self.ledger, &mut *self.record, &mut *self.capacity);
        let (job, progress) = (self.job, self.progress);
        // A page is decided whole, whatever the time.
        Departures { ledger, job, record, progress, deadline: None, capacity }.displace(leaving).await?;
        for sighting in &mut work.page.sightings {
            let Some(key) = sighting.observable.as_ref().map(|(_, key)| *key).filter(|key| leaving.contains(key)) else {
                continue;
            };
            sighting.claim = self.ledger.rows().read(&claim_key(&self.job.name, sighting.id, key)).await?;
            if let Some((row, _)) = self.rows.get_mut(&key) {
                *row = self.ledger.rows().read(&target_key(key)).await?;
            }
            if !self.capacity.holds(key) {
                sighting.verdict = Verdict::OverCap(NO_PLACE);
            }
        }
        Ok(())
    }

    /// What is about to change at the target, or is referred to by pages before: such rows do not leave now.
    fn busy_keys(&self, work: &PageWork, sends: &[usize]) -> HashSet<ObservableKey> {
        let before = self.pages.iter().flat_map(|page| page.page.sightings.iter());
        let sent = sends.iter().map(|i| &work.page.sightings[*i]);
        before.chain(sent).filter_map(|sighting| sighting.observable.as_ref().map(|(_, key)| *key)).collect()
    }
}
