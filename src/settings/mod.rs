//! Settings in two stages: text as given, then validated meaning. Every problem is reported at once.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::export::Policy;
use crate::platform::identity::Identity;
use crate::sinks::{Terms, sentinel};
use crate::threatconnect::{self, Filter};

/// Everything that the product is told, validated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// In the order of `JOBS`.
    pub jobs: Vec<Job>,
    /// Where embedded state lives.
    pub state_file: PathBuf,
    pub logging_level: LoggingLevel,
    /// Of one invocation; none on the command line.
    pub time_budget: Option<Duration>,
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
    pub identity: Identity,
    pub policy: Policy,
    /// Changes when a setting changes that decides what is sent or how it looks; holds no secret.
    pub fingerprint: String,
}

/// Where a job delivers.
#[derive(Debug, Clone)]
pub enum Target {
    Sentinel(sentinel::Config),
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
    pub fn from_map(_given: &BTreeMap<String, String>) -> Result<Self, Vec<Problem>> {
        todo!()
    }
}
