//! A handler on a raw socket: it keeps each request as it came and gives the scripted answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use emulator::FreePort;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A request or answer as it was on the wire.
#[derive(Debug, Clone, Default)]
pub(crate) struct Raw {
    pub first_line: String,
    pub headers: Vec<(String, String)>,
    pub framing: &'static str,
    pub body: Vec<u8>,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
}

impl Raw {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The first two words of the first line.
    pub(crate) fn words(&self) -> (&str, &str) {
        let mut words = self.first_line.split(' ');
        (words.next().unwrap_or_default(), words.next().unwrap_or_default())
    }
}

/// Reads a message from a connection; none if it ended.
pub(crate) async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<Raw> {
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        more(stream, buffer).await?;
    };
    let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
    buffer.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let first_line = lines.next()?.to_owned();
    let headers = lines.filter_map(|line| line.split_once(':')).map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    let mut raw = Raw { first_line, headers: headers.collect(), framing: "none", ..Raw::default() };
    if raw.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        raw.framing = "chunked";
        loop {
            let end = loop {
                if let Some(end) = buffer.windows(2).position(|window| window == b"\r\n") {
                    break end;
                }
                more(stream, buffer).await?;
            };
            let size = usize::from_str_radix(std::str::from_utf8(&buffer[..end]).ok()?, 16).ok()?;
            buffer.drain(..end + 2);
            while buffer.len() < size + 2 {
                more(stream, buffer).await?;
            }
            raw.body.extend(buffer.drain(..size));
            buffer.drain(..2);
            if size == 0 {
                break;
            }
        }
    } else if let Some(length) = raw.header("content-length").and_then(|value| value.parse::<usize>().ok()) {
        raw.framing = "content-length";
        while buffer.len() < length {
            more(stream, buffer).await?;
        }
        raw.body = buffer.drain(..length).collect();
    }
    Some(raw)
}

async fn more(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let count = stream.read_buf(buffer).await.ok()?;
    (count > 0).then_some(())
}

/// What it does with `GET /` while the host waits for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Answers 200 and does not keep it.
    Plain,
    /// As any other request.
    Scripted,
}

/// The listener.
pub(crate) struct Listener {
    pub port: u16,
    requests: Arc<Mutex<Vec<Raw>>>,
    changed: watch::Receiver<usize>,
    task: tokio::task::JoinHandle<()>,
    /// Nobody else is to be met there when it is gone.
    _kept: FreePort,
}

impl Listener {
    /// Gives the answers in order, the last one again and again.
    pub(crate) async fn start(answers: Vec<Value>, readiness: Readiness) -> Self {
        let kept = FreePort::find().expect("a free port");
        let port = kept.number();
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("it is kept");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (sender, changed) = watch::channel(0);
        let (shared, answers) = (Arc::clone(&requests), Arc::new(answers));
        let task = tokio::spawn(async move {
            // They end with this task.
            let mut connections = tokio::task::JoinSet::new();
            let sender = Arc::new(sender);
            let gone = Arc::new(tokio::sync::Notify::new());
            for number in 0.. {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.expect("a connection").0,
                    () = gone.notified() => return,
                };
                let connection = Connection {
                    number,
                    answers: Arc::clone(&answers),
                    requests: Arc::clone(&shared),
                    readiness,
                    gone: Arc::clone(&gone),
                };
                connections.spawn(connection.serve(stream, Arc::clone(&sender)));
            }
        });
        Self { port, requests, changed, task, _kept: kept }
    }

    pub(crate) fn requests(&self) -> Vec<Raw> {
        self.requests.lock().expect("no panic").clone()
    }

    /// Waits until so many requests came.
    pub(crate) async fn seen(&self, count: usize) {
        let _ = self.changed.clone().wait_for(|seen| *seen >= count).await;
    }

    /// Waits until nobody listens any more.
    pub(crate) async fn gone(&mut self) {
        let _ = (&mut self.task).await;
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Connection {
    number: usize,
    answers: Arc<Vec<Value>>,
    requests: Arc<Mutex<Vec<Raw>>>,
    readiness: Readiness,
    gone: Arc<tokio::sync::Notify>,
}

impl Connection {
    async fn serve(self, mut stream: TcpStream, seen: Arc<watch::Sender<usize>>) {
        let mut buffer = Vec::new();
        while let Some(mut raw) = read(&mut stream, &mut buffer).await {
            if self.readiness == Readiness::Plain && raw.words() == ("GET", "/") {
                if action(self.answers.first()) == Some("connection refused") {
                    stream
                        .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                        .await
                        .expect("written");
                    self.gone.notify_one();
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.expect("written");
                continue;
            }
            raw.connection = self.number;
            let place = {
                let mut requests = self.requests.lock().expect("no panic");
                requests.push(raw);
                requests.len()
            };
            seen.send_replace(place);
            let Some(answer) = self.answers.get(place - 1).or(self.answers.last()) else { return };
            if !write(&mut stream, answer).await {
                return;
            }
        }
    }
}

fn action(answer: Option<&Value>) -> Option<&str> {
    let answer = answer?;
    answer["action"].as_str().or(answer.as_str())
}

/// Writes a scripted answer; whether the connection stays.
async fn write(stream: &mut TcpStream, answer: &Value) -> bool {
    match action(Some(answer)) {
        Some(text) if text.starts_with("200 ") => {
            let text = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}", &text[4..]);
            return stream.write_all(text.as_bytes()).await.is_ok();
        }
        Some(text) if text.contains("never answers") => return std::future::pending().await,
        Some(_) => return false,
        None => {}
    }
    if let Some(delay) = answer["delay_ms"].as_u64() {
        // Half a second is slow enough.
        let _ = tokio::time::timeout(Duration::from_millis(delay.min(500)), std::future::pending::<()>()).await;
    }
    let status = u16::try_from(answer["status"].as_u64().expect("a status")).expect("small");
    let reason = hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let mut head = format!("HTTP/1.1 {status} {reason}\r\n");
    match answer["headers"].as_array() {
        Some(headers) => {
            for header in headers {
                let (name, value) = (header[0].as_str().expect("a name"), header[1].as_str().expect("a value"));
                head += [name, ": ", value, "\r\n"].concat().as_str();
            }
        }
        None => head += "Content-Type: application/json\r\n",
    }
    let body = match answer["body_base64"].as_str() {
        Some(text) => base64::engine::general_purpose::STANDARD.decode(text).expect("base64"),
        None => answer["body"].as_str().unwrap_or_default().as_bytes().to_vec(),
    };
    let mut bytes = match answer["framing"].as_str() {
        Some("chunked") => {
            let mut bytes = format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n", body.len()).into_bytes();
            bytes.extend(&body);
            bytes.extend(b"\r\n0\r\n\r\n");
            bytes
        }
        Some("none") => (head + "\r\n").into_bytes(),
        _ => {
            let mut bytes = format!("{head}Content-Length: {}\r\n\r\n", body.len()).into_bytes();
            bytes.extend(&body);
            bytes
        }
    };
    let cut = answer["cut_connection_after_body_bytes"].as_u64();
    if let Some(cut) = cut {
        bytes.truncate(bytes.len() - body.len() + usize::try_from(cut).expect("small"));
    }
    stream.write_all(&bytes).await.is_ok() && cut.is_none()
}
