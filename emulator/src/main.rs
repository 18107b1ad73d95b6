//! Runs the emulator until Ctrl-C and says how to talk to it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use emulator::{Emulator, GRAPH_CLIENT_ID, GRAPH_CLIENT_SECRET, GRAPH_TENANT, Options, Service, TENANT, generate, load_csv};

/// Somebody in the directory, for the example.
const USER: &str = "3f6c2a10-0000-4000-8000-000000000001";

/// ThreatConnect, Entra, Key Vault, Sentinel, Defender and Graph on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many indicators to make up, or a CSV file with the columns type,value,md5,sha1,sha256,tags,description,source,first_seen.
    #[arg(long, default_value = "1000")]
    indicators: String,
    /// The first of eight ports; any free ones if not given.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Where to write the CA that programs must trust.
    #[arg(long, default_value = "emulator-ca.pem")]
    ca: PathBuf,
    /// ThreatConnect and the sinks over plain HTTP (login and vault stay HTTPS).
    #[arg(long)]
    plain: bool,
    /// The sinks take any number of requests.
    #[arg(long)]
    no_rate: bool,
    /// Milliseconds that each page of ThreatConnect takes.
    #[arg(long, default_value_t = 0)]
    page_latency: u64,
    /// Milliseconds that each request to a sink takes.
    #[arg(long, default_value_t = 0)]
    upload_latency: u64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let options = Options { tls: !arguments.plain, port: arguments.port, enforce_rate: !arguments.no_rate, ..Options::default() };
    let now = options.time.now();
    let mut emulator = Emulator::start(options).await.context("failed to start the emulator")?;
    let count = if let Ok(count) = arguments.indicators.parse::<usize>() {
        let mut world = emulator.world();
        generate(1, count, now).for_each(|indicator| _ = world.add(indicator));
        count
    } else {
        let indicators = load_csv(arguments.indicators.as_ref(), now)?;
        let count = indicators.len();
        let mut world = emulator.world();
        for indicator in indicators {
            world.add(indicator);
        }
        count
    };
    let latencies = [
        (Service::ThreatConnect, arguments.page_latency),
        (Service::Sentinel, arguments.upload_latency),
        (Service::Defender, arguments.upload_latency),
        (Service::Graph, arguments.upload_latency),
    ];
    for (service, latency) in latencies {
        if latency > 0 {
            emulator.world().latency.insert(service, Duration::from_millis(latency));
        }
    }
    emulator.deliver_always();
    std::fs::write(&arguments.ca, emulator.ca_pem()).with_context(|| format!("failed to write {}", arguments.ca.display()))?;
    println!(
        "{count} indicators; control: {} ; stop with Ctrl-C. The environment of a program that talks to it:\n",
        emulator.control_url()
    );
    // Whole, so that it holds wherever the lines are pasted.
    println!("export SSL_CERT_FILE='{}'", std::path::absolute(&arguments.ca)?.display());
    for (key, value) in emulator.environment() {
        println!("export {key}='{value}'");
    }
    println!("# A second tenant, for Graph alone: {GRAPH_TENANT}, client {GRAPH_CLIENT_ID}, secret {GRAPH_CLIENT_SECRET}");
    println!("# KEY_VAULT_URL='{}'", emulator.key_vault_url());
    println!("# For notifications: PUBLIC_URL='http://127.0.0.1:7071', the address of `indicator-relay serve`. A user changes:");
    println!(
        "# curl {}/objects --json '{{\"tenant\": \"{TENANT}\", \"path\": \"users/{USER}\", \"object\": {{\"id\": \"{USER}\", \"displayName\": \"Ada\"}}}}'",
        emulator.control_url()
    );
    tokio::signal::ctrl_c().await?;
    Ok(())
}
