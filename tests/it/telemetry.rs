//! Spans, metrics and lines as they arrive: at a collector over HTTP, and in writers in place of the console.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use emulator::{Emulator, Options as Emulated};
use indicator_relay::platform::clock::Clock;
use indicator_relay::telemetry::{self, Form, Lines, Options, Telemetry};
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use tracing::instrument::WithSubscriber as _;
use tracing::level_filters::LevelFilter;
use tracing::{Dispatch, error, info};

use crate::collector::{Answer, Collector, texts};
use crate::rig::{Rig, TestClock};

/// As the Functions host sends it: never marked as sampled.
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

#[derive(Clone, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Kept {
    pub(crate) fn lines(&self) -> Vec<serde_json::Value> {
        let text = String::from_utf8(self.0.lock().expect("no panic").clone()).expect("text");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

pub(crate) fn client() -> Arc<tokio::sync::OnceCell<reqwest::Client>> {
    Arc::new(tokio::sync::OnceCell::from(reqwest::Client::builder().build().expect("a client")))
}

/// Telemetry that goes to `collector`, the subscriber that feeds it, and its lines on standard error.
fn prepared(collector: &Collector, clock: &TestClock) -> (Telemetry, Dispatch, Kept) {
    let environment = BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), collector.address.clone())]);
    let errors = Kept::default();
    let clock: Arc<dyn Clock> = Arc::new(clock.clone());
    let (subscriber, telemetry, problem) = telemetry::prepare(Options {
        environment: &environment,
        form: Form::Lines(Lines::new(Arc::clone(&clock), Box::new(std::io::sink()), Box::new(errors.clone()))),
        level: LevelFilter::WARN,
        client: &client(),
        clock: &clock,
        runtime: &tokio::runtime::Handle::current(),
    });
    assert_eq!(problem, None);
    (telemetry, Dispatch::new(subscriber), errors)
}

