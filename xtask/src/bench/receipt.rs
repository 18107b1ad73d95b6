//! The receipt of notifications: deliveries over loopback to the product's own route, which keeps each in a SQLite file, and
//! to a bare axum program that answers the same and keeps nothing. With Azurite: to the product, which keeps each in a queue
//! there, and the same messages put into that queue without it.
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
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use emulator::azurite::{Azurite, AzuriteOptions};
use emulator::host::QueueClient;
use indicator_relay::app::receiver::Receiver;
use indicator_relay::functions::{self, Relay};
use indicator_relay::notifications::client_state::{self, Keys};
use indicator_relay::notifications::item::{QUEUE, URGENT_QUEUE};
use indicator_relay::notifications::keys::{KeyRing, KeySource};
use indicator_relay::notifications::receipt;
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::platform::secret::Secret;
use indicator_relay::platform::vault::SecretSource;
use indicator_relay::storage::azure::{Account, Credential, DEVELOPMENT_ACCOUNT, DEVELOPMENT_KEY};
use indicator_relay::storage::{self, Place, Queue};
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
    /// Of these, those that were answered as they should be.
    answered: u64,
    wall: Duration,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.azurite {
        return on_azurite(arguments).await;
    }
    let folder = tempfile::tempdir()?;
    let floor = one(arguments, FLOOR, &[]).await?;
    let state = folder.path().join("receipt.db").display().to_string();
    let product = one(arguments, PRODUCT, &["--state".to_owned(), state]).await?;
    compare("the bare program", &floor, &product);
    Ok(())
}

fn compare(floor_name: &str, floor: &Sent, product: &Sent) {
    let ratio = |part: f64| millis(quantile(product, part)) / millis(quantile(floor, part));
    println!(
        "receipt: {:.2} × the time of {floor_name} in all, p50 {:.2} ×, p99 {:.2} ×",
        product.wall.as_secs_f64() / floor.wall.as_secs_f64(),
        ratio(0.5),
        ratio(0.99)
    );
}

/// Each way has an Azurite of its own: one that holds many messages is slower.
async fn on_azurite(arguments: &Arguments) -> anyhow::Result<()> {
    let azurite = Azurite::start(AzuriteOptions::default()).await?;
    let client = QueueClient::new(&azurite.connection_string())?;
    client.put_creating(QUEUE, "the first makes the queue").await?;
    let raw = load(&Way::Put(Box::new(client)), arguments).await?;
    tell(arguments, "raw puts", &raw);
    ensure!(raw.answered == raw.took.len() as u64, "messages were not put");
    let azurite = Azurite::start(AzuriteOptions::default()).await?;
    let urls = [azurite.blob_url(), azurite.queue_url(), azurite.table_url()].map(str::to_owned);
    let product = one(arguments, PRODUCT, &[["--account".to_owned()].as_slice(), urls.as_slice()].concat()).await?;
    compare("raw puts", &raw, &product);
    Ok(())
}

fn tell(arguments: &Arguments, part: &str, sent: &Sent) {
    let offered = match arguments.rate {
        0 => format!("{CONNECTIONS} at once"),
        rate => format!("{rate} offered a second"),
    };
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = sent.answered as f64 / sent.wall.as_secs_f64();
    println!(
        "{part:>13}: {offered} for {} s: {} of {} taken, {rate:.0} a second; p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms",
        arguments.seconds,
        sent.answered,
        sent.took.len(),
        millis(quantile(sent, 0.5)),
        millis(quantile(sent, 0.99)),
        millis(quantile(sent, 1.0)),
    );
}

/// One server under the whole load.
async fn one(arguments: &Arguments, part: &str, place: &[String]) -> anyhow::Result<Sent> {
    let mut server = Command::new(root().join("target/release/xtask"))
        .args(["bench", "--part", part])
        .args(place)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut lines = BufReader::new(server.stdout.take().context("no output")?).lines();
    let address = lines.next_line().await?.context("it does not listen")?.parse()?;
    let sent = load(&Way::Deliver(address), arguments).await?;
    drop(server.stdin.take()); // the sign that it was all
    let told: Measured = serde_json::from_str(&lines.next_line().await?.context("it ended")?)?;
    ensure!(server.wait().await?.success(), "{part} failed");
    tell(arguments, part, &sent);
    println!("{:>13}  {} queued; CPU {:.2} s, peak {:.1} MiB", "", told.accepted, told.cpu_ms / 1e3, mib(told));
    ensure!(part == FLOOR || told.accepted >= sent.answered, "deliveries were answered and lost");
    Ok(sent)
}

