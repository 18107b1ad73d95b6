//! Spans and metrics to an OpenTelemetry collector, by OTLP over HTTP, when `OTEL_EXPORTER_OTLP_ENDPOINT` names one.
//!
//! No logs: the host's console has each line already, and would bill it twice. The SDK reads the other standard variables from the
//! process's environment by itself (`OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`,
//! `OTEL_BSP_…`, `OTEL_METRIC_EXPORT_INTERVAL`, …); it is the one reader beside `main`. Not honoured: `OTEL_EXPORTER_OTLP_TIMEOUT`,
//! because an invocation waits for the export, and a protocol other than `http/protobuf`.
//!
//! The SDK works in threads of its own and blocks them; what sends is on the runtime. Nothing here ever stops gracefully: the
//! process is killed, or ends after a flush.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::metrics::Meter;
use opentelemetry::metrics::MeterProvider as _;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{MetricExporter, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, oneshot};
use url::{Host, Url};

use crate::platform::clock::Clock;

/// One request to the collector, from connection to the last byte; retries begin only while it has not passed.
const EXPORT: Duration = Duration::from_secs(2);
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// What is exported through.
#[derive(Debug)]
pub(super) struct Otlp {
    pub(super) meter: Meter,
    pub(super) tracer: SdkTracer,
    flusher: mpsc::Sender<oneshot::Sender<Result<(), String>>>,
}

/// Is there a collector, as far as the environment says.
pub(super) fn is_wanted(environment: &BTreeMap<String, String>) -> bool {
    given(environment, ENDPOINT).is_some()
}

fn given<'a>(environment: &'a BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    environment.get(key).map(|text| text.trim()).filter(|text| !text.is_empty())
}

