//! Notifications as Microsoft Graph sends them, over the real router: what is answered, and what is in the queues then.
#![expect(clippy::disallowed_methods, reason = "this asks the handler as the host does, without the product's client")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use azure_core::credentials::{AccessToken, TokenCredential, TokenRequestOptions};
use futures_util::future::join_all;
use indicator_relay::app::Surroundings;
use indicator_relay::app::receiver::Receiver;
use indicator_relay::functions::Relay;
use indicator_relay::notifications::client_state::{self, Keys};
use indicator_relay::notifications::item::{Item, QUEUE, URGENT_QUEUE, Work};
use indicator_relay::notifications::keys::{KeyRing, KeySource};
use indicator_relay::notifications::profile::Profile;
use indicator_relay::platform::clock::{BoxFuture, Clock, SystemClock};
use indicator_relay::platform::identity::Resident;
use indicator_relay::platform::secret::Secret;
use indicator_relay::platform::vault::{SecretSource, Vault};
use indicator_relay::storage::azure::{Account, Credential};
use indicator_relay::storage::document::Document;
use indicator_relay::storage::sqlite::SqliteStore;
use indicator_relay::storage::{Place, Queue, StoreError};
use indicator_relay::telemetry::Telemetry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use url::Url;

use crate::between::{Between, Fate, Hooks};
use crate::functions::{Handler, ready, vectors};
use crate::handler::{line, listen};
use crate::rig::{HOUR, TestClock};
use crate::vault;

const KEY: &str = "the key of this test";
const NORMAL: &str = "n0123456789ab";
const URGENT: &str = "u0123456789ab";

/// A clock that says when somebody sets an alarm on it, so that nobody moves it too early.
#[derive(Debug, Clone)]
struct Told {
    clock: TestClock,
    alarms: mpsc::UnboundedSender<Duration>,
}

impl Clock for Told {
    fn now(&self) -> jiff::Timestamp {
        self.clock.now()
    }
    fn monotonic(&self) -> Duration {
        self.clock.monotonic()
    }
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.clock.sleep(duration)
    }
    fn alarm(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let alarm = self.clock.alarm(duration);
        self.alarms.send(duration).expect("somebody listens");
        alarm
    }
}

/// What a queue does with what is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Works,
    /// The second of several is refused.
    Fails,
    Hangs,
    Panics,
    /// Works once `gate` says so.
    Waits,
}

/// A queue that has its bad days.
#[derive(Debug)]
struct Moods {
    mode: Mutex<Mode>,
    asked: AtomicUsize,
    at_the_gate: Notify,
    gate: Notify,
}

impl Moods {
    fn set(&self, mode: Mode) {
        *self.mode.lock().expect("no panic") = mode;
    }
}

impl Hooks for Moods {
    fn write(&self) -> BoxFuture<'_, Fate> {
        let mode = *self.mode.lock().expect("no panic");
        let first = self.asked.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move {
            match mode {
                Mode::Fails if !first => {
                    let (place, cause) = ("memory".to_owned(), "no space is left".to_owned());
                    return Fate::Refused(StoreError { operation: "write", place, cause });
                }
                Mode::Hangs => return std::future::pending().await,
                Mode::Panics => panic!("a bug of this test"),
                Mode::Waits => {
                    self.at_the_gate.notify_one();
                    self.gate.notified().await;
                }
                Mode::Works | Mode::Fails => {}
            }
            Fate::Happens
        })
    }
}

/// A handler that receives, and the queues behind it.
struct Desk {
    handler: Handler,
    queue: Arc<Between<SqliteStore, Moods>>,
    clock: TestClock,
    alarms: mpsc::UnboundedReceiver<Duration>,
    client: reqwest::Client,
}

impl Desk {
    async fn new() -> Self {
        let current = SecretSource::Given(Secret::new(KEY));
        Self::with(KeySource::Secrets { current, previous: None }, TestClock::new(), BTreeMap::new()).await
    }

    async fn with(keys: KeySource, clock: TestClock, profiles: BTreeMap<String, Profile>) -> Self {
        Self::receiving(keys, clock, |receiver| {
            receiver.answer_with(profiles);
            receiver
        })
        .await
    }

