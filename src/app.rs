//! The wired parts, built once.

mod answers;
pub mod playbooks;
pub mod receiver;
mod secrets;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use playbooks::{Parts, Playbooks};
use secrets::Secrets;

use crate::actions::{PER_TARGET, Performer, TIMEOUT, Tools};
use crate::dispatch::{Dispatcher, Reader};
use crate::export::{Exporter, Job};
use crate::notifications::keys::KeyRing;
use crate::platform::clock::Clock;
use crate::platform::identity::{Identity, Tokens};
use crate::platform::pacer::Lanes;
use crate::platform::secret::Secret;
use crate::platform::vault::Vault;
use crate::settings::{Problem, Settings, VaultPlan, vault_secrets};
use crate::storage::document::Document;
use crate::storage::{self, Queue, StateStore, Stores};
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
    pub playbooks: Playbooks,
    /// Where they are written.
    pub document: Arc<Document>,
    /// The worker behind the notification queues.
    pub dispatcher: Dispatcher,
    /// Where the secrets are, if not in the environment.
    pub vault: Option<Arc<Vault>>,
    /// What proves that notifications are of our own subscriptions; read when it is needed.
    pub client_state_keys: KeyRing,
    pub telemetry: Telemetry,
}

impl App {
    /// Reads settings and secrets, and opens the store.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(around: &Surroundings) -> Result<Self, OpenError> {
        Self::open_within(around, None).await
    }

    /// The same, for who does not wait longer for a vault than that.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open_within(around: &Surroundings, patience: Option<Duration>) -> Result<Self, OpenError> {
        let kept = read_vault(around, patience).await?;
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
        let secrets = Secrets { given: Arc::new(around.environment.clone()), vault };
        let app = Self::with(settings, &around.client, &around.clock, stores, secrets).map_err(OpenError::Setting)?;
        Ok(Self { telemetry: around.telemetry.clone(), ..app })
    }

    /// Without a vault, and without secrets for playbooks.
    ///
    /// # Errors
    /// One line, when an official client refuses a setting.
    pub fn new(
        settings: Settings,
        client: &reqwest::Client,
        clock: &Arc<dyn Clock>,
        state: Arc<dyn StateStore>,
        queue: Arc<dyn Queue>,
    ) -> Result<Self, String> {
        Self::with(settings, client, clock, Stores { state, queue }, Secrets::default())
    }

    fn with(
        settings: Settings,
        client: &reqwest::Client,
        clock: &Arc<dyn Clock>,
        Stores { state, queue }: Stores,
        secrets: Secrets,
    ) -> Result<Self, String> {
        let mut identities = Identities { client: client.clone(), known: Vec::new() };
        let mut lanes: HashMap<(String, usize), Lanes> = HashMap::new();
        let mut jobs = Vec::new();
        for job in &settings.jobs {
            let (who, tokens) = identities.tokens(&job.identity)?;
            // Jobs of one destination take turns under one share of the identity's rate.
            let lanes = lanes.entry((job.target.destination().fingerprint, who)).or_insert_with(|| job.target.lanes());
            let sink = job.target.build(client.clone(), Arc::clone(clock), tokens.bearer(&job.scope), lanes);
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
        let source = settings.notifications.client_state.source(secrets.vault.as_ref(), &state);
        let client_state_keys = KeyRing::new(source, Arc::clone(clock));
        // Notifications are the affair of the first job's tenant, app and ThreatConnect.
        let (_, tokens) = identities.tokens(&settings.jobs[0].identity)?;
        let document = Arc::new(Document::open(&settings.notifications.playbooks_file, &settings.storage, client, clock)?);
        let parts = Parts {
            document: Arc::clone(&document),
            bearer: tokens.bearer(&settings.notifications.graph.1),
            first_job: settings.jobs[0].name.clone(),
            settings: settings.notifications.clone(),
            state: Arc::clone(&state),
            queue: Arc::clone(&queue),
            client: client.clone(),
            clock: Arc::clone(clock),
            client_state_keys: client_state_keys.clone(),
            secrets: secrets.clone(),
        };
        let tools = Tools {
            state: Arc::clone(&state),
            queue: Arc::clone(&queue),
            clock: Arc::clone(clock),
            client: client.clone(),
            secrets: {
                let secrets = secrets.clone();
                Arc::new(move |name| secrets.find(name))
            },
            threatconnect: Some(jobs[0].client.clone()),
            jobs: jobs.iter().map(|job| job.name.clone()).collect(),
            per_target: PER_TARGET,
            timeout: TIMEOUT,
        };
        let (http, base) = parts.reading();
        let reader = Reader::new(http, base);
        let playbooks = Playbooks::read(parts);
        let hooks = playbooks.hooks(&client_state_keys);
        let performer = Performer::new(tools);
        Ok(Self {
            settings,
            exporter: Exporter::new(Arc::clone(&state), Arc::clone(clock), jobs),
            dispatcher: Dispatcher::new(Arc::clone(&state), Arc::clone(&queue), Arc::clone(clock), reader, performer, hooks),
            state,
            queue,
            playbooks,
            document,
            vault: secrets.vault,
            client_state_keys,
            telemetry: Telemetry::default(),
        })
    }
}

/// Who signs in, each once: tokens are shared.
struct Identities {
    client: reqwest::Client,
    known: Vec<(Identity, Arc<Tokens>)>,
}

impl Identities {
    fn tokens(&mut self, identity: &Identity) -> Result<(usize, Arc<Tokens>), String> {
        let known = self.known.iter().position(|(known, _)| known == identity);
        let place = known.unwrap_or(self.known.len());
        if known.is_none() {
            let tokens = Tokens::new(identity.clone(), self.client.clone())?;
            self.known.push((identity.clone(), Arc::new(tokens)));
        }
        Ok((place, Arc::clone(&self.known[place].1)))
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

async fn read_vault(around: &Surroundings, patience: Option<Duration>) -> Result<Option<KeptSecrets>, OpenError> {
    let Some(plan) = vault_secrets(&around.environment).map_err(OpenError::Settings)? else { return Ok(None) };
    let vault = Vault::new(plan.url.clone(), &plan.resident, around.client.clone(), Arc::clone(&around.clock))
        .map_err(OpenError::Failed)?
        .within(patience);
    let mut values: BTreeMap<String, Secret> = BTreeMap::new();
    for secret in &plan.secrets {
        let value = vault.secret(&secret.name).await.map_err(|error| OpenError::Failed(error.message))?;
        values.insert(secret.name.clone(), value);
    }
    let filled = plan.fill(&around.environment, &values);
    Ok(Some(KeptSecrets { vault: Arc::new(vault), plan, filled }))
}
