//! The wired parts, built once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::export::{Exporter, Job};
use crate::platform::clock::Clock;
use crate::platform::identity::{Identity, Tokens};
use crate::platform::pacer::Lanes;
use crate::settings::Settings;
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
        let mut lanes: HashMap<(String, usize), Lanes> = HashMap::new();
        let mut jobs = Vec::new();
        for job in &settings.jobs {
            let known = identities.iter().position(|(identity, _)| *identity == job.identity);
            let who = known.unwrap_or(identities.len());
            if known.is_none() {
                let tokens = Tokens::new(job.identity.clone(), client.clone())?;
                identities.push((job.identity.clone(), Arc::new(tokens)));
            }
            // Jobs of one destination take turns under one share of the identity's rate.
            let lanes = lanes.entry((job.target.destination().fingerprint, who)).or_insert_with(|| job.target.lanes());
            let bearer = identities[who].1.bearer(&job.scope);
            let sink = job.target.build(client.clone(), Arc::clone(clock), bearer, lanes);
            let source = Client::new(job.source.clone(), client.clone(), Arc::clone(clock));
            jobs.push(Job::new(
                &job.name,
                job.target.names(),
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
