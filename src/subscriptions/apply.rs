//! A run of the reconciler: list once, plan, do it step by step. Each step is stored with what it did; what is unknown stays an
//! intent, and the next list resolves it.

mod way;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use super::lease::Lease;
use super::plan::{self, Change, Ours, Situation, Unwanted, tombstone};
use super::renewal::{Touch, Touched};
use super::rows::{Book, Held, Intent, Named, Problem, Reason, Resync, delete, held_key, keyed, minutes_between, put, resync};
use super::standing::{self, Count, Standing};
use super::sweep::leftovers;
use super::{Reconciler, SubscriptionError, limits, probe};
use crate::graph::{GraphError, NewSubscription, Subscription, Trouble, end_of_life};
use crate::notifications::wanted::Wanted;
use crate::platform::secret::Secret;
use crate::storage::Write;
use way::Way;

/// Between two tries to make one: at first, and where somebody has to change something.
const RESTS: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3_600));
/// One step, and what became of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// `created`, `renewed`, …
    pub what: &'static str,
    pub id: Option<String>,
    pub resource: String,
    pub why: String,
    /// One line with its remedy, where it failed.
    pub error: Option<String>,
}

/// What a run did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    pub done: Vec<Done>,
    /// What keeps all that is missing from being made.
    pub error: Option<String>,
    /// That does not pass by itself.
    pub lasting: bool,
    /// Graph asked to be left alone until then.
    pub paused_until: Option<Timestamp>,
    pub standing: Vec<Standing>,
    pub count: Count,
    /// What is to be looked up, from this run.
    pub resyncs: Vec<Resync>,
}

impl Report {
    fn standing(self, book: &Book, wanted: &[Wanted], now: Timestamp) -> Self {
        Self { standing: standing::of(book, wanted, now), count: standing::count(book, wanted, now), ..self }
    }
}

struct Run<'a> {
    reconciler: &'a Reconciler,
    lease: Lease,
    book: Book,
    listed: Vec<Subscription>,
    ours: Ours,
    report: Report,
    /// Ids of those that new ones replace in this run.
    replaced: BTreeSet<String>,
    /// Answers to our own handshakes, by address.
    probed: BTreeMap<String, Result<(), String>>,
}

impl Reconciler {
    /// Makes the actual equal to the desired. `eager`: a person asks, and what failed is tried again now.
    ///
    /// # Errors
    /// [`SubscriptionError::Busy`] where another instance does it; what could not be done is in the report.
    pub async fn run(&self, wanted: &[Wanted], unwanted: Unwanted, eager: bool) -> Result<Report, SubscriptionError> {
        let lease = Lease::take(&self.rows, &self.clock, (self.random)()).await?;
        let book = self.rows.load().await?;
        let wanted = self.desired(wanted, unwanted, &book);
        if let Some(until) = lease.paused_until() {
            lease.release().await?;
            let report = Report { paused_until: Some(until), ..Report::default() };
            return Ok(report.standing(&book, &wanted, self.clock.now()));
        }
        let mut run = Run {
            reconciler: self,
            lease,
            book,
            listed: Vec::new(),
            ours: self.ours(),
            report: Report::default(),
            replaced: BTreeSet::new(),
            probed: BTreeMap::new(),
        };
        let worked = run.work(&wanted, unwanted, eager).await;
        let Run { lease, mut report, .. } = run;
        report.paused_until = lease.paused_until();
        let released = lease.release().await;
        worked.and(released)?;
        Ok(report.standing(&self.rows.load().await?, &wanted, self.clock.now()))
    }
}

impl Reconciler {
    /// Makes anew what is gone, without waiting for the next run; that one does it if this one cannot.
    pub(super) async fn make_anew(&self, wanted: &Wanted) -> Result<(), SubscriptionError> {
        let lease = match Lease::take(&self.rows, &self.clock, (self.random)()).await {
            Err(SubscriptionError::Busy { .. }) => return Ok(()),
            taken => taken?,
        };
        let book = self.rows.load().await?;
        let there = book.held.values().any(|held| held.group == wanted.group());
        if there || lease.paused_until().is_some() {
            return lease.release().await;
        }
        let (listed, report, probed) = (Vec::new(), Report::default(), BTreeMap::new());
        let (ours, replaced) = (self.ours(), BTreeSet::new());
        let mut run = Run { reconciler: self, lease, book, listed, ours, report, replaced, probed };
        let minutes = limits::requested(wanted, &run.book.limits);
        let made = run.create(wanted, minutes, None, "the last one is gone").await;
        let released = run.lease.release().await;
        made.and(released)
    }
}

