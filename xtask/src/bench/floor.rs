//! The floor: signs, reads the same pages, parses them into the same types, posts prepared bytes to the same service and
//! writes the same number of prepared rows in the same transactions. Nothing that a worse program would leave out is in it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

use anyhow::ensure;
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::platform::identity::Tokens;
use indicator_relay::sinks::{Target as Sink, TargetProduct};
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{StateStore as _, Version, Write};
use indicator_relay::threatconnect::{Client, Filter, Item};
use tokio::task::JoinSet;

use super::{Arguments, Measured, measured, settings};

/// A target that is measured.
pub(super) struct Target {
    pub name: &'static str,
    /// Beside those of the emulator's environment.
    pub settings: &'static [(&'static str, &'static str)],
    /// At the largest size too.
    pub measures_memory: bool,
}

const DEFENDER: (&str, &str) = ("TARGET_PRODUCT", "Microsoft Defender for Endpoint");
const GRAPH: (&str, &str) = ("DELIVERY", "graph");

pub(super) static TARGETS: [Target; 4] = [
    Target { name: "sentinel", settings: &[], measures_memory: true },
    Target { name: "defender", settings: &[DEFENDER], measures_memory: true },
    Target { name: "graph-sentinel", settings: &[GRAPH], measures_memory: false },
    Target { name: "graph-defender", settings: &[GRAPH, DEFENDER], measures_memory: false },
];

/// One page's uploads under way, and the rows to write when they are answered.
struct Posted {
    sends: JoinSet<anyhow::Result<()>>,
    sightings: usize,
}

#[expect(clippy::disallowed_methods, reason = "the floor stands beside the product's own client")]
pub(super) async fn run(arguments: &Arguments, reads: bool, posts: bool) -> anyhow::Result<Measured> {
    let settings = settings()?;
    let job = &settings.jobs[0];
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let http = reqwest::Client::builder().build()?;
    let store = SqliteStore::open(&arguments.state, Arc::clone(&clock))?;
    let tokens = Arc::new(Tokens::new(job.identity.clone(), http.clone()).map_err(anyhow::Error::msg)?);
    let token = tokens.bearer(&job.scope).headers(&reqwest::Method::POST, "").await?.remove(0).1;
    let (url, size_of_batch, body) = way(&job.target);
    let began = Instant::now();
    let client = Client::new(job.source.clone(), http.clone(), Arc::clone(&clock));
    // Of more than there are places for, the product must know all before it sends any: the floor reads twice as well.
    let mut places = usize::MAX;
    if let Some(capacity) = job.target.capacity().filter(|capacity| reads && arguments.count as u64 > *capacity) {
        places = usize::try_from(capacity)?;
        let mut first = read_pages(client.clone(), job.filter.clone());
        while first.recv().await.is_some_and(|sightings| sightings > 0) {}
    }
    let mut read = read_pages(client, job.filter.clone());
    let mut rows = Rows { store: &store, lease: None, transactions: 0 };
    let mut under_way: VecDeque<Posted> = VecDeque::new();
    let (mut number, mut total) = (0, 0);
    let permits = Arc::new(tokio::sync::Semaphore::new(8));
    let mut synthetic = if reads { 0 } else { arguments.count };
    loop {
        let sightings = if reads {
            match read.recv().await {
                Some(0) | None => break,
                Some(sightings) => sightings,
            }
        } else if synthetic == 0 {
            break;
        } else {
            let page = synthetic.min(1_000);
            synthetic -= page;
            page
        };
        let sightings = sightings.min(places);
        places -= sightings;
        if !posts || sightings == 0 {
            continue;
        }
        let mut sends = JoinSet::new();
        for size in chunks(sightings, size_of_batch) {
            if reads {
                rows.commit(vec![Write::Put { key: format!("i.{number}"), value: vec![b'x'; size * 150] }]).await?;
            }
            let (http, url, token, permits) = (http.clone(), url.clone(), token.clone(), Arc::clone(&permits));
            let body = body(number, size);
            number += 1;
            sends.spawn(async move {
                let _permit = permits.acquire().await?;
                let answer = http
                    .post(&url)
                    .header("authorization", token)
                    .header("content-type", "application/json")
                    .body(body)
                    .send()
                    .await?;
                ensure!(answer.status().is_success(), "status {}", answer.status());
                answer.bytes().await?;
                Ok(())
            });
        }
        total += sightings;
        under_way.push_back(Posted { sends, sightings });
        if under_way.len() >= 3
            && let Some(posted) = under_way.pop_front()
        {
            finish(posted, &mut rows, reads).await?;
        }
    }
    for posted in under_way {
        finish(posted, &mut rows, reads).await?;
    }
    measured(began.elapsed(), total as u64, 0)
}

/// Address, items in a request and their bodies.
fn way(target: &Sink) -> (String, usize, fn(usize, usize) -> String) {
    match target {
        Sink::Sentinel(config) => (
            format!(
                "{}workspaces/{}/threat-intelligence-stix-objects:upload?api-version=2024-02-01-preview",
                config.url, config.workspace_id
            ),
            100,
            stix as fn(usize, usize) -> String,
        ),
        Sink::Defender(config) => (format!("{}api/indicators/import", config.url), 500, defender as fn(usize, usize) -> String),
        Sink::Graph(config) => {
            let body = if config.product == TargetProduct::Sentinel { graph_sentinel } else { graph_defender };
            (format!("{}beta/security/tiIndicators/submitTiIndicators", config.url), 100, body as fn(usize, usize) -> String)
        }
    }
}

