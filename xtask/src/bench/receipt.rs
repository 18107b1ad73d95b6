//! The receipt of notifications: deliveries over loopback to the product's own route, which keeps each in a SQLite file, and
//! to a bare axum program that answers the same and keeps nothing.
//!
//! Apart because the load is open: deliveries come when they are due, however long the ones before take. Each server is a
//! process of its own, with as many threads as the handler has; who sends is another.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use indicator_relay::app::receiver::Receiver;
use indicator_relay::functions::{self, Relay};
use indicator_relay::notifications::client_state::{self, Keys};
use indicator_relay::notifications::item::{QUEUE, URGENT_QUEUE};
use indicator_relay::notifications::keys::{KeyRing, KeySource};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::platform::secret::Secret;
use indicator_relay::platform::vault::SecretSource;
use indicator_relay::storage::Queue;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::telemetry::{self, Form, Lines};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::OnceCell;
use tracing::level_filters::LevelFilter;

use super::{Arguments, Measured, measured, mib};
use crate::docs::root;

pub(super) const PRODUCT: &str = "receipt";
pub(super) const FLOOR: &str = "receipt-floor";
/// Kept open, as the host does.
const CONNECTIONS: usize = 64;
const KEY: &str = "the key of this measurement";

/// What the sender saw.
struct Sent {
    /// Ascending.
    took: Vec<Duration>,
    answered: u64,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let floor = one(arguments, FLOOR).await?;
    let product = one(arguments, PRODUCT).await?;
    let ratio = |part: f64| millis(quantile(&product, part)) / millis(quantile(&floor, part));
    println!("receipt: p50 {:.2} × the bare program, p99 {:.2} ×", ratio(0.5), ratio(0.99));
    Ok(())
}

/// One server under the whole load.
async fn one(arguments: &Arguments, part: &str) -> anyhow::Result<Sent> {
    let folder = tempfile::tempdir()?;
    let mut server = Command::new(root().join("target/release/xtask"))
        .args(["bench", "--part", part, "--state"])
        .arg(folder.path().join("receipt.db"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("no output")?).lines();
    let address = lines.next_line().await?.context("it does not listen")?.parse()?;
    let sent = load(address, arguments.rate, arguments.seconds).await?;
    drop(server.stdin.take()); // the sign that it was all
    let told: Measured = serde_json::from_str(&lines.next_line().await?.context("it ended")?)?;
    ensure!(server.wait().await?.success(), "{part} failed");
    println!(
        "{part:>13}: {} offered a second for {} s: {} of {} answered 202, {} queued; p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms; CPU {:.2} s, peak {:.1} MiB",
        arguments.rate,
        arguments.seconds,
        sent.answered,
        sent.took.len(),
        told.accepted,
        millis(quantile(&sent, 0.5)),
        millis(quantile(&sent, 0.99)),
        millis(quantile(&sent, 1.0)),
        told.cpu_ms / 1e3,
        mib(told),
    );
    ensure!(part == FLOOR || told.accepted >= sent.answered, "deliveries were answered and lost");
    Ok(sent)
}

/// A server until its standard input ends: tells its address first, and then what it measured of itself.
pub(super) async fn serve(arguments: &Arguments, part: &str) -> anyhow::Result<()> {
    let (state, keeps) = (arguments.state.clone(), part == PRODUCT);
    // As many threads as the handler has, whatever this program has.
    let served = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            println!("{}", listener.local_addr()?);
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
            let began = clock.monotonic();
            let mut queued = 0;
            if keeps {
                let store = Arc::new(SqliteStore::open(&state, Arc::clone(&clock))?);
                tokio::spawn(product(listener, Arc::clone(&store) as Arc<dyn Queue>, Arc::clone(&clock))?);
                ended().await?;
                queued = store.count(QUEUE).await? + store.count(URGENT_QUEUE).await?;
            } else {
                // The body is read, as it must be.
                let answer = post(|_: Bytes| async { StatusCode::ACCEPTED });
                tokio::spawn(axum::serve(listener, Router::new().route("/api/notifications", answer)).into_future());
                ended().await?;
            }
            measured(clock.monotonic().saturating_sub(began), queued, 0)
        })
    });
    println!("{}", serde_json::to_string(&served.await??)?);
    Ok(())
}

