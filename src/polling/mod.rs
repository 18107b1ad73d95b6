//! Polls what Microsoft Graph offers no subscriptions for: alerts and incidents. What is found becomes items that look like
//! notifications, so that playbooks need not know.
//!
//! The service cannot sort, and shows things late. So each poll reads all that was updated since some time before the last poll
//! began, and a row for each id tells what was seen. Killed anywhere, a poll is repeated: its items are the same, and known by their
//! time of update. Does not know what becomes of them.

mod wire;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use jiff::{SignedDuration, Timestamp};
use percent_encoding::utf8_percent_encode;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::notifications::item::{ChangeType, Item, QUEUE, URGENT_QUEUE, Work};
use crate::platform::clock::Clock;
use crate::platform::hex;
use crate::platform::http::{Bounds, ENCODED, Failure, Http, Reply, Request, excerpt, http_date, path_below};
use crate::platform::pacer::Pacer;
use crate::storage::{CommitError, Queue, Row, StateStore, StoreError, TRANSACTION_ROWS, Version, Write};

const PARTITION: &str = "polling";
/// Requests per minute, app and tenant (vendor page "service-specific throttling limits"), and of those at once.
const RATE: (u32, u32) = (150, 2);
/// Alerts appear with some delay: this much is read again each time.
const OVERLAP: SignedDuration = SignedDuration::from_hours(1);
/// What the first poll looks back.
const FIRST_LOOK_BACK: SignedDuration = SignedDuration::from_hours(1);
/// Rows of what was seen are kept for so long after they are needed.
const KEPT: SignedDuration = SignedDuration::from_hours(24);
/// Rows that one poll looks at to forget some.
const SWEPT: usize = 500;
/// Of a look at whether it can be read.
const PROBE: Bounds = Bounds { attempts: 2, total: Duration::from_secs(30), attempt: Duration::from_secs(30), body: 64 << 20 };
/// More pages than any poll has: a service that sends us in circles.
const MOST_PAGES: usize = 10_000;

/// What is polled for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// `security/alerts_v2` or `security/incidents`, with a `$filter` if only some are wanted.
    pub resource: String,
    /// Which tenant's; stands in the items.
    pub tenant: Option<String>,
    /// Stands in the items, so that playbooks of one filter do not see what another one selects.
    pub group: Option<String>,
    pub urgent: bool,
}

/// What a poll did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Polled {
    pub pages: usize,
    pub created: usize,
    pub updated: usize,
    /// Seen before.
    pub known: usize,
    /// Without an id or a time of update.
    pub unreadable: usize,
}

/// A poll ended early; the next one begins where the last complete one did.
#[derive(Debug, thiserror::Error)]
pub enum PollError {
    #[error("failed to poll `{resource}`: {cause}")]
    Service { resource: String, cause: String },
    #[error("failed to poll: {0}")]
    Store(#[from] StoreError),
}

/// Up to where a source was polled.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Watermark {
    /// The service's time when the last complete poll began.
    at: Timestamp,
}

/// What was last seen of one id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    updated: Timestamp,
    /// It was about to be told as new, with this time: whether it was told is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    begun: Option<String>,
}

/// One that is to be told.
struct News {
    key: String,
    found: wire::Found,
    /// It is new, or may not have been told so: with this time.
    created: Option<String>,
    /// It changed since it was last told.
    updated: bool,
}

/// A poller of one service.
#[derive(Debug)]
pub struct Poller {
    http: Http,
    base: Url,
    state: Arc<dyn StateStore>,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
    sources: Vec<Source>,
}

impl Poller {
    /// `http` has the address `base`; its requests are paced here.
    #[must_use]
    pub fn new(
        http: Http,
        base: Url,
        state: Arc<dyn StateStore>,
        queue: Arc<dyn Queue>,
        clock: Arc<dyn Clock>,
        sources: Vec<Source>,
    ) -> Self {
        let pacer = Arc::new(Mutex::new(Pacer::per_minute(RATE.0, RATE.1)));
        let bounds = Bounds { body: 64 << 20, ..Bounds::default() };
        Self { http: http.paced(pacer).bounded(bounds), base, state, queue, clock, sources }
    }

