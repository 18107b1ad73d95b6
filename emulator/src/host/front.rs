//! The host's front door: HTTP triggers, and `/admin` for manual runs.
//!
//! Not imitated: HTTPS, CORS, keys in storage (two fixed ones), the rest of `/admin` and `/runtime`, throttling.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

use super::app::{AuthLevel, Function, TriggerKind};
use super::core::Core;
use super::envelope::Trigger;
use super::failure::Failure;
use super::manual;
use super::outputs::ClientAnswer;
use super::proxy::{self, Client};
use super::record::{Invocation, Outcome};
use super::request::{HttpRequest, decoded_path};
use super::routes;
use super::verdict::Results;
use super::wire::Body;

/// The most that is remembered of a connection's bytes to find how names were spelt.
const REMEMBERED: usize = 64 << 10;

/// Serves until the task is aborted.
pub(crate) async fn serve(listener: TcpListener, core: Arc<Core>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((stream, peer)) = listener.accept().await else { continue };
        drop(stream.set_nodelay(true));
        let core = Arc::clone(&core);
        let seen = Arc::new(Mutex::new(Vec::new()));
        let io = Remembering { stream, seen: Arc::clone(&seen) };
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let text = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
                let core = Arc::clone(&core);
                async move { Ok::<_, io::Error>(answer(&core, request, &text, peer.ip().to_string()).await) }
            });
            let mut http = hyper::server::conn::http1::Builder::new();
            // A client that leaves ends the connection with an error that nobody needs.
            drop(http.timer(TokioTimer::new()).serve_connection(TokioIo::new(io), service).await);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// A stream that remembers what was read: envelopes repeat header names as the client spelt them.
struct Remembering {
    stream: TcpStream,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Remembering {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let room = REMEMBERED.saturating_sub(seen.len());
        seen.extend(buffer.filled()[before..].iter().take(room));
        polled
    }
}