/// The product's own route, with its lines.
fn product(
    listener: TcpListener,
    queue: Arc<dyn Queue>,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<impl Future<Output = ()> + use<>> {
    let nowhere = || std::fs::File::options().write(true).open("/dev/null");
    let telemetry = telemetry::init(telemetry::Options {
        environment: &std::collections::BTreeMap::new(),
        form: Form::Lines(Lines::new(Arc::clone(&clock), Box::new(nowhere()?), Box::new(nowhere()?))),
        level: LevelFilter::INFO,
        client: &Arc::new(OnceCell::new()),
        clock: &clock,
        runtime: &tokio::runtime::Handle::current(),
    });
    let keys = KeySource::Secrets { current: SecretSource::Given(Secret::new(KEY)), previous: None };
    let mut receiver = Receiver::new(queue, KeyRing::new(keys, Arc::clone(&clock)), Arc::clone(&clock));
    receiver.telemetry = telemetry;
    let relay = Relay::new(Arc::clone(&clock), || Box::pin(std::future::pending()));
    relay.receive_with(receiver);
    Ok(functions::serve(listener, functions::router(&relay), clock, None))
}

async fn ended() -> anyhow::Result<()> {
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await??;
    Ok(())
}

/// What is due, and when.
struct Load {
    address: SocketAddr,
    clock: SystemClock,
    began: Duration,
    state: String,
    next: AtomicU64,
    total: u64,
    rate: u64,
}

async fn load(address: SocketAddr, rate: u64, seconds: u64) -> anyhow::Result<Sent> {
    let keys = Keys { current: Secret::new(KEY), previous: None };
    let state = client_state::make(&keys, "n0123456789ab", [9; 16]);
    let clock = SystemClock::new();
    // A moment for the connections.
    let began = clock.monotonic() + Duration::from_millis(200);
    let load = Arc::new(Load { address, clock, began, state, next: AtomicU64::new(0), total: rate * seconds, rate });
    let senders: Vec<_> = (0..CONNECTIONS).map(|_| tokio::spawn(sender(Arc::clone(&load)))).collect();
    let mut all = Sent { took: Vec::new(), answered: 0 };
    for sender in senders {
        let sent = sender.await??;
        all.took.extend(sent.took);
        all.answered += sent.answered;
    }
    all.took.sort_unstable();
    Ok(all)
}

/// One connection, which takes the next delivery that is due whenever it is free.
async fn sender(load: Arc<Load>) -> anyhow::Result<Sent> {
    let mut stream = TcpStream::connect(load.address).await?;
    stream.set_nodelay(true)?;
    let mut sent = Sent { took: Vec::new(), answered: 0 };
    loop {
        let i = load.next.fetch_add(1, Ordering::Relaxed);
        if i >= load.total {
            return Ok(sent);
        }
        let body = delivery(i, &load.state);
        let head = "POST /api/notifications HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json";
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let mut from = load.began + Duration::from_micros(i * 1_000_000 / load.rate);
        let now = load.clock.monotonic();
        if now < from {
            // A timer that rings late is not the server's fault; a connection that is free late is.
            load.clock.sleep(from.saturating_sub(now)).await;
            from = load.clock.monotonic();
        }
        stream.write_all(request.as_bytes()).await?;
        let status = answer(&mut stream).await?;
        sent.took.push(load.clock.monotonic().saturating_sub(from));
        sent.answered += u64::from(status == 202);
    }
}

/// The status, when the whole answer is there.
async fn answer(stream: &mut TcpStream) -> anyhow::Result<u16> {
    let mut bytes = Vec::with_capacity(512);
    loop {
        ensure!(stream.read_buf(&mut bytes).await? > 0, "the connection was closed");
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok()).unwrap_or(0);
        if body.len() >= length {
            return Ok(head.split(' ').nth(1).context("no status")?.parse()?);
        }
    }
}

/// One item, as Microsoft Graph sends it.
fn delivery(i: u64, state: &str) -> String {
    serde_json::json!({"value": [{
        "subscriptionId": "7d0c1a52-0000-4000-8000-000000000001",
        "subscriptionExpirationDateTime": "2026-06-02T09:30:00.1234567+00:00",
        "clientState": state,
        "changeType": "updated",
        "resource": format!("Users/{i}"),
        "tenantId": "c0ffee00-0000-4000-8000-000000000002",
        "resourceData": {"@odata.type": "#Microsoft.Graph.User", "@odata.id": format!("Users/{i}"), "id": i.to_string(),
            "organizationId": "c0ffee00-0000-4000-8000-000000000002", "eventTime": "2026-06-01T09:30:00.1234567Z",
            "sequenceNumber": 637_000_000_000_000_000_u64 + i},
    }]})
    .to_string()
}

#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in a list")]
fn quantile(sent: &Sent, part: f64) -> Duration {
    let last = sent.took.len().saturating_sub(1);
    sent.took.get((last as f64 * part).round() as usize).copied().unwrap_or_default()
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