    #[must_use]
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }

    /// Reads the newest of one source, if there is one, and does nothing with it.
    ///
    /// # Errors
    /// [`PollError`].
    pub async fn probe(&self, source: &Source) -> Result<(), PollError> {
        let path = request_path(&source.resource, self.clock.now());
        let path = if path.contains("$top=") { path } else { format!("{path}&$top=1") };
        // Who asks looks at a screen.
        let http = self.http.clone().bounded(PROBE);
        self.read_by(&http, source, &path).await.map(drop)
    }

    /// Reads what is new of one source, and puts an item for each.
    ///
    /// # Errors
    /// [`PollError`]; items that were put until then stay, and are not put again unless the process was killed in between.
    pub async fn poll(&self, source: &Source) -> Result<Polled, PollError> {
        let name = hash(&source.resource);
        let mark: Option<Watermark> = read(self.state.get(PARTITION, &format!("w.{name}")).await?.as_ref());
        let ours = self.clock.now();
        let window = match mark {
            Some(mark) => before(mark.at, OVERLAP),
            None => before(ours, FIRST_LOOK_BACK),
        };
        let mut path = request_path(&source.resource, window);
        let (mut polled, mut began) = (Polled::default(), None);
        for _ in 0..MOST_PAGES {
            let reply = self.read(source, &path).await?;
            // The service's clock, at the first page: what it is told after that is for the next poll.
            began = began.or_else(|| reply.headers.get("date").and_then(|date| http_date(date.to_str().ok()?)));
            let page = wire::decode(&reply.body).map_err(|cause| failed(source, cause))?;
            polled.pages += 1;
            polled.unreadable += page.unreadable;
            self.take(source, &name, window, page.found, &mut polled).await?;
            match page.next {
                None => {
                    // Never back, should the service's clock go wrong.
                    let at = began.unwrap_or(ours).max(mark.map_or(Timestamp::MIN, |mark| mark.at));
                    self.put(vec![Write::Put { key: format!("w.{name}"), value: encode(&Watermark { at }) }]).await?;
                    self.forget(&name, before(before(at, OVERLAP), KEPT)).await?;
                    return Ok(polled);
                }
                Some(link) => {
                    let url = Url::parse(&link).ok();
                    path = url
                        .and_then(|url| path_below(&self.base, &url))
                        .ok_or_else(|| failed(source, "a link leads to another service; check GRAPH_URL".to_owned()))?;
                }
            }
        }
        Err(failed(source, "there is no end of pages".to_owned()))
    }

    /// Puts what is new on a page, and notes it after that. That one is about to be told as new is noted before: should it change
    /// until the poll is repeated, it is not new a second time.
    async fn take(
        &self,
        source: &Source,
        name: &str,
        window: Timestamp,
        found: Vec<wire::Found>,
        polled: &mut Polled,
    ) -> Result<(), PollError> {
        let news = self.news(name, window, found, polled).await?;
        let seen = |news: &News, begun| (news.key.clone(), Seen { updated: news.found.updated, begun });
        let begun = news.iter().filter(|news| news.created.as_ref().is_some_and(|time| *time == news.found.updated_text));
        self.note(&begun.map(|news| seen(news, news.created.clone())).collect::<Vec<_>>()).await?;
        let told: Vec<(String, Seen)> = news.iter().map(|news| seen(news, None)).collect();
        for News { found, created, updated, .. } in news {
            let received = self.clock.now();
            if let Some(time) = created {
                polled.created += 1;
                self.tell(source, found.item(source, ChangeType::Created, &time, received)).await?;
            }
            if updated {
                polled.updated += 1;
                self.tell(source, found.item(source, ChangeType::Updated, &found.updated_text, received)).await?;
            }
        }
        Ok(self.note(&told).await?)
    }

    /// Those of a page that are to be told.
    async fn news(
        &self,
        name: &str,
        window: Timestamp,
        found: Vec<wire::Found>,
        polled: &mut Polled,
    ) -> Result<Vec<News>, StoreError> {
        let keys: Vec<String> = found.iter().map(|found| format!("s.{name}.{}", hash(&found.id))).collect();
        let rows = self.state.get_many(PARTITION, keys.clone()).await?;
        let mut news: Vec<News> = Vec::new();
        for ((found, key), row) in found.into_iter().zip(keys).zip(rows) {
            let seen: Option<Seen> = read(row.as_ref());
            let (created, updated) = match &seen {
                Some(Seen { begun: Some(time), updated }) => (Some(time.clone()), found.updated > *updated),
                Some(seen) => (None, found.updated > seen.updated),
                // What was made before this window and has no row was seen long ago, or before we began.
                None if found.created.is_none_or(|created| created >= window) => (Some(found.updated_text.clone()), false),
                None => (None, true),
            };
            // Twice on one page: pages shift while they are read, and the later state is on a later one, or comes next time.
            let twice = news.iter().any(|news| news.key == key);
            if twice || (created.is_none() && !updated) {
                polled.known += 1;
            } else {
                news.push(News { key, found, created, updated });
            }
        }
        Ok(news)
    }

    async fn note(&self, notes: &[(String, Seen)]) -> Result<(), StoreError> {
        for chunk in notes.chunks(TRANSACTION_ROWS) {
            let puts = chunk.iter().map(|(key, seen)| Write::Put { key: key.clone(), value: encode(seen) });
            self.put(puts.collect()).await?;
        }
        Ok(())
    }

    async fn tell(&self, source: &Source, item: Item) -> Result<(), StoreError> {
        let queue = if source.urgent { URGENT_QUEUE } else { QUEUE };
        let body = serde_json::to_vec(&Work::first(item)).unwrap_or_default();
        self.queue.put(queue, body, Duration::ZERO).await
    }

    /// Forgets some of what was last updated before `until`: no poll asks for it again. Goes round over the polls.
    async fn forget(&self, name: &str, until: Timestamp) -> Result<(), StoreError> {
        let (first, end, place) = (format!("s.{name}."), format!("s.{name}/"), format!("f.{name}"));
        let row = self.state.get(PARTITION, &place).await?;
        let from = row.and_then(|row| String::from_utf8(row.value).ok()).filter(|from| from.starts_with(&first));
        let rows = self.state.scan(PARTITION, &from.clone().unwrap_or_else(|| first.clone()), &end, SWEPT).await?;
        let next = rows.last().filter(|_| rows.len() == SWEPT).map(|row| format!("{}!", row.key));
        let old = |row: &&Row| read::<Seen>(Some(row)).is_none_or(|seen| seen.updated < until);
        let deletes: Vec<Write> = rows
            .iter()
            .filter(old)
            .map(|row| Write::DeleteIf { key: row.key.clone(), version: Version(row.version.0.clone()) })
            .collect();
        for chunk in deletes.chunks(TRANSACTION_ROWS) {
            self.put(chunk.to_vec()).await?;
        }
        if next.is_some() || from.is_some() {
            self.put(vec![Write::Put { key: place, value: next.unwrap_or(first).into_bytes() }]).await?;
        }
        Ok(())
    }

    /// A row that somebody else changed meanwhile is theirs.
    async fn put(&self, writes: Vec<Write>) -> Result<(), StoreError> {
        match self.state.commit(PARTITION, writes).await {
            Ok(_) | Err(CommitError::Conflict { .. }) => Ok(()),
            Err(CommitError::Failed(error)) => Err(error),
        }
    }

    async fn read(&self, source: &Source, path: &str) -> Result<Reply, PollError> {
        self.read_by(&self.http, source, path).await
    }

    async fn read_by(&self, http: &Http, source: &Source, path: &str) -> Result<Reply, PollError> {
        let request =
            Request { operation: "read alerts", method: Method::GET, path: path.to_owned(), body: None, idempotent: true };
        let reply = http.send(request).await.map_err(|failure: Failure| failed(source, failure.to_string()))?;
        let said = || excerpt(&reply.body).map(|text| format!(" ({text})")).unwrap_or_default();
        match reply.status {
            200 => Ok(reply),
            401 | 403 => {
                let permission = crate::notifications::resources::Resource::of(&source.resource).map(|row| row.permission);
                let wanted = match permission {
                    Some(crate::notifications::resources::Permission::App { create, .. }) => create,
                    _ => "SecurityAlert.Read.All",
                };
                Err(failed(source, format!("the app lacks the permission {wanted}; grant it, with admin consent{}", said())))
            }
            400 => Err(failed(
                source,
                format!("Microsoft Graph refused the query; check `source.resource` of the playbook{}", said()),
            )),
            404 | 410 => Err(failed(
                source,
                format!(
                    "Microsoft Graph does not have it (status {}); check `source.resource` of the playbook, and GRAPH_URL{}",
                    reply.status,
                    said()
                ),
            )),
            status => Err(failed(
                source,
                format!(
                    "the answer is none of Microsoft Graph's (status {status}); check GRAPH_URL, and proxies on the way{}",
                    said()
                ),
            )),
        }
    }
}

