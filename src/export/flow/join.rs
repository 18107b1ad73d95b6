//! Claims beside pages, in the order of source ids: each claim finds its sighting, or is gone, or released.

use std::collections::{HashMap, HashSet};

use super::super::Job;
use super::super::ledger::{Ledger, LedgerError, Packer};
use super::super::reader::DraftedPage;
use super::super::record::RunRecord;
use super::super::rows::{Claim, GoneReason, claims_from, claims_prefix, end_of, parse_sighting_key};
use super::super::settle::release;
use super::rules;
use crate::indicator::{ObservableKey, Weight};

/// Claims read at once.
const CLAIMS_AT_ONCE: usize = 1_000;

/// What the claims of a page's ids are, beside those that were attached to sightings.
#[derive(Debug, Default)]
pub(super) struct Joined {
    /// Claims that their indicators no longer yield.
    pub released: Vec<(u64, ObservableKey, Claim)>,
    /// Claims of indicators that could not be read whole.
    pub protected: Vec<(u64, ObservableKey, Weight)>,
    /// Claims of this range, for the withdrawal guard.
    pub seen: u64,
}

/// The claims beside a page of a full run (ids above `after`, up to `last_id`): those of ids that were read are attached,
/// the rest is marked as gone.
pub(super) async fn range(
    ledger: &mut Ledger,
    job: &Job,
    record: &RunRecord,
    page: &mut DraftedPage,
    after: u64,
    last_id: u64,
) -> Result<Joined, LedgerError> {
    let name = &job.name;
    let end = if last_id == u64::MAX { end_of(&claims_prefix(name)) } else { claims_from(name, last_id + 1) };
    let mut from = if after == 0 { claims_prefix(name) } else { claims_from(name, after.saturating_add(1)) };
    let mut join = Join::new(page);
    loop {
        let chunk: Vec<(String, Claim)> = ledger.rows().scan(&from, &end, CLAIMS_AT_ONCE).await?;
        let full = chunk.len() == CLAIMS_AT_ONCE;
        if let Some((last, _)) = chunk.last() {
            from = format!("{last}!"); // the key directly after: `!` sorts below all that keys hold
        }
        join.joined.seen += chunk.len() as u64;
        let mut gone = Vec::new();
        for (key, claim) in chunk {
            let Some((id, observable)) = parse_sighting_key(&key) else { continue };
            if !join.attach(id, observable, claim.clone()) && claim.gone_in.is_none() {
                gone.push((id, observable, claim));
            }
        }
        mark_gone(ledger, job, record, gone).await?;
        if !full {
            return Ok(join.joined);
        }
    }
}

async fn mark_gone(
    ledger: &mut Ledger,
    job: &Job,
    record: &RunRecord,
    gone: Vec<(u64, ObservableKey, Claim)>,
) -> Result<(), LedgerError> {
    if gone.is_empty() {
        return Ok(());
    }
    let rules = rules(job, record, ledger.clock().now());
    let mut packer = Packer::new(ledger);
    for (id, key, claim) in gone {
        packer.add(release(Some(&claim), id, key, GoneReason::Passed, &rules)).await?;
    }
    packer.flush().await
}

/// The claims of the ids of an incremental page.
pub(super) async fn ids(ledger: &Ledger, job: &Job, page: &mut DraftedPage) -> Result<Joined, LedgerError> {
    let ids = page.readable.clone();
    let mut join = Join::new(page);
    for chunk in ids.chunks(64) {
        let rows = ledger.rows();
        let scans = chunk.iter().map(|id| {
            let prefix = claims_from(&job.name, *id);
            async move { rows.scan::<Claim>(&prefix, &end_of(&prefix), CLAIMS_AT_ONCE).await }
        });
        for claims in futures_util::future::join_all(scans).await {
            for (key, claim) in claims? {
                if let Some((id, observable)) = parse_sighting_key(&key) {
                    join.attach(id, observable, claim);
                }
            }
        }
    }
    Ok(join.joined)
}

/// Attaches claims to the sightings of a page.
struct Join<'p> {
    page: &'p mut DraftedPage,
    places: HashMap<(u64, ObservableKey), usize>,
    readable: HashSet<u64>,
    joined: Joined,
}

impl<'p> Join<'p> {
    fn new(page: &'p mut DraftedPage) -> Self {
        let places = page.sightings.iter().enumerate();
        let places = places.filter_map(|(i, s)| s.observable.as_ref().map(|(_, key)| ((s.id, *key), i))).collect();
        let readable = page.readable.iter().copied().collect();
        Self { page, places, readable, joined: Joined::default() }
    }

    /// True if the claim's indicator was read. What it no longer yields is released; what could not be read is protected.
    fn attach(&mut self, id: u64, key: ObservableKey, claim: Claim) -> bool {
        if let Some(&i) = self.places.get(&(id, key)) {
            self.page.sightings[i].claim = Some(claim);
            return true;
        }
        if self.readable.contains(&id) {
            self.joined.released.push((id, key, claim));
            return true;
        }
        let read = self.page.ids.binary_search(&id).is_ok();
        if read {
            self.joined.protected.push((id, key, claim.weight));
        }
        read
    }
}