    async fn receiving(keys: KeySource, clock: TestClock, set: impl FnOnce(Receiver) -> Receiver) -> Self {
        let (alarms, heard) = mpsc::unbounded_channel();
        let told: Arc<dyn Clock> = Arc::new(Told { clock: clock.clone(), alarms });
        let inner = SqliteStore::open_in_memory(Arc::clone(&told)).expect("SQLite");
        let moods =
            Moods { mode: Mutex::new(Mode::Works), asked: AtomicUsize::new(0), at_the_gate: Notify::new(), gate: Notify::new() };
        let queue = Between::new(&Arc::new(inner), moods);
        let receiver =
            Receiver::new(Arc::clone(&queue) as Arc<dyn Queue>, KeyRing::new(keys, Arc::clone(&told)), Arc::clone(&told));
        let relay = Relay::new(Arc::clone(&told), || Box::pin(std::future::pending()));
        relay.receive_with(set(receiver));
        let handler = Handler::start(relay, told).await;
        Self { handler, queue, clock, alarms: heard, client: reqwest::Client::new() }
    }

    fn url(&self, rest: &str) -> String {
        format!("http://{}/api/notifications{rest}", self.handler.address)
    }

    async fn post(&self, rest: &str, body: impl Into<reqwest::Body>) -> (u16, reqwest::header::HeaderMap, String) {
        let answer = self.client.post(self.url(rest)).body(body).send().await.expect("an answer");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        (status, headers, answer.text().await.expect("text"))
    }

    async fn deliver(&self, items: &[Value]) -> u16 {
        self.post("", delivery(items)).await.0
    }

    /// Everything in a queue, which is empty then; how many messages it was.
    async fn take(&self, queue: &str) -> (usize, Vec<Item>) {
        let (mut count, mut items) = (0, Vec::new());
        loop {
            let messages = self.queue.receive(queue, 100, HOUR).await.expect("a queue");
            if messages.is_empty() {
                return (count, items);
            }
            for message in messages {
                assert!(self.queue.delete(queue, &message).await.expect("a queue"));
                count += 1;
                match serde_json::from_slice(&message.body).expect("work") {
                    Work::Item(task) => items.push(task.item),
                    Work::Batch(batch) => items.extend(batch),
                }
            }
        }
    }

    fn forget_alarms(&mut self) {
        while self.alarms.try_recv().is_ok() {}
    }

    /// Waits until somebody has set an alarm of this length, and lets it ring.
    async fn ring(&mut self, alarm: Duration) {
        while self.alarms.recv().await.expect("an alarm") != alarm {}
        self.clock.advance(alarm);
    }
}

fn state(key: &str, group: &str) -> String {
    client_state::make(&Keys { current: Secret::new(key), previous: None }, group, [9; 16])
}

fn change(id: &str, group: &str) -> Value {
    json!({
        "subscriptionId": "7d0c1a52-0000-4000-8000-000000000001",
        "subscriptionExpirationDateTime": "2026-06-02T09:30:00.1234567+00:00",
        "clientState": state(KEY, group),
        "changeType": "updated",
        "resource": format!("Users/{id}"),
        "tenantId": "c0ffee00-0000-4000-8000-000000000002",
        "resourceData": {"@odata.type": "#Microsoft.Graph.User", "@odata.id": format!("Users/{id}"), "id": id,
            "organizationId": "c0ffee00-0000-4000-8000-000000000002", "eventTime": "2026-06-01T09:30:00.1234567Z",
            "sequenceNumber": 637_000_000_000_000_001_u64},
    })
}

fn changes(count: usize) -> Vec<Value> {
    (0..count).map(|i| change(&i.to_string(), if i % 4 == 0 { URGENT } else { NORMAL })).collect()
}

fn delivery(items: &[Value]) -> String {
    json!({ "value": items }).to_string()
}

fn ids(items: &[Item]) -> BTreeSet<&str> {
    items.iter().filter_map(Item::resource_id).collect()
}

