//! The host against exchanges recorded from the real one's classes: the same request for the same input, the same verdict on
//! the same answer.
//!
//! Bodies are compared byte for byte after placeholders are put in, headers as a set. Exceptions are compared by their types
//! and messages, from the outermost in; what Newtonsoft says of a text that it cannot read (types `Newtonsoft.…`, and what
//! lies within them) by the type alone, as its wording helps nobody.

use std::path::PathBuf;
use std::time::Duration;

use emulator::host::{Answer, DotNetDate, Kind, MessageBody, QueueTrigger, RetryContext, Verdict, judge};
use emulator::host::{FunctionsHost, HostOptions, Invocation, Outcome, ScheduleStatus, TimerTrigger, Trigger};
use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use crate::compare::{self, Differences};
use crate::listener::{Listener, Raw, Readiness, read};

/// Where the recorded run differs from a whole host, or this host from what was recorded.
const DIFFERENT: [(&str, &str); 3] = [
    ("prx-14", "was recorded without the router, whose route does not match its path; here the route takes all paths"),
    ("ready-05", "the host's debug line about the ping is not written; the ping and its answer are compared"),
    ("ready-04", "the limit is a tenth of the recorded one, and the wait beyond it too"),
];

fn cases() -> Vec<Value> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/host-vectors");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).expect("the vectors").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    let read = |path: &PathBuf| serde_json::from_str(&std::fs::read_to_string(path).expect("text")).expect("JSON");
    files.iter().flat_map(|path| -> Vec<Value> { read(path) }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_recorded_exchange_is_reproduced() {
    let cases = cases();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let checks = cases.iter().map(async |case| {
        let differences = check(case).await;
        differences.into_iter().map(|text| format!("{}: {text}", case["id"].as_str().unwrap_or("?"))).collect::<Vec<_>>()
    });
    let found: Vec<String> = join_all(checks).await.into_iter().flatten().collect();
    assert!(found.is_empty(), "{} differences\n{}", found.len(), found.join("\n"));
    for (id, _) in DIFFERENT {
        assert!(cases.iter().any(|case| case["id"] == id), "{id} is not among the vectors");
    }
}

async fn check(case: &Value) -> Differences {
    let given = &case["given"];
    if given["call"].is_string() {
        return readiness(case).await;
    }
    if case["id"].as_str().is_some_and(|id| id.starts_with("conn-")) {
        return connections(case).await;
    }
    let mut rig = Rig::start(case, Readiness::Plain, None).await;
    if case["response_given"]["action"] == "connection refused" {
        rig.listener.gone().await;
    }
    let pending = case["host_outcome"]["invocation"].as_str().is_some_and(|text| text.starts_with("still pending"));
    let mut differences = if given["client_request"].is_string() {
        over_http(case, &rig).await
    } else if pending {
        stays_pending(case, &rig).await
    } else {
        let invocation = rig.host.trigger(function(case), &trigger(given)).await.expect("run");
        compare::outcome(&case["host_outcome"], &invocation)
    };
    differences.extend(compare::requests(case, &rig.listener.requests(), rig.listener.port));
    if !pending {
        differences.extend(judged_alone(case, &rig));
    }
    differences
}

/// A host that talks to the scripted listener.
struct Rig {
    host: FunctionsHost,
    listener: Listener,
    folder: TempDir,
}

impl Rig {
    async fn start(case: &Value, readiness: Readiness, limit: Option<Duration>) -> Self {
        let answers = match &case["response_given"] {
            Value::Array(list) => list.clone(),
            one => vec![one.clone()],
        };
        let listener = Listener::start(answers, readiness).await;
        let folder = app(case);
        let mut options = HostOptions::new(folder.path());
        options.attach = Some(listener.port);
        options.timers = false;
        options.queue_times.first_poll = Duration::from_secs(3_600);
        options.start_limit = limit;
        let host = FunctionsHost::start(options).await.expect("started");
        if readiness == Readiness::Plain {
            assert!(host.ready().await);
        }
        Self { host, listener, folder }
    }
}

fn function(case: &Value) -> &str {
    case["given"]["function"].as_str().unwrap_or("Worker")
}

/// An app with the case's function: no key is asked for, as none was.
fn app(case: &Value) -> TempDir {
    let given = &case["given"];
    let mode = given["mode"].as_str().unwrap_or("envelope");
    let folder = TempDir::new().expect("a folder");
    let host_json = json!({"version": "2.0", "functionTimeout": "-1", "customHandler": {
        "description": {"defaultExecutablePath": "handler"},
        "enableForwardingHttpRequest": mode.contains("forward"),
        "enableProxyingHttpRequest": mode.contains("proxy"),
    }});
    std::fs::write(folder.path().join("host.json"), host_json.to_string()).expect("written");
    let default = json!([{"type": "queueTrigger", "direction": "in", "name": "msg", "queueName": "in"}]);
    let mut bindings = if given["bindings"].is_array() { given["bindings"].clone() } else { default };
    for binding in bindings.as_array_mut().expect("a list") {
        if binding["type"] == "httpTrigger" {
            binding["authLevel"] = json!("anonymous");
            if case["id"] == DIFFERENT[0].0 {
                binding["route"] = json!("{*all}");
            }
        }
    }
    let of_function = folder.path().join(function(case));
    std::fs::create_dir(&of_function).expect("made");
    std::fs::write(of_function.join("function.json"), json!({"bindings": bindings}).to_string()).expect("written");
    folder
}

fn date(text: &str) -> DotNetDate {
    let date = DotNetDate::read(text).unwrap_or(DotNetDate::NEVER);
    DotNetDate { kind: Kind::Local, ..date }
}

/// The input that the recorded host had.
fn trigger(given: &Value) -> Trigger {
    if given["schedule"].is_string() {
        let status = &given["stored_status"];
        let at = |name: &str| date(status[name].as_str().unwrap_or_default());
        return Trigger::Timer(TimerTrigger {
            adjust_for_daylight: given["schedule"].as_str().is_some_and(|text| text.starts_with("cron")),
            status: status.is_object().then(|| ScheduleStatus {
                last: at("Last"),
                next: at("Next"),
                last_updated: at("LastUpdated"),
            }),
            past_due: given["is_past_due"] == true,
            manual_input: given["manual_run_input"].as_str().map(str::to_owned),
            retry: retry(&given["retry"]),
        });
    }
    let metadata = &given["queue_metadata"];
    let text = |name: &str| metadata[name].as_str().unwrap_or_default();
    let optional = |name: &str| metadata[name].as_str().map(str::to_owned);
    let rule = &given["message_rule"];
    let body = if let Some(text) = given["message_bytes_base64"].as_str() {
        MessageBody::Bytes(base64::Engine::decode(&base64::engine::general_purpose::STANDARD, text).expect("base64"))
    } else if let Some(prefix) = rule["prefix"].as_str() {
        let count = usize::try_from(rule["count"].as_u64().expect("a count")).expect("small");
        let repeated = rule["repeat"].as_str().expect("a text").repeat(count);
        MessageBody::Text(format!("{prefix}{repeated}{}", rule["suffix"].as_str().expect("a text")))
    } else {
        MessageBody::Text(given["message_text"].as_str().unwrap_or("hello").to_owned())
    };
    Trigger::Queue(QueueTrigger {
        body,
        dequeue_count: metadata["DequeueCount"].as_i64().unwrap_or(1),
        expiration: date(text("ExpirationTime")),
        id: optional("Id"),
        insertion: date(text("InsertionTime")),
        next_visible: date(text("NextVisibleTime")),
        pop_receipt: optional("PopReceipt"),
        manual: given["manual_run"] == true,
    })
}

fn retry(given: &Value) -> Option<RetryContext> {
    let count = given["RetryCount"].as_i64()?;
    let status = given["previous_attempt_status"].as_u64().map(|status| u16::try_from(status).expect("small"));
    let failure = status.and_then(|status| {
        let reason = hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
        let answer = Answer { status, reason: reason.to_owned(), ..Answer::default() };
        if let Verdict::Failure(failure) = judge(&worker(), &answer) { Some(failure) } else { None }
    });
    Some(RetryContext { count, limit: given["MaxRetryCount"].as_i64()?, failure })
}

fn worker() -> emulator::host::Function {
    emulator::host::Function {
        name: "Worker".to_owned(),
        binding: "msg".to_owned(),
        trigger: emulator::host::TriggerKind::Queue { queue: String::new(), connection: String::new(), binary: false },
        outputs: Vec::new(),
        retry: None,
    }
}

/// The verdict without sockets is the one with them.
fn judged_alone(case: &Value, rig: &Rig) -> Differences {
    let given = &case["response_given"];
    let is_envelope =
        rig.listener.requests().first().is_some_and(|raw| raw.header("content-type").is_some_and(|v| v.contains("json")));
    let (Some(status), true, Some(body)) = (given["status"].as_u64(), is_envelope, given["body"].as_str()) else {
        return Vec::new();
    };
    let passed_on = case["given"]["mode"].as_str().is_some_and(|mode| mode != "envelope");
    if passed_on || given["cut_connection_after_body_bytes"].is_u64() {
        return Vec::new();
    }
    let headers: Vec<(String, String)> = serde_json::from_value(given["headers"].clone()).unwrap_or_default();
    let answer = Answer { status: u16::try_from(status).expect("small"), reason: String::new(), headers, body: body.into() };
    let verdict = judge(&rig.host.functions()[0], &answer);
    let succeeded = rig.host.invocations()[0].succeeded();
    let alone = match &verdict {
        Verdict::Success(results) => results.outputs.iter().all(|(_, value)| value.messages().is_ok()),
        Verdict::Failure(_) | Verdict::Pending(_) => false,
    };
    if alone == succeeded { Vec::new() } else { vec![format!("judged alone: {verdict:?}")] }
}

async fn over_http(case: &Value, rig: &Rig) -> Differences {
    let port = rig.host.url().rsplit(':').next().expect("a port").to_owned();
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).await.expect("connected");
    stream.write_all(case["given"]["client_request"].as_str().expect("a request").as_bytes()).await.expect("written");
    let answer = read(&mut stream, &mut Vec::new()).await.expect("an answer");
    let invocation = rig.host.completed(function(case), 1).await;
    let mut differences = compare::outcome(&case["host_outcome"], &invocation);
    differences.extend(compare::client_answer(&case["host_outcome"]["client_response"], &answer));
    differences
}

