//! Real HTTP over real TLS on loopback: one listener per service, a CA made at start, scripted faults in between.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::certificates::{self, Certified};
use crate::faults::Effect;
use crate::time::Time;
use crate::world::{Logged, Service, World};
use crate::{control, defender, entra, graph, managed, notifications, playbook, resources, sentinel, threatconnect, vault};

type Body = BoxBody<Bytes, std::io::Error>;

/// A request, read whole.
#[derive(Debug)]
pub(crate) struct Call {
    pub method: String,
    pub path: String,
    /// Path and query byte for byte as they came: what is signed.
    pub target: String,
    pub query: Vec<(String, String)>,
    headers: hyper::HeaderMap,
    pub body: Bytes,
}

impl Call {
    pub(crate) fn new(method: &str, target: &str, headers: hyper::HeaderMap, body: Bytes) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (path, query) = (path.to_owned(), form(query));
        Self { method: method.to_owned(), path, target: target.to_owned(), query, headers, body }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// All that are text, names in lower case.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)))
    }
}

/// An answer, before faults.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub status: u16,
    pub content_type: &'static str,
    pub body: Bytes,
    pub headers: Vec<(&'static str, String)>,
    /// For the log: rows or objects.
    pub items: usize,
}

impl Answer {
    pub(crate) fn text(status: u16, content_type: &'static str, body: String) -> Self {
        Self { status, content_type, body: body.into(), ..Self::default() }
    }

    pub(crate) fn json(status: u16, body: &Value) -> Self {
        Self::text(status, "application/json", body.to_string())
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// What the listeners share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub world: Mutex<World>,
    pub time: Arc<dyn Time>,
    /// Asks and tells endpoints; trusts our own CA.
    pub client: reqwest::Client,
}

impl Shared {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which listener a request came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    Service(Service),
    Control,
}

/// TLS with a certificate made anew, and the CA that signed it.
pub(crate) fn tls() -> anyhow::Result<(String, TlsAcceptor)> {
    let Certified { ca_pem, certificate, key } = certificates::make()?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).map_err(|e| anyhow::anyhow!("{e}"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((ca_pem, TlsAcceptor::from(Arc::new(config))))
}

/// A client for what the services themselves ask, with no more trust than that CA.
pub(crate) fn client(ca_pem: &str) -> anyhow::Result<reqwest::Client> {
    let ca = reqwest::Certificate::from_pem(ca_pem.as_bytes())?;
    let never = reqwest::redirect::Policy::none();
    Ok(reqwest::Client::builder().tls_certs_only([ca]).no_proxy().redirect(never).build()?)
}

/// Opens a door on loopback; the port, and the task that serves until it is aborted.
pub(crate) async fn open(
    door: Door,
    port: u16,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
) -> anyhow::Result<(u16, JoinHandle<()>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    let port = listener.local_addr()?.port();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            connections.spawn(serve(stream, door, tls.clone(), Arc::clone(&shared)));
            while connections.try_join_next().is_some() {}
        }
    });
    Ok((port, task))
}

async fn serve(stream: TcpStream, door: Door, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    drop(stream.set_nodelay(true));
    let service = hyper::service::service_fn(move |request| handle(request, door, Arc::clone(&shared)));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new());
    // A connection that a fault cuts, or that the client leaves, ends with an error that nobody needs.
    match tls {
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                drop(http.serve_connection(TokioIo::new(stream), service).await);
            }
        }
        None => drop(http.serve_connection(TokioIo::new(stream), service).await),
    }
}

