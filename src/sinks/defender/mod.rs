//! Microsoft Defender for Endpoint: its Indicators API.
//!
//! The API gives the ids, tells items of an answer by their value only, and takes an indicator with another action for
//! another indicator.

mod api;
mod mapping;
mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use aws_lc_rs::digest;
use url::Url;

use super::guide::Column;
use super::{
    Answer, ContentHash, Destination, Draft, Found, Limits, SendError, SendErrorKind, Sink, Skip, Stamp, TargetProduct, Terms,
    Upload, Withdrawal, external_id, fingerprint, rounds, seconds,
};
use crate::indicator::{Indicator, Observable, ObservableKey};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Traffic, request_id};
use crate::platform::pacer::{Lanes, Pacer};
use api::Api;
use wire::Entry;

pub(crate) const COLUMN: Column = mapping::COLUMN;

/// Indicators in one import, ids in one deletion (vendor pages "Import indicators", "Batch delete indicators").
const BATCH: usize = 500;
/// Imports under way at once: enough to hide their latency under the documented rate.
const CONCURRENCY: usize = 2;
/// Requests a minute that carry items (vendor page "Import indicators").
const IMPORTS: u32 = 30;
/// All others: 1,500 an hour.
const OTHERS: u32 = 25;

/// Where and how to deliver.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://api.security.microsoft.com`.
    pub url: Url,
    pub tenant: String,
    /// Device groups that the indicators apply to, sorted; all devices if empty.
    pub device_groups: Vec<String>,
    pub file_hashes: FileHashes,
    /// Destinations that share the identity, and so its rate.
    pub sharing: u32,
}

/// Which of a File's hashes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileHashes {
    /// The longest only: places are few, and the longest is the one that Defender heeds.
    Longest,
    All,
}

impl Config {
    /// Keeps this sink's share of the documented rates.
    #[must_use]
    pub fn lanes(&self) -> Lanes {
        Lanes::two(Pacer::part(IMPORTS, self.sharing, 1), Pacer::part(OTHERS, self.sharing, 3))
    }

    /// What it writes to: the tenant.
    #[must_use]
    pub fn destination(&self) -> Destination {
        let tenant = self.tenant.to_ascii_lowercase();
        Destination {
            product: COLUMN.product,
            fingerprint: fingerprint("defender", &[&tenant]),
            shown: format!("tenant {tenant}"),
        }
    }
}

/// The Indicators API of one tenant.
#[derive(Debug)]
pub struct Defender {
    config: Config,
    /// The device groups in one spelling.
    groups: Vec<String>,
    destination: Destination,
    api: Api,
}

impl Defender {
    /// `lanes`: shared by all that count against the same limit ([`Config::lanes`] makes them).
    #[must_use]
    pub fn new(
        config: Config,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        bearer: Arc<dyn Authorize>,
        lanes: &Lanes,
    ) -> Self {
        let api = Api::new(config.url.clone(), client, clock, bearer, lanes);
        Self { destination: config.destination(), groups: one_spelling(&config.device_groups), config, api }
    }