async fn stays_pending(case: &Value, rig: &Rig) -> Differences {
    let trigger = trigger(&case["given"]);
    let run = rig.host.trigger(function(case), &trigger);
    let told = async {
        rig.listener.seen(1).await;
        if case["response_given"]["status"].is_u64() {
            rig.host.until(|record| record.contract_errors.first().map(|error| error.message.clone())).await;
        }
        // Nothing comes after that.
        let _ = tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>()).await;
    };
    tokio::select! {
        invocation = run => vec![format!("ended: {:?}", invocation.map(|invocation| invocation.outcome))],
        () = told => Vec::new(),
    }
}

/// `GET /` while the host waits, and later.
async fn readiness(case: &Value) -> Differences {
    let outcome = &case["host_outcome"];
    if outcome["ping"].is_string() {
        let rig = Rig::start(case, Readiness::Scripted, None).await;
        assert!(rig.host.ready().await);
        let status = rig.host.ping("Worker").await.expect("an answer");
        let requests = rig.listener.requests();
        let mut differences = compare::requests(case, &requests[1..], rig.listener.port);
        compare::equal(&mut differences, "status", &case["response_given"]["status"], &json!(status));
        return differences;
    }
    // A tenth of the recorded limit.
    let limit = Duration::from_millis(300);
    if case["response_given"]["action"] == "connection refused" {
        let mut rig =
            Rig::start(&json!({"response_given": {"action": "connection refused"}}), Readiness::Plain, Some(limit)).await;
        rig.listener.gone().await;
        let mut options = HostOptions::new(rig.folder.path());
        (options.attach, options.start_limit) = (Some(rig.listener.port), Some(limit));
        let begun = tokio::time::Instant::now();
        let host = FunctionsHost::start(options).await.expect("started");
        let ready = host.ready().await;
        let mut differences = Vec::new();
        compare::equal(&mut differences, "ready", &outcome["IsWorkerReady"], &json!(ready));
        // Three starts, each up to the limit.
        if begun.elapsed() < limit * 3 {
            differences.push(format!("gave up after {:?}", begun.elapsed()));
        }
        return differences;
    }
    let rig = Rig::start(case, Readiness::Scripted, Some(limit)).await;
    let answers = outcome["IsWorkerReady"] == true;
    let patience = if answers { Duration::from_secs(60) } else { limit * 2 };
    // What is waited for begins when the handler was asked.
    rig.listener.seen(1).await;
    let ready = tokio::time::timeout(patience, rig.host.ready()).await;
    let mut differences = compare::requests(case, &rig.listener.requests(), rig.listener.port);
    match (&outcome["IsWorkerReady"], ready) {
        (Value::Bool(true), Ok(true)) | (Value::String(_), Err(_)) => {}
        (expected, found) => differences.push(format!("ready: {expected} recorded, {found:?} found")),
    }
    compare::equal(&mut differences, "requests", &outcome["requests_seen"], &json!(rig.listener.requests().len()));
    differences
}

