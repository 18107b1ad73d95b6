//! What playbooks ask for, as their document has it now: subscriptions, polls, and what is done about each notification.
//!
//! The document is looked at again each minute, so that playbooks change without a deployment or a restart. Holds no decisions:
//! it puts together what other rooms decide.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use serde_json::Value;
use url::Url;

use crate::dispatch::{Hooks, Plan, Sealed};
use crate::graph::keys::Keys;
use crate::graph::{Config as GraphConfig, Graph};
use crate::notifications::client_state::{self, Verdict};
use crate::notifications::item::Item;
use crate::notifications::keys::KeyRing;
use crate::notifications::resources::{Permission, Resource};
use crate::notifications::rich::certificates::Certificates;
use crate::notifications::rich::decrypt::OpenError;
use crate::notifications::rich::tokens::{Keyset, TokenError};
use crate::notifications::rich::{RichError, open_item};
use crate::notifications::wanted::Wanted;
use crate::platform::clock::Clock;
use crate::platform::http::{Authorize, Http};
use crate::platform::secret::Secret;
use crate::platform::vault::{SecretSource, Vault};
use crate::playbooks::{self, Loaded, Playbook, Priority, Problem, SourceKind};
use crate::polling::{self, Poller};
use crate::settings::Notifications;
use crate::storage::document::Document;
use crate::storage::{Queue, StateStore};
use crate::subscriptions::lifecycle::Answered;
use crate::subscriptions::{Config, Reconciler, States};

/// How long what was read is taken for the present.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(60);
/// Between two looks at what nobody told of.
const CATCH_UP_EVERY: Duration = Duration::from_secs(6 * 3_600);

/// What is subscribed to, and who sees to it.
#[derive(Debug)]
pub struct Subscribing {
    pub reconciler: Reconciler,
    pub wanted: Vec<Wanted>,
    /// All playbooks could be read: what none of them wants is really wanted by nobody.
    pub complete: bool,
}

/// What the document asks for.
#[derive(Debug, Default)]
pub struct Asked {
    /// Of the document, for users; blank where there is none.
    pub document: String,
    /// Playbooks that can run, enabled or not.
    pub playbooks: usize,
    pub problems: Vec<Problem>,
    /// Lines for `check`, and whether all is well with the document.
    pub check: (Vec<String>, bool),
    /// None: why there is nothing to subscribe with or to, one line.
    pub subscribing: Option<Subscribing>,
    pub why_not: String,
    pub poller: Option<Poller>,
    pub plans: Arc<[Plan]>,
    pub certificates: Arc<Certificates>,
}

impl Asked {
    /// What the app must be permitted for its subscriptions and polls, one line each: nobody can ask Microsoft Graph for it.
    #[must_use]
    pub fn permissions(&self) -> Vec<String> {
        let subscribed = self.subscribing.iter().flat_map(|subscribing| &subscribing.wanted).map(|wanted| &wanted.resource);
        let polled = self.poller.iter().flat_map(|poller| poller.sources()).map(|source| &source.resource);
        let mut lines: Vec<String> = Vec::new();
        for resource in subscribed.chain(polled) {
            let needs = match Resource::of(resource).map(|row| row.permission) {
                Some(Permission::App { create, renew }) if create == renew => format!("needs {create}"),
                Some(Permission::App { create, renew }) => format!("needs {create}, and {renew} to renew"),
                Some(Permission::DelegatedOnly(name)) => format!("can be had with {name} of a signed-in user only"),
                Some(Permission::Unknown) | None => "needs a permission that no page names".to_owned(),
            };
            let line = format!("{resource} {needs}");
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines
    }
}

/// The playbooks of this process.
#[derive(Debug, Clone)]
pub struct Playbooks(Source);

#[derive(Debug, Clone)]
enum Source {
    /// Somebody else put it together.
    Given(Arc<Asked>),
    Read(Arc<Reading>),
}

/// What reading and putting together takes.
pub(super) struct Parts {
    pub(super) settings: Notifications,
    pub(super) document: Document,
    pub(super) state: Arc<dyn StateStore>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) client: reqwest::Client,
    pub(super) clock: Arc<dyn Clock>,
    /// Signs in to Microsoft Graph.
    pub(super) bearer: Arc<dyn Authorize>,
    pub(super) client_state_keys: KeyRing,
    pub(super) secrets: Secrets,
}

