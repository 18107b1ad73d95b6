//! The custom handler when something around it fails: what it tells, and what it does then.
#![expect(clippy::disallowed_methods, reason = "this asks the handler as the host does, without the product's client")]

use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulator::azurite::{Azurite, AzuriteOptions};
use emulator::{Emulator, FreePort, Options as Emulated};
use indicator_relay::app::{App, Surroundings};
use indicator_relay::functions::Relay;
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::storage::azure::{self, Names};
use indicator_relay::telemetry::{self, Form, Lines, Options, Telemetry};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::sync::Notify;
use tracing::level_filters::LevelFilter;

use crate::azurite::{account, fresh_queue};
use crate::functions::{Handler, queued, ready, timer};
use crate::rig::{HOUR, Rig};
use crate::telemetry::{Kept, client};
use crate::vault;

/// The lines of this thread, on which a test's tasks are too.
pub(crate) fn listen() -> (tracing::dispatcher::DefaultGuard, Kept) {
    // Somebody who wants every line is always there: else a line that was first met while nobody listened may stay unwritten.
    static ALWAYS: std::sync::Once = std::sync::Once::new();
    ALWAYS.call_once(|| drop(tracing::subscriber::set_global_default(tracing_subscriber::registry())));
    let kept = Kept::default();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (subscriber, _, problem) = telemetry::prepare(Options {
        environment: &std::collections::BTreeMap::new(),
        form: Form::Lines(Lines::new(Arc::clone(&clock), Box::new(kept.clone()), Box::new(kept.clone()))),
        level: LevelFilter::DEBUG,
        client: &client(),
        clock: &clock,
        runtime: &tokio::runtime::Handle::current(),
    });
    assert_eq!(problem, None);
    (tracing::dispatcher::set_default(&tracing::Dispatch::new(subscriber)), kept)
}

