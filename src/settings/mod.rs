//! Settings in two stages: text as given, then validated meaning. Every problem is reported at once.

mod cloud;
mod given;
mod job;
mod near;
mod notifications;
mod params;
mod parse;
mod render;
mod storage;
mod target;
mod vault;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

pub use notifications::{ClientState, Notifications, Receiving};
pub use render::{Format, local_settings_example, render};
pub use vault::{VaultPlan, VaultSecret, vault_secrets};

use crate::export::Policy;
use crate::platform::identity::Identity;
use crate::platform::vault::Vault;
use crate::sinks::{Target, TargetProduct, Terms};
use crate::storage::Place;
use crate::threatconnect::{self, Filter};

/// Everything that the product is told, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In the order of `JOBS`.
    pub jobs: Vec<Job>,
    /// Where state and queues are.
    pub storage: Place,
    pub logging_level: LoggingLevel,
    /// Of one invocation; none on the command line.
    pub time_budget: Option<Duration>,
    pub notifications: Notifications,
    /// What the user should know though it is no error: one line each.
    pub notes: Vec<String>,
}

/// One set of the guide's parameters.
#[derive(Debug, Clone)]
pub struct Job {
    pub name: String,
    pub source: threatconnect::Config,
    pub filter: Filter,
    pub terms: Terms,
    pub target: Target,
    /// Audience of the target's tokens.
    pub scope: String,
    pub identity: Identity,
    pub policy: Policy,
    /// Changes when a setting changes that decides what is sent or how it looks; holds no secret.
    pub fingerprint: String,
}

/// The guide's "Logging Level".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoggingLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
}

/// One problem of one setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: String,
    /// The guide's name of the parameter, if it is one of the guide's.
    pub guide_name: Option<&'static str>,
    /// What is wrong, the value given unless it is secret, and what is accepted.
    pub message: String,
}

impl Settings {
    /// Reads all settings from `given` (the environment, as a map).
    ///
    /// # Errors
    /// All problems at once.
    pub fn from_map(given: &BTreeMap<String, String>) -> Result<Self, Vec<Problem>> {
        let mut reader = given::Reader::new(given);
        let process = job::read_process(&mut reader);
        let names = reader.jobs.clone();
        let jobs: Vec<Option<Job>> = names.iter().map(|name| job::read_job(&mut reader, &process, name)).collect();
        reader.judge_strays();
        let jobs = jobs.into_iter().collect::<Option<Vec<Job>>>();
        let complete = (jobs, process.storage, process.logging_level, process.notifications);
        let (Some(mut jobs), Some(storage), Some(logging_level), Some(notifications)) = complete else {
            return Err(given::sorted(reader.problems));
        };
        if !reader.problems.is_empty() {
            return Err(given::sorted(reader.problems));
        }
        share_requests(&mut jobs);
        reader.notes.extend(two_ways_to_defender(&jobs));
        let (time_budget, notes) = (process.time_budget, reader.notes);
        Ok(Self { jobs, storage, logging_level, time_budget, notifications, notes })
    }

    /// The secrets of `plan` are read from `vault` each time that they are needed, so that they can change there.
    pub fn keep_secrets(&mut self, plan: &VaultPlan, vault: &Arc<Vault>) {
        for job in &mut self.jobs {
            vault::keep(job, plan, vault);
        }
    }
}

/// What `LOGGING_LEVEL` says, before all else is read; none if nothing, or nothing sensible.
#[must_use]
pub fn logging_level(given: &BTreeMap<String, String>) -> Option<LoggingLevel> {
    parse::choice(given.get(params::LOGGING_LEVEL.key)?.trim(), &params::LOGGING_LEVELS).ok()
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let guide_name = self.guide_name.map(|name| format!(" ({name})")).unwrap_or_default();
        write!(f, "{}{guide_name}: {}", self.key, self.message)
    }
}

/// Jobs that fill the places of one tenant's Defender in two ways: neither sees what the other holds.
fn two_ways_to_defender(jobs: &[Job]) -> Option<String> {
    let through_graph = |job: &Job, tenant: &str| match &job.target {
        Target::Graph(config) => config.product == TargetProduct::Defender && config.tenant.eq_ignore_ascii_case(tenant),
        _ => false,
    };
    let (own, other) = jobs.iter().find_map(|job| match &job.target {
        Target::Defender(config) => {
            Some(((&job.name, &config.tenant), jobs.iter().find(|other| through_graph(other, &config.tenant))?))
        }
        _ => None,
    })?;
    Some(format!(
        "jobs `{}` and `{}` both reach Defender of tenant {}, one with DELIVERY=product and one with DELIVERY=graph: they share its 15,000 places without knowing of each other; use one delivery",
        own.0, other.name, own.1
    ))
}

/// Services count requests by identity, so destinations that share service and identity share its rate too.
fn share_requests(jobs: &mut [Job]) {
    let caller = |job: &Job| {
        let who = match &job.identity {
            Identity::ClientSecret { tenant, client_id, .. } => format!("{tenant}/{client_id}"),
            Identity::Managed { client_id } => client_id.clone().unwrap_or_default(),
        };
        (job.target.url().clone(), who.to_ascii_lowercase())
    };
    let mut destinations: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for job in &*jobs {
        destinations.entry(caller(job)).or_default().insert(job.target.destination().fingerprint);
    }
    for job in jobs {
        let sharing = destinations.get(&caller(job)).map_or(1, BTreeSet::len);
        job.target.share(u32::try_from(sharing).unwrap_or(u32::MAX));
    }
}

#[cfg(test)]
mod tests;
