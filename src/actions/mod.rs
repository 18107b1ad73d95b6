//! What playbooks decided, done: one file for each kind of action. Decides nothing, and tries each thing once: whoever asks tries
//! again, with the same key.

mod queue;
mod threatconnect_case;
mod threatconnect_indicator;
mod trigger_export;
mod webhook;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::platform::clock::Clock;
use crate::platform::vault::SecretSource;
use crate::playbooks::action::Action;
use crate::storage::{Queue, StateStore};
use crate::threatconnect;

/// Requests that one process has open at one target.
pub const PER_TARGET: usize = 4;
/// A request takes no longer.
pub const TIMEOUT: Duration = Duration::from_secs(30);
/// How long to wait for a free place: a target that hangs must not hold up the others' items.
const PATIENCE: Duration = Duration::from_secs(2);
/// What is left of the time for an action when its last request begins.
const LAST_REQUEST: Duration = Duration::from_secs(40);

/// One action of one run.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    pub action: &'a Action,
    /// The same however often this is tried; another for each other action, item and playbook.
    pub key: &'a str,
    /// When it must be over, on the monotonic clock.
    pub ends: Duration,
    /// A later state of the same resource was written before: this one must not take its place.
    pub outdated: bool,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// No place at the target is free; nothing was sent.
    Busy,
    /// Not done, or not known to be: to be tried again, after this time if the target says so.
    Later {
        after: Option<Duration>,
        cause: String,
    },
    /// Trying again changes nothing: one line.
    Refused(String),
}

/// The secret of this name; none: there is no such setting.
pub type Secrets = Arc<dyn Fn(&str) -> Option<SecretSource> + Send + Sync>;

/// What actions need.
#[derive(Clone)]
pub struct Tools {
    pub state: Arc<dyn StateStore>,
    pub queue: Arc<dyn Queue>,
    pub clock: Arc<dyn Clock>,
    /// Follows no redirects.
    pub client: reqwest::Client,
    pub secrets: Secrets,
    /// None: ThreatConnect is not configured.
    pub threatconnect: Option<threatconnect::Client>,
    /// Jobs whose export an action that names none starts.
    pub jobs: Vec<String>,
    /// At most so many requests at once at one target.
    pub per_target: usize,
    /// Of one request.
    pub timeout: Duration,
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tools").field("jobs", &self.jobs).finish_non_exhaustive()
    }
}

/// Performs actions.
#[derive(Debug)]
pub struct Performer {
    tools: Tools,
    places: Mutex<HashMap<String, Arc<Semaphore>>>,
}

impl Performer {
    #[must_use]
    pub fn new(tools: Tools) -> Self {
        Self { tools, places: Mutex::default() }
    }

    /// Performs one action, once.
    pub async fn perform(&self, order: &Order<'_>) -> Outcome {
        match order.action {
            Action::Queue { queue, body } => self.enqueue(queue, body, order.key).await,
            Action::Webhook { .. } => self.call(order).await,
            Action::ThreatConnectIndicator { .. } => self.write_indicators(order).await,
            Action::ThreatConnectCase { .. } => self.write_case(order).await,
            Action::TriggerExport { job, coalesce_seconds } => self.trigger(job.as_deref(), *coalesce_seconds).await,
        }
    }

    /// A place at a target, if one is free soon.
    async fn place(&self, target: &str) -> Option<OwnedSemaphorePermit> {
        let places = {
            let mut all = self.places.lock().unwrap_or_else(PoisonError::into_inner);
            let places = all.entry(target.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(self.tools.per_target.max(1))));
            Arc::clone(places)
        };
        let patience = self.tools.clock.alarm(PATIENCE);
        tokio::select! {
            biased;
            place = places.acquire_owned() => place.ok(),
            () = patience => None,
        }
    }

    /// A request may still begin.
    fn has_time(&self, order: &Order<'_>) -> bool {
        self.tools.clock.monotonic() + LAST_REQUEST < order.ends
    }
}
