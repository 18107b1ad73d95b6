//! An endpoint that keeps what came and answers as it was told.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// How requests are answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Manner {
    /// As the reference asks: the token, and 202.
    Good,
    /// The same with this status.
    Status(u16),
    /// The token with this content type.
    Typed(&'static str),
    /// This text instead of the token.
    Text(&'static str),
    /// Never.
    Hang,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub method: String,
    pub target: String,
    pub content_type: String,
    pub body: String,
}

#[derive(Debug)]
struct Inner {
    manner: Manner,
    seen: Vec<Seen>,
}

/// It stops with the runtime of its test.
#[derive(Debug, Clone)]
pub(crate) struct Receiver {
    inner: Arc<Mutex<Inner>>,
    port: u16,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let inner = Arc::new(Mutex::new(Inner { manner: Manner::Good, seen: Vec::new() }));
        let shared = Arc::clone(&inner);
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let shared = Arc::clone(&shared);
                let service = hyper::service::service_fn(move |request| answer(request, Arc::clone(&shared)));
                tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { inner, port }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host())
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn set(&self, manner: Manner) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).manner = manner;
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).seen.clone()
    }

    /// Bodies of deliveries, in order.
    pub(crate) fn bodies(&self) -> Vec<Value> {
        let json = |seen: Seen| serde_json::from_str(&seen.body).ok();
        self.seen().into_iter().filter(|seen| !seen.body.is_empty()).filter_map(json).collect()
    }

    /// Items of deliveries, in order.
    pub(crate) fn items(&self) -> Vec<Value> {
        self.bodies().into_iter().flat_map(|body| body["value"].as_array().cloned().unwrap_or_default()).collect()
    }
}

async fn answer(request: Request<Incoming>, inner: Arc<Mutex<Inner>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let target = head.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let manner = {
        let mut inner = inner.lock().unwrap_or_else(PoisonError::into_inner);
        let kind = head.headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
        inner.seen.push(Seen {
            method: head.method.to_string(),
            target: target.clone(),
            content_type: kind.to_owned(),
            body: String::from_utf8_lossy(&body).into_owned(),
        });
        inner.manner.clone()
    };
    let token = target.split(['?', '&']).find_map(|pair| pair.strip_prefix("validationToken=")).map(decode);
    let (status, text) = match (&manner, token) {
        (Manner::Hang, _) => std::future::pending().await,
        (Manner::Status(status), token) => (*status, token.unwrap_or_default()),
        (Manner::Text(text), Some(_)) => (200, (*text).to_owned()),
        (_, Some(token)) => (200, token),
        (_, None) => (202, String::new()),
    };
    let kind = if let Manner::Typed(kind) = manner { kind } else { "text/plain; charset=utf-8" };
    Ok(Response::builder().status(status).header("content-type", kind).body(Full::new(Bytes::from(text))).expect("an answer"))
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                bytes.push(u8::from_str_radix(&hex, 16).expect("an escape"));
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).expect("UTF-8")
}