#[tokio::test]
async fn a_handshake_is_answered_while_nothing_else_is_there() {
    let asked = Arc::new(AtomicUsize::new(0));
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let relay = Relay::new(Arc::clone(&clock), {
        let asked = Arc::clone(&asked);
        move || {
            asked.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::pending())
        }
    });
    let handler = Handler::start(relay, clock).await;
    let client = reqwest::Client::new();
    let post = async |rest: &str, body: &'static str| {
        let request = client.post(format!("http://{}/api/notifications{rest}", handler.address)).body(body);
        let answer = request.header("content-type", "text/plain; charset=utf-8").send().await.expect("an answer");
        let head = |name: &str| answer.headers().get(name).map(|value| value.to_str().expect("text").to_owned());
        let told = (answer.status().as_u16(), head("content-type"), head("x-content-type-options"), head("cache-control"));
        (told, answer.text().await.expect("text"))
    };
    let plain = |status: u16| {
        let text = |text: &str| Some(text.to_owned());
        (status, text("text/plain; charset=utf-8"), text("nosniff"), text("no-store"))
    };
    for (rest, token) in [
        ("?validationToken=Validation%3a+Testing+client+application%3a+7d0c", "Validation: Testing client application: 7d0c"),
        ("/guide?code=k&validationtoken=a%2bb", "a+b"),
        ("/?VALIDATIONTOKEN=a%252Fb", "a%2Fb"),
    ] {
        assert_eq!(post(rest, "").await, (plain(200), token.to_owned()), "{rest}");
    }
    let url = format!("http://{}/API/Notifications/guide/?validationToken=x", handler.address);
    let answer = client.post(url).send().await.expect("an answer");
    assert_eq!(answer.text().await.expect("text"), "x", "the host hands paths over as they were spelt");
    let (told, body) = post("?validationToken=token", r#"{"value":[]}"#).await;
    assert_eq!((told, body.as_str()), (plain(200), "token"), "the token wins over a body");
    for rest in ["?validationToken=%3Cscript%3E", "?validationToken=a%0d%0ab", "?validationToken=%ff", "?validationToken="] {
        let (told, body) = post(rest, "").await;
        assert!(told == plain(400) && !body.contains("script"), "{rest}: {body}");
    }
    for method in [reqwest::Method::GET, reqwest::Method::OPTIONS, reqwest::Method::PUT] {
        let url = format!("http://{}/api/notifications?validationToken=x", handler.address);
        let answer = client.request(method, url).send().await.expect("an answer");
        let allowed = answer.headers().get("allow").map(|value| value.to_str().expect("text"));
        assert_eq!((answer.status().as_u16(), allowed), (405, Some("POST")));
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "nothing was looked at for it");
}

#[tokio::test]
async fn every_item_is_in_a_queue_before_the_answer() {
    let desk = Desk::new().await;
    let lifecycle = json!({"subscriptionId": "s", "subscriptionExpirationDateTime": "2026-06-02T00:00:00.0000000Z",
        "clientState": state(KEY, URGENT), "lifecycleEvent": "missed", "organizationId": "tenant"});
    let (status, headers, body) = desk.post("", delivery(&[change("a", NORMAL), change("b", URGENT), lifecycle])).await;
    assert_eq!((status, body.as_str(), headers.get("content-type")), (202, "", None));
    let (messages, normal) = desk.take(QUEUE).await;
    assert_eq!((messages, ids(&normal)), (1, BTreeSet::from(["a"])));
    assert_eq!((normal[0].group.as_deref(), normal[0].client_state.as_deref()), (Some(NORMAL), None));
    assert_eq!(normal[0].notification["resourceData"]["sequenceNumber"], 637_000_000_000_000_001_u64);
    let (messages, urgent) = desk.take(URGENT_QUEUE).await;
    assert_eq!((messages, urgent.iter().filter(|item| item.tenant.as_deref() == Some("tenant")).count()), (2, 1));
}

