//! One world of state behind all services: what ThreatConnect knows, who may sign in, what the sinks were
//! sent, what goes wrong.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::cases::Cases;
use crate::defender::Defender;
use crate::faults::Faults;
use crate::graph::Graph;
use crate::indicator::Indicator;
use crate::notifications::Notifications;
use crate::playbook::Playbook;
use crate::resources::Resources;
use crate::threatconnect::Writing;

/// The fields that the product asks for are the ones that are kept rendered.
const USUAL_FIELDS: [&str; 6] = ["attributes", "falsePositives", "securityLabels", "sightings", "tags", "threatAssess"];

/// Everything that the services know.
#[derive(Debug, Default)]
pub struct World {
    pub owners: Vec<Owner>,
    pub(crate) indicators: BTreeMap<u64, Stored>,
    pub(crate) next_id: u64,
    pub users: Vec<User>,
    pub apps: Vec<App>,
    /// Secrets of the vault: name to value; none is disabled.
    pub vault: BTreeMap<String, Option<String>>,
    /// When the current version of a secret ends.
    pub vault_ends: BTreeMap<String, Timestamp>,
    pub sentinel: Sentinel,
    pub defender: Defender,
    pub graph: Graph,
    /// Subscriptions at Microsoft Graph, and what is delivered to them.
    pub notifications: Notifications,
    /// What can be read at Microsoft Graph: users, mail, drives, alerts.
    pub resources: Resources,
    /// Workflow cases in ThreatConnect.
    pub cases: Cases,
    /// Playbooks with a WebHook trigger, by the UUID in their path.
    pub playbooks: BTreeMap<String, Playbook>,
    pub faults: Faults,
    /// How writes of indicators behave.
    pub writing: Writing,
    /// ThreatConnect ignores `sorting`.
    pub ignore_sorting: bool,
    /// Requests per service, newest last.
    pub log: Vec<Logged>,
    /// Of each answer.
    pub latency: HashMap<Service, Duration>,
    /// Tokens are texts that nobody can look into.
    pub opaque_tokens: bool,
    pub(crate) tokens: HashMap<String, Token>,
    pub(crate) token_counter: u64,
    pub(crate) correlations: u64,
}

/// An indicator and its usual JSON.
#[derive(Debug)]
pub(crate) struct Stored {
    pub indicator: Indicator,
    pub owner_id: u64,
    pub rendered: Option<Arc<str>>,
}

/// An owner of indicators.
#[derive(Debug, Clone)]
pub struct Owner {
    pub id: u64,
    pub name: String,
    pub readable: bool,
    pub writable: bool,
}

/// An API user of ThreatConnect.
#[derive(Debug, Clone)]
pub struct User {
    pub access_id: String,
    pub secret: String,
    pub token: String,
}

/// An app registration.
#[derive(Debug, Clone)]
pub struct App {
    pub tenant: String,
    pub client_id: String,
    pub secret: String,
    /// Workspaces on which it has the contributor role.
    pub workspaces: Vec<String>,
    pub may_read_vault: bool,
    /// A managed identity: signs in at its endpoint, without a secret.
    pub managed: bool,
    /// App roles that were consented to; looked at with each call, so that one can be taken away. A token names those of its time.
    pub roles: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub tenant: String,
    pub client_id: String,
    pub audience: String,
    pub expires: Timestamp,
}

/// The emulated services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Service {
    ThreatConnect,
    Login,
    KeyVault,
    Sentinel,
    Defender,
    Graph,
    /// The endpoint of managed identities.
    Identity,
}

/// One request that was answered, or cut.
#[derive(Debug, Clone)]
pub struct Logged {
    /// When it came.
    pub at: Timestamp,
    pub service: Service,
    pub method: String,
    /// Path and query as they were sent.
    pub target: String,
    /// 0: no answer was sent.
    pub status: u16,
    /// Items in the body, or rows in the answer.
    pub items: usize,
}

/// What was uploaded.
#[derive(Debug, Default)]
pub struct Sentinel {
    /// Keyed by workspace, source system and STIX id.
    pub(crate) objects: HashMap<(String, String, String), Object>,
    pub(crate) recent: HashMap<String, VecDeque<Timestamp>>,
    pub enforce_rate: bool,
    /// Objects whose text contains one of these are refused for good.
    pub refuse: Vec<String>,
    /// A body in which no object is valid is a 400 instead of a 200.
    pub all_invalid_is_400: bool,
    /// Uploads that were not newer than what is stored: ids.
    pub stale: Vec<String>,
    /// Objects in all uploads, valid or not.
    pub uploaded: u64,
}

