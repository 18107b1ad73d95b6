//! The custom handler over real HTTP, against the exchanges that were recorded from the Functions host's own classes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use indicator_relay::app::Surroundings;
use indicator_relay::export::{Message, QUEUE};
use indicator_relay::functions::{self, EVENTS, Envelope, FUNCTION_TIMEOUT, FUNCTIONS, Relay, Trigger, When};
use indicator_relay::platform::clock::{BoxFuture, Clock};
use indicator_relay::storage::Queue as _;
use indicator_relay::storage::sqlite::SqliteStore;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::rig::{HOUR, Rig};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn json_file(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub(crate) fn vectors(name: &str) -> Vec<Value> {
    let all = json_file(&root().join("tests/fixtures/host-vectors").join(format!("{name}.json")));
    all.as_array().expect("cases").clone()
}

pub(crate) fn ready<T: Send + 'static>(value: T) -> BoxFuture<'static, T> {
    Box::pin(std::future::ready(value))
}

/// A handler that listens, as the host would find it.
pub(crate) struct Handler {
    pub(crate) address: std::net::SocketAddr,
}

impl Handler {
    pub(crate) async fn start(relay: Arc<Relay>, clock: Arc<dyn Clock>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(functions::serve(listener, functions::router(&relay), clock, None));
        Self { address }
    }

    async fn of(rig: &Rig, folder: &Path) -> Self {
        let around = rig.surroundings(folder);
        let clock: Arc<dyn Clock> = Arc::new(rig.clock.clone());
        Self::start(Relay::new(Arc::clone(&clock), move || ready(Ok(around.clone()))), clock).await
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection { stream: TcpStream::connect(self.address).await.expect("a connection"), read: Vec::new() }
    }

    /// Posts an envelope; status and body, which must be a JSON object whatever happens.
    pub(crate) async fn post(&self, function: &str, envelope: &Value) -> (u16, Value) {
        self.connect().await.ask("POST", &format!("/{function}"), &[], envelope.to_string().as_bytes()).await
    }
}

/// One keep-alive connection of a host that sends chunks, as the real one does.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    pub(crate) async fn ask(&mut self, method: &str, target: &str, headers: &[(String, String)], body: &[u8]) -> (u16, Value) {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        let mut bytes = if body.is_empty() {
            (head + "\r\n").into_bytes()
        } else {
            (head + "Content-Type: application/json; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n").into_bytes()
        };
        for chunk in body.chunks(1 << 16) {
            bytes.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
            bytes.extend(chunk);
            bytes.extend(b"\r\n");
        }
        if !body.is_empty() {
            bytes.extend(b"0\r\n\r\n");
        }
        self.stream.write_all(&bytes).await.expect("written");
        self.answer(method).await
    }

    async fn answer(&mut self, method: &str) -> (u16, Value) {
        let head_end = loop {
            if let Some(at) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await;
        };
        let head = String::from_utf8(self.read.drain(..head_end).collect()).expect("text").to_lowercase();
        let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
        let length: usize = field("content-length").and_then(|text| text.trim().parse().ok()).expect("a length");
        if method == "HEAD" {
            return (status, json!({}));
        }
        while self.read.len() < length {
            self.more().await;
        }
        let body: Vec<u8> = self.read.drain(..length).collect();
        assert_eq!(field("content-type").as_deref(), Some("application/json"), "{head}");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(body.is_object(), "{body}");
        (status, body)
    }

    async fn more(&mut self) {
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).await.expect("readable");
        assert!(count > 0, "the handler closed the connection");
        self.read.extend(&buffer[..count]);
    }
}

pub(crate) fn timer() -> Value {
    let status =
        json!({"Last": "0001-01-01T00:00:00+00:00", "Next": "2026-11-24T09:00:00+00:00", "LastUpdated": "0001-01-01T00:00:00"});
    json!({"Data": {"timer": {"Schedule": {"AdjustForDST": true}, "ScheduleStatus": status, "IsPastDue": false}},
        "Metadata": {"sys": {"MethodName": "ExportIndicators", "UtcNow": "2026-11-24T09:00:00Z", "RandGuid": "6f2c"}}})
}

/// As the host sends it (JSON within JSON), with the message's properties copied over the metadata.
pub(crate) fn queued(text: &str) -> Value {
    json!({"Data": {"message": Value::from(text).to_string()}, "Metadata": {"DequeueCount": "1", "job": "\"default\""}})
}

