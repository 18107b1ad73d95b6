//! Sending what is due: batches, limits of time, retries, and a log of it all.
//!
//! Spacing of retries is not documented beyond "exponential"; here it doubles from [`super::Notifications::first_retry`]. Not
//! imitated: chunked bodies, HTTP/2, several senders.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::hosts::{self, Speed};
use super::{Lifecycle, Notifications, Waiting, after, ahead, rich};
use crate::faults::next;
use crate::server::Shared;
use crate::world::World;

/// How long something is tried.
const TRIED: i64 = 240;
/// Minutes between two challenges in the last hour of a subscription.
const CHALLENGE: i64 = 15;

/// One try of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// When it was sent, and when it ended, by the emulator's clock.
    pub at: Timestamp,
    pub ended: Timestamp,
    pub url: String,
    /// From 1.
    pub attempt: u32,
    pub body: String,
    /// How many items the body holds.
    pub items: usize,
    /// Of the answer; none: there was none in time.
    pub status: Option<u16>,
    /// On the machine's clock, with [`super::Notifications::network`].
    pub took: Duration,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Delivered,
    /// To be tried again at this time.
    Retry(Timestamp),
    /// Four hours are over.
    Lost,
}

/// A body on its way.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    url: String,
    body: String,
    items: Vec<Waiting>,
    attempt: u32,
    since: Timestamp,
    pub due: Timestamp,
}

impl Batch {
    pub(super) fn raw(url: &str, body: &str, now: Timestamp) -> Self {
        Self { url: url.to_owned(), body: body.to_owned(), items: Vec::new(), attempt: 0, since: now, due: now }
    }

    /// Of items with one URL.
    fn of(world: &mut World, url: &str, items: Vec<Waiting>, now: Timestamp) -> Self {
        let mut values = Vec::new();
        let mut for_tokens: Vec<(String, String)> = Vec::new();
        for waiting in &items {
            let mut item = waiting.item.clone();
            let one = world.notifications.subscription(&waiting.subscription);
            if let (Some(object), Some(one)) = (&waiting.object, one) {
                let (certificate, label) = (one.certificate.as_deref(), one.certificate_id.as_deref());
                let flaw = world.notifications.content_flaw;
                let content = rich::encrypt(object, certificate.unwrap_or_default(), label.unwrap_or_default(), flaw);
                item["encryptedContent"] = content.unwrap_or_default();
                let pair = (one.tenant.clone(), one.token_app.clone().unwrap_or_else(|| one.app.clone()));
                if !for_tokens.contains(&pair) {
                    for_tokens.push(pair);
                }
            }
            if let Some(alter) = world.notifications.alter {
                alter(&mut item);
            }
            values.push(item);
        }
        let mut body = json!({ "value": values });
        if !for_tokens.is_empty() {
            let tokens = &world.notifications.tokens;
            let made = for_tokens.iter().map(|(tenant, app)| Value::from(tokens.make(tenant, app, tokens.flaw, now)));
            body["validationTokens"] = if tokens.withheld { Value::Null } else { made.collect() };
        }
        Self { body: body.to_string(), items, ..Self::raw(url, "", now) }
    }
}

/// Sends all that is due, until nothing is; what was tried.
pub(crate) async fn deliver_due(shared: &Shared) -> Vec<Delivery> {
    let mut all = Vec::new();
    loop {
        let (batches, parallel) = {
            let mut world = shared.world();
            let now = shared.time.now();
            (world.take_due(now), world.notifications.parallel.max(1))
        };
        if batches.is_empty() {
            return all;
        }
        let mut sent = futures_util::stream::iter(batches).map(|batch| send(shared, batch)).buffer_unordered(parallel);
        while let Some(delivery) = sent.next().await {
            all.push(delivery);
        }
        drop(sent);
        let now = shared.time.now();
        shared.world().notifications.hosts.values_mut().for_each(|host| host.judge(now));
    }
}

#[expect(clippy::disallowed_methods, reason = "the emulator's own request, measured by the machine's clock")]
async fn send(shared: &Shared, batch: Batch) -> Delivery {
    let limits = shared.world().notifications.limits;
    let limit = if batch.attempt == 0 { limits.first } else { limits.retry };
    let (at, begun) = (shared.time.now(), std::time::Instant::now());
    let request = shared.client.post(&batch.url).header("content-type", "application/json; charset=utf-8");
    let answer = async {
        let response = request.timeout(limit).body(batch.body.clone()).send().await?;
        let status = response.status().as_u16();
        response.bytes().await?;
        Ok::<_, reqwest::Error>(status)
    };
    let answer = answer.await;
    let timed_out = answer.as_ref().is_err_and(reqwest::Error::is_timeout);
    let mut world = shared.world();
    let took = begun.elapsed() + world.notifications.network;
    let speed = match (timed_out || took > limit, batch.attempt) {
        (false, _) => Speed::InTime,
        (true, 0) => Speed::Slow,
        (true, _) => Speed::VerySlow,
    };
    let status = answer.ok().filter(|_| speed == Speed::InTime);
    world.settle(batch, at, shared.time.now(), status, took, speed)
}