/// The newest upload of an object.
#[derive(Debug, Clone)]
pub struct Object {
    pub json: Box<str>,
    pub pattern: String,
    pub modified: Timestamp,
    pub valid_from: Timestamp,
    pub valid_until: Option<Timestamp>,
    pub revoked: bool,
    pub uploads: u32,
}

impl Object {
    /// A rule would match it at `now`.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.revoked && self.valid_until.is_none_or(|until| until > now)
    }

    /// The object as JSON.
    #[must_use]
    pub fn value(&self) -> serde_json::Value {
        serde_json::from_str(&self.json).unwrap_or_default()
    }
}

impl World {
    /// Adds an owner; its id.
    pub fn add_owner(&mut self, name: &str) -> u64 {
        if let Some(owner) = self.owners.iter().find(|owner| owner.name == name) {
            return owner.id;
        }
        let id = self.owners.len() as u64 + 1;
        self.owners.push(Owner { id, name: name.to_owned(), readable: true, writable: true });
        id
    }

    /// Adds an indicator, with its owner where that is new; its id.
    pub fn add(&mut self, mut indicator: Indicator) -> u64 {
        let owner_id = self.add_owner(&indicator.owner);
        if indicator.id == 0 {
            self.next_id = self.next_id.max(1_000) + 1;
            indicator.id = self.next_id;
        }
        self.next_id = self.next_id.max(indicator.id);
        let id = indicator.id;
        self.indicators.insert(id, Stored { indicator, owner_id, rendered: None });
        id
    }

    /// Every token that an app was given is good for nothing from now on.
    pub fn revoke_tokens(&mut self, client_id: &str) {
        self.tokens.retain(|_, token| token.client_id != client_id);
    }

    /// Changes an indicator without moving `lastModified`: tags, labels, scores and false positives do not. False if there is none.
    pub fn edit(&mut self, id: u64, change: impl FnOnce(&mut Indicator)) -> bool {
        let Some(stored) = self.indicators.get_mut(&id) else { return false };
        change(&mut stored.indicator);
        let owner = stored.indicator.owner.clone();
        stored.rendered = None;
        let owner_id = self.add_owner(&owner);
        if let Some(stored) = self.indicators.get_mut(&id) {
            stored.owner_id = owner_id;
        }
        true
    }

    /// Changes an indicator and moves `lastModified`, as a changed rating or confidence does.
    pub fn touch(&mut self, id: u64, now: Timestamp, change: impl FnOnce(&mut Indicator)) -> bool {
        self.edit(id, |indicator| {
            change(indicator);
            indicator.last_modified = now;
        })
    }

    /// It drops out of results; nobody is told.
    pub fn deactivate(&mut self, id: u64) -> bool {
        self.edit(id, |indicator| indicator.active = false)
    }

    pub fn delete(&mut self, id: u64) -> bool {
        self.indicators.remove(&id).is_some()
    }

    #[must_use]
    pub fn indicator(&self, id: u64) -> Option<&Indicator> {
        self.indicators.get(&id).map(|stored| &stored.indicator)
    }

    /// All indicators by id.
    pub fn indicators(&self) -> impl Iterator<Item = &Indicator> {
        self.indicators.values().map(|stored| &stored.indicator)
    }

    /// Live objects of a workspace at `now`, by STIX id.
    #[must_use]
    pub fn live(&self, workspace: &str, now: Timestamp) -> BTreeMap<String, &Object> {
        let mine = self.sentinel.objects.iter().filter(|((w, _, _), object)| w == workspace && object.is_live(now));
        mine.map(|((_, _, id), object)| (id.clone(), object)).collect()
    }

    /// A fresh GUID, by which support finds a request.
    pub(crate) fn correlation(&mut self) -> String {
        self.correlations += 1;
        format!("0f5a1c2e-0000-4000-9000-{:012x}", self.correlations)
    }

    /// Requests to a service so far.
    #[must_use]
    pub fn requests(&self, service: Service) -> usize {
        self.log.iter().filter(|logged| logged.service == service).count()
    }
}

impl Stored {
    /// The JSON with these fields; the usual set is rendered once.
    pub(crate) fn json(&mut self, fields: &[String]) -> Arc<str> {
        let usual = fields.len() == USUAL_FIELDS.len() && USUAL_FIELDS.iter().all(|field| fields.iter().any(|f| f == field));
        if !usual {
            return self.indicator.render(self.owner_id, fields).into();
        }
        let (indicator, owner_id) = (&self.indicator, self.owner_id);
        Arc::clone(self.rendered.get_or_insert_with(|| indicator.render(owner_id, fields).into()))
    }
}