#[tokio::test]
async fn an_invocation_continues_the_hosts_trace() {
    let collector = Collector::start(Answer::Status(200)).await;
    let (telemetry, subscriber, errors) = prepared(&collector, &TestClock::new());
    tracing::dispatcher::with_default(&subscriber, || {
        let span = telemetry::invocation("RunExport", "an-id", Some(PARENT));
        span.in_scope(|| error!(event = "invocation.failed", "the vault is missing"));
        telemetry::fail(&span, "the vault is missing");
        drop(span);
        telemetry::invocation("ExportIndicators", "other-id", None).in_scope(|| info!("at a level that is not logged"));
    });
    telemetry.flush().await;
    let spans = collector.spans();
    let [one, other] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(number(&one.trace_id), 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
    assert_eq!(number(&one.parent_span_id), 0xb7ad_6b71_6920_3331);
    assert_eq!((one.name.as_str(), one.events.len()), ("RunExport", 0));
    let status = one.status.as_ref().expect("a status");
    assert_eq!((status.code(), status.message.as_str()), (StatusCode::Error, "the vault is missing"));
    let attributes = texts(&one.attributes);
    for expected in ["function=RunExport", "invocation_id=an-id"] {
        assert!(attributes.iter().any(|text| text == expected), "{attributes:?}");
    }
    assert_eq!((other.name.as_str(), other.parent_span_id.len()), ("ExportIndicators", 0));
    assert!(!collector.paths().iter().any(|path| path.contains("logs")), "each line would be billed twice");
    let lines = errors.lines();
    assert_eq!((lines.len(), &lines[0]["traceparent"]), (1, &PARENT.into()));
}

fn number(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

#[tokio::test]
async fn the_numbers_of_runs_add_up() {
    let collector = Collector::start(Answer::Status(200)).await;
    let (telemetry, _, _) = prepared(&collector, &TestClock::new());
    let mut rig = Rig::new().await;
    rig.add_hosts(3);
    rig.add("Address", "198.51.100.7");
    for _ in 0..2 {
        let report = rig.full().await;
        telemetry.record(&report);
    }
    let mut preview = rig.full().await;
    preview.dry_run = true;
    telemetry.record(&preview);
    preview.dry_run = false;
    preview.complete = false;
    telemetry.record(&preview);
    telemetry.flush().await;
    let job = ["delivery=product", "job=default", "mode=full", "target_product=Microsoft Sentinel"].map(str::to_owned);
    assert_eq!(collector.values("indicator_relay.read.indicators"), [(job.to_vec(), 8)]);
    assert_eq!(collector.values("indicator_relay.outcomes.accepted"), [(job.to_vec(), 4)]);
    assert_eq!(collector.values("indicator_relay.outcomes.unchanged"), [(job.to_vec(), 4)]);
    let mut by_type: Vec<(String, u64)> = collector
        .values("indicator_relay.by_type.accepted")
        .into_iter()
        .filter_map(|(texts, value)| Some((texts.into_iter().find(|text| text.starts_with("type="))?, value)))
        .collect();
    by_type.sort();
    assert_eq!(by_type, [("type=Address".to_owned(), 1), ("type=Host".to_owned(), 3)]);
    let mut ends: Vec<(bool, u64)> = collector
        .values("indicator_relay.runs")
        .into_iter()
        .map(|(texts, n)| (texts.contains(&"end=complete".to_owned()), n))
        .collect();
    ends.sort_unstable();
    assert_eq!(ends, [(false, 1), (true, 2)]);
    assert!(collector.metrics().iter().any(|metric| metric.name == "indicator_relay.duration" && metric.unit == "ms"));
}

#[tokio::test]
async fn a_collector_that_hangs_holds_nobody_up() {
    let collector = Collector::start(Answer::Never).await;
    let clock = TestClock::new();
    let (telemetry, subscriber, errors) = prepared(&collector, &clock);
    tracing::dispatcher::with_default(&subscriber, || drop(telemetry::invocation("RunExport", "an-id", None)));
    let later = async {
        collector.first().await;
        clock.advance(Duration::from_secs(2));
    };
    tokio::join!(telemetry.flush().with_subscriber(subscriber), later);
    let lines = errors.lines();
    assert_eq!((lines.len(), &lines[0]["level"]), (1, &"WARN".into()));
}

#[tokio::test]
async fn what_cannot_be_sent_is_told_once_in_a_minute() {
    let collector = Collector::start(Answer::Status(400)).await;
    let clock = TestClock::new();
    let (telemetry, subscriber, errors) = prepared(&collector, &clock);
    let fail = async || {
        tracing::dispatcher::with_default(&subscriber, || drop(telemetry::invocation("RunExport", "an-id", None)));
        telemetry.flush().with_subscriber(subscriber.clone()).await;
        errors.lines().len()
    };
    assert_eq!((fail().await, fail().await), (1, 1));
    clock.advance(Duration::from_secs(60));
    assert_eq!(fail().await, 2);
    assert!(errors.lines()[0]["error"].as_str().is_some_and(|error| error.contains("400")), "{:?}", errors.lines());
}

#[tokio::test]
async fn an_address_in_the_clear_is_refused_and_the_work_goes_on() {
    let environment = BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://collector.example".to_owned())]);
    let clock: Arc<dyn Clock> = Arc::new(TestClock::new());
    let (_, telemetry, problem) = telemetry::prepare(Options {
        environment: &environment,
        form: Form::Human { colours: false },
        level: LevelFilter::WARN,
        client: &client(),
        clock: &clock,
        runtime: &tokio::runtime::Handle::current(),
    });
    assert!(problem.is_some_and(|problem| problem.contains("OTEL_EXPORTER_OTLP_ENDPOINT")));
    telemetry.flush().await;
}

/// The standard variables are read by the SDK itself, so this is the program with an environment of its own.
#[tokio::test]
async fn the_program_heeds_the_standard_variables_and_sends_before_it_ends() {
    let emulator = Emulator::start(Emulated::default()).await.expect("free ports");
    let collector = Collector::start(Answer::Status(200)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, emulator.ca_pem()).expect("written");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_indicator-relay"))
        .arg("export")
        .env_clear()
        .envs(emulator.environment())
        .env("SSL_CERT_FILE", ca)
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.address)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a-key")
        .env("OTEL_SERVICE_NAME", "relay-of-mine")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
        .current_dir(folder.path())
        .output()
        .await
        .expect("started");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(collector.header("x-key").as_deref(), Some("a-key"));
    assert_eq!(collector.values("indicator_relay.runs").first().map(|(_, runs)| *runs), Some(1));
    let resource = texts(&collector.resource().attributes);
    for expected in ["service.name=relay-of-mine", "deployment.environment=test"] {
        assert!(resource.iter().any(|text| text == expected), "{resource:?}");
    }
    assert!(!String::from_utf8_lossy(&output.stderr).contains("a-key"));
}
