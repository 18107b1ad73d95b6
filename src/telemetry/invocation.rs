//! The span of one invocation: what every line of it says, and the host's trace that it continues.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState};
use tracing::{Metadata, Span, field};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

const NAME: &str = "invocation";

/// The span of an invocation; work in it with `instrument`, and drop it before [`super::Telemetry::flush`]: only what has ended is sent.
///
/// `traceparent` is the host's header of that name; one that is not as W3C Trace Context says is left out.
#[must_use]
pub fn invocation(function: &str, invocation_id: &str, traceparent: Option<&str>) -> Span {
    let parent = traceparent.and_then(|text| Some((text, parse(text)?)));
    // At the level of errors, so that no LOGGING_LEVEL takes the fields from the lines.
    let span = tracing::error_span!(
        parent: None,
        NAME,
        otel.name = function,
        otel.kind = "server",
        otel.status_code = field::Empty,
        otel.status_description = field::Empty,
        function,
        invocation_id,
        traceparent = parent.as_ref().map(|(text, _)| *text),
    );
    if let Some((_, parent)) = parent {
        // Fails where no traces are exported, and then nobody needs it.
        drop(span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent)));
    }
    span
}

/// Marks the invocation as failed in the trace.
pub fn fail(invocation: &Span, error: &str) {
    invocation.record("otel.status_code", "ERROR");
    invocation.record("otel.status_description", error);
}

pub(super) fn is(span: &Metadata<'_>) -> bool {
    span.name() == NAME && span.target() == module_path!()
}

/// <https://www.w3.org/TR/trace-context/#traceparent-header>: lower-case digits of fixed width; later versions may add parts.
fn parse(text: &str) -> Option<SpanContext> {
    let parts: Vec<&str> = text.splitn(5, '-').collect();
    let [version, trace, span, flags, ..] = parts[..] else { return None };
    let hex = |part: &str, width: usize| part.len() == width && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let well_formed = hex(version, 2) && hex(trace, 32) && hex(span, 16) && hex(flags, 2);
    if !well_formed || version == "ff" || version == "00" && parts.len() > 4 {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    Some(SpanContext::new(trace, span, flags, true, TraceState::default())).filter(SpanContext::is_valid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trace_parents_are_read_as_w3c_says() {
        const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
        let good = parse(&format!("00-{TRACE}-b7ad6b7169203331-01")).unwrap();
        assert_eq!((good.trace_id().to_string(), good.is_sampled(), good.is_remote()), (TRACE.to_owned(), true, true));
        assert!(!parse(&format!("00-{TRACE}-b7ad6b7169203331-00")).unwrap().is_sampled());
        assert!(parse(&format!("cc-{TRACE}-b7ad6b7169203331-01-what-comes")).is_some(), "of a later version");
        for text in [
            String::new(),
            "00".to_owned(),
            format!("ff-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-01-more"),
            format!("00-{TRACE}-b7ad6b7169203331-01-"),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{TRACE}-0000000000000000-01"),
            format!("00-{}-b7ad6b7169203331-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-b7ad6b716920333-01"),
            format!("00-{TRACE}-b7ad6b7169203331-1"),
            format!(" 00-{TRACE}-b7ad6b7169203331-01"),
            format!("00-{TRACE}-b7ad6b7169203331-01\n"),
        ] {
            assert!(parse(&text).is_none(), "{text:?}");
        }
    }
}