/// What was updated since then, of what the source's own filter selects.
fn request_path(resource: &str, since: Timestamp) -> String {
    let (path, query) = resource.trim_start_matches('/').split_once('?').unwrap_or((resource.trim_start_matches('/'), ""));
    let since = format!("lastUpdateDateTime ge {}", since.strftime("%Y-%m-%dT%H:%M:%SZ"));
    let mut filter = since.clone();
    let mut parts = Vec::new();
    for part in query.split('&').filter(|part| !part.is_empty()) {
        match part.split_once('=') {
            Some(("$filter", own)) => {
                let own = percent_encoding::percent_decode_str(own).decode_utf8_lossy();
                filter = format!("{since} and ({own})");
            }
            Some((name, value)) => {
                let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
                parts.push(format!("{name}={}", utf8_percent_encode(&value, ENCODED)));
            }
            None => {}
        }
    }
    parts.push(format!("$filter={}", utf8_percent_encode(&filter, ENCODED)));
    format!("/{path}?{}", parts.join("&"))
}

fn failed(source: &Source, cause: String) -> PollError {
    PollError::Service { resource: source.resource.clone(), cause }
}

fn before(at: Timestamp, by: SignedDuration) -> Timestamp {
    at.saturating_sub(by).unwrap_or(at)
}

fn hash(text: &str) -> String {
    hex::digits(&digest(&SHA256, text.as_bytes()).as_ref()[..20])
}

fn read<T: for<'a> Deserialize<'a>>(row: Option<&Row>) -> Option<T> {
    serde_json::from_slice(&row?.value).ok()
}

fn encode<T: Serialize>(row: &T) -> Vec<u8> {
    serde_json::to_vec(row).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_stands_before_the_own_filter() {
        let since: Timestamp = "2026-11-24T09:00:00.5Z".parse().expect("a time");
        assert_eq!(
            request_path("security/alerts_v2", since),
            "/security/alerts_v2?$filter=lastUpdateDateTime%20ge%202026-11-24T09%3A00%3A00Z"
        );
        assert_eq!(
            request_path("/security/incidents?$filter=severity eq 'high' or status eq 'active'&$top=50", since),
            "/security/incidents?$top=50&$filter=lastUpdateDateTime%20ge%202026-11-24T09%3A00%3A00Z%20and%20%28severity%20eq%20%27high%27%20or%20status%20eq%20%27active%27%29"
        );
    }
}