/// Secrets that playbooks name.
#[derive(Debug, Clone, Default)]
pub(super) struct Secrets {
    pub(super) given: Arc<BTreeMap<String, String>>,
    pub(super) vault: Option<Arc<Vault>>,
}

impl Secrets {
    /// The setting of this name, else the vault's secret with the name in its spelling: `TC_URL` is `tc-url` there.
    pub(super) fn find(&self, name: &str) -> Option<SecretSource> {
        if let Some(text) = self.given.get(name).filter(|text| !text.trim().is_empty()) {
            return Some(SecretSource::Given(Secret::new(text.trim())));
        }
        let vault = Arc::clone(self.vault.as_ref()?);
        Some(SecretSource::Kept { vault, name: name.to_ascii_lowercase().replace('_', "-") })
    }
}

struct Reading {
    parts: Parts,
    /// The login host's, for encrypted notifications.
    keys: Keys<Keyset>,
    last: tokio::sync::Mutex<Option<Last>>,
}

/// What was read last.
struct Last {
    at: Duration,
    text: Option<String>,
    key: Option<String>,
    asked: Arc<Asked>,
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reading").field("document", &self.parts.document).finish_non_exhaustive()
    }
}

impl Playbooks {
    /// For who has put together by himself what they ask for.
    #[must_use]
    pub fn given(asked: Asked) -> Self {
        Self(Source::Given(Arc::new(asked)))
    }

    pub(super) fn read(parts: Parts) -> Self {
        let login = parts.settings.login.clone();
        let keys = Keys::new(parts.client.clone(), Arc::clone(&parts.clock), login, Keyset::parse);
        Self(Source::Read(Arc::new(Reading { parts, keys, last: tokio::sync::Mutex::default() })))
    }

    /// What they ask for now.
    ///
    /// # Errors
    /// One line: the document cannot be read, and never could be in this process.
    pub async fn asked(&self) -> Result<Arc<Asked>, String> {
        match &self.0 {
            Source::Given(asked) => Ok(Arc::clone(asked)),
            Source::Read(reading) => reading.asked().await,
        }
    }

    /// What dispatch asks of the rest.
    #[must_use]
    pub(super) fn hooks(&self, keys: &KeyRing) -> Hooks {
        let (plans, lifecycle, open, keys) = (self.clone(), self.clone(), self.clone(), keys.clone());
        Hooks {
            plans: Arc::new(move || {
                let playbooks = plans.clone();
                Box::pin(async move {
                    let asked = playbooks.asked().await?;
                    // Without a document nobody can say that an item is nobody's: it waits.
                    let none = asked.document.is_empty() && asked.plans.is_empty();
                    if none { Err(asked.why_not.clone()) } else { Ok(Arc::clone(&asked.plans)) }
                })
            }),
            prove: Arc::new(move |text| {
                let keys = keys.clone();
                Box::pin(async move { prove(&keys, text.as_deref()).await })
            }),
            lifecycle: Arc::new(move |_, item| {
                let playbooks = lifecycle.clone();
                Box::pin(async move { playbooks.lifecycle(&item).await })
            }),
            open: Arc::new(move |item| {
                let playbooks = open.clone();
                Box::pin(async move { playbooks.open(item).await })
            }),
        }
    }

