//! A client of Microsoft Graph: the calls about subscriptions, and plain reading for who fetches, polls or catches up.
//!
//! Knows nothing of what a subscription is wanted for. What Graph refuses comes back as one of a closed set of troubles, each
//! with its remedy ([`GraphError`]).

pub mod keys;
mod trouble;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::Method;
use serde_json::Value;
use url::Url;

pub use trouble::{GraphError, Trouble};
pub use wire::{NewSubscription, Renewal, Subscription, timestamp};

use crate::platform::clock::Clock;
use crate::platform::http::{Authorize, Bounds, Http, Reply, Request, path_below};
use crate::platform::json;
use crate::platform::pacer::{Lanes, Pacer};

/// Pages of one list; an app has at most 100 subscriptions on directory objects, and 1,000 on a mailbox.
const PAGES: usize = 200;
/// Both below the documented 500 calls in 20 s for one app and tenant; a list may be asked for 25 times in that time.
const CALLS_PER_MINUTE: u32 = 1_200;
const BURST: u32 = 8;
/// Creating waits for two handshakes of up to 10 s each.
const ATTEMPT: Duration = Duration::from_secs(40);
const TOTAL: Duration = Duration::from_secs(90);
const BODY: usize = 64 << 20;

const CREATE: &str = "create a subscription";
const LIST: &str = "list subscriptions";
const READ: &str = "read a subscription";
const RENEW: &str = "renew a subscription";
const REAUTHORIZE: &str = "reauthorize a subscription";
const DELETE: &str = "delete a subscription";

/// Where Graph is.
#[derive(Debug, Clone)]
pub struct Config {
    /// `GRAPH_URL`: without the version.
    pub url: Url,
}

/// The client; clones share pace and connections.
#[derive(Debug, Clone)]
pub struct Graph {
    reading: Http,
    writing: Http,
    /// For what must not be repeated within ten minutes, whatever became of it.
    once: Http,
    url: Url,
}

/// A page of a list or of a delta query.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    pub items: Vec<Value>,
    /// Path of the next page, below the address of Graph.
    pub next: Option<String>,
    /// Path that gives what changes from now on; only on the last page of a delta query.
    pub delta: Option<String>,
}

impl Graph {
    #[must_use]
    pub fn new(
        config: Config,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        bearer: Arc<dyn Authorize>,
        lanes: &Lanes,
    ) -> Self {
        let bounds = Bounds { attempts: 4, total: TOTAL, attempt: ATTEMPT, body: BODY };
        let http = Http::new("Microsoft Graph", client, clock, config.url.clone(), bearer).bounded(bounds);
        let writing = http.clone().paced(Arc::clone(&lanes.sending));
        Self {
            reading: http.paced(Arc::clone(&lanes.other)),
            once: writing.clone().bounded(Bounds { attempts: 1, ..bounds }),
            writing,
            url: config.url,
        }
    }

    /// Keeps the documented rates.
    #[must_use]
    pub fn lanes() -> Lanes {
        Lanes::two(Pacer::per_minute(CALLS_PER_MINUTE, BURST), Pacer::per_minute(CALLS_PER_MINUTE, BURST))
    }

    /// Makes a subscription; Graph asks both addresses for a handshake before it answers.
    ///
    /// # Errors
    /// [`GraphError`]; where `unknown` is true, there may be a subscription all the same.
    pub async fn create(&self, new: &NewSubscription) -> Result<Subscription, GraphError> {
        let request = Request { idempotent: false, ..about(CREATE, Method::POST, "/v1.0/subscriptions", Some(new.body())) };
        let reply = self.call(&self.writing, request).await?;
        wire::subscription(&reply.body).ok_or_else(|| GraphError::astray(CREATE, &reply))
    }

    /// All subscriptions of this app in this tenant, in one pass over the pages. Client states are withheld in lists.
    ///
    /// # Errors
    /// [`GraphError`]; also for an entry that cannot be read: what is not seen must not be taken for gone.
    pub async fn list(&self) -> Result<Vec<Subscription>, GraphError> {
        let mut found = Vec::new();
        let mut path = "/v1.0/subscriptions".to_owned();
        for _ in 0..PAGES {
            let (page, reply) = self.page_of(LIST, &path).await?;
            for item in &page.items {
                found.push(wire::subscription_of(item).ok_or_else(|| GraphError::astray(LIST, &reply))?);
            }
            let Some(next) = page.next else { return Ok(found) };
            path = next;
        }
        Err(GraphError::endless(LIST))
    }

