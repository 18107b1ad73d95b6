//! Microsoft Sentinel: STIX objects through the upload API.
//!
//! There is no delete and no list: an object with the same id and source system replaces the one before, and an
//! observable is taken back by an object whose `valid_until` has passed.

mod mapping;
mod wire;

use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use reqwest::Method;
use url::Url;

use super::{
    Answer, ContentHash, Destination, Draft, Limits, SendError, SendErrorKind, Sink, Skip, Stamp, Terms, Upload, Withdrawal,
    fingerprint,
};
use crate::indicator::{Indicator, Observable};
use crate::platform::clock::{BoxFuture, Clock};
use crate::platform::http::{Authorize, Bounds, Http, Reply, Request, Traffic, excerpt, request_id};
use crate::platform::pacer::{Lanes, Pacer};

use super::guide::Column;

pub(crate) const COLUMN: Column = mapping::COLUMN;

/// Objects in one request (vendor page "Upload STIX objects").
const BATCH: usize = 100;
/// A minute, for one identity (same page).
const REQUESTS: u32 = 100;
/// Requests under way at once: enough to hide a second of latency under the documented rate.
const CONCURRENCY: usize = 8;
/// Requests that may go together after a rest.
const BURST: u32 = 2;
const API_VERSION: &str = "2024-02-01-preview";
/// Answers are short; longer ones are none.
const LONGEST_ANSWER: usize = 4 << 20;

/// Where and how to upload.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://api.ti.sentinel.azure.com`.
    pub url: Url,
    /// Log Analytics workspace GUID.
    pub workspace_id: String,
    /// Constant for ever: changing it orphans everything uploaded before.
    pub source_system: String,
    pub user_agents: bool,
    pub severity_extension: bool,
    /// Destinations that share the identity, and so its rate.
    pub sharing: u32,
}

impl Config {
    /// Keeps this sink's share of the documented rate.
    #[must_use]
    pub fn lanes(&self) -> Lanes {
        Lanes::one(Pacer::part(REQUESTS, self.sharing, BURST))
    }

    /// What it writes to: the workspace and the source system, however one signs in.
    #[must_use]
    pub fn destination(&self) -> Destination {
        let workspace = self.workspace_id.to_ascii_lowercase();
        Destination {
            product: COLUMN.product,
            fingerprint: fingerprint("sentinel", &[&workspace, &self.source_system]),
            shown: format!("workspace {workspace}, source system `{}`", self.source_system),
        }
    }
}

/// The upload API of one workspace.
#[derive(Debug)]
pub struct Sentinel {
    config: Config,
    destination: Destination,
    http: Http,
    path: String,
}

impl Sentinel {
    /// `lanes`: shared by all that count against the same limit ([`Config::lanes`] makes them).
    #[must_use]
    pub fn new(
        config: Config,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        bearer: Arc<dyn Authorize>,
        lanes: &Lanes,
    ) -> Self {
        let http = Http::new(COLUMN.product, client, clock, config.url.clone(), bearer)
            .paced(Arc::clone(&lanes.sending))
            .reading_wait_from(wire::wait)
            .bounded(Bounds { body: LONGEST_ANSWER, ..Bounds::default() });
        let path =
            format!("/workspaces/{}/threat-intelligence-stix-objects:upload?api-version={API_VERSION}", config.workspace_id);
        Self { destination: config.destination(), config, http, path }
    }

    async fn upload(&self, payloads: &[&[u8]]) -> Result<Vec<Answer>, SendError> {
        let reply = self.post(payloads).await?;
        let correlation = request_id(&reply.headers);
        match reply.status {
            200..=299 => Ok(wire::answers(&reply.body, payloads.len(), correlation.as_deref())),
            400 | 413 => refused(&reply, payloads.len(), correlation),
            _ => Err(systemic(&self.config, &reply, correlation)),
        }
    }

    async fn post(&self, payloads: &[&[u8]]) -> Result<Reply, SendError> {
        let request = Request {
            operation: "upload indicators",
            method: Method::POST,
            path: self.path.clone(),
            body: Some(wire::body(&self.config.source_system, payloads).into()),
            idempotent: true, // an object with the same id replaces itself
        };
        // A 429 names its wait in the body, if at all: without one the vendor's window of a minute is waited for.
        self.http.send(request).await.map_err(|failure| SendError::unanswered(failure, wire::DEFAULT_WAIT))
    }
}

impl Sink for Sentinel {
    fn destination(&self) -> &Destination {
        &self.destination
    }

    fn limits(&self) -> Limits {
        Limits { batch: BATCH, concurrency: CONCURRENCY, capacity: None, per_indicator: 3 }
    }

