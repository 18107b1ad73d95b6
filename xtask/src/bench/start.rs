//! The start of the custom handler: from the start of its process to the first answer to `GET /`, against a bare axum program.
//!
//! Both are started as the host does it: no arguments, the port in the environment, no settings but those of the system. They
//! are asked without a pause, so that the answer is seen when it is there.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::process::Command;

use super::median;
use crate::docs::root;

const QUESTION: &[u8] = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
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
        start(program).await?; // read from the disk, once
    }
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for i in 0..pairs {
        // Each is first in every other pair.
        if i % 2 == 0 {
            floor.push(start(&bare).await?);
            ours.push(start(&product).await?);
        } else {
            ours.push(start(&product).await?);
            floor.push(start(&bare).await?);
        }
    }
    for (name, all) in [("bare", &floor), ("product", &ours)] {
        let listens = median(all.iter().map(|started| started.listens_ms).collect());
        let least = all.iter().map(|started| started.answers_ms).fold(f64::INFINITY, f64::min);
        println!("start: {name:7} listens after {listens:.2} ms, answers after {:.2} ms, at best {least:.2} ms", answers(all));
    }
    println!("start: medians of {pairs} pairs: {:.2} × the bare program (target 1.5)", answers(&ours) / answers(&floor));
    Ok(())
}

/// What one start took, in milliseconds from the start of the process.
struct Started {
    listens_ms: f64,
    answers_ms: f64,
}

/// The median.
fn answers(all: &[Started]) -> f64 {
    median(all.iter().map(|started| started.answers_ms).collect())
}

fn name(program: &Path) -> String {
    program.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[expect(clippy::cast_precision_loss, reason = "megabytes for people")]
fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// From the start of a process to the first answer.
#[expect(clippy::disallowed_methods, reason = "this measures")]
async fn start(program: &Path) -> anyhow::Result<Started> {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?.port();
    let mut command = Command::new(program);
    command.env_clear().env("FUNCTIONS_CUSTOMHANDLER_PORT", port.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("failed to start {}", name(program)))?;
    let mut stream = loop {
        if let Some(stream) = connect(port).await {
            break stream;
        }
        if began.elapsed() > LIMIT {
            bail!("{} does not listen", name(program));
        }
    };
    let listens = began.elapsed();
    stream.write_all(QUESTION).await?;
    let mut answer = [0; 512];
    let length = stream.read(&mut answer).await?;
    let answers = began.elapsed();
    ensure!(answer[..length].starts_with(b"HTTP/1.1 200"), "{} answers something else", name(program));
    child.kill().await?;
    Ok(Started { listens_ms: listens.as_secs_f64() * 1e3, answers_ms: answers.as_secs_f64() * 1e3 })
}

async fn connect(port: u16) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from((ASKING, 0))).ok()?;
    socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()
}