/// The row that remembers what Graph allows.
pub(super) fn limit(wanted: &Wanted, minutes: u32) -> Write {
    let name = limits::kind(wanted);
    put(keyed('m', &name), &Named { name, value: minutes })
}

impl Run<'_> {
    async fn work(&mut self, wanted: &[Wanted], unwanted: Unwanted, eager: bool) -> Result<(), SubscriptionError> {
        let listed = match self.reconciler.graph.list().await {
            Ok(listed) => Some(listed),
            Err(error) => {
                self.heed(&error);
                self.report.error = Some(error.to_string());
                self.report.lasting = !error.trouble.passes();
                None
            }
        };
        self.see(listed.as_deref(), wanted).await?;
        let now = self.reconciler.clock.now();
        let situation = Situation { wanted, listed: listed.as_deref(), book: &self.book, ours: &self.ours, unwanted, eager, now };
        let changes = plan::plan(&situation);
        self.listed = listed.unwrap_or_default();
        let replaced = |change: &Change| if let Change::Create { instead, .. } = change { instead.clone() } else { None };
        self.replaced = changes.iter().filter_map(replaced).collect();
        for change in changes {
            // The rest comes with the next run.
            if self.lease.paused_until().is_some() {
                break;
            }
            self.apply(change).await?;
        }
        let left = leftovers(&self.book, wanted, self.reconciler.clock.now());
        if left.is_empty() { Ok(()) } else { self.lease.commit(left).await }
    }

    /// Takes over what Graph tells of ours, and what playbooks say of themselves.
    async fn see(&mut self, listed: Option<&[Subscription]>, wanted: &[Wanted]) -> Result<(), SubscriptionError> {
        let ids: Vec<String> = self.book.held.keys().cloned().collect();
        for id in ids {
            let told = listed.and_then(|listed| listed.iter().find(|listed| listed.id == id));
            let change =
                |held: &mut Held| told.is_some_and(|told| held.see(told)) | wanted.iter().any(|wanted| adopt_words(held, wanted));
            let Some(held) = self.book.held.get_mut(&id) else { continue };
            if change(held) {
                self.reconciler.rows.amend(&id, |held| _ = change(held)).await?;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, change: Change) -> Result<(), SubscriptionError> {
        match change {
            Change::Forget { id, resource, why } => {
                if let Some(held) = self.book.held.remove(&id) {
                    let asked = self.reconciler.bury(&held, Reason::Removed).await?;
                    self.report.resyncs.push(asked);
                    self.book.tombstones.insert(id.clone(), tombstone(&held, self.reconciler.clock.now()));
                }
                self.tell("forgotten", Some(id), &resource, why, None);
                Ok(())
            }
            Change::Renew { id, resource, minutes, why } => self.touch(id, resource, Touch::Renew { minutes }, why).await,
            Change::Reauthorize { id, resource, why } => self.touch(id, resource, Touch::Reauthorize, why).await,
            Change::Adopt { id, wanted, proven, why } => self.adopt(&id, &wanted, proven, why).await,
            Change::Create { wanted, minutes, instead, why } => self.create(&wanted, minutes, instead.as_deref(), why).await,
            Change::Delete { id, resource, after, why } => {
                let ready = after.is_none_or(|group| self.book.held.values().any(|held| held.group == group));
                if ready { self.delete(&id, &resource, why).await.map(drop) } else { Ok(()) }
            }
            Change::Wait { resource, why, .. } => {
                self.tell("waits", None, &resource, &why, None);
                Ok(())
            }
        }
    }

    async fn touch(&mut self, id: String, resource: String, touch: Touch, why: &str) -> Result<(), SubscriptionError> {
        let what = if touch == Touch::Reauthorize { "reauthorized" } else { "renewed" };
        if let Touch::Renew { .. } = touch
            && let Some(held) = self.book.held.get(&id)
            && held.url != self.ours.url_of(&held.wanted)
            && let Err(error) = self.probe(&self.ours.url_of(&held.wanted)).await
        {
            self.tell(what, Some(id), &resource, why, Some(error));
            return Ok(());
        }
        match self.reconciler.touch(&id, touch).await? {
            Touched::Done(held) => {
                self.book.held.insert(id.clone(), *held);
                self.tell(what, Some(id), &resource, why, None);
            }
            Touched::Gone(asked) => {
                self.report.resyncs.push(asked);
                self.tell("forgotten", Some(id.clone()), &resource, "Graph says that it is gone", None);
                // What replaces it comes in this run anyway.
                let held = self.book.held.remove(&id).filter(|_| !self.replaced.contains(&id));
                if let Some(held) = held {
                    let minutes = limits::requested(&held.wanted, &self.book.limits);
                    self.create(&held.wanted, minutes, None, "the last one is gone").await?;
                }
            }
            Touched::Failed(error) => {
                self.heed(&error);
                self.tell(what, Some(id), &resource, why, Some(error.to_string()));
            }
            Touched::TooSoon | Touched::Unknown => {}
        }
        Ok(())
    }

    /// Takes over one that is ours; one with a client state that will not do is replaced.
    async fn adopt(&mut self, id: &str, wanted: &Wanted, proven: bool, why: &str) -> Result<(), SubscriptionError> {
        let listed = self.listed.iter().find(|listed| listed.id == id).cloned();
        match (listed, proven) {
            (Some(listed), true) => self.keep(&listed, wanted, why).await,
            _ => match self.make_way(wanted, Some(id), None).await? {
                Way::Adopted => Ok(()),
                Way::Cleared => {
                    let minutes = limits::requested(wanted, &self.book.limits);
                    self.create(wanted, minutes, None, "its client state is not ours").await
                }
                Way::Blocked(error) => {
                    self.tell("adopted", Some(id.to_owned()), &wanted.resource, why, Some(error));
                    Ok(())
                }
            },
        }
    }

    /// Makes one: looks at our own address, writes the intent, asks Graph, stores what it says.
    async fn create(
        &mut self,
        wanted: &Wanted,
        mut minutes: u32,
        instead: Option<&str>,
        why: &str,
    ) -> Result<(), SubscriptionError> {
        let group = wanted.group();
        for url in BTreeSet::from([self.ours.url_of(wanted), self.ours.url.clone()]) {
            if let Err(error) = self.probe(&url).await {
                // Nothing was asked of Graph: the next run looks again.
                self.report.error.get_or_insert_with(|| error.clone());
                return self.fail(wanted, &group, probe_failure(error), why).await;
            }
        }
        let (mut shortened, mut cleared) = (false, false);
        loop {
            let now = self.reconciler.clock.now();
            let state = (self.reconciler.states.make)(&group);
            self.intend(wanted, &group, &state, minutes, now).await?;
            let new = NewSubscription {
                resource: wanted.resource.clone(),
                change_type: wanted.change_type(),
                notification_url: self.ours.url_of(wanted),
                lifecycle_url: self.ours.lifecycle_url_of(wanted),
                expires: end_of_life(now, minutes),
                client_state: Secret::new(&state),
                certificate: self.reconciler.certificate_for(wanted),
            };
            let error = match self.reconciler.graph.create(&new).await {
                Ok(made) => {
                    self.keep(&made, wanted, why).await?;
                    if let Some(old) = instead.filter(|old| self.book.held.contains_key(*old)) {
                        self.delete(old, &wanted.resource, "another one takes its place").await?;
                    }
                    return Ok(());
                }
                Err(error) => error,
            };
            match &error.trouble {
                Trouble::TooFar(most) if !shortened => {
                    shortened = true;
                    self.lease.commit(vec![limit(wanted, *most)]).await?;
                    self.book.limits.insert(limits::kind(wanted), *most);
                    minutes = limits::requested(wanted, &self.book.limits);
                }
                Trouble::Exists(id) if !cleared => {
                    cleared = true;
                    match self.make_way(wanted, id.as_deref(), instead).await? {
                        Way::Adopted => return Ok(()),
                        Way::Cleared => {}
                        Way::Blocked(text) => {
                            return self.fail(wanted, &group, GraphError { said: Some(text), ..error }, why).await;
                        }
                    }
                }
                // Chats and presences have room for one only, and say so in other words.
                Trouble::Quota if !cleared && instead.is_some() => {
                    cleared = true;
                    let old = instead.unwrap_or_default().to_owned();
                    self.delete(&old, &wanted.resource, "there is no room for two").await?;
                }
                _ => return self.fail(wanted, &group, error, why).await,
            }
        }
    }

    async fn intend(
        &mut self,
        wanted: &Wanted,
        group: &str,
        state: &str,
        minutes: u32,
        at: Timestamp,
    ) -> Result<(), SubscriptionError> {
        let intent = Intent {
            group: group.to_owned(),
            wanted: wanted.clone(),
            url: self.ours.url_of(wanted),
            lifecycle_url: self.ours.lifecycle_url_of(wanted),
            key: self.ours.key.clone(),
            certificate: self.reconciler.certificate_for(wanted).map(|(label, _)| label),
            state: state.rsplit_once('.').map_or_else(String::new, |(state, _)| state.to_owned()),
            minutes,
            at,
        };
        self.lease.commit(vec![put(keyed('i', group), &intent)]).await?;
        self.book.intents.insert(group.to_owned(), intent);
        Ok(())
    }

    /// It is there, and ours: row, no intent, no problem, and a request to look up what it may have missed; all at once.
    async fn keep(&mut self, made: &Subscription, wanted: &Wanted, why: &str) -> Result<(), SubscriptionError> {
        let (now, group) = (self.reconciler.clock.now(), wanted.group());
        let intent = self.book.intents.remove(&group);
        let held = Held {
            id: made.id.clone(),
            group: group.clone(),
            wanted: wanted.clone(),
            // As we asked for it, where we did: Graph may write it otherwise.
            url: intent.as_ref().map_or_else(|| made.notification_url.clone(), |intent| intent.url.clone()),
            lifecycle_url: intent.as_ref().map_or_else(|| made.lifecycle_url.clone(), |intent| intent.lifecycle_url.clone()),
            key: self.ours.key.clone(),
            certificate: made.certificate.clone().or_else(|| intent.as_ref().and_then(|intent| intent.certificate.clone())),
            created: now,
            expires: made.expires,
            granted_minutes: minutes_between(now, made.expires),
            renewed: now,
            touched: None,
            reauthorized: None,
            challenged: false,
            problem: None,
        };
        let since = self.book.covered(&group, intent.map_or(now, |intent| intent.at));
        let asked = Resync { group: group.clone(), resource: wanted.resource.clone(), since, reason: Reason::Created };
        let writes =
            vec![put(held_key(&held.id), &held), delete(keyed('i', &group)), delete(keyed('f', &group)), resync(&asked, now)];
        self.lease.commit(writes).await?;
        self.book.problems.remove(&group);
        self.book.held.insert(held.id.clone(), held);
        self.report.resyncs.push(asked);
        self.tell("created", Some(made.id.clone()), &wanted.resource, why, None);
        Ok(())
    }

    /// False where Graph did not do it.
    async fn delete(&mut self, id: &str, resource: &str, why: &str) -> Result<bool, SubscriptionError> {
        if let Err(error) = self.reconciler.graph.delete(id).await {
            self.heed(&error);
            self.tell("deleted", Some(id.to_owned()), resource, why, Some(error.to_string()));
            return Ok(false);
        }
        if let Some(held) = self.book.held.remove(id) {
            let tombstone = tombstone(&held, self.reconciler.clock.now());
            self.lease.commit(vec![delete(held_key(id)), put(keyed('t', id), &tombstone)]).await?;
            self.book.tombstones.insert(id.to_owned(), tombstone);
        }
        self.tell("deleted", Some(id.to_owned()), resource, why, None);
        Ok(true)
    }

    /// Nothing was made, or nobody knows: then the intent stays, and the next list tells.
    async fn fail(&mut self, wanted: &Wanted, group: &str, error: GraphError, why: &str) -> Result<(), SubscriptionError> {
        self.heed(&error);
        let before = self.book.problems.get(group);
        let now = self.reconciler.clock.now();
        let problem = Problem { url: self.ours.url_of(wanted), ..Problem::again(before, &error, now, RESTS) };
        let mut writes = vec![put(keyed('f', group), &problem)];
        if !error.unknown {
            writes.push(delete(keyed('i', group)));
            self.book.intents.remove(group);
        }
        self.lease.commit(writes).await?;
        self.book.problems.insert(group.to_owned(), problem);
        self.tell("created", None, &wanted.resource, why, Some(error.to_string()));
        Ok(())
    }

    async fn probe(&mut self, url: &str) -> Result<(), String> {
        if let Some(known) = self.probed.get(url) {
            return known.clone();
        }
        let reconciler = self.reconciler;
        let found = probe::probe(&reconciler.client, &reconciler.clock, url, &(reconciler.random)()).await;
        self.probed.insert(url.to_owned(), found.clone());
        found
    }

    /// A longer pause than one call waits for is kept by all.
    fn heed(&mut self, error: &GraphError) {
        if let Some(wait) = error.retry_after.filter(|_| error.trouble == Trouble::Throttled) {
            self.lease.pause(wait);
        }
    }

    fn tell(&mut self, what: &'static str, id: Option<String>, resource: &str, why: &str, error: Option<String>) {
        self.report.done.push(Done { what, id, resource: resource.to_owned(), why: why.to_owned(), error });
    }
}

/// What playbooks say that needs no new subscription: names, life, profile. True if something differs.
fn adopt_words(held: &mut Held, wanted: &Wanted) -> bool {
    if held.group != wanted.group() || held.wanted == *wanted {
        return false;
    }
    held.wanted = wanted.clone();
    true
}

/// Nothing was asked of Graph.
fn probe_failure(text: String) -> GraphError {
    GraphError {
        operation: "create a subscription",
        trouble: Trouble::OwnAddress,
        said: Some(text),
        retry_after: None,
        request_id: None,
        unknown: false,
    }
}
