//! A tiny OpenTelemetry collector: OTLP over HTTP with protobuf, as the specification says, on loopback.
//!
//! Keeps what it gets. Does not imitate: gRPC, JSON, compression, partial success.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use tokio::net::TcpListener;
use tokio::sync::Notify;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Status(u16),
    /// Takes the request and never answers.
    Never,
}

#[derive(Debug)]
struct Received {
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

#[derive(Debug, Default)]
struct Kept {
    requests: Mutex<Vec<Received>>,
    came: Notify,
}

pub(crate) struct Collector {
    pub(crate) address: String,
    kept: Arc<Kept>,
}

impl Collector {
    pub(crate) async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = format!("http://{}", listener.local_addr().expect("bound"));
        let kept = Arc::new(Kept::default());
        let shared = Arc::clone(&kept);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&shared);
                let service = hyper::service::service_fn(move |request| handle(request, answer, Arc::clone(&kept)));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, kept }
    }

    /// Waits until something came.
    pub(crate) async fn first(&self) {
        self.kept.came.notified().await;
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.kept.requests.lock().expect("no panic").iter().map(|request| request.path.clone()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let requests = self.kept.requests.lock().expect("no panic");
        Some(requests.first()?.headers.get(name)?.to_str().ok()?.to_owned())
    }

    fn decoded<M: prost::Message + Default>(&self, path: &str) -> Vec<M> {
        let requests = self.kept.requests.lock().expect("no panic");
        let of_path = requests.iter().filter(|request| request.path == path);
        of_path.map(|request| M::decode(request.body.clone()).expect("protobuf")).collect()
    }

    pub(crate) fn spans(&self) -> Vec<Span> {
        let requests = self.decoded::<ExportTraceServiceRequest>("/v1/traces").into_iter();
        let scopes = requests.flat_map(|request| request.resource_spans).flat_map(|resource| resource.scope_spans);
        scopes.flat_map(|scope| scope.spans).collect()
    }

    /// Of the latest export.
    pub(crate) fn metrics(&self) -> Vec<Metric> {
        let latest = self.decoded::<ExportMetricsServiceRequest>("/v1/metrics").pop().unwrap_or_default();
        let scopes = latest.resource_metrics.into_iter().flat_map(|resource| resource.scope_metrics);
        scopes.flat_map(|scope| scope.metrics).collect()
    }

    pub(crate) fn resource(&self) -> Resource {
        let mut requests = self.decoded::<ExportMetricsServiceRequest>("/v1/metrics");
        requests.pop().and_then(|mut request| request.resource_metrics.pop()?.resource).unwrap_or_default()
    }

    /// The values of a metric, each with its attributes as `key=value`; a histogram's is its sum.
    pub(crate) fn values(&self, name: &str) -> Vec<(Vec<String>, u64)> {
        let metrics = self.metrics().into_iter().filter(|metric| metric.name == name).filter_map(|metric| metric.data);
        let numbers = metrics.flat_map(|data| match data {
            Data::Gauge(gauge) => gauge.data_points,
            Data::Sum(sum) => sum.data_points,
            _ => Vec::new(),
        });
        let value = |value| match value {
            Some(number_data_point::Value::AsInt(value)) => u64::try_from(value).expect("not negative"),
            other => panic!("{other:?}"),
        };
        numbers.map(|point| (texts(&point.attributes), value(point.value))).collect()
    }
}

/// Attributes as `key=value`, sorted.
pub(crate) fn texts(attributes: &[KeyValue]) -> Vec<String> {
    let text = |attribute: &KeyValue| match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => format!("{}={text}", attribute.key),
        other => format!("{}={other:?}", attribute.key),
    };
    let mut texts: Vec<String> = attributes.iter().map(text).collect();
    texts.sort();
    texts
}

async fn handle(request: Request<Incoming>, answer: Answer, kept: Arc<Kept>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (path, headers) = (request.uri().path().to_owned(), request.headers().clone());
    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    kept.requests.lock().expect("no panic").push(Received { path, headers, body });
    kept.came.notify_one();
    match answer {
        Answer::Status(status) => Ok(Response::builder().status(status).body(Full::default()).expect("a status")),
        Answer::Never => std::future::pending().await,
    }
}