async fn handle(request: Request<Incoming>, door: Door, shared: Arc<Shared>) -> Result<Response<Body>, std::io::Error> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let target = head.uri.path_and_query().map_or_else(|| head.uri.path().to_owned(), ToString::to_string);
    let call = Call::new(head.method.as_str(), &target, head.headers, body);
    let now = shared.time.now();
    let Door::Service(service) = door else { return Ok(response(&control::answer(&shared, &call), now)) };
    let (effect, latency) = {
        let mut world = shared.world();
        (world.faults.take(service, &call.target, &call.body), world.latency.get(&service).copied())
    };
    if let Some(latency) = latency {
        wait(latency).await;
    }
    let cut = || Err(std::io::Error::other("cut by a fault"));
    let act = || act(&shared, service, &call, now);
    let log = |status: u16, items: usize| {
        let logged = Logged { at: now, service, method: call.method.clone(), target: call.target.clone(), status, items };
        shared.world().log.push(logged);
    };
    match effect {
        None => {
            let answer = act().await;
            log(answer.status, answer.items);
            Ok(response(&answer, now))
        }
        Some(Effect::Slow(duration)) => {
            wait(duration).await;
            let answer = act().await;
            log(answer.status, answer.items);
            Ok(response(&answer, now))
        }
        Some(Effect::Status { status, body, retry_after }) => {
            log(status, 0);
            let mut answer = Answer::text(status, if body.starts_with('<') { "text/html" } else { "application/json" }, body);
            if let Some(wait) = retry_after {
                answer = answer.with("retry-after", &wait);
            }
            Ok(response(&answer, now))
        }
        Some(Effect::Cut) => {
            log(0, 0);
            cut()
        }
        Some(Effect::CutAfter) => {
            let answer = act().await;
            log(0, answer.items);
            cut()
        }
        Some(Effect::Truncate) => {
            let answer = act().await;
            log(answer.status, answer.items);
            Ok(truncated(&answer, now))
        }
        Some(Effect::Body(body)) => {
            let answer = act().await;
            log(answer.status, answer.items);
            Ok(response(&Answer { body: body.into(), ..answer }, now))
        }
    }
}

/// The service's own answer. Subscriptions ask others before they answer, and playbooks hang where they were told to.
async fn act(shared: &Shared, service: Service, call: &Call, now: jiff::Timestamp) -> Answer {
    match service {
        Service::Graph if call.path.starts_with("/v1.0/subscriptions") => return notifications::answer(shared, call, now).await,
        Service::ThreatConnect if playbook::is_one(call) => {
            let (answer, hang) = playbook::answer(&mut shared.world(), call, now);
            wait(hang).await;
            return answer;
        }
        _ => {}
    }
    let world = &mut *shared.world();
    match service {
        Service::ThreatConnect => threatconnect::answer(world, call, now),
        Service::Login => notifications::documents(world, call).unwrap_or_else(|| entra::answer(world, call, now)),
        Service::KeyVault => vault::answer(world, call, now),
        Service::Sentinel => sentinel::answer(world, call, now),
        Service::Defender => defender::answer(world, call, now),
        Service::Graph if call.path.starts_with("/v1.0/") => resources::answer(world, call, now),
        Service::Graph => graph::answer(world, call, now),
        Service::Identity => managed::answer(world, call, now),
    }
}

#[expect(clippy::disallowed_methods, reason = "latency that a test or benchmark asked for")]
async fn wait(duration: std::time::Duration) {
    tokio::time::sleep(duration).await;
}

fn response(answer: &Answer, now: jiff::Timestamp) -> Response<Body> {
    let body = answer.body.clone();
    let mut response = head(answer, now);
    *response.body_mut() = Full::new(body).map_err(|never: Infallible| match never {}).boxed();
    response
}

/// Announces the whole body and breaks off in its middle.
fn truncated(answer: &Answer, now: jiff::Timestamp) -> Response<Body> {
    let half = answer.body.slice(..answer.body.len() / 2);
    let frames = [Ok(Frame::data(half)), Err(std::io::Error::other("cut by a fault"))];
    let mut response = head(answer, now);
    response.headers_mut().insert("content-length", answer.body.len().into());
    *response.body_mut() = BoxBody::new(StreamBody::new(futures_util::stream::iter(frames)));
    response
}

fn head(answer: &Answer, now: jiff::Timestamp) -> Response<Body> {
    let empty = Full::new(Bytes::new()).map_err(|never: Infallible| match never {}).boxed();
    let mut response = Response::new(empty);
    *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    let mut put = |name: &'static str, value: &str| {
        if let Ok(value) = value.parse() {
            response.headers_mut().insert(name, value);
        }
    };
    put("date", &date);
    put("x-ms-request-id", "0f5a1c2e-0000-4000-8000-0000000000aa");
    if !answer.content_type.is_empty() {
        put("content-type", answer.content_type);
    }
    for (name, value) in &answer.headers {
        put(name, value);
    }
    response
}

/// Pairs of a form or query, decoded.
pub(crate) fn form(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(key), decode(value))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&hex, 16).unwrap_or(b'%'));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
