//! A run's report as metrics: every number in it, under its own path.
//!
//! The names follow from the report's JSON (`read.pages` is `indicator_relay.read.pages`), so that a new number cannot be forgotten.
//! Counters count runs that are complete: a report holds what all workers of its run did, and an unfinished run is reported again.

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use serde_json::{Map, Value};

use crate::export::Report;

/// Bounds of the durations' buckets, in milliseconds: from a second to an hour.
const DURATIONS: [f64; 10] = [1e3, 5e3, 15e3, 6e4, 12e4, 3e5, 6e5, 12e5, 18e5, 36e5];

/// How a number goes on from run to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sum,
    /// What was so when the run ended: the last value is the one that holds.
    State,
    Duration,
}

/// One number of a report.
#[derive(Debug, PartialEq, Eq)]
struct Number {
    name: String,
    kind: Kind,
    value: u64,
    /// Of `by_type`.
    indicator_type: Option<String>,
}

/// Adds the run to the metrics. Previews are none: they sent nothing.
pub(super) fn record(meter: &Meter, report: &Report) {
    let Ok(Value::Object(fields)) = serde_json::to_value(report) else { return };
    if report.dry_run {
        return;
    }
    let text = |key: &'static str| KeyValue::new(key, fields.get(key).and_then(Value::as_str).unwrap_or_default().to_owned());
    let whose = [text("job"), text("target_product"), text("delivery"), text("mode")];
    let with = |more: KeyValue| whose.iter().cloned().chain([more]).collect::<Vec<KeyValue>>();
    let end = match (report.complete, &report.error) {
        (true, _) => "complete",
        (false, None) => "unfinished",
        (false, Some(_)) => "failed",
    };
    // An instrument that is built again is the same one.
    meter.u64_counter("indicator_relay.runs").build().add(1, &with(KeyValue::new("end", end)));
    if !report.complete {
        return;
    }
    for number in numbers(&fields) {
        let attributes = match number.indicator_type {
            Some(indicator_type) => with(KeyValue::new("type", indicator_type)),
            None => whose.to_vec(),
        };
        match number.kind {
            Kind::Sum => meter.u64_counter(number.name).build().add(number.value, &attributes),
            Kind::State => meter.u64_gauge(number.name).build().record(number.value, &attributes),
            Kind::Duration => {
                let durations = meter.u64_histogram(number.name).with_unit("ms").with_boundaries(DURATIONS.to_vec());
                durations.build().record(number.value, &attributes);
            }
        }
    }
}

fn numbers(report: &Map<String, Value>) -> Vec<Number> {
    let mut found = Vec::new();
    for (key, value) in report {
        match (key.as_str(), value) {
            // Per reason there would be as many series as there are texts.
            ("reasons", _) => {}
            ("by_type", Value::Object(types)) => {
                for (name, outcomes) in types {
                    collect("indicator_relay.by_type", outcomes, Kind::Sum, Some(name), &mut found);
                }
            }
            ("cap" | "refused_withdrawal", _) => collect(&path("indicator_relay", key), value, Kind::State, None, &mut found),
            ("duration_ms", _) => collect("indicator_relay.duration", value, Kind::Duration, None, &mut found),
            _ => collect(&path("indicator_relay", key), value, Kind::Sum, None, &mut found),
        }
    }
    found
}

fn collect(name: &str, value: &Value, kind: Kind, indicator_type: Option<&String>, found: &mut Vec<Number>) {
    match value {
        Value::Number(number) => {
            let value = number.as_u64().unwrap_or_default();
            found.push(Number { name: name.to_owned(), kind, value, indicator_type: indicator_type.cloned() });
        }
        Value::Object(fields) => {
            for (key, value) in fields {
                collect(&path(name, key), value, kind, indicator_type, found);
            }
        }
        _ => {}
    }
}

fn path(name: &str, key: &str) -> String {
    format!("{name}.{key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::{Cap, Changes, Mode, Outcomes, Read, RefusedWithdrawal, Requests};

    /// Every field is named, so that a new one must be given a number here.
    fn report() -> Report {
        let outcomes =
            Outcomes { accepted: 7, unchanged: 8, duplicate: 9, skipped: 10, rejected: 11, over_cap: 12, unanswered: 13 };
        Report {
            job: "default".to_owned(),
            target_product: "Microsoft Sentinel".to_owned(),
            delivery: "product".to_owned(),
            mode: Mode::Full,
            complete: true,
            dry_run: false,
            since: None,
            watermark: None,
            read: Read { indicators: 1, without_observable: 2, unreadable: 3, observables: 4, with_observable: 5, pages: 6 },
            outcomes,
            withdrawn: 14,
            by_type: [("Host".to_owned(), outcomes)].into(),
            reasons: Vec::new(),
            changes: Changes { added: 15, changed: 16, refreshed: 17, handed_over: 18, newly_rejected: 19 },
            requests: Requests { source: 20, sink: 21, retried: 22, throttled: 23 },
            duration_ms: 24,
            refused_withdrawal: Some(RefusedWithdrawal { rows: 25, of: 26, owners: Vec::new(), run: "run".to_owned() }),
            cap: Some(Cap { limit: 27, reserve: 28, others: Some(29), places: 30, filled: 31 }),
            error: None,
            run: "run".to_owned(),
            started: jiff::Timestamp::UNIX_EPOCH,
            not_before: None,
        }
    }

    fn fields() -> Map<String, Value> {
        let Ok(Value::Object(fields)) = serde_json::to_value(report()) else { panic!("an object") };
        fields
    }

    #[test]
    fn every_number_of_a_report_is_a_metric() {
        let mut values: Vec<u64> =
            numbers(&fields()).into_iter().filter(|n| n.indicator_type.is_none()).map(|n| n.value).collect();
        values.sort_unstable();
        assert_eq!(values, (1..=31).collect::<Vec<u64>>());
        let by_type = numbers(&fields()).into_iter().filter(|n| n.indicator_type.as_deref() == Some("Host"));
        assert_eq!(by_type.map(|n| n.value).sum::<u64>(), (7..=13).sum::<u64>());
    }

    #[test]
    fn the_names_are_those_of_the_report() {
        let found = numbers(&fields());
        let kind = |name: &str| found.iter().find(|n| n.name == name).map(|n| (n.value, n.kind));
        for (name, expected) in [
            ("indicator_relay.read.pages", (6, Kind::Sum)),
            ("indicator_relay.outcomes.over_cap", (12, Kind::Sum)),
            ("indicator_relay.withdrawn", (14, Kind::Sum)),
            ("indicator_relay.changes.newly_rejected", (19, Kind::Sum)),
            ("indicator_relay.requests.throttled", (23, Kind::Sum)),
            ("indicator_relay.duration", (24, Kind::Duration)),
            ("indicator_relay.refused_withdrawal.rows", (25, Kind::State)),
            ("indicator_relay.cap.others", (29, Kind::State)),
            ("indicator_relay.by_type.accepted", (7, Kind::Sum)),
        ] {
            assert_eq!(kind(name), Some(expected), "{name}");
        }
    }
}
