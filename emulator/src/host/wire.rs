//! The host's HTTP connections to a handler: kept alive, used by one request at a time, and not repeated unless there is no body.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use http_body_util::{BodyExt, Empty, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::ext::ReasonPhrase;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::verdict::Answer;
use crate::port::FreePort;

pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// How often a request without a body is sent again after its connection broke.
const RETRIES: usize = 3;
const REDIRECTS: usize = 50;

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// Nobody listens.
    Refused,
    /// The connection ended before the answer.
    Ended,
    /// The connection ended within the answer's body.
    WithinBody,
    /// The body was sent on once and cannot be sent again.
    BodyGone,
}

/// A request to send.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub payload: Payload,
}

pub(crate) enum Payload {
    None,
    /// With a length.
    Sized(Bytes),
    /// Chunked.
    Chunked(Bytes),
    /// As it comes from a client; with its length, if that is known.
    Stream(BoxStream<'static, io::Result<Bytes>>, Option<u64>),
    Gone,
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Sized(_) => "Sized",
            Self::Chunked(_) => "Chunked",
            Self::Stream(..) => "Stream",
            Self::Gone => "Gone",
        })
    }
}

impl Outgoing {
    pub(crate) fn get(target: &str) -> Self {
        Self { method: "GET".to_owned(), target: target.to_owned(), headers: Vec::new(), payload: Payload::None }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    fn bodyless(&self) -> bool {
        matches!(self.payload, Payload::None)
    }

    /// The request; a streamed body is gone after that.
    fn request(&mut self, authority: &str) -> Result<Request<Body>, Broken> {
        let mut builder = Request::builder().method(self.method.as_str()).uri(self.target.as_str());
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            builder = builder.header("Host", authority);
        }
        for (name, value) in &self.headers {
            builder = builder.header(name.as_str(), value.as_bytes());
        }
        let stream = |bytes: Bytes| stream::iter([Ok(Frame::data(bytes))]);
        let never = |never: std::convert::Infallible| match never {};
        let body = match &mut self.payload {
            Payload::None => Empty::new().map_err(never).boxed(),
            Payload::Sized(bytes) => Full::new(bytes.clone()).map_err(never).boxed(),
            Payload::Chunked(bytes) => BodyExt::boxed(StreamBody::new(stream(bytes.clone()))),
            Payload::Stream(..) => match std::mem::replace(&mut self.payload, Payload::Gone) {
                Payload::Stream(frames, length) => {
                    if let Some(length) = length {
                        builder = builder.header("Content-Length", length);
                    }
                    BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(frames.map(|frame| frame.map(Frame::data)).boxed()))))
                }
                _ => return Err(Broken::BodyGone),
            },
            Payload::Gone => return Err(Broken::BodyGone),
        };
        builder.body(body).map_err(|_| Broken::Ended)
    }
}

