//! Retiring a job: what it alone brought to a destination is withdrawn, and it is forgotten.

use std::sync::Arc;

use super::decide::Rules;
use super::ending::Ending;
use super::flow::rules;
use super::hand_over::HandOver;
use super::ledger::{Ledger, LedgerError, Packer};
use super::outbox::Halt;
use super::reconcile::{Look, reconcile};
use super::record::{Start, plan};
use super::rows::{
    Claim, GoneReason, JobState, REGISTRY, claims_prefix, end_of, history_prefix, job_key, parse_sighting_key, run_key,
};
use super::run::Exporter;
use super::settle::release;
use super::sweep::sweep;
use super::{Job, Progress, Request, Stop};
use crate::storage::Write;

/// Claims marked at once.
const AT_ONCE: usize = 400;

/// What was done for one destination.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Retired {
    pub destination: String,
    /// Claims that the job had there.
    pub claims: u64,
    /// Rows that nobody else claims.
    pub withdrawn: u64,
}

/// Why a job was not retired; what was withdrawn until then stays withdrawn, and the call can be repeated.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    #[error("no job `{job}` has ever written anything; `runs` lists the ones that did")]
    Unknown { job: String },
    #[error("no configured job writes to {shown}; give job `{job}` its old settings again, then retire it")]
    NoWay { job: String, shown: String },
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

impl Exporter {
    /// Withdraws all that only `name` claims, at every destination that it wrote to and (if it is still configured) has left.
    ///
    /// # Errors
    /// [`RetireError`].
    pub async fn retire(
        &self,
        name: &str,
        (run, worker): (&str, &str),
        progress: &Progress,
    ) -> Result<Vec<Retired>, RetireError> {
        let known: Vec<_> = self.registered().await?.into_iter().filter(|entry| entry.job == name).collect();
        if known.is_empty() {
            return Err(RetireError::Unknown { job: name.to_owned() });
        }
        let mut retired = Vec::new();
        for entry in known {
            let at = |job: &&Job| job.sink.destination().fingerprint == entry.destination;
            let host = self.jobs().iter().filter(at).max_by_key(|job| job.name == name);
            let Some(host) = host else {
                return Err(RetireError::NoWay { job: name.to_owned(), shown: entry.shown });
            };
            let mut job = host.clone();
            name.clone_into(&mut job.name);
            let rows = self.rows(&job);
            let shown = format!("retirement of job `{name}`");
            let mut ledger = Ledger::acquire(rows, Arc::clone(self.clock()), run, worker, &shown).await?;
            let done = self.retire_at(&mut ledger, &job, run, progress).await;
            ledger.release(Vec::new()).await?;
            let (claims, withdrawn) = done.map_err(|stop| RetireError::Failed(text_of(stop)))?;
            let key = format!("{}.{name}", entry.destination);
            self.store().commit(REGISTRY, vec![Write::Delete { key }]).await.map_err(|e| RetireError::Failed(e.to_string()))?;
            retired.push(Retired { destination: entry.shown, claims, withdrawn });
        }
        Ok(retired)
    }

    async fn retire_at(&self, ledger: &mut Ledger, job: &Job, run: &str, progress: &Progress) -> Result<(u64, u64), Stop> {
        sweep(ledger, &job.places).await?;
        let mut state = JobState::default();
        let (Start::New(mut record) | Start::Continue(mut record)) =
            plan(None, &mut state, job, &Request::default(), run, self.now());
        let mut claims = 0;
        let (mut from, end) = (claims_prefix(&job.name), end_of(&claims_prefix(&job.name)));
        loop {
            let chunk: Vec<(String, Claim)> = ledger.rows().scan(&from, &end, AT_ONCE).await?;
            let Some((last, _)) = chunk.last() else { break };
            from = format!("{last}!");
            claims += chunk.len() as u64;
            let now = self.now();
            let rules: Rules<'_> = rules(job, &record, now);
            let mut packer = Packer::new(ledger);
            for (key, claim) in chunk {
                if let Some((id, observable)) = parse_sighting_key(&key) {
                    packer.add(release(Some(&claim), id, observable, GoneReason::Retired, &rules)).await?;
                }
            }
            packer.flush().await?;
        }
        let look = Look { reserve: self.reserve(job, &record), keeps: true, mends: false };
        let capacity = &mut reconcile(ledger, job, look).await?;
        Ending { ledger, job, record: &mut record, state: &mut state, progress, deadline: None, capacity }.withdraw().await?;
        HandOver { ledger, jobs: self.jobs(), job, record: &mut record, progress, deadline: None, capacity }.work_off().await?;
        if record.unanswered_at_end > 0 {
            let reason = format!("{} items got no answer; repeat the call", record.unanswered_at_end);
            return Err(Stop::RefusedAlike { count: 0, reason });
        }
        let history: Vec<(String, serde_json::Value)> =
            ledger.rows().scan(&history_prefix(&job.name), &end_of(&history_prefix(&job.name)), 90).await?;
        let mut writes: Vec<Write> = history.into_iter().map(|(key, _)| Write::Delete { key }).collect();
        writes.push(Write::Delete { key: job_key(&job.name) });
        writes.push(Write::Delete { key: run_key(&job.name) });
        ledger.commit(writes).await?;
        Ok((claims, record.tally.withdrawn))
    }
}

fn text_of(stop: Stop) -> String {
    match stop {
        Stop::Budget => "the time is over".to_owned(),
        Stop::Source(error) => error.message,
        Stop::Target(Halt::Outage(error) | Halt::Systemic(error)) => error.message,
        Stop::RefusedAlike { reason, .. } => reason,
        Stop::Ledger(error) => error.to_string(),
    }
}
