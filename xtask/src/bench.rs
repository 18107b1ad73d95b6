//! `cargo xtask bench`: exports measured against a floor program, in one run on one machine; with `--start`, the start of the
//! custom handler; with `--receipt`, how notifications are received.
//!
//! The floor does the least that must be done: it signs, reads the same pages, parses them into the same types, posts
//! prepared bytes and writes the same number of prepared rows to SQLite in the same transactions. Each part is a process
//! of its own; the emulator is another one, without its rate limit and over plain HTTP.

mod floor;
mod receipt;
mod start;

use std::collections::VecDeque;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use indicator_relay::app::App;
use indicator_relay::export::{Progress, Request};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::platform::pacer::Pacer;
use indicator_relay::settings::Settings;
use indicator_relay::storage::sqlite::SqliteStore;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::docs::root;
use floor::Target;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Indicators of the comparison.
    #[arg(long, default_value_t = 100_000)]
    count: usize,
    /// Indicators of the memory measurement; 0 leaves it out.
    #[arg(long, default_value_t = 1_000_000)]
    large: usize,
    /// Pairs of runs: 3 exports, or 40 starts.
    #[arg(long)]
    pairs: Option<usize>,
    /// The start of the custom handler instead, against a bare program.
    #[arg(long)]
    start: bool,
    /// The receipt of notifications instead, against a bare program.
    #[arg(long)]
    receipt: bool,
    /// With `--receipt`: on Azurite, against the same messages put into its queue without the product.
    #[arg(long, requires = "receipt")]
    azurite: bool,
    /// Deliveries offered a second; 0: as many as are answered.
    #[arg(long, default_value_t = 1_000)]
    rate: u64,
    /// How long they are offered.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Of which target: sentinel, defender, graph-sentinel, graph-defender, or all.
    #[arg(long, default_value = "all")]
    target: String,
    /// One part, in this process: floor, product, read or upload; a server of the receipt.
    #[arg(long, hide = true)]
    part: Option<String>,
    /// The addresses of the storage account that a part uses: blob, queue, table.
    #[arg(long, hide = true, num_args = 3)]
    account: Vec<String>,
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
        if [receipt::PRODUCT, receipt::FLOOR].contains(&part.as_str()) {
            return receipt::serve(&arguments, part).await;
        }
        let measured = match part.as_str() {
            "product" => product(&arguments).await?,
            "floor" => floor::run(&arguments, true, true).await?,
            "read" => floor::run(&arguments, true, false).await?,
            _ => floor::run(&arguments, false, true).await?,
        };
        println!("{}", serde_json::to_string(&measured)?);
        return Ok(());
    }
    if arguments.start {
        return start::run(arguments.pairs.unwrap_or(40)).await;
    }
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let built =
        Command::new(cargo).args(["build", "--release", "--quiet", "-p", "xtask", "-p", "emulator"]).current_dir(root()).status();
    ensure!(built.await?.success(), "failed to build");
    if arguments.receipt {
        return receipt::run(&arguments).await;
    }
    pace();
    let chosen = |name: &str| arguments.target == "all" || arguments.target == name;
    for target in floor::TARGETS.iter().filter(|target| chosen(target.name)) {
        compare(&arguments, target).await?;
    }
    if chosen("sentinel") {
        latency(&arguments).await?;
    }
    for target in floor::TARGETS.iter().filter(|target| chosen(target.name) && target.measures_memory) {
        if arguments.large > 0 {
            let folder = tempfile::tempdir()?;
            let large = fresh(arguments.large, target, "product", folder.path()).await?;
            println!(
                "{:>14}, {:>9} indicators: wall {:.1} s, CPU {:.1} s, peak {:.1} MiB (target 48)",
                target.name,
                arguments.large,
                large.wall_ms / 1e3,
                large.cpu_ms / 1e3,
                mib(large)
            );
        }
    }
    Ok(())
}

/// One part over an emulator of its own: what another part sent would take places.
async fn fresh(count: usize, target: &Target, part: &str, folder: &std::path::Path) -> anyhow::Result<Measured> {
    let emulator = Emulated::start(count, target, &[]).await?;
    emulator.part(part, folder, &format!("{part}.db")).await
}

/// The paces against sliding windows of what the services allow a minute, in simulated time.
fn pace() {
    for (service, limit, burst) in [("Sentinel uploads", 100, 2), ("Defender imports", 30, 1), ("Graph requests", 1_000, 8)] {
        let mut pacer = Pacer::per_minute(limit, burst);
        let (mut now, mut recent, mut refused) = (Duration::ZERO, VecDeque::new(), 0);
        let total = 10_000;
        for _ in 0..total {
            now += pacer.reserve(now);
            while recent.front().is_some_and(|at: &Duration| *at + Duration::from_secs(60) <= now) {
                recent.pop_front();
            }
            if recent.len() >= limit as usize {
                refused += 1;
            } else {
                recent.push_back(now);
            }
        }
        let used = f64::from(total) / (now.as_secs_f64() / 60.0);
        println!("rate: {service}: {used:.1} a minute of {limit} allowed, {refused} refused");
    }
}

async fn compare(arguments: &Arguments, target: &Target) -> anyhow::Result<()> {
    let (mut wall, mut cpu, mut peak, mut again) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for i in 0..arguments.pairs.unwrap_or(3) {
        let folder = tempfile::tempdir()?;
        let floor = fresh(arguments.count, target, "floor", folder.path()).await?;
        let emulator = Emulated::start(arguments.count, target, &[]).await?;
        let product = emulator.part("product", folder.path(), "product.db").await?;
        let second = emulator.part("product", folder.path(), "product.db").await?;
        // Where places are few, a refusal of the first run leaves one that the second fills.
        ensure!(second.accepted <= product.accepted / 1_000, "the second run sent something: {second:?}");
        ensure!(product.unchanged == 0, "the first run found something: {product:?}");
        println!(
            "{:>14}, {:>9} indicators, pair {}: floor {:.2} s wall {:.2} s CPU {:.1} MiB; product {:.2} s wall {:.2} s CPU {:.1} MiB; again, nothing changed: {:.2} s wall {:.2} s CPU",
            target.name,
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
        "{:>14}, medians: wall {:.2} × the floor (target 1.5), CPU {:.2} × (target 1.5), peak {:.1} MiB, unchanged run {:.2} s",
        target.name,
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
    let target = &floor::TARGETS[0];
    let emulator = Emulated::start(count, target, &["--page-latency", "150", "--upload-latency", "200"]).await?;
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
    count: usize,
    /// Kept open: what nobody can read any more would end it.
    _output: Lines<BufReader<ChildStdout>>,
    _folder: tempfile::TempDir,
}

impl Emulated {
    async fn start(count: usize, target: &Target, more: &[&str]) -> anyhow::Result<Self> {
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
        environment.extend(target.settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        Ok(Self { _child: child, environment, count, _output: lines, _folder: folder })
    }

    async fn part(&self, part: &str, folder: &std::path::Path, state: &str) -> anyhow::Result<Measured> {
        let output = Command::new(root().join("target/release/xtask"))
            .args(["bench", "--part", part, "--count", &self.count.to_string(), "--state"])
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
    let client = reqwest::Client::builder().build()?;
    let queue = Arc::clone(&store) as Arc<dyn indicator_relay::storage::Queue>;
    let app = App::new(settings()?, &client, &clock, store, queue).map_err(anyhow::Error::msg)?;
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