#[tokio::test]
async fn what_is_dropped_on_purpose_is_answered_like_what_is_kept_and_counted() {
    let (_guard, lines) = listen();
    let desk = Desk::new().await;
    let wrong = json!({"clientState": state("another key", NORMAL), "changeType": "updated"});
    let probe = json!({"subscriptionId": "NA", "subscriptionExpirationDateTime": "NA", "clientState": "NA", "changeType": "Validation: x"});
    let future = json!({"clientState": state(KEY, NORMAL), "changeType": "unknownFutureValue"});
    let mixed = delivery(&[change("a", NORMAL), wrong.clone(), wrong, probe, future, json!(null)]);
    assert_eq!(desk.post("", mixed).await.0, 202);
    let told = line(&lines, |line| line["event"] == "notification.received").await;
    for (name, count) in [
        ("accepted", 1),
        ("messages", 1),
        ("dropped", 5),
        ("wrong_client_state", 2),
        ("foreign_client_state", 1),
        ("unknown_event", 1),
        ("no_object", 1),
        ("not_json", 0),
    ] {
        assert_eq!(told[name], count, "{name}: {told}");
    }
    let message =
        "received 6 notifications; dropped 5: 1 no object, 1 foreign client state, 2 wrong client state, 1 unknown event";
    assert_eq!(told["message"], message);
    assert!(!told.to_string().contains("v1."), "no client state is written anywhere");
    for (body, name) in
        [("<html>", "not_json"), (r#"{"value":5}"#, "no_items"), (r#"{"value":[]}"#, "no_items"), (r#"{"value":["#, "not_json")]
    {
        assert_eq!(desk.post("", body).await.0, 202, "{body}: the same would come again for four hours");
        let all = lines.lines();
        let told = all.iter().rfind(|line| line["event"] == "notification.received").expect("a line");
        assert_eq!((&told[name], &told["dropped"]), (&1.into(), &1.into()), "{body}: {told}");
    }
    let changed =
        |line: &&Value| line["message"].as_str().is_some_and(|said| said.starts_with("a delivery came that is no JSON"));
    let told: Vec<Value> = lines.lines().iter().filter(changed).cloned().collect();
    assert!(told.len() == 1 && told[0]["level"] == "WARN", "one in a minute: anybody can send such: {told:#?}");
    assert!(lines.lines().iter().all(|line| line["event"] != "notification.empty"));
    for body in ["", " \n"] {
        assert_eq!(desk.post("", body).await.0, 202);
    }
    let alarm = line(&lines, |line| line["event"] == "notification.empty").await;
    assert_eq!(alarm["level"], "ERROR");
    let alarms = || lines.lines().iter().filter(|line| line["event"] == "notification.empty").count();
    assert_eq!(alarms(), 1, "one in a minute: anybody can send such");
    assert_eq!((desk.take(QUEUE).await.0, desk.take(URGENT_QUEUE).await.0), (1, 0));
}

#[tokio::test]
async fn what_is_not_kept_is_never_answered_as_kept() {
    let (_guard, lines) = listen();
    let mut desk = Desk::new().await;
    desk.queue.hooks.set(Mode::Fails);
    let (status, _, body) = desk.post("", delivery(&changes(3))).await;
    assert_eq!((status, body.as_str()), (503, "not kept; send it again"));
    let told = line(&lines, |line| line["event"] == "notification.not_kept").await;
    assert!(told["level"] == "ERROR" && told["error"].as_str().is_some_and(|error| error.contains("no space")), "{told}");

    desk.queue.hooks.set(Mode::Panics);
    assert_eq!(desk.deliver(&changes(1)).await, 503);

    desk.queue.hooks.set(Mode::Hangs);
    desk.forget_alarms();
    let (client, url) = (desk.client.clone(), desk.url(""));
    let waiting =
        tokio::spawn(async move { client.post(url).body(delivery(&changes(40))).send().await.expect("an answer").status() });
    desk.ring(Duration::from_millis(2_500)).await;
    assert_eq!(waiting.await.expect("no panic").as_u16(), 503, "in time, though not kept");

    // What Microsoft Graph sends again comes whole; what was put before comes twice.
    desk.take(QUEUE).await;
    desk.take(URGENT_QUEUE).await;
    desk.queue.hooks.set(Mode::Works);
    assert_eq!(desk.deliver(&changes(3)).await, 202);
    let (normal, urgent) = (desk.take(QUEUE).await.1, desk.take(URGENT_QUEUE).await.1);
    assert_eq!((ids(&normal), ids(&urgent)), (BTreeSet::from(["1", "2"]), BTreeSet::from(["0"])));
}

#[tokio::test]
async fn a_sender_that_goes_away_ends_nothing() {
    let desk = Desk::new().await;
    desk.queue.hooks.set(Mode::Waits);
    let mut stream = TcpStream::connect(desk.handler.address).await.expect("a connection");
    let body = delivery(&[change("a", NORMAL)]);
    let head = format!("POST /api/notifications HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(head.as_bytes()).await.expect("written");
    desk.queue.hooks.at_the_gate.notified().await;
    drop(stream);
    desk.queue.hooks.gate.notify_one();
    while desk.queue.count(QUEUE).await.expect("a queue") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ids(&desk.take(QUEUE).await.1), BTreeSet::from(["a"]));
}

#[tokio::test]
async fn a_large_delivery_is_one_message_for_each_queue() {
    let desk = Desk::new().await;
    assert_eq!(desk.deliver(&changes(32)).await, 202);
    assert_eq!((desk.take(QUEUE).await.0, desk.take(URGENT_QUEUE).await.0), (24, 8));
    assert_eq!(desk.deliver(&changes(4_000)).await, 202);
    let ((normal, some), (urgent, others)) = (desk.take(QUEUE).await, desk.take(URGENT_QUEUE).await);
    assert_eq!((normal, urgent, ids(&some).len(), ids(&others).len()), (1, 1, 3_000, 1_000));
}

#[tokio::test]
async fn many_at_once_lose_nothing() {
    let desk = Desk::new().await;
    let deliveries: Vec<_> =
        (0..200).map(|i| vec![change(&format!("{i}-a"), NORMAL), change(&format!("{i}-b"), URGENT)]).collect();
    let answers = join_all(deliveries.iter().map(|items| desk.deliver(items))).await;
    assert!(answers.iter().all(|status| *status == 202));
    let (normal, urgent) = (desk.take(QUEUE).await, desk.take(URGENT_QUEUE).await);
    assert_eq!((normal.0, ids(&normal.1).len(), urgent.0, ids(&urgent.1).len()), (200, 200, 200, 200));
}

#[tokio::test]
async fn a_playbook_says_how_its_deliveries_are_answered() {
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let guide = Profile {
        code: 201,
        headers: vec![header("X-Flow", "one"), header("Content-Type", "text/html"), header("no name", "x")],
        body: "<p>Accepted</p>".to_owned(),
    };
    let plain = Profile { code: 200, headers: Vec::new(), body: "ok".to_owned() };
    let profiles = BTreeMap::from([("guide".to_owned(), guide), ("a b".to_owned(), plain)]);
    let current = SecretSource::Given(Secret::new(KEY));
    let desk = Desk::with(KeySource::Secrets { current, previous: None }, TestClock::new(), profiles).await;
    let (status, headers, body) = desk.post("/guide", delivery(&changes(1))).await;
    assert_eq!(
        (status, body.as_str(), &headers["x-flow"], &headers["content-type"]),
        (201, "<p>Accepted</p>", &"one".parse().expect("a value"), &"text/html".parse().expect("a value"))
    );
    let (status, headers, body) = desk.post("/a%20b", "not even JSON").await;
    assert_eq!((status, body.as_str(), headers["content-type"].to_str().ok()), (200, "ok", Some("text/plain; charset=utf-8")));
    for rest in ["", "/", "/unknown", "/gu%ffide"] {
        let (status, _, body) = desk.post(rest, delivery(&changes(1))).await;
        assert_eq!((status, body.as_str()), (202, ""), "{rest}: kept all the same");
    }
    desk.queue.hooks.set(Mode::Panics);
    assert_eq!(desk.post("/guide", delivery(&changes(1))).await.0, 503, "no profile says that something was kept");
}

/// An account with one blob, which is sent when `gate` says so; each request for it is told.
async fn slow_blob(gate: Arc<Notify>) -> (Account, mpsc::UnboundedReceiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address: Url = format!("http://{}/account", listener.local_addr().expect("an address")).parse().expect("an address");
    let (requests, told) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.expect("a request"));
            }
            requests.send(()).expect("somebody listens");
            gate.notified().await;
            let body = "version = 1\n[profile.guide]\ncode = 201\nbody = \"Accepted\"\n";
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
            stream.write_all(answer.as_bytes()).await.expect("an answer");
        }
    });
    let credential = Credential::Key(Secret::new("a2V5"));
    let (blob, queue, table) = (address.clone(), address.clone(), address);
    (Account { name: "account".to_owned(), blob, queue, table, credential }, told)
}

