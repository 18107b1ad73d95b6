//! The calls of the Indicators API, with their lanes, what a status means, and what is done about a bulk deletion's 404.
//!
//! Knows ids, filters and payloads; not observables or drafts.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use url::Url;

use super::wire::{self, Entry};
use super::{BATCH, COLUMN};
use crate::platform::clock::Clock;
use crate::platform::http::{Authorize, Bounds, Failure, Http, Reply, Request, Traffic, request_id};
use crate::platform::pacer::Lanes;
use crate::sinks::{SendError, SendErrorKind};

const INDICATORS: &str = "/api/indicators";
/// Indicators in one page: half of what the service gives (vendor page "List indicators"), so that no answer grows large.
const PAGE: usize = 5_000;
/// Pages of one list: enough for a full tenant in pages of a hundred.
const PAGES: usize = 200;
/// Five thousand indicators of some kilobytes.
const LONGEST_ANSWER: usize = 64 << 20;
/// Requests of one deletion that look for ids that are gone, where the list does not show them.
const SEARCHES: usize = 100;
/// Where a 429 does not say when to come back.
const DEFAULT_WAIT: Duration = Duration::from_secs(60);

/// The API of one tenant.
#[derive(Debug)]
pub(crate) struct Api {
    imports: Http,
    /// The same client under the other limit.
    others: Http,
    base: Url,
}

/// A call that failed, and with which status.
#[derive(Debug)]
pub(crate) struct Failed {
    /// None if there was no answer that counts.
    pub status: Option<u16>,
    pub error: SendError,
}

impl From<Failed> for SendError {
    fn from(failed: Failed) -> Self {
        failed.error
    }
}

impl Api {
    pub(crate) fn new(
        base: Url,
        client: reqwest::Client,
        clock: Arc<dyn Clock>,
        bearer: Arc<dyn Authorize>,
        lanes: &Lanes,
    ) -> Self {
        let imports = Http::new(COLUMN.product, client, clock, base.clone(), bearer)
            .paced(Arc::clone(&lanes.sending))
            .bounded(Bounds { body: LONGEST_ANSWER, ..Bounds::default() });
        Self { others: imports.clone().paced(Arc::clone(&lanes.other)), imports, base }
    }

    /// Of both lanes.
    pub(crate) fn traffic(&self) -> &Traffic {
        self.imports.traffic()
    }

    /// Submits or updates; a success says nothing of the items yet.
    pub(crate) async fn import(&self, payloads: &[&[u8]]) -> Result<Reply, Failed> {
        let path = format!("{INDICATORS}/import");
        call(&self.imports, "import indicators", Method::POST, path, Some(wire::import(payloads))).await
    }

    /// The least that proves access.
    pub(crate) async fn probe(&self) -> Result<(), Failed> {
        call(&self.others, "list indicators", Method::GET, format!("{INDICATORS}?$top=1"), None).await.map(|_| ())
    }

