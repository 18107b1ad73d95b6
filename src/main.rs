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
use futures_util::FutureExt as _;
use indicator_relay::app::Surroundings;
use indicator_relay::cli::{self, Arguments};
use indicator_relay::functions::{self, Relay};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::settings::{self, LoggingLevel};
use indicator_relay::telemetry::{self, Form, Lines};
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
        let level = settings::logging_level(&environment).unwrap_or(LoggingLevel::Info);
        let (runtime, built) = (Handle::current(), Arc::new(OnceCell::new()));
        let made_with = Arc::clone(&clock);
        let look = move || {
            let (built, runtime, clock) = (Arc::clone(&built), runtime.clone(), Arc::clone(&made_with));
            let environment = environment.clone();
            let look = async move {
                let make = || async {
                    let making = move || {
                        let lines = Form::Lines(Lines::of_process(Arc::clone(&clock)));
                        surroundings(environment, lines, level, clock, &runtime).map_err(|error| unusable(&error))
                    };
                    tokio::task::spawn_blocking(making).await.unwrap_or_else(|error| Err(error.to_string()))
                };
                built.get_or_try_init(make).await.cloned()
            };
            look.boxed()
        };
        // Beside the listener, for whoever needs it first: certificates are read meanwhile.
        drop(tokio::spawn(look()));
        let relay = Relay::new(look);
        functions::serve(listener, functions::router(&relay), clock).await;
        Ok(ExitCode::FAILURE)
    })
}

fn command(environment: Environment) -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // The run itself is on this thread, what goes on beside it on one more: further ones only make memory grow.
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let form = Form::Human { colours: std::io::stderr().is_terminal() };
    let level = cli::logging_level(&arguments, &environment);
    let around = surroundings(environment, form, level, Arc::new(SystemClock::new()), runtime.handle())?;
    let exit = runtime.block_on(async {
        let exit = cli::run(arguments, &around).await;
        around.telemetry.flush().await;
        exit
    });
    Ok(exit.into())
}

/// Without certificates there is no client, and without that no log yet: the line that says so is written by hand.
fn unusable(error: &anyhow::Error) -> String {
    let error = format!("failed to make a client: {error:#}; see whether SSL_CERT_FILE names a file of certificates");
    let now = SystemClock::new().now().to_string();
    eprintln!(
        "{}",
        serde_json::json!({"time": now, "level": "ERROR", "message": error, "event": "invocation.failed", "error": error})
    );
    error
}

fn surroundings(
    environment: Environment,
    form: Form,
    level: LoggingLevel,
    clock: Arc<dyn Clock>,
    runtime: &Handle,
) -> anyhow::Result<Surroundings> {
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        // For the official clients, which set none: nobody waits for ever.
        .connect_timeout(Duration::from_secs(15))
        .read_timeout(Duration::from_secs(60))
        // Shorter than any service keeps an idle connection: a request on one that is just being closed may or may not arrive.
        .pool_idle_timeout(Duration::from_secs(4))
        .user_agent(concat!("IndicatorRelay/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let level = match level {
        LoggingLevel::Trace => LevelFilter::TRACE,
        LoggingLevel::Debug => LevelFilter::DEBUG,
        LoggingLevel::Info => LevelFilter::INFO,
        LoggingLevel::Warn => LevelFilter::WARN,
        LoggingLevel::Error => LevelFilter::ERROR,
    };
    let options = telemetry::Options { environment: &environment, form, level, client: &client, clock: &clock, runtime };
    let telemetry = telemetry::init(options);
    Ok(Surroundings { environment, client, clock, telemetry })
}
