//! The target as it is, beside the rows that say what should be there: finds what was lost, what is there twice, and how
//! many places there are.
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
use crate::indicator::ObservableKey;
use crate::sinks::{Found, SendError, SendErrorKind};

/// Rows read at once.
const AT_ONCE: usize = 1_000;

/// What is asked of the look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look {
    /// Places to leave free.
    pub reserve: u64,
    /// What stands in the reserve may stay.
    pub keeps: bool,
    /// Rows that the target does not show are lost; else only what is in doubt is cleared up.
    pub mends: bool,
}

/// Looks at the target, mends rows that do not agree with it, and counts who is there. Nothing at all without a limit.
pub(crate) async fn reconcile(ledger: &mut Ledger, job: &Job, look: Look) -> Result<Capacity, Stop> {
    let Some(limit) = job.sink.limits().capacity else { return Ok(Capacity::default()) };
    let survey = job.sink.survey().await.map_err(stopped)?;
    ledger.renew().await?;
    let now = ledger.clock().now().as_second();
    let total = survey.as_ref().map_or(0, |found| found.len() as u64);
    let mut listed = survey.map(by_observable);
    let mut count = Count { capacity: Capacity::limited(Cap::default()), kept: 0, extra: Vec::new(), now };
    let mut from = "t.".to_owned();
    loop {
        let rows: Vec<(String, TargetRow)> = ledger.rows().scan(&from, "t/", AT_ONCE).await?;
        let Some((last, _)) = rows.last() else { break };
        from = format!("{last}!");
        let mut packer = Packer::new(ledger);
        for (key, row) in rows {
            let Some(key) = parse_last_key(&key) else { continue };
            count.capacity.has_row(key);
            if !row.at_target {
                continue;
            }
            match &mut listed {
                Some(listed) => count.compare(&mut packer, job, (key, row), listed.remove(&key), look.mends).await?,
                None => count.believe(job, key, &row),
            }
        }
        packer.flush().await?;
    }
    if !count.extra.is_empty() {
        tracing::warn!(job = job.name, objects = count.extra.len(), "objects of ours that are there twice are deleted");
        if let Err(error) = job.sink.discard(&count.extra).await {
            tracing::warn!(job = job.name, error = error.message, "they stay until the next run");
        }
    }
    let mut capacity = count.capacity;
    for (key, found) in listed.into_iter().flatten() {
        for found in found {
            if found.ours {
                capacity.orphan(key, found.identity);
            } else {
                capacity.belongs_to_others(key, found.identity);
            }
        }
    }
    let others = total.saturating_sub(count.kept + count.extra.len() as u64);
    let open = limit.saturating_sub(others);
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

/// Objects by what they are about; those of kinds that are never sent are only counted.
fn by_observable(survey: Vec<Found>) -> HashMap<ObservableKey, Vec<Found>> {
    let mut listed: HashMap<ObservableKey, Vec<Found>> = HashMap::new();
    for found in survey {
        if let Some(key) = found.key {
            listed.entry(key).or_default().push(found);
        }
    }
    listed
}

struct Count {
    capacity: Capacity,
    /// Objects that are ours and have a row.
    kept: u64,
    /// Ids of objects of ours that are there beside the one that is kept.
    extra: Vec<String>,
    /// Unix seconds.
    now: i64,
}

impl Count {
    /// The target cannot be listed: what the row says is there, until it expires.
    fn believe(&mut self, job: &Job, key: ObservableKey, row: &TargetRow) {
        if row.expires.is_some_and(|expires| expires <= self.now) {
            return;
        }
        let known = usize::from(row.remote_id.is_none());
        self.capacity.haunted_by(key, row.unsure.len().saturating_sub(known));
        self.occupy(job, key, row);
    }

    fn occupy(&mut self, job: &Job, key: ObservableKey, row: &TargetRow) {
        match row.standing(key, &job.places, |_| true) {
            Some(standing) => self.capacity.occupy(standing),
            None => self.capacity.haunted_by(key, 1),
        }
        if let Some(rival) = row.standing(key, &job.places, |claim| claim.job != job.name) {
            self.capacity.rival(rival);
        }
    }

    async fn compare(
        &mut self,
        packer: &mut Packer<'_>,
        job: &Job,
        (key, mut row): (ObservableKey, TargetRow),
        found: Option<Vec<Found>>,
        mends: bool,
    ) -> Result<(), LedgerError> {
        let found = found.unwrap_or_default();
        let kept = choose(&row, &found).cloned();
        let in_doubt = row.remote_id.is_none() || !row.unsure.is_empty();
        if in_doubt {
            // Left by sends without an answer. Others of ours are not this ledger's: they stay.
            let beside = found.iter().filter(|f| f.ours && kept.as_ref().is_some_and(|kept| kept.id != f.id));
            self.extra.extend(beside.map(|f| f.id.clone()));
        }
        let Some(kept) = kept else {
            if !in_doubt && !mends {
                self.believe(job, key, &row);
                return Ok(());
            }
            let mut group = unhold(packer, &row, key).await?;
            row.is_gone_from_target();
            group.push((target_key(key), Some(encode(&row))));
            group.push((mark_key(key), Some(b"{}".to_vec())));
            return packer.add(group).await;
        };
        self.kept += 1;
        self.occupy(job, key, &row);
        let same = row.remote_id.as_ref() == Some(&kept.id) && row.identity == Some(kept.identity);
        if same && row.unsure.is_empty() {
            return Ok(());
        }
        row.remote_id = Some(kept.id);
        row.identity = Some(kept.identity);
        row.unsure.clear();
        packer.add(vec![(target_key(key), Some(encode(&row)))]).await
    }
}

/// The object that the row stands for: the one with its id, else one of ours that is as it should be.
fn choose<'f>(row: &TargetRow, found: &'f [Found]) -> Option<&'f Found> {
    let mut ours = found.iter().filter(|found| found.ours);
    let by_id = found.iter().find(|found| row.remote_id.as_ref() == Some(&found.id));
    by_id.or_else(|| ours.clone().find(|found| row.identity == Some(found.identity))).or_else(|| ours.next())
}