    /// All indicators that a filter finds, or all; each once.
    pub(crate) async fn list(&self, filter: Option<&str>) -> Result<Vec<Entry>, Failed> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        let mut path = query(0, filter);
        let (mut read, mut asked_from) = (0, 0);
        for _ in 0..PAGES {
            let reply = call(&self.others, "list indicators", Method::GET, path, None).await?;
            let Some(page) = wire::page(&reply.body) else {
                return Err(Failed::without_sense("Defender's list of indicators could not be read", &reply));
            };
            let count = page.entries.len();
            read += count;
            entries.extend(page.entries.into_iter().filter(|entry| seen.insert(entry.id.clone())));
            // `$top` bounds all pages of one query together; and a regional host may link to the global one, where we do not go.
            let more = count > 0 && (page.next.is_some() || read - asked_from >= PAGE);
            path = match page.next.and_then(|link| wire::below(&self.base, &link)) {
                Some(link) => link,
                None if more => {
                    asked_from = read;
                    query(read, filter)
                }
                None => return Ok(entries),
            };
        }
        let message = format!("Defender's list of indicators has no end: {PAGES} pages with {} of them", entries.len());
        Err(Failed { status: None, error: SendError::new(SendErrorKind::Transient, message, None) })
    }

    /// What is there with one of these values; more than was asked for if a list is the cheaper way, or the only one.
    pub(crate) async fn find(&self, values: &[String]) -> Result<Vec<Entry>, Failed> {
        let Some(filters) = wire::filters(values) else { return self.list(None).await };
        let mut found = Vec::new();
        for filter in filters {
            match self.list(Some(&filter)).await {
                Ok(entries) => found.extend(entries),
                Err(failed) if matches!(failed.status, Some(400 | 414)) => return self.list(None).await,
                Err(failed) => return Err(failed),
            }
        }
        Ok(found)
    }

    /// Deletes; an id that is not there is deleted already.
    ///
    /// A 404 says that some of the ids are not there, and not whether the others are deleted (vendor page "Batch delete
    /// indicators"): then the list tells what is left, and where it may not be read, halves do.
    pub(crate) async fn delete(&self, ids: &[String]) -> Result<(), Failed> {
        let mut seen = HashSet::new();
        let ids: Vec<&str> = ids.iter().map(String::as_str).filter(|id| seen.insert(*id)).collect();
        let mut work = batches(&ids);
        let mut listed = false;
        let mut searches = 0;
        while let Some(batch) = work.pop() {
            let failed = match self.delete_at_once(&batch).await {
                Ok(()) => continue,
                Err(failed) if failed.status == Some(404) => failed,
                Err(failed) => return Err(failed),
            };
            if !listed {
                // Also tells a missing id from a wrong address, which answers 404 to everything.
                listed = true;
                match self.list(None).await {
                    Ok(entries) => {
                        let there: HashSet<String> = entries.into_iter().map(|entry| entry.id).collect();
                        let left = work.into_iter().flatten().chain(batch).filter(|id| there.contains(*id));
                        work = batches(&left.collect::<Vec<_>>());
                        continue;
                    }
                    Err(failed) if failed.status == Some(403) => {}
                    Err(failed) => return Err(failed),
                }
            }
            if searches >= SEARCHES {
                let message = "too many of the ids are gone to find the others, and Defender does not list them".to_owned();
                return Err(Failed {
                    error: SendError::new(SendErrorKind::Transient, message, failed.error.correlation),
                    ..failed
                });
            }
            if let (half @ [_, ..], other) = batch.split_at(batch.len() / 2) {
                searches += 2;
                work.extend([other.to_vec(), half.to_vec()]);
            }
        }
        Ok(())
    }

    async fn delete_at_once(&self, ids: &[&str]) -> Result<(), Failed> {
        let path = format!("{INDICATORS}/BatchDelete");
        call(&self.others, "delete indicators", Method::POST, path, Some(wire::deletion(ids))).await.map(|_| ())
    }
}

impl Failed {
    fn without_sense(message: &str, reply: &Reply) -> Self {
        let error = SendError::new(SendErrorKind::Transient, message.to_owned(), request_id(&reply.headers));
        Self { status: Some(reply.status), error }
    }
}

fn batches<'a>(ids: &[&'a str]) -> Vec<Vec<&'a str>> {
    ids.chunks(BATCH).map(<[_]>::to_vec).collect()
}

fn query(skip: usize, filter: Option<&str>) -> String {
    let mut path = format!("{INDICATORS}?$top={PAGE}");
    if skip > 0 {
        let _ = write!(path, "&$skip={skip}");
    }
    if let Some(filter) = filter {
        let _ = write!(path, "&$filter={filter}");
    }
    path
}

/// Every call may be repeated: a submit is an update then, and what is deleted stays so.
async fn call(
    http: &Http,
    operation: &'static str,
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
) -> Result<Reply, Failed> {
    let request = Request { operation, method, path, body: body.map(Bytes::from), idempotent: true };
    let reply = http.send(request).await.map_err(unanswered)?;
    if (200..300).contains(&reply.status) { Ok(reply) } else { Err(refused(operation, &reply)) }
}

fn unanswered(failure: Failure) -> Failed {
    Failed { status: failure.status, error: SendError::unanswered(failure, DEFAULT_WAIT) }
}

/// What a status means for settings and permissions, or for what was sent.
fn refused(operation: &str, reply: &Reply) -> Failed {
    let (said, target) = wire::error(&reply.body);
    let correlation = target.or_else(|| request_id(&reply.headers));
    let status = Some(reply.status);
    if matches!(reply.status, 400 | 413) {
        let said = said.unwrap_or_else(|| format!("status {}", reply.status));
        let message = format!("Defender refused the request: {said}");
        return Failed { status, error: SendError::new(SendErrorKind::Refused, message, correlation) };
    }
    let advice = match reply.status {
        401 => "the token is not accepted; check DEFENDER_SCOPE and CLOUD (the audience must be that of WindowsDefenderATP)"
            .to_owned(),
        403 => "the app needs the application permission \"Ti.ReadWrite.All\" of WindowsDefenderATP with an administrator's \
                consent; if it has that, check DEFENDER_SCOPE: tokens for https://api.security.microsoft.com are refused, the \
                scope is https://api.securitycenter.microsoft.com/.default"
            .to_owned(),
        404 | 410 => "there is no Indicators API at this address; check DEFENDER_URL".to_owned(),
        other => format!("an unexpected status {other}; check DEFENDER_URL"),
    };
    let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
    let message = format!("failed to {operation} at Defender: {advice}{said}");
    Failed { status, error: SendError::new(SendErrorKind::Systemic, message, correlation) }
}