/// A stream that may be shared between threads, as a boxed body must.
struct SyncStream(Mutex<BoxStream<'static, io::Result<Frame<Bytes>>>>);

impl futures_util::Stream for SyncStream {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Self::Item>> {
        let inner = self.get_mut().0.get_mut().unwrap_or_else(PoisonError::into_inner);
        inner.poll_next_unpin(cx)
    }
}

/// The connections to one handler process.
#[derive(Debug)]
pub(crate) struct Wire {
    pub port: u16,
    idle: Mutex<Vec<SendRequest<Body>>>,
    /// Nobody else is to be met there.
    _kept: Option<FreePort>,
}

/// The beginning of an answer, and its connection.
#[derive(Debug)]
pub(crate) struct Reply {
    response: Response<Incoming>,
    sender: SendRequest<Body>,
}

impl Wire {
    /// To a handler that somebody else has started.
    pub(crate) fn new(port: u16) -> Self {
        Self { port, idle: Mutex::default(), _kept: None }
    }

    /// To a handler that is told this port.
    pub(crate) fn kept(port: FreePort) -> Self {
        Self { port: port.number(), idle: Mutex::default(), _kept: Some(port) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<SendRequest<Body>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> Result<SendRequest<Body>, Broken> {
        loop {
            let Some(sender) = self.idle().pop() else { break };
            if sender.is_ready() {
                return Ok(sender);
            }
        }
        let stream = TcpStream::connect(("127.0.0.1", self.port)).await.map_err(|_| Broken::Refused)?;
        drop(stream.set_nodelay(true));
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Broken::Ended)?;
        tokio::spawn(async move { drop(connection.await) });
        Ok(sender)
    }

    /// Sends a request; one without a body again if its connection breaks unanswered.
    pub(crate) async fn send(&self, outgoing: &mut Outgoing) -> Result<Reply, Broken> {
        let authority = format!("127.0.0.1:{}", self.port);
        let mut attempt = 0;
        loop {
            let mut sender = self.connection().await?;
            let request = outgoing.request(&authority)?;
            match sender.send_request(request).await {
                Ok(response) => return Ok(Reply { response, sender }),
                Err(_) if outgoing.bodyless() && attempt < RETRIES => attempt += 1,
                Err(_) => return Err(Broken::Ended),
            }
        }
    }

    /// Sends a request and follows redirects, as the host's client does: 301, 302 and 303 as a GET without body.
    pub(crate) async fn follow(&self, mut outgoing: Outgoing) -> Result<Reply, Broken> {
        for _ in 0..REDIRECTS {
            let reply = self.send(&mut outgoing).await?;
            let status = reply.response.status().as_u16();
            let location = reply.response.headers().get("location").and_then(|value| value.to_str().ok());
            let Some(target) = location.and_then(|location| self.here(location)) else { return Ok(reply) };
            match status {
                300..=303 if outgoing.method != "GET" => {
                    outgoing = Outgoing { method: "GET".to_owned(), payload: Payload::None, ..outgoing };
                    outgoing.headers.retain(|(name, _)| !super::verdict::is_content_header(name));
                }
                300..=303 | 307 | 308 => {}
                _ => return Ok(reply),
            }
            outgoing.target = target;
            reply.read(self).await?;
        }
        self.send(&mut outgoing).await
    }

    /// The path of a location, if it is at this handler.
    fn here(&self, location: &str) -> Option<String> {
        let target = location.strip_prefix(&format!("http://127.0.0.1:{}", self.port)).unwrap_or(location);
        if target.contains("://") || target.starts_with("//") {
            return None;
        }
        // An envelope's path has one segment: what is relative to it begins at the root.
        Some(format!("/{}", target.trim_start_matches('/')))
    }

    /// Keeps a connection whose answer was read to its end.
    async fn keep(&self, mut sender: SendRequest<Body>) {
        if sender.ready().await.is_ok() {
            self.idle().push(sender);
        }
    }
}

impl Reply {
    /// Reads the whole answer.
    pub(crate) async fn read(self, wire: &Wire) -> Result<Answer, Broken> {
        let Self { response, sender } = self;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|_| Broken::WithinBody)?.to_bytes();
        wire.keep(sender).await;
        let reason = head.extensions.get::<ReasonPhrase>().map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
        let reason = reason.unwrap_or_else(|| head.status.canonical_reason().unwrap_or_default().to_owned());
        let headers = head.headers.iter();
        let text = |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        Ok(Answer {
            status: head.status.as_u16(),
            reason,
            headers: headers.map(|(name, value)| (name.as_str().to_owned(), text(value))).collect(),
            body: body.to_vec(),
        })
    }

    /// The answer's head, and its body as it comes; the connection is kept when the body was read.
    pub(crate) fn stream(self, wire: Arc<Wire>) -> Response<Body> {
        let Self { response, sender } = self;
        let (head, mut body) = response.into_parts();
        let (frames, receiver) = tokio::sync::mpsc::channel(4);
        tokio::spawn(async move {
            while let Some(frame) = body.frame().await {
                let ended = frame.is_err();
                if frames.send(frame.map_err(io::Error::other)).await.is_err() || ended {
                    return;
                }
            }
            drop(frames);
            wire.keep(sender).await;
        });
        let frames = stream::unfold(receiver, async |mut receiver| receiver.recv().await.map(|frame| (frame, receiver)));
        Response::from_parts(head, BodyExt::boxed(StreamBody::new(SyncStream(Mutex::new(frames.boxed())))))
    }
}
