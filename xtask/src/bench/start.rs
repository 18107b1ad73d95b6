//! The start of the custom handler, against a bare axum program: from the start of its process to the first answer to `GET /`,
//! to the first answered handshake of Microsoft Graph, and to the handshake's answer at the front door of the emulated host.
//!
//! Both are started as the host does it: no arguments, the port in the environment, no settings but those of the system. They
//! are asked without a pause, so that the answer is seen when it is there; the host looks each 25 ms.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use emulator::FreePort;
use emulator::host::{FunctionsHost, HostOptions};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;

use super::median;
use crate::docs::root;

/// The first thing that is asked of a program, and the end of its answer.
struct Question {
    name: &'static str,
    request: &'static str,
    answer: &'static str,
}

const READINESS: Question = Question { name: "GET /", request: "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", answer: "" };
const HANDSHAKE: Question = Question {
    name: "handshake",
    request: "POST /api/notifications?validationToken=Validation%3a+Testing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 0\r\n\r\n",
    answer: "\r\n\r\nValidation: Testing",
};
/// So many times as many pairs under the host.
const HOSTED: usize = 10;
/// Long after anything useful.
const LIMIT: Duration = Duration::from_secs(10);
/// Sockets of this address cannot be the other end of themselves while nobody listens yet.
const ASKING: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

pub(super) async fn run(pairs: usize) -> anyhow::Result<()> {
    // The product alone, as it is packed: with the features that it has by itself.
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    for package in [["--package", "indicator-relay", "--bin", "indicator-relay"], ["--package", "xtask", "--bin", "bare"]] {
        let built = Command::new(cargo).args(["build", "--release", "--quiet"]).args(package).current_dir(root()).status();
        ensure!(built.await?.success(), "failed to build");
    }
    let folder = root().join("target/release");
    let (product, bare) = (folder.join("indicator-relay"), folder.join("bare"));
    for program in [&product, &bare] {
        println!("size: {} {:.2} MiB", name(program), mib(std::fs::metadata(program)?.len()));
        start(program, &READINESS).await?; // read from the disk, once
    }
    for question in [&READINESS, &HANDSHAKE] {
        let mut all = (Vec::new(), Vec::new());
        for i in 0..pairs {
            pair(i, &bare, &product, &mut all, async |program| start(program, question).await).await?;
        }
        report(question.name, "from the start of the process", ("medians", |all| median(all.to_vec())), &all);
    }
    let mut all = (Vec::new(), Vec::new());
    for i in 0..pairs * HOSTED {
        pair(i, &bare, &product, &mut all, hosted).await?;
    }
    // Whether the host's first look comes a little too early makes 25 ms: a median would only say which happens more often.
    report(HANDSHAKE.name, "at the door of the host, from its start", ("means", mean), &all);
    Ok(())
}

/// Each is first in every other pair.
async fn pair(
    i: usize,
    bare: &Path,
    product: &Path,
    (floor, ours): &mut (Vec<f64>, Vec<f64>),
    took: impl AsyncFn(&Path) -> anyhow::Result<f64>,
) -> anyhow::Result<()> {
    if i.is_multiple_of(2) {
        floor.push(took(bare).await?);
        ours.push(took(product).await?);
    } else {
        ours.push(took(product).await?);
        floor.push(took(bare).await?);
    }
    Ok(())
}

fn report(question: &str, from: &str, (name, typical): (&str, fn(&[f64]) -> f64), (floor, ours): &(Vec<f64>, Vec<f64>)) {
    let least = |all: &[f64]| all.iter().copied().fold(f64::INFINITY, f64::min);
    let (bare, product) = (typical(floor), typical(ours));
    println!(
        "start: {question} answered, {from}: bare {bare:.2} ms (at best {:.2}), product {product:.2} ms (at best {:.2}); {name} of {} pairs: {:.2} × (target 1.5)",
        least(floor),
        least(ours),
        ours.len(),
        product / bare
    );
}

#[expect(clippy::cast_precision_loss, reason = "a mean for people")]
fn mean(all: &[f64]) -> f64 {
    all.iter().sum::<f64>() / all.len() as f64
}

fn name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// From the start of a process to the first answer, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "this measures")]
async fn start(program: &Path, question: &Question) -> anyhow::Result<f64> {
    let free = FreePort::find()?;
    let port = free.number();
    let mut command = Command::new(program);
    command.env_clear().env("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("failed to start {}", name(program)))?;
    let stream = loop {
        if let Some(stream) = connect(port).await {
            break stream;
        }
        if began.elapsed() > LIMIT {
            bail!("{} does not listen", name(program));
        }
    };
    ask(stream, question).await.with_context(|| format!("{} answers something else", name(program)))?;
    let took = began.elapsed();
    child.kill().await?;
    Ok(took.as_secs_f64() * 1e3)
}

/// From the start of a host with a program as its handler to the answer to a handshake that comes at once, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "this measures")]
async fn hosted(program: &Path) -> anyhow::Result<f64> {
    let app = tempfile::tempdir()?;
    let function = app.path().join("ReceiveNotifications");
    std::fs::create_dir(&function)?;
    std::fs::copy(root().join("host.json"), app.path().join("host.json"))?;
    std::fs::copy(root().join("functions/ReceiveNotifications/function.json"), function.join("function.json"))?;
    std::os::unix::fs::symlink(program, app.path().join("handler"))?;
    let mut options = HostOptions::new(app.path());
    options.allow_execution = false; // it is
    let began = Instant::now();
    let host = FunctionsHost::start(options).await?;
    let address = host.url().strip_prefix("http://").context("an address")?.to_owned();
    ask(TcpStream::connect(address).await?, &HANDSHAKE)
        .await
        .with_context(|| format!("{} answers something else", name(program)))?;
    let took = began.elapsed();
    host.stop().await;
    Ok(took.as_secs_f64() * 1e3)
}

/// Waits for the whole answer.
async fn ask(mut stream: TcpStream, question: &Question) -> anyhow::Result<()> {
    stream.write_all(question.request.as_bytes()).await?;
    let mut answer = Vec::with_capacity(1_024);
    loop {
        ensure!(stream.read_buf(&mut answer).await? > 0, "the connection was closed");
        if answer.ends_with(question.answer.as_bytes()) {
            ensure!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
            return Ok(());
        }
    }
}

async fn connect(port: u16) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((ASKING, 0))).ok()?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()
}
