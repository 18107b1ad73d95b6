//! The binary: the only reader of the process environment, the only maker of clients and clocks.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser as _;
use indicator_relay::cli::{self, Arguments, Surroundings};
use indicator_relay::platform::clock::{Clock, SystemClock};
use indicator_relay::settings::LoggingLevel;
use indicator_relay::telemetry::{self, Form, Lines};
use tracing_subscriber::filter::LevelFilter;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    #[expect(clippy::disallowed_methods, reason = "this is the one place that reads it")]
    let environment: BTreeMap<String, String> =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?))).collect();
    let level = match cli::logging_level(&arguments, &environment) {
        LoggingLevel::Trace => LevelFilter::TRACE,
        LoggingLevel::Debug => LevelFilter::DEBUG,
        LoggingLevel::Info => LevelFilter::INFO,
        LoggingLevel::Warn => LevelFilter::WARN,
        LoggingLevel::Error => LevelFilter::ERROR,
    };
    match work(arguments, environment, level) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn work(arguments: Arguments, environment: BTreeMap<String, String>, level: LevelFilter) -> anyhow::Result<cli::Exit> {
    // The run itself is on this thread, what goes on beside it on one more: further ones only make memory grow.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("IndicatorRelay/", env!("CARGO_PKG_VERSION")))
        .build()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let terminal = std::io::stderr().is_terminal();
    let form = if environment.contains_key("FUNCTIONS_CUSTOMHANDLER_PORT") {
        Form::Lines(Lines::of_process(Arc::clone(&clock)))
    } else {
        Form::Human { colours: terminal }
    };
    let telemetry = telemetry::init(telemetry::Options {
        environment: &environment,
        form,
        level,
        client: &client,
        clock: &clock,
        runtime: runtime.handle(),
    });
    let around = Surroundings { environment, client, clock, terminal, telemetry: telemetry.clone() };
    Ok(runtime.block_on(async {
        let exit = cli::run(arguments, &around).await;
        telemetry.flush().await;
        exit
    }))
}