/// How connections are used by several invocations.
async fn connections(case: &Value) -> Differences {
    let given = &case["given"];
    let outcome = &case["host_outcome"];
    let mut rig = Rig::start(case, Readiness::Plain, None).await;
    if case["response_given"]["action"] == "connection refused" {
        rig.listener.gone().await;
        let invocation = rig.host.trigger("Worker", &trigger(given)).await.expect("run");
        return compare::outcome(outcome, &invocation);
    }
    let trigger = trigger(given);
    let parallel = given["parallel_invocations"].as_u64();
    let mut ran: Vec<Invocation> = Vec::new();
    if let Some(count) = parallel {
        let runs = (0..count).map(|_| rig.host.trigger("Worker", &trigger));
        ran.extend(join_all(runs).await.into_iter().map(|run| run.expect("run")));
    } else {
        for _ in 0..3 {
            ran.push(rig.host.trigger("Worker", &trigger).await.expect("run"));
        }
    }
    let mut differences = Vec::new();
    let mut known: Vec<usize> = Vec::new();
    let used: Vec<usize> = rig
        .listener
        .requests()
        .iter()
        .map(|raw: &Raw| {
            let place = known.iter().position(|number| *number == raw.connection);
            place.unwrap_or_else(|| {
                known.push(raw.connection);
                known.len() - 1
            }) + 1
        })
        .collect();
    if parallel.is_some() {
        let succeeded = ran.iter().filter(|invocation| invocation.succeeded()).count();
        let mut ids: Vec<&str> = ran.iter().map(|invocation| invocation.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        compare::equal(&mut differences, "succeeded", &outcome["succeeded"], &json!(succeeded));
        compare::equal(&mut differences, "connections", &outcome["connections_used"], &json!(known.len()));
        compare::equal(&mut differences, "ids", &outcome["distinct_invocation_ids"], &json!(ids.len()));
        return differences;
    }
    let verdicts: Vec<&str> = ran.iter().map(|invocation| if invocation.succeeded() { "success" } else { "failure" }).collect();
    compare::equal(&mut differences, "invocations", &outcome["invocations"], &json!(verdicts));
    compare::equal(&mut differences, "connections", &outcome["connections_used"], &json!(used));
    if let (Some(expected), Outcome::Failure(failure)) = (outcome["second_exceptions"].as_array(), &ran[1].outcome) {
        differences.extend(compare::exceptions(expected, failure));
    }
    differences
}
