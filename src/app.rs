//! The wired parts, built once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::export::{Exporter, Job};
use crate::platform::clock::Clock;
use crate::platform::identity::{Identity, Tokens};
use crate::platform::pacer::Pacer;
use crate::settings::{Settings, Target};
use crate::sinks::Sink;
use crate::sinks::sentinel::Sentinel;
use crate::storage::StateStore;
use crate::threatconnect::Client;

/// The product, ready to run.
#[derive(Debug)]
pub struct App {
    pub settings: Settings,
    pub exporter: Exporter,
}

impl App {
    /// `client` follows no redirects: credentials never go to another host.
    ///
    /// # Errors
    /// One line, when an official client refuses a setting.
    pub fn new(
        settings: Settings,
        client: &reqwest::Client,
        clock: &Arc<dyn Clock>,
        store: Arc<dyn StateStore>,
    ) -> Result<Self, String> {
        let mut identities: Vec<(Identity, Arc<Tokens>)> = Vec::new();
        let mut pacers: HashMap<(String, usize), Arc<Mutex<Pacer>>> = HashMap::new();
        let mut jobs = Vec::new();
        for job in &settings.jobs {
            let known = identities.iter().position(|(identity, _)| *identity == job.identity);
            let who = known.unwrap_or(identities.len());
            if known.is_none() {
                let tokens = Tokens::new(job.identity.clone(), client.clone())?;
                identities.push((job.identity.clone(), Arc::new(tokens)));
            }
            let Target::Sentinel(config) = &job.target;
            // Jobs of one destination take turns under one share of the identity's rate.
            let pacer = pacers.entry((config.destination().fingerprint, who)).or_insert_with(|| config.pacer());
            let bearer = identities[who].1.bearer(&job.scope);
            let sink: Arc<dyn Sink> =
                Arc::new(Sentinel::new(config.clone(), client.clone(), Arc::clone(clock), bearer, Arc::clone(pacer)));
            let source = Client::new(job.source.clone(), client.clone(), Arc::clone(clock));
            jobs.push(Job::new(
                &job.name,
                ("Microsoft Sentinel", "product"),
                source,
                job.filter.clone(),
                job.terms.clone(),
                sink,
                job.policy.clone(),
                &job.fingerprint,
            ));
        }
        Ok(Self { settings, exporter: Exporter::new(store, Arc::clone(clock), jobs) })
    }
}
