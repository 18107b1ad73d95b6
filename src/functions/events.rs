//! What alerts and workbooks wait for: lines of the log with the field `event`. The queries in `infra/` name these and no others;
//! a test compares.

/// A kind of line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The value of the field `event`.
    pub name: &'static str,
    /// The line's level, as the host shows it.
    pub level: &'static str,
    /// The line's own fields.
    pub fields: &'static [&'static str],
    /// What it tells.
    pub meaning: &'static str,
    /// Somebody is to be told: of it, or of its absence.
    pub alerts: bool,
}

/// Every one, in the order in which a run would write them.
pub const EVENTS: &[Event] = &[
    Event {
        name: "tick.finished",
        level: "INFO",
        fields: &["enqueued"],
        meaning: "the timer looked for runs that are due: the app is alive",
        alerts: true,
    },
    Event {
        name: "run.finished",
        level: "INFO",
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
        meaning: "a run is over, with its numbers",
        alerts: false,
    },
    Event {
        name: "run.failed",
        level: "ERROR",
        fields: &["job", "run", "error"],
        meaning: "a run failed or is incomplete",
        alerts: true,
    },
    Event {
        name: "run.overdue",
        level: "ERROR",
        fields: &["job", "minutes"],
        meaning: "no run of a job was complete for twice its schedule",
        alerts: true,
    },
    Event {
        name: "withdrawal.refused",
        level: "WARN",
        fields: &["job", "rows", "of"],
        meaning: "a run would have taken back too much, and waits for an approval",
        alerts: true,
    },
    Event {
        name: "items.rejected",
        level: "WARN",
        fields: &["job", "newly_rejected"],
        meaning: "the target refused items that it had not refused before",
        alerts: true,
    },
    Event {
        name: "notification.handled",
        level: "INFO",
        fields: &["queue", "split", "done", "skipped", "duplicate", "covered", "found", "again", "dead", "waits", "dropped"],
        meaning: "a notification reached the playbooks that want it, waits, or is done already",
        alerts: false,
    },
    Event {
        name: "notification.dead",
        level: "ERROR",
        fields: &["queue", "playbook", "reason"],
        meaning: "a playbook could not be run for a notification, which waits in the dead store",
        alerts: true,
    },
    Event {
        name: "notification.held",
        level: "INFO",
        fields: &["queue", "playbook", "reason"],
        meaning: "a playbook is paused or disabled; its notification waits in the dead store",
        alerts: false,
    },
    Event {
        name: "poll.finished",
        level: "INFO",
        fields: &["resource", "pages", "created", "updated", "known", "unreadable"],
        meaning: "alerts or incidents were polled",
        alerts: false,
    },
    Event {
        name: "poll.failed",
        level: "ERROR",
        fields: &["resource", "error"],
        meaning: "a poll of alerts or incidents ended early; the next one begins where the last complete one did",
        alerts: true,
    },
    Event {
        name: "queue.poison",
        level: "ERROR",
        fields: &["queue", "count"],
        meaning: "messages could not be handled and wait in the poison queue",
        alerts: true,
    },
    Event {
        name: "secret.expiring",
        level: "WARN",
        fields: &["secret", "days"],
        meaning: "a secret of the vault ends soon, or has ended",
        alerts: true,
    },
    Event {
        name: "notification.received",
        level: "INFO",
        fields: &[
            "accepted",
            "urgent",
            "unproven",
            "messages",
            "dropped",
            "empty_body",
            "not_json",
            "no_items",
            "no_object",
            "unreadable",
            "foreign_client_state",
            "wrong_client_state",
            "unknown_event",
            "too_many_tokens",
            "unknown_profile",
            "bytes",
            "duration_ms",
        ],
        meaning: "a delivery was kept and answered, with its numbers",
        alerts: false,
    },
    Event {
        name: "notification.empty",
        level: "ERROR",
        fields: &[],
        meaning: "a delivery came without a body: notifications are being lost on their way",
        alerts: true,
    },
    Event {
        name: "notification.not_kept",
        level: "ERROR",
        fields: &["error"],
        meaning: "a delivery could not be kept; Microsoft Graph sends it again for four hours",
        alerts: true,
    },
    Event {
        name: "notification.refused",
        level: "WARN",
        fields: &["status", "reason"],
        meaning: "a request from outside was too long, too slow, or not whole",
        alerts: false,
    },
    Event {
        name: "invocation.failed",
        level: "ERROR",
        fields: &["error"],
        meaning: "a function failed; the host tries again",
        alerts: true,
    },
];
