//! The target as it is, beside the rows that say what should be there: finds what was lost or changed, what lost answers
//! left twice, and how many places there are.
//!
//! Only targets that hold a limited number of objects are looked at: they are few enough to be listed at once.

use std::collections::HashMap;

use super::Job;
use super::capacity::{Cap, Capacity};
use super::departures::unhold;
use super::flow::Stop;
use super::ledger::{Ledger, LedgerError, Packer};
use super::outbox::Halt;
use super::rows::{TargetRow, encode, mark_key, parse_last_key, target_key};
use crate::indicator::{Observable, ObservableKey};
use crate::sinks::{Found, SendError, SendErrorKind, Sole, There};

/// Rows read at once.
const AT_ONCE: usize = 300;

/// What is asked of the look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Places to leave free.
    pub reserve: u64,
    /// What stands in the reserve may stay.
    pub keeps: bool,
    /// Rows that the target does not show, or shows otherwise, are sent anew; else only what is in doubt is cleared up.
    pub mends: bool,
}

/// Looks at the target, mends rows that do not agree with it, and counts who is there. Nothing at all without a limit.
pub(crate) async fn reconcile(ledger: &mut Ledger, job: &Job, look: Look) -> Result<Capacity, Stop> {
    let Some(limit) = job.sink.limits().capacity else { return Ok(Capacity::default()) };
    let survey = ledger.meanwhile(job.sink.survey()).await?.map_err(stopped)?;
    let mut listing = survey.map(Listing::new);
    let now = ledger.clock().now().as_second();
    let capacity = Capacity::limited(Cap::default());
    let mut count = Count { job, capacity, doubtful: Vec::new(), doubled: Vec::new(), now };
    let mut from = "t.".to_owned();
    loop {
        let rows: Vec<(String, TargetRow)> = ledger.rows().scan(&from, "t/", AT_ONCE).await?;
        let Some((last, _)) = rows.last() else { break };
        from = format!("{last}!");
        let mut packer = Packer::new(ledger);
        for (key, row) in rows {
            let Some(key) = parse_last_key(&key) else { continue };
            count.capacity.has_row(key);
            match &mut listing {
                _ if !row.at_target => {}
                Some(listing) => count.compare(&mut packer, (key, row), listing, look.mends).await?,
                None => count.believe(key, row),
            }
        }
        packer.flush().await?;
    }
    count.clear_doubts(ledger).await?;
    count.single_out(ledger).await?;
    let mut capacity = count.capacity;
    let others = listing.map(|listing| listing.leave_to(&mut capacity));
    let open = limit.saturating_sub(others.unwrap_or(0));
    let lent = if look.keeps { capacity.taken() } else { 0 };
    let places = open.saturating_sub(look.reserve).max(lent.min(open));
    capacity.resize(Cap { limit, reserve: look.reserve, others, places, filled: 0 });
    Ok(capacity)
}

/// A look at the target that failed ends the run.
pub(crate) fn stopped(error: SendError) -> Stop {
    match error.kind {
        SendErrorKind::Systemic => Stop::Target(Halt::Systemic(error)),
        _ => Stop::Target(Halt::Outage(error)),
    }
}

/// What a survey found, each until a row takes it.
struct Listing {
    found: Vec<Option<Found>>,
    by_id: HashMap<String, usize>,
    by_key: HashMap<ObservableKey, Vec<usize>>,
}

impl Listing {
    fn new(survey: Vec<Found>) -> Self {
        let by_id = survey.iter().enumerate().map(|(i, found)| (found.id.clone(), i)).collect();
        let mut by_key: HashMap<ObservableKey, Vec<usize>> = HashMap::new();
        for (i, found) in survey.iter().enumerate() {
            // Those of kinds that are never sent are only counted.
            if let Some(key) = found.key {
                by_key.entry(key).or_default().push(i);
            }
        }
        Self { found: survey.into_iter().map(Some).collect(), by_id, by_key }
    }

    /// The object that the row stands for: the one with its id, however the target writes its value; else one of ours that is
    /// as it should be.
    fn take(&mut self, row: &TargetRow, key: ObservableKey) -> Option<Found> {
        let by_id = row.remote_id.as_ref().and_then(|id| self.by_id.get(id)).copied();
        let ours = |i: &&usize| self.found[**i].as_ref().is_some_and(|found| found.ours);
        let mut same = self.by_key.get(&key).into_iter().flatten().filter(ours);
        let is_right = |i: &&usize| self.found[**i].as_ref().map(|found| found.identity) == row.identity;
        let place = by_id.or_else(|| same.clone().find(is_right).copied()).or_else(|| same.next().copied())?;
        self.found[place].take()
    }

    /// Ids of our other objects about the same.
    fn take_beside(&mut self, key: ObservableKey) -> Vec<String> {
        let places = self.by_key.get(&key).cloned().unwrap_or_default();
        places.into_iter().filter_map(|i| self.found[i].take_if(|found| found.ours).map(|found| found.id)).collect()
    }

    /// What no row took is others', or of ours without a row; how many that are.
    fn leave_to(self, capacity: &mut Capacity) -> u64 {
        let mut count = 0;
        for found in self.found.into_iter().flatten() {
            count += 1;
            match found.key {
                Some(key) if found.ours => capacity.orphan(key, found.identity),
                Some(key) => capacity.belongs_to_others(key, found.identity),
                None => {}
            }
        }
        count
    }
}