#[tokio::test]
async fn a_document_that_is_slow_keeps_no_delivery_waiting_and_is_read_once_for_all() {
    let gate = Arc::new(Notify::new());
    let (account, mut asked) = slow_blob(Arc::clone(&gate)).await;
    let (place, system): (_, Arc<dyn Clock>) = (Place::Azure(Box::new(account)), Arc::new(SystemClock::new()));
    let document = Document::open("playbooks/playbooks.toml", &place, &reqwest::Client::new(), &system).expect("a document");
    let current = SecretSource::Given(Secret::new(KEY));
    let keys = KeySource::Secrets { current, previous: None };
    let mut desk = Desk::receiving(keys, TestClock::new(), |receiver| receiver.reading(Arc::new(document))).await;
    let begun = |desk: &Desk| {
        let (client, url) = (desk.client.clone(), desk.url("/guide"));
        tokio::spawn(
            async move { client.post(url).body(delivery(&changes(1))).send().await.expect("an answer").status().as_u16() },
        )
    };
    // While it is kept, half a second passes, and nothing is left to wait for.
    desk.queue.hooks.set(Mode::Waits);
    let first = begun(&desk);
    asked.recv().await.expect("it is read beside the keeping");
    desk.queue.hooks.at_the_gate.notified().await;
    desk.clock.advance(Duration::from_millis(600));
    desk.queue.hooks.gate.notify_one();
    assert_eq!(first.await.expect("no panic"), 202);
    desk.queue.hooks.set(Mode::Works);
    for _ in 0..3 {
        assert_eq!(desk.post("/guide", delivery(&changes(1))).await.0, 202, "at once");
    }
    assert!(asked.try_recv().is_err(), "one reading goes on for all");
    desk.clock.advance(Duration::from_millis(100));
    gate.notify_one();
    until_answered(&desk, 201).await;
    assert!(asked.try_recv().is_err());
    // Read again after a minute; until then the answer is the one known before.
    desk.clock.advance(Duration::from_secs(61));
    desk.forget_alarms();
    for _ in 0..3 {
        assert_eq!(desk.post("/guide", delivery(&changes(1))).await.0, 201);
    }
    asked.recv().await.expect("it is read again");
    assert!(asked.try_recv().is_err());
    gate.notify_one();
    until_asked(&desk, &mut asked).await;
}

