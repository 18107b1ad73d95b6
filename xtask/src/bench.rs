//! `cargo xtask bench`: exports measured against a floor program, in one run on one machine.
//!
//! The floor does the least that must be done: it signs, reads the same pages, parses them into the same types, posts
//! prepared bytes and writes the same number of prepared rows to SQLite in the same transactions. Each part is a process
//! of its own; the emulator is another one, without its rate limit and over plain HTTP.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use indicator_relay::app::App;
use indicator_relay::export::{Progress, Request};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::platform::identity::Tokens;
use indicator_relay::platform::pacer::Pacer;
use indicator_relay::settings::Settings;
use indicator_relay::sinks::Target;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{StateStore, Version, Write};
use indicator_relay::threatconnect::{Client, Filter, Item};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::docs::root;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Indicators of the comparison.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// Indicators of the memory measurement; 0 leaves it out.
    #[arg(long, default_value_t = 1_000_000)]
    large: usize,
    /// Pairs of runs.
    #[arg(long, default_value_t = 3)]
    pairs: usize,
    /// One part, in this process: floor, product, read or upload.
    #[arg(long, hide = true)]
    part: Option<String>,
    /// Where the part keeps its state.
    #[arg(long, hide = true, default_value = "bench.db")]
    state: std::path::PathBuf,
}

/// What one part measured of itself.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Measured {
    wall_ms: f64,
    cpu_ms: f64,
    peak_kib: u64,
    accepted: u64,
    unchanged: u64,
}

pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(part) = &arguments.part {
        let measured = match part.as_str() {
            "product" => product(&arguments).await?,
            "floor" => floor(&arguments, true, true).await?,
            "read" => floor(&arguments, true, false).await?,
            _ => floor(&arguments, false, true).await?,
        };
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let built =
        Command::new(cargo).args(["build", "--release", "--quiet", "-p", "xtask", "-p", "emulator"]).current_dir(root()).status();
    ensure!(built.await?.success(), "failed to build");
    pace();
    compare(&arguments).await?;
    latency(&arguments).await?;
    if arguments.large > 0 {
        let emulator = Emulated::start(arguments.large, &[]).await?;
        let folder = tempfile::tempdir()?;
        let large = emulator.part("product", folder.path(), "large.db").await?;
        println!(
            "{:>9} indicators: wall {:.1} s, CPU {:.1} s, peak {:.1} MiB (target 48)",
            arguments.large,
            large.wall_ms / 1e3,
            large.cpu_ms / 1e3,
            mib(large)
        );
    }
    Ok(())
}

/// The pace against a sliding window of a hundred a minute, in simulated time.
fn pace() {
    let mut pacer = Pacer::per_minute(100, 2);
    let (mut now, mut recent, mut refused) = (Duration::ZERO, VecDeque::new(), 0);
    let total = 10_000;
    for _ in 0..total {
        now += pacer.reserve(now);
        while recent.front().is_some_and(|at: &Duration| *at + Duration::from_secs(60) <= now) {
            recent.pop_front();
        }
        if recent.len() >= 100 {
            refused += 1;
        } else {
            recent.push_back(now);
        }
    }
    println!("rate: {:.1} requests a minute of 100 allowed, {refused} refused", f64::from(total) / (now.as_secs_f64() / 60.0));
}