async fn next_message(rig: &Rig, folder: &Path) -> Option<(String, u32)> {
    let store = SqliteStore::open(&folder.join("state.db"), Arc::new(rig.clock.clone())).expect("SQLite");
    let message = store.receive(QUEUE, 1, HOUR).await.expect("a queue").pop()?;
    assert!(store.delete(QUEUE, &message).await.expect("a queue"));
    let parsed: Message = serde_json::from_slice(&message.body).expect("a message");
    Some((String::from_utf8(message.body).expect("text"), parsed.version))
}

#[tokio::test]
async fn a_tick_of_the_timer_leads_to_a_finished_export() {
    let rig = Rig::new().await;
    rig.add_hosts(30);
    let folder = tempfile::tempdir().expect("a folder");
    let handler = Handler::of(&rig, folder.path()).await;
    let done = (200, json!({"Outputs": {}, "Logs": [], "ReturnValue": null}));
    assert_eq!(handler.post("ExportIndicators", &timer()).await, done);
    let (text, _) = next_message(&rig, folder.path()).await.expect("one message");
    assert_eq!(handler.post("RunExport", &queued(&text)).await, done);
    assert_eq!(rig.live().len(), 30);
    // The host may deliver it once more, in either encoding, or hand over a null.
    assert_eq!(handler.post("RunExport", &queued(&text)).await, done);
    assert_eq!(handler.post("RunExport", &json!({"Data": {"message": text}, "Metadata": {"DequeueCount": 2}})).await, done);
    assert_eq!(
        handler.post("ExportIndicators", &json!({"Data": {"timer": {"ScheduleStatus": null}}, "Metadata": null})).await,
        done
    );
    assert_eq!(rig.emulator.world().sentinel.uploaded, 30);
    assert!(next_message(&rig, folder.path()).await.is_none());
}

