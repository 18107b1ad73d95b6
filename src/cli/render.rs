//! Reports as text for people. Pure, but for the three functions that print.

use std::fmt::Write as _;
use std::io::Write as _;

use crate::export::{Outcome, Report};

/// Reasons shown in the table; the rest is in `--json`.
const REASONS: usize = 12;

/// To standard output; a reader that went away is no error of ours.
pub(super) fn print(text: &str) {
    drop(std::io::stdout().lock().write_all(text.as_bytes()));
}

/// One line to standard error.
pub(super) fn error(text: &str) {
    line(&format!("error: {text}"));
}

/// The same, as it is.
pub(super) fn line(text: &str) {
    drop(writeln!(std::io::stderr().lock(), "{text}"));
}

/// One run as a table.
pub(super) fn report(report: &Report) -> String {
    let mut page = String::new();
    let mode = match report.mode {
        crate::export::Mode::Full => "full",
        crate::export::Mode::Incremental => "incremental",
    };
    let state = match (report.dry_run, report.complete) {
        (true, _) => "preview, nothing was sent",
        (false, true) => "complete",
        (false, false) if report.error.is_some() => "failed",
        (false, false) => "to be continued",
    };
    let way = if report.delivery == "graph" { " through Microsoft Graph" } else { "" };
    let _ = writeln!(page, "Job {} → {}{way}: {mode} run, {state}", report.job, report.target_product);
    if let (0, Some(error)) = (report.read.pages, &report.error) {
        let _ = writeln!(page, "  ended before its first page was done\n\n  error: {error}");
        return page;
    }
    let seconds = std::time::Duration::from_millis(report.duration_ms).as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = if seconds > 0.0 { report.read.indicators as f64 / seconds } else { 0.0 };
    let _ = writeln!(
        page,
        "  read {} indicators in {} pages: {} observables, {} without one, {} unreadable",
        number(report.read.indicators),
        report.read.pages,
        number(report.read.observables),
        number(report.read.without_observable),
        number(report.read.unreadable)
    );
    let _ = writeln!(
        page,
        "  took {seconds:.1} s, {rate:.0} indicators/s; requests: {} to ThreatConnect, {} to the target, {} retried, {} throttled",
        report.requests.source, report.requests.sink, report.requests.retried, report.requests.throttled
    );
    page.push('\n');
    types(&mut page, report);
    let c = &report.changes;
    let _ = writeln!(
        page,
        "\n  at the target: {} added, {} changed, {} refreshed, {} withdrawn, {} handed over to another copy",
        number(c.added),
        number(c.changed),
        number(c.refreshed),
        number(report.withdrawn),
        number(c.handed_over)
    );
    if let Some(cap) = &report.cap {
        let own = cap.limit.saturating_sub(cap.reserve).saturating_sub(cap.others.unwrap_or(0));
        let others = cap.others.map_or_else(|| "an unknown number".to_owned(), number);
        let lent = match cap.places.saturating_sub(own) {
            0 => String::new(),
            lent => format!(", {} of it lent for a day", number(lent)),
        };
        let _ = writeln!(
            page,
            "  places: {} filled of {} ({} in all, {} held by others, {} in reserve{lent})",
            number(cap.filled),
            number(cap.places),
            number(cap.limit),
            others,
            number(cap.reserve)
        );
    }
    reasons(&mut page, report);
    if let Some(refusal) = refusal(report) {
        let _ = writeln!(page, "\n  {refusal}");
    }
    if let Some(error) = &report.error {
        let _ = writeln!(page, "\n  error: {error}");
    }
    page
}

/// One line per run, where there are several.
pub(super) fn summary(reports: &[Report]) -> String {
    let mut page = String::new();
    let width = reports.iter().map(|report| report.job.len()).max().unwrap_or(0).max(3);
    let columns = ["accepted", "unchanged", "duplicate", "skipped", "rejected", "over cap", "unanswered"];
    let _ = write!(page, "  {:<width$}", "job");
    for column in columns.iter().chain(&["withdrawn"]) {
        let _ = write!(page, "{column:>12}");
    }
    page.push('\n');
    for report in reports {
        let _ = write!(page, "  {:<width$}", report.job);
        for outcome in Outcome::ALL {
            let _ = write!(page, "{:>12}", number(report.outcomes.of(outcome)));
        }
        let state = match (&report.error, report.complete, report.refused_withdrawal.is_some()) {
            (Some(_), ..) => "  failed",
            (None, false, _) if !report.dry_run => "  to be continued",
            (None, _, true) => "  withdrawal refused",
            _ => "",
        };
        let _ = writeln!(page, "{:>12}{state}", number(report.withdrawn));
    }
    page
}

/// One line about a withdrawal that was refused, and how to approve it.
pub(super) fn refusal(report: &Report) -> Option<String> {
    let refused = report.refused_withdrawal.as_ref()?;
    let owners = match refused.owners.as_slice() {
        [] => String::new(),
        owners => format!("; these owners returned nothing at all: {}", owners.join(", ")),
    };
    Some(format!(
        "WITHDRAWAL REFUSED: {} of {} rows would go{owners}; if that is meant: indicator-relay export --approve-withdraw {}",
        number(refused.rows),
        number(refused.of),
        report.job
    ))
}

fn types(page: &mut String, report: &Report) {
    let columns: Vec<Outcome> = Outcome::ALL.into_iter().filter(|outcome| report.outcomes.of(*outcome) > 0).collect();
    let _ = write!(page, "  {:<14}", "");
    for column in &columns {
        let _ = write!(page, "{:>12}", column.name().replace('_', " "));
    }
    page.push('\n');
    let mut line = |name: &str, outcomes: &crate::export::Outcomes| {
        let _ = write!(page, "  {name:<14}");
        for column in &columns {
            let _ = write!(page, "{:>12}", number(outcomes.of(*column)));
        }
        page.push('\n');
    };
    for (name, outcomes) in &report.by_type {
        line(name, outcomes);
    }
    line("all", &report.outcomes);
}

fn reasons(page: &mut String, report: &Report) {
    if report.reasons.is_empty() {
        return;
    }
    let mut all: Vec<_> = report.reasons.iter().collect();
    all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
    page.push_str("\n  why:\n");
    for reason in all.iter().take(REASONS) {
        let outcome = reason.outcome.replace('_', " ");
        let example =
            if reason.example.is_empty() { String::new() } else { format!(" (such as {})", printable(&reason.example)) };
        let _ = writeln!(page, "  {:>9}  {outcome}, {}: {}{example}", number(reason.count), reason.type_name, reason.reason);
    }
    if all.len() > REASONS {
        let _ = writeln!(page, "             and {} more, see --json", all.len() - REASONS);
    }
}

/// Foreign text on one line, without control characters.
pub(super) fn printable(text: &str) -> String {
    clean(text, 70)
}

/// The same for a reason, whose end often says most.
pub(super) fn reason(text: &str) -> String {
    clean(text, 240)
}

/// The same, in full: where it ends is where it says what to do.
pub(super) fn whole(text: &str) -> String {
    clean(text, usize::MAX)
}

fn clean(text: &str, characters: usize) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let mut short: String = clean.chars().take(characters).collect();
    if short.len() < clean.len() {
        short.push('…');
    }
    short
}

/// `12,345`.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_foreign_text_stays_on_its_line() {
        assert_eq!(
            (number(0), number(999), number(1_000), number(1_234_567)),
            ("0".into(), "999".into(), "1,000".into(), "1,234,567".into())
        );
        assert_eq!(printable("a\u{1b}[31m\nb"), "a [31m b");
    }
}
