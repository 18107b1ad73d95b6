//! The binary: the only reader of the process environment, the only maker of clients and clocks.
//!
//! Started by the Functions host (which sets a port and gives no arguments) it is the custom handler; else the command line.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser as _;
use indicator_relay::app::Surroundings;
use indicator_relay::cli::{self, Arguments};
use indicator_relay::functions::{self, Relay};
use indicator_relay::platform::clock::SystemClock;
use indicator_relay::settings::{self, LoggingLevel};
use tracing_subscriber::filter::LevelFilter;

/// Where the Functions host expects us.
const PORT: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    let environment: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect();
    let handled = match environment.get(PORT) {
        Some(port) if std::env::args_os().len() < 2 => handle(&port.clone(), environment),
        _ => command(environment),
    };
    handled.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The custom handler: listens before anything else, since the host waits for it.
fn handle(port: &str, environment: BTreeMap<String, String>) -> anyhow::Result<ExitCode> {
    let number: u16 = port.trim().parse().with_context(|| format!("{PORT} is `{port}`, which is no port"))?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).with_context(|| format!("failed to listen on port {number}"))?;
    listener.set_nonblocking(true)?;
    log(settings::logging_level(&environment).unwrap_or(LoggingLevel::Info));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let relay = Relay::new(move || surroundings(environment.clone()).map_err(|error| format!("{error:#}")));
        functions::serve(listener, functions::router(&relay), Arc::new(SystemClock::new())).await;
        Ok(ExitCode::FAILURE)
    })
}

fn command(environment: BTreeMap<String, String>) -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    log(cli::logging_level(&arguments, &environment));
    // The run itself is on this thread, what goes on beside it on one more: further ones only make memory grow.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let around = surroundings(environment)?;
    Ok(runtime.block_on(cli::run(arguments, &around)).into())
}

fn surroundings(environment: BTreeMap<String, String>) -> anyhow::Result<Surroundings> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // For the official clients, which set none: nobody waits for ever.
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(Duration::from_secs(60))
        .user_agent(concat!("IndicatorRelay/", env!("CARGO_PKG_VERSION")))
        .build()?;
    Ok(Surroundings { environment, client, clock: Arc::new(SystemClock::new()) })
}

fn log(level: LoggingLevel) {
    let level = match level {
        LoggingLevel::Trace => LevelFilter::TRACE,
        LoggingLevel::Debug => LevelFilter::DEBUG,
        LoggingLevel::Info => LevelFilter::INFO,
        LoggingLevel::Warn => LevelFilter::WARN,
        LoggingLevel::Error => LevelFilter::ERROR,
    };
    let terminal = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(terminal).with_target(false).init();
}