    async fn import(&self, items: &[Upload]) -> Result<Vec<Answer>, SendError> {
        let names: Vec<String> = items.iter().map(|item| wire::name(item.observable.value())).collect();
        let mut answers: Vec<Option<Answer>> = vec![None; items.len()];
        let mut work: VecDeque<Vec<usize>> = rounds(&names, Clone::clone).into();
        while let Some(round) = work.pop_front() {
            let payloads: Vec<&[u8]> = round.iter().map(|i| items[*i].payload.as_slice()).collect();
            let error = match self.api.import(&payloads).await {
                Ok(reply) => {
                    let sent: Vec<&str> = round.iter().map(|i| names[*i].as_str()).collect();
                    let said = wire::answers(&reply.body, &sent, request_id(&reply.headers).as_deref());
                    for (i, answer) in round.into_iter().zip(said) {
                        answers[i] = Some(answer);
                    }
                    continue;
                }
                Err(failed) => failed.error,
            };
            if let Some(answer) = answer_to_each(&error, round.len()) {
                for i in round {
                    answers[i] = Some(answer.clone());
                }
            } else if answers.iter().all(Option::is_none) {
                return Err(error);
            } else if error.kind == SendErrorKind::Refused {
                // The caller finds a culprit in halves only where nothing was answered yet.
                let (half, other) = round.split_at(round.len() / 2);
                work.push_front(other.to_vec());
                work.push_front(half.to_vec());
            } else {
                tracing::debug!(error = error.message, "a later part of a batch got no answer");
                let rest = Answer::Unanswered { reason: error.message };
                return Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(|| rest.clone())).collect());
            }
        }
        let unasked = || Answer::Unanswered { reason: "it was not sent".to_owned() };
        Ok(answers.into_iter().map(|answer| answer.unwrap_or_else(unasked)).collect())
    }

    /// Where the new indicator stands beside the old one, the old one goes.
    async fn supersede(&self, items: &[Upload], mut answers: Vec<Answer>) -> Vec<Answer> {
        self.name_accepted(items, &mut answers).await;
        let mut superseded = superseded(items, &answers);
        superseded.extend(self.left_by_lost_answers(items, &mut answers).await);
        if superseded.is_empty() {
            return answers;
        }
        let ids: Vec<String> = superseded.iter().map(|(_, id)| id.clone()).collect();
        if let Err(failed) = self.api.delete(&ids).await {
            let reason = format!("the one with the earlier action is there still: {}", failed.error);
            for (i, _) in superseded {
                answers[i] = Answer::Unanswered { reason: reason.clone() };
            }
        }
        answers
    }

    /// Items of which nothing is known but that an answer was lost: it may have left an indicator with another action.
    async fn left_by_lost_answers(&self, items: &[Upload], answers: &mut [Answer]) -> Vec<(usize, String)> {
        let in_doubt = |i: &usize| {
            let there = &items[*i].there;
            there.id.is_none() && !there.unsure.is_empty() && matches!(answers[*i], Answer::Accepted { .. })
        };
        let places: Vec<usize> = (0..items.len()).filter(in_doubt).collect();
        if places.is_empty() {
            return Vec::new();
        }
        let found = match self.ours_of(places.iter().map(|i| &items[*i].observable)).await {
            Ok(found) => found,
            Err(error) => {
                for i in places {
                    answers[i] = Answer::Unanswered { reason: format!("accepted, but not looked up: {error}") };
                }
                return Vec::new();
            }
        };
        let mut left = Vec::new();
        for i in places {
            let Answer::Accepted { remote_id: Some(kept) } = &answers[i] else { continue };
            let ids = found.get(&self.key(&items[i].observable)).into_iter().flatten();
            left.extend(ids.filter(|id| *id != kept).map(|id| (i, id.clone())));
        }
        left
    }

    /// An answer without an id does not say whether the old indicator was updated or has a new one beside it: a look does.
    async fn name_accepted(&self, items: &[Upload], answers: &mut [Answer]) {
        let unnamed = |(item, answer): (&Upload, &Answer)| {
            item.there.replaced && item.there.id.is_some() && *answer == Answer::Accepted { remote_id: None }
        };
        let unnamed: Vec<usize> = (0..items.len()).filter(|i| unnamed((&items[*i], &answers[*i]))).collect();
        if unnamed.is_empty() {
            return;
        }
        let found = self.ours_of(unnamed.iter().map(|i| &items[*i].observable)).await;
        for i in unnamed {
            let (item, key) = (&items[i], self.key(&items[i].observable));
            answers[i] = match &found {
                Ok(found) => Answer::Accepted { remote_id: newest(found.get(&key), item.there.id.as_deref()) },
                Err(error) => Answer::Unanswered { reason: format!("accepted without an id: {error}") },
            };
        }
    }

    async fn take_back(&self, items: &[Withdrawal]) -> Result<Vec<Answer>, SendError> {
        let mut ids: Vec<String> = items.iter().filter_map(|item| item.there.id.clone()).collect();
        let mut answers = vec![Answer::Accepted { remote_id: None }; items.len()];
        let looked_up = |item: &Withdrawal| item.there.id.is_none() || !item.there.unsure.is_empty();
        let unknown: Vec<usize> = (0..items.len()).filter(|i| looked_up(&items[*i])).collect();
        if !unknown.is_empty() {
            match self.ours_of(unknown.iter().map(|i| &items[*i].observable)).await {
                Ok(found) => ids.extend(found.into_values().flatten()),
                Err(error) if unknown.len() == items.len() => return Err(error),
                Err(error) => {
                    for i in unknown {
                        answers[i] = Answer::Unanswered { reason: error.message.clone() };
                    }
                }
            }
        }
        self.api.delete(&ids).await?;
        Ok(answers)
    }

    /// The ids of what this product has at the target for these observables, by their keys.
    async fn ours_of<'a>(
        &self,
        observables: impl Iterator<Item = &'a Observable>,
    ) -> Result<HashMap<ObservableKey, Vec<String>>, SendError> {
        let mut values = Vec::new();
        let mut keys = HashSet::new();
        for observable in observables {
            keys.insert(self.key(observable));
            values.push(mapping::value(observable));
            if matches!(observable.address(), Some(IpAddr::V6(_))) {
                values.push(observable.value().to_owned()); // the service may keep its own spelling
            }
        }
        let mut ours: HashMap<ObservableKey, Vec<String>> = HashMap::new();
        for found in self.api.find(&values).await?.into_iter().map(found).filter(|found| found.ours) {
            if let Some(key) = found.key.filter(|key| keys.contains(key)) {
                ours.entry(key).or_default().push(found.id);
            }
        }
        Ok(ours)
    }
}

impl Sink for Defender {
    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn limits(&self) -> Limits {
        let per_indicator = if self.config.file_hashes == FileHashes::Longest { 1 } else { 3 };
        Limits { batch: BATCH, concurrency: CONCURRENCY, capacity: TargetProduct::Defender.capacity(), per_indicator }
    }