/// The first line that fits, which other tasks write.
pub(crate) async fn line(kept: &Kept, fits: impl Fn(&Value) -> bool) -> Value {
    let look = async {
        loop {
            if let Some(line) = kept.lines().into_iter().find(&fits) {
                return line;
            }
            tokio::task::yield_now().await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(60), look).await;
    found.unwrap_or_else(|_| panic!("it does not come: {:#?}", kept.lines()))
}

fn says(line: &Value, words: &str) -> bool {
    line["message"].as_str().is_some_and(|message| message.contains(words))
}

#[tokio::test]
async fn a_connection_that_breaks_loses_no_line() {
    let (_guard, lines) = listen();
    let (asked, gate) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let relay = Relay::new(Arc::clone(&clock), {
        let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
        move || {
            let (asked, gate) = (Arc::clone(&asked), Arc::clone(&gate));
            Box::pin(async move {
                asked.notify_one();
                gate.notified().await;
                Err("there is nothing around".to_owned())
            })
        }
    });
    let handler = Handler::start(relay, clock).await;
    let mut connection = handler.connect().await;
    let request = "POST /RunExport HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";
    connection.stream.write_all(request.as_bytes()).await.expect("written");
    asked.notified().await;
    drop(connection);
    line(&lines, |line| says(line, "a connection ended")).await;
    gate.notify_one();
    let failed = line(&lines, |line| line["event"] == "invocation.failed").await;
    assert_eq!((&failed["level"], &failed["function"]), (&"ERROR".into(), &"RunExport".into()), "{failed}");
}

#[tokio::test]
async fn the_timer_reads_secrets_again_and_tells_of_one_that_ends() {
    let (_guard, lines) = listen();
    let (rig, kept) = (Rig::new().await, vault::Kept::new().await);
    assert!(kept.value().await.is_ok(), "as the start reads it");
    let app = App { vault: Some(Arc::clone(&kept.vault)), ..rig.app() };
    let clock: Arc<dyn Clock> = Arc::new(rig.clock.clone());
    let handler = Handler::start(Relay::opened(Arc::clone(&clock), app), clock).await;
    let soon = rig.now() + Duration::from_secs(86_400 * 3 + 60);
    kept.emulator.world().vault_ends.insert(vault::NAME.to_owned(), soon);
    kept.clock.advance(HOUR);
    assert_eq!(handler.post("ExportIndicators", &timer()).await.0, 200);
    let told = line(&lines, |line| line["event"] == "secret.expiring").await;
    assert_eq!((&told["secret"], &told["days"]), (&vault::NAME.into(), &3.into()), "{told}");
    kept.emulator.world().vault.insert(vault::NAME.to_owned(), None);
    kept.clock.advance(HOUR);
    assert_eq!(handler.post("ExportIndicators", &timer()).await.0, 200, "no reason to fail the tick");
    let warned = line(&lines, |line| says(line, "the secret is disabled")).await;
    assert_eq!(warned["level"], "WARN");
}

#[tokio::test]
async fn the_body_of_a_message_goes_when_it_was_handled_and_one_that_is_gone_is_told() {
    let (_guard, lines) = listen();
    let emulator = Emulator::start(Emulated::default()).await.expect("free ports");
    let root = reqwest::Certificate::from_pem(emulator.ca_pem().as_bytes()).expect("a certificate");
    let client = reqwest::Client::builder().tls_certs_only([root]).build().expect("a client");
    // Of its own: the job has the name that it has in other tests too, and the tables the usual ones.
    let azurite = Azurite::start(AzuriteOptions::default()).await.expect("Azurite");
    let clock = Arc::new(SystemClock::new()) as Arc<dyn Clock>;
    let mut environment = emulator.environment();
    environment.insert("AzureWebJobsStorage".to_owned(), azurite.connection_string());
    let around = Surroundings { environment, client: client.clone(), clock: Arc::clone(&clock), telemetry: Telemetry::default() };
    let relay = Relay::new(Arc::clone(&clock), move || ready(Ok(around.clone())));
    let handler = Handler::start(relay, Arc::clone(&clock)).await;

    let queue = azure::open(&account(&azurite), &Names::default(), &client, &clock).expect("an account").queue;
    let (q, body) = (fresh_queue(), r#"{"job": "default"}"#.to_owned() + &" ".repeat(60_000));
    queue.put(&q, body.into_bytes(), Duration::ZERO).await.expect("put");
    let blob = queue.receive(&q, 1, HOUR).await.expect("received").remove(0).blob.expect("a blob");
    let text = format!(r#"{{"indicator-relay-blob":"{blob}"}}"#);
    let (status, answer) = handler.post("RunExport", &queued(&text)).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(queue.open(&text).await.expect("answered"), None, "the body is gone");
    assert_eq!(handler.post("RunExport", &queued(&text)).await.0, 200);
    let warned = line(&lines, |line| says(line, "the message's body is gone")).await;
    assert_eq!(warned["level"], "WARN");
}

/// Reads lines of the process until one fits; all before it are kept.
async fn until(reader: &mut (impl tokio::io::AsyncBufRead + Unpin), seen: &Mutex<Vec<Value>>, fits: impl Fn(&Value) -> bool) {
    let mut text = String::new();
    let wait = Duration::from_secs(60);
    while tokio::time::timeout(wait, reader.read_line(&mut text)).await.expect("a line in a minute").expect("text") > 0 {
        let line: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}"));
        let found = fits(&line);
        seen.lock().expect("no panic").push(line);
        if found {
            return;
        }
        text.clear();
    }
    panic!("the program has ended: {:#?}", seen.lock().expect("no panic"));
}

#[tokio::test]
async fn certificates_that_are_missing_are_told_and_read_anew_and_events_are_written_at_every_level() {
    let emulator = Emulator::start(Emulated::default()).await.expect("free ports");
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    let free = FreePort::find().expect("a port");
    let port = free.number();
    let mut environment = emulator.environment();
    for (key, value) in [
        ("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string()),
        ("SSL_CERT_FILE", ca.display().to_string()),
        ("STATE_FILE", folder.path().join("state.db").display().to_string()),
        ("LOGGING_LEVEL", "error".to_owned()),
    ] {
        environment.insert(key.to_owned(), value);
    }
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_indicator-relay"));
    command.env_clear().envs(&environment).current_dir(folder.path()).kill_on_drop(true);
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
    let mut errors = BufReader::new(process.stderr.take().expect("piped"));
    let mut output = BufReader::new(process.stdout.take().expect("piped"));
    let (told, written) = (Mutex::default(), Mutex::default());
    let names = |line: &Value| says(line, "SSL_CERT_FILE") && says(line, "ca.pem");
    let client = reqwest::Client::new();
    // As the host does, until the program listens.
    let listens = async {
        while client.get(format!("http://127.0.0.1:{port}/")).send().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), listens).await.expect("an answer in a minute");
    until(&mut errors, &told, |line| line["level"] == "ERROR" && names(line)).await;
    assert_eq!(told.lock().expect("no panic").len(), 1, "one line, before an invocation");
    let fire = async || {
        let request = client.post(format!("http://127.0.0.1:{port}/ExportIndicators"));
        request.body(timer().to_string()).send().await.expect("an answer").status().as_u16()
    };
    assert_eq!(fire().await, 500);
    until(&mut errors, &told, |line| line["event"] == "invocation.failed" && names(line)).await;
    std::fs::write(&ca, emulator.ca_pem()).expect("written");
    assert_eq!(fire().await, 200);
    until(&mut output, &written, |line| line["event"] == "tick.finished").await;
    let written = written.lock().expect("no panic");
    assert!(written.iter().all(|line| line["event"].is_string()), "nothing else below an error: {written:#?}");
}
