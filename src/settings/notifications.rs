//! What holds for notifications and subscriptions, whichever job there is. A receiver reads less: what is wrong with a job must
//! not keep it from receiving.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use super::cloud::CLOUDS;
use super::given::{Reader, address_or, list, sorted, text};
use super::params::{self, Param};
use super::{Problem, parse, storage, vault};
use crate::notifications::keys::KeySource;
use crate::platform::identity::Resident;
use crate::platform::schedule::Schedule;
use crate::platform::secret::Secret;
use crate::platform::vault::{SecretSource, Vault};
use crate::storage::{Place, StateStore};

/// A key that is shorter can be guessed.
const SHORTEST_KEY: usize = 16;

/// Notifications, subscriptions and playbooks, for all jobs.
#[derive(Debug, Clone)]
pub struct Notifications {
    pub client_state: ClientState,
    /// A path, or `{container}/{blob}` where state is in a storage account.
    pub playbooks_file: String,
    /// Somebody gave it: then it should be there.
    pub playbooks_given: bool,
    /// What Microsoft Graph calls; without it nothing can be subscribed to.
    pub public_url: Option<Url>,
    /// Names of certificates in the vault, or files; newest first.
    pub encryption_certificates: Vec<String>,
    /// What the tokens of encrypted notifications must be for: ids of apps.
    pub token_audiences: Vec<String>,
    /// Tenants whose tokens are taken: GUIDs in lower case.
    pub token_tenants: Vec<String>,
    /// Why no encrypted notification can be proven: one line each, with the setting to give.
    pub unproven: Vec<String>,
    pub subscription_schedule: Schedule,
    pub alert_poll_schedule: Schedule,
    /// Where Microsoft Graph is, whatever the jobs send through, and the audience of its tokens.
    pub graph: (Url, String),
    /// Publishes the keys that tokens of encrypted notifications are signed with.
    pub login: Url,
}

/// Where the keys of client states are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientState {
    Given {
        current: Secret,
        previous: Option<Secret>,
    },
    /// Names of secrets in the vault. Nobody needs them before there are notifications.
    Kept {
        current: String,
        previous: String,
    },
    /// Made at first use.
    Made,
}

impl ClientState {
    #[must_use]
    pub fn source(&self, vault: Option<&Arc<Vault>>, state: &Arc<dyn StateStore>) -> KeySource {
        match (self, vault) {
            (Self::Given { current, previous }, _) => KeySource::Secrets {
                current: SecretSource::Given(current.clone()),
                previous: previous.clone().map(SecretSource::Given),
            },
            (Self::Kept { current, previous }, Some(vault)) => {
                let kept = |name: &String| SecretSource::Kept { vault: Arc::clone(vault), name: name.clone() };
                KeySource::Secrets { current: kept(current), previous: Some(kept(previous)) }
            }
            (Self::Kept { .. }, None) => KeySource::Nowhere("the vault of KEY_VAULT_URL cannot be used".to_owned()),
            (Self::Made, _) => KeySource::Stored(Arc::clone(state)),
        }
    }
}

/// All that receiving needs: where to put what comes, and how to prove it.
#[derive(Debug, Clone)]
pub struct Receiving {
    pub storage: Place,
    /// The vault and who reads it.
    pub vault: Option<(Url, Resident)>,
    /// None, with the reason: one line.
    pub client_state: Result<ClientState, String>,
    /// Holds the answers.
    pub playbooks_file: Option<String>,
}

impl Receiving {
    /// # Errors
    /// All problems with the storage.
    pub fn from_map(given: &BTreeMap<String, String>) -> Result<Self, Vec<Problem>> {
        let mut reader = Reader::new(given);
        // What is wrong with the names of jobs is of no account here.
        reader.problems.clear();
        let cloud = reader.read(&params::CLOUD, |text| parse::choice(text, &CLOUDS));
        let Some(storage) = storage::read_storage(&mut reader, cloud) else { return Err(sorted(reader.problems)) };
        let sign_in = reader.read(&params::IDENTITY, |text| parse::choice(text, &params::SIGN_INS));
        let resident = vault::resident(&reader, sign_in);
        let vault = reader.read(&params::KEY_VAULT_URL, parse::address).map(|url| (url, resident));
        reader.problems.clear();
        let playbooks_file = reader.read(&params::PLAYBOOKS_FILE, text);
        let client_state = read_client_state(&mut reader);
        let problem = || reader.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        Ok(Self { storage, vault, client_state: client_state.ok_or_else(problem), playbooks_file })
    }
}

