//! What the process tells of itself: lines for people or for the host's console, spans and metrics for a collector.
//!
//! `line` is the form of the host's lines, `human` that for a terminal, `invocation` the span that their fields come from, `otlp` the way to a collector, `run` a
//! report's numbers. Above `export`, whose report it reads; nothing below knows of it but the `tracing` macros.

mod human;
mod invocation;
mod line;
mod otlp;
mod run;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use invocation::{fail, invocation};
pub use line::{COMMON, Lines, Writer};
use tokio::runtime::Handle;
use tokio::sync::OnceCell;
use tracing::{Level, Subscriber};
use tracing_subscriber::filter::{FilterFn, LevelFilter};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::export::Report;
use crate::platform::clock::Clock;
use otlp::Otlp;

/// How long the end of an invocation, or of a command, waits for telemetry at most.
const WAIT: Duration = Duration::from_secs(2);
/// The field of a line that alerts and workbooks read.
pub const EVENT: &str = "event";
/// Between two lines that say that telemetry cannot be sent.
const QUIET: Duration = Duration::from_secs(60);

/// Which form lines have.
#[derive(Debug)]
pub enum Form {
    /// For people, on standard error.
    Human { colours: bool },
    /// JSON for the host's console.
    Lines(Lines),
}

/// What telemetry is made from.
#[derive(Debug)]
pub struct Options<'a> {
    pub environment: &'a BTreeMap<String, String>,
    pub form: Form,
    pub level: LevelFilter,
    /// What exports are sent with, as soon as it is there: lines come first.
    pub client: &'a Arc<OnceCell<reqwest::Client>>,
    pub clock: &'a Arc<dyn Clock>,
    /// Where exports are sent from.
    pub runtime: &'a Handle,
}

/// The way to the collector, if there is one; cheap to clone. By default there is none.
#[derive(Debug, Clone, Default)]
pub struct Telemetry(Option<Arc<Export>>);

#[derive(Debug)]
struct Export {
    otlp: Otlp,
    clock: Arc<dyn Clock>,
    /// When it was last said that nothing can be sent, on the clock that only goes forward.
    told: Mutex<Option<Duration>>,
}

/// Sets up logging for the process, and the export where the environment asks for it.
#[must_use]
pub fn init(options: Options<'_>) -> Telemetry {
    let (subscriber, telemetry, problem) = prepare(options);
    subscriber.init();
    if let Some(problem) = problem {
        tracing::warn!("{problem}; no telemetry is sent");
    }
    telemetry
}

/// The same without making it the process's own; with what keeps telemetry from being sent.
pub fn prepare(options: Options<'_>) -> (impl Subscriber + Send + Sync + 'static, Telemetry, Option<String>) {
    let Options { environment, form, level, client, clock, runtime } = options;
    let otlp = otlp::is_wanted(environment).then(|| Otlp::new(environment, client, clock, runtime));
    let (otlp, problem) = match otlp.transpose() {
        Ok(otlp) => (otlp, None),
        Err(problem) => (None, Some(problem)),
    };
    // Spans only, and only ours: events would be the log lines once more, and what sends would trace its own sending.
    let ours = FilterFn::new(|metadata| metadata.is_span() && metadata.target().starts_with(env!("CARGO_CRATE_NAME")));
    let spans = otlp.as_ref().map(|otlp| {
        let layer = tracing_opentelemetry::layer().with_tracer(otlp.tracer.clone());
        layer.with_location(false).with_threads(false).with_filter(ours.with_max_level_hint(Level::INFO))
    });
    let (human, lines) = match form {
        Form::Human { colours } => {
            let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
            let layer = layer.fmt_fields(human::Spans).event_format(human::Events);
            (Some(layer.with_filter(level)), None)
        }
        Form::Lines(lines) => {
            // What alerts wait for is written whatever the level; what libraries tell is for those who look for a fault.
            let shown = FilterFn::new(move |metadata| {
                let ours = metadata.target().starts_with(env!("CARGO_CRATE_NAME"));
                let wanted = *metadata.level() <= level && (ours || *metadata.level() <= Level::WARN || level >= Level::DEBUG);
                wanted || metadata.fields().field(EVENT).is_some()
            });
            (None, Some(lines.with_filter(shown)))
        }
    };
    let subscriber = tracing_subscriber::registry().with(spans).with(human).with(lines);
    let export = otlp.map(|otlp| Export { otlp, clock: Arc::clone(clock), told: Mutex::new(None) });
    (subscriber, Telemetry(export.map(Arc::new)), problem)
}

impl Telemetry {
    /// Adds a run's numbers to the metrics.
    pub fn record(&self, report: &Report) {
        if let Some(export) = &self.0 {
            run::record(&export.otlp.meter, report);
        }
    }

    /// Sends spans that have ended and metrics. To be called at the end of each invocation: the process may be killed at any time after it.
    ///
    /// Waits two seconds at most. What cannot be sent is a line in the log, once in a minute, and never a failure of the work.
    pub async fn flush(&self) {
        let Some(export) = &self.0 else { return };
        let result = tokio::select! {
            biased;
            result = export.otlp.flush() => result,
            () = export.clock.alarm(WAIT) => Err(format!("no answer in {} s", WAIT.as_secs())),
        };
        if let Err(error) = result
            && export.may_tell()
        {
            tracing::warn!(error, "failed to send telemetry; see to OTEL_EXPORTER_OTLP_ENDPOINT and its headers");
        }
    }
}

impl Export {
    fn may_tell(&self) -> bool {
        let now = self.clock.monotonic();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let may = told.is_none_or(|before| now.saturating_sub(before) >= QUIET);
        if may {
            *told = Some(now);
        }
        may
    }
}
