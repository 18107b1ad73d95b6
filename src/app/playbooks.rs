//! What playbooks ask for, as their document has it now: subscriptions, polls, and what is done about each notification.
//!
//! The document is looked at again each minute, and before it keeps an item from a playbook, so that playbooks change without a
//! deployment or a restart. Holds no decisions: it puts together what other rooms decide.

mod hooks;
pub mod reach;

use std::fmt;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use jiff::Timestamp;
use serde_json::Value;
use url::Url;

use super::secrets::Secrets;

use crate::dispatch::Plan;
use crate::graph::keys::Keys;
use crate::graph::{Config as GraphConfig, Graph};
use crate::notifications::client_state::{self, Verdict};
use crate::notifications::item::Item;
use crate::notifications::keys::KeyRing;
use crate::notifications::rich::certificates::{self, Certificates};
use crate::notifications::rich::decrypt::OpenError;
use crate::notifications::rich::tokens::Keyset;
use crate::notifications::rich::{RichError, open_item};
use crate::notifications::wanted::Wanted;
use crate::platform::clock::Clock;
use crate::platform::hex;
use crate::platform::http::{Authorize, Http};
use crate::platform::secret::Secret;
use crate::playbooks::{self, Loaded, Playbook, Priority, Problem, Severity, SourceKind, Together};
use crate::polling::{self, Poller};
use crate::settings::Notifications;
use crate::storage::document::Document;
use crate::storage::{Queue, StateStore};
use crate::subscriptions::{Config, Reconciler, States};

/// How long what was read is taken for the present.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(60);
/// The same where the document may have changed since: somebody unknown comes, or an item was set aside because of it, or would be.
const AT_ONCE: Duration = Duration::from_secs(2);
/// Sets of certificates that are kept after others took their place.
const EARLIER: usize = 4;
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
    /// Why every encrypted notification will be refused, one line each.
    pub unproven: Vec<String>,
    /// Why encryption certificates cannot be used, or that there is none and one is needed, one line each.
    pub unusable: Vec<String>,
    /// Why some of them are left out, one line each.
    pub mistakes: Vec<String>,
    /// Lines for `check`, and whether all is well with the document.
    pub check: (Vec<String>, bool),
    pub subscribing: Option<Subscribing>,
    /// Why there is nothing to subscribe with or to, one line.
    pub why_not: String,
    /// Somebody says where it is, and it is not there: one line.
    pub missing: Option<String>,
    /// What playbooks want to be subscribed to, whether that can be done or not.
    pub wanted: Vec<Wanted>,
    pub poller: Option<Poller>,
    pub plans: Arc<[Plan]>,
    /// An item of another group than theirs is of a subscription that is gone, or just made.
    pub together: Arc<Together>,
    pub certificates: Arc<Certificates>,
}

impl Asked {
    /// The certificate of encrypted notifications, if somebody wants such and it ends soon: its label, the whole days
    /// that are left, and what to do.
    #[must_use]
    pub fn ending(&self, now: Timestamp) -> Option<(&str, i64, String)> {
        let rich = self.wanted.iter().any(|wanted| wanted.rich);
        let (label, days) = self.certificates.ending(now).filter(|_| rich)?;
        let remedy = "make a new one, and list it first in ENCRYPTION_CERTIFICATES";
        Some((label, days, format!("the certificate `{label}` ends in {days} days; {remedy}")))
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
    /// Its tenant is the one that notifications are of.
    pub(super) first_job: String,
    pub(super) document: Arc<Document>,
    pub(super) state: Arc<dyn StateStore>,
    pub(super) queue: Arc<dyn Queue>,
    pub(super) client: reqwest::Client,
    pub(super) clock: Arc<dyn Clock>,
    /// Signs in to Microsoft Graph.
    pub(super) bearer: Arc<dyn Authorize>,
    pub(super) client_state_keys: KeyRing,
    pub(super) secrets: Secrets,
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
    read: Read,
    asked: Arc<Asked>,
    /// Those of before: what is under way may be encrypted for one of them.
    earlier: Vec<Arc<Certificates>>,
}

/// All that what playbooks ask for is made of.
#[derive(PartialEq)]
struct Read {
    text: Option<String>,
    /// A fingerprint of the key of client states.
    key: Option<String>,
    certificates: Vec<Result<Vec<u8>, String>>,
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
        self.asked_within(LOOKED_AT_EVERY).await
    }

