//! Log lines for the console of the Functions host: one JSON object per event, one write per line.
//!
//! The host makes a line of standard output Information, one of standard error Error, or Warning where it holds `warn`
//! in any case (`functions-host.md` 2.3). It does not tell which invocation a line belongs to, so every line says it.

use std::fmt::{self, Write as _};
use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer};
use tracing_subscriber::registry::LookupSpan;

use super::invocation;
use crate::platform::clock::Clock;

/// Bytes of one text, as it is written.
const TEXT: usize = 4_000;
/// Bytes that the event's texts have together. A row of `AppTraces` ends at 32,768 characters, and half a JSON object cannot be
/// read; there must be room for keys, numbers, the invocation's fields and what an ERROR line adds.
const LINE: usize = 24_000;
/// Written by this layer: an event's own field of that name gets a `_` at its end.
const TAKEN: [&str; 6] = ["time", "level", "message", "function", "invocation_id", "traceparent"];

/// Where lines go.
pub type Writer = Box<dyn Write + Send>;

/// The layer: INFO and below to one writer, WARN and ERROR to another.
pub struct Lines {
    clock: Arc<dyn Clock>,
    output: Mutex<Writer>,
    errors: Mutex<Writer>,
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("clock", &self.clock).finish_non_exhaustive()
    }
}

impl Lines {
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>, output: Writer, errors: Writer) -> Self {
        Self { clock, output: Mutex::new(output), errors: Mutex::new(errors) }
    }

    /// Standard output and standard error.
    #[must_use]
    pub fn of_process(clock: Arc<dyn Clock>) -> Self {
        Self::new(clock, Box::new(std::io::stdout()), Box::new(std::io::stderr()))
    }
}

/// The invocation's fields as they stand in each of its lines; kept with its span.
struct Shown(String);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Lines {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id).filter(|span| invocation::is(span.metadata())) else { return };
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        span.extensions_mut().replace(Shown(fields.rest));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        if let Some(shown) = span.extensions_mut().get_mut::<Shown>() {
            let mut fields = Fields::default();
            values.record(&mut fields);
            shown.0.push_str(&fields.rest);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = *event.metadata().level();
        let mut fields = Fields { taken: &TAKEN, ..Fields::default() };
        event.record(&mut fields);
        let mut line = format!("{{\"time\":\"{:.3}\",\"level\":\"{level}\",\"message\":", self.clock.now());
        push_text(&mut line, &fields.message, TEXT);
        line.push_str(&fields.rest);
        for span in context.event_scope(event).into_iter().flatten() {
            if let Some(shown) = span.extensions().get::<Shown>() {
                line.push_str(&shown.0);
            }
        }
        line.push_str("}\n");
        if level == Level::ERROR {
            line = without_warn(&line);
        }
        let writer = if level <= Level::WARN { &self.errors } else { &self.output };
        // The lock keeps lines whole beside each other. A closed pipe is nobody's to tell: there is nowhere to write it.
        let mut writer = writer.lock().unwrap_or_else(PoisonError::into_inner);
        drop(writer.write_all(line.as_bytes()).and_then(|()| writer.flush()));
    }
}

/// `warn` in any case, written so that JSON reads the same and the host does not see it. It only stands within strings.
fn without_warn(line: &str) -> String {
    let mut written = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.as_bytes().windows(4).position(|four| four.eq_ignore_ascii_case(b"warn")) {
        let (before, found) = rest.split_at(at + 1);
        let letter = found.chars().next().map_or(0, u32::from);
        // Writing to a string does not fail.
        let _ = write!(written, "{before}\\u{letter:04x}");
        rest = &found[1..];
    }
    written + rest
}

/// A JSON string of at most about `room` bytes; what is cut off is a `…`.
fn push_text(line: &mut String, text: &str, room: usize) {
    line.push('"');
    let end = line.len() + room;
    for letter in text.chars() {
        if line.len() >= end {
            line.push('…');
            break;
        }
        match letter {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            // What some readers take for the end of a line, or for nothing at all.
            '\u{2028}' | '\u{2029}' => {
                let _ = write!(line, "\\u{:04x}", u32::from(letter));
            }
            _ if letter.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(letter));
            }
            _ => line.push(letter),
        }
    }
    line.push('"');
}

/// `,"key":value` for each field, in the order given; the message apart.
#[derive(Default)]
struct Fields {
    message: String,
    rest: String,
    /// Names that get a `_`.
    taken: &'static [&'static str],
}

impl Fields {
    /// The key; false for what is meant for traces only.
    fn key(&mut self, field: &Field) -> bool {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        if name.starts_with("otel.") {
            return false;
        }
        let mark = if self.taken.contains(&name) { "_" } else { "" };
        let _ = write!(self.rest, ",\"{name}{mark}\":");
        true
    }

    fn text(&mut self, field: &Field, text: &str) {
        if field.name() == "message" {
            text.clone_into(&mut self.message);
        } else if self.key(field) {
            let room = TEXT.min(LINE.saturating_sub(self.rest.len()));
            push_text(&mut self.rest, text, room);
        }
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        if self.key(field) {
            let _ = write!(self.rest, "{value}");
        }
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() { self.plain(field, value) } else { self.plain(field, "null") }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_i128(&mut self, field: &Field, value: i128) {
        self.plain(field, value);
    }

    fn record_u128(&mut self, field: &Field, value: u128) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        self.text(field, &text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.text(field, &format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use tracing::{debug, error, info, warn};
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;
    use crate::platform::clock::SystemClock;
    use crate::telemetry;

    /// Keeps each write as it came.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Vec<u8>>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Kept {
        fn lines(&self) -> Vec<String> {
            self.0.lock().unwrap().iter().map(|bytes| String::from_utf8(bytes.clone()).unwrap()).collect()
        }
    }

    fn written(work: impl FnOnce()) -> (Vec<String>, Vec<String>) {
        let (output, errors) = (Kept::default(), Kept::default());
        let lines = Lines::new(Arc::new(SystemClock::new()), Box::new(output.clone()), Box::new(errors.clone()));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), work);
        (output.lines(), errors.lines())
    }