/// A row of which lost answers may have left several objects.
struct Doubtful {
    key: ObservableKey,
    row: TargetRow,
    beside: Vec<String>,
}

struct Count<'a> {
    job: &'a Job,
    capacity: Capacity,
    doubtful: Vec<Doubtful>,
    /// Rows of a target that cannot be listed, of which two objects may be there.
    doubled: Vec<(ObservableKey, TargetRow, Observable)>,
    /// Unix seconds.
    now: i64,
}

impl Count<'_> {
    /// The target cannot be listed: what the row says is there, until it expires.
    fn believe(&mut self, key: ObservableKey, row: TargetRow) {
        if row.expires.is_some_and(|expires| expires <= self.now) {
            return;
        }
        match Observable::parse(row.kind, &row.value) {
            Ok(observable) if row.beside => self.doubled.push((key, row, observable)),
            _ => self.occupy(key, &row),
        }
    }

    fn occupy(&mut self, key: ObservableKey, row: &TargetRow) {
        match row.standing(key, &self.job.places, |_| true) {
            Some(standing) => self.capacity.occupy(standing),
            None => self.capacity.haunted_by(key, 1),
        }
        if let Some(rival) = row.standing(key, &self.job.places, |claim| claim.job != self.job.name) {
            self.capacity.rival(rival);
        }
    }

    async fn compare(
        &mut self,
        packer: &mut Packer<'_>,
        (key, mut row): (ObservableKey, TargetRow),
        listing: &mut Listing,
        mends: bool,
    ) -> Result<(), LedgerError> {
        let in_doubt = row.remote_id.is_none() || !row.unsure.is_empty();
        let Some(kept) = listing.take(&row, key) else {
            if !in_doubt && !mends {
                self.believe(key, row);
                return Ok(());
            }
            let mut group = unhold(packer, &row, key).await?;
            row.is_gone_from_target();
            group.push((target_key(key), Some(encode(&row))));
            group.push((mark_key(key), Some(b"{}".to_vec())));
            return packer.add(group).await;
        };
        self.occupy(key, &row);
        let same = row.remote_id.as_ref() == Some(&kept.id) && row.identity == Some(kept.identity);
        if same && !in_doubt {
            return Ok(());
        }
        let mut group = Vec::new();
        if !in_doubt && mends {
            // Somebody changed what no update of ours changes.
            group = unhold(packer, &row, key).await?;
            row.forget();
            group.push((mark_key(key), Some(b"{}".to_vec())));
        }
        row.remote_id = Some(kept.id);
        row.identity = Some(kept.identity);
        // Others of ours are not this ledger's, unless an answer was lost: then they go, and the doubt after them.
        let beside = if in_doubt { listing.take_beside(key) } else { Vec::new() };
        if !beside.is_empty() {
            self.doubtful.push(Doubtful { key, row, beside });
            return Ok(());
        }
        row.is_sure();
        group.push((target_key(key), Some(encode(&row))));
        packer.add(group).await
    }

    /// Deletes what is there beside what is kept. Where that fails, the doubt stays, and so do the places.
    async fn clear_doubts(&mut self, ledger: &mut Ledger) -> Result<(), LedgerError> {
        if self.doubtful.is_empty() {
            return Ok(());
        }
        let ids: Vec<String> = self.doubtful.iter().flat_map(|doubtful| doubtful.beside.iter().cloned()).collect();
        tracing::info!(job = self.job.name, objects = ids.len(), "deleting what lost answers left beside what is there");
        if let Err(error) = ledger.meanwhile(self.job.sink.discard(&ids)).await? {
            tracing::warn!(job = self.job.name, error = error.message, "what lost answers left stays until the next run");
            for doubtful in &self.doubtful {
                self.capacity.haunted_by(doubtful.key, doubtful.beside.len() as u64);
            }
            return Ok(());
        }
        let mut packer = Packer::new(ledger);
        for mut doubtful in self.doubtful.drain(..) {
            doubtful.row.is_sure();
            packer.add(vec![(target_key(doubtful.key), Some(encode(&doubtful.row)))]).await?;
        }
        packer.flush().await
    }

    /// The same where the target cannot be listed: each of these is looked up. A worker that died may have left more of them than
    /// there are places, each holding a place that it may not have: then none could be sent again.
    async fn single_out(&mut self, ledger: &mut Ledger) -> Result<(), LedgerError> {
        let doubled = std::mem::take(&mut self.doubled);
        if doubled.is_empty() {
            return Ok(());
        }
        let items: Vec<(Observable, There)> =
            doubled.iter().map(|(_, row, observable)| (observable.clone(), row.all_objects())).collect();
        let soles = ledger.meanwhile(self.job.sink.single_out(&items)).await?.unwrap_or_else(|error| {
            tracing::warn!(job = self.job.name, error = error.message, "what lost answers left stays until the next run");
            vec![Sole::Unclear; items.len()]
        });
        let mut packer = Packer::new(ledger);
        for ((key, mut row, _), sole) in doubled.into_iter().zip(soles) {
            self.occupy(key, &row);
            match sole {
                Sole::Known => row.is_sure(),
                Sole::AtMostOne => row.is_one_or_none(),
                Sole::Unclear => {
                    self.capacity.haunted_by(key, 1);
                    continue;
                }
            }
            packer.add(vec![(target_key(key), Some(encode(&row)))]).await?;
        }
        packer.flush().await
    }
}
