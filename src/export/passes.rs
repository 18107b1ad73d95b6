//! The two passes of a full run at a target that cannot hold all: the first of them, and what it saves for the second.

use std::time::Duration;

use super::capacity::{Capacity, Selector};
use super::flow::{Flow, Stop};
use super::ledger::{Ledger, LedgerError, Packer, write};
use super::rank::Standing;
use super::record::{Phase, RunRecord};
use super::rows::{candidates_key, candidates_prefix, encode, end_of, run_key};
use super::{Job, Progress};

/// Candidates of an interrupted first pass in one row, and rows of them, at most.
const CANDIDATES_IN_A_ROW: usize = 1_000;
const CANDIDATE_ROWS: usize = 100;

/// The first pass: reads everything, marks what is gone, and finds the rank from which on there is a place.
pub(super) async fn select(
    ledger: &mut Ledger,
    job: &Job,
    record: &mut RunRecord,
    (progress, deadline): (&Progress, Option<Duration>),
    capacity: &mut Capacity,
) -> Result<Selector, Stop> {
    // With those of this run from before it was interrupted. Offered twice, a candidate still has one place.
    let mut selector = saved(ledger, job, record, capacity.selector()).await?;
    selector.will_replace(record.selection.as_ref().map_or(0, |begun| begun.replaces));
    let mut flow = Flow::new(ledger, job, record, progress, deadline, capacity);
    flow.selector = Some(selector);
    let ended = flow.read().await;
    let mut selector = flow.selector.take().unwrap_or_default();
    let selection = record.selection.get_or_insert_default();
    if ended.is_ok() {
        (selection.threshold, selection.later) = selector.thresholds();
        record.phase = Phase::Clearing;
    } else {
        selection.replaces = selector.replaces();
    }
    let kept: Vec<&Standing> = selector.kept().collect();
    let parts = kept.chunks(CANDIDATES_IN_A_ROW).enumerate();
    let rows: Vec<_> = parts.map(|(n, part)| (candidates_key(&job.name, &record.run, n), Some(encode(&part)))).collect();
    // The record last: no place is saved whose candidates are not.
    let mut packer = Packer::new(ledger);
    for row in rows {
        packer.add(vec![row]).await?;
    }
    packer.flush().await?;
    ledger.commit(vec![write(run_key(&job.name), Some(encode(record)))]).await?;
    ended.map(|()| selector)
}

/// `selector` and the candidates that this run has saved, as far as there are any.
pub(super) async fn saved(
    ledger: &Ledger,
    job: &Job,
    record: &RunRecord,
    mut selector: Selector,
) -> Result<Selector, LedgerError> {
    let from = candidates_key(&job.name, &record.run, 0);
    let rows: Vec<(String, Vec<Standing>)> = ledger.rows().scan(&from, &end_of(&before_number(&from)), CANDIDATE_ROWS).await?;
    rows.iter().flat_map(|(_, standings)| standings).for_each(|standing| selector.offer(*standing));
    Ok(selector)
}

/// Candidates are no longer needed: those of this run, and of runs that were given up.
pub(super) async fn forget(ledger: &mut Ledger, job: &Job) -> Result<(), LedgerError> {
    let from = candidates_prefix(&job.name);
    loop {
        let rows: Vec<(String, serde_json::Value)> = ledger.rows().scan(&from, &end_of(&from), CANDIDATE_ROWS).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut packer = Packer::new(ledger);
        for (key, _) in rows {
            packer.add(vec![(key, None)]).await?;
        }
        packer.flush().await?;
    }
}

/// `p.job.run.000000` without its number.
fn before_number(key: &str) -> String {
    key.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned()
}