/// Signs, reads and parses in a task of its own; sightings per page, 0 at the end.
fn read_pages(client: Client, filter: Filter) -> tokio::sync::mpsc::Receiver<usize> {
    let (pages, read) = tokio::sync::mpsc::channel(2);
    tokio::spawn(async move {
        let mut source = client.pages(&filter, None, 0);
        while let Ok(page) = source.next().await {
            let over = page.items.is_empty();
            let values = page.items.iter().map(|item| match item {
                Item::Indicator(indicator) => indicator.values.len(),
                Item::Unreadable { .. } => 0,
            });
            if pages.send(values.sum::<usize>()).await.is_err() || over {
                return;
            }
        }
    });
    read
}

async fn finish(mut posted: Posted, rows: &mut Rows<'_>, writes: bool) -> anyhow::Result<()> {
    while let Some(sent) = posted.sends.join_next().await {
        sent??;
    }
    if !writes {
        return Ok(());
    }
    for size in chunks(posted.sightings, 49) {
        let n = rows.transactions;
        let claim =
            |i: usize| Write::Put { key: format!("c.default.{:020}.{:043}", n * 50 + i, n * 50 + i), value: vec![b'x'; 140] };
        let target = |i: usize| Write::Put {
            key: format!("t.{:043}", (n * 50 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            value: vec![b'x'; 430],
        };
        rows.commit((0..size).flat_map(|i| [claim(i), target(i)]).collect()).await?;
    }
    rows.commit(vec![Write::Put { key: "r.default".to_owned(), value: vec![b'x'; 3_000] }]).await
}

/// Prepared rows in transactions with a conditional row, as the product's have.
struct Rows<'a> {
    store: &'a SqliteStore,
    lease: Option<Version>,
    transactions: usize,
}

impl Rows<'_> {
    async fn commit(&mut self, mut writes: Vec<Write>) -> anyhow::Result<()> {
        self.transactions += 1;
        writes.push(Write::PutIf { key: "lease".to_owned(), value: vec![b'x'; 120], version: self.lease.take() });
        self.lease = self.store.commit("floor", writes).await?.pop();
        Ok(())
    }
}

fn chunks(total: usize, size: usize) -> impl Iterator<Item = usize> {
    (0..total.div_ceil(size)).map(move |i| size.min(total - i * size))
}

/// Bodies of the right size with objects that are all new.
fn stix(number: usize, size: usize) -> String {
    let mut body = String::from("{\"sourcesystem\":\"Floor\",\"stixobjects\":[");
    for i in 0..size {
        let comma = if i > 0 { "," } else { "" };
        let _ = write!(
            body,
            "{comma}{{\"type\":\"indicator\",\"spec_version\":\"2.1\",\"id\":\"indicator--{number:08x}-0000-4000-8000-{i:012x}\",\"created\":\"2026-01-01T00:00:00.000Z\",\"name\":\"h{number}-{i}.example\",\"description\":\"ThreatConnect | Owner: Acme Org, and some more words to be as long as the real one is\",\"indicator_types\":[\"watchlist\"],\"pattern\":\"[domain-name:value = 'h{number}-{i}.example']\",\"pattern_type\":\"stix\",\"pattern_version\":\"2.1\",\"valid_from\":\"2026-01-01T00:00:00.000Z\",\"confidence\":50,\"labels\":[\"one\",\"two\"],\"object_marking_refs\":[\"marking-definition--f88d31f6-486f-44da-b317-01333bde0b82\"],\"external_references\":[{{\"source_name\":\"ThreatConnect\",\"description\":\"ThreatAssess 721; Threat Rating 4; False positives 0; Action Alert\",\"url\":\"https://example.threatconnect.com/#/details/indicators/1\",\"external_id\":\"1-1\"}}],\"modified\":\"2026-01-02T00:00:00.000Z\",\"valid_until\":\"2030-01-01T00:00:00.000Z\"}}"
        );
    }
    body.push_str("]}");
    body
}

fn list(name: &str, number: usize, size: usize, item: impl Fn(&str) -> String) -> String {
    let items: Vec<String> = (0..size).map(|i| item(&format!("f{number}-{i}"))).collect();
    format!("{{\"{name}\":[{}]}}", items.join(","))
}

fn defender(number: usize, size: usize) -> String {
    list("Indicators", number, size, |name| {
        format!(
            "{{\"indicatorValue\":\"{name}.example\",\"indicatorType\":\"DomainName\",\"action\":\"Audit\",\"generateAlert\":true,\"title\":\"Host: {name}.example\",\"description\":\"ThreatConnect | Owner: Acme Org, and more\",\"severity\":\"Medium\",\"recommendedActions\":\"Details: https://example.threatconnect.com/#/details/indicators/1\",\"externalId\":\"{name}\",\"application\":\"Floor\",\"expirationTime\":\"2040-01-01T00:00:00Z\"}}"
        )
    })
}

fn graph_sentinel(number: usize, size: usize) -> String {
    graph(number, size, "Azure Sentinel")
}

fn graph_defender(number: usize, size: usize) -> String {
    graph(number, size, "Microsoft Defender ATP")
}

fn graph(number: usize, size: usize, product: &str) -> String {
    list("value", number, size, |name| {
        format!(
            "{{\"action\":\"alert\",\"confidence\":50,\"description\":\"ThreatConnect | Owner: Acme Org, and more\",\"externalId\":\"{name}\",\"domainName\":\"{name}.example\",\"killChain\":[\"C2\"],\"knownFalsePositives\":\"0\",\"severity\":3,\"tags\":[\"one\",\"two\"],\"targetProduct\":\"{product}\",\"threatType\":\"WatchList\",\"tlpLevel\":\"amber\",\"additionalInformation\":\"https://example.threatconnect.com/#/details/indicators/1\",\"expirationDateTime\":\"2040-01-01T00:00:00Z\"}}"
        )
    })
}