/// None if there is a problem with it.
pub(super) fn read_notifications(reader: &mut Reader<'_>) -> Option<Notifications> {
    let client_state = read_client_state(reader);
    let in_vault = reader.given(&params::KEY_VAULT_URL).is_some();
    let certificates = reader.read(&params::ENCRYPTION_CERTIFICATES, |text| {
        let names = list(text)?;
        let wrong = names.iter().find(|name| in_vault && parse::secret_name(name).is_err());
        wrong.map_or(Ok(()), |name| Err(format!("`{}` is no name of a certificate in a vault", name.escape_debug())))?;
        Ok(names)
    });
    let mut unproven = Vec::new();
    let given_tenants = reader.read(&params::TOKEN_TENANTS, |text| list(text)?.iter().map(|id| parse::guid(id)).collect());
    let tenants: Vec<String> = given_tenants.unwrap_or_else(|| {
        // A name of a tenant is in no token.
        unproven.extend(named(reader));
        of_jobs(reader, &params::MICROSOFT_GRAPH_TENANT_ID).iter().filter_map(|tenant| parse::guid(tenant).ok()).collect()
    });
    let audiences = reader.read(&params::TOKEN_AUDIENCES, list).unwrap_or_else(|| {
        let mut apps = of_jobs(reader, &params::MICROSOFT_GRAPH_CLIENT_ID);
        apps.extend(reader.given(&params::MANAGED_IDENTITY_CLIENT_ID).map(|given| given.text.to_owned()));
        apps
    });
    if audiences.is_empty() {
        let id = "the application (client) id of the app's managed identity";
        unproven.push(format!(
            "TOKEN_AUDIENCES: give {id}: the tokens of encrypted notifications are for it, and no setting names it"
        ));
    }
    let playbooks_file = reader.need(&params::PLAYBOOKS_FILE, text);
    let playbooks_given = reader.given(&params::PLAYBOOKS_FILE).is_some_and(|given| given.text != params::DEPLOYED_PLAYBOOKS);
    let public_url = reader.read(&params::PUBLIC_URL, parse::address);
    let subscription_schedule = reader.need(&params::SUBSCRIPTION_SCHEDULE, Schedule::parse);
    let alert_poll_schedule = reader.need(&params::ALERT_POLL_SCHEDULE, Schedule::parse);
    let cloud = parse::choice(reader.effective(&params::CLOUD)?, &CLOUDS).ok();
    // Those of the first job: it signs in.
    if let Some(first) = reader.jobs.first().cloned() {
        reader.enter(&first);
    }
    let graph = address_or(reader, &params::GRAPH_URL, cloud.map(|cloud| cloud.graph.0));
    let scope = reader.read(&params::GRAPH_SCOPE, text).or_else(|| cloud.map(|cloud| cloud.graph.1.to_owned()));
    reader.leave();
    let login = address_or(reader, &params::LOGIN_URL, cloud.map(|cloud| cloud.login));
    Some(Notifications {
        client_state: client_state?,
        playbooks_file: playbooks_file?,
        playbooks_given,
        public_url,
        encryption_certificates: certificates.unwrap_or_default(),
        token_audiences: audiences,
        token_tenants: tenants,
        unproven,
        subscription_schedule: subscription_schedule?,
        alert_poll_schedule: alert_poll_schedule?,
        graph: (graph?, scope?),
        login: login?,
    })
}

fn read_client_state(reader: &mut Reader<'_>) -> Option<ClientState> {
    if reader.given(&params::KEY_VAULT_URL).is_some() {
        let mut name = |row: &Param| reader.read(row, parse::secret_name);
        let current = name(&params::CLIENT_STATE_KEY_SECRET_NAME);
        let previous = name(&params::CLIENT_STATE_KEY_PREVIOUS_SECRET_NAME);
        return Some(ClientState::Kept { current: current?, previous: previous? });
    }
    let problems = reader.problems.len();
    let current = reader.read(&params::CLIENT_STATE_KEY, key);
    let previous = reader.read(&params::CLIENT_STATE_KEY_PREVIOUS, key);
    if reader.given(&params::CLIENT_STATE_KEY).is_none() && previous.is_some() {
        reader.refuse(&params::CLIENT_STATE_KEY_PREVIOUS, "is given without CLIENT_STATE_KEY: give both".to_owned());
    }
    if reader.problems.len() > problems {
        return None;
    }
    Some(current.map_or(ClientState::Made, |current| ClientState::Given { current, previous }))
}

fn key(text: &str) -> Result<Secret, String> {
    if text.len() < SHORTEST_KEY {
        return Err(format!("is too short: give at least {SHORTEST_KEY} random characters"));
    }
    Ok(Secret::new(text))
}

/// The tenant of the first job, whose notifications come, where it is not given by its id.
fn named(reader: &Reader<'_>) -> Option<String> {
    let row = &params::MICROSOFT_GRAPH_TENANT_ID;
    let tenant = reader.of_job(reader.jobs.first()?, row).filter(|tenant| parse::guid(tenant).is_err())?;
    let tenant = tenant.escape_debug();
    Some(format!(
        "{}: give the tenant's id (a GUID) instead of `{tenant}`, or set TOKEN_TENANTS to it: the tokens of encrypted notifications name no other",
        row.key
    ))
}

/// What the jobs have for a setting, each text once.
fn of_jobs(reader: &Reader<'_>, row: &Param) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for text in reader.jobs.iter().filter_map(|job| reader.of_job(job, row)) {
        if !texts.iter().any(|known| known == text) {
            texts.push(text.to_owned());
        }
    }
    texts
}