    async fn asked_within(&self, fresh: Duration) -> Result<Arc<Asked>, String> {
        match &self.0 {
            Source::Given(asked) => Ok(Arc::clone(asked)),
            Source::Read(reading) => reading.asked(fresh).await,
        }
    }

    /// A notification of a group that nobody knows may be the first of a subscription that was just made: the document is looked at
    /// again, so that the playbook that wanted it is there.
    pub(crate) async fn meet(&self, group: &str) {
        let Ok(asked) = self.asked().await else { return };
        if !group.get(1..).is_some_and(|digits| asked.together.groups.contains(digits)) {
            drop(self.asked_within(AT_ONCE).await);
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
}

impl Reading {
    /// `fresh`: what was read longer ago is not taken for the present.
    async fn asked(&self, fresh: Duration) -> Result<Arc<Asked>, String> {
        let mut last = self.last.lock().await;
        let now = self.parts.clock.monotonic();
        if let Some(last) = last.as_ref().filter(|last| now.saturating_sub(last.at) < fresh) {
            return Ok(Arc::clone(&last.asked));
        }
        let keys = self.parts.client_state_keys.keys_at_leisure().await;
        let text = match self.parts.document.read().await {
            Ok(text) => text,
            Err(error) => {
                let error = format!("the playbooks file {error}");
                let Some(last) = last.as_mut() else { return Err(error) };
                tracing::warn!("{error}; the playbooks are as they were");
                last.at = now;
                return Ok(Arc::clone(&last.asked));
            }
        };
        let key = keys.as_ref().map(|keys| fingerprint(&keys.current));
        let read = Read { text, key, certificates: self.certificates().await };
        if let Some(last) = last.as_mut().filter(|last| last.read == read) {
            last.at = now;
            return Ok(Arc::clone(&last.asked));
        }
        let (certificates, unusable) = self.named(&read.certificates);
        let asked = Arc::new(self.put_together(read.text.as_deref(), (Arc::new(certificates), unusable), keys));
        tell(&asked);
        let mut earlier = Vec::new();
        if let Some(before) = last.take() {
            earlier = before.earlier;
            earlier.insert(0, Arc::clone(&before.asked.certificates));
            earlier.truncate(EARLIER);
        }
        *last = Some(Last { at: now, read, asked: Arc::clone(&asked), earlier });
        Ok(asked)
    }

    fn put_together(
        &self,
        text: Option<&str>,
        (certificates, mut unusable): (Arc<Certificates>, Vec<String>),
        keys: Option<Arc<client_state::Keys>>,
    ) -> Asked {
        let parts = &self.parts;
        let document = parts.document.name().to_owned();
        let Some(text) = text else {
            let why_not = format!("there is no playbook: `{document}` does not exist; write it, or set PLAYBOOKS_FILE");
            let missing = format!("PLAYBOOKS_FILE is `{document}`, which does not exist: write it, or mend the setting");
            let missing = Some(missing).filter(|_| parts.settings.playbooks_given);
            return Asked { why_not: missing.clone().unwrap_or(why_not), missing, unusable, ..Asked::default() };
        };
        let mut loaded = playbooks::load_knowing(text, &|name| parts.secrets.known(name));
        let mut check = loaded.check(&document);
        let errors = loaded.problems.iter().filter(|problem| problem.severity == Severity::Error);
        let mut mistakes: Vec<String> = errors.map(|problem| format!("{document}:{problem}")).collect();
        for name in loaded.keep_tenant(&parts.first_job) {
            check.1 = false;
            let mistake = format!(
                "`{name}` names another tenant: this installation works for that of its first job, `{}`; leave `tenant` out",
                parts.first_job
            );
            check.0.push(format!("FAIL  playbooks: {mistake}"));
            mistakes.push(mistake);
        }
        let complete = mistakes.is_empty();
        let rich = rich(&loaded.playbooks);
        let unproven = unproven(rich.as_ref(), &parts.settings.unproven);
        unusable.extend(uncertified(rich.as_ref().filter(|_| parts.settings.encryption_certificates.is_empty())));
        check.1 &= unproven.is_empty() && (rich.is_none() || unusable.is_empty());
        check.0.extend(unproven.iter().map(|line| format!("FAIL  {line}")));
        let word = if rich.is_some() { "FAIL" } else { "note" };
        check.0.extend(unusable.iter().map(|line| format!("{word}  notifications: {line}")));
        check.0.extend(two_cases(&loaded.playbooks, parts.settings.token_tenants.is_empty()));
        let (subscribing, why_not) = match self.subscribing(&loaded, complete, &certificates, keys) {
            Ok(subscribing) => (Some(subscribing), String::new()),
            Err(why_not) => (None, why_not),
        };
        Asked {
            wanted: Playbook::wanted(&loaded.playbooks),
            missing: None,
            mistakes,
            check,
            playbooks: loaded.playbooks.len(),
            subscribing,
            why_not,
            poller: Some(self.poller(&loaded)),
            plans: Plan::all(&loaded, &document),
            document,
            together: loaded.together,
            problems: loaded.problems,
            unproven,
            unusable,
            certificates,
        }
    }

    /// Those of `ENCRYPTION_CERTIFICATES`, as they are kept; the vault remembers for an hour.
    async fn certificates(&self) -> Vec<Result<Vec<u8>, String>> {
        let names = &self.parts.settings.encryption_certificates;
        let read = names.iter().map(|name| async move {
            match &self.parts.secrets.vault {
                Some(vault) => {
                    let secret = vault.secret(name).await.map_err(|error| certificates::missing(name, &error.message))?;
                    Ok(secret.expose().as_bytes().to_vec())
                }
                None => tokio::fs::read(name).await.map_err(|error| certificates::missing(name, &unread(&error))),
            }
        });
        join_all(read).await
    }

    /// Those that can be used, and what is wrong with the others.
    fn named(&self, read: &[Result<Vec<u8>, String>]) -> (Certificates, Vec<String>) {
        Certificates::collect(self.parts.settings.encryption_certificates.iter().map(String::as_str).zip(read.iter().cloned()))
    }

    fn subscribing(
        &self,
        loaded: &Loaded,
        complete: bool,
        certificates: &Certificates,
        keys: Option<Arc<client_state::Keys>>,
    ) -> Result<Subscribing, String> {
        let parts = &self.parts;
        let wanted = Playbook::wanted(&loaded.playbooks);
        if wanted.is_empty() && parts.settings.public_url.is_none() {
            let none = if complete { "no playbook has" } else { "none of the playbooks that can be read has" };
            return Err(format!("{none} `kind = \"graph\"`"));
        }
        let public_url = parts.settings.public_url.clone().ok_or(
            "PUBLIC_URL is not set: give the address under which Microsoft Graph reaches this app, such as https://func-example.azurewebsites.net",
        )?;
        let keys = keys.ok_or("the key of client states cannot be had: see the vault, or CLIENT_STATE_KEY")?;
        let config = Config {
            public_url,
            tenant: parts.settings.token_tenants.first().cloned(),
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
        let graph = parts.graph();
        let (store, client, clock) = (Arc::clone(&parts.state), parts.client.clone(), Arc::clone(&parts.clock));
        let random = || uuid::Uuid::new_v4().simple().to_string();
        Ok(Subscribing { reconciler: Reconciler::new(store, graph, client, clock, (config, states), random), wanted, complete })
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
        let earlier = self.last.lock().await.as_ref().map(|last| last.earlier.clone()).unwrap_or_default();
        let sets: Vec<Arc<Certificates>> = [Arc::clone(&asked.certificates)].into_iter().chain(earlier).collect();
        let (item, keys) = (item.clone(), Arc::clone(keys));
        let (audiences, tenants) = (self.parts.settings.token_audiences.clone(), self.parts.settings.token_tenants.clone());
        // Milliseconds of arithmetic.
        let opening = tokio::task::spawn_blocking(move || {
            let mut opened = Err(RichError::Open(OpenError::UnknownCertificate));
            for certificates in &sets {
                opened = open_item(&item, &keys, certificates, &audiences, &tenants);
                if !matches!(opened, Err(RichError::Open(OpenError::UnknownCertificate))) {
                    break;
                }
            }
            opened
        });
        opening.await.unwrap_or_else(|bug| std::panic::resume_unwind(bug.into_panic()))
    }
}

impl Parts {
    fn graph(&self) -> Graph {
        let (url, bearer) = (self.settings.graph.0.clone(), Arc::clone(&self.bearer));
        Graph::new(GraphConfig { url }, self.client.clone(), Arc::clone(&self.clock), bearer, &Graph::lanes())
    }

    /// Reads from Microsoft Graph as the first job's app, and the address below which it reads.
    pub(super) fn reading(&self) -> (Http, Url) {
        let mut base = self.settings.graph.0.clone();
        base.set_path(&format!("{}/v1.0", base.path().trim_end_matches('/')));
        let (client, clock) = (self.client.clone(), Arc::clone(&self.clock));
        (Http::new("Microsoft Graph", client, clock, base.clone(), Arc::clone(&self.bearer)), base)
    }
}

/// The playbooks that wait for what comes encrypted, as a line about them begins.
fn rich(playbooks: &[Playbook]) -> Option<String> {
    let rich = playbooks.iter().filter(|playbook| playbook.enabled && playbook.source.rich);
    let names: Vec<String> = rich.map(|playbook| format!("`{}`", playbook.name)).collect();
    (!names.is_empty()).then(|| format!("{} (include_resource_data)", names.join(", ")))
}

/// Settings without which what comes encrypted cannot be proven, where a playbook waits for such.
fn unproven(rich: Option<&String>, missing: &[String]) -> Vec<String> {
    rich.iter().flat_map(|rich| missing.iter().map(move |line| format!("playbooks: {rich}: {line}"))).collect()
}

/// Nothing can be encrypted for us, and a playbook waits for such.
fn uncertified(rich: Option<&String>) -> Option<String> {
    let remedy = "set ENCRYPTION_CERTIFICATES to a certificate of the vault, or to a file with a certificate and its private key";
    rich.map(|rich| format!("{rich}: no subscription can be made without a certificate; {remedy}"))
}

/// Why a file was not read, and what to do.
fn unread(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound => "there is no such file; put it there, or mend the setting".to_owned(),
        ErrorKind::IsADirectory => "it is a folder; name the file in it".to_owned(),
        ErrorKind::PermissionDenied => "this program may not read it; give it the right to".to_owned(),
        _ => format!("it cannot be read ({error}); mend the file, or the setting"),
    }
}

/// What nobody told of and is looked up does not say its tenant, which notifications name by its id: the case of the same thing
/// would be another one.
fn two_cases(playbooks: &[Playbook], named: bool) -> Option<String> {
    let subscribed = |playbook: &&Playbook| playbook.enabled && playbook.source.kind == SourceKind::Graph;
    let name = &playbooks.iter().filter(subscribed).find(|playbook| playbook.makes_cases()).filter(|_| named)?.name;
    Some(format!(
        "note  playbooks: `{name}` makes cases: give MICROSOFT_GRAPH_TENANT_ID the tenant's id (a GUID), or what is looked up later gets a case of its own"
    ))
}

/// Changes with the key, and tells nothing of it.
fn fingerprint(key: &Secret) -> String {
    hex::digits(&digest(&SHA256, key.expose().as_bytes()).as_ref()[..8])
}

fn tell(asked: &Asked) {
    let document = &asked.document;
    for problem in &asked.problems {
        // The level of the line says which it is.
        let line = format!("{document}:{}", problem.bare());
        match problem.severity {
            Severity::Error => tracing::error!("{line}; what it stands in is left out"),
            Severity::Warning => tracing::warn!("{line}"),
        }
    }
    for line in &asked.unproven {
        tracing::error!("{line}; until then every encrypted notification is refused and set aside");
    }
    for line in &asked.unusable {
        tracing::error!("{line}");
    }
    if !asked.mistakes.is_empty() {
        tracing::warn!("{document}: some playbooks are left out until their mistakes are mended; nothing is unsubscribed from");
    }
    if !document.is_empty() {
        let playbooks = asked.playbooks;
        let count = if playbooks == 1 { "1 playbook".to_owned() } else { format!("{playbooks} playbooks") };
        let wanted: Vec<&str> = asked.wanted.iter().map(|wanted| wanted.resource.as_str()).collect();
        let wanted = if wanted.is_empty() { "none".to_owned() } else { wanted.join(", ") };
        tracing::info!(playbooks, "read {document}: {count} can run; subscriptions wanted: {wanted}");
    }
}