    fn parsed(line: &str) -> Value {
        serde_json::from_str(line).unwrap()
    }

    #[test]
    fn a_line_is_one_write_and_keeps_types_and_order() {
        let (output, errors) = written(|| {
            info!(
                event = "run.finished",
                job = "default",
                complete = true,
                accepted = 7_u64,
                share = 0.5,
                left = -1,
                "the run ended"
            );
        });
        assert!(errors.is_empty());
        let [line] = &output[..] else { panic!("{output:?}") };
        let (time, rest) = line.split_once(",\"level\"").unwrap();
        assert!(time.starts_with("{\"time\":\"20") && time.ends_with("Z\""), "{time}");
        assert_eq!(
            rest,
            ":\"INFO\",\"message\":\"the run ended\",\"event\":\"run.finished\",\"job\":\"default\",\"complete\":true,\
             \"accepted\":7,\"share\":0.5,\"left\":-1}\n"
        );
    }

    #[test]
    fn the_level_chooses_the_stream() {
        let (output, errors) = written(|| {
            debug!("a");
            info!("b");
            warn!("c");
            error!("d");
        });
        assert_eq!((output.len(), errors.len()), (2, 2));
        assert!(errors[0].to_lowercase().contains("warn"), "the host reads the level from it");
    }

    #[test]
    fn an_error_that_speaks_of_a_warning_stays_an_error() {
        let (_, errors) = written(|| error!(error = "WARNING: Warn\\warn wwarn", warned = 1, "no warnings"));
        assert!(!errors[0].to_lowercase().contains("warn"), "{}", errors[0]);
        let line = parsed(&errors[0]);
        assert_eq!(line["error"], "WARNING: Warn\\warn wwarn");
        assert_eq!((&line["message"], &line["warned"]), (&"no warnings".into(), &1.into()));
    }

    #[test]
    fn breaks_and_control_characters_are_escaped() {
        let text = "a\r\nb\u{0}\u{1b}[31m\u{85}\u{2028}\t\"\\ü";
        let (output, _) = written(|| info!(value = text, "{text}"));
        assert_eq!(output[0].chars().filter(|letter| letter.is_control() || *letter == '\u{2028}').collect::<String>(), "\n");
        let line = parsed(&output[0]);
        assert_eq!((&line["value"], &line["message"]), (&text.into(), &text.into()));
    }

    #[test]
    fn long_texts_are_cut_and_the_line_stays_whole() {
        let long = "\u{1}ü".repeat(50_000);
        let (output, _) = written(|| {
            let span = telemetry::invocation("RunExport", "id", None);
            let _entered = span.enter();
            info!(a = long, b = long, c = long, d = long, e = long, f = long, g = long, h = long, number = 1, "{long}");
        });
        assert!(output[0].encode_utf16().count() < 32_000, "{}", output[0].len());
        let line = parsed(&output[0]);
        assert!(line["a"].as_str().unwrap().ends_with('…') && line["h"].as_str().unwrap().ends_with('…'));
        assert_eq!((&line["number"], &line["invocation_id"]), (&1.into(), &"id".into()));
    }

    #[test]
    fn each_line_says_its_invocation_and_no_other() {
        const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let (output, _) = written(|| {
            let one = telemetry::invocation("RunExport", "one", Some(PARENT));
            let other = telemetry::invocation("ExportIndicators", "other", Some("nonsense"));
            one.in_scope(|| tracing::info_span!("inner", secret = "s").in_scope(|| info!(function = "own", "a")));
            other.in_scope(|| info!("b"));
            telemetry::fail(&one, "it failed");
            info!("c");
        });
        let lines: Vec<Value> = output.iter().map(|line| parsed(line)).collect();
        assert_eq!((&lines[0]["function"], &lines[0]["invocation_id"]), (&"RunExport".into(), &"one".into()));
        assert_eq!((&lines[0]["traceparent"], &lines[0]["function_"]), (&PARENT.into(), &"own".into()));
        assert_eq!(lines[0].get("secret"), None);
        assert_eq!(
            output[1].split_once("\"message\"").unwrap().1,
            ":\"b\",\"function\":\"ExportIndicators\",\"invocation_id\":\"other\"}\n"
        );
        assert_eq!(lines[2].get("function"), None);
    }

    #[test]
    fn errors_are_told_with_their_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("failed to read")]
        struct Failed(#[source] std::io::Error);
        let failed = Failed(std::io::Error::other("no disk"));
        let (_, errors) = written(|| error!(error = &failed as &(dyn std::error::Error + 'static), r#type = "x", "a"));
        let line = parsed(&errors[0]);
        assert_eq!((&line["error"], &line["type"]), (&"failed to read: no disk".into(), &"x".into()));
    }

    #[test]
    fn a_closed_pipe_is_no_panic() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
        }
        let lines = Lines::new(Arc::new(SystemClock::new()), Box::new(Closed), Box::new(Closed));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
            info!("a");
            error!("b");
        });
    }
}
