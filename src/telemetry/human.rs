//! Log lines for people at a terminal: what happened, and what is not nothing of its fields.
//!
//! The lines of the host's console hold every field, for who counts (`line`); here a zero says nothing.

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use super::{EVENT, invocation};

/// An event: time, level, whose invocation it is of, message, fields.
#[derive(Debug)]
pub(super) struct Events;

/// What is kept of a span: the function's name.
#[derive(Debug)]
pub(super) struct Spans;

impl<S, N> FormatEvent<S, N> for Events
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        SystemTime.format_time(&mut writer)?;
        let level = *event.metadata().level();
        match colour(level).filter(|_| writer.has_ansi_escapes()) {
            Some(colour) => write!(writer, " \u{1b}[{colour}m{level:>5}\u{1b}[0m ")?,
            None => write!(writer, " {level:>5} ")?,
        }
        for span in context.event_scope().into_iter().flatten().filter(|span| invocation::is(span.metadata())) {
            if let Some(function) = span.extensions().get::<FormattedFields<N>>() {
                write!(writer, "{}: ", function.fields.trim())?;
            }
        }
        let mut fields = Fields::default();
        event.record(&mut fields);
        writeln!(writer, "{}{}", fields.message, fields.rest)
    }
}

fn colour(level: Level) -> Option<&'static str> {
    match level {
        Level::ERROR => Some("31"),
        Level::WARN => Some("33"),
        Level::INFO => Some("32"),
        _ => None,
    }
}

impl<'w> FormatFields<'w> for Spans {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut function = Function(String::new());
        fields.record(&mut function);
        writer.write_str(&function.0)
    }
}

struct Function(String);

impl Visit for Function {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "function" {
            value.clone_into(&mut self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

/// ` key=value` for each field that says something the message does not.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn put(&mut self, field: &Field, value: impl fmt::Display) {
        // Names for machines.
        if field.name() != EVENT && !field.name().starts_with("otel.") {
            let name = field.name();
            // Writing to a string does not fail.
            let _ = write!(self.rest, " {}={value}", name.strip_prefix("r#").unwrap_or(name));
        }
    }
}

impl Visit for Fields {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if value != 0 {
            self.put(field, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        if value != 0 {
            self.put(field, value);
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        if value {
            self.put(field, value);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else if !value.is_empty() && !self.message.contains(value) {
            self.put(field, format_args!("{value:?}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else if !self.message.contains(&text) {
            self.put(field, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::telemetry;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_says_what_happened_and_nothing_that_did_not() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).with_ansi(false);
        let layer = layer.fmt_fields(Spans).event_format(Events);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = telemetry::invocation("RunPlaybooks", "an-id", None);
            let _in = span.enter();
            tracing::info!(
                event = "notification.handled",
                queue = "items",
                done = 1_u64,
                skipped = 0_u64,
                waits = false,
                dropped = "",
                "a message of the queue `items` was handled"
            );
        });
        let said = String::from_utf8(kept.0.lock().unwrap().clone()).expect("text");
        let (_, rest) = said.split_once("Z ").expect("a time");
        assert_eq!(rest, " INFO RunPlaybooks: a message of the queue `items` was handled done=1\n");
    }
}
