//! The wired parts, built once.

pub mod receiver;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use crate::dispatch::Dispatcher;
use crate::export::{Exporter, Job};
use crate::notifications::keys::KeyRing;
use crate::notifications::wanted::Wanted;
use crate::platform::clock::Clock;
use crate::platform::identity::{Identity, Tokens};
use crate::platform::pacer::Lanes;
use crate::platform::secret::Secret;
use crate::platform::vault::Vault;
use crate::polling::Poller;
use crate::settings::{Problem, Settings, VaultPlan, vault_secrets};
use crate::storage::{self, Queue, StateStore};
use crate::subscriptions::Reconciler;
use crate::telemetry::Telemetry;
use crate::threatconnect::Client;

/// What the product is given from outside: no other part reads the environment or makes clients.
#[derive(Debug, Clone)]
pub struct Surroundings {
    pub environment: BTreeMap<String, String>,
    /// Follows no redirects: credentials never go to another host.
    pub client: reqwest::Client,
    pub clock: Arc<dyn Clock>,
    pub telemetry: Telemetry,
}

/// Why the product cannot start; nothing was sent or stored.
#[derive(Debug)]
pub enum OpenError {
    /// All that is wrong with the settings; nothing was contacted.
    Settings(Vec<Problem>),
    /// A client refuses a setting: one line.
    Setting(String),
    /// A vault or store that is needed does not work: one line with the remedy.
    Failed(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(problems) => {
                let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
                f.write_str(&problems.join("; "))
            }
            Self::Setting(line) | Self::Failed(line) => f.write_str(line),
        }
    }
}

/// The product, ready to run.
#[derive(Debug)]
pub struct App {
    pub settings: Settings,
    pub exporter: Exporter,
    pub state: Arc<dyn StateStore>,
    pub queue: Arc<dyn Queue>,
    /// None: no `PUBLIC_URL`, or no playbooks.
    pub subscribing: Option<Subscribing>,
    /// The worker behind the notification queues; none without playbooks.
    pub dispatcher: Option<Dispatcher>,
    /// None where no playbook polls.
    pub poller: Option<Poller>,
    /// Where the secrets are, if not in the environment.
    pub vault: Option<Arc<Vault>>,
    /// What proves that notifications are of our own subscriptions; read when it is needed.
    pub client_state_keys: KeyRing,
    pub telemetry: Telemetry,
}

/// What is subscribed to, and who sees to it.
#[derive(Debug)]
pub struct Subscribing {
    pub reconciler: Reconciler,
    pub wanted: Vec<Wanted>,
    /// All playbooks could be read: what none of them wants is really wanted by nobody.
    pub complete: bool,
}

impl App {
    /// Reads settings and secrets, and opens the store.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(around: &Surroundings) -> Result<Self, OpenError> {
        let kept = read_vault(around).await?;
        let given = kept.as_ref().map_or(&around.environment, |kept| &kept.filled);
        let mut settings = Settings::from_map(given).map_err(OpenError::Settings)?;
        let vault = kept.map(|kept| {
            settings.keep_secrets(&kept.plan, &kept.vault);
            kept.vault
        });
        for note in &settings.notes {
            tracing::warn!("{note}");
        }
        let stores = storage::open(&settings.storage, &around.client, &around.clock).map_err(OpenError::Failed)?;
        let source = settings.notifications.client_state.source(vault.as_ref(), &stores.state);
        let client_state_keys = KeyRing::new(source, Arc::clone(&around.clock));
        let app = Self::new(settings, &around.client, &around.clock, stores.state, stores.queue).map_err(OpenError::Setting)?;
        Ok(Self { vault, client_state_keys, telemetry: around.telemetry.clone(), ..app })
    }

    /// # Errors
    /// One line, when an official client refuses a setting.
    pub fn new(
        settings: Settings,
        client: &reqwest::Client,
        clock: &Arc<dyn Clock>,
        store: Arc<dyn StateStore>,
        queue: Arc<dyn Queue>,
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
        let keys = settings.notifications.client_state.source(None, &store);
        Ok(Self {
            settings,
            client_state_keys: KeyRing::new(keys, Arc::clone(clock)),
            exporter: Exporter::new(Arc::clone(&store), Arc::clone(clock), jobs),
            state: store,
            queue,
            subscribing: None,
            dispatcher: None,
            poller: None,
            vault: None,
            telemetry: Telemetry::default(),
        })
    }
}

/// Two random names: of a run and of its worker.
pub(crate) fn names() -> (String, String) {
    let name = || uuid::Uuid::new_v4().simple().to_string()[..12].to_owned();
    (name(), name())
}

/// The vault of `KEY_VAULT_URL`, after its secrets were read once.
struct KeptSecrets {
    vault: Arc<Vault>,
    plan: VaultPlan,
    /// The environment with the secrets' values.
    filled: BTreeMap<String, String>,
}

async fn read_vault(around: &Surroundings) -> Result<Option<KeptSecrets>, OpenError> {
    let Some(plan) = vault_secrets(&around.environment).map_err(OpenError::Settings)? else { return Ok(None) };
    let vault = Vault::new(plan.url.clone(), &plan.resident, around.client.clone(), Arc::clone(&around.clock))
        .map_err(OpenError::Failed)?;
    let mut values: BTreeMap<String, Secret> = BTreeMap::new();
    for secret in &plan.secrets {
        let value = vault.secret(&secret.name).await.map_err(|error| OpenError::Failed(error.message))?;
        values.insert(secret.name.clone(), value);
    }
    let filled = plan.fill(&around.environment, &values);
    Ok(Some(KeptSecrets { vault: Arc::new(vault), plan, filled }))
}
