//! Passing an HTTP request on to the handler: streamed through a reverse proxy, or rebuilt (the older way).
//!
//! Not imitated: the proxy's limit of 240 s without activity; an answer that breaks off within its body counts as a success.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::Response;
use hyper::body::Incoming;

use super::HOST_VERSION;
use super::app::Function;
use super::core::{Core, Fault, Running, failure, with_host_headers};
use super::failure::Failure;
use super::identifiers::traceparent;
use super::request::{HttpRequest, encoded_path, encoded_query};
use super::verdict::{Answer, is_content_header};
use super::wire::{Body, Broken, Outgoing, Payload};

/// How often the proxy tries, and how long it waits in between: 50 ms at first, then twice as long, up to 250 ms.
const TRIES: u32 = 10;

/// Headers of one connection, and others that the proxy does not pass on.
const OF_CONNECTION: [&str; 15] = [
    "alpn",
    "alt-svc",
    "close",
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "proxy-features",
    "proxy-instruction",
    "security-scheme",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A client's request, with its body not read yet.
pub(crate) struct Client {
    pub request: HttpRequest,
    /// The address that it connects from.
    pub peer: String,
    pub body: Incoming,
}

impl Client {
    fn length(&self) -> Option<u64> {
        self.request.header("content-length")?.parse().ok()
    }

    fn is_chunked(&self) -> bool {
        self.request.header("transfer-encoding").is_some()
    }
}

/// Streams the request to the handler and the answer back.
pub(crate) async fn proxied(core: &Core, function: &Function, client: Client) -> (String, Result<Response<Body>, Failure>) {
    core.within_limits(function, async |running: Running| {
        let mut outgoing = proxied_request(client, &running.id);
        let mut delay = Duration::from_millis(50);
        let mut attempt = 1;
        let broken = loop {
            let reply = running.wire.send(&mut outgoing).await;
            let broken = match reply {
                Ok(reply) if !core.strikes(function, Fault::DropConnection) => {
                    let mut response = reply.stream(Arc::clone(&running.wire));
                    for name in OF_CONNECTION {
                        response.headers_mut().remove(name);
                    }
                    return Ok(response);
                }
                Ok(_) => Broken::Ended,
                Err(broken) => broken,
            };
            if attempt == TRIES {
                break broken;
            }
            attempt += 1;
            wait(delay).await;
            delay = (delay * 2).min(Duration::from_millis(250));
        };
        let message = "Failed to proxy request with ForwarderError: Request";
        Err(failure(broken, &running.wire).within("System.InvalidOperationException", message))
    })
    .await
}

#[expect(clippy::disallowed_methods, reason = "the proxy waits between its tries")]
async fn wait(duration: Duration) {
    tokio::time::sleep(duration).await;
}

fn proxied_request(client: Client, invocation: &str) -> Outgoing {
    let length = client.length();
    let has_body = client.is_chunked() || length.is_some_and(|length| length > 0);
    let Client { request, peer, body } = client;
    let target = format!("{}{}", encoded_path(&request.path, false), request.query_string);
    let mut outgoing = Outgoing { method: request.method.clone(), ..Outgoing::get(&target) };
    let replaced = [
        "host",
        "content-length",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-azure-functions-hostversion",
        "x-azure-functions-invocationid",
    ];
    for (name, values) in &request.headers {
        let lower = name.to_ascii_lowercase();
        if !OF_CONNECTION.contains(&lower.as_str()) && !replaced.contains(&lower.as_str()) {
            outgoing = outgoing.with(name, values.join(if lower == "cookie" { "; " } else { ", " }));
        }
    }
    outgoing = with_host_headers(outgoing, invocation);
    if request.header("x-ms-invocation-id").is_none() {
        outgoing = outgoing.with("x-ms-invocation-id", invocation);
    }
    if request.header("traceparent").is_none() {
        outgoing = outgoing.with("traceparent", traceparent(None));
    }
    outgoing = outgoing.with("X-Forwarded-For", peer).with("X-Forwarded-Proto", "http");
    outgoing = outgoing.with("X-Forwarded-Host", request.header("host").unwrap_or_default());
    let of_body = |(name, _): &(String, String)| is_content_header(name);
    if !has_body && outgoing.headers.iter().any(of_body) {
        // Such headers travel with a body; the proxy makes an empty one.
        outgoing = outgoing.with("Content-Length", "0");
    }
    if has_body {
        let data = body.into_data_stream().map(|data| data.map_err(std::io::Error::other)).boxed();
        outgoing.payload = Payload::Stream(data, length);
    }
    outgoing
}

/// Rebuilds the request, and reads the answer whole.
pub(crate) async fn forwarded(core: &Core, function: &Function, client: Client) -> (String, Result<Answer, Failure>) {
    core.within_limits(function, async |running: Running| {
        if client.is_chunked() {
            let message = "'Transfer-Encoding: chunked' header can not be used when content object is not specified.";
            return Err(Failure::new("System.Net.Http.HttpRequestException", "An error occurred while sending the request.")
                .caused_by("System.InvalidOperationException", message));
        }
        let length = client.length().unwrap_or(0);
        let body = client.body.collect().await.map_err(|_| Failure::ended(false))?.to_bytes();
        let mut outgoing = forwarded_request(&client.request, (length > 0).then_some(body), &running.id);
        let reply = running.wire.send(&mut outgoing).await.map_err(|broken| failure(broken, &running.wire))?;
        if core.strikes(function, Fault::DropConnection) {
            return Err(Failure::ended(false));
        }
        let mut answer = reply.read(&running.wire).await.map_err(|broken| failure(broken, &running.wire))?;
        answer.headers.retain(|(name, _)| !OF_CONNECTION.contains(&name.to_ascii_lowercase().as_str()));
        Ok(answer)
    })
    .await
}

fn forwarded_request(request: &HttpRequest, body: Option<Bytes>, invocation: &str) -> Outgoing {
    let pairs = request
        .query()
        .into_iter()
        .map(|(name, values)| format!("{}={}", encoded_query(&name), encoded_query(&values.join(","))));
    let query = pairs.collect::<Vec<_>>().join("&");
    let path = encoded_path(&request.path, true);
    let target = if query.is_empty() { path } else { format!("{path}?{query}") };
    let mut outgoing = Outgoing { method: request.method.clone(), ..Outgoing::get(&target) };
    let own = [
        ("user-agent", format!("Azure-Functions-Host/{HOST_VERSION}"), " "),
        ("x-azure-functions-hostversion", HOST_VERSION.to_owned(), ", "),
        ("x-azure-functions-invocationid", invocation.to_owned(), ", "),
    ];
    for (name, values) in &request.headers {
        let passed = if name.eq_ignore_ascii_case("content-type") { body.is_some() } else { !is_content_header(name) };
        if !passed {
            continue;
        }
        let appended = own.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known));
        let joined = values.join(if name.eq_ignore_ascii_case("user-agent") { " " } else { ", " });
        outgoing =
            outgoing.with(name, appended.map_or(joined.clone(), |(_, value, between)| format!("{joined}{between}{value}")));
    }
    for (name, value, _) in own {
        if request.header(name).is_none() {
            outgoing = outgoing.with(name, value);
        }
    }
    if request.header("traceparent").is_none() {
        outgoing = outgoing.with("traceparent", traceparent(None));
    }
    outgoing.payload = body.map_or(Payload::None, Payload::Sized);
    outgoing
}
