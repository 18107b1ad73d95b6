//! How long an answer asks to be waited, and HTTP dates.

use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::HeaderMap;

/// The delay that an answer asks for, in every documented form; nonsense asks for nothing.
#[must_use]
pub fn suggested_wait(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    for name in ["retry-after-ms", "x-ms-retry-after-ms"] {
        if let Some(ms) = text(name).and_then(|t| t.parse::<f64>().ok()) {
            return Duration::try_from_secs_f64(ms / 1000.0).ok();
        }
    }
    let value = text("retry-after")?;
    if let Ok(seconds) = value.parse::<f64>() {
        // May be fractional: rounded up to the next millisecond.
        return Duration::try_from_secs_f64((seconds * 1000.0).ceil() / 1000.0).ok();
    }
    let at = http_date(value)?;
    let from = text("date").and_then(http_date).unwrap_or(now);
    Some(Duration::try_from(at.duration_since(from)).unwrap_or(Duration::ZERO))
}

/// The instant of an HTTP date (`Tue, 21 Nov 2023 10:11:12 GMT`).
#[must_use]
pub fn http_date(text: &str) -> Option<Timestamp> {
    jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()
}