async fn compare(arguments: &Arguments) -> anyhow::Result<()> {
    let emulator = Emulated::start(arguments.count, &[]).await?;
    let (mut wall, mut cpu, mut peak, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for i in 0..arguments.pairs {
        let folder = tempfile::tempdir()?;
        let floor = emulator.part("floor", folder.path(), "floor.db").await?;
        let product = emulator.part("product", folder.path(), "product.db").await?;
        let second = emulator.part("product", folder.path(), "product.db").await?;
        ensure!(second.accepted == 0 && product.unchanged == 0, "the second run sent something: {second:?}");
        println!(
            "{:>9} indicators, pair {}: floor {:.2} s wall {:.2} s CPU {:.1} MiB; product {:.2} s wall {:.2} s CPU {:.1} MiB; again, nothing changed: {:.2} s wall {:.2} s CPU",
            arguments.count,
            i + 1,
            floor.wall_ms / 1e3,
            floor.cpu_ms / 1e3,
            mib(floor),
            product.wall_ms / 1e3,
            product.cpu_ms / 1e3,
            mib(product),
            second.wall_ms / 1e3,
            second.cpu_ms / 1e3
        );
        wall.push(product.wall_ms / floor.wall_ms);
        cpu.push(product.cpu_ms / floor.cpu_ms);
        peak.push(mib(product));
        again.push(second.wall_ms / 1e3);
    }
    println!(
        "medians: wall {:.2} × the floor (target 1.5), CPU {:.2} × (target 1.5), peak {:.1} MiB, unchanged run {:.2} s",
        median(wall),
        median(cpu),
        median(peak),
        median(again)
    );
    Ok(())
}

/// 150 ms per page and 200 ms per upload: the slower side alone against both.
async fn latency(arguments: &Arguments) -> anyhow::Result<()> {
    let count = arguments.count;
    let emulator = Emulated::start(count, &["--page-latency", "150", "--upload-latency", "200"]).await?;
    let folder = tempfile::tempdir()?;
    let read = emulator.part("read", folder.path(), "read.db").await?;
    let upload = emulator.part("upload", folder.path(), "upload.db").await?;
    let both = emulator.part("product", folder.path(), "both.db").await?;
    let slower = read.wall_ms.max(upload.wall_ms);
    println!(
        "latency: {count} indicators, reading alone {:.2} s, uploading alone {:.2} s, the export {:.2} s: {:.0} % over the slower side (target 10)",
        read.wall_ms / 1e3,
        upload.wall_ms / 1e3,
        both.wall_ms / 1e3,
        (both.wall_ms / slower - 1.0) * 100.0
    );
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn mib(measured: Measured) -> f64 {
    measured.peak_kib as f64 / 1024.0
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The emulator as a process of its own.
struct Emulated {
    _child: Child,
    environment: Vec<(String, String)>,
    _folder: tempfile::TempDir,
}

impl Emulated {
    async fn start(count: usize, more: &[&str]) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        let mut child = Command::new(root().join("target/release/emulator"))
            .args(["--indicators", &count.to_string(), "--plain", "--no-rate", "--ca"])
            .arg(folder.path().join("ca.pem"))
            .args(more)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut environment = Vec::new();
        while let Some(line) = lines.next_line().await? {
            if let Some((key, value)) = line.strip_prefix("export ").and_then(|pair| pair.split_once('=')) {
                environment.push((key.to_owned(), value.trim_matches('\'').to_owned()));
            }
            if line.starts_with('#') {
                break;
            }
        }
        Ok(Self { _child: child, environment, _folder: folder })
    }

    async fn part(&self, part: &str, folder: &std::path::Path, state: &str) -> anyhow::Result<Measured> {
        let output = Command::new(root().join("target/release/xtask"))
            .args(["bench", "--part", part, "--state"])
            .arg(folder.join(state))
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stderr(Stdio::inherit())
            .output()
            .await?;
        ensure!(output.status.success(), "{part} failed");
        Ok(serde_json::from_slice(&output.stdout)?)
    }
}

/// The settings of the emulator's environment, without a rate.
#[expect(clippy::disallowed_methods, reason = "a part is told by its environment")]
fn settings() -> anyhow::Result<Settings> {
    let mut settings = Settings::from_map(&std::env::vars().collect()).map_err(|problems| anyhow::anyhow!("{problems:?}"))?;
    for job in &mut settings.jobs {
        job.target.share(0);
    }
    Ok(settings)
}

async fn product(arguments: &Arguments) -> anyhow::Result<Measured> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let store = Arc::new(SqliteStore::open(&arguments.state, Arc::clone(&clock))?);
    let app = App::new(settings()?, &reqwest::Client::builder().build()?, &clock, store).map_err(anyhow::Error::msg)?;
    let name = format!("bench-{}", std::process::id());
    let began = clock.monotonic();
    let (job, request) = (&app.exporter.jobs()[0], Request { full: true, ..Request::default() });
    let report = app.exporter.run(job, &request, (&name, &name), &Progress::default()).await;
    let wall = clock.monotonic().saturating_sub(began);
    ensure!(report.complete, "the run is not complete: {:?}", report.error);
    measured(wall, report.outcomes.accepted, report.outcomes.unchanged)
}

fn measured(wall: Duration, accepted: u64, unchanged: u64) -> anyhow::Result<Measured> {
    let stat = std::fs::read_to_string("/proc/self/stat").context("this measures on Linux only")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks: f64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<f64>().ok()).sum();
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok());
    Ok(Measured { wall_ms: wall.as_secs_f64() * 1e3, cpu_ms: ticks * 10.0, peak_kib: peak.unwrap_or(0), accepted, unchanged })
}

/// One page's uploads under way, and the rows to write when they are answered.
struct Posted {
    sends: JoinSet<anyhow::Result<()>>,
    sightings: usize,
}

#[expect(clippy::disallowed_methods, reason = "the floor stands beside the product's own client")]
async fn floor(arguments: &Arguments, reads: bool, posts: bool) -> anyhow::Result<Measured> {
    let settings = settings()?;
    let job = &settings.jobs[0];
    let Target::Sentinel(config) = &job.target else { anyhow::bail!("the floor uploads to Sentinel") };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let http = reqwest::Client::builder().build()?;
    let store = SqliteStore::open(&arguments.state, Arc::clone(&clock))?;
    let tokens = Arc::new(Tokens::new(job.identity.clone(), http.clone()).map_err(anyhow::Error::msg)?);
    let token = tokens.bearer(&job.scope).headers(&reqwest::Method::POST, "").await?.remove(0).1;
    let url = format!(
        "{}workspaces/{}/threat-intelligence-stix-objects:upload?api-version=2024-02-01-preview",
        config.url, config.workspace_id
    );
    let began = Instant::now();
    let client = Client::new(job.source.clone(), http.clone(), Arc::clone(&clock));
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
        if !posts {
            continue;
        }
        let mut sends = JoinSet::new();
        for size in chunks(sightings, 100) {
            if reads {
                rows.commit(vec![Write::Put { key: format!("i.{number}"), value: vec![b'x'; size * 150] }]).await?;
            }
            let (http, url, token, permits) = (http.clone(), url.clone(), token.clone(), Arc::clone(&permits));
            let body = batch(number, size);
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

/// A body of the right size with objects that are all new.
fn batch(number: usize, size: usize) -> String {
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
