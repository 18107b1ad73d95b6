//! What runs leave behind for users: who wrote where, reports, rejections; and the word that lets a withdrawal pass.

use std::sync::Arc;

use super::Job;
use super::ledger::{LedgerError, Rows};
use super::report::Report;
use super::rows::{
    Approval, HISTORY, JobState, REGISTRY, RefusedWithdrawal, Registered, Rejection, approval_key, end_of, history_prefix,
    job_key,
};
use super::run::Exporter;

impl Exporter {
    /// All jobs that ever wrote to a destination and were not retired.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn registered(&self) -> Result<Vec<Registered>, LedgerError> {
        let registry = Rows::new(Arc::clone(self.store()), REGISTRY);
        Ok(registry.scan::<Registered>(" ", "~", 1_000).await?.into_iter().map(|(_, entry)| entry).collect())
    }

    /// Reports of finished runs of a job at a destination, newest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn history(&self, registered: &Registered) -> Result<Vec<Report>, LedgerError> {
        let rows = Rows::new(Arc::clone(self.store()), &registered.destination);
        let from = history_prefix(&registered.job);
        let mut reports: Vec<Report> =
            rows.scan(&from, &end_of(&from), HISTORY + 20).await?.into_iter().map(|(_, report)| report).collect();
        reports.reverse();
        Ok(reports)
    }

    /// Items that the target refused, of one job at a destination.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn rejections(&self, registered: &Registered) -> Result<Vec<Rejection>, LedgerError> {
        let rows = Rows::new(Arc::clone(self.store()), &registered.destination);
        let mut from = format!("x.{}.", registered.job);
        let end = end_of(&from);
        let mut all = Vec::new();
        loop {
            let chunk: Vec<(String, Rejection)> = rows.scan(&from, &end, 1_000).await?;
            let Some((last, _)) = chunk.last() else { return Ok(all) };
            from = format!("{last}!");
            all.extend(chunk.into_iter().map(|(_, rejection)| rejection));
        }
    }

    /// Whether the job has completed a run at its destination: else nothing is known of what is there.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn has_history(&self, job: &Job) -> Result<bool, LedgerError> {
        let state: Option<JobState> = self.rows(job).read(&job_key(&job.name)).await?;
        Ok(state.is_some_and(|state| state.watermark.is_some()))
    }

    /// Approves the withdrawal that the last full run of `job` refused: the number shown and 10 % more, once, for seven days.
    ///
    /// # Errors
    /// [`ApproveError::Nothing`] if none was refused.
    pub async fn approve_withdrawal(&self, job: &Job) -> Result<RefusedWithdrawal, ApproveError> {
        let rows = self.rows(job);
        let state: Option<JobState> = rows.read(&job_key(&job.name)).await?;
        let Some(refused) = state.and_then(|state| state.refused) else {
            return Err(ApproveError::Nothing { job: job.name.clone() });
        };
        let approval = Approval { rows: refused.rows, at: self.now() };
        let key = approval_key(&job.name);
        loop {
            let known: Option<(Approval, _)> = rows.read_versioned(&key).await?;
            if rows.write_one(&key, &approval, known.map(|(_, version)| version)).await? {
                return Ok(refused);
            }
        }
    }
}

/// Why nothing was approved.
#[derive(Debug, thiserror::Error)]
pub enum ApproveError {
    #[error("no withdrawal of job `{job}` waits for approval; a full run refuses one when it would take too much")]
    Nothing { job: String },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}