#[tokio::test]
async fn a_run_hands_over_before_the_host_would_end_it() {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "100");
    rig.set("TIME_BUDGET", "1s");
    rig.add_hosts(1_200);
    let folder = tempfile::tempdir().expect("a folder");
    let handler = Handler::of(&rig, folder.path()).await;
    assert_eq!(handler.post("RunExport", &queued(r#"{"job": "default"}"#)).await.0, 200, "a run that a person asked for");
    let mut turns = 1;
    while let Some((text, version)) = next_message(&rig, folder.path()).await {
        assert_eq!(version, turns);
        assert_eq!(handler.post("RunExport", &queued(&text)).await.0, 200);
        turns += 1;
    }
    assert!(turns > 2, "{turns}");
    assert_eq!(rig.live().len(), 1_200);
}

#[tokio::test]
async fn the_time_that_opening_took_is_part_of_the_budget() {
    let mut rig = Rig::new().await;
    rig.set("THREATCONNECT_PAGE_SIZE", "100");
    rig.set("TIME_BUDGET", "50s");
    rig.add_hosts(600);
    let folder = tempfile::tempdir().expect("a folder");
    let (around, clock) = (rig.surroundings(folder.path()), rig.clock.clone());
    let relay = Relay::new(Arc::new(rig.clock.clone()), move || {
        clock.advance(std::time::Duration::from_secs(50));
        ready(Ok(around.clone()))
    });
    let handler = Handler::start(relay, Arc::new(rig.clock.clone())).await;
    assert_eq!(handler.post("RunExport", &queued(r#"{"job": "default"}"#)).await.0, 200);
    assert!(rig.live().len() < 600, "{}", rig.live().len());
    let (text, _) = next_message(&rig, folder.path()).await.expect("the run goes on");
    assert_eq!(handler.post("RunExport", &queued(&text)).await.0, 200);
    assert_eq!(rig.live().len(), 600, "open by now");
}

#[test]
fn every_recorded_envelope_is_read() {
    for case in vectors("queue-requests") {
        let Some(body) = case["request"]["body"].as_str() else { continue };
        let binary = case["given"]["bindings"][0]["dataType"] == "binary";
        let envelope = Envelope::parse(body.as_bytes()).expect("an envelope");
        if !binary {
            assert_eq!(envelope.message("msg").as_deref(), case["given"]["message_text"].as_str(), "{}", case["id"]);
        }
        // A message whose properties carry such names may say anything.
        let forged = case["id"] == "queue-04";
        let told = case["given"]["queue_metadata"]["DequeueCount"].as_u64().unwrap_or(0);
        assert!(forged || envelope.dequeue_count().map(u64::from) == Some(told), "{}", case["id"]);
    }
    for case in vectors("timer-requests") {
        let body = case["request"]["body"].as_str().expect("a body");
        let binding = case["given"]["bindings"][0]["name"].as_str().expect("a name");
        let past_due = Envelope::parse(body.as_bytes()).expect("an envelope").timer(binding).is_past_due;
        assert_eq!(past_due, case["given"]["is_past_due"].as_bool().unwrap_or(false), "{}", case["id"]);
    }
}

/// A message of 48 KiB, which in its envelope grows beyond 2 MB, arrives whole.
#[tokio::test]
async fn a_body_above_two_megabytes_is_read() {
    let rig = Rig::new().await;
    rig.add_hosts(2);
    let folder = tempfile::tempdir().expect("a folder");
    let handler = Handler::of(&rig, folder.path()).await;
    let mut envelope = queued(r#"{"job": "default"}"#);
    envelope["Metadata"]["inner"] = json!({"padding": "é".repeat(1_500_000)});
    assert_eq!(handler.post("RunExport", &envelope).await.0, 200);
    assert_eq!(rig.live().len(), 2);
}

#[tokio::test]
async fn whatever_was_recorded_is_answered_with_an_object_on_one_connection() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let handler = Handler::of(&rig, folder.path()).await;
    let mut connection = handler.connect().await;
    let files =
        ["http-envelope", "http-forward", "http-proxy", "outputs", "queue-requests", "readiness", "responses", "timer-requests"];
    let mut asked = 0;
    for case in files.iter().flat_map(|file| vectors(file)) {
        let request = &case["request"];
        let (Some(method), Some(target)) = (request["method"].as_str(), request["target"].as_str()) else { continue };
        // Requests from outside are answered as their protocol says (`notifications`).
        if target.starts_with("/api/notifications") {
            continue;
        }
        let headers: Vec<(String, String)> = request["headers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|pair| (pair[0].as_str().unwrap_or_default().to_owned(), pair[1].as_str().unwrap_or_default().to_owned()))
            .filter(|(name, _)| {
                !["host", "content-length", "transfer-encoding", "content-type"].contains(&name.to_lowercase().as_str())
            })
            .collect();
        let body = request["body"].as_str().unwrap_or_default();
        let (status, answer) = connection.ask(method, target, &headers, body.as_bytes()).await;
        let ours = target == "/" || FUNCTIONS.iter().any(|function| target == format!("/{}", function.name));
        assert_eq!(status, if ours { 200 } else { 404 }, "{}: {answer}", case["id"]);
        asked += 1;
    }
    assert!(asked > 90, "{asked}");
}

#[tokio::test]
async fn what_is_no_envelope_or_no_message_of_ours_fails_so_that_it_is_seen() {
    let rig = Rig::new().await;
    let folder = tempfile::tempdir().expect("a folder");
    let handler = Handler::of(&rig, folder.path()).await;
    for (body, word) in [
        (json!([1]), "Functions host"),
        (json!({"Data": 1}), "Functions host"),
        (json!({}), "export-runs"),
        (queued("hello"), "export-runs"),
        (queued("{}"), "job"),
        (json!({"Data": {"message": null}}), "export-runs"),
    ] {
        let (status, answer) = handler.post("RunExport", &body).await;
        assert!(status == 500 && answer["error"].as_str().is_some_and(|error| error.contains(word)), "{body}: {answer}");
    }
    assert_eq!(handler.connect().await.ask("GET", "/RunExport", &[], b"").await.0, 405);
}

#[tokio::test]
async fn a_panic_ends_one_invocation_and_a_failure_to_start_is_tried_anew() {
    let rig = Rig::new().await;
    rig.add_hosts(1);
    let folder = tempfile::tempdir().expect("a folder");
    let good = rig.surroundings(folder.path());
    let bad = Surroundings { environment: BTreeMap::from([("JOBS".to_owned(), "Bad Name".to_owned())]), ..good.clone() };
    let around = Arc::new(Mutex::new(None));
    let relay = Relay::new(Arc::new(rig.clock.clone()), {
        let around = Arc::clone(&around);
        move || ready(Ok(Option::clone(&around.lock().unwrap_or_else(PoisonError::into_inner)).expect("something around")))
    });
    let set = |now: Surroundings| *around.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    let handler = Handler::start(relay, Arc::new(rig.clock.clone())).await;
    let mut connection = handler.connect().await;
    let body = queued(r#"{"job": "default"}"#).to_string();
    let (status, answer) = connection.ask("POST", "/RunExport", &[], body.as_bytes()).await;
    assert!(status == 500 && answer["error"].as_str().is_some_and(|error| error.contains("panicked")), "{answer}");
    assert_eq!(connection.ask("GET", "/", &[], b"").await, (200, json!({"status": "ready"})), "the same connection lives");
    set(bad);
    let (status, answer) = connection.ask("POST", "/RunExport", &[], body.as_bytes()).await;
    assert!(status == 500 && answer["error"].as_str().is_some_and(|error| error.contains("JOBS")), "{answer}");
    set(good);
    assert_eq!(connection.ask("POST", "/RunExport", &[], body.as_bytes()).await.0, 200);
    assert_eq!(rig.live().len(), 1);
}

#[test]
fn folders_and_adapters_agree() {
    let mut folders = BTreeSet::new();
    for entry in std::fs::read_dir(root().join("functions")).expect("functions").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        let files: Vec<_> = std::fs::read_dir(entry.path()).expect("a folder").flatten().map(|file| file.file_name()).collect();
        assert_eq!(files, ["function.json"], "{name}: the host takes another file for the script");
        let function = FUNCTIONS.iter().find(|function| function.name == name);
        let function = function.unwrap_or_else(|| panic!("functions/{name} has no adapter in src/functions"));
        let text = json_file(&entry.path().join("function.json"));
        let bindings = text["bindings"].as_array().expect("bindings");
        let given = &bindings[0];
        let outputs: Vec<&str> = bindings[1..].iter().filter_map(|output| output["type"].as_str()).collect();
        let wanted: &[&str] = if matches!(function.trigger, Trigger::Http { .. }) { &["http"] } else { &[] };
        assert_eq!(
            outputs, wanted,
            "{name}: what is enqueued goes through the storage API; with a queue the host would not hand the request over"
        );
        match function.trigger {
            Trigger::Timer { binding, schedule } => {
                let text = match schedule {
                    When::Always(text) => text.to_owned(),
                    When::Setting(name) => format!("%{name}%"),
                };
                assert_eq!(given["schedule"], text, "{name}");
                assert_eq!((&given["type"], &given["name"]), (&"timerTrigger".into(), &binding.into()), "{name}");
                assert!(given.get("runOnStartup").is_none(), "{name}: it would run on every scale-out");
            }
            Trigger::Queue { binding, queue } => {
                assert_eq!(
                    (&given["type"], &given["name"], &given["queueName"]),
                    (&"queueTrigger".into(), &binding.into(), &queue.into())
                );
                assert_eq!(given["connection"], "AzureWebJobsStorage", "{name}");
            }
            Trigger::Http { route } => {
                assert_eq!((&given["type"], &given["route"]), (&"httpTrigger".into(), &route.into()), "{name}");
                assert_eq!((&given["authLevel"], &given["methods"]), (&"anonymous".into(), &json!(["post"])), "{name}");
                assert_eq!(bindings[1]["direction"], "out", "{name}");
            }
        }
        assert_eq!(given["direction"], "in", "{name}");
        folders.insert(name);
    }
    let adapters: BTreeSet<String> = FUNCTIONS.iter().map(|function| function.name.to_owned()).collect();
    assert_eq!(folders, adapters, "each adapter in src/functions has a folder in functions/");
}

#[test]
fn host_json_says_what_the_program_takes_for_granted() {
    let host = json_file(&root().join("host.json"));
    assert_eq!(host["version"], "2.0");
    let prefix = host["extensions"]["http"]["routePrefix"].as_str().unwrap_or("api");
    assert_eq!(format!("/{prefix}/"), functions::PREFIX);
    let queues = &host["extensions"]["queues"];
    assert_eq!(queues["visibilityTimeout"], "00:01:00");
    assert_eq!(queues["maxPollingInterval"], "00:00:05");
    assert_eq!(queues["maxDequeueCount"], 5);
    let minutes = FUNCTION_TIMEOUT.as_secs() / 60;
    assert_eq!(host["functionTimeout"], format!("00:{minutes}:00"));
    let sampling = &host["logging"]["applicationInsights"]["samplingSettings"];
    assert!(
        sampling["excludedTypes"].as_str().is_some_and(|types| types.split(';').any(|t| t == "Trace")),
        "alerts wait for traces"
    );
    assert_eq!(host["customHandler"]["enableProxyingHttpRequest"], true);
    assert!(host["customHandler"].get("http").is_none() && host["customHandler"].get("port").is_none());
}

#[test]
fn what_alerts_wait_for_is_written_somewhere() {
    let mut sources = String::new();
    for entry in std::fs::read_dir(root().join("src/functions")).expect("a folder").flatten() {
        if entry.file_name() != "events.rs" {
            sources += &std::fs::read_to_string(entry.path()).expect("text");
        }
    }
    for event in EVENTS {
        assert!(sources.contains(&format!("event = \"{}\"", event.name)), "nobody writes {}", event.name);
    }
    let written = sources.split("event = \"").skip(1).filter_map(|rest| rest.split('"').next());
    for name in written {
        assert!(EVENTS.iter().any(|event| event.name == name), "{name} is not in the table of events");
    }
}