    fn traffic(&self) -> &Traffic {
        self.api.traffic()
    }

    fn key(&self, observable: &Observable) -> ObservableKey {
        key(observable, &self.groups)
    }

    fn draft(&self, indicator: &Indicator, observable: &Observable, terms: &Terms) -> Result<Draft, Skip> {
        let external_id = external_id(indicator, observable.kind());
        let mut content = mapping::payload(indicator, observable, &external_id, terms, &self.config)?;
        content.pop(); // its end follows when it is sent
        let identity = identity(mapping::action(terms.action));
        Ok(Draft::new((indicator, observable.kind()), terms, content, identity, external_id))
    }

    fn payload(&self, draft: &Draft, stamp: Stamp) -> Vec<u8> {
        let end = format!(",\"expirationTime\":\"{}\"}}", seconds(stamp.expires));
        [draft.content.as_slice(), end.as_bytes()].concat()
    }

    fn send<'a>(&'a self, items: &'a [Upload]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async move {
            let answers = self.import(items).await?;
            Ok(self.supersede(items, answers).await)
        })
    }

    fn withdraw<'a>(&'a self, items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(self.take_back(items))
    }

    fn survey(&self) -> BoxFuture<'_, Result<Option<Vec<Found>>, SendError>> {
        Box::pin(async move {
            match self.api.list(None).await {
                Ok(entries) => Ok(Some(entries.into_iter().map(found).collect())),
                Err(failed) if failed.status == Some(403) => {
                    tracing::warn!(
                        error = failed.error.message,
                        "Defender does not show its indicators: what is there is not compared, and what others hold is not counted"
                    );
                    Ok(None)
                }
                Err(failed) => Err(failed.error),
            }
        })
    }

    fn discard<'a>(&'a self, ids: &'a [String]) -> BoxFuture<'a, Result<(), SendError>> {
        Box::pin(async move { Ok(self.api.delete(ids).await?) })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>> {
        Box::pin(async move { Ok(self.api.probe().await?) })
    }
}

/// The part of the API's key that is in none of ours: type, value and device groups are in [`Sink::key`].
fn identity(action: &str) -> ContentHash {
    ContentHash::of(&[action.as_bytes()])
}

/// The same observable for other device groups is another indicator; for all devices it is the observable.
fn key(observable: &Observable, groups: &[String]) -> ObservableKey {
    let plain = observable.key();
    if groups.is_empty() {
        return plain;
    }
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&plain.0);
    for group in groups {
        context.update(b"\0");
        context.update(group.as_bytes());
    }
    let mut key = [0; 32];
    key.copy_from_slice(context.finish().as_ref());
    ObservableKey(key)
}

/// However they are ordered and written.
fn one_spelling(groups: &[String]) -> Vec<String> {
    let mut groups: Vec<String> =
        groups.iter().map(|group| group.trim().to_lowercase()).filter(|group| !group.is_empty()).collect();
    groups.sort();
    groups.dedup();
    groups
}

/// An indicator whose device groups are not shown is nobody's: it could stand for any of ours.
fn found(entry: Entry) -> Found {
    let groups = entry.groups.as_deref().map(one_spelling);
    let observable = mapping::observable(&entry.indicator_type, &entry.value);
    Found {
        ours: entry.application == mapping::APPLICATION && groups.is_some(),
        key: observable.zip(groups).map(|(observable, groups)| key(&observable, &groups)),
        identity: identity(&entry.action),
        id: entry.id,
    }
}

/// A refused call that answers each of its items: the only one, or all because nothing more has room.
fn answer_to_each(error: &SendError, items: usize) -> Option<Answer> {
    if error.kind != SendErrorKind::Refused {
        return None;
    }
    if crate::sinks::says_full(&error.message) {
        return Some(Answer::Full { reason: error.message.clone() });
    }
    let refused = || Answer::Refused { reason: error.message.clone(), correlation: error.correlation.clone() };
    (items == 1).then(refused)
}

/// Items whose indicator is there under another id than before, with the old one; not if the service kept the id.
fn superseded(items: &[Upload], answers: &[Answer]) -> Vec<(usize, String)> {
    let old = |(i, (item, answer)): (usize, (&Upload, &Answer))| match (&item.there.id, answer) {
        (Some(old), Answer::Accepted { remote_id: Some(new) }) if old != new => Some((i, old.clone())),
        _ => None,
    };
    items.iter().zip(answers).enumerate().filter_map(old).collect()
}

/// The id that was given last, the known one aside; ids are numbers that grow. The known one if it stands alone.
fn newest(ids: Option<&Vec<String>>, known: Option<&str>) -> Option<String> {
    let others = ids.into_iter().flatten().filter(|id| Some(id.as_str()) != known);
    others.max_by_key(|id| (id.len(), id.as_str())).cloned().or_else(|| known.map(str::to_owned))
}

#[cfg(test)]
mod tests;