/// Where the product keeps what it receives.
fn place(arguments: &Arguments) -> anyhow::Result<Place> {
    let [blob, queue, table] = arguments.account.as_slice() else { return Ok(Place::Embedded(arguments.state.clone())) };
    Ok(Place::Azure(Box::new(Account {
        name: DEVELOPMENT_ACCOUNT.to_owned(),
        blob: blob.parse()?,
        queue: queue.parse()?,
        table: table.parse()?,
        credential: Credential::Key(Secret::new(DEVELOPMENT_KEY)),
    })))
}

/// A server until its standard input ends: tells its address first, and then what it measured of itself.
pub(super) async fn serve(arguments: &Arguments, part: &str) -> anyhow::Result<()> {
    let (place, keeps) = (place(arguments)?, part == PRODUCT);
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
                let client = reqwest::Client::builder().build()?;
                let queue = storage::open(&place, &client, &clock).map_err(anyhow::Error::msg)?.queue;
                tokio::spawn(product(listener, Arc::clone(&queue), Arc::clone(&clock))?);
                ended().await?;
                queued = queue.count(QUEUE).await? + queue.count(URGENT_QUEUE).await?;
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

/// Where notifications go.
enum Way {
    /// To a server, as Microsoft Graph sends them.
    Deliver(SocketAddr),
    /// Into the queue, as the product puts them.
    Put(Box<QueueClient>),
}

/// What is due, and when.
struct Load {
    clock: SystemClock,
    began: Duration,
    state: String,
    next: AtomicU64,
    /// Sent in all, if each has its time; else, until this time.
    total: Option<u64>,
    until: Duration,
    rate: u64,
}

impl Load {
    /// The next, and since when it is due: now, if all connections are to be busy.
    async fn next(&self) -> Option<(u64, Duration)> {
        let i = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(total) = self.total else {
            let now = self.clock.monotonic();
            return (now < self.until).then_some((i, now));
        };
        if i >= total {
            return None;
        }
        let due = self.began + Duration::from_micros(i * 1_000_000 / self.rate);
        let now = self.clock.monotonic();
        if now >= due {
            return Some((i, due));
        }
        // A timer that rings late is not the server's fault; a connection that is free late is.
        self.clock.sleep(due.saturating_sub(now)).await;
        Some((i, self.clock.monotonic()))
    }
}

async fn load(way: &Way, arguments: &Arguments) -> anyhow::Result<Sent> {
    let keys = Keys { current: Secret::new(KEY), previous: None };
    let state = client_state::make(&keys, "n0123456789ab", [9; 16]);
    let clock = SystemClock::new();
    // A moment for the connections.
    let began = clock.monotonic() + Duration::from_millis(200);
    let (rate, seconds) = (arguments.rate, arguments.seconds);
    let total = (rate > 0).then_some(rate * seconds);
    let until = began + Duration::from_secs(seconds);
    let load = Arc::new(Load { clock, began, state, next: AtomicU64::new(0), total, until, rate });
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..CONNECTIONS {
        match way {
            Way::Deliver(address) => drop(senders.spawn(deliver(Arc::clone(&load), *address))),
            Way::Put(client) => drop(senders.spawn(put(Arc::clone(&load), QueueClient::clone(client)))),
        }
    }
    let mut all = Sent { took: Vec::new(), answered: 0, wall: Duration::ZERO };
    while let Some(sent) = senders.join_next().await {
        let sent = sent??;
        all.took.extend(sent.took);
        all.answered += sent.answered;
    }
    all.wall = load.clock.monotonic().saturating_sub(began);
    all.took.sort_unstable();
    Ok(all)
}

/// One connection, which takes the next delivery that is due whenever it is free.
async fn deliver(load: Arc<Load>, address: SocketAddr) -> anyhow::Result<Sent> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut sent = Sent { took: Vec::new(), answered: 0, wall: Duration::ZERO };
    while let Some((i, from)) = load.next().await {
        let body = delivery(i, &load.state);
        let head = "POST /api/notifications HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json";
        let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(request.as_bytes()).await?;
        let status = answer(&mut stream).await?;
        sent.took.push(load.clock.monotonic().saturating_sub(from));
        sent.answered += u64::from(status == 202);
    }
    Ok(sent)
}

/// The same items, as the product makes messages of them.
async fn put(load: Arc<Load>, client: QueueClient) -> anyhow::Result<Sent> {
    let keys = Keys { current: Secret::new(KEY), previous: None };
    let mut sent = Sent { took: Vec::new(), answered: 0, wall: Duration::ZERO };
    while let Some((i, from)) = load.next().await {
        let received = receipt::receive(delivery(i, &load.state).as_bytes(), Some(&keys), load.clock.now());
        let put = received.put.first().context("the delivery is not accepted")?;
        client.put_creating(put.queue, &STANDARD.encode(serde_json::to_vec(&put.work)?)).await?;
        sent.took.push(load.clock.monotonic().saturating_sub(from));
        sent.answered += 1;
    }
    Ok(sent)
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
