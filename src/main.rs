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
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::settings::{self, LoggingLevel};
use indicator_relay::telemetry::{self, Form, Lines, Telemetry};
use tokio::runtime::{Builder, Handle};
use tokio::sync::OnceCell;
use tracing_subscriber::filter::LevelFilter;

/// Where the Functions host expects us.
const PORT: &str = "FUNCTIONS_CUSTOMHANDLER_PORT";

type Environment = BTreeMap<String, String>;

fn main() -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    let environment: Environment =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect();
    let handled = match environment.get(PORT).cloned() {
        Some(port) if std::env::args_os().len() < 2 => handle(&port, environment),
        _ => command(environment),
    };
    handled.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// The custom handler: listens before anything else, since the host waits for it.
fn handle(port: &str, environment: Environment) -> anyhow::Result<ExitCode> {
    let number: u16 = port.trim().parse().with_context(|| format!("{PORT} is `{port}`, which is no port"))?;
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, number)).with_context(|| format!("failed to listen on port {number}"))?;
    listener.set_nonblocking(true)?;
    // One line as every other, not several that the host would take for several errors.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let payload = panic.payload();
        let said = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        tracing::error!(place, "the program has a bug: {}", said.unwrap_or("it panicked"));
    }));
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let lines = Form::Lines(Lines::of_process(Arc::clone(&clock)));
        let level = settings::logging_level(&environment).unwrap_or(LoggingLevel::Info);
        let client = Arc::new(OnceCell::new());
        let telemetry = telemetry(&environment, lines, level, &client, &clock);
        let relay = Relay::new(Arc::clone(&clock), {
            let clock = Arc::clone(&clock);
            move || {
                let (cell, environment) = (Arc::clone(&client), environment.clone());
                let (clock, telemetry) = (Arc::clone(&clock), telemetry.clone());
                Box::pin(async move {
                    let client = client_in(&cell, &environment).await?;
                    Ok(Surroundings { environment, client, clock, telemetry })
                })
            }
        });
        functions::serve(listener, functions::router(&relay), clock, None).await;
        Ok(ExitCode::FAILURE)
    })
}

fn command(environment: Environment) -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // The run itself is on this thread, what goes on beside it on one more: further ones only make memory grow.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let terminal = std::io::stderr().is_terminal();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let unattended = cli::serves(&arguments) && !terminal;
    let form = if unattended { Form::Lines(Lines::of_process(Arc::clone(&clock))) } else { Form::Human { colours: terminal } };
    let level = cli::logging_level(&arguments, &environment);
    let exit = runtime.block_on(async {
        let cell = Arc::new(OnceCell::new());
        let telemetry = telemetry(&environment, form, level, &cell, &clock);
        let client = client_in(&cell, &environment).await.map_err(anyhow::Error::msg)?;
        let around = Surroundings { environment, client, clock, telemetry };
        let exit = cli::run(arguments, &around).await;
        around.telemetry.flush().await;
        anyhow::Ok(exit)
    })?;
    Ok(exit.into())
}

/// Lines from now on; spans and metrics as soon as `client` is there.
fn telemetry(
    environment: &Environment,
    form: Form,
    level: LoggingLevel,
    client: &Arc<OnceCell<reqwest::Client>>,
    clock: &Arc<dyn Clock>,
) -> Telemetry {
    let level = match level {
        LoggingLevel::Trace => LevelFilter::TRACE,
        LoggingLevel::Debug => LevelFilter::DEBUG,
        LoggingLevel::Info => LevelFilter::INFO,
        LoggingLevel::Warn => LevelFilter::WARN,
        LoggingLevel::Error => LevelFilter::ERROR,
    };
    telemetry::init(telemetry::Options { environment, form, level, client, clock, runtime: &Handle::current() })
}

/// The client, made once; after a failure, which is one line, it is tried again.
async fn client_in(cell: &OnceCell<reqwest::Client>, environment: &Environment) -> Result<reqwest::Client, String> {
    let made = cell.get_or_try_init(|| async {
        // One that is not there would be taken for none that is trusted, and every service for a stranger.
        if let Some(file) = environment.get("SSL_CERT_FILE").filter(|file| !std::path::Path::new(file).exists()) {
            return Err(format!("SSL_CERT_FILE names {file}, which is not there; name a file of certificates, or unset it"));
        }
        // Certificates are files.
        let made = tokio::task::spawn_blocking(client).await.map_err(anyhow::Error::from);
        made.and_then(|made| made).map_err(|error| {
            let file = environment.get("SSL_CERT_FILE").map_or("not set", String::as_str);
            format!("no HTTPS client can be made; see to the certificates of SSL_CERT_FILE ({file}): {error:#}")
        })
    });
    made.await.cloned()
}

fn client() -> anyhow::Result<reqwest::Client> {
    let builder = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // For the official clients, which set none: nobody waits for ever.
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(Duration::from_secs(60))
        // Shorter than any service keeps an idle connection: a request on one that is just being closed may or may not arrive.
        .pool_idle_timeout(Duration::from_secs(4))
        .user_agent(concat!("IndicatorRelay/", env!("CARGO_PKG_VERSION")));
    Ok(builder.build()?)
}