impl Otlp {
    /// # Errors
    /// One line: the address is none, or must not be used, or the exporter cannot be made.
    pub(super) fn new(
        environment: &BTreeMap<String, String>,
        client: &Arc<OnceCell<reqwest::Client>>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, String> {
        let traces_to = endpoint(environment, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "v1/traces")?;
        let metrics_to = endpoint(environment, "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "v1/metrics")?;
        let courier = || Courier { client: Arc::clone(client), clock: Arc::clone(clock), runtime: runtime.clone() };
        let failed =
            |error: opentelemetry_otlp::ExporterBuildError| format!("failed to prepare the export of telemetry: {error}");
        let span_exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(courier())
            .with_retry_policy(RetryPolicy::recommended())
            .with_endpoint(traces_to)
            .with_timeout(EXPORT)
            .build()
            .map_err(failed)?;
        let metric_exporter = MetricExporter::builder()
            .with_http()
            .with_http_client(courier())
            .with_retry_policy(RetryPolicy::recommended())
            .with_endpoint(metrics_to)
            .with_timeout(EXPORT)
            .build()
            .map_err(failed)?;
        let resource = resource(environment);
        let mut spans = SdkTracerProvider::builder().with_resource(resource.clone()).with_batch_exporter(span_exporter);
        if given(environment, "OTEL_TRACES_SAMPLER").is_none() {
            // The host marks its traces as not sampled, whatever it does with them; by default nothing would be sent.
            spans = spans.with_sampler(Sampler::AlwaysOn);
        }
        let spans = spans.build();
        let metrics = SdkMeterProvider::builder().with_resource(resource).with_periodic_exporter(metric_exporter).build();
        let (meter, tracer) = (metrics.meter(env!("CARGO_PKG_NAME")), spans.tracer(env!("CARGO_PKG_NAME")));
        let (flusher, wanted) = mpsc::channel();
        let thread = std::thread::Builder::new().name("telemetry".to_owned());
        thread
            .spawn(move || flush_when_wanted(&wanted, &spans, &metrics))
            .map_err(|error| format!("failed to start the export of telemetry: {error}"))?;
        Ok(Self { meter, tracer, flusher })
    }

    /// Sends what there is. The wait is the caller's to bound.
    ///
    /// # Errors
    /// What could not be sent, in one line.
    pub(super) async fn flush(&self) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        let ended = || "its thread has ended".to_owned();
        self.flusher.send(reply).map_err(|_| ended())?;
        done.await.map_err(|_| ended())?
    }
}

/// Both flushes block; whoever asks while one is under way shares the next.
///
/// The thread keeps the providers, so that it is this thread that waits for them when they go.
fn flush_when_wanted(
    wanted: &mpsc::Receiver<oneshot::Sender<Result<(), String>>>,
    spans: &SdkTracerProvider,
    metrics: &SdkMeterProvider,
) {
    while let Ok(first) = wanted.recv() {
        let replies: Vec<_> = std::iter::once(first).chain(wanted.try_iter()).collect();
        let (spans, metrics) = (spans.force_flush(), metrics.force_flush());
        let failures = [("spans", spans), ("metrics", metrics)];
        let failures: Vec<String> =
            failures.into_iter().filter_map(|(what, result)| Some(format!("{what}: {}", result.err()?))).collect();
        let result = if failures.is_empty() { Ok(()) } else { Err(failures.join("; ")) };
        for reply in replies {
            // Who asked may have stopped waiting.
            drop(reply.send(result.clone()));
        }
    }
}

/// Where one signal goes, as the specification of OTLP exporters says: its own address as it is, or the common one with its path.
fn endpoint(environment: &BTreeMap<String, String>, own: &'static str, path: &str) -> Result<String, String> {
    let (key, text) = match (given(environment, own), given(environment, ENDPOINT)) {
        (Some(text), _) => (own, text.to_owned()),
        (None, base) => (ENDPOINT, format!("{}/{path}", base.unwrap_or_default().trim_end_matches('/'))),
    };
    let refused = || {
        format!("{key} is no address that telemetry may go to: give an `https://` one (`http://` for loopback addresses only)")
    };
    let url = Url::parse(&text).map_err(|_| refused())?;
    let loopback = match url.host().ok_or_else(refused)? {
        Host::Domain(name) => name == "localhost",
        Host::Ipv4(address) => address.is_loopback(),
        Host::Ipv6(address) => address.is_loopback(),
    };
    if url.scheme() == "https" || url.scheme() == "http" && loopback { Ok(url.into()) } else { Err(refused()) }
}

/// Who sends. Instances run side by side, so each has a name of its own: their counters must not be taken for one.
fn resource(environment: &BTreeMap<String, String>) -> Resource {
    let attributes = given(environment, "OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let names = |key: &str| attributes.split(',').any(|pair| pair.split('=').next().is_some_and(|name| name.trim() == key));
    let mut resource = Resource::builder();
    if given(environment, "OTEL_SERVICE_NAME").is_none() && !names("service.name") {
        resource = resource.with_service_name(env!("CARGO_PKG_NAME"));
    }
    let ours =
        [("service.version", env!("CARGO_PKG_VERSION").to_owned()), ("service.instance.id", uuid::Uuid::new_v4().to_string())];
    let ours = ours.into_iter().filter(|(key, _)| !names(key));
    resource.with_attributes(ours.map(|(key, value)| opentelemetry::KeyValue::new(key, value))).build()
}

/// Sends on the runtime what the SDK's threads hand over, and never waits longer than [`EXPORT`].
#[derive(Debug)]
struct Courier {
    client: Arc<OnceCell<reqwest::Client>>,
    clock: Arc<dyn Clock>,
    runtime: Handle,
}

#[async_trait]
impl HttpClient for Courier {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = self.client.get().ok_or("the HTTPS client is not there yet")?.clone();
        let clock = Arc::clone(&self.clock);
        let sending = async move {
            tokio::select! {
                biased;
                sent = client.send_bytes(request) => sent,
                () = clock.alarm(EXPORT) => Err(format!("no answer in {} s", EXPORT.as_secs()).into()),
            }
        };
        self.runtime.spawn(sending).await?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment<const N: usize>(given: [(&str, &str); N]) -> BTreeMap<String, String> {
        given.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn each_signal_has_its_address() {
        let both = environment([
            (ENDPOINT, "https://collector.example/base/"),
            ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "http://127.0.0.1:4318/own"),
        ]);
        let of = |own, path| endpoint(&both, own, path);
        assert_eq!(of("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "v1/traces").unwrap(), "https://collector.example/base/v1/traces");
        assert_eq!(of("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "v1/metrics").unwrap(), "http://127.0.0.1:4318/own");
    }

    #[test]
    fn telemetry_goes_nowhere_in_the_clear() {
        for text in ["http://collector.example:4318", "collector.example:4318", "ftp://localhost", "nonsense"] {
            let error =
                endpoint(&environment([(ENDPOINT, text)]), "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "v1/traces").unwrap_err();
            assert!(error.starts_with(ENDPOINT) && error.contains("https://"), "{error}");
        }
    }

    #[test]
    fn what_is_given_names_the_service() {
        let value = |given: &BTreeMap<String, String>, key: &'static str| {
            resource(given).get(&opentelemetry::Key::new(key)).map(|value| value.to_string())
        };
        assert_eq!(value(&environment([]), "service.name").as_deref(), Some("indicator-relay"));
        let own = environment([("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name = mine,service.instance.id=x")]);
        assert_ne!(value(&own, "service.name").as_deref(), Some("indicator-relay"));
        assert_eq!(value(&own, "service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
        assert_eq!(value(&own, "service.instance.id"), None);
    }
}
