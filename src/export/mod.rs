//! The export flow: keeps a destination equal to its jobs' sources.

mod last_run;

use std::time::Duration;

pub use last_run::LastRun;

use crate::platform::schedule::Schedule;

/// How a job runs.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The guide's "Only Send Indicators Modified Since Last Run".
    pub incremental: bool,
    /// The guide's "Last Run"; none when `incremental` is off.
    pub last_run: Option<LastRun>,
    pub schedule: Schedule,
    /// From start to start, while `incremental` is on.
    pub full_run_every: Duration,
    pub resend: Resend,
    pub withdraw: bool,
    /// Percent of the rows that one run may withdraw.
    pub withdraw_limit: u8,
}

/// What is sent on each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resend {
    /// What is new, changed or close to its expiry.
    Changed,
    /// Everything: the guide's behaviour.
    Always,
}