impl AsyncWrite for Remembering {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A header's name as it was written.
fn spelt(name: &str, text: &[u8]) -> String {
    let line = |line: &&[u8]| {
        line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    };
    let written = text.split(|byte| *byte == b'\n').find(line).and_then(|line| std::str::from_utf8(&line[..name.len()]).ok());
    written.unwrap_or(name).to_owned()
}

fn read(request: Request<Incoming>, text: &[u8], peer: String) -> Client {
    let (head, body) = request.into_parts();
    let value = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let headers: Vec<(String, String)> = head.headers.iter().map(|(name, v)| (spelt(name.as_str(), text), value(v))).collect();
    let request = HttpRequest {
        method: head.method.as_str().to_owned(),
        path: decoded_path(head.uri.path()),
        query_string: head.uri.query().map(|query| format!("?{query}")).unwrap_or_default(),
        headers: HttpRequest::ordered(&headers),
        ..HttpRequest::default()
    };
    Client { request, peer, body }
}

async fn answer(core: &Arc<Core>, request: Request<Incoming>, text: &[u8], peer: String) -> Response<Body> {
    let mut client = read(request, text, peer);
    let path = client.request.path.clone();
    if path == "/" {
        return response(&ClientAnswer::empty(200));
    }
    if let Some(name) = path.strip_prefix("/admin/functions/") {
        return response(&admin(core, name, client).await);
    }
    if path.starts_with("/admin") || path.starts_with("/runtime") {
        return response(&ClientAnswer::empty(404));
    }
    let prefix = &core.host_json.route_prefix;
    let found = routes::find(&core.functions, prefix, &client.request.method, &path);
    let Some((function, parameters)) = found else { return response(&ClientAnswer::empty(404)) };
    client.request.parameters = parameters;
    let TriggerKind::Http { auth, .. } = &function.trigger else { return response(&ClientAnswer::empty(404)) };
    if !allowed(core, *auth, &client.request) {
        return response(&ClientAnswer::empty(401));
    }
    if function.passes_http() && core.host_json.proxying {
        let (id, result) = proxy::proxied(core, function, client).await;
        end(core, function, id, result.as_ref().err());
        let mut answer = result.unwrap_or_else(|_| response(&ClientAnswer::empty(500)));
        answer.headers_mut().entry("server").or_insert(hyper::header::HeaderValue::from_static("Kestrel"));
        return answer;
    }
    if function.passes_http() && core.host_json.forwarding {
        let (id, result) = proxy::forwarded(core, function, client).await;
        end(core, function, id, result.as_ref().err());
        let Ok(answer) = result else { return response(&ClientAnswer::empty(500)) };
        return head(answer.status, &answer.headers, Full::new(answer.body.into()).map_err(|never| match never {}).boxed());
    }
    by_envelope(core, function, client).await
}

/// The key in the header wins over the one in the query; the master key opens all.
fn allowed(core: &Core, auth: AuthLevel, request: &HttpRequest) -> bool {
    let in_query = request.query().into_iter().find(|(name, _)| name.eq_ignore_ascii_case("code")).and_then(|(_, mut v)| v.pop());
    let key = request.header("x-functions-key").map(str::to_owned).or(in_query);
    match auth {
        AuthLevel::Anonymous => true,
        AuthLevel::Function => key.is_some_and(|key| key == core.function_key || key == core.master_key),
        AuthLevel::Admin => key.is_some_and(|key| key == core.master_key),
    }
}

fn end(core: &Core, function: &Function, id: String, failure: Option<&Failure>) {
    core.journal.end(&Invocation {
        id,
        function: function.name.clone(),
        outcome: failure.map_or(Outcome::Success, |failure| Outcome::Failure(failure.clone())),
        results: Results::default(),
        messages: Vec::new(),
    });
}

async fn by_envelope(core: &Arc<Core>, function: &Arc<Function>, client: Client) -> Response<Body> {
    let Client { mut request, body, .. } = client;
    let has_length = request.header("content-length").is_some_and(|length| length != "0");
    let Ok(body) = body.collect().await else { return response(&ClientAnswer::empty(400)) };
    request.body = has_length.then(|| body.to_bytes());
    let invocation = core.run(function, &Trigger::Http(request)).await;
    if !invocation.succeeded() {
        return response(&ClientAnswer::empty(500));
    }
    let http = function.outputs.iter().find(|output| output.kind == super::app::OutputKind::Http);
    let value = http.and_then(|http| invocation.results.outputs.iter().find(|(name, _)| *name == http.name));
    response(&ClientAnswer::of(value.map(|(_, value)| value)))
}

/// `POST /admin/functions/{Name}` runs a function.
async fn admin(core: &Arc<Core>, name: &str, client: Client) -> ClientAnswer {
    if !allowed(core, AuthLevel::Admin, &client.request) {
        return ClientAnswer::empty(401);
    }
    let Some(function) = core.function(name).filter(|_| client.request.method == "POST") else {
        return ClientAnswer::empty(404);
    };
    let Ok(body) = client.body.collect().await else { return ClientAnswer::empty(400) };
    let body: serde_json::Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let input = body["input"].as_str().unwrap_or_default();
    let Some(trigger) = manual::trigger(core, &function, input) else { return ClientAnswer::empty(400) };
    let core = Arc::clone(core);
    tokio::spawn(async move { core.run(&function, &trigger).await });
    ClientAnswer::empty(202)
}

/// The server writes a body without announcing its length; no body is announced as such.
fn response(answer: &ClientAnswer) -> Response<Body> {
    let bytes = Bytes::from(answer.body.clone());
    let body = if bytes.is_empty() {
        Full::new(bytes).map_err(|never| match never {}).boxed()
    } else {
        BodyExt::boxed(StreamBody::new(stream::iter([Ok(Frame::data(bytes))])))
    };
    head(answer.status, &answer.headers, body)
}

fn head(status: u16, headers: &[(String, String)], body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let known = response.headers_mut();
    for (name, value) in headers {
        let value = hyper::header::HeaderValue::from_bytes(value.as_bytes());
        if let (Ok(name), Ok(value)) = (name.parse::<hyper::header::HeaderName>(), value) {
            known.append(name, value);
        }
    }
    known.entry("server").or_insert(hyper::header::HeaderValue::from_static("Kestrel"));
    response
}