    fn traffic(&self) -> &Traffic {
        self.http.traffic()
    }

    fn draft(&self, indicator: &Indicator, observable: &Observable, terms: &Terms) -> Result<Draft, Skip> {
        let external_id = mapping::stix_id(observable);
        let object = mapping::object(indicator, observable, &external_id, terms, &self.config)?;
        let content = open_ended(&object);
        Ok(Draft::new((indicator, observable.kind()), terms, content, ContentHash::NONE, external_id))
    }

    fn payload(&self, draft: &Draft, stamp: Stamp) -> Vec<u8> {
        closed(draft.content.clone(), in_order(draft.created, draft.valid_from, stamp))
    }

    fn send<'a>(&'a self, items: &'a [Upload]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        Box::pin(async move { self.upload(&items.iter().map(|item| item.payload.as_slice()).collect::<Vec<_>>()).await })
    }

    fn withdraw<'a>(&'a self, items: &'a [Withdrawal]) -> BoxFuture<'a, Result<Vec<Answer>, SendError>> {
        let payloads = items
            .iter()
            .map(|item| {
                let object = mapping::farewell(item, &self.config).map_err(|skip| no_farewell(skip.reason()))?;
                Ok(closed(open_ended(&object), in_order(item.created, item.valid_from, item.stamp)))
            })
            .collect::<Result<Vec<_>, SendError>>();
        Box::pin(async move { self.upload(&payloads?.iter().map(Vec::as_slice).collect::<Vec<_>>()).await })
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), SendError>> {
        // An empty list is the least that the API takes; a 400 for it proves access as well as a 200.
        Box::pin(async move {
            let reply = self.post(&[]).await?;
            match reply.status {
                200..=299 | 400 => Ok(()),
                _ => Err(systemic(&self.config, &reply, request_id(&reply.headers))),
            }
        })
    }
}

/// A 400 that names every item is an answer to each; any other is about the batch.
fn refused(reply: &Reply, count: usize, correlation: Option<String>) -> Result<Vec<Answer>, SendError> {
    if wire::refused(&reply.body).is_some_and(|refused| (0..count).all(|i| refused.contains_key(&i))) {
        return Ok(wire::answers(&reply.body, count, correlation.as_deref()));
    }
    let said = excerpt(&reply.body).unwrap_or_else(|| format!("status {}", reply.status));
    let message = format!("Sentinel refused the request: {said}");
    Err(SendError::new(SendErrorKind::Refused, message, correlation))
}

/// The object's JSON without its closing brace: the times of sending follow.
fn open_ended(object: &mapping::Object<'_>) -> Vec<u8> {
    let mut content = serde_json::to_vec(object).expect("an object of strings and numbers cannot fail to serialise");
    content.pop();
    content
}

/// STIX wants `modified` no earlier than `created`, and `valid_until` later than `valid_from`; the service refuses the rest.
fn in_order(created: Timestamp, valid_from: Timestamp, stamp: Stamp) -> Stamp {
    let earliest = valid_from.checked_add(1.second()).unwrap_or(valid_from);
    Stamp { modified: stamp.modified.max(created), expires: stamp.expires.max(earliest) }
}

fn closed(mut content: Vec<u8>, stamp: Stamp) -> Vec<u8> {
    let times =
        format!(",\"modified\":\"{}\",\"valid_until\":\"{}\"}}", mapping::time(stamp.modified), mapping::time(stamp.expires));
    content.extend_from_slice(times.as_bytes());
    content
}

fn no_farewell(reason: &str) -> SendError {
    SendError::new(SendErrorKind::Refused, reason.to_owned(), None)
}

/// What a status means for settings and permissions.
fn systemic(config: &Config, reply: &Reply, correlation: Option<String>) -> SendError {
    let advice = match reply.status {
        401 => "the token is not accepted; check SENTINEL_SCOPE and CLOUD (the audience must be that of Azure Resource Manager)"
            .to_owned(),
        403 => format!(
            "the app needs the role \"Microsoft Sentinel Contributor\" on the workspace {}; a new assignment takes some minutes",
            config.workspace_id
        ),
        404 => {
            format!("there is no workspace {}; SENTINEL_WORKSPACE_ID is the workspace's GUID, not its name", config.workspace_id)
        }
        410 => "the upload API has been retired; look for a newer version".to_owned(),
        status => format!("an unexpected status {status}; check SENTINEL_URL"),
    };
    let said = excerpt(&reply.body).map(|said| format!(" ({said})")).unwrap_or_default();
    let message = format!("failed to upload to Sentinel: {advice}{said}");
    SendError::new(SendErrorKind::Systemic, message, correlation)
}

#[cfg(test)]
mod tests;