impl World {
    /// What is to be sent now; what is paused, ended or held back is left, or lost.
    fn take_due(&mut self, now: Timestamp) -> Vec<Batch> {
        self.challenge(now);
        let notifications = &mut self.notifications;
        let (mut batches, later) = notifications.batches.drain(..).partition::<Vec<_>, _>(|batch| batch.due <= now);
        notifications.batches = later;
        let (mut due, later) = notifications.waiting.drain(..).partition::<Vec<_>, _>(|waiting| waiting.due <= now);
        notifications.waiting = later;
        if notifications.shuffled {
            shuffle(&mut due, &mut notifications.dice);
        }
        let mut by_url: BTreeMap<String, Vec<Waiting>> = BTreeMap::new();
        for waiting in due {
            match self.gone(&waiting, now) {
                Some(why) => self.lose(&waiting, why, now),
                None if self.is_paused(&waiting) => self.notifications.waiting.push(waiting),
                None => by_url.entry(waiting.url.clone()).or_default().push(waiting),
            }
        }
        let size = self.notifications.batch.max(1);
        let mut room: BTreeMap<String, Option<usize>> = BTreeMap::new();
        for (url, items) in by_url {
            let host = hosts::name(&url);
            let state = self.notifications.hosts.get(&host);
            let room = room.entry(host).or_insert_with(|| state.and_then(|host| host.room(now)));
            for chunk in items.chunks(size) {
                match room {
                    Some(0) => self.notifications.waiting.extend_from_slice(chunk),
                    Some(left) => {
                        *left -= 1;
                        batches.push(Batch::of(self, &url, chunk.to_vec(), now));
                    }
                    None => batches.push(Batch::of(self, &url, chunk.to_vec(), now)),
                }
            }
        }
        self.notifications.under_way += batches.len();
        batches
    }

    /// Why an item is not sent any more.
    fn gone(&self, waiting: &Waiting, now: Timestamp) -> Option<&'static str> {
        if ahead(waiting.since, TRIED) < now {
            return Some("older than 4 h");
        }
        if waiting.lifecycle {
            return None;
        }
        let health = self.notifications.health(&hosts::name(&waiting.url));
        if matches!(health, hosts::Health::Dropping { until } if now < until) {
            return Some("dropped");
        }
        match self.notifications.subscription(&waiting.subscription) {
            None => Some("the subscription is gone"),
            Some(one) if !one.is_live(now) => Some("the subscription has ended"),
            Some(_) => None,
        }
    }

    fn is_paused(&self, waiting: &Waiting) -> bool {
        let one = self.notifications.subscription(&waiting.subscription);
        !waiting.lifecycle && one.is_some_and(|one| one.paused.is_some())
    }

    fn settle(
        &mut self,
        mut batch: Batch,
        at: Timestamp,
        now: Timestamp,
        status: Option<u16>,
        took: Duration,
        speed: Speed,
    ) -> Delivery {
        let fewest = self.notifications.fewest_answers;
        self.notifications.hosts.entry(hosts::name(&batch.url)).or_default().answered(now, speed, fewest);
        self.notifications.under_way -= 1;
        batch.attempt += 1;
        let spacing = self.notifications.first_retry.saturating_mul(1 << (batch.attempt - 1).min(16));
        let again = after(now, spacing);
        let outcome = match status {
            Some(200..=299) => Outcome::Delivered,
            _ if again <= ahead(batch.since, TRIED) => Outcome::Retry(again),
            _ => Outcome::Lost,
        };
        let items = serde_json::from_str::<Value>(&batch.body).ok().and_then(|body| body["value"].as_array().map(Vec::len));
        let delivery = Delivery {
            at,
            ended: now,
            url: batch.url.clone(),
            attempt: batch.attempt,
            body: batch.body.clone(),
            items: items.unwrap_or(0),
            status,
            took,
            outcome,
        };
        match outcome {
            Outcome::Delivered => {}
            Outcome::Retry(due) => self.notifications.batches.push(Batch { due, ..batch }),
            Outcome::Lost => batch.items.iter().for_each(|waiting| self.lose(waiting, "not accepted within 4 h", now)),
        }
        self.notifications.log.push(delivery.clone());
        delivery
    }

    /// Asks for reauthorization near the end of subscriptions, where that is switched on.
    fn challenge(&mut self, now: Timestamp) {
        if !self.notifications.challenges {
            return;
        }
        let near = |one: &&super::Subscription| one.is_live(now) && one.expires <= ahead(now, 60);
        let ids: Vec<String> = self.notifications.subscriptions.iter().filter(near).map(|one| one.id.clone()).collect();
        for id in ids {
            let recent = self.notifications.challenged.get(&id).is_some_and(|at| ahead(*at, CHALLENGE) > now);
            if !recent {
                self.notifications.challenged.insert(id.clone(), now);
                self.raise_lifecycle(&id, Lifecycle::ReauthorizationRequired, now);
            }
        }
    }
}

impl Notifications {
    /// Deliveries that were accepted.
    pub fn delivered(&self) -> impl Iterator<Item = &Delivery> {
        self.log.iter().filter(|delivery| delivery.outcome == Outcome::Delivered)
    }

    /// Items of accepted deliveries, parsed.
    #[must_use]
    pub fn delivered_items(&self) -> Vec<Value> {
        let bodies = self.delivered().filter_map(|delivery| serde_json::from_str::<Value>(&delivery.body).ok());
        bodies.filter_map(|body| body["value"].as_array().cloned()).flatten().collect()
    }
}

/// By the emulator's own dice.
fn shuffle(items: &mut [Waiting], dice: &mut u64) {
    for i in (1..items.len()).rev() {
        let other = usize::try_from(next(dice) % (i as u64 + 1)).unwrap_or(0);
        items.swap(i, other);
    }
}