/// The reading goes on in a task: deliveries are sent until one is answered so.
async fn until_answered(desk: &Desk, status: u16) {
    let answered = async { while desk.post("/guide", delivery(&changes(1))).await.0 != status {} };
    tokio::time::timeout(Duration::from_secs(60), answered).await.expect("it is answered so");
}

async fn until_asked(desk: &Desk, asked: &mut mpsc::UnboundedReceiver<()>) {
    let told = async {
        while asked.try_recv().is_err() {
            desk.clock.advance(Duration::from_secs(61));
            assert_eq!(desk.post("/guide", delivery(&changes(1))).await.0, 201);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("it is read");
}

#[tokio::test]
async fn the_first_delivery_of_a_process_gives_the_document_half_a_second() {
    let gate = Arc::new(Notify::new());
    let (account, mut asked) = slow_blob(Arc::clone(&gate)).await;
    let (place, system): (_, Arc<dyn Clock>) = (Place::Azure(Box::new(account)), Arc::new(SystemClock::new()));
    let document = Document::open("playbooks/playbooks.toml", &place, &reqwest::Client::new(), &system).expect("a document");
    let keys = KeySource::Secrets { current: SecretSource::Given(Secret::new(KEY)), previous: None };
    let mut desk = Desk::receiving(keys, TestClock::new(), |receiver| receiver.reading(Arc::new(document))).await;
    let (client, url) = (desk.client.clone(), desk.url("/guide"));
    let first =
        tokio::spawn(
            async move { client.post(url).body(delivery(&changes(1))).send().await.expect("an answer").status().as_u16() },
        );
    asked.recv().await.expect("it is read");
    desk.ring(Duration::from_millis(500)).await;
    assert_eq!(first.await.expect("no panic"), 202, "and no more than that");
    gate.notify_one();
    until_answered(&desk, 201).await;
}

#[tokio::test]
async fn requests_are_taken_as_the_host_hands_them_over() {
    let desk = Desk::new().await;
    let mut asked = 0;
    for case in vectors("http-proxy") {
        let request = &case["request"];
        let (Some(method), Some(target)) = (request["method"].as_str(), request["target"].as_str()) else { continue };
        // An older host falls back to the envelope, which is not ours.
        if !target.starts_with("/api/") {
            continue;
        }
        let url = format!("http://{}{target}", desk.handler.address);
        let mut ours = desk.client.request(method.parse().expect("a method"), url);
        for pair in request["headers"].as_array().expect("headers") {
            let (name, value) = (pair[0].as_str().expect("text"), pair[1].as_str().expect("text"));
            if !["host", "content-length", "transfer-encoding"].contains(&name.to_lowercase().as_str()) {
                ours = ours.header(name, value);
            }
        }
        let answer = ours.body(request["body"].as_str().unwrap_or_default().to_owned()).send().await.expect("an answer");
        let (status, body) = (answer.status().as_u16(), answer.text().await.expect("text"));
        let expected = match (method, target.contains("validationToken")) {
            ("POST", true) => (200, "a b+c"),
            ("POST", false) => (202, ""),
            _ => (405, body.as_str()),
        };
        assert_eq!((status, body.as_str()), expected, "{}", case["id"]);
        asked += 1;
    }
    assert_eq!(asked, 12);
}

#[tokio::test]
async fn what_is_too_long_or_too_slow_is_refused() {
    let mut desk = Desk::new().await;
    let padded = |length: usize| {
        let mut body = delivery(&[change("a", NORMAL)]);
        body.extend(std::iter::repeat_n(' ', length - body.len()));
        body
    };
    let longest = 16 << 20;
    assert_eq!(desk.post("", padded(longest)).await.0, 202);
    assert_eq!(desk.take(QUEUE).await.0, 1);

    let mut stream = TcpStream::connect(desk.handler.address).await.expect("a connection");
    let head = format!("POST /api/notifications HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", longest + 1);
    stream.write_all(head.as_bytes()).await.expect("written");
    assert_refused(&mut stream, "HTTP/1.1 413").await;

    // In chunks, of which none says how many there will be.
    let mut stream = TcpStream::connect(desk.handler.address).await.expect("a connection");
    stream
        .write_all(b"POST /api/notifications HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await
        .expect("written");
    let chunk = [format!("{:x}\r\n", 1 << 20).into_bytes(), vec![b' '; 1 << 20], b"\r\n".to_vec()].concat();
    for _ in 0..16 {
        stream.write_all(&chunk).await.expect("written");
    }
    stream.write_all(b"1\r\n").await.expect("written");
    stream.write_all(b" \r\n").await.expect("written");
    assert_refused(&mut stream, "HTTP/1.1 413").await;

    desk.forget_alarms();
    let mut stream = TcpStream::connect(desk.handler.address).await.expect("a connection");
    stream
        .write_all(b"POST /api/notifications HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{\"value\":")
        .await
        .expect("written");
    desk.ring(Duration::from_secs(30)).await;
    assert_refused(&mut stream, "HTTP/1.1 408").await;

    // Not a byte of it comes.
    desk.forget_alarms();
    let mut stream = TcpStream::connect(desk.handler.address).await.expect("a connection");
    stream.write_all(b"POST /api/notifications HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n").await.expect("written");
    desk.ring(Duration::from_secs(5)).await;
    assert_refused(&mut stream, "HTTP/1.1 408").await;
    assert_eq!(desk.take(QUEUE).await.0, 0);
}

/// This answer, and the connection is closed.
async fn assert_refused(stream: &mut TcpStream, status: &str) {
    let mut answer = Vec::new();
    // The end may come as a reset, since not all was read.
    drop(stream.read_to_end(&mut answer).await);
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with(&status.to_lowercase()) && answer.contains("connection: close"), "{status}: {answer}");
}

/// An identity that never answers, and with it the vault.
#[derive(Debug)]
pub(crate) struct Silent;

#[async_trait::async_trait]
impl TokenCredential for Silent {
    async fn get_token(&self, _: &[&str], _: Option<TokenRequestOptions<'_>>) -> azure_core::Result<AccessToken> {
        std::future::pending().await
    }
}

/// Keys in a vault that never answers.
fn out_of_reach(clock: &TestClock) -> KeySource {
    let url = "https://vault.invalid".parse().expect("an address");
    let (resident, http) = (Resident::Managed { client_id: None }, reqwest::Client::new());
    let vault = Vault::with(url, &resident, http, Arc::new(clock.clone()), Arc::new(Silent)).expect("a vault");
    let current = SecretSource::Kept { vault: Arc::new(vault), name: "client-state-key".to_owned() };
    KeySource::Secrets { current, previous: None }
}

#[tokio::test]
async fn who_owes_nobody_an_answer_waits_some_seconds_for_a_slow_vault() {
    let clock = TestClock::new();
    let (alarms, mut heard) = mpsc::unbounded_channel();
    let ring = KeyRing::new(out_of_reach(&clock), Arc::new(Told { clock: clock.clone(), alarms }));
    let waiting = tokio::spawn({
        let ring = ring.clone();
        async move { ring.keys_at_leisure().await }
    });
    assert_eq!(heard.recv().await, Some(Duration::from_secs(15)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(ring.keys().await, None, "a delivery is not kept waiting");
    assert!(!waiting.is_finished());
    clock.advance(Duration::from_secs(14));
    assert_eq!(waiting.await.expect("no panic"), None, "nor does anybody wait for ever");
}

#[tokio::test]
async fn items_are_kept_unproven_while_a_vault_is_slow() {
    let clock = TestClock::new();
    let keys = out_of_reach(&clock);
    let mut desk = Desk::with(keys, clock, BTreeMap::new()).await;
    let (client, url) = (desk.client.clone(), desk.url(""));
    let items = [change("a", URGENT), json!({"clientState": "none of ours", "changeType": "updated"})];
    let waiting = tokio::spawn(async move { client.post(url).body(delivery(&items)).send().await.expect("an answer").status() });
    desk.ring(Duration::from_secs(1)).await;
    assert_eq!(waiting.await.expect("no panic").as_u16(), 202, "after a second, not after the vault's time-out");
    let (messages, items) = desk.take(URGENT_QUEUE).await;
    assert_eq!((messages, items[0].group.as_deref(), items[0].client_state.clone()), (1, None, Some(state(KEY, URGENT))));
    assert_eq!(desk.take(QUEUE).await.0, 0);
    assert_eq!(desk.deliver(&changes(2)).await, 202, "the others do not wait for it again");
}

#[tokio::test]
async fn a_new_key_is_found_when_something_is_proven_by_it() {
    let kept = vault::Kept::new().await;
    let set = |name: &str, key: &str| kept.emulator.world().vault.insert(name.to_owned(), Some(key.to_owned()));
    let source = |name: &str| SecretSource::Kept { vault: Arc::clone(&kept.vault), name: name.to_owned() };
    let keys = KeySource::Secrets { current: source(vault::NAME), previous: Some(source("the-one-before")) };
    set(vault::NAME, "key one of the vault");
    let desk = Desk::with(keys, kept.clock.clone(), BTreeMap::new()).await;
    let delivered = async |key: &str| {
        let item = json!({"clientState": state(key, NORMAL), "changeType": "updated"});
        assert_eq!(desk.deliver(&[item]).await, 202, "whatever it is");
        desk.take(QUEUE).await.1.len()
    };
    assert_eq!(delivered("key one of the vault").await, 1, "there is no secret for the key before, and need be none");
    set("the-one-before", "key one of the vault");
    set(vault::NAME, "key two of the vault");
    assert_eq!(delivered("key two of the vault").await, 1, "read again at once");
    assert_eq!(delivered("key one of the vault").await, 1, "the key before still counts");
    set(vault::NAME, "key three of the vault");
    assert_eq!(delivered("key three of the vault").await, 0, "nobody makes us ask the vault all the time");
    kept.clock.advance(Duration::from_secs(60));
    assert_eq!(delivered("key three of the vault").await, 1);
    assert_eq!(delivered("anybody's").await, 0);
    set("the-one-before", "key four of the vault");
    kept.clock.advance(HOUR);
    assert_eq!(delivered("key three of the vault").await, 1, "without waiting for the hourly reading");
    assert_eq!(delivered("key four of the vault").await, 1);
}

#[tokio::test]
async fn keys_are_read_each_hour_also_where_nobody_waits_for_them() {
    let kept = vault::Kept::new().await;
    let set = |key: &str| kept.emulator.world().vault.insert(vault::NAME.to_owned(), Some(key.to_owned()));
    set("key one");
    let current = SecretSource::Kept { vault: Arc::clone(&kept.vault), name: vault::NAME.to_owned() };
    let ring = KeyRing::new(KeySource::Secrets { current, previous: None }, Arc::new(kept.clock.clone()));
    assert_eq!(ring.keys().await.map(|keys| keys.current.expose().to_owned()).as_deref(), Some("key one"));
    for key in ["key two", "key three", "key four"] {
        set(key);
        kept.clock.advance(HOUR);
        kept.clock.advance(HOUR);
        let read = async {
            while ring.keys().await.is_none_or(|keys| keys.current.expose() != key) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("it is read");
    }
}

#[tokio::test]
async fn notifications_are_kept_though_no_job_can_run() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("state.db");
    let environment = BTreeMap::from([
        ("JOBS".to_owned(), "Bad Name".to_owned()),
        ("STATE_FILE".to_owned(), file.display().to_string()),
        ("CLIENT_STATE_KEY".to_owned(), KEY.to_owned()),
    ]);
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let around =
        Surroundings { environment, client: reqwest::Client::new(), clock: Arc::clone(&clock), telemetry: Telemetry::default() };
    let handler = Handler::start(Relay::new(Arc::clone(&clock), move || ready(Ok(around.clone()))), Arc::clone(&clock)).await;
    let request = reqwest::Client::new().post(format!("http://{}/api/notifications", handler.address));
    assert_eq!(request.body(delivery(&[change("a", NORMAL)])).send().await.expect("an answer").status().as_u16(), 202);
    let store = SqliteStore::open(&file, clock).expect("SQLite");
    assert_eq!(store.count(QUEUE).await.expect("a queue"), 1);
    assert_eq!(handler.post("ExportIndicators", &crate::functions::timer()).await.0, 500, "the jobs say what is wrong with them");
}

#[tokio::test]
async fn a_store_that_cannot_be_opened_is_no_202_and_is_tried_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let missing = folder.path().join("later");
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let around = Surroundings {
        environment: BTreeMap::from([("STATE_FILE".to_owned(), missing.join("state.db").display().to_string())]),
        client: reqwest::Client::new(),
        clock: Arc::clone(&clock),
        telemetry: Telemetry::default(),
    };
    let handler = Handler::start(Relay::new(Arc::clone(&clock), move || ready(Ok(around.clone()))), clock).await;
    let client = reqwest::Client::new();
    let post = async || {
        let request = client.post(format!("http://{}/api/notifications", handler.address)).body("{\"value\":[]}");
        request.send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(post().await, 503);
    std::fs::create_dir(&missing).expect("a folder");
    assert_eq!(post().await, 202);
}
