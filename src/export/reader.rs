//! From pages to sightings: reads ahead and drafts payloads beside the flow, so that reading and sending overlap.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{Timestamp, ToSpan};
use tokio::sync::mpsc;

use super::decide::{Sighting, Verdict};
use super::report::Tally;
use crate::indicator::{Indicator, Observable};
use crate::platform::clock::Clock;
use crate::sinks::{Draft, Sink, Skip, Terms, screen};
use crate::threatconnect::{Error, Item, Page, Pages};

/// Pages that wait between two stages, at most.
const AHEAD: usize = 1;

/// A page whose indicators have become sightings with drafts.
#[derive(Debug, Default)]
pub(crate) struct DraftedPage {
    /// Source ids read, ascending: their claims are not gone.
    pub ids: Vec<u64>,
    /// The ids of those that could be read whole: what they no longer yield is released.
    pub readable: Vec<u64>,
    pub sightings: Vec<Sighting>,
    /// What was read, and why some of it gives nothing.
    pub tally: Tally,
    pub owners: BTreeMap<String, u64>,
    pub count: Option<u64>,
    pub server_time: Option<Timestamp>,
    pub without_id: u64,
}

impl DraftedPage {
    /// The end of the read.
    pub(crate) fn is_last(&self) -> bool {
        self.ids.is_empty() && self.without_id == 0
    }
}

/// Starts reading; the channel ends after the empty page or an error.
pub(crate) fn read_ahead(
    mut pages: Pages,
    sink: Arc<dyn Sink>,
    terms: Arc<Terms>,
    clock: Arc<dyn Clock>,
) -> mpsc::Receiver<Result<DraftedPage, Error>> {
    let (read, mut pages_read) = mpsc::channel::<Result<Page, Error>>(AHEAD);
    tokio::spawn(async move {
        loop {
            let page = pages.next().await;
            let over = page.as_ref().map_or(true, |page| page.items.is_empty() && page.without_id == 0);
            if read.send(page).await.is_err() || over {
                return;
            }
        }
    });
    let (drafted, out) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        while let Some(page) = pages_read.recv().await {
            let page = page.map(|page| draft_page(page, sink.as_ref(), &terms, clock.now()));
            if drafted.send(page).await.is_err() {
                return;
            }
        }
    });
    out
}

fn draft_page(page: Page, sink: &dyn Sink, terms: &Terms, now: Timestamp) -> DraftedPage {
    let mut drafted =
        DraftedPage { count: page.count, server_time: page.server_time, without_id: page.without_id, ..DraftedPage::default() };
    let read = &mut drafted.tally.read;
    read.pages = 1;
    read.indicators = page.items.len() as u64 + page.without_id;
    read.unreadable = page.without_id;
    if page.without_id > 0 {
        drafted.tally.explain("unreadable", "", "no readable id", "", page.without_id);
    }
    for item in page.items {
        drafted.ids.push(item.id());
        match item {
            Item::Unreadable { id, reason } => {
                drafted.tally.read.unreadable += 1;
                tracing::warn!(indicator.id = id, reason, "an indicator could not be read; what is at the target stays");
                drafted.tally.explain("unreadable", "", &reason, &id.to_string(), 1);
            }
            Item::Indicator(indicator) => {
                *drafted.owners.entry(indicator.owner.clone()).or_default() += 1;
                drafted.readable.push(indicator.id);
                let before = drafted.sightings.len();
                sightings(&indicator, sink, terms, now, &mut drafted.sightings);
                if drafted.sightings.len() == before {
                    drafted.tally.read.without_observable += 1;
                    let reason = "its type gives no observable that can be sent";
                    drafted.tally.explain("without_observable", &indicator.type_name, reason, &indicator.summary, 1);
                } else {
                    drafted.tally.read.with_observable += 1;
                }
            }
        }
    }
    drafted.tally.read.observables = drafted.sightings.len() as u64;
    drafted
}

/// The sightings of one indicator: one per value, whether or not it can be sent.
pub(crate) fn sightings(indicator: &Indicator, sink: &dyn Sink, terms: &Terms, now: Timestamp, out: &mut Vec<Sighting>) {
    let weight = indicator.weight();
    for (kind, raw) in &indicator.values {
        let (observable, made) = match Observable::parse(*kind, raw) {
            Err(malformed) => (None, Err(Skip::Malformed(malformed.0))),
            Ok(observable) => {
                let made = screen(&observable, terms).and_then(|()| sink.draft(indicator, &observable, terms));
                let key = sink.key(&observable);
                (Some((observable, key)), made.and_then(|draft| begins_in_time(draft, now)))
            }
        };
        let raw = if observable.is_none() { raw.clone() } else { String::new() };
        out.push(Sighting {
            id: indicator.id,
            owner: indicator.owner.clone(),
            weight,
            kind: *kind,
            observable,
            raw,
            made,
            claim: None,
            verdict: Verdict::Undecided,
            stamp: None,
            answer: None,
        });
    }
}

fn begins_in_time(draft: Draft, now: Timestamp) -> Result<Draft, Skip> {
    if expiry(now, draft.expiration_days) > draft.valid_from { Ok(draft) } else { Err(Skip::ExpiresBeforeItBegins) }
}

/// `now` and so many days, to the second.
pub(crate) fn expiry(now: Timestamp, days: u16) -> Timestamp {
    let end = now.checked_add((i64::from(days) * 24).hours()).unwrap_or(Timestamp::MAX);
    Timestamp::from_second(end.as_second()).unwrap_or(end)
}