    /// One subscription, with its client state where Graph tells it; none if there is none.
    ///
    /// # Errors
    /// [`GraphError`].
    pub async fn read(&self, id: &str) -> Result<Option<Subscription>, GraphError> {
        match self.call(&self.reading, about(READ, Method::GET, &path_of(id), None)).await {
            Ok(reply) => wire::subscription(&reply.body).map(Some).ok_or_else(|| GraphError::astray(READ, &reply)),
            Err(error) if error.trouble == Trouble::Gone => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Gives a subscription a new end; this reauthorizes it as well. One attempt: never to be repeated within ten minutes.
    ///
    /// # Errors
    /// [`GraphError`]; [`Trouble::Gone`] where there is none.
    pub async fn renew(&self, id: &str, renewal: &Renewal) -> Result<Subscription, GraphError> {
        let request = Request { idempotent: false, ..about(RENEW, Method::PATCH, &path_of(id), Some(renewal.body())) };
        let reply = self.call(&self.once, request).await?;
        wire::subscription(&reply.body).ok_or_else(|| GraphError::astray(RENEW, &reply))
    }

    /// Renews the token behind a subscription, not its life. One attempt, as for [`Self::renew`].
    ///
    /// # Errors
    /// [`GraphError`]; [`Trouble::Gone`] where there is none.
    pub async fn reauthorize(&self, id: &str) -> Result<(), GraphError> {
        let path = format!("{}/reauthorize", path_of(id));
        let request = Request { idempotent: false, ..about(REAUTHORIZE, Method::POST, &path, Some("{}".into())) };
        self.call(&self.once, request).await.map(drop)
    }

    /// Deletes; an absent one is fine.
    ///
    /// # Errors
    /// [`GraphError`].
    pub async fn delete(&self, id: &str) -> Result<(), GraphError> {
        match self.call(&self.writing, about(DELETE, Method::DELETE, &path_of(id), None)).await {
            Err(error) if error.trouble != Trouble::Gone => Err(error),
            _ => Ok(()),
        }
    }

    /// Reads whatever a path below the address of Graph holds, encoded as it is to go on the request line.
    ///
    /// # Errors
    /// [`GraphError`].
    pub async fn get(&self, operation: &'static str, path: &str) -> Result<Value, GraphError> {
        let reply = self.call(&self.reading, about(operation, Method::GET, path, None)).await?;
        json::read(&reply.body).map_err(|_| GraphError::astray(operation, &reply))
    }

    /// One page of a list or of a delta query.
    ///
    /// # Errors
    /// [`GraphError`]; [`Trouble::Expired`] where the state of a delta query is too old.
    pub async fn page(&self, operation: &'static str, path: &str) -> Result<Page, GraphError> {
        self.page_of(operation, path).await.map(|(page, _)| page)
    }

    async fn page_of(&self, operation: &'static str, path: &str) -> Result<(Page, Reply), GraphError> {
        let reply = self.call(&self.reading, about(operation, Method::GET, path, None)).await?;
        let astray = || GraphError::astray(operation, &reply);
        let (items, next, delta) = wire::page(&reply.body).ok_or_else(astray)?;
        // Our token has no business at another host.
        let below = |link: Option<String>| match link {
            None => Ok(None),
            Some(link) => Url::parse(&link).ok().and_then(|link| path_below(&self.url, &link)).map(Some).ok_or_else(astray),
        };
        Ok((Page { items, next: below(next)?, delta: below(delta)? }, reply))
    }

    async fn call(&self, http: &Http, request: Request) -> Result<Reply, GraphError> {
        let operation = request.operation;
        let reply = http.send(request).await.map_err(|failure| GraphError::unanswered(&failure))?;
        if (200..300).contains(&reply.status) { Ok(reply) } else { Err(GraphError::refused(operation, &reply)) }
    }
}

fn about(operation: &'static str, method: Method, path: &str, body: Option<bytes::Bytes>) -> Request {
    Request { operation, method, path: path.to_owned(), body, idempotent: true }
}

fn path_of(id: &str) -> String {
    format!("/v1.0/subscriptions/{}", percent_encoding::utf8_percent_encode(id, crate::platform::http::ENCODED))
}

/// The end of a life of so many minutes, in whole seconds.
#[must_use]
pub fn end_of_life(now: Timestamp, minutes: u32) -> Timestamp {
    let end = now.as_second().saturating_add(i64::from(minutes) * 60);
    Timestamp::from_second(end).unwrap_or(Timestamp::MAX)
}
