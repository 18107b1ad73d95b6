//! The lines that the handler writes and alerts wait for: names and fields.
//!
//! A copy for now. Once the product has the table (`indicator_relay::functions::EVENTS`), this file reads it from there.

/// One event: its name, and its own fields.
pub(super) struct Event {
    pub(super) name: &'static str,
    pub(super) fields: &'static [&'static str],
    /// Somebody is to be told.
    pub(super) alerts: bool,
}

/// In every line.
pub(super) const COMMON: [&str; 7] = ["time", "level", "message", "event", "function", "invocation_id", "traceparent"];

pub(super) const EVENTS: [Event; 9] = [
    // Its absence alerts.
    Event { name: "tick.finished", fields: &["enqueued"], alerts: true },
    Event {
        name: "run.finished",
        fields: &[
            "job",
            "run",
            "target_product",
            "delivery",
            "mode",
            "complete",
            "indicators",
            "observables",
            "accepted",
            "unchanged",
            "duplicate",
            "skipped",
            "rejected",
            "over_cap",
            "unanswered",
            "withdrawn",
            "newly_rejected",
            "duration_ms",
        ],
        alerts: false,
    },
    Event { name: "run.failed", fields: &["job", "run", "error"], alerts: true },
    Event { name: "run.overdue", fields: &["job", "minutes"], alerts: true },
    Event { name: "withdrawal.refused", fields: &["job", "rows", "of"], alerts: true },
    Event { name: "items.rejected", fields: &["job", "newly_rejected"], alerts: true },
    Event { name: "queue.poison", fields: &["queue", "count"], alerts: true },
    Event { name: "secret.expiring", fields: &["secret", "days"], alerts: true },
    Event { name: "invocation.failed", fields: &["error"], alerts: true },
];