    async fn lifecycle(&self, item: &Item) -> Result<(), String> {
        let asked = self.asked().await?;
        let Some(subscribing) = &asked.subscribing else { return Err(asked.why_not.clone()) };
        match subscribing.reconciler.lifecycle(item).await {
            Ok(Answered::Done(_)) => Ok(()),
            Ok(Answered::Later(_)) => Err("nobody knows the subscription yet".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Remembers that a subscription is alive.
    pub(crate) async fn heard(&self, subscription: &str) {
        let Ok(asked) = self.asked().await else { return };
        if let Some(subscribing) = &asked.subscribing
            && let Err(error) = subscribing.reconciler.heard(subscription).await
        {
            tracing::debug!("{error}");
        }
    }

    async fn open(&self, item: Item) -> Result<Value, Sealed> {
        let later = |cause: String| Sealed { cause, transient: true };
        let Source::Read(reading) = &self.0 else { return Err(later("nobody here opens encrypted notifications".to_owned())) };
        let asked = reading.asked().await.map_err(later)?;
        let mut keys = reading.keys.current().await.map_err(|error| later(error.to_string()))?;
        let mut opened = reading.try_open(&item, &keys, &asked).await;
        if opened == Err(RichError::Token(TokenError::UnknownKey)) {
            keys = reading.keys.anew(&keys).await.map_err(|error| later(error.to_string()))?;
            opened = reading.try_open(&item, &keys, &asked).await;
        }
        opened.map_err(|error| Sealed {
            cause: error.to_string(),
            // A new key may not be published yet; a certificate may be on its way.
            transient: matches!(error, RichError::Token(TokenError::UnknownKey) | RichError::Open(OpenError::UnknownCertificate)),
        })
    }
}

/// The group that a client state proves.
async fn prove(keys: &KeyRing, text: Option<&str>) -> Result<Option<String>, String> {
    let known = keys.keys().await.ok_or("the key of client states cannot be had: see the vault, or CLIENT_STATE_KEY")?;
    let group = |verdict| match verdict {
        Verdict::Good { group, .. } => Some(group),
        Verdict::Wrong => None,
    };
    if let Some(group) = group(client_state::check(&known, text)) {
        return Ok(Some(group));
    }
    match keys.other_than(&known).await {
        Some(other) => Ok(group(client_state::check(&other, text))),
        None => Ok(None),
    }
}

impl Reading {
    async fn asked(&self) -> Result<Arc<Asked>, String> {
        let mut last = self.last.lock().await;
        let now = self.parts.clock.monotonic();
        if let Some(last) = last.as_ref().filter(|last| now.saturating_sub(last.at) < LOOKED_AT_EVERY) {
            return Ok(Arc::clone(&last.asked));
        }
        let keys = self.parts.client_state_keys.keys().await;
        let key = keys.as_ref().map(|keys| fingerprint(&keys.current));
        let text = match self.parts.document.read().await {
            Ok(text) => text,
            Err(error) => {
                let Some(last) = last.as_mut() else { return Err(error.to_string()) };
                tracing::warn!("{error}; the playbooks are as they were");
                last.at = now;
                return Ok(Arc::clone(&last.asked));
            }
        };
        if let Some(last) = last.as_mut().filter(|last| last.text == text && last.key == key) {
            last.at = now;
            return Ok(Arc::clone(&last.asked));
        }
        let asked = Arc::new(self.put_together(text.as_deref(), keys).await);
        tell(&asked);
        *last = Some(Last { at: now, text, key, asked: Arc::clone(&asked) });
        Ok(asked)
    }

    async fn put_together(&self, text: Option<&str>, keys: Option<Arc<client_state::Keys>>) -> Asked {
        let parts = &self.parts;
        let document = parts.document.name().to_owned();
        let Some(text) = text else {
            let why_not = format!("there is no playbook: `{document}` does not exist; write it, or set PLAYBOOKS_FILE");
            return Asked { why_not, ..Asked::default() };
        };
        let secrets = parts.secrets.clone();
        let loaded = playbooks::load(text, &move |name| secrets.find(name).is_some());
        let (certificates, wrong) = self.certificates().await;
        for problem in wrong {
            tracing::error!("{problem}");
        }
        let (subscribing, why_not) = match self.subscribing(&loaded, &certificates, keys) {
            Ok(subscribing) => (Some(subscribing), String::new()),
            Err(why_not) => (None, why_not),
        };
        Asked {
            check: loaded.check(&document),
            document,
            playbooks: loaded.playbooks.len(),
            subscribing,
            why_not,
            poller: Some(self.poller(&loaded)),
            plans: loaded.playbooks.into_iter().map(Plan::of).collect(),
            problems: loaded.problems,
            certificates: Arc::new(certificates),
        }
    }

    /// Those of `ENCRYPTION_CERTIFICATES`, and what is wrong with some.
    async fn certificates(&self) -> (Certificates, Vec<String>) {
        let names = &self.parts.settings.encryption_certificates;
        let read = join_all(names.iter().map(|name| async move {
            match &self.parts.secrets.vault {
                Some(vault) => {
                    let secret = vault.secret(name).await.map_err(|error| error.message)?;
                    Ok(secret.expose().as_bytes().to_vec())
                }
                None => tokio::fs::read(name).await.map_err(|error| error.to_string()),
            }
        }));
        let read: Vec<Result<Vec<u8>, String>> = read.await;
        // A file is known by its name without folder and ending.
        let label = |name: &String| name.rsplit('/').next().unwrap_or_default().split('.').next().unwrap_or_default().to_owned();
        let labels: Vec<String> = names.iter().map(label).collect();
        Certificates::collect(labels.iter().map(String::as_str).zip(read))
    }

    fn subscribing(
        &self,
        loaded: &Loaded,
        certificates: &Certificates,
        keys: Option<Arc<client_state::Keys>>,
    ) -> Result<Subscribing, String> {
        let parts = &self.parts;
        let public_url = parts.settings.public_url.clone().ok_or(
            "PUBLIC_URL is not set: give the address under which Microsoft Graph reaches this app, such as https://func-example.azurewebsites.net",
        )?;
        let keys = keys.ok_or("the key of client states cannot be had: see the vault, or CLIENT_STATE_KEY")?;
        let config = Config {
            public_url,
            tenant: parts.settings.token_tenants.first().cloned().unwrap_or_default(),
            certificate: certificates.newest().map(|(label, public)| (label.to_owned(), public.to_owned())),
            catch_up_every: CATCH_UP_EVERY,
        };
        let (making, checking) = (Arc::clone(&keys), Arc::clone(&keys));
        let states = States {
            key: fingerprint(&keys.current),
            make: Box::new(move |group| client_state::make(&making, group, *uuid::Uuid::new_v4().as_bytes())),
            check: Box::new(move |text| match client_state::check(&checking, Some(text)) {
                Verdict::Good { group, current } => Some((group, current)),
                Verdict::Wrong => None,
            }),
        };
        let (url, bearer) = (parts.settings.graph.0.clone(), Arc::clone(&parts.bearer));
        let graph = Graph::new(GraphConfig { url }, parts.client.clone(), Arc::clone(&parts.clock), bearer, &Graph::lanes());
        let (store, client, clock) = (Arc::clone(&parts.state), parts.client.clone(), Arc::clone(&parts.clock));
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Ok(Subscribing {
            reconciler: Reconciler::new(store, graph, client, clock, (config, states), random),
            wanted: Playbook::wanted(&loaded.playbooks),
            complete: !loaded.has_errors(),
        })
    }

    fn poller(&self, loaded: &Loaded) -> Poller {
        let parts = &self.parts;
        let mut sources: Vec<polling::Source> = Vec::new();
        let polled = |playbook: &&Playbook| playbook.enabled && playbook.source.kind == SourceKind::Poll;
        for playbook in loaded.playbooks.iter().filter(polled) {
            let urgent = playbook.priority == Priority::Urgent;
            let group = Some(format!("n{}", playbook.group));
            if let Some(known) = sources.iter_mut().find(|source| source.group == group) {
                known.urgent |= urgent;
                continue;
            }
            let tenant = parts.settings.token_tenants.first().cloned();
            sources.push(polling::Source { resource: playbook.source.resource.clone(), tenant, group, urgent });
        }
        let (state, queue) = (Arc::clone(&parts.state), Arc::clone(&parts.queue));
        let (http, base) = parts.reading();
        Poller::new(http, base, state, queue, Arc::clone(&parts.clock), sources)
    }

    async fn try_open(&self, item: &Item, keys: &Arc<Keyset>, asked: &Asked) -> Result<Value, RichError> {
        let (item, keys, certificates) = (item.clone(), Arc::clone(keys), Arc::clone(&asked.certificates));
        let (audiences, tenants) = (self.parts.settings.token_audiences.clone(), self.parts.settings.token_tenants.clone());
        // Milliseconds of arithmetic.
        let opening = tokio::task::spawn_blocking(move || open_item(&item, &keys, &certificates, &audiences, &tenants)).await;
        opening.unwrap_or_else(|bug| std::panic::resume_unwind(bug.into_panic()))
    }
}

impl Parts {
    /// Reads from Microsoft Graph as the first job's app, and the address below which it reads.
    pub(super) fn reading(&self) -> (Http, Url) {
        let mut base = self.settings.graph.0.clone();
        base.set_path(&format!("{}/v1.0", base.path().trim_end_matches('/')));
        let (client, clock) = (self.client.clone(), Arc::clone(&self.clock));
        (Http::new("Microsoft Graph", client, clock, base.clone(), Arc::clone(&self.bearer)), base)
    }
}

/// Changes with the key, and tells nothing of it.
fn fingerprint(key: &Secret) -> String {
    let hash = digest(&SHA256, key.expose().as_bytes());
    hash.as_ref()[..8].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn tell(asked: &Asked) {
    let document = &asked.document;
    for problem in &asked.problems {
        tracing::warn!("{document}:{problem}");
    }
    if !document.is_empty() {
        tracing::info!(playbooks = asked.playbooks, "read the playbooks of {document}");
    }
}
